//! Services as a node translates them. A back end (nftables, iptables) renders these.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Sharing, SocketKey};

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
    pub backends: Arc<BTreeSet<Backend>>,
    /// How connections are shared among them, and among those of `outside`.
    pub sharing: Sharing,
    /// What happens while there are none.
    pub otherwise: Otherwise,
    /// What clients get that are neither this node nor its cluster's pods, if that is
    /// something else.
    pub outside: Option<Outside>,
    /// Who may send to it; everybody if there is nothing here.
    pub sources: Option<Arc<BTreeSet<IpNet>>>,
    /// For how many seconds after its last connection a client's address is sent to the
    /// endpoint it had.
    pub affinity: Option<u32>,
    /// Whose connections leave the node with the node's address.
    pub masquerade: Masquerade,
    /// The endpoints that connections may still be open to, beside `backends`.
    pub kept: Arc<BTreeSet<Backend>>,
    /// Whether its address is the Service's alone, so that what is sent to other ports of
    /// it is refused.
    pub exclusive: bool,
}

impl Frontend {
    /// A frontend as a Service's own address has it: everybody gets these endpoints or is
    /// refused.
    pub fn new(label: Arc<str>, backends: BTreeSet<Backend>) -> Self {
        Self {
            label,
            backends: Arc::new(backends),
            sharing: Sharing::default(),
            otherwise: Otherwise::Refuse,
            outside: None,
            sources: None,
            affinity: None,
            masquerade: Masquerade::Outside,
            kept: Arc::default(),
            exclusive: true,
        }
    }
}

/// What clients beyond the cluster get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Their endpoints: this node's.
    pub backends: Arc<BTreeSet<Backend>>,
    /// What happens while there are none.
    pub otherwise: Otherwise,
}

/// Whose translated connections get the node's address as their source, so that answers
/// come back through the node. A pod that reaches itself always does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Masquerade {
    /// Those of clients that are no pods of the cluster.
    #[default]
    Outside,
    /// Everybody's.
    All,
    /// The node's own: the address it chose may be one that others have as well.
    Node,
}
