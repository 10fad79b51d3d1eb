//! What the CNI plugin leaves in the kernel when the last pod is gone: bridges, and tables whose
//! rules stand for the next pod.

use weft_desired::mark;
use weft_sys::netlink;
use weft_sys::nft::{self, Connection, Family, TableName};
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
    let mut idle = Vec::new();
    for (family, name) in TABLES {
        let table = TableName::new(family, name);
        if exists(&mut connection, &table)? && is_empty(&mut connection, &table)? {
            idle.push(table);
        }
    }
    let bridges = TableName::new(Family::Inet, mark::BRIDGES);
    if exists(&mut connection, &bridges)? && !has_ports(host)? {
        idle.push(bridges);
    }
    let mut removed = Vec::new();
    for table in idle {
        let mut batch = nft::Batch::new();
        batch.delete_table(&table);
        match connection.commit(batch) {
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
            Ok(()) => removed.push(table.to_string()),
        }
    }
    Ok(removed)
}

fn exists(connection: &mut Connection, table: &TableName) -> Result<bool, netlink::Error> {
    let tables = connection.tables(table.family)?;
    Ok(tables.iter().any(|there| there.name == *table))
}

fn is_empty(connection: &mut Connection, table: &TableName) -> Result<bool, netlink::Error> {
    for set in connection.sets(table)? {
        let name = set.map_or_else(|name| name, |set| set.name);
        if !connection.elements(table, &name)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a pod is a port of a bridge, whosever that is.
fn has_ports(host: &mut Conversation) -> Result<bool, rtnl::Error> {
    let links = host.links()?;
    Ok(links.iter().any(|link| {
        let alias = link.alias.as_deref().unwrap_or_default();
        link.master.is_some() && alias.starts_with(mark::LINK_ALIAS)
    }))
}
