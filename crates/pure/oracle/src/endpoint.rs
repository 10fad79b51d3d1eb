//! Which endpoints of a Service port take new connections.

use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{Cluster, Endpoint, IpFamily, Node, Port, Service, ServicePort, TrafficPolicy};

#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) address: IpAddr,
    pub(crate) port: Port,
}

/// Every endpoint of the Service's port, usable or not.
pub(crate) fn targets<'a>(
    cluster: &'a Cluster,
    service: &Service,
    port: &ServicePort,
    family: IpFamily,
) -> Vec<Target<'a>> {
    let mut targets = Vec::new();
    for slice in cluster.slices_of(&service.key) {
        if slice.family != family || slice.not_proxied {
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
pub(crate) fn usable<'a>(targets: &[Target<'a>]) -> Vec<Target<'a>> {
    let ready = ready(targets);
    if ready.is_empty() {
        with(targets, |endpoint| endpoint.serving && endpoint.terminating)
    } else {
        ready
    }
}

/// What clients of one node are given of the whole cluster's endpoints. An annotation's
/// topology keys are looked at in their order (Kubernetes 1.20, "Service Topology"),
/// though not where `externalTrafficPolicy: Local` decides already. Otherwise endpoints
/// hinted for the node are taken, then those for its zone, if all have such hints
/// (KEP-2433, KEP-3015).
pub(crate) fn near<'a>(
    cluster: &Cluster,
    node: &Node,
    service: &Service,
    all: &[Target<'a>],
) -> Vec<Target<'a>> {
    if !service.topology_keys.is_empty() && service.external.policy == TrafficPolicy::Cluster {
        return by_keys(cluster, node, &service.topology_keys, all);
    }
    let ready = ready(all);
    let all_have = |hint: fn(&Endpoint) -> usize| ready.iter().all(|it| hint(it.endpoint) > 0);
    let for_node = with(&ready, |endpoint| {
        endpoint.details.hints.nodes.contains(&node.name)
    });
    if !for_node.is_empty() && all_have(|endpoint| endpoint.details.hints.nodes.len()) {
        return for_node;
    }
    let zone = node.zone();
    let for_zone = with(&ready, |endpoint| {
        zone.is_some_and(|zone| endpoint.details.hints.zones.contains(zone))
    });
    if !for_zone.is_empty() && all_have(|endpoint| endpoint.details.hints.zones.len()) {
        return for_zone;
    }
    usable(all)
}

fn by_keys<'a>(
    cluster: &Cluster,
    node: &Node,
    keys: &[Arc<str>],
    all: &[Target<'a>],
) -> Vec<Target<'a>> {
    for key in keys {
        let agrees = |endpoint: &Endpoint| {
            let theirs = endpoint.node.as_ref().and_then(|name| cluster.node(name));
            let value = theirs.and_then(|theirs| theirs.labels.get(key));
            &**key == "*" || value.is_some() && value == node.labels.get(key)
        };
        let found = usable(&with(all, agrees));
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// Those of some targets that connections go to: what weighs nothing is for when there is
/// nothing else.
pub(crate) fn weighty<'a>(service: &Service, targets: Vec<Target<'a>>) -> Vec<Target<'a>> {
    let pod = |target: &Target<'_>| {
        let pod = target.endpoint.details.pod.as_ref();
        pod.map(|pod| pod.name.to_string())
    };
    let weight = |target: &Target<'_>| {
        let pod = pod(target);
        let mut weights = service.sharing.weights.iter();
        weights
            .find(|weight| weight.names(target.endpoint, pod.as_deref()))
            .map_or(1, |weight| weight.weight)
    };
    let some = targets.iter().any(|target| weight(target) > 0);
    let all = targets.into_iter();
    all.filter(|target| !some || weight(target) > 0).collect()
}

fn ready<'a>(targets: &[Target<'a>]) -> Vec<Target<'a>> {
    with(targets, |endpoint| endpoint.ready)
}

fn with<'a>(targets: &[Target<'a>], is: impl Fn(&Endpoint) -> bool) -> Vec<Target<'a>> {
    let those = targets.iter().filter(|target| is(target.endpoint));
    those.copied().collect()
}
