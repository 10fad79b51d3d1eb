//! A change of one node among many, where only what leads to that node follows from it: the others
//! are not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_desired::{Entry, Route, RouteKey, Table, TunnelPeer};
use weft_model::{Cluster, Node, NodeName, tighten};

use super::{Fabric, Uplinks, Work, key};
use crate::settings::{FabricBackend, FabricSettings};

/// What a whole compilation has found that its tables do not say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// The pod ranges of each node, as in its object.
    ranges: BTreeMap<NodeName, Vec<IpNet>>,
    /// Whose Ethernet address each is.
    macs: BTreeMap<[u8; 6], NodeName>,
}

impl Memory {
    pub(super) fn new(cluster: &Cluster, macs: BTreeMap<[u8; 6], NodeName>) -> Self {
        let of = |node: &Node| (node.name.clone(), ranges(node));
        Self {
            ranges: cluster.nodes().map(of).collect(),
            macs,
        }
    }

    /// Keeps the same in less memory.
    pub(crate) fn tighten(&mut self) {
        tighten(&mut self.ranges);
        tighten(&mut self.macs);
    }
}

/// What leads elsewhere than before.
#[derive(Debug)]
pub(crate) struct Led {
    pub(crate) routes: BTreeSet<RouteKey>,
    /// Whether what is at the other end of a tunnel is different.
    pub(crate) tunnels: bool,
}

/// Makes the fabric, which is that of the cluster before another node's change, that of after it.
/// `None` where more than what leads to this node may follow from that: then the fabric is as it
/// was, and all of it has to be compiled.
pub(crate) fn compile_one(
    fabric: &mut Fabric,
    memory: &mut Memory,
    cluster: &Cluster,
    me: &NodeName,
    settings: &FabricSettings,
    uplinks: &Uplinks,
    name: &NodeName,
) -> Option<Led> {
    let node = cluster.node(name).filter(|node| node.name != *me)?;
    let ranges = ranges(node);
    if memory.ranges.get(name) != Some(&ranges) || !is_apart(node, settings, fabric) {
        return None;
    }
    let keys = ranges.iter().map(|range| [*range, range.addr().into()]);
    let routes = taken(&mut fabric.routes, keys.flatten().map(key));
    let peers = taken(&mut fabric.tunnel_peers, ranges.iter().map(IpNet::addr));
    for peer in peers.values().flatten() {
        memory.macs.remove(&peer.value.mac);
    }
    let mut work = Work {
        me,
        own: cluster.node(me),
        settings,
        uplinks,
        macs: take(&mut memory.macs),
        fabric: take(fabric),
    };
    let led = ranges
        .iter()
        .try_for_each(|range| work.lead_to(node, *range));
    *fabric = work.fabric;
    memory.macs = work.macs;
    if led.is_err() {
        put_back(&mut fabric.routes, routes);
        put_back(&mut fabric.tunnel_peers, peers);
        return None;
    }
    let routes: Before<RouteKey, Route> = routes;
    let peers: Before<IpAddr, TunnelPeer> = peers;
    Some(Led {
        routes: different(&fabric.routes, routes).collect(),
        tunnels: different(&fabric.tunnel_peers, peers).next().is_some(),
    })
}

/// Whether nothing that this node says, or said before, makes a difference to others: nobody's
/// ranges or addresses are in conflict, and it is not for it that this node has a device.
fn is_apart(node: &Node, settings: &FabricSettings, fabric: &Fabric) -> bool {
    let said = &node.announced;
    let of_tunnels = match settings.backend {
        FabricBackend::Vxlan => said.faults.is_empty(),
        FabricBackend::HostGw => fabric.tunnels.is_empty() && !said.is_vxlan(),
        FabricBackend::Udp => false,
    };
    of_tunnels && fabric.problems.is_empty() && fabric.udp_tunnel.is_none() && !said.is_udp()
}

fn ranges(node: &Node) -> Vec<IpNet> {
    node.pod_cidrs.iter().map(IpNet::trunc).collect()
}

/// What was at some keys.
type Before<K, V> = BTreeMap<K, Option<Entry<V>>>;

fn taken<K: Ord + Copy, V>(table: &mut Table<K, V>, keys: impl Iterator<Item = K>) -> Before<K, V> {
    let keys: BTreeSet<K> = keys.collect();
    let take = |key: K| (key, table.remove(&key));
    keys.into_iter().map(take).collect()
}

fn put_back<K: Ord, V>(table: &mut Table<K, V>, before: Before<K, V>) {
    for (key, entry) in before {
        match entry {
            Some(entry) => table.insert(key, entry),
            None => table.remove(&key),
        };
    }
}

fn different<K: Ord + Copy, V: PartialEq>(
    table: &Table<K, V>,
    before: Before<K, V>,
) -> impl Iterator<Item = K> {
    let is_other = |(key, old): &(K, Option<Entry<V>>)| table.get(key) != old.as_ref();
    before.into_iter().filter(is_other).map(|(key, _)| key)
}
