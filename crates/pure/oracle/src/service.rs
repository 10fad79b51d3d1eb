//! Packets to a Service: at its own address, at external addresses, at a load balancer's,
//! at nodes' ports.

use std::collections::BTreeSet;

use weft_model::{Cluster, IpFamily, Node, Service, ServicePort, TrafficPolicy};

use crate::direct;
use crate::endpoint::{self, Target};
use crate::flow::Place;
use crate::{Arrival, Flow, Last, Loss, NoRoute, Ranges, Receiver, Refusal, SourceSeen, Verdict};

/// The verdict if the destination is a Service's or in a Service range, or else `None`.
pub(crate) fn verdict(
    cluster: &Cluster,
    ranges: &Ranges,
    flow: &Flow,
    place: &Place<'_>,
    last: Option<&Last>,
) -> Option<Verdict> {
    let holders = proxied(cluster).filter(|it| it.cluster_ips().contains(&flow.destination));
    let is_cluster_address = holders.count() > 0;
    let in_range = ranges.service(flow.destination);
    let Some(door) = door(cluster, flow) else {
        let outside = matches!(place, Place::Outside) && flow.via.is_none();
        return match (is_cluster_address || in_range, is_cluster_address) {
            (false, _) => None,
            (true, _) if outside => Some(Verdict::NotRouted(NoRoute::FromOutside)),
            (true, true) => Some(Verdict::Refused(Refusal::NoSuchServicePort)),
            (true, false) => Some(Verdict::Dropped(Loss::UnallocatedServiceAddress)),
        };
    };
    let Some(node) = translating(cluster, flow, place, door.kind) else {
        return Some(Verdict::NotRouted(NoRoute::FromOutside));
    };
    let call = Call {
        cluster,
        ranges,
        flow,
        place,
        node,
        last,
    };
    Some(match door.kind {
        Kind::Own => call.internal(&door),
        Kind::External | Kind::LoadBalancer | Kind::NodePort => call.external(&door),
    })
}

fn proxied(cluster: &Cluster) -> impl Iterator<Item = &Service> {
    cluster.services().filter(|service| !service.not_proxied)
}

/// By which of a Service's addresses a packet comes to it. If several fit the first does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Own,
    External,
    LoadBalancer,
    NodePort,
}

struct Door<'a> {
    kind: Kind,
    service: &'a Service,
    port: &'a ServicePort,
}

/// The Service port that a packet is for. The API gives an address to one Service only; if
/// two have it all the same, each port is the older one's. Who names the address comes
/// before who has a port at all of a node's.
fn door<'a>(cluster: &'a Cluster, flow: &Flow) -> Option<Door<'a>> {
    let to = flow.destination;
    let is_a_nodes = cluster.nodes().any(|node| node.internal_ips.contains(&to));
    let mut doors = Vec::new();
    for service in proxied(cluster) {
        // Without an own address of the family it has no endpoints of it either.
        let mut own = service.cluster_ips().iter();
        if !own.any(|address| address.is_ipv4() == to.is_ipv4()) {
            continue;
        }
        for port in service
            .ports
            .iter()
            .filter(|it| it.protocol == flow.protocol)
        {
            let kinds = [
                (Kind::Own, service.cluster_ips().contains(&to)),
                (Kind::External, service.external.addresses.contains(&to)),
                (
                    Kind::LoadBalancer,
                    service.external.load_balancer.contains(&to),
                ),
            ];
            let named = kinds.into_iter().find(|(_, is)| *is).map(|(kind, _)| kind);
            if let Some(kind) = named.filter(|_| port.port == flow.port) {
                doors.push(Door {
                    kind,
                    service,
                    port,
                });
            }
            if is_a_nodes && port.node_port == Some(flow.port) {
                let kind = Kind::NodePort;
                doors.push(Door {
                    kind,
                    service,
                    port,
                });
            }
        }
    }
    doors.into_iter().min_by_key(|door| {
        let Service { created, uid, .. } = door.service;
        (
            door.kind == Kind::NodePort,
            *created,
            uid.clone(),
            door.kind,
        )
    })
}

/// The node that translates: the one whose address it is, or else the first on the way.
fn translating<'a>(
    cluster: &'a Cluster,
    flow: &Flow,
    place: &Place<'a>,
    kind: Kind,
) -> Option<&'a Node> {
    let first = match place.node() {
        Some(node) => Some(node),
        None => flow.via.as_ref().and_then(|name| cluster.node(name)),
    };
    let holder = || {
        cluster
            .nodes()
            .find(|node| node.internal_ips.contains(&flow.destination))
    };
    match kind {
        Kind::NodePort => holder(),
        Kind::Own | Kind::External | Kind::LoadBalancer => first,
    }
}

struct Call<'a> {
    cluster: &'a Cluster,
    ranges: &'a Ranges,
    flow: &'a Flow,
    place: &'a Place<'a>,
    /// Where it is translated.
    node: &'a Node,
    /// Where the client's last connection went.
    last: Option<&'a Last>,
}

/// What becomes of the source.
#[derive(Clone, Copy)]
enum Source {
    Kept,
    /// The translating node's address.
    Node,
}

impl<'a> Call<'a> {
    fn internal(&self, door: &Door<'_>) -> Verdict {
        let all = self.targets(door);
        let source = match self.place {
            Place::Pod(..) => Source::Kept,
            Place::Node(_) | Place::Outside => Source::Node,
        };
        match door.service.internal_traffic_policy {
            TrafficPolicy::Cluster => self.to_near(door, &all, source),
            TrafficPolicy::Local => self.to_local(door, &all, source),
        }
    }

    fn external(&self, door: &Door<'_>) -> Verdict {
        let all = self.targets(door);
        let from_here = match self.place {
            Place::Pod(_, node) | Place::Node(node) => node.name == self.node.name,
            Place::Outside => false,
        };
        let verdict = match (door.service.external.policy, from_here, self.place) {
            // A node may have to ask another, and the answer has to come back through it.
            (TrafficPolicy::Cluster, _, _) => self.to_near(door, &all, Source::Node),
            // As if the packet had gone out to the balancer and come back in.
            (TrafficPolicy::Local, true, Place::Pod(..)) => self.to_near(door, &all, Source::Kept),
            (TrafficPolicy::Local, true, _) => self.to_near(door, &all, Source::Node),
            (TrafficPolicy::Local, false, _) => self.to_local(door, &all, Source::Kept),
        };
        // Where nobody is served nobody is told apart.
        let nobody = verdict == Verdict::Refused(Refusal::NoEndpoints);
        if door.kind == Kind::LoadBalancer && !nobody && !self.is_admitted(door.service) {
            return Verdict::Dropped(Loss::SourceNotAdmitted);
        }
        verdict
    }

    /// `loadBalancerSourceRanges` of the packet's family, if there are any.
    fn is_admitted(&self, service: &Service) -> bool {
        let source = self.flow.source;
        let own = self.node.address_like(source);
        let same = |range: &&ipnet::IpNet| range.addr().is_ipv4() == source.is_ipv4();
        let ranges: Vec<_> = service.external.source_ranges.iter().filter(same).collect();
        // A node that has the balancer's address sends with it.
        let is_balancers = service.external.load_balancer.contains(&source);
        ranges.is_empty()
            || ranges.iter().any(|range| range.contains(&source))
            || is_balancers && own.is_some_and(|own| ranges.iter().any(|it| it.contains(&own)))
    }

    fn targets(&self, door: &Door<'_>) -> Vec<Target<'a>> {
        let family = IpFamily::of(self.flow.destination);
        endpoint::targets(self.cluster, door.service, door.port, family)
    }

    fn to_near(&self, door: &Door<'_>, all: &[Target<'_>], source: Source) -> Verdict {
        let chosen = endpoint::near(self.cluster, self.node, door.service, all);
        let chosen = endpoint::weighty(door.service, chosen);
        if chosen.is_empty() {
            return Verdict::Refused(Refusal::NoEndpoints);
        }
        self.deliver(&self.remembered(door, chosen), source)
    }

    /// The endpoint that the client had, if it is one of those it may have and the Service
    /// keeps clients so long; otherwise all of them.
    fn remembered<'t>(&self, door: &Door<'_>, chosen: Vec<Target<'t>>) -> Vec<Target<'t>> {
        let kept = self.last.zip(door.service.affinity);
        let Some((last, _)) = kept.filter(|(last, seconds)| last.seconds < *seconds) else {
            return chosen;
        };
        let same = |it: &&Target<'t>| (it.address, it.port) == (last.address, last.port);
        match chosen.iter().find(same) {
            Some(target) => vec![*target],
            None => chosen,
        }
    }

    fn to_local(&self, door: &Door<'_>, all: &[Target<'_>], source: Source) -> Verdict {
        let here: Vec<_> = all
            .iter()
            .filter(|target| target.endpoint.node.as_ref() == Some(&self.node.name))
            .copied()
            .collect();
        let chosen = endpoint::weighty(door.service, endpoint::usable(&here));
        if !chosen.is_empty() {
            return self.deliver(&self.remembered(door, chosen), source);
        }
        // Without an endpoint anywhere the policy makes no difference.
        if endpoint::usable(all).is_empty() {
            Verdict::Refused(Refusal::NoEndpoints)
        } else {
            Verdict::Dropped(Loss::NoLocalEndpoints)
        }
    }

    fn deliver(&self, chosen: &[Target<'_>], source: Source) -> Verdict {
        let mut arrivals = BTreeSet::new();
        let mut dropped = None;
        for target in chosen {
            match self.arrival(*target, source) {
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

    /// How a packet arrives at one endpoint. A pod that reaches itself sees its node (it
    /// would else answer itself past the translation), and beyond the cluster a pod is
    /// seen as its node.
    fn arrival(&self, target: Target<'_>, source: Source) -> Result<Arrival, Loss> {
        let translating = Place::Node(self.node);
        let from = match self.place {
            Place::Pod(_, node) if node.name == self.node.name => self.place,
            Place::Pod(..) | Place::Node(_) | Place::Outside => &translating,
        };
        let sent = self.flow.source;
        let (address, port) = (target.address, target.port);
        let arrival = direct::arrival(self.cluster, self.ranges, from, sent, address, port);
        let mut arrival = match arrival {
            Ok(arrival) => arrival,
            Err(Verdict::Dropped(reason)) => return Err(reason),
            Err(Verdict::Refused(_) | Verdict::NotRouted(_) | Verdict::Delivered(_)) => Arrival {
                address,
                port,
                to: Receiver::Nobody,
                source_seen: SourceSeen::Unchanged,
            },
        };
        let itself = match self.place {
            Place::Pod(pod, _) => arrival.to == Receiver::Pod(pod.key.clone()),
            Place::Node(_) | Place::Outside => false,
        };
        let as_node = || direct::as_node(self.node, sent).map_err(|_| Loss::NoNodeAddress);
        // Only what leaves the node gets another source.
        let stays = arrival.to == Receiver::Node(self.node.name.clone());
        match source {
            Source::Node if stays => {}
            Source::Node => arrival.source_seen = as_node()?,
            Source::Kept if itself => arrival.source_seen = as_node()?,
            Source::Kept => {}
        }
        Ok(arrival)
    }
}
