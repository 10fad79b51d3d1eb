//! Services.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Endpoint, ObjectKey, Port, PortName, Protocol, Uid};

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
    /// How it is reached by other addresses than its own.
    #[serde(default)]
    pub external: External,
    /// `spec.sessionAffinity: ClientIP`: for how many seconds after its last connection a
    /// client's address is sent to the endpoint it had.
    #[serde(default)]
    pub affinity: Option<u32>,
    /// The annotation `weft/topology-keys`: labels of nodes, in the order in which
    /// endpoints of nodes that agree with the client's are looked for; `*` agrees with
    /// every node. Empty: nodes make no difference.
    #[serde(default)]
    pub topology_keys: Vec<Arc<str>>,
    /// How connections are shared among its endpoints.
    #[serde(default)]
    pub sharing: Sharing,
    /// Has the label `service.kubernetes.io/service-proxy-name` or
    /// `service.kubernetes.io/headless`: nodes leave its addresses to somebody else.
    #[serde(default)]
    pub not_proxied: bool,
}

/// How connections are shared among a Service's endpoints: alike and by chance, if its
/// annotations say nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// The annotation `weft/weights`: of those that name an endpoint the first counts. What
    /// none names weighs 1.
    #[serde(default)]
    pub weights: Vec<Weight>,
    /// The annotation `weft/hash`: what of a connection decides which endpoint it gets.
    #[serde(default)]
    pub hash: Option<HashOf>,
}

/// What some endpoints weigh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// The name of a pod, or an address; with `*` at its end, the start of one.
    pub endpoints: Arc<str>,
    /// How many connections they get for each that an endpoint of weight 1 gets. 0: those
    /// alone that no other endpoint can take.
    pub weight: u16,
}

/// What of a connection decides which endpoint it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashOf {
    /// The client's address.
    Source,
    /// Both addresses, both ports and the protocol.
    FiveTuple,
}

impl Weight {
    /// Whether it names an endpoint, whose pod is called so.
    pub fn names(&self, endpoint: &Endpoint, pod: Option<&str>) -> bool {
        let fits = |text: &str| match self.endpoints.strip_suffix('*') {
            Some(start) => text.starts_with(start),
            None => text == &*self.endpoints,
        };
        let address = endpoint.address().map(|address| address.to_string());
        pod.is_some_and(fits) || address.is_some_and(|it| fits(&it))
    }
}

/// What of a Service is there for clients beyond the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// `spec.externalIPs`.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`: the addresses whose packets come to nodes as they
    /// are (`ipMode` is not Proxy).
    #[serde(default)]
    pub load_balancer: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: who may use `load_balancer`. Without any of a
    /// family everybody may who is of that family.
    #[serde(default)]
    pub source_ranges: Vec<IpNet>,
    /// `spec.externalTrafficPolicy`.
    #[serde(default)]
    pub policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, where a node tells load balancers whether it has
    /// endpoints.
    #[serde(default)]
    pub health_check: Option<Port>,
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
    /// `nodePort`: the port at every node.
    #[serde(default)]
    pub node_port: Option<Port>,
}
