//! Tunnels to other nodes: VXLAN devices, and where they lead.
//!
//! For each peer stand a neighbour (its address on the tunnel has this Ethernet address) and a
//! forwarding entry (that Ethernet address is behind this node). Both are permanent: nothing is
//! asked of the network, nothing is learned from it.
//!
//! A device is ours if it carries our alias; one that has the name of ours and is a VXLAN
//! device too is taken over, for whoever changes from flannel to weft has that. A device whose
//! identifier, port, or way to others is another one is made anew: the kernel changes not all of
//! it in place, and what leads through it has to be looked at anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{Difference, Entry, IpFamily, Table, Tunnel, TunnelPeer, mark};
use weft_sys::rtnl::{
    self, AddressFlags, Batch, Conversation, Link, LinkChange, Mac, NeighbourState, Vxlan,
    VxlanSpec,
};

use crate::sysctl::{self, ReversePath, Scope, Setting};

/// What a pass did.
#[derive(Debug, Default)]
pub struct Report {
    /// Devices, addresses and entries written or removed.
    pub writes: usize,
    /// The numbers of the devices that stand.
    pub devices: BTreeMap<IpFamily, u32>,
    /// What is not as it should be. Empty: everything desired stands.
    pub problems: Vec<Problem>,
}

/// Something that is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Somebody else has the name.
    #[error(
        "tunnel {device}: there is a {kind} device of this name that is not weft's; it is left \
         alone: remove it, or set another fabric.vni"
    )]
    NameTaken {
        /// The name.
        device: Arc<str>,
        /// The driver's name.
        kind: String,
    },
    /// Somebody else has the port and the network identifier.
    #[error(
        "tunnel {device}: another VXLAN device has the network identifier {vni} and the port \
         {port}; remove it, or set another fabric.vni or fabric.port"
    )]
    IdentifierTaken {
        /// The name of ours.
        device: Arc<str>,
        /// The network identifier.
        vni: u32,
        /// The port.
        port: u16,
    },
    /// Somebody else has the port.
    #[error(
        "tunnel {device}: another program has the UDP port {port}; stop it, or set another \
         fabric.port for all nodes"
    )]
    PortTaken {
        /// The name of ours.
        device: Arc<str>,
        /// The port.
        port: u16,
    },
    /// The node's own address is on no link.
    #[error("tunnel {device}: no link has the node's address {local}")]
    NoUplink {
        /// The name.
        device: Arc<str>,
        /// The address.
        local: IpAddr,
    },
    /// No TUN device can be had.
    #[error(
        "tunnel {device}: no TUN device: {source}; is /dev/net/tun there and allowed, and does no \
         other program (flanneld) have a device of this name?"
    )]
    Tun {
        /// The name.
        device: Arc<str>,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused something.
    #[error("tunnel {device}: {error}")]
    Refused {
        /// The name.
        device: Arc<str>,
        /// What, and why.
        error: rtnl::Error,
    },
    /// A setting could not be written.
    #[error("tunnel {device}")]
    Setting {
        /// The name.
        device: Arc<str>,
        /// Why.
        #[source]
        source: sysctl::Error,
    },
}

/// Makes devices, and adds what leads to peers: to be called before routes lead there. What is
/// not wanted any more stays; see [`clear`].
///
/// # Errors
/// A failure of the conversation. What can't be written is in the report, and does not keep the
/// rest from being written.
pub fn raise(
    conversation: &mut Conversation,
    tunnels: &Table<IpFamily, Tunnel>,
    peers: &Table<IpAddr, TunnelPeer>,
) -> Result<Report, rtnl::Error> {
    let mut report = Report::default();
    for (family, Entry { value: tunnel, .. }) in tunnels {
        match device(conversation, tunnel, &mut report) {
            Ok(link) => {
                report.devices.insert(*family, link.index);
                let there = Ends::read(conversation, link.index)?;
                let wanted = Ends::wanted(*family, peers);
                let batch = there.missing(&wanted, link.index);
                run(conversation, &tunnel.name, &batch, &mut report)?;
            }
            Err(problem) => report.problems.push(problem),
        }
    }
    Ok(report)
}

/// Removes what is not wanted any more: to be called when no route leads there.
///
/// # Errors
/// As for [`raise`].
pub fn clear(
    conversation: &mut Conversation,
    tunnels: &Table<IpFamily, Tunnel>,
    peers: &Table<IpAddr, TunnelPeer>,
) -> Result<Report, rtnl::Error> {
    let mut report = Report::default();
    for link in conversation.links()? {
        if link.alias.as_deref() != Some(mark::TUNNEL_ALIAS) || link.vxlan.is_none() {
            continue;
        }
        let mut wanted = tunnels.iter();
        let wanted = wanted.find(|(_, tunnel)| *tunnel.value.name == *link.name);
        let name: Arc<str> = link.name.as_str().into();
        match wanted {
            Some((family, _)) => {
                let there = Ends::read(conversation, link.index)?;
                let batch = there.surplus(&Ends::wanted(*family, peers), link.index);
                run(conversation, &name, &batch, &mut report)?;
            }
            None => match conversation.delete_link(link.index) {
                Ok(()) => report.writes += 1,
                Err(error) if error.is_absent() => {}
                Err(error) => report.problems.push(Problem::Refused {
                    device: name,
                    error,
                }),
            },
        }
    }
    Ok(report)
}

/// One step of what leads to peers, from what stood to what is desired.
pub type PeerStep<'a> = Difference<'a, IpAddr, TunnelPeer, Entry<TunnelPeer>>;

/// Writes what steps add, on devices that stand, without reading anything: to be called before
/// routes lead there.
///
/// # Errors
/// A failure of the conversation, or the first thing that the kernel refused.
pub fn add_peers(
    conversation: &mut Conversation,
    devices: &BTreeMap<IpFamily, u32>,
    steps: &[PeerStep<'_>],
) -> Result<usize, rtnl::Error> {
    let mut batch = Batch::new();
    for step in steps {
        let (address, peer) = match step {
            Difference::Add(address, peer) | Difference::Change(address, _, peer) => {
                (**address, &peer.value)
            }
            Difference::Remove(..) => continue,
        };
        if let Some(index) = devices.get(&IpFamily::of(address)) {
            batch.add_forwarding(*index, Mac(peer.mac), peer.remote);
            batch.add_neighbour(*index, address, Mac(peer.mac));
        }
    }
    conversation.run_all(&batch)?;
    Ok(batch.len())
}

/// Writes what steps take away: to be called when no route leads there. What leads to one of the
/// peers that are `wanted` then stays: a node that got another range has the Ethernet address that
/// it had.
///
/// # Errors
/// As for [`add_peers`]; what is gone already is as well.
pub fn remove_peers(
    conversation: &mut Conversation,
    devices: &BTreeMap<IpFamily, u32>,
    steps: &[PeerStep<'_>],
    wanted: &Table<IpAddr, TunnelPeer>,
) -> Result<usize, rtnl::Error> {
    let end = |address: IpAddr, peer: &TunnelPeer| (IpFamily::of(address), peer.mac, peer.remote);
    let mut batch = Batch::new();
    let mut left = BTreeSet::new();
    for step in steps {
        match step {
            Difference::Remove(address, old) => {
                if let Some(index) = devices.get(&IpFamily::of(**address)) {
                    batch.delete_neighbour(*index, **address);
                }
                left.insert(end(**address, old));
            }
            Difference::Change(address, old, new) if old.mac != new.value.mac => {
                left.insert(end(**address, old));
            }
            Difference::Add(..) | Difference::Change(..) => {}
        }
    }
    if !left.is_empty() {
        for (address, peer) in wanted {
            left.remove(&end(*address, &peer.value));
        }
    }
    for (family, mac, remote) in left {
        if let Some(index) = devices.get(&family) {
            // Nothing, if another node has that Ethernet address by now.
            batch.delete_forwarding(*index, Mac(mac), remote);
        }
    }
    let mut writes = 0;
    for result in conversation.run(&batch)? {
        match result {
            Ok(()) => writes += 1,
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(writes)
}

fn run(
    conversation: &mut Conversation,
    device: &Arc<str>,
    batch: &Batch,
    report: &mut Report,
) -> Result<(), rtnl::Error> {
    for result in conversation.run(batch)? {
        match result {
            Ok(()) => report.writes += 1,
            Err(error) if error.is_absent() => {}
            Err(error) => report.problems.push(Problem::Refused {
                device: device.clone(),
                error,
            }),
        }
    }
    Ok(())
}

/// The device as it should be.
fn device(
    conversation: &mut Conversation,
    tunnel: &Tunnel,
    report: &mut Report,
) -> Result<Link, Problem> {
    let refused = |error| Problem::Refused {
        device: tunnel.name.clone(),
        error,
    };
    let uplink = uplink(conversation, &tunnel.name, tunnel.local)?;
    let vxlan = Vxlan {
        vni: tunnel.vni,
        port: tunnel.port,
        local: Some(tunnel.local),
        device: Some(uplink.index),
        learning: false,
    };
    let found = conversation.find_link(&tunnel.name).map_err(refused)?;
    let link = match found {
        Some(link) if link.vxlan == Some(vxlan) => link,
        Some(link) if link.vxlan.is_some() => {
            conversation.delete_link(link.index).map_err(refused)?;
            report.writes += 1;
            make(conversation, tunnel, vxlan, report)?
        }
        Some(link) => {
            return Err(Problem::NameTaken {
                device: tunnel.name.clone(),
                kind: link.kind.unwrap_or_else(|| "hardware".to_owned()),
            });
        }
        None => make(conversation, tunnel, vxlan, report)?,
    };
    let device = Device {
        name: &tunnel.name,
        local: tunnel.local,
        mac: Some(tunnel.mac),
        address: tunnel.address,
        mtu: tunnel.mtu,
    };
    device
        .adjust(conversation, &uplink, &link, report)
        .map_err(|problem| unheard(problem, tunnel))?;
    Ok(link)
}

/// It listens from when it is switched on, unless somebody else has the port.
fn unheard(problem: Problem, tunnel: &Tunnel) -> Problem {
    if let Problem::Refused { device, error } = &problem
        && error.is_in_use()
    {
        return Problem::PortTaken {
            device: device.clone(),
            port: tunnel.port,
        };
    }
    problem
}

/// The link that has the node's own address.
pub(crate) fn uplink(
    conversation: &mut Conversation,
    name: &Arc<str>,
    local: IpAddr,
) -> Result<Link, Problem> {
    let uplinks = crate::link::uplinks(conversation).map_err(|error| Problem::Refused {
        device: name.clone(),
        error,
    })?;
    let holder = uplinks.addresses.into_iter();
    let mut holder = holder.filter(|(address, _)| *address == local);
    holder
        .next()
        .map(|(_, link)| link)
        .ok_or_else(|| Problem::NoUplink {
            device: name.clone(),
            local,
        })
}

fn make(
    conversation: &mut Conversation,
    tunnel: &Tunnel,
    vxlan: Vxlan,
    report: &mut Report,
) -> Result<Link, Problem> {
    let made = conversation.add_vxlan(VxlanSpec {
        name: &tunnel.name,
        vxlan,
        mac: Some(Mac(tunnel.mac)),
        mtu: Some(tunnel.mtu),
        alias: Some(mark::TUNNEL_ALIAS),
    });
    report.writes += usize::from(made.is_ok());
    made.map_err(|error| match error.is_exists() {
        true => Problem::IdentifierTaken {
            device: tunnel.name.clone(),
            vni: tunnel.vni,
            port: tunnel.port,
        },
        false => Problem::Refused {
            device: tunnel.name.clone(),
            error,
        },
    })
}

/// What devices that lead to other nodes have, whatever they are.
pub(crate) struct Device<'a> {
    pub(crate) name: &'a Arc<str>,
    /// The node's own address: where what it sends comes from.
    pub(crate) local: IpAddr,
    /// Its Ethernet address, if it has such.
    pub(crate) mac: Option<[u8; 6]>,
    /// Its own address.
    pub(crate) address: IpAddr,
    pub(crate) mtu: u32,
}

impl Device<'_> {
    /// What the kernel changes in place.
    pub(crate) fn adjust(
        &self,
        conversation: &mut Conversation,
        uplink: &Link,
        link: &Link,
        report: &mut Report,
    ) -> Result<(), Problem> {
        if self.local.is_ipv4() {
            loosen(self.name, uplink, report)?;
        }
        let refused = |error| Problem::Refused {
            device: self.name.clone(),
            error,
        };
        let (mac, alias) = (self.mac.map(Mac), mark::TUNNEL_ALIAS);
        let mut changes = Batch::new();
        if !link.up {
            // No packet is for such an address, and none may leave from one.
            changes.set_link(
                link.index,
                LinkChange {
                    link_local_address: Some(false),
                    ..LinkChange::default()
                },
            );
        }
        let change = LinkChange {
            mac: mac.filter(|mac| link.mac != Some(*mac)),
            mtu: (link.mtu != self.mtu).then_some(self.mtu),
            alias: (link.alias.as_deref() != Some(alias)).then_some(alias),
            up: (!link.up).then_some(true),
            ..LinkChange::default()
        };
        let differs = change.mac.is_some() || change.mtu.is_some() || change.alias.is_some();
        if differs || !link.up {
            changes.set_link(link.index, change);
        }
        conversation.run_all(&changes).map_err(refused)?;
        report.writes += changes.len();
        let own = IpNet::from(self.address);
        let held = conversation.addresses(Some(link.index)).map_err(refused)?;
        let mut batch = Batch::new();
        let flags = AddressFlags {
            no_prefix_route: true,
            no_duplicate_detection: true,
        };
        if !held.iter().any(|held| held.network == own) {
            batch.add_address(link.index, own, flags);
        }
        let others = held.iter().filter(|held| held.network != own);
        for other in others.filter(|held| !held.link_local) {
            batch.delete_address(link.index, other.network);
        }
        conversation.run_all(&batch).map_err(refused)?;
        report.writes += batch.len();
        Ok(())
    }
}

/// A strict filter of sources would drop what pods of other nodes send to this node itself: that
/// comes directly, and is answered through the tunnel. While nodes change from one back end to
/// another, the reverse happens too.
fn loosen(name: &Arc<str>, uplink: &Link, report: &mut Report) -> Result<(), Problem> {
    let setting = |source| Problem::Setting {
        device: name.clone(),
        source,
    };
    let filter = Setting::ReversePathFilter;
    let on_tunnel = filter(Scope::Link(name), ReversePath::Loose);
    report.writes += usize::from(sysctl::set(on_tunnel).map_err(setting)?);
    let mut strict = false;
    for scope in [Scope::All, Scope::Link(&uplink.name)] {
        strict |= sysctl::holds(filter(scope, ReversePath::Strict)).map_err(setting)?;
    }
    if strict {
        let on_uplink = filter(Scope::Link(&uplink.name), ReversePath::Loose);
        report.writes += usize::from(sysctl::set(on_uplink).map_err(setting)?);
    }
    Ok(())
}

/// What leads to peers, on one device.
#[derive(Default)]
struct Ends {
    /// Ethernet addresses, by the address on the tunnel.
    neighbours: BTreeMap<IpAddr, Mac>,
    /// Nodes, by Ethernet address.
    forwardings: BTreeMap<Mac, IpAddr>,
    /// What stands beside them and is in their way.
    strays: Vec<(Mac, IpAddr)>,
}

impl Ends {
    fn wanted(family: IpFamily, peers: &Table<IpAddr, TunnelPeer>) -> Self {
        let peers = peers.iter().filter(|(address, _)| family.has(**address));
        let mut ends = Self::default();
        for (address, Entry { value: peer, .. }) in peers {
            let mac = Mac(peer.mac);
            ends.neighbours.insert(*address, mac);
            ends.forwardings.insert(mac, peer.remote);
        }
        ends
    }

    fn read(conversation: &mut Conversation, index: u32) -> Result<Self, rtnl::Error> {
        let mut ends = Self::default();
        for neighbour in conversation.neighbours(Some(index))? {
            if let (NeighbourState::Permanent, Some(mac)) = (neighbour.state, neighbour.mac) {
                ends.neighbours.insert(neighbour.address, mac);
            }
        }
        for entry in conversation.forwardings(index)? {
            let taken = ends.forwardings.contains_key(&entry.mac);
            if taken || !entry.permanent {
                ends.strays.push((entry.mac, entry.remote));
            } else {
                ends.forwardings.insert(entry.mac, entry.remote);
            }
        }
        Ok(ends)
    }

    fn missing(&self, wanted: &Self, index: u32) -> Batch {
        let mut batch = Batch::new();
        for (mac, remote) in &wanted.forwardings {
            if self.forwardings.get(mac) != Some(remote) {
                batch.add_forwarding(index, *mac, *remote);
            }
        }
        for (address, mac) in &wanted.neighbours {
            if self.neighbours.get(address) != Some(mac) {
                batch.add_neighbour(index, *address, *mac);
            }
        }
        batch
    }

    fn surplus(&self, wanted: &Self, index: u32) -> Batch {
        let mut batch = Batch::new();
        for address in self.neighbours.keys() {
            if !wanted.neighbours.contains_key(address) {
                batch.delete_neighbour(index, *address);
            }
        }
        let gone = self.forwardings.iter();
        let gone = gone.filter(|(mac, _)| !wanted.forwardings.contains_key(mac));
        let strays = self.strays.iter().map(|(mac, remote)| (mac, remote));
        for (mac, remote) in gone.chain(strays) {
            batch.delete_forwarding(index, *mac, *remote);
        }
        batch
    }
}
