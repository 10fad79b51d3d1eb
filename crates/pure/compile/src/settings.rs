//! What is the same for the life of a compiler.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{LocalDetection, NodePortAddresses};
use weft_model::{Node, NodeName};

/// What is the same for the life of a compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The node compiled for.
    pub node: NodeName,
    /// The cluster's Service ranges.
    pub service_ranges: Vec<IpNet>,
    /// How Services are translated.
    pub proxy: ProxySettings,
    /// How other nodes' pods are reached.
    pub fabric: FabricSettings,
}

/// How other nodes' pods are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FabricSettings {
    /// By what.
    pub backend: FabricBackend,
    /// The tunnels' network identifier.
    pub vni: u32,
    /// The VXLAN tunnels' UDP port.
    pub port: u16,
    /// Whether this node has what sends and takes packets as whole UDP datagrams. Without, a node
    /// that is reached by them alone is left out.
    pub datagrams: bool,
    /// The port of those.
    pub udp_port: u16,
    /// Whether nodes on a network of this node's are reached without a tunnel.
    pub direct_routing: bool,
    /// The largest packet, in bytes, that a tunnel takes, if that is less than what the
    /// node's own link leaves room for.
    pub mtu: Option<u32>,
}

impl Default for FabricSettings {
    /// flannel's network identifier and ports.
    fn default() -> Self {
        Self {
            backend: FabricBackend::HostGw,
            vni: 1,
            port: 8472,
            datagrams: false,
            udp_port: 8285,
            direct_routing: false,
            mtu: None,
        }
    }
}

/// What carries packets to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricBackend {
    /// Routes through their own addresses.
    HostGw,
    /// VXLAN tunnels.
    Vxlan,
    /// A TUN device, and UDP datagrams that are packets.
    Udp,
}

/// How Services are translated, beside what they say themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// Where node ports answer.
    pub node_ports_at: NodePortsAt,
    /// How pods' packets are told from those from beyond the cluster.
    pub local: LocalMode,
    /// Whether every connection to a Service's own address is masqueraded.
    pub masquerade_all: bool,
    /// Whether node ports answer at 127.0.0.0/8 too, where the back end can do that.
    pub localhost_node_ports: bool,
    /// Whether the back end knows no other choice among endpoints than by chance.
    pub by_chance: bool,
}

/// Where node ports answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortsAt {
    /// At every address of the node.
    #[default]
    All,
    /// At the addresses its Node object has as InternalIP.
    Primary,
    /// At its addresses in these ranges.
    Within(BTreeSet<IpNet>),
}

/// How pods' packets are told from those from beyond the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalMode {
    /// Their sources are in the pod ranges of the cluster's nodes.
    PodRanges,
    /// Their sources are in these ranges.
    Ranges(BTreeSet<IpNet>),
    /// Their sources are in this node's own pod ranges. To a node's ports those of other
    /// nodes are clients like those beyond the cluster: what is sent back to them passes by
    /// the node that translated only if the endpoint is there.
    #[default]
    NodeRanges,
    /// They come through this bridge.
    Bridge(Arc<str>),
    /// They come through devices whose names start so.
    InterfacePrefix(Arc<str>),
    /// They are not told.
    Nothing,
}

impl NodePortsAt {
    pub(crate) fn resolved(&self, own: Option<&Node>) -> NodePortAddresses {
        match self {
            NodePortsAt::All => NodePortAddresses::All,
            NodePortsAt::Within(ranges) => NodePortAddresses::Within(ranges.clone()),
            NodePortsAt::Primary => {
                let addresses = own.iter().flat_map(|node| &node.internal_ips);
                NodePortAddresses::Primary(addresses.copied().collect())
            }
        }
    }
}

impl LocalMode {
    pub(crate) fn resolved(
        &self,
        own: Option<&Node>,
        pod_ranges: &BTreeSet<IpNet>,
    ) -> LocalDetection {
        match self {
            LocalMode::PodRanges => LocalDetection::Ranges(pod_ranges.clone()),
            LocalMode::Ranges(ranges) => LocalDetection::Ranges(ranges.clone()),
            LocalMode::NodeRanges => {
                let ranges = own.iter().flat_map(|node| &node.pod_cidrs);
                LocalDetection::Ranges(ranges.copied().collect())
            }
            LocalMode::Bridge(device) => LocalDetection::Bridge(device.clone()),
            LocalMode::InterfacePrefix(start) => LocalDetection::InterfacePrefix(start.clone()),
            LocalMode::Nothing => LocalDetection::Nothing,
        }
    }
}
