//! What a node's rules say of what a pod sends.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Rules about one link of a pod, by what the pod may have as source, and as whom it leaves the
/// cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRules {
    /// The node's end of the link.
    pub link: Arc<str>,
    /// Whether that is a port of a bridge.
    pub is_port: bool,
    /// The pod's Ethernet address on it.
    pub mac: [u8; 6],
    /// The pod's addresses on it.
    pub addresses: Vec<IpAddr>,
    /// The node's ends of the pod's other links: it may answer by one of them what came to an
    /// address of another.
    pub other_links: Vec<OtherLink>,
    /// The pod's addresses on others of its interfaces, whoever made them.
    pub other_addresses: Vec<IpAddr>,
    /// What comes from the link with another source than the pod's is dropped.
    pub is_guarded: bool,
    /// A connection to somewhere beyond these ranges gets the node's address as source; `None`:
    /// none does.
    pub masquerade_beyond: Option<Vec<IpNet>>,
    /// Who it is there for, as `nft list` shows it.
    pub comment: Arc<str>,
}

/// Another link of the same pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherLink {
    /// The node's end.
    pub link: Arc<str>,
    /// Whether that is a port of a bridge.
    pub is_port: bool,
    /// What comes from it with another source than the pod's is dropped.
    pub is_guarded: bool,
}
