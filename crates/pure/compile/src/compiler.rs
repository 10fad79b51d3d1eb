//! The model and what is compiled from it, kept in step change by change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_desired::{Desired, Frontend, FrontendKey, NodeNat, RouteKey};
use weft_model::{Change, Cluster, Key, Node, NodeName, ObjectKey, Pod};

use crate::claim::{Claims, Holders, Rank};
use crate::{fabric, service};

/// What is the same for the life of a compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The node compiled for.
    pub node: NodeName,
    /// The cluster's Service ranges.
    pub service_ranges: Vec<IpNet>,
}

/// What a change made different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Frontends that are new, gone or changed.
    pub frontends: BTreeSet<FrontendKey>,
    /// Routes that are new, gone or changed.
    pub routes: BTreeSet<RouteKey>,
    /// Whether [`NodeNat`] is different.
    pub nat: bool,
    /// Whether this node's own object is different.
    pub own_node: bool,
}

impl Touched {
    /// Adds what another change made different.
    pub fn merge(&mut self, other: Touched) {
        self.frontends.extend(other.frontends);
        self.routes.extend(other.routes);
        self.nat |= other.nat;
        self.own_node |= other.own_node;
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Touched::default()
    }
}

/// Something the cluster asks for and this node can't do. The rest works.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object at fault.
    pub object: Key,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl Problem {
    /// What could not be read.
    pub(crate) fn rejected(cluster: &Cluster) -> impl Iterator<Item = Problem> {
        cluster.rejected().map(|(key, rejection)| Problem {
            object: key.clone(),
            reason: format!("{}: {}", rejection.field, rejection.reason),
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

/// Holds the cluster's model and this node's desired state, and keeps the second a
/// function of the first. The cost of a change is that of the keys it touches.
#[derive(Clone, Debug)]
pub struct Compiler {
    settings: Settings,
    cluster: Cluster,
    desired: Desired,
    frontends: Claims<FrontendKey, Frontend>,
    /// What Services ask for beyond their frontends.
    unserved: BTreeMap<ObjectKey, &'static str>,
    node_addresses: Holders<IpAddr, NodeName>,
    pod_addresses: Holders<IpAddr, ObjectKey>,
    fabric_problems: Vec<Problem>,
}

impl Compiler {
    /// For a cluster of which nothing is known yet.
    pub fn new(settings: Settings) -> Self {
        let nat = NodeNat {
            service_ranges: settings.service_ranges.iter().copied().collect(),
            ..NodeNat::default()
        };
        Self {
            settings,
            cluster: Cluster::default(),
            desired: Desired {
                nat,
                ..Desired::default()
            },
            frontends: Claims::default(),
            unserved: BTreeMap::new(),
            node_addresses: Holders::default(),
            pod_addresses: Holders::default(),
            fabric_problems: Vec::new(),
        }
    }

    /// The model.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What the node must hold.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The node compiled for, once it is known.
    pub fn own_node(&self) -> Option<&Node> {
        self.cluster.node(&self.settings.node)
    }

    /// All that can't be done, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let lost = self.frontends.lost().map(|(key, loser, winner)| Problem {
            object: Key::Service(loser.clone()),
            reason: format!("{key} belongs to the older Service {winner}"),
        });
        let unserved = self.unserved.iter().map(|(key, reason)| Problem {
            object: Key::Service(key.clone()),
            reason: (*reason).to_owned(),
        });
        let mut all: Vec<Problem> = Problem::rejected(&self.cluster)
            .chain(lost)
            .chain(unserved)
            .chain(self.fabric_problems.iter().cloned())
            .collect();
        all.sort();
        all
    }

    /// Takes a change of the cluster in.
    pub fn apply(&mut self, change: Change) -> Touched {
        self.apply_all([change])
    }

    /// Takes changes in, in their order, and compiles each key they touch once: many
    /// slices of one Service, or all nodes of a cluster, cost as much as the last of them.
    pub fn apply_all(&mut self, changes: impl IntoIterator<Item = Change>) -> Touched {
        let mut nodes = BTreeSet::new();
        let mut pods = BTreeSet::new();
        let mut services = BTreeSet::new();
        for change in changes {
            let key = change.key();
            // A slice can move to another Service: both change then.
            let service_before = self.service_of_slice(&key);
            if !self.cluster.apply(change) {
                continue;
            }
            services.extend(service_before);
            services.extend(self.service_of_slice(&key));
            match key {
                Key::Node(name) => nodes.extend([name]),
                Key::Pod(pod) => pods.extend([pod]),
                Key::Service(service) => services.extend([service]),
                Key::EndpointSlice(_) | Key::Namespace(_) => {}
            }
        }
        let mut touched = Touched::default();
        if !nodes.is_empty() {
            touched.merge(self.nodes_changed(&nodes));
        }
        touched.merge(self.services_changed(&services));
        for pod in &pods {
            touched.merge(self.pod_changed(pod));
        }
        touched
    }

    fn service_of_slice(&self, key: &Key) -> Option<ObjectKey> {
        match key {
            Key::EndpointSlice(key) => self.cluster.slice(key).map(|slice| slice.service.clone()),
            Key::Namespace(_) | Key::Node(_) | Key::Pod(_) | Key::Service(_) => None,
        }
    }

    fn is_local(&self, pod: &Pod) -> bool {
        pod.node.as_ref() == Some(&self.settings.node) && !pod.host_network && !pod.finished
    }

    /// Two of them may claim one frontend: it is given away once all have said so.
    fn services_changed(&mut self, keys: &BTreeSet<ObjectKey>) -> Touched {
        let mut claimed = BTreeSet::new();
        for key in keys {
            let service = self.cluster.service(key);
            match service.and_then(service::unserved) {
                Some(reason) => self.unserved.insert(key.clone(), reason),
                None => self.unserved.remove(key),
            };
            claimed.extend(match service {
                Some(service) => {
                    let slices: Vec<_> = self.cluster.slices_of(key).collect();
                    let rank = Rank {
                        created: service.created,
                        uid: service.uid.clone(),
                    };
                    let claims = service::frontends(service, &slices, &self.settings.node);
                    self.frontends.set(key, rank, claims)
                }
                None => self.frontends.withdraw(key),
            });
        }
        Touched {
            frontends: self.frontends.settle(claimed, &mut self.desired.frontends),
            ..Touched::default()
        }
    }

    fn nodes_changed(&mut self, names: &BTreeSet<NodeName>) -> Touched {
        let fabric = fabric::compile(&self.cluster, &self.settings.node);
        let routes = weft_desired::difference(&self.desired.routes, &fabric.routes, |a, b| a == b)
            .into_iter()
            .map(|step| match step {
                weft_desired::Difference::Add(key, _)
                | weft_desired::Difference::Change(key, _, _)
                | weft_desired::Difference::Remove(key, _) => *key,
            })
            .collect();
        self.desired.routes = fabric.routes;
        self.fabric_problems = fabric.problems;
        // The ranges that nodes have, not the one they are cut from: that one may contain
        // addresses which are no pod's.
        let mut nat = self.desired.nat.pod_ranges != fabric.ranges;
        self.desired.nat.pod_ranges = fabric.ranges;
        for name in names {
            let addresses = match self.cluster.node(name) {
                Some(node) => node.internal_ips.clone(),
                None => Vec::new(),
            };
            let changed = self.node_addresses.set(name.clone(), addresses);
            nat |= !changed.is_empty();
            for address in &changed {
                match self.node_addresses.first(address) {
                    Some(_) => self.desired.nat.node_addresses.insert(*address),
                    None => self.desired.nat.node_addresses.remove(address),
                };
            }
        }
        Touched {
            routes,
            nat,
            own_node: names.contains(&self.settings.node),
            ..Touched::default()
        }
    }

    fn pod_changed(&mut self, key: &ObjectKey) -> Touched {
        let addresses = match self.cluster.pod(key) {
            Some(pod) if self.is_local(pod) => pod.ips.clone(),
            Some(_) | None => Vec::new(),
        };
        let changed = self.pod_addresses.set(key.clone(), addresses);
        for address in &changed {
            match self.pod_addresses.first(address) {
                Some(pod) => self
                    .desired
                    .nat
                    .local_pods
                    .insert(*address, pod.to_string().into()),
                None => self.desired.nat.local_pods.remove(address),
            };
        }
        Touched {
            nat: !changed.is_empty(),
            ..Touched::default()
        }
    }
}
