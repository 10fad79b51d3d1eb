//! Links of pods.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Which link: the container's and the interface's name, as CNI gives them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodLinkKey {
    /// `CNI_CONTAINERID`.
    pub container: Arc<str>,
    /// `CNI_IFNAME`.
    pub interface: Arc<str>,
}

/// A veth pair between a pod and its node: routed, or with its end on the node in a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The host end's name, at most 15 bytes.
    pub host_name: Arc<str>,
    /// The host end's alias: the ownership mark.
    pub alias: Arc<str>,
    /// Bytes.
    pub mtu: u32,
    /// The host end's Ethernet address. Both ends' are known before the link is made,
    /// so that each end gets the other's as a permanent neighbour and nothing is asked.
    pub host_mac: [u8; 6],
    /// The pod end's Ethernet address.
    pub pod_mac: [u8; 6],
    /// The pod's addresses, at most one a family; in a bridge with the length of their
    /// network, otherwise with their own.
    pub addresses: Vec<IpNet>,
    /// The routers the pod sends everything to, one for each family it has an address
    /// of. No device holds these addresses, or the bridge does.
    pub gateways: Vec<IpAddr>,
    /// What the pod sends to its routers: everything, or for a further interface a part.
    pub routes: Vec<IpNet>,
    /// The node's own addresses, put on the host end as /32 and /128, so that what
    /// the node sends to the pod has the node's address as source. Empty in a bridge.
    pub node_addresses: Vec<IpAddr>,
    /// The bridge that the host end is a port of; `None`: routed.
    pub bridge: Option<Bridge>,
}

/// A bridge of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its name, at most 15 bytes.
    pub name: Arc<str>,
    /// Its alias: the ownership mark, with the network's name.
    pub alias: Arc<str>,
    /// Its Ethernet address, which it has from its first moment on.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// Its addresses: the pods' routers, with the length of their networks.
    pub addresses: Vec<IpNet>,
    /// Pods elsewhere on the node neither reach its pods nor are reached by them.
    pub isolated: bool,
}
