//! The ways to other nodes, as one looks at them: what leads to each, read off what is desired.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{Desired, IpFamily, NextHop};
use weft_model::NodeName;

use super::Uplinks;
use super::tunnels::overhead;

/// A way to another node's range of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The other node's name.
    pub node: Arc<str>,
    /// Its object's `metadata.generation`.
    pub generation: i64,
    /// The range.
    pub range: IpNet,
    /// The node's own address, where packets are sent to, if the desired state says it.
    pub address: Option<IpAddr>,
    /// Bytes of the largest packet that leaves this node on the way, what carries it included;
    /// 0 while that is not known.
    pub packet: u32,
    /// How.
    pub way: Way,
}

/// How packets get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// As they are, by a route to the node's own address.
    Direct,
    /// Through a tunnel.
    Tunnel {
        /// The device.
        device: Arc<str>,
        /// The address of the other end, inside.
        address: IpAddr,
        /// Its Ethernet address.
        mac: [u8; 6],
    },
    /// In UDP datagrams.
    Datagrams {
        /// The device.
        device: Arc<str>,
    },
}

impl Way {
    /// In one word.
    pub fn name(&self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Tunnel { .. } => "vxlan",
            Way::Datagrams { .. } => "udp",
        }
    }
}

/// The ways that lead from `me` to other nodes, in the order of their ranges.
pub fn paths(desired: &Desired, me: &NodeName, uplinks: &Uplinks) -> Vec<Path> {
    let mut paths = Vec::new();
    for (key, entry) in &desired.routes {
        let range = key.destination;
        let origin = &entry.origin;
        if origin.kind != "Node" || *origin.name == *me.as_str() {
            continue;
        }
        let (address, way) = match &entry.value.next_hop {
            NextHop::Gateway { address } => (Some(*address), Way::Direct),
            NextHop::OnLink { address, device } => {
                let Some(peer) = desired.tunnel_peers.get(address) else {
                    continue;
                };
                let way = Way::Tunnel {
                    device: device.clone(),
                    address: *address,
                    mac: peer.value.mac,
                };
                (Some(peer.value.remote), way)
            }
            // It only says that the end of a tunnel is there.
            NextHop::Link { .. } if desired.tunnel_peers.contains_key(&range.addr()) => continue,
            NextHop::Link { device } => {
                let peer = match range {
                    IpNet::V4(range) => desired.udp_peers.get(&range),
                    IpNet::V6(_) => None,
                };
                let device = device.clone();
                let address = peer.map(|peer| peer.value.remote.into());
                (address, Way::Datagrams { device })
            }
            NextHop::Unreachable => continue,
        };
        let family = IpFamily::of(range.addr());
        let packet = match &way {
            Way::Tunnel { .. } => {
                let tunnel = desired.tunnels.get(&family);
                tunnel.map_or(0, |tunnel| tunnel.value.mtu + overhead(family))
            }
            Way::Direct | Way::Datagrams { .. } => {
                let own = uplinks.addresses.iter();
                let own = own.filter(|(address, _)| family.has(**address));
                // By whichever link it goes.
                own.map(|(_, mtu)| *mtu).min().unwrap_or_default()
            }
        };
        paths.push(Path {
            node: origin.name.clone(),
            generation: origin.generation,
            range,
            address,
            packet,
            way,
        });
    }
    paths
}
