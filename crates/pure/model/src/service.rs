//! Services.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ObjectKey, Port, PortName, Protocol, Uid};

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// A virtual address inside the cluster.
    ClusterIP,
    /// ClusterIP, and a port at every node.
    NodePort,
    /// NodePort, and addresses of a load balancer.
    LoadBalancer,
    /// A DNS alias; nothing is translated.
    ExternalName,
}

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Endpoints of every node.
    #[default]
    Cluster,
    /// Endpoints of the packet's node only.
    Local,
}

/// The virtual address of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceAddress {
    /// `spec.clusterIPs`, one a family, primary first.
    Virtual(Vec<IpAddr>),
    /// `clusterIP: None`: DNS answers the endpoints themselves.
    Headless,
    /// ExternalName: DNS answers an alias to this name.
    Alias(Arc<str>),
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.generation`.
    #[serde(default)]
    pub generation: i64,
    /// `metadata.creationTimestamp` in seconds since 1970; arbitrates between two
    /// Services that claim one thing.
    #[serde(default)]
    pub created: i64,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// How clients find it.
    pub address: ServiceAddress,
    /// `spec.ports`.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// `spec.publishNotReadyAddresses`.
    #[serde(default)]
    pub publish_not_ready: bool,
    /// `spec.internalTrafficPolicy`.
    #[serde(default)]
    pub internal_traffic_policy: TrafficPolicy,
}

impl Service {
    /// The virtual addresses; empty for headless Services and aliases.
    pub fn cluster_ips(&self) -> &[IpAddr] {
        match &self.address {
            ServiceAddress::Virtual(addresses) => addresses,
            ServiceAddress::Headless | ServiceAddress::Alias(_) => &[],
        }
    }
}

/// One port of a Service. Where its packets go is said by the endpoint slices: the
/// port there has the same name and protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// `name`; empty if the Service has one unnamed port.
    pub name: PortName,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: Port,
}
