//! How the pods of other nodes are reached: by routes through those nodes (host-gw), through
//! tunnels to them (vxlan), or in UDP datagrams that are sent to them (udp).
//!
//! A node's own ranges lead nowhere, except to the pods that have a route of their
//! own: a packet to an address that no pod has would otherwise leave by the default
//! route, come back from the router, and circle until its hop limit ends it.
//!
//! Which way leads to a node is also the node's to say: it announces that its tunnel is there,
//! and what tunnel that is. One that has not (yet) is reached directly where that is possible,
//! and a node without tunnels of its own still takes what comes through one as long as others
//! have them. So a cluster can change from one back end to another node by node.

mod fault;
mod one;
mod path;
#[cfg(test)]
mod tests;
mod tunnels;
mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use weft_desired::{
    Entry, IpFamily, NextHop, Origin, Route, RouteKey, RouteOwner, Table, Tunnel, TunnelPeer,
    UdpPeer, UdpTunnel,
};
use weft_model::{Cluster, Key, Node, NodeName, Vtep};

use self::fault::Fault;
pub(crate) use self::one::{Led, Memory, compile_one};
pub use self::path::{Path, Way, paths};
use self::tunnels::{least, overhead};
use crate::Problem;
use crate::settings::{FabricBackend, FabricSettings};

/// The links by which the node reaches others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplinks {
    /// The node's own addresses on them, and how large a packet, in bytes, that link takes.
    pub addresses: BTreeMap<IpAddr, u32>,
    /// Who is reached without a router.
    pub networks: BTreeSet<IpNet>,
    /// How large a packet, in bytes, gets to other nodes' addresses, where that was found to be
    /// less than what the link takes.
    pub narrow: BTreeMap<IpAddr, u32>,
    /// At which of the addresses others reach this node.
    pub reached_at: ReachedAt,
}

/// At which of its addresses a node is reached by others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReachedAt {
    /// At those of its object.
    #[default]
    Object,
    /// At the first of a family of these: a person has chosen.
    Chosen(Vec<IpAddr>),
    /// At none: what a person has chosen is not there, as these words say.
    Missing(String),
}

impl Uplinks {
    /// Whether nothing is known of them.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.networks.is_empty()
    }

    /// The node's own addresses that others reach it at.
    pub fn local<'a>(&'a self, own: &'a Node) -> &'a [IpAddr] {
        match &self.reached_at {
            ReachedAt::Object => &own.internal_ips,
            ReachedAt::Chosen(addresses) => addresses,
            ReachedAt::Missing(_) => &[],
        }
    }

    /// The one in the family of `like`.
    fn local_like(&self, own: &Node, like: IpAddr) -> Option<IpAddr> {
        let mut local = self.local(own).iter().copied();
        local.find(|address| address.is_ipv4() == like.is_ipv4())
    }
}

/// What the node list becomes on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fabric {
    /// Devices.
    pub tunnels: Table<IpFamily, Tunnel>,
    /// What is at their other ends.
    pub tunnel_peers: Table<IpAddr, TunnelPeer>,
    /// The device whose packets go to other nodes in UDP datagrams.
    pub udp_tunnel: Option<Entry<UdpTunnel>>,
    /// Who takes them.
    pub udp_peers: Table<Ipv4Net, UdpPeer>,
    /// The addresses that such are taken from.
    pub udp_senders: BTreeSet<Ipv4Addr>,
    /// The routes; all of them belong to [`RouteOwner::Fabric`].
    pub routes: Table<RouteKey, Route>,
    /// The pod ranges of the nodes, those that can't be reached among them: their
    /// addresses are pods' all the same. No two overlap.
    pub ranges: BTreeSet<IpNet>,
    /// What can't be routed, and why, by node. The rest is routed.
    pub problems: Vec<Problem>,
}

/// The fabric as the node `me` must hold it. While it is not known which networks the node is
/// on, all others are taken to be on them, and there are no tunnels.
///
/// Two nodes whose ranges overlap are a mistake in their objects: the range goes to
/// this node itself if it is one of them, or else to the first by name, so that all
/// other nodes choose alike whatever the order in which they heard of them.
pub fn compile(
    cluster: &Cluster,
    me: &NodeName,
    settings: &FabricSettings,
    uplinks: &Uplinks,
) -> Fabric {
    compile_all(cluster, me, settings, uplinks).0
}

/// The same, with what [`compile_one`] has to know of it.
pub(crate) fn compile_all(
    cluster: &Cluster,
    me: &NodeName,
    settings: &FabricSettings,
    uplinks: &Uplinks,
) -> (Fabric, Memory) {
    let mut work = Work {
        me,
        own: cluster.node(me),
        settings,
        uplinks,
        macs: BTreeMap::new(),
        fabric: Fabric::default(),
    };
    if let (Some(own), ReachedAt::Missing(reason)) = (work.own, &uplinks.reached_at) {
        let reason = reason.clone();
        work.report(own, Fault::NoInterface { reason });
    }
    work.make_tunnels(cluster);
    work.make_udp_tunnel(cluster);
    let mut claims = Claims::default();
    let others = cluster.nodes().filter(|node| node.name != *me);
    for node in work.own.into_iter().chain(others) {
        for range in node.pod_cidrs.iter().map(IpNet::trunc) {
            let taken = claims.take(range, &node.name);
            if let Err(fault) = taken.and_then(|()| work.lead_to(node, range)) {
                work.report(node, fault);
            }
        }
    }
    let mut fabric = work.fabric;
    fabric.problems.sort();
    fabric.ranges = claims.holders.into_keys().collect();
    (fabric, Memory::new(cluster, work.macs))
}

struct Work<'a> {
    me: &'a NodeName,
    own: Option<&'a Node>,
    settings: &'a FabricSettings,
    uplinks: &'a Uplinks,
    /// Whose Ethernet address each is: a tunnel finds nodes by them.
    macs: BTreeMap<[u8; 6], NodeName>,
    fabric: Fabric,
}

impl Work<'_> {
    fn report(&mut self, node: &Node, fault: Fault) {
        self.fabric.problems.push(Problem {
            object: Key::Node(node.name.clone()),
            reason: fault.to_string(),
        });
    }

    /// Leads to a range of a node.
    fn lead_to(&mut self, node: &Node, range: IpNet) -> Result<(), Fault> {
        let next_hop = self.next_hop(node, range)?;
        let mtu = self.narrowed(range, &next_hop);
        let route = entry(node, Route { next_hop, mtu });
        self.fabric.routes.insert(key(range), route);
        Ok(())
    }

    fn next_hop(&mut self, node: &Node, range: IpNet) -> Result<NextHop, Fault> {
        if node.name == *self.me {
            return Ok(NextHop::Unreachable);
        }
        let Some(address) = node.reached_at(range.addr()) else {
            let family = IpFamily::of(range.addr());
            return Err(Fault::NoAddress { range, family });
        };
        if range.contains(&address) {
            return Err(Fault::Inside { range, address });
        }
        if self.own.is_some_and(|own| {
            own.internal_ips.contains(&address) || self.uplinks.local(own).contains(&address)
        }) {
            return Err(Fault::OwnAddress { range, address });
        }
        let on_link = self.is_on_link(address);
        let direct = NextHop::Gateway { address };
        let end = self.end(node, range);
        let agree = match (self.settings.backend, end) {
            (FabricBackend::HostGw, _) if on_link => return Ok(direct),
            (FabricBackend::HostGw, _) => return Err(Fault::OffLink { range, address }),
            (FabricBackend::Vxlan, end) => matches!(end, End::Vxlan(_)),
            (FabricBackend::Udp, end) => matches!(end, End::Udp(_)),
        };
        if on_link && (self.settings.direct_routing || !agree) {
            return Ok(direct);
        }
        // The other node's way, if it is not this node's.
        match end {
            End::Vxlan(vtep) => self.tunnelled(node, range, address, vtep),
            End::Udp(range) => self.in_datagrams(node, range, address),
            End::None => Err(self.no_end(range)),
        }
    }

    fn no_end(&self, range: IpNet) -> Fault {
        match (self.settings.backend, range) {
            (FabricBackend::Udp, IpNet::V6(range)) => Fault::OnlyV4 { range },
            (FabricBackend::Udp, IpNet::V4(_))
            | (FabricBackend::HostGw | FabricBackend::Vxlan, _) => Fault::NoVtep { range },
        }
    }

    /// Bytes of the largest packet for this way, where what is known of it is less than what the
    /// links take.
    fn narrowed(&self, range: IpNet, next_hop: &NextHop) -> Option<u32> {
        let (address, overhead) = match (next_hop, range) {
            (NextHop::Gateway { address }, _) => (*address, 0),
            (NextHop::OnLink { address, .. }, _) => {
                let peer = self.fabric.tunnel_peers.get(address)?;
                (peer.value.remote, overhead(IpFamily::of(*address)))
            }
            (NextHop::Link { .. }, IpNet::V4(range)) => {
                let peer = self.fabric.udp_peers.get(&range)?;
                (peer.value.remote.into(), udp::OVERHEAD)
            }
            (NextHop::Link { .. }, IpNet::V6(_)) | (NextHop::Unreachable, _) => return None,
        };
        let path = self.uplinks.narrow.get(&address)?;
        let fits = path.saturating_sub(overhead);
        Some(fits.max(least(IpFamily::of(address))))
    }

    /// Whether a node's address is on a network of this node's own.
    fn is_on_link(&self, address: IpAddr) -> bool {
        let mut networks = self.uplinks.networks.iter();
        self.uplinks.is_empty() || networks.any(|network| network.contains(&address))
    }

    /// What the node says that it takes packets for these pods of its own by.
    fn end(&self, node: &Node, range: IpNet) -> End {
        let announced = &node.announced;
        match range {
            IpNet::V4(range) if announced.is_udp() && self.settings.datagrams => End::Udp(range),
            IpNet::V4(_) | IpNet::V6(_) if announced.is_vxlan() => announced
                .vtep(model(IpFamily::of(range.addr())))
                .map_or(End::None, End::Vxlan),
            IpNet::V4(_) | IpNet::V6(_) => End::None,
        }
    }
}

/// A node's end of a tunnel, as it has announced it.
#[derive(Clone, Copy)]
enum End {
    None,
    Vxlan(Vtep),
    /// It takes datagrams for these pods.
    Udp(Ipv4Net),
}

/// The same family in the model's words.
fn model(family: IpFamily) -> weft_model::IpFamily {
    match family {
        IpFamily::V4 => weft_model::IpFamily::V4,
        IpFamily::V6 => weft_model::IpFamily::V6,
    }
}

fn key(destination: IpNet) -> RouteKey {
    RouteKey {
        owner: RouteOwner::Fabric,
        destination,
    }
}

fn entry<T>(node: &Node, value: T) -> Entry<T> {
    Entry {
        value,
        origin: origin(node),
    }
}

fn origin(node: &Node) -> Origin {
    Origin {
        kind: "Node",
        // No room of its own, as little as the name, which the model has.
        namespace: Arc::default(),
        name: node.name.as_ref().clone(),
        generation: node.generation,
    }
}

/// The ranges that are given away; no two of them overlap.
#[derive(Default)]
struct Claims {
    holders: BTreeMap<IpNet, NodeName>,
}

impl Claims {
    fn take(&mut self, range: IpNet, node: &NodeName) -> Result<(), Fault> {
        // Ordered by first address: of ranges that overlap no other, only the one before
        // and the one behind can overlap this one.
        let before = self.holders.range(..=range).next_back();
        let behind = self.holders.range(range..).next();
        let taken = before
            .into_iter()
            .chain(behind)
            .find(|(other, _)| other.contains(&range) || range.contains(*other));
        if let Some((other, holder)) = taken {
            return Err(Fault::Overlap {
                range,
                other: *other,
                holder: holder.clone(),
            });
        }
        self.holders.insert(range, node.clone());
        Ok(())
    }
}
