//! Endpoint slices (discovery.k8s.io/v1).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{IpFamily, NodeName, ObjectKey, PodNames, Port, PortName, Protocol};

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
    /// What the endpoints' pods are called, where their details don't say it.
    #[serde(default, skip_serializing_if = "PodNames::is_empty")]
    pub pods: PodNames,
}

impl EndpointSlice {
    /// The name of the pod that the endpoint at this place is.
    pub fn pod_name(&self, place: usize) -> Option<Cow<'_, str>> {
        let pod = self.endpoints.get(place)?.details.pod.as_ref();
        pod.map(|pod| Cow::Borrowed(&*pod.name))
            .or_else(|| self.pods.get(place).map(Cow::Owned))
    }
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
    /// What few readers ask for.
    #[serde(flatten)]
    pub details: RareDetails,
}

/// What is known of an endpoint beside where it is and what it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// `zone`.
    #[serde(default)]
    pub zone: Option<Arc<str>>,
    /// `hostname`: the endpoint's own name under a headless Service.
    #[serde(default)]
    pub hostname: Option<Arc<str>>,
    /// The pod of `targetRef`, if it is one.
    #[serde(default)]
    pub pod: Option<ObjectKey>,
    /// `hints`: for whose clients it is meant.
    #[serde(default)]
    pub hints: Hints,
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

/// Details, where nodes mostly keep none: then a pointer's place is all they take. There are
/// hundreds of thousands of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Details", into = "Details")]
pub struct RareDetails(Option<Box<Details>>);

static NO_DETAILS: Details = Details {
    zone: None,
    hostname: None,
    pod: None,
    hints: Hints {
        zones: BTreeSet::new(),
        nodes: BTreeSet::new(),
    },
};

impl From<Details> for RareDetails {
    fn from(details: Details) -> Self {
        Self((details != NO_DETAILS).then(|| Box::new(details)))
    }
}

impl From<RareDetails> for Details {
    fn from(details: RareDetails) -> Self {
        details.0.map_or_else(Details::default, |details| *details)
    }
}

impl From<Hints> for RareDetails {
    fn from(hints: Hints) -> Self {
        Details {
            hints,
            ..Details::default()
        }
        .into()
    }
}

impl Deref for RareDetails {
    type Target = Details;

    fn deref(&self) -> &Details {
        self.0.as_deref().unwrap_or(&NO_DETAILS)
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
