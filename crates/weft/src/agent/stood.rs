//! What leads to other nodes as it was last written: what a change differs from, and what the
//! kernel's word on it is compared with.
//!
//! The kernel tells of every write, whoever's it is. Who it was it says of routes alone, not of
//! forwarding entries, nor of neighbours that go; so it is what it says that counts: something
//! that stands as it was written is no news, whoever wrote it, and neither is it that something
//! unwanted is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use weft_desired::{
    Desired, Difference, Entry, IpFamily, Route, RouteKey, Table, Tunnel, TunnelPeer, UdpPeer,
    UdpTunnel, difference, mark,
};
use weft_kernel::{route, tunnel};
use weft_sys::rtnl::{self, Conversation, Event, Forwarding, Neighbour, NeighbourState};

/// What leads to other nodes, as it stands, and what the kernel has beside it.
pub(super) struct Stood {
    tunnels: Table<IpFamily, Tunnel>,
    peers: BTreeMap<IpAddr, TunnelPeer>,
    /// The nodes that tunnels send to, by Ethernet address.
    ends: BTreeMap<End, IpAddr>,
    datagrams: Datagrams,
    routes: BTreeMap<RouteKey, Route>,
    surroundings: route::Actual,
}

/// A tunnel, and an Ethernet address behind it.
type End = (IpFamily, [u8; 6]);

/// What goes in datagrams, and what is taken in them.
type Datagrams = (
    Option<Entry<UdpTunnel>>,
    Table<Ipv4Net, UdpPeer>,
    BTreeSet<Ipv4Addr>,
);

impl Stood {
    /// After a pass that left nothing to be desired.
    pub(super) fn new(desired: &Desired, surroundings: route::Actual) -> Self {
        let peers = desired.tunnel_peers.iter();
        Self {
            tunnels: desired.tunnels.clone(),
            ends: peers.map(|(it, peer)| end(*it, &peer.value)).collect(),
            peers: values(&desired.tunnel_peers),
            datagrams: (
                desired.udp_tunnel.clone(),
                desired.udp_peers.clone(),
                desired.udp_senders.clone(),
            ),
            routes: values(&desired.routes),
            surroundings,
        }
    }

    /// Whether only what leads through the same devices differs.
    pub(super) fn is_by_devices_of(&self, desired: &Desired) -> bool {
        let (tunnel, peers, senders) = &self.datagrams;
        self.tunnels == desired.tunnels
            && *tunnel == desired.udp_tunnel
            && *peers == desired.udp_peers
            && *senders == desired.udp_senders
    }

    /// Writes what is different in `desired`, which stands then: what leads somewhere first, then
    /// what is taken away. `None`: a route can't be written, and what stands is not known.
    pub(super) fn exchange(
        &mut self,
        conversation: &mut Conversation,
        devices: &BTreeMap<IpFamily, u32>,
        desired: &Desired,
    ) -> Result<Option<usize>, rtnl::Error> {
        let peers = difference(&self.peers, &desired.tunnel_peers, is_same);
        let routes = difference(&self.routes, &desired.routes, is_same);
        let values: Vec<_> = routes.iter().map(value).collect();
        let added = tunnel::add_peers(conversation, devices, &peers)?;
        let report = route::apply(conversation, &self.surroundings, &values)?;
        if !report.problems.is_empty() {
            return Ok(None);
        }
        let removed = tunnel::remove_peers(conversation, devices, &peers, &desired.tunnel_peers)?;
        let led = report.added + report.changed + report.removed;
        let (peers, routes) = (keys(&peers), keys(&routes));
        self.follow(desired, &peers, &routes);
        Ok(Some(added + led + removed))
    }

    /// What is at these keys of `desired` stands now.
    fn follow(&mut self, desired: &Desired, peers: &[IpAddr], routes: &[RouteKey]) {
        for address in peers {
            if let Some(gone) = self.peers.get(address) {
                self.ends.remove(&end(*address, gone).0);
            }
        }
        copy(&mut self.peers, &desired.tunnel_peers, peers);
        copy(&mut self.routes, &desired.routes, routes);
        // Then: what one of them had, another may have by now.
        let added = peers.iter().filter_map(|address| {
            let peer = self.peers.get(address)?;
            Some(end(*address, peer))
        });
        self.ends.extend(added);
    }

    /// Whether the kernel says what was written: of a neighbour or a forwarding entry on the
    /// tunnel of this family, or of a route.
    pub(super) fn agrees(&self, family: IpFamily, event: &Event) -> bool {
        match event {
            Event::Neighbour(neighbour) => self.has_neighbour(family, neighbour),
            Event::NeighbourGone(neighbour) => self.peer(family, neighbour.address).is_none(),
            Event::Forwarding(entry) => entry.permanent && self.sends(family, entry),
            Event::ForwardingGone(entry) => !self.sends(family, entry),
            Event::Route(route) => self.has_route(route),
            Event::RouteGone(route) => {
                route.protocol == mark::ROUTE_FABRIC && !self.has_route(route)
            }
            Event::Link(_)
            | Event::LinkGone(_)
            | Event::Address(_)
            | Event::AddressGone(_)
            | Event::Overflow => false,
        }
    }

    fn peer(&self, family: IpFamily, address: IpAddr) -> Option<&TunnelPeer> {
        let peer = self.peers.get(&address);
        peer.filter(|_| family.has(address))
    }

    fn has_neighbour(&self, family: IpFamily, neighbour: &Neighbour) -> bool {
        let permanent = neighbour.state == NeighbourState::Permanent;
        let mac = neighbour.mac.filter(|_| permanent).map(|mac| mac.0);
        // What the kernel looks for by itself leads nowhere.
        mac == self.peer(family, neighbour.address).map(|peer| peer.mac)
    }

    fn sends(&self, family: IpFamily, entry: &Forwarding) -> bool {
        self.ends.get(&(family, entry.mac.0)) == Some(&entry.remote)
    }

    fn has_route(&self, route: &rtnl::Route) -> bool {
        let ours = self.surroundings.in_our_words(route);
        ours.is_some_and(|(key, route)| self.routes.get(&key) == Some(&route))
    }
}

fn end(address: IpAddr, peer: &TunnelPeer) -> (End, IpAddr) {
    ((IpFamily::of(address), peer.mac), peer.remote)
}

fn is_same<V: PartialEq>(stood: &V, wanted: &Entry<V>) -> bool {
    *stood == wanted.value
}

fn value<'a, K, V>(step: &Difference<'a, K, V, Entry<V>>) -> Difference<'a, K, V, V> {
    match step {
        Difference::Add(key, new) => Difference::Add(key, &new.value),
        Difference::Change(key, old, new) => Difference::Change(key, old, &new.value),
        Difference::Remove(key, old) => Difference::Remove(key, old),
    }
}

/// Without where they come from: that is known to who wants them.
fn values<K: Ord + Copy, V: Clone>(table: &Table<K, V>) -> BTreeMap<K, V> {
    let entries = table.iter();
    entries
        .map(|(key, entry)| (*key, entry.value.clone()))
        .collect()
}

/// Where the steps are.
fn keys<K: Copy, A, D>(steps: &[Difference<'_, K, A, D>]) -> Vec<K> {
    let key = |step: &Difference<'_, K, A, D>| match step {
        Difference::Add(key, _) | Difference::Change(key, _, _) | Difference::Remove(key, _) => {
            **key
        }
    };
    steps.iter().map(key).collect()
}

fn copy<K: Ord + Copy, V: Clone>(to: &mut BTreeMap<K, V>, from: &Table<K, V>, keys: &[K]) {
    for key in keys {
        match from.get(key) {
            Some(entry) => to.insert(*key, entry.value.clone()),
            None => to.remove(key),
        };
    }
}
