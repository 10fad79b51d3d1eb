//! Endpoint slices (discovery.k8s.io/v1).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{IpFamily, NodeName, ObjectKey, Port, PortName, Protocol};

/// One EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub key: ObjectKey,
    /// `metadata.generation`.
    #[serde(default)]
    pub generation: i64,
    /// The Service of the label `kubernetes.io/service-name`, in the same namespace.
    pub service: ObjectKey,
    /// `addressType`. Slices of type FQDN do not enter the model.
    pub family: IpFamily,
    /// `ports`.
    #[serde(default)]
    pub ports: Vec<EndpointPort>,
    /// `endpoints`.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Has the label `service.kubernetes.io/service-proxy-name` or
    /// `service.kubernetes.io/headless`: for DNS, and not for nodes.
    #[serde(default)]
    pub not_proxied: bool,
}

/// A port all endpoints of a slice have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Matches the Service port's name.
    pub name: PortName,
    /// Matches the Service port's protocol.
    pub protocol: Protocol,
    /// The port at the endpoint.
    pub port: Port,
}

/// One endpoint: a pod, or an address somebody wrote by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses`: the first is the endpoint's; the API allows more and gives them no meaning.
    pub addresses: Addresses,
    /// `conditions.ready`; absent counts as ready.
    pub ready: bool,
    /// `conditions.serving`; absent counts as serving.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// `zone`.
    #[serde(default)]
    pub zone: Option<Arc<str>>,
    /// `hostname`: the endpoint's own name under a headless Service.
    #[serde(default)]
    pub hostname: Option<Arc<str>>,
    /// The pod of `targetRef`, if it is one.
    #[serde(default)]
    pub pod: Option<Box<ObjectKey>>,
    /// `hints`: for whose clients it is meant.
    #[serde(default)]
    pub hints: RareHints,
}

/// Whose clients an endpoint is meant for. Empty: everybody's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// `hints.forZones`.
    #[serde(default)]
    pub zones: BTreeSet<Arc<str>>,
    /// `hints.forNodes`.
    #[serde(default)]
    pub nodes: BTreeSet<NodeName>,
}

/// Hints, where there mostly are none: then a pointer's place is all they take. There are
/// hundreds of thousands of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Hints", into = "Hints")]
pub struct RareHints(Option<Box<Hints>>);

static NO_HINTS: Hints = Hints {
    zones: BTreeSet::new(),
    nodes: BTreeSet::new(),
};

impl From<Hints> for RareHints {
    fn from(hints: Hints) -> Self {
        Self((hints != NO_HINTS).then(|| Box::new(hints)))
    }
}

impl From<RareHints> for Hints {
    fn from(hints: RareHints) -> Self {
        hints.0.map_or_else(Hints::default, |hints| *hints)
    }
}

impl Deref for RareHints {
    type Target = Hints;

    fn deref(&self) -> &Hints {
        self.0.as_deref().unwrap_or(&NO_HINTS)
    }
}

/// Addresses of one endpoint: nearly always one, which needs no place of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<IpAddr>", into = "Vec<IpAddr>")]
pub struct Addresses(Held);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    One(IpAddr),
    Others(Box<[IpAddr]>),
}

impl From<Vec<IpAddr>> for Addresses {
    fn from(addresses: Vec<IpAddr>) -> Self {
        Self(match addresses[..] {
            [address] => Held::One(address),
            _ => Held::Others(addresses.into()),
        })
    }
}

impl From<Addresses> for Vec<IpAddr> {
    fn from(addresses: Addresses) -> Self {
        addresses.to_vec()
    }
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Held::One(address) => std::slice::from_ref(address),
            Held::Others(addresses) => addresses,
        }
    }
}

impl Endpoint {
    /// The endpoint's address; `None` for an endpoint without any.
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }
}
