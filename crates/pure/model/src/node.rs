//! Nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{LabelSet, NodeName};

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
    /// It is about to go: it is being deleted, or the cluster's autoscaler has marked it. Load
    /// balancers are told to leave it alone.
    #[serde(default)]
    pub leaving: bool,
}

/// The label that says which zone a node is in (Kubernetes, "Well-Known Labels").
const ZONE: &str = "topology.kubernetes.io/zone";

impl Node {
    /// The zone it is in, if it says so.
    pub fn zone(&self) -> Option<&str> {
        let zone = self.labels.get(ZONE)?;
        (!zone.is_empty()).then_some(&**zone)
    }

    /// The node's address in the family of `like`, if it has one.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.internal_ips
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == like.is_ipv4())
    }
}
