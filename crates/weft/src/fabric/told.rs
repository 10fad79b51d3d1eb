//! What an agent tells of its fabric to who asks on its node.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_compile::fabric::Way;
use weft_compile::{Compiler, Problem};
use weft_desired::{Desired, Origin};
use weft_model::{Key, NodeName};

/// Where an agent is asked.
pub(crate) const SOCKET: &str = "/run/weft/fabric.sock";

/// What is asked: a line of JSON. The answer is JSON too, and ends with the connection.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Question {
    /// What the agent wants the kernel to hold: a [`Told`].
    State,
    /// That the ways to all other nodes be tried now: a list of
    /// [`Tested`](super::findings::Tested), or nothing where nobody tries them.
    Check,
}

/// What the agent wants the kernel to hold, and why.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told {
    /// The agent's node.
    pub(crate) node: String,
    /// What the configuration says.
    pub(crate) backend: String,
    /// By destination.
    pub(crate) routes: Vec<Route>,
    /// By node.
    pub(crate) peers: Vec<Peer>,
    /// Nodes, or parts of what they say, that are left out.
    pub(crate) problems: Vec<LeftOut>,
}

/// A route that is to be there.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    /// As `ip route` writes it.
    pub(crate) next_hop: String,
    pub(crate) origin: Source,
}

/// The API object that something follows from.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Source {
    pub(crate) kind: String,
    pub(crate) name: String,
    /// `metadata.generation`; the API gives Nodes none, which is 0.
    pub(crate) generation: i64,
}

/// Another node's range of pods, and the way to it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peer {
    pub(crate) node: String,
    pub(crate) generation: i64,
    pub(crate) range: IpNet,
    /// `direct`, `vxlan` or `udp`.
    pub(crate) way: String,
    /// The node's own address, where packets are sent to.
    pub(crate) address: Option<IpAddr>,
    /// What they are sent by, where a tunnel or another device carries them.
    pub(crate) device: Option<Arc<str>>,
    /// The address of the tunnel's other end, inside.
    pub(crate) tunnel_address: Option<IpAddr>,
    /// The Ethernet address of the tunnel's other end.
    pub(crate) mac: Option<String>,
}

/// Something that a node asks for and doesn't get.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeftOut {
    pub(crate) node: String,
    pub(crate) reason: String,
}

impl Told {
    /// What there is to tell.
    pub(crate) fn new(compiler: &Compiler, node: &NodeName, backend: &str) -> Self {
        let desired = compiler.desired();
        Self {
            node: node.to_string(),
            backend: backend.to_owned(),
            routes: routes(desired),
            peers: peers(compiler),
            problems: left_out(compiler.problems()),
        }
    }
}

fn routes(desired: &Desired) -> Vec<Route> {
    let routes = desired.routes.iter().map(|(key, entry)| Route {
        destination: key.destination,
        next_hop: entry.value.to_string(),
        origin: source(&entry.origin),
    });
    routes.collect()
}

fn source(origin: &Origin) -> Source {
    Source {
        kind: origin.kind.to_owned(),
        name: origin.name.to_string(),
        generation: origin.generation,
    }
}

fn peers(compiler: &Compiler) -> Vec<Peer> {
    let paths = compiler.paths().into_iter();
    let mut peers: Vec<Peer> = paths.map(peer).collect();
    peers.sort_by(|a, b| (&a.node, a.range).cmp(&(&b.node, b.range)));
    peers
}

fn peer(path: weft_compile::fabric::Path) -> Peer {
    let mut peer = Peer {
        node: path.node.to_string(),
        generation: path.generation,
        range: path.range,
        way: path.way.name().to_owned(),
        address: path.address,
        device: None,
        tunnel_address: None,
        mac: None,
    };
    match path.way {
        Way::Direct => {}
        Way::Datagrams { device } => peer.device = Some(device),
        Way::Tunnel {
            device,
            address,
            mac,
        } => {
            peer.device = Some(device);
            peer.tunnel_address = Some(address);
            peer.mac = Some(ethernet(mac));
        }
    }
    peer
}

/// An Ethernet address as people write it.
pub(crate) fn ethernet(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn left_out(problems: Vec<Problem>) -> Vec<LeftOut> {
    let of_node = |Problem { object, reason }| match object {
        Key::Node(node) => Some(LeftOut {
            node: node.to_string(),
            reason,
        }),
        Key::Namespace(_) | Key::Pod(_) | Key::Service(_) | Key::EndpointSlice(_) => None,
    };
    problems.into_iter().filter_map(of_node).collect()
}
