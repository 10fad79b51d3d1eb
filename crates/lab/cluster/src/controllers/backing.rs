//! What stands behind a Service, read from the world into the terms of
//! `weft_compile::endpoints`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_compile::endpoints::{Backed, BackedPort, Distribution, Selected, Target};
use weft_kube::k8s_openapi::api::core::v1::{Node, Pod, Service, ServicePort};
use weft_kube::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::{IpFamily, ObjectKey, Port, Protocol};

use super::scheduling::is_finished;
use super::world::World;

/// Marks endpoints of a Service without a virtual address.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The Services whose selector selects a pod.
pub(super) fn services_selecting(world: &World, pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.namespace().unwrap_or_default();
    world
        .within::<Service>(&namespace)
        .filter(|(_, service)| selects(service, pod))
        .map(|(key, _)| key.clone())
        .collect()
}

/// The selector of a Service whose endpoints are made from pods; an alias has none.
pub(super) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service
        .spec
        .as_ref()
        .filter(|spec| spec.type_.as_deref() != Some("ExternalName"))
        .and_then(|spec| spec.selector.as_ref())
        .filter(|selector| !selector.is_empty())
}

/// Whether the Service's selector selects the pod.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    selector(service).is_some_and(|selector| {
        selector
            .iter()
            .all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}

/// `clusterIP: None`, or none yet.
pub(super) fn is_headless(service: &Service) -> bool {
    let address = service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref());
    matches!(address, None | Some("" | "None"))
}

/// The pods behind a Service, those that have or had an address.
pub(super) fn selected(world: &World, key: &ObjectKey, service: &Service) -> Vec<Selected> {
    let publishes_all = service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    // A pod whose node is not there is about to be removed with it.
    let has_node = |pod: &Pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        node.is_some_and(|node| world.nodes.contains_key(&ObjectKey::new("", node)))
    };
    world
        .within::<Pod>(&key.namespace)
        .filter(|(_, pod)| selects(service, pod) && !is_finished(pod))
        .filter(|(_, pod)| publishes_all || has_node(pod))
        .map(|(pod_key, pod)| {
            let spec = pod.spec.as_ref();
            let node = spec.and_then(|spec| spec.node_name.as_deref());
            let subdomain = spec.and_then(|spec| spec.subdomain.as_deref());
            let hostname = spec
                .and_then(|spec| spec.hostname.as_deref())
                .filter(|_| subdomain == Some(&*key.name));
            Selected {
                pod: pod_key.clone(),
                addresses: addresses(pod),
                ready: super::replicas::is_ready(pod),
                terminating: pod.meta().deletion_timestamp.is_some(),
                node: node.map(Into::into),
                zone: node
                    .and_then(|node| world.nodes.get(&ObjectKey::new("", node)))
                    .and_then(|node| zone(node))
                    .map(|zone| zone.as_str().into()),
                hostname: hostname.map(Into::into),
                container_ports: container_ports(pod),
            }
        })
        .collect()
}

/// The zone of a node, which stands in the endpoints on it.
pub(super) fn zone(node: &Node) -> Option<&String> {
    node.labels().get(ZONE)
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    pod.status
        .iter()
        .flat_map(|status| status.pod_ips.iter().flatten())
        .filter_map(|address| address.ip.parse().ok())
        .collect()
}

fn container_ports(pod: &Pod) -> Vec<(Arc<str>, Protocol, Port)> {
    pod.spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = u16::try_from(port.container_port)
                .ok()
                .and_then(Port::new)?;
            Some((
                Arc::from(port.name.as_deref()?),
                protocol(port.protocol.as_deref()),
                number,
            ))
        })
        .collect()
}

pub(super) fn backed(service: &Service) -> Backed {
    let spec = service.spec.clone().unwrap_or_default();
    let mut families: Vec<IpFamily> = spec
        .ip_families
        .iter()
        .flatten()
        .map(|family| {
            if family == "IPv6" {
                IpFamily::V6
            } else {
                IpFamily::V4
            }
        })
        .collect();
    if families.is_empty() {
        families.push(IpFamily::V4);
    }
    Backed {
        families,
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(backed_port)
            .collect(),
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        distribution: Distribution::of(spec.traffic_distribution.as_deref()),
    }
}

fn backed_port(port: &ServicePort) -> Option<BackedPort> {
    let number = |number: i32| u16::try_from(number).ok().and_then(Port::new);
    let target = match &port.target_port {
        Some(IntOrString::String(name)) => Target::Named(name.as_str().into()),
        Some(IntOrString::Int(0)) | None => Target::Number(number(port.port)?),
        Some(IntOrString::Int(target)) => Target::Number(number(*target)?),
    };
    Some(BackedPort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: protocol(port.protocol.as_deref()),
        target,
        app_protocol: port.app_protocol.as_deref().map(Into::into),
    })
}

fn protocol(text: Option<&str>) -> Protocol {
    match text {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) | None => Protocol::Tcp,
    }
}
