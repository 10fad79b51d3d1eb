//! One Service: its ports as a node knows them.

use std::net::IpAddr;
use std::sync::Arc;

use weft_desired::{Entry, IpFamily, Origin, Policy, ServicePort, ServicePortKey};
use weft_model::{Cluster, NodeName, Protocol, Service, ServiceType, TrafficPolicy};

use crate::choice::{self, Wanted};

/// The ports of a Service on one node, in each family it has an address of. None for
/// headless Services and aliases, which are DNS's business alone, and for those that
/// another proxy serves. Whether the Service gets the addresses and ports it claims is
/// said elsewhere.
pub fn ports(
    service: &Service,
    cluster: &Cluster,
    node: &NodeName,
) -> Vec<(ServicePortKey, Entry<ServicePort>)> {
    if service.not_proxied {
        return Vec::new();
    }
    let origin = origin(service);
    let mut ports = Vec::new();
    for &address in service.cluster_ips() {
        let external = Addresses::of(service, address);
        for port in &service.ports {
            let value = self::port(service, port, address, &external, cluster, node);
            let key = ServicePortKey {
                namespace: service.key.namespace.clone(),
                name: service.key.name.clone(),
                port: Arc::clone(port.name.as_ref()),
                protocol: protocol(port.protocol),
                family: IpFamily::of(address),
            };
            let origin = origin.clone();
            ports.push((key, Entry { value, origin }));
        }
    }
    ports
}

/// The addresses of a Service beside its own, of one family.
struct Addresses {
    external: Vec<IpAddr>,
    load_balancer: Vec<IpAddr>,
}

impl Addresses {
    fn of(service: &Service, cluster_address: IpAddr) -> Self {
        let family = IpFamily::of(cluster_address);
        let mut external: Vec<IpAddr> = Vec::new();
        for &address in &service.external.addresses {
            let known = address == cluster_address || external.contains(&address);
            if family.has(address) && !known {
                external.push(address);
            }
        }
        let mut load_balancer: Vec<IpAddr> = Vec::new();
        for &address in &service.external.load_balancer {
            let known = address == cluster_address
                || external.contains(&address)
                || load_balancer.contains(&address);
            if family.has(address) && !known {
                load_balancer.push(address);
            }
        }
        Self {
            external,
            load_balancer,
        }
    }
}

fn port(
    service: &Service,
    port: &weft_model::ServicePort,
    address: IpAddr,
    addresses: &Addresses,
    cluster: &Cluster,
    node: &NodeName,
) -> ServicePort {
    let family = IpFamily::of(address);
    let source_ranges: Vec<_> = (service.external.source_ranges.iter().copied())
        .filter(|range| family.has(range.addr()))
        .collect();
    let own = cluster
        .node(node)
        .and_then(|node| node.address_like(address));
    let mut value = ServicePort {
        label: label(service, port),
        cluster_address: Some(address),
        port: port.port.number(),
        node_port: port.node_port.map(weft_model::Port::number),
        external_addresses: addresses.external.clone(),
        load_balancer_addresses: addresses.load_balancer.clone(),
        source_ranges_have_node: own
            .is_some_and(|own| source_ranges.iter().any(|range| range.contains(&own))),
        source_ranges,
        health_check: health_check(service),
        affinity: service.affinity,
        internal_policy: policy(service.internal_traffic_policy),
        external_policy: policy(service.external.policy),
        endpoints: Default::default(),
    };
    let external_local = value.is_external() && value.external_policy == Policy::Local;
    let wanted = Wanted {
        // External addresses with the policy Local need them too: for this node and its pods.
        cluster: value.is_external() || value.internal_policy == Policy::Cluster,
        local: external_local || value.internal_policy == Policy::Local,
    };
    value.endpoints = choice::endpoints(service, port, family, cluster, node, wanted);
    value
}

pub(crate) fn origin(service: &Service) -> Origin {
    Origin {
        kind: "Service",
        namespace: service.key.namespace.clone(),
        name: service.key.name.clone(),
        generation: service.generation,
    }
}

/// `namespace/name:port`, without `:port` for a port without name: how kube-proxy
/// names a Service port in its comments.
fn label(service: &Service, port: &weft_model::ServicePort) -> Arc<str> {
    if port.name.as_str().is_empty() {
        service.key.to_string().into()
    } else {
        format!("{}:{}", service.key, port.name).into()
    }
}

/// Only Services of load balancers with the policy Local have one (Kubernetes API,
/// `healthCheckNodePort`).
pub(crate) fn health_check(service: &Service) -> Option<u16> {
    match (service.service_type, service.external.policy) {
        (ServiceType::LoadBalancer, TrafficPolicy::Local) => {
            service.external.health_check.map(weft_model::Port::number)
        }
        (
            ServiceType::LoadBalancer
            | ServiceType::ClusterIP
            | ServiceType::NodePort
            | ServiceType::ExternalName,
            TrafficPolicy::Cluster | TrafficPolicy::Local,
        ) => None,
    }
}

/// What a Service asks for that nodes don't do; `by_chance`: where endpoints are chosen by
/// chance only.
pub(crate) fn unserved(service: &Service, by_chance: bool) -> impl Iterator<Item = &'static str> {
    let keys = !service.topology_keys.is_empty() && service.external.policy == TrafficPolicy::Local;
    let keys = keys.then_some(
        "metadata.annotations[weft/topology-keys] is not looked at: with \
         externalTrafficPolicy: Local the node decides",
    );
    let hash = (by_chance && service.sharing.hash.is_some()).then_some(
        "metadata.annotations[weft/hash] is not looked at: mode iptables chooses endpoints by \
         chance; sessionAffinity keeps clients at theirs, mode nftables hashes",
    );
    [keys, hash].into_iter().flatten()
}

fn policy(policy: TrafficPolicy) -> Policy {
    match policy {
        TrafficPolicy::Cluster => Policy::Cluster,
        TrafficPolicy::Local => Policy::Local,
    }
}

pub(crate) fn protocol(protocol: Protocol) -> weft_desired::Protocol {
    match protocol {
        Protocol::Tcp => weft_desired::Protocol::Tcp,
        Protocol::Udp => weft_desired::Protocol::Udp,
        Protocol::Sctp => weft_desired::Protocol::Sctp,
    }
}
