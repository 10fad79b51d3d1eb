//! Packets to an address that is somebody's own: a pod's, a node's, a host's beyond.

use std::net::IpAddr;

use weft_model::{Cluster, Node, Pod, Port};

use crate::flow::Place;
use crate::{Arrival, Flow, Loss, NoRoute, Ranges, Receiver, Refusal, SourceSeen, Verdict};

/// A packet to 127.0.0.0/8 or ::1 stays where it is. Containers of one pod share it.
pub(crate) fn loopback(flow: &Flow, place: &Place<'_>) -> Verdict {
    let to = match place {
        Place::Pod(pod, _) => Receiver::Pod(pod.key.clone()),
        Place::Node(node) => Receiver::Node(node.name.clone()),
        Place::Outside => return Verdict::NotRouted(NoRoute::FromOutside),
    };
    let arrival = Arrival {
        address: flow.destination,
        port: flow.port,
        to,
        source_seen: SourceSeen::Unchanged,
    };
    Verdict::Delivered([arrival].into())
}

/// Where a packet to `destination` arrives. "Pods can communicate with all other pods on
/// any other node without NAT", and "agents on a node can communicate with all pods on
/// that node" (Kubernetes, "The Kubernetes network model").
pub(crate) fn arrival(
    cluster: &Cluster,
    ranges: &Ranges,
    place: &Place<'_>,
    source: IpAddr,
    destination: IpAddr,
    port: Port,
) -> Result<Arrival, Verdict> {
    if !is_forwarded(destination) {
        return Err(Verdict::NotRouted(NoRoute::NotForwarded));
    }
    let arrives = |to, source_seen| Arrival {
        address: destination,
        port,
        to,
        source_seen,
    };
    if let Some(pod) = pod_with(cluster, destination) {
        reaches_pod(cluster, place, pod, destination)?;
        let to = Receiver::Pod(pod.key.clone());
        return Ok(arrives(to, SourceSeen::Unchanged));
    }
    if let Some(node) = node_with(cluster, destination) {
        if !is_itself(place, node) {
            has_family(place, destination)?;
        }
        let to = Receiver::Node(node.name.clone());
        return Ok(arrives(to, SourceSeen::Unchanged));
    }
    if ranges.pod(destination) {
        return Err(unused(cluster, place, destination));
    }
    // Beyond the cluster nobody has a route to a pod: its packets leave as the node's.
    match place {
        Place::Outside => Err(Verdict::NotRouted(NoRoute::FromOutside)),
        Place::Node(_) => {
            has_family(place, destination)?;
            Ok(arrives(Receiver::Outside, SourceSeen::Unchanged))
        }
        Place::Pod(_, node) => {
            has_family(place, destination)?;
            Ok(arrives(Receiver::Outside, as_node(node, source)?))
        }
    }
}

/// The sender's node's address in place of the source.
pub(crate) fn as_node(node: &Node, source: IpAddr) -> Result<SourceSeen, Verdict> {
    match node.address_like(source) {
        Some(address) if address == source => Ok(SourceSeen::Unchanged),
        Some(address) => Ok(SourceSeen::NodeAddress(address)),
        None => Err(Verdict::Dropped(Loss::NoNodeAddress)),
    }
}

fn is_forwarded(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local || address.is_multicast() || address.is_unspecified())
}

/// The pod that has an address. A host-network pod has none of its own, and a finished
/// pod's may be another's by now.
fn pod_with(cluster: &Cluster, address: IpAddr) -> Option<&Pod> {
    cluster
        .pods()
        .find(|pod| !pod.host_network && !pod.finished && pod.ips.contains(&address))
}

fn node_with(cluster: &Cluster, address: IpAddr) -> Option<&Node> {
    cluster
        .nodes()
        .find(|node| node.internal_ips.contains(&address))
}

fn is_itself(place: &Place<'_>, node: &Node) -> bool {
    match place {
        // A pod's node is on its link, whatever else the node is connected to.
        Place::Pod(_, own) | Place::Node(own) => own.name == node.name,
        Place::Outside => false,
    }
}

fn has_family(place: &Place<'_>, like: IpAddr) -> Result<(), Verdict> {
    match place.node() {
        Some(node) if node.address_like(like).is_none() => {
            Err(Verdict::NotRouted(NoRoute::SenderHasNoFamily))
        }
        Some(_) | None => Ok(()),
    }
}

fn reaches_pod(
    cluster: &Cluster,
    place: &Place<'_>,
    pod: &Pod,
    address: IpAddr,
) -> Result<(), Verdict> {
    let no_route = Verdict::NotRouted(NoRoute::ReceiverHasNoRoute);
    let Some(sender) = place.node() else {
        return Err(Verdict::NotRouted(NoRoute::FromOutside));
    };
    let Some(receiver) = pod.node.as_ref().and_then(|name| cluster.node(name)) else {
        return Err(no_route);
    };
    if receiver.name == sender.name {
        return Ok(());
    }
    has_family(place, address)?;
    let in_range = receiver
        .pod_cidrs
        .iter()
        .any(|range| range.contains(&address));
    if in_range && receiver.address_like(address).is_some() {
        Ok(())
    } else {
        Err(no_route)
    }
}

/// To a pod's address that no pod has: it ends on the node whose range it is in.
fn unused(cluster: &Cluster, place: &Place<'_>, address: IpAddr) -> Verdict {
    let Some(sender) = place.node() else {
        return Verdict::NotRouted(NoRoute::FromOutside);
    };
    let holder = cluster
        .nodes()
        .find(|node| node.pod_cidrs.iter().any(|range| range.contains(&address)));
    match holder {
        None => Verdict::NotRouted(NoRoute::NoNodesRange),
        Some(holder) if holder.name == sender.name => Verdict::Refused(Refusal::UnusedPodAddress),
        Some(holder) => {
            if let Err(verdict) = has_family(place, address) {
                verdict
            } else if holder.address_like(address).is_none() {
                Verdict::NotRouted(NoRoute::ReceiverHasNoRoute)
            } else {
                Verdict::Refused(Refusal::UnusedPodAddress)
            }
        }
    }
}
