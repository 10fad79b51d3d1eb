//! Packets to other nodes in UDP datagrams, a whole one in each, with nothing around it: flannel's
//! back end udp, its device and its port. It carries IPv4; IPv6 goes directly, where it can.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use weft_desired::{IpFamily, NextHop, UdpPeer, UdpTunnel};
use weft_model::{Cluster, Node};

use super::fault::Fault;
use super::tunnels::least;
use super::{Work, entry};
use crate::settings::FabricBackend;

/// flannel's name of it.
const DEVICE: &str = "flannel0";
/// What is around a packet, in bytes: UDP (8) and IP (20).
pub(super) const OVERHEAD: u32 = 8 + 20;

impl Work<'_> {
    /// The device this node needs for itself, or because others send it datagrams.
    pub(super) fn make_udp_tunnel(&mut self, cluster: &Cluster) {
        let Some(own) = self.own else {
            return;
        };
        let mut others = cluster.nodes().filter(|node| node.name != own.name);
        let needed = match self.settings.backend {
            FabricBackend::Udp => true,
            FabricBackend::HostGw | FabricBackend::Vxlan => {
                others.any(|node| node.announced.is_udp())
            }
        };
        if !needed || !self.settings.datagrams || self.uplinks.is_empty() {
            return;
        }
        match self.udp_tunnel(own) {
            Ok(None) => {}
            Ok(Some(tunnel)) => {
                self.fabric.udp_tunnel = Some(entry(own, tunnel));
                let others = cluster.nodes().filter(|node| node.name != own.name);
                self.fabric.udp_senders = others.flat_map(addresses).collect();
            }
            Err(fault) => self.report(own, fault),
        }
    }

    fn udp_tunnel(&self, own: &Node) -> Result<Option<UdpTunnel>, Fault> {
        let mut ranges = own.pod_cidrs.iter();
        let Some(range) = ranges.find_map(|range| match range {
            IpNet::V4(range) => Some(range.trunc()),
            IpNet::V6(_) => None,
        }) else {
            return Ok(None);
        };
        let like = range.addr().into();
        let Some(IpAddr::V4(local)) = self.uplinks.local_like(own, like) else {
            return self.nowhere(range.into());
        };
        let address = IpAddr::V4(local);
        let Some(room) = self.uplinks.addresses.get(&address) else {
            return Err(Fault::NoUplink { address });
        };
        let (fits, least) = (room.saturating_sub(OVERHEAD), least(IpFamily::V4));
        let mtu = self.settings.mtu.map_or(fits, |mtu| mtu.min(fits));
        if mtu < least {
            return Err(Fault::SmallMtu {
                mtu,
                least,
                overhead: OVERHEAD,
            });
        }
        Ok(Some(UdpTunnel {
            name: DEVICE.into(),
            port: self.settings.udp_port,
            local,
            range,
            mtu,
        }))
    }

    /// To the node in datagrams.
    pub(super) fn in_datagrams(
        &mut self,
        node: &Node,
        range: Ipv4Net,
        address: IpAddr,
    ) -> Result<NextHop, Fault> {
        let (Some(tunnel), IpAddr::V4(remote)) = (&self.fabric.udp_tunnel, address) else {
            return Err(Fault::NoTunnel {
                range: range.into(),
                family: IpFamily::V4,
            });
        };
        let device = tunnel.value.name.clone();
        let peer = entry(node, UdpPeer { remote });
        self.fabric.udp_peers.insert(range, peer);
        Ok(NextHop::Link { device })
    }
}

/// What a node may send from: addresses that it has, and those that others know it by.
fn addresses(node: &Node) -> impl Iterator<Item = Ipv4Addr> {
    let said = &node.announced;
    let all = [&node.internal_ips, &said.public_ips, &said.overwrites];
    all.into_iter()
        .flatten()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
}
