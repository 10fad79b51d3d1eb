//! Which endpoints of a Service port take connections: by readiness, hints, topology keys
//! and the node they are on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use weft_desired::{Backend, HashOf, IpFamily, PortEndpoints, Sharing};
use weft_model::{
    Cluster, Endpoint, EndpointSlice, LabelSet, NodeName, Protocol, Service, ServicePort,
    TrafficPolicy,
};

/// Which sets of endpoints some client of the port is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) cluster: bool,
    pub(crate) local: bool,
}

/// The endpoints of a Service port in one family, as clients of `node` are given them.
///
/// Readiness is looked at for the cluster's and for this node's own apart: of each those
/// that are ready, or else those that still serve while they terminate (Kubernetes,
/// "Traffic from terminating endpoints", KEP-1669). Hints count for the cluster's only.
pub(crate) fn endpoints(
    service: &Service,
    port: &ServicePort,
    family: IpFamily,
    cluster: &Cluster,
    node: &NodeName,
    wanted: Wanted,
) -> PortEndpoints {
    let all = candidates(service, port, family, cluster, node);
    let weights = weights(&service.sharing, &all);
    let near = match wanted.cluster {
        true if service.topology_keys.is_empty()
            || service.external.policy == TrafficPolicy::Local =>
        {
            hinted(&all, cluster, node)
        }
        true => agreeing(&all, &service.topology_keys, cluster, node),
        false => BTreeSet::new(),
    };
    let local = match wanted.local {
        true => usable(all.iter().filter(|candidate| candidate.here)),
        false => BTreeSet::new(),
    };
    let serving = |candidate: &&Candidate<'_>| candidate.ready() || candidate.endpoint.serving;
    let kept = match port.protocol {
        // A client that sends datagrams would never learn that nobody reads them.
        Protocol::Udp => backends(all.iter().filter(serving)),
        // One that has a connection keeps it while the pod is there.
        Protocol::Tcp | Protocol::Sctp => backends(all.iter()),
    };
    // With topology keys a client may be given none of those there are. If no client gets
    // one by its node either, it is as if there were none.
    let any = !near.is_empty() || wanted.local && !usable(&all).is_empty();
    let near = Arc::new(without_spares(near, &weights));
    let local = without_spares(local, &weights);
    PortEndpoints {
        local: shared(local, &near),
        kept: shared(kept, &near),
        sharing: Sharing {
            hash: service.sharing.hash.map(|hash| match hash {
                weft_model::HashOf::Source => HashOf::Source,
                weft_model::HashOf::FiveTuple => HashOf::FiveTuple,
            }),
            // Spares that are taken are alike.
            weights: Arc::new(weights.into_iter().filter(|(_, it)| *it > 0).collect()),
        },
        cluster: near,
        any,
    }
}

/// What endpoints weigh that don't weigh 1.
fn weights(sharing: &weft_model::Sharing, all: &[Candidate<'_>]) -> BTreeMap<Backend, u16> {
    let mut weights = BTreeMap::new();
    if sharing.weights.is_empty() {
        return weights;
    }
    for candidate in all {
        let mut named = sharing.weights.iter();
        let pod = candidate.slice.pod_name(candidate.place);
        if let Some(found) = named.find(|it| it.names(candidate.endpoint, pod.as_deref()))
            && found.weight != 1
        {
            weights.insert(candidate.backend, found.weight);
        }
    }
    weights
}

/// Those that weigh nothing are for when there is nobody else.
fn without_spares(
    mut backends: BTreeSet<Backend>,
    weights: &BTreeMap<Backend, u16>,
) -> BTreeSet<Backend> {
    let is_spare = |backend: &Backend| weights.get(backend) == Some(&0);
    if !backends.iter().all(is_spare) {
        backends.retain(|backend| !is_spare(backend));
    }
    backends
}

static NO_BACKENDS: LazyLock<Arc<BTreeSet<Backend>>> = LazyLock::new(Arc::default);

/// Sets are often equal or empty, and there are many of them.
fn shared(set: BTreeSet<Backend>, other: &Arc<BTreeSet<Backend>>) -> Arc<BTreeSet<Backend>> {
    if set == **other {
        other.clone()
    } else if set.is_empty() {
        NO_BACKENDS.clone()
    } else {
        Arc::new(set)
    }
}

struct Candidate<'a> {
    backend: Backend,
    endpoint: &'a Endpoint,
    /// Where the endpoint is from, and its place there.
    slice: &'a EndpointSlice,
    place: usize,
    /// On the node compiled for.
    here: bool,
}

impl Candidate<'_> {
    fn ready(&self) -> bool {
        self.endpoint.ready
    }

    fn ending(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating
    }
}

fn candidates<'a>(
    service: &Service,
    port: &ServicePort,
    family: IpFamily,
    cluster: &'a Cluster,
    node: &NodeName,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for slice in cluster.slices_of(&service.key) {
        if slice.not_proxied {
            continue;
        }
        for target in &slice.ports {
            if target.name != port.name || target.protocol != port.protocol {
                continue;
            }
            for (place, endpoint) in slice.endpoints.iter().enumerate() {
                if let Some(address) = endpoint.address().filter(|it| family.has(*it)) {
                    candidates.push(Candidate {
                        backend: Backend {
                            address,
                            port: target.port.number(),
                        },
                        endpoint,
                        slice,
                        place,
                        here: endpoint.node.as_ref() == Some(node),
                    });
                }
            }
        }
    }
    candidates
}

fn backends<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>>) -> BTreeSet<Backend> {
    candidates.map(|candidate| candidate.backend).collect()
}

/// Those that are ready; if there are none, those that still serve while they terminate.
fn usable<'a>(
    candidates: impl IntoIterator<Item = &'a Candidate<'a>, IntoIter: Clone>,
) -> BTreeSet<Backend> {
    let candidates = candidates.into_iter();
    let ready = backends(candidates.clone().filter(|candidate| candidate.ready()));
    if ready.is_empty() {
        backends(candidates.filter(|candidate| candidate.ending()))
    } else {
        ready
    }
}

/// Those meant for clients of this node; else those meant for its zone; else all. Hints
/// of a sort count only if every ready endpoint has some, and one has this node's
/// (Kubernetes, "Topology Aware Routing", safeguards). Endpoints that terminate are taken
/// whatever they are meant for.
fn hinted(all: &[Candidate<'_>], cluster: &Cluster, node: &NodeName) -> BTreeSet<Backend> {
    let zone = cluster.node(node).and_then(|node| node.zone());
    let for_node = |endpoint: &Endpoint| endpoint.details.hints.nodes.contains(node);
    let for_zone =
        |endpoint: &Endpoint| zone.is_some_and(|zone| endpoint.details.hints.zones.contains(zone));
    let ready = || all.iter().filter(|candidate| candidate.ready());
    let every = |has: fn(&Endpoint) -> bool| ready().all(|candidate| has(candidate.endpoint));
    if every(|endpoint| !endpoint.details.hints.nodes.is_empty()) {
        let near = backends(ready().filter(|candidate| for_node(candidate.endpoint)));
        if !near.is_empty() {
            return near;
        }
    }
    if every(|endpoint| !endpoint.details.hints.zones.is_empty()) {
        let near = backends(ready().filter(|candidate| for_zone(candidate.endpoint)));
        if !near.is_empty() {
            return near;
        }
    }
    usable(all)
}

/// Those on nodes that have the same value of the first label for which there are any;
/// `*` takes all. None, if no label of the list leads to any (Kubernetes 1.17 to 1.21,
/// "Service Topology").
fn agreeing(
    all: &[Candidate<'_>],
    keys: &[Arc<str>],
    cluster: &Cluster,
    node: &NodeName,
) -> BTreeSet<Backend> {
    let labels =
        |name: &NodeName| -> Option<&LabelSet> { cluster.node(name).map(|node| &node.labels) };
    for key in keys {
        let found = if &**key == "*" {
            usable(all)
        } else {
            let Some(own) = labels(node).and_then(|labels| labels.get(key)) else {
                continue;
            };
            usable(all.iter().filter(|candidate| {
                let theirs = candidate.endpoint.node.as_ref().and_then(labels);
                theirs.and_then(|labels| labels.get(key)) == Some(own)
            }))
        };
        if !found.is_empty() {
            return found;
        }
    }
    BTreeSet::new()
}
