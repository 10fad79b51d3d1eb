//! Tunnels to other nodes.

use std::net::IpAddr;
use std::sync::Arc;

/// A VXLAN device (RFC 7348) that carries what goes to other nodes' pods. There is at most
/// one for each family; what is inside and what is outside are of the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its name.
    pub name: Arc<str>,
    /// The network identifier, 24 bits.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The node's own address: where what it sends comes from.
    pub local: IpAddr,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its own address: what the node itself sends to other nodes' pods comes from it.
    pub address: IpAddr,
    /// Bytes of the largest packet inside.
    pub mtu: u32,
}

/// The other end of a tunnel. Its key is the address by which routes name it, that of the
/// other node's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPeer {
    /// The other device's Ethernet address.
    pub mac: [u8; 6],
    /// The other node's address: where packets are sent to.
    pub remote: IpAddr,
}
