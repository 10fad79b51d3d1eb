//! Tunnels to other nodes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;

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

/// A TUN device whose packets a program sends to other nodes, each as the whole of a UDP
/// datagram: flannel's back end udp, which knows IPv4 alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpTunnel {
    /// Its name.
    pub name: Arc<str>,
    /// The UDP port, here and on the other nodes.
    pub port: u16,
    /// The node's own address: where what it sends comes from.
    pub local: Ipv4Addr,
    /// The node's own pods. The range's first address is the device's own: what the node
    /// itself sends to other nodes' pods comes from it.
    pub range: Ipv4Net,
    /// Bytes of the largest packet inside.
    pub mtu: u32,
}

/// A node that takes packets in UDP datagrams. Its key is the range of its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpPeer {
    /// Its address.
    pub remote: Ipv4Addr,
}
