//! Ports of Services: what a node knows of each, whatever back end makes it true.
//!
//! A back end that gives each Service port chains of its own (iptables) renders these. One
//! that only knows where a packet is going takes the [`frontends`](crate::Frontend) that
//! follow from them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Backend, IpFamily, Otherwise, Protocol, Sharing};

/// Which port of which Service, in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortKey {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The port's name; empty for the only one that has none.
    pub port: Arc<str>,
    /// The port's protocol.
    pub protocol: Protocol,
    /// The family of its addresses and endpoints.
    pub family: IpFamily,
}

impl fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        write!(f, " {} {}", self.protocol, self.family)
    }
}

/// Which endpoints a client is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Endpoints of every node.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

/// A port of a Service in one family. Addresses and ports that an older Service has are
/// not among those listed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name:port`, without `:port` for a port without name.
    pub label: Arc<str>,
    /// The Service's own address.
    pub cluster_address: Option<IpAddr>,
    /// The port there, at the external addresses and at the load balancer's.
    pub port: u16,
    /// The port at the node's own addresses.
    pub node_port: Option<u16>,
    /// External addresses, in the Service's order.
    pub external_addresses: Vec<IpAddr>,
    /// Addresses of the load balancer that come to the node as they are, in their order.
    /// None of them is among `external_addresses`.
    pub load_balancer_addresses: Vec<IpAddr>,
    /// Who may use the load balancer's addresses, in the Service's order. Empty: everybody.
    pub source_ranges: Vec<IpNet>,
    /// `source_ranges` has this node's own address: then the load balancer's addresses
    /// themselves may be sources too, because a node that has such an address uses it.
    pub source_ranges_have_node: bool,
    /// Where the node tells load balancers whether it has endpoints.
    pub health_check: Option<u16>,
    /// For how many seconds after its last connection a client's address is sent to the
    /// endpoint it had.
    pub affinity: Option<u32>,
    /// Which endpoints clients of `cluster_address` are given.
    pub internal_policy: Policy,
    /// Which endpoints clients of all other addresses are given. With
    /// [`Policy::Local`] this node and its pods are given those of the cluster all the same.
    pub external_policy: Policy,
    /// Its endpoints.
    pub endpoints: PortEndpoints,
}

/// The endpoints of a Service port. Each set is empty where no client is given any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortEndpoints {
    /// For clients that are given endpoints of every node: those that are ready, or else
    /// those that still serve while they end; of these the near ones, if hints or
    /// topology keys say which those are.
    pub cluster: Arc<BTreeSet<Backend>>,
    /// For clients that are given this node's only: those of its own that are ready, or
    /// else those that still serve while they end.
    pub local: Arc<BTreeSet<Backend>>,
    /// All to which connections may go on, wherever they are: with TCP and SCTP those that are
    /// there, with UDP those that serve.
    pub kept: Arc<BTreeSet<Backend>>,
    /// Whether some client somewhere is given an endpoint.
    pub any: bool,
    /// How connections are shared among those that a client is given.
    pub sharing: Sharing,
}

/// What a client is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The endpoints it may get.
    pub backends: Arc<BTreeSet<Backend>>,
    /// What happens without any.
    pub otherwise: Otherwise,
}

impl ServicePort {
    /// Whether anything but its own address leads to it.
    pub fn is_external(&self) -> bool {
        self.node_port.is_some()
            || !self.external_addresses.is_empty()
            || !self.load_balancer_addresses.is_empty()
    }

    /// What clients of its own address are given.
    pub fn internal(&self) -> Reach {
        self.reach(self.internal_policy)
    }

    /// What clients beyond the cluster, and on other nodes, are given.
    pub fn external(&self) -> Reach {
        self.reach(self.external_policy)
    }

    /// What this node and its pods are given at external addresses, whatever the policy.
    pub fn external_from_here(&self) -> Reach {
        self.reach(Policy::Cluster)
    }

    fn reach(&self, policy: Policy) -> Reach {
        let backends = match policy {
            Policy::Cluster => &self.endpoints.cluster,
            Policy::Local => &self.endpoints.local,
        };
        let otherwise = match policy {
            Policy::Local if self.endpoints.any => Otherwise::Drop,
            Policy::Local | Policy::Cluster => Otherwise::Refuse,
        };
        Reach {
            backends: backends.clone(),
            otherwise,
        }
    }
}
