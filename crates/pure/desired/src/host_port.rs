//! A pod's ports on its node.

use std::net::IpAddr;

use crate::SocketKey;

/// A port of the node that leads to a port of a pod on it. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// What clients send to.
    pub node: SocketKey,
    /// The pod's address.
    pub pod: IpAddr,
    /// The pod's port, never 0.
    pub port: u16,
}
