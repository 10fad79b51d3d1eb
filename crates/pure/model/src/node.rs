//! Nodes.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{IpFamily, LabelSet, NodeName, Rejection};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// `metadata.generation`, for explaining what stands in the kernel.
    #[serde(default)]
    pub generation: i64,
    /// `metadata.labels` (topology).
    #[serde(default)]
    pub labels: LabelSet,
    /// `status.addresses` of type InternalIP, in their order.
    #[serde(default)]
    pub internal_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`: at most one range a family.
    #[serde(default)]
    pub pod_cidrs: Vec<IpNet>,
    /// What it says of how its pods are reached.
    #[serde(default)]
    pub announced: Announced,
    /// It is about to go: it is being deleted, or the cluster's autoscaler has marked it. Load
    /// balancers are told to leave it alone.
    #[serde(default)]
    pub leaving: bool,
}

/// What a node says of how its pods are reached: flannel's annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// `backend-type`: `vxlan`, `host-gw`…
    #[serde(default)]
    pub backend: Option<Arc<str>>,
    /// `public-ip` and `public-ipv6`: where other nodes send to.
    #[serde(default)]
    pub public_ips: Vec<IpAddr>,
    /// `public-ip-overwrite` and `public-ipv6-overwrite`: what a person says instead.
    #[serde(default)]
    pub overwrites: Vec<IpAddr>,
    /// `backend-data`: its end of the IPv4 tunnel.
    #[serde(default)]
    pub vtep_v4: Option<Vtep>,
    /// `backend-v6-data`: its end of the IPv6 tunnel.
    #[serde(default)]
    pub vtep_v6: Option<Vtep>,
    /// What could not be read of it, annotation by annotation.
    #[serde(default)]
    pub faults: Vec<Rejection>,
}

/// An end of a VXLAN tunnel (RFC 7348: VXLAN Tunnel End Point).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vtep {
    /// The network identifier.
    pub vni: u32,
    /// The device's Ethernet address.
    pub mac: [u8; 6],
}

impl Announced {
    /// Its end of the tunnel in this family.
    pub fn vtep(&self, family: IpFamily) -> Option<Vtep> {
        match family {
            IpFamily::V4 => self.vtep_v4,
            IpFamily::V6 => self.vtep_v6,
        }
    }

    /// Whether it says that it takes VXLAN.
    pub fn is_vxlan(&self) -> bool {
        self.backend.as_deref() == Some("vxlan")
    }

    /// Whether it says that it takes packets in UDP datagrams.
    pub fn is_udp(&self) -> bool {
        self.backend.as_deref() == Some("udp")
    }
}

/// The label that says which zone a node is in (Kubernetes, "Well-Known Labels").
const ZONE: &str = "topology.kubernetes.io/zone";

impl Node {
    /// The zone it is in, if it says so.
    pub fn zone(&self) -> Option<&str> {
        let zone = self.labels.get(ZONE)?;
        (!zone.is_empty()).then_some(&**zone)
    }

    /// Where other nodes send packets for its pods to, in the family of `like`.
    pub fn reached_at(&self, like: IpAddr) -> Option<IpAddr> {
        let said = &self.announced;
        let mut announced = said.overwrites.iter().chain(&said.public_ips).copied();
        let announced = announced.find(|address| address.is_ipv4() == like.is_ipv4());
        announced.or_else(|| self.address_like(like))
    }

    /// The node's address in the family of `like`, if it has one.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.internal_ips
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == like.is_ipv4())
    }
}
