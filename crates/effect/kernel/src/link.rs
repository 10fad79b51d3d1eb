//! Links of the node itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_desired::mark;
use weft_sys::rtnl::{Conversation, Error};

/// The node's own addresses, loopback's and link-local ones left out.
///
/// # Errors
/// A failure of the conversation.
pub fn own_addresses(conversation: &mut Conversation) -> Result<BTreeSet<IpAddr>, Error> {
    Ok(conversation
        .addresses(None)?
        .into_iter()
        .filter(|held| !held.link_local)
        .map(|held| held.network.addr())
        .filter(|address| !address.is_loopback())
        .collect())
}

/// The MTU, in bytes, of the link that has one of these addresses; `None` if no link of
/// the node's own has. Pods' links have the node's addresses too and do not count.
///
/// # Errors
/// A failure of the conversation.
pub fn mtu_of(conversation: &mut Conversation, addresses: &[IpAddr]) -> Result<Option<u32>, Error> {
    let holders: Vec<u32> = conversation
        .addresses(None)?
        .into_iter()
        .filter(|held| addresses.contains(&held.network.addr()))
        .map(|held| held.index)
        .collect();
    let links = conversation.links()?;
    Ok(links
        .iter()
        .filter(|link| holders.contains(&link.index))
        .find(|link| {
            let alias = link.alias.as_deref().unwrap_or_default();
            !alias.starts_with(mark::LINK_ALIAS)
        })
        .map(|link| link.mtu))
}
