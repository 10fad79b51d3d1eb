//! What the CNI plugin leaves in the kernel when the last pod is gone: bridges, and tables whose
//! rules stand for the next pod.

use weft_desired::mark;
use weft_sys::netlink;
use weft_sys::nft::{Batch, Connection, Family, TableName};
use weft_sys::rtnl::{self, Conversation};

/// Each family's tables of the plugin, but for that of bridges.
const TABLES: [(Family, &str); 5] = [
    (Family::V4, mark::HOST_PORTS),
    (Family::V6, mark::HOST_PORTS),
    (Family::V4, mark::POD_RULES),
    (Family::V6, mark::POD_RULES),
    (Family::Bridge, mark::POD_RULES),
];

/// Removes pods' bridges that have no ports, and says which.
///
/// # Errors
/// A failure of the conversation.
pub fn remove_bridges(host: &mut Conversation) -> Result<Vec<String>, rtnl::Error> {
    let links = host.links()?;
    let is_idle = |bridge: &&rtnl::Link| {
        let alias = bridge.alias.as_deref().unwrap_or_default();
        bridge.kind.as_deref() == Some("bridge")
            && alias.starts_with(mark::BRIDGE_ALIAS)
            && !links.iter().any(|link| link.master == Some(bridge.index))
    };
    let mut removed = Vec::new();
    for bridge in links.iter().filter(is_idle) {
        match host.delete_link(bridge.index) {
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
            Ok(()) => removed.push(bridge.name.clone()),
        }
    }
    Ok(removed)
}

/// Removes tables that say nothing of any pod, and that of bridges where pods have none; says
/// which.
///
/// # Errors
/// A failure of the conversation.
pub fn remove_tables(host: &mut Conversation) -> Result<Vec<String>, netlink::Error> {
    let mut connection = Connection::open()?;
    let mut removed = Vec::new();
    for (family, name) in TABLES {
        let table = TableName::new(family, name);
        if remove_bare(&mut connection, &table)? {
            removed.push(table.to_string());
        }
    }
    let bridges = TableName::new(Family::Inet, mark::BRIDGES);
    if exists(&mut connection, &bridges)? && !has_ports(host)? {
        let mut batch = Batch::new();
        batch.delete_table(&bridges);
        if is_done(connection.commit(batch))? {
            removed.push(bridges.to_string());
        }
    }
    Ok(removed)
}

/// Removes a table whose sets are empty, with its rules. That they are is the kernel's to say, in
/// the transaction that removes them: an ADD may write into one at any time.
fn remove_bare(connection: &mut Connection, table: &TableName) -> Result<bool, netlink::Error> {
    if !exists(connection, table)? {
        return Ok(false);
    }
    let chains = connection.chains(table)?;
    let sets = connection.sets(table)?;
    let mut batch = Batch::new();
    for chain in &chains {
        batch.flush_chain(table, &chain.name);
    }
    for chain in &chains {
        batch.delete_chain(table, &chain.name);
    }
    for set in sets {
        let name = set.map_or_else(|name| name, |set| set.name);
        batch.delete_bare_set(table, &name);
    }
    batch.delete_bare_table(table);
    is_done(connection.commit(batch))
}

/// Whether a removal was made: not of what is gone or in use by then.
fn is_done(removal: Result<(), netlink::Error>) -> Result<bool, netlink::Error> {
    match removal {
        Err(error) if error.is_absent() || error.errno() == Some(netlink::Errno::BUSY) => Ok(false),
        other => other.map(|()| true),
    }
}

fn exists(connection: &mut Connection, table: &TableName) -> Result<bool, netlink::Error> {
    let tables = connection.tables(table.family)?;
    Ok(tables.iter().any(|there| there.name == *table))
}

/// Whether a pod is a port of a bridge, whosever that is.
fn has_ports(host: &mut Conversation) -> Result<bool, rtnl::Error> {
    let links = host.links()?;
    Ok(links.iter().any(|link| {
        let alias = link.alias.as_deref().unwrap_or_default();
        link.master.is_some() && alias.starts_with(mark::LINK_ALIAS)
    }))
}
