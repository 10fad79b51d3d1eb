//! Links of the node itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use weft_desired::mark;
use weft_sys::rtnl::{Conversation, Error, Link, NextHop, RouteFilter};

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

/// Whether links may be changed from here, which reading them does not tell.
///
/// # Errors
/// What the kernel says against it.
pub fn may_change(conversation: &mut Conversation) -> Result<(), Error> {
    // The kernel looks at the permission before it looks for the link (`rtnetlink_rcv_msg` in
    // net/core/rtnetlink.c); it counts them from 1 on, and none gets the highest number.
    match conversation.set_down(i32::MAX.unsigned_abs()) {
        Err(error) if error.is_absent() => Ok(()),
        other => other,
    }
}

/// The links by which a node reaches others: not pods' links, which have the node's addresses
/// too, nor tunnels, nor what is switched off.
#[derive(Clone, Debug, Default)]
pub struct Uplinks {
    /// The node's own addresses on them, each with its link.
    pub addresses: BTreeMap<IpAddr, Link>,
    /// Who is reached without a router.
    pub networks: BTreeSet<IpNet>,
}

/// Reads them.
///
/// # Errors
/// A failure of the conversation.
pub fn uplinks(conversation: &mut Conversation) -> Result<Uplinks, Error> {
    let links: BTreeMap<u32, Link> = conversation
        .links()?
        .into_iter()
        .filter(|link| {
            let alias = link.alias.as_deref().unwrap_or_default();
            let others = link.loopback || link.vxlan.is_some();
            link.up && !others && !alias.starts_with(mark::LINK_ALIAS)
        })
        .map(|link| (link.index, link))
        .collect();
    let mut uplinks = Uplinks::default();
    for held in conversation.addresses(None)? {
        if let (false, Some(link)) = (held.link_local, links.get(&held.index)) {
            uplinks.addresses.insert(held.network.addr(), link.clone());
        }
    }
    for route in conversation.routes(RouteFilter::default())? {
        if let NextHop::Link { device } = route.next_hop
            && links.contains_key(&device)
            && route.protocol != mark::ROUTE_POD
            && route.protocol != mark::ROUTE_FABRIC
        {
            uplinks.networks.insert(route.destination);
        }
    }
    Ok(uplinks)
}
