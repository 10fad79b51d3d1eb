//! A packet, and where it starts.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::{Cluster, Node, NodeName, ObjectKey, Pod, Port, Protocol};

use crate::NoRoute;

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// A program in a pod.
    Pod(ObjectKey),
    /// A program on a node, in the node's own network.
    Node(NodeName),
    /// A host on the node network that is no node, and knows routes to no range of the
    /// cluster.
    Outside,
}

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sends it.
    pub from: Sender,
    /// Its source, one of the sender's own addresses.
    pub source: IpAddr,
    /// Where the sender sent it.
    pub destination: IpAddr,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub port: Port,
    /// From outside to an address that is no node's: the node that the node network hands
    /// it to, if there is a route to one.
    pub via: Option<NodeName>,
}

/// Where the last connection of a client went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: Port,
    /// How many seconds ago it was opened.
    pub seconds: u32,
}

/// The cluster's ranges, which no object of the model tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Where nodes' pod ranges are taken from.
    pub pods: Vec<IpNet>,
    /// Where Services' virtual addresses are taken from.
    pub services: Vec<IpNet>,
}

impl Ranges {
    pub(crate) fn pod(&self, address: IpAddr) -> bool {
        self.pods.iter().any(|range| range.contains(&address))
    }

    pub(crate) fn service(&self, address: IpAddr) -> bool {
        self.services.iter().any(|range| range.contains(&address))
    }
}

/// Where in the cluster a packet starts.
pub(crate) enum Place<'a> {
    /// In a pod with a network of its own, on this node.
    Pod(&'a Pod, &'a Node),
    /// In a node's own network.
    Node(&'a Node),
    /// Beyond the cluster.
    Outside,
}

impl<'a> Place<'a> {
    /// The node whose kernel routes the packet first.
    pub(crate) fn node(&self) -> Option<&'a Node> {
        match self {
            Place::Pod(_, node) | Place::Node(node) => Some(node),
            Place::Outside => None,
        }
    }
}

/// Finds the sender, and whether the source is its own.
pub(crate) fn place<'a>(cluster: &'a Cluster, flow: &Flow) -> Result<Place<'a>, NoRoute> {
    let node = |name: &NodeName| cluster.node(name).ok_or(NoRoute::NoSuchSender);
    let (place, own) = match &flow.from {
        Sender::Outside => return Ok(Place::Outside),
        Sender::Node(name) => {
            let node = node(name)?;
            (Place::Node(node), &node.internal_ips)
        }
        Sender::Pod(key) => {
            let pod = cluster
                .pod(key)
                .filter(|pod| !pod.finished)
                .ok_or(NoRoute::NoSuchSender)?;
            let node = node(pod.node.as_ref().ok_or(NoRoute::NoSuchSender)?)?;
            if pod.host_network {
                (Place::Node(node), &node.internal_ips)
            } else {
                (Place::Pod(pod, node), &pod.ips)
            }
        }
    };
    let to_itself = flow.source.is_loopback() && flow.destination.is_loopback();
    if to_itself || own.contains(&flow.source) {
        Ok(place)
    } else {
        Err(NoRoute::NotTheSenders)
    }
}
