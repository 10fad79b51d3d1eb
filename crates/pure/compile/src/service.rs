//! One Service: its frontends, and the endpoints behind each.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_desired::{Backend, Entry, Frontend, FrontendKey, Origin, Otherwise};
use weft_model::{
    Endpoint, EndpointSlice, IpFamily, NodeName, Protocol, Service, ServicePort, ServiceType,
    TrafficPolicy,
};

/// The frontends of a Service on one node: one for each of its virtual addresses and
/// ports. None for headless Services and aliases, which are DNS's business alone.
pub fn frontends(
    service: &Service,
    slices: &[&EndpointSlice],
    node: &NodeName,
) -> Vec<(FrontendKey, Entry<Frontend>)> {
    let origin = Origin {
        kind: "Service",
        namespace: service.key.namespace.clone(),
        name: service.key.name.clone(),
        generation: service.generation,
    };
    let mut frontends = Vec::new();
    for &address in service.cluster_ips() {
        for port in &service.ports {
            let key = FrontendKey {
                address,
                protocol: protocol(port.protocol),
                port: port.port.number(),
            };
            let (backends, otherwise) = backends(service, address, port, slices, node);
            let frontend = Frontend {
                label: label(service, port).into(),
                backends,
                otherwise,
            };
            let entry = Entry {
                value: frontend,
                origin: origin.clone(),
            };
            frontends.push((key, entry));
        }
    }
    frontends
}

/// `namespace/name:port`, without `:port` for a port without name: how kube-proxy
/// names a Service port in its comments.
fn label(service: &Service, port: &ServicePort) -> String {
    if port.name.as_str().is_empty() {
        service.key.to_string()
    } else {
        format!("{}:{}", service.key, port.name)
    }
}

/// What a Service asks for that no frontend of it does; `None` if there is nothing.
pub(crate) fn unserved(service: &Service) -> Option<&'static str> {
    match service.service_type {
        ServiceType::ClusterIP | ServiceType::ExternalName => None,
        ServiceType::NodePort => Some(
            "spec.type: NodePort: its ports at the nodes are not served; only its cluster \
             addresses are",
        ),
        ServiceType::LoadBalancer => Some(
            "spec.type: LoadBalancer: it gets no address outside the cluster, and its ports at \
             the nodes are not served; only its cluster addresses are",
        ),
    }
}

/// Where connections to one address and port go. With `internalTrafficPolicy: Local`
/// that is only to endpoints of `node`, and nowhere if it has none of those there are
/// (Kubernetes, "Service Internal Traffic Policy"; kube-proxy drops as well).
fn backends(
    service: &Service,
    address: IpAddr,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    node: &NodeName,
) -> (BTreeSet<Backend>, Otherwise) {
    let all = usable(address, port, slices, |_| true);
    match service.internal_traffic_policy {
        TrafficPolicy::Cluster => (all, Otherwise::Refuse),
        // Without an endpoint anywhere the policy makes no difference.
        TrafficPolicy::Local if all.is_empty() => (all, Otherwise::Refuse),
        TrafficPolicy::Local => {
            let here = |endpoint: &Endpoint| endpoint.node.as_ref() == Some(node);
            (usable(address, port, slices, here), Otherwise::Drop)
        }
    }
}

/// Of some endpoints those that take new connections for one address and port: those
/// that are ready; if there are none, those that still serve while they terminate
/// (Kubernetes, "Traffic from terminating endpoints", KEP-1669).
fn usable(
    address: IpAddr,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    eligible: impl Fn(&Endpoint) -> bool,
) -> BTreeSet<Backend> {
    let choose = |state: fn(&Endpoint) -> bool| {
        let mut chosen = BTreeSet::new();
        for slice in slices {
            if slice.family != IpFamily::of(address) {
                continue;
            }
            for target in &slice.ports {
                if target.name != port.name || target.protocol != port.protocol {
                    continue;
                }
                let endpoints = slice.endpoints.iter();
                chosen.extend(
                    endpoints
                        .filter(|endpoint| state(endpoint) && eligible(endpoint))
                        .filter_map(Endpoint::address)
                        .filter(|endpoint| endpoint.is_ipv4() == address.is_ipv4())
                        .map(|address| Backend {
                            address,
                            port: target.port.number(),
                        }),
                );
            }
        }
        chosen
    };
    let ready = choose(|endpoint| endpoint.ready);
    if ready.is_empty() {
        choose(|endpoint| endpoint.serving && endpoint.terminating)
    } else {
        ready
    }
}

pub(crate) fn protocol(protocol: Protocol) -> weft_desired::Protocol {
    match protocol {
        Protocol::Tcp => weft_desired::Protocol::Tcp,
        Protocol::Udp => weft_desired::Protocol::Udp,
        Protocol::Sctp => weft_desired::Protocol::Sctp,
    }
}
