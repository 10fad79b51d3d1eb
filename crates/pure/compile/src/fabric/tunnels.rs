//! Tunnels: this node's devices, and the nodes at their other ends. Names, addresses and what is
//! announced of them are flannel's, so that its nodes and weft's understand each other.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_desired::{IpFamily, NextHop, Tunnel, TunnelPeer};
use weft_model::{Cluster, Node, NodeName, Vtep};

use super::fault::Fault;
use super::{ReachedAt, Work, entry, key, model};
use crate::settings::FabricBackend;

/// What a tunnel adds to a packet, in bytes: Ethernet (14), VXLAN (8), UDP (8) and IP.
pub(super) fn overhead(family: IpFamily) -> u32 {
    match family {
        IpFamily::V4 => 14 + 8 + 8 + 20,
        IpFamily::V6 => 14 + 8 + 8 + 40,
    }
}

/// The least a link must take, in bytes (RFC 791, RFC 8200).
pub(super) fn least(family: IpFamily) -> u32 {
    match family {
        IpFamily::V4 => 68,
        IpFamily::V6 => 1280,
    }
}

/// The name of this family's device.
fn device(family: IpFamily, vni: u32) -> String {
    match family {
        IpFamily::V4 => format!("flannel.{vni}"),
        IpFamily::V6 => format!("flannel-v6.{vni}"),
    }
}

/// The Ethernet address of a tunnel that never had one: always the same for the same node, so
/// that others need not be told anew when it starts again. Of those that are given to nobody.
fn made_up(node: &NodeName, family: IpFamily) -> [u8; 6] {
    let salt = match family {
        IpFamily::V4 => b'4',
        IpFamily::V6 => b'6',
    };
    let bytes = node.as_str().bytes().chain([0, salt]);
    // FNV-1a, 64 bits.
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [first, b, c, d, e, f, ..] = hash.to_be_bytes();
    [first & 0xfc | 0x02, b, c, d, e, f]
}

fn is_usable(mac: [u8; 6]) -> bool {
    mac != [0; 6] && mac[0] & 1 == 0
}

impl Work<'_> {
    /// The devices this node needs for itself, or because others send through theirs.
    pub(super) fn make_tunnels(&mut self, cluster: &Cluster) {
        let Some(own) = self.own else {
            return;
        };
        for family in IpFamily::BOTH {
            let others = cluster.nodes().filter(|node| node.name != own.name);
            let is_sent_to = || {
                let mut ends = others.map(|node| (node.announced.is_vxlan(), node));
                ends.any(|(vxlan, node)| vxlan && node.announced.vtep(model(family)).is_some())
            };
            let needed = match self.settings.backend {
                FabricBackend::Vxlan => true,
                FabricBackend::HostGw | FabricBackend::Udp => is_sent_to(),
            };
            if !needed || self.uplinks.is_empty() {
                continue;
            }
            match self.tunnel(own, family) {
                Ok(Some(tunnel)) => {
                    self.macs.insert(tunnel.mac, own.name.clone());
                    self.fabric.tunnels.insert(family, entry(own, tunnel));
                }
                Ok(None) => {}
                Err(fault) => self.report(own, fault),
            }
        }
        if self.settings.backend == FabricBackend::Vxlan {
            for node in cluster.nodes() {
                for fault in &node.announced.faults {
                    self.report(node, Fault::Annotation(fault.clone()));
                }
            }
        }
    }

    fn tunnel(&self, own: &Node, family: IpFamily) -> Result<Option<Tunnel>, Fault> {
        let mut ranges = own.pod_cidrs.iter().map(IpNet::trunc);
        let Some(range) = ranges.find(|range| family.has(range.addr())) else {
            return Ok(None);
        };
        let Some(local) = self.uplinks.local_like(own, range.addr()) else {
            return self.nowhere(range);
        };
        let Some(room) = self.uplinks.addresses.get(&local) else {
            return Err(Fault::NoUplink { address: local });
        };
        let (overhead, least) = (overhead(family), least(family));
        let fits = room.saturating_sub(overhead);
        let mtu = self.settings.mtu.map_or(fits, |mtu| mtu.min(fits));
        if mtu < least {
            return Err(Fault::SmallMtu {
                mtu,
                least,
                overhead,
            });
        }
        let vni = self.settings.vni;
        let announced = own.announced.vtep(model(family));
        let kept = announced.filter(|vtep| vtep.vni == vni && is_usable(vtep.mac));
        Ok(Some(Tunnel {
            name: device(family, vni).into(),
            vni,
            port: self.settings.port,
            local,
            mac: kept.map_or_else(|| made_up(&own.name, family), |vtep| vtep.mac),
            address: range.addr(),
            mtu,
        }))
    }

    /// That no link is there is said once, and not for each tunnel.
    pub(super) fn nowhere<T>(&self, range: IpNet) -> Result<Option<T>, Fault> {
        let family = IpFamily::of(range.addr());
        match self.uplinks.reached_at {
            ReachedAt::Missing(_) => Ok(None),
            ReachedAt::Object => Err(Fault::NoAddress { range, family }),
            ReachedAt::Chosen(_) => Err(Fault::NoInterface {
                reason: format!("it has no {family} address there"),
            }),
        }
    }

    /// Through the tunnel.
    pub(super) fn tunnelled(
        &mut self,
        node: &Node,
        range: IpNet,
        remote: IpAddr,
        vtep: Vtep,
    ) -> Result<NextHop, Fault> {
        let family = IpFamily::of(range.addr());
        let Some(tunnel) = self.fabric.tunnels.get(&family) else {
            return Err(Fault::NoTunnel { range, family });
        };
        let (device, ours) = (tunnel.value.name.clone(), tunnel.value.vni);
        let mac = vtep.mac;
        if vtep.vni != ours {
            return Err(Fault::OtherVni {
                range,
                theirs: vtep.vni,
                ours,
            });
        }
        if !is_usable(mac) {
            return Err(Fault::BadMac { range, mac });
        }
        let holder = self.macs.entry(mac).or_insert_with(|| node.name.clone());
        if *holder != node.name {
            return Err(Fault::SameMac {
                range,
                mac,
                holder: holder.clone(),
            });
        }
        // As flannel names it: by the address that the other node's device has.
        let address = range.addr();
        let peer = entry(node, TunnelPeer { mac, remote });
        self.fabric.tunnel_peers.insert(address, peer);
        if family == IpFamily::V6 && range.prefix_len() < range.max_prefix_len() {
            // While another route leads to the range, the kernel takes no router of that range on
            // this link, unless a route says that it is there.
            let next_hop = NextHop::Link {
                device: device.clone(),
            };
            let route = entry(node, next_hop.into());
            self.fabric.routes.insert(key(address.into()), route);
        }
        Ok(NextHop::OnLink { address, device })
    }
}
