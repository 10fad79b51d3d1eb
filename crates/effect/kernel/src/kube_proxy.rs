//! What kube-proxy leaves in a kernel beside iptables rules ([`crate::iptables`] has those).

use weft_sys::netlink::Error;
use weft_sys::nft::{Batch, Connection, Family, TableName};
use weft_sys::rtnl::Conversation;

/// The name of its table in each family, in mode nftables.
const TABLE: &str = "kube-proxy";

/// The device that has all Services' addresses, in mode ipvs.
pub const IPVS_DEVICE: &str = "kube-ipvs0";

/// Its tables.
///
/// # Errors
/// What the kernel refused.
pub fn tables(connection: &mut Connection) -> Result<Vec<TableName>, Error> {
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let name = TableName::new(family, TABLE);
        let tables = connection.tables(family)?;
        found.extend(tables.into_iter().map(|it| it.name).find(|it| *it == name));
    }
    Ok(found)
}

/// Removes one of its tables.
///
/// # Errors
/// What the kernel refused.
pub fn remove_table(connection: &mut Connection, table: &TableName) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.delete_table(table);
    connection.commit(batch)
}

/// Whether the device of mode ipvs is there.
///
/// # Errors
/// What the kernel refused.
pub fn has_ipvs_device(conversation: &mut Conversation) -> Result<bool, Error> {
    Ok(conversation.find_link(IPVS_DEVICE)?.is_some())
}

/// Removes the device, and with it the addresses of Services that it has.
///
/// # Errors
/// What the kernel refused.
pub fn remove_ipvs_device(conversation: &mut Conversation) -> Result<(), Error> {
    conversation.delete_link_by_name(IPVS_DEVICE)
}
