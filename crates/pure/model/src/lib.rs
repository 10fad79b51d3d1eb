//! What the cluster says: nodes, pods, Services and endpoints, as Kubernetes declares them.
//!
//! The model holds what the data plane needs and nothing else. It is decoded from
//! the API in one place (`weft-kube`), and read by `weft-compile` (what a node must
//! hold) and by `weft-oracle` (what must happen to a packet).
//!
//! Every address is a [`std::net::IpAddr`] and every range an [`ipnet::IpNet`]: no
//! type here can hold only one family.

mod cluster;
mod endpoint;
mod name;
mod names;
mod net;
mod node;
mod pod;
mod pod_names;
mod service;

pub use cluster::{Change, Cluster, Key, Object, Rejection, tighten};
pub use endpoint::{Addresses, Details, Endpoint, EndpointPort, EndpointSlice, Hints, RareDetails};
pub use name::{LabelSet, NodeName, ObjectKey, PortName, Uid};
pub use names::Names;
pub use net::{IpFamily, Port, Protocol};
pub use node::{Announced, Node, Vtep};
pub use pod::Pod;
pub use pod_names::PodNames;
pub use service::{
    External, HashOf, Service, ServiceAddress, ServicePort, ServiceType, Sharing, TrafficPolicy,
    Weight,
};
