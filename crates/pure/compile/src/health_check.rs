//! What a node tells load balancers of one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_desired::{Entry, HealthCheck, IpFamily, ServiceKey};
use weft_model::{Cluster, NodeName, ObjectKey, Service};

use crate::service;

/// The Service's health check on one node, if it has one: it is of type LoadBalancer with the
/// policy Local, and this cluster's nodes serve it.
pub fn compile(
    service: &Service,
    cluster: &Cluster,
    node: &NodeName,
) -> Option<Entry<HealthCheck>> {
    if service.not_proxied || service.cluster_ips().is_empty() {
        return None;
    }
    let port = service::health_check(service)?;
    let families = service.cluster_ips().iter().map(|it| IpFamily::of(*it));
    let ready = ready_here(service, cluster, node);
    let local_endpoints: BTreeMap<_, _> = families
        .map(|family| (family, ready.iter().filter(|it| family.has(**it)).count()))
        .collect();
    Some(Entry {
        value: HealthCheck {
            port,
            local_endpoints,
        },
        origin: service::origin(service),
    })
}

/// A Service's key among the desired.
pub(crate) fn key(service: &ObjectKey) -> ServiceKey {
    ServiceKey {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
    }
}

fn ready_here(service: &Service, cluster: &Cluster, node: &NodeName) -> BTreeSet<IpAddr> {
    // An endpoint without ports takes no connection.
    let slices = cluster
        .slices_of(&service.key)
        .filter(|slice| !slice.not_proxied && !slice.ports.is_empty());
    slices
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.ready && endpoint.node.as_ref() == Some(node))
        .filter_map(weft_model::Endpoint::address)
        .collect()
}
