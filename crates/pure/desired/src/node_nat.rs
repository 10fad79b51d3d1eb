//! What a node's address translation must know besides Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::IpFamily;

/// What the node's address translation must know besides frontends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNat {
    /// The pod ranges of the cluster's nodes. A source outside of them that reaches a frontend is
    /// masqueraded; a destination outside of them (and not a node) leaves the cluster
    /// and is masqueraded too.
    pub pod_ranges: BTreeSet<IpNet>,
    /// The Service ranges: what is sent to an address in them that is no frontend's
    /// is dropped, never routed.
    pub service_ranges: BTreeSet<IpNet>,
    /// Addresses of the cluster's nodes: pods reach them without translation.
    pub node_addresses: BTreeSet<IpAddr>,
    /// This node's pods and their own addresses, for hairpin: a pod that reaches
    /// itself through a Service is masqueraded, or it would answer itself directly.
    pub local_pods: BTreeMap<IpAddr, Arc<str>>,
    /// This node's own addresses, loopback's left out.
    pub own_addresses: BTreeSet<IpAddr>,
    /// At which of them node ports answer, as it was asked for.
    pub node_port_addresses: NodePortAddresses,
    /// How a pod's packet is told from others.
    pub local: LocalDetection,
    /// Whether every connection to a Service's own address is masqueraded, pods' too.
    pub masquerade_all: bool,
    /// Whether node ports answer at 127.0.0.0/8 too (iptables only: it needs
    /// `route_localnet`).
    pub localhost_node_ports: bool,
}

impl NodeNat {
    /// The addresses at which health checks listen: where node ports answer, or all of a
    /// family (0.0.0.0, ::), loopback's with them.
    pub fn health_check_addresses(&self) -> BTreeSet<IpAddr> {
        let wanted = &self.node_port_addresses;
        let loopback = match wanted {
            NodePortAddresses::All | NodePortAddresses::Primary(_) => BTreeSet::new(),
            NodePortAddresses::Within(_) => {
                [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].into()
            }
        };
        let some = self.own_addresses.union(&loopback).copied();
        let mut addresses: BTreeSet<IpAddr> = some.filter(|it| wanted.include(*it)).collect();
        for family in IpFamily::BOTH {
            if wanted.include_all(family) {
                addresses.retain(|it| !family.has(*it));
                addresses.insert(match family {
                    IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
                    IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
                });
            }
        }
        addresses
    }
}

/// At which of the node's addresses node ports answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// At all of them.
    #[default]
    All,
    /// At the ones the node is known by (InternalIP).
    Primary(BTreeSet<IpAddr>),
    /// At those in these ranges; at all of a family that has none among them.
    Within(BTreeSet<IpNet>),
}

impl NodePortAddresses {
    /// Whether node ports answer at one of the node's addresses.
    pub fn include(&self, address: IpAddr) -> bool {
        match self {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary(addresses) => addresses.contains(&address),
            NodePortAddresses::Within(ranges) => {
                let within = ranges.iter().any(|range| range.contains(&address));
                within || self.include_all(IpFamily::of(address))
            }
        }
    }

    /// Whether node ports answer at every address of a family. Ranges of the other family alone
    /// say nothing of it, as with kube-proxy.
    pub fn include_all(&self, family: IpFamily) -> bool {
        match self {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary(_) => false,
            NodePortAddresses::Within(ranges) => {
                let same = || ranges.iter().filter(|range| family.has(range.addr()));
                same().next().is_none() || same().any(|range| range.prefix_len() == 0)
            }
        }
    }
}

/// How a packet that comes from a pod is told from one that comes from beyond the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalDetection {
    /// By its source.
    Ranges(BTreeSet<IpNet>),
    /// By the device it came in through.
    Bridge(Arc<str>),
    /// By the start of that device's name.
    InterfacePrefix(Arc<str>),
    /// Not at all: pods' packets are like everybody's.
    Nothing,
}

impl Default for LocalDetection {
    fn default() -> Self {
        Self::Ranges(BTreeSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_checks_listen_where_node_ports_answer() {
        let listening = |at: NodePortAddresses| {
            let nat = NodeNat {
                own_addresses: ["172.30.0.11", "10.0.0.1", "fd00:172:30::11"]
                    .map(|it| it.parse().unwrap())
                    .into(),
                node_port_addresses: at,
                ..NodeNat::default()
            };
            let addresses = nat.health_check_addresses();
            addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        let within = |ranges: &[&str]| {
            NodePortAddresses::Within(ranges.iter().map(|it| it.parse().unwrap()).collect())
        };
        assert_eq!(listening(NodePortAddresses::All), ["0.0.0.0", "::"]);
        let primary = NodePortAddresses::Primary(["172.30.0.11".parse().unwrap()].into());
        assert_eq!(listening(primary), ["172.30.0.11"]);
        let both = within(&["10.0.0.0/8", "fd00:10::/32"]);
        assert_eq!(listening(both), ["10.0.0.1"]);
        // Of IPv6 nothing is said, ...
        assert_eq!(listening(within(&["10.0.0.0/8"])), ["10.0.0.1", "::"]);
        // ... or all.
        let all = within(&["10.0.0.0/8", "::/0"]);
        assert_eq!(listening(all), ["10.0.0.1", "::"]);
        assert_eq!(
            listening(within(&["127.0.0.0/8", "fd00::/8"])),
            ["127.0.0.1", "fd00:172:30::11"]
        );
    }
}
