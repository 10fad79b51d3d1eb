//! What the kernel has of weft's tunnels, for people to look at.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_desired::mark;
use weft_sys::rtnl::{Conversation, Error, Mac};

/// A tunnel's device that stands, and what leads to its other ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The device's name.
    pub name: String,
    /// Bytes of the largest packet inside.
    pub mtu: u32,
    /// Ethernet addresses, by the address inside.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Nodes, by Ethernet address.
    pub forwardings: Vec<(Mac, IpAddr)>,
}

/// Reads those that are weft's.
///
/// # Errors
/// See [`Error`].
pub fn tunnels(conversation: &mut Conversation) -> Result<Vec<Tunnel>, Error> {
    let mut tunnels = Vec::new();
    for link in conversation.links()? {
        if link.vxlan.is_none() || link.alias.as_deref() != Some(mark::TUNNEL_ALIAS) {
            continue;
        }
        let neighbours = conversation.neighbours(Some(link.index))?.into_iter();
        let neighbours = neighbours.filter_map(|it| Some((it.address, it.mac?)));
        let forwardings = conversation.forwardings(link.index)?.into_iter();
        tunnels.push(Tunnel {
            name: link.name,
            mtu: link.mtu,
            neighbours: neighbours.collect(),
            forwardings: forwardings.map(|entry| (entry.mac, entry.remote)).collect(),
        });
    }
    Ok(tunnels)
}
