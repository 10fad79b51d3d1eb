//! Services as a node translates them. A back end (nftables, iptables) renders these.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::SocketKey;

/// What is translated: a Service's address, protocol and port.
pub type FrontendKey = SocketKey;

/// Where it is translated to: an endpoint's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The endpoint's address, of the frontend's family.
    pub address: IpAddr,
    /// The endpoint's port, never 0.
    pub port: u16,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&SocketAddr::new(self.address, self.port), f)
    }
}

/// What happens to connections for which there is no endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Otherwise {
    /// The client is told at once (TCP reset, ICMP port unreachable).
    #[default]
    Refuse,
    /// The client is told nothing: there are endpoints, only not for this node.
    Drop,
}

/// What happens to connections to one [`FrontendKey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// `namespace/name:port`, for the element's comment.
    pub label: Arc<str>,
    /// The endpoints that take new connections. A set: which slot an endpoint gets
    /// is the back end's choice.
    pub backends: BTreeSet<Backend>,
    /// What happens while there are none.
    pub otherwise: Otherwise,
}

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
}
