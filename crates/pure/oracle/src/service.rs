//! Packets to a Service's virtual address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_model::{Cluster, Endpoint, IpFamily, Port, Service, ServicePort, TrafficPolicy};

use crate::direct;
use crate::flow::Place;
use crate::{Arrival, Flow, Loss, NoRoute, Ranges, Receiver, Refusal, SourceSeen, Verdict};

/// The verdict if the destination is a Service's or in a Service range, or else `None`.
pub(crate) fn verdict(
    cluster: &Cluster,
    ranges: &Ranges,
    flow: &Flow,
    place: &Place<'_>,
) -> Option<Verdict> {
    let holders: Vec<&Service> = cluster
        .services()
        .filter(|service| service.cluster_ips().contains(&flow.destination))
        .collect();
    if holders.is_empty() && !ranges.service(flow.destination) {
        return None;
    }
    if matches!(place, Place::Outside) {
        return Some(Verdict::NotRouted(NoRoute::FromOutside));
    }
    if holders.is_empty() {
        return Some(Verdict::Dropped(Loss::UnallocatedServiceAddress));
    }
    // The API gives an address to one Service only; if two have it all the same, each
    // port is the older one's.
    let claimed = holders
        .into_iter()
        .flat_map(|service| service.ports.iter().map(move |port| (service, port)))
        .filter(|(_, port)| port.protocol == flow.protocol && port.port == flow.port)
        .min_by_key(|(service, _)| (service.created, service.uid.clone()));
    let Some((service, port)) = claimed else {
        return Some(Verdict::Refused(Refusal::NoSuchServicePort));
    };
    Some(to_endpoints(cluster, ranges, flow, place, service, port))
}

fn to_endpoints(
    cluster: &Cluster,
    ranges: &Ranges,
    flow: &Flow,
    place: &Place<'_>,
    service: &Service,
    port: &ServicePort,
) -> Verdict {
    let all = targets(cluster, service, port, IpFamily::of(flow.destination));
    let (eligible, none_left) = match service.internal_traffic_policy {
        TrafficPolicy::Cluster => (all.clone(), Verdict::Refused(Refusal::NoEndpoints)),
        TrafficPolicy::Local => {
            let here = place.node().map(|node| &node.name);
            let local = all
                .iter()
                .filter(|target| target.endpoint.node.as_ref() == here)
                .copied()
                .collect();
            (local, Verdict::Dropped(Loss::NoLocalEndpoints))
        }
    };
    let chosen = choose(&eligible);
    if chosen.is_empty() {
        // Without an endpoint anywhere the policy makes no difference.
        return if choose(&all).is_empty() {
            Verdict::Refused(Refusal::NoEndpoints)
        } else {
            none_left
        };
    }
    let mut arrivals = BTreeSet::new();
    let mut dropped = None;
    for target in chosen {
        match arrival(cluster, ranges, flow, place, target.address, target.port) {
            Ok(arrival) => {
                arrivals.insert(arrival);
            }
            Err(reason) => dropped = Some(reason),
        }
    }
    match dropped {
        Some(reason) if arrivals.is_empty() => Verdict::Dropped(reason),
        Some(_) | None => Verdict::Delivered(arrivals),
    }
}

#[derive(Clone, Copy)]
struct Target<'a> {
    endpoint: &'a Endpoint,
    address: IpAddr,
    port: Port,
}

/// Every endpoint of the Service's port, usable or not.
fn targets<'a>(
    cluster: &'a Cluster,
    service: &Service,
    port: &ServicePort,
    family: IpFamily,
) -> Vec<Target<'a>> {
    let mut targets = Vec::new();
    for slice in cluster.slices_of(&service.key) {
        if slice.family != family {
            continue;
        }
        for target in &slice.ports {
            if target.name != port.name || target.protocol != port.protocol {
                continue;
            }
            for endpoint in &slice.endpoints {
                if let Some(address) = endpoint.address() {
                    targets.push(Target {
                        endpoint,
                        address,
                        port: target.port,
                    });
                }
            }
        }
    }
    targets
}

/// Ready endpoints; without any, those that are terminating and still serve (KEP-1669).
fn choose<'a>(targets: &[Target<'a>]) -> Vec<Target<'a>> {
    let those = |usable: fn(&Endpoint) -> bool| -> Vec<Target<'a>> {
        targets
            .iter()
            .filter(|target| usable(target.endpoint))
            .copied()
            .collect()
    };
    let ready = those(|endpoint| endpoint.ready);
    if ready.is_empty() {
        those(|endpoint| endpoint.serving && endpoint.terminating)
    } else {
        ready
    }
}

/// How a packet arrives at one endpoint. Its source stays, with two exceptions: a pod
/// that reaches itself sees its node (it would else answer itself past the
/// translation), and beyond the cluster a pod is seen as its node.
fn arrival(
    cluster: &Cluster,
    ranges: &Ranges,
    flow: &Flow,
    place: &Place<'_>,
    address: IpAddr,
    port: Port,
) -> Result<Arrival, Loss> {
    let mut arrival = match direct::arrival(cluster, ranges, place, flow.source, address, port) {
        Ok(arrival) => arrival,
        Err(Verdict::Dropped(reason)) => return Err(reason),
        Err(Verdict::Refused(_) | Verdict::NotRouted(_) | Verdict::Delivered(_)) => Arrival {
            address,
            port,
            to: Receiver::Nobody,
            source_seen: SourceSeen::Unchanged,
        },
    };
    if let Place::Pod(pod, node) = place
        && arrival.to == Receiver::Pod(pod.key.clone())
    {
        arrival.source_seen = match direct::as_node(node, flow.source) {
            Ok(seen) => seen,
            Err(_) => return Err(Loss::NoNodeAddress),
        };
    }
    Ok(arrival)
}
