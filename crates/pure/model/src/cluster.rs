//! The whole cluster, and changes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{EndpointSlice, Node, NodeName, ObjectKey, Pod, Service};

/// Everything weft knows of a cluster. A map of current state: the order in which
/// changes arrived leaves no trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    nodes: BTreeMap<NodeName, Node>,
    pods: BTreeMap<ObjectKey, Pod>,
    services: BTreeMap<ObjectKey, Service>,
    slices: BTreeMap<ObjectKey, EndpointSlice>,
    /// Which slices a Service has; the inverse of `EndpointSlice::service`.
    /// Sorted. Nearly always there is one, for which a set would take ten times the room.
    slices_of: BTreeMap<ObjectKey, Vec<ObjectKey>>,
    rejected: BTreeMap<Key, Rejection>,
    namespaces: BTreeSet<Arc<str>>,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A Namespace.
    Namespace(Arc<str>),
    /// A Node.
    Node(NodeName),
    /// A Pod.
    Pod(ObjectKey),
    /// A Service.
    Service(ObjectKey),
    /// An EndpointSlice.
    EndpointSlice(ObjectKey),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Namespace(name) => write!(f, "Namespace {name}"),
            Key::Node(name) => write!(f, "Node {name}"),
            Key::Pod(key) => write!(f, "Pod {key}"),
            Key::Service(key) => write!(f, "Service {key}"),
            Key::EndpointSlice(key) => write!(f, "EndpointSlice {key}"),
        }
    }
}

/// An object's current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Namespace exists.
    Namespace(Arc<str>),
    /// A Node.
    Node(Node),
    /// A Pod.
    Pod(Pod),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
}

impl Object {
    /// The object's key.
    pub fn key(&self) -> Key {
        match self {
            Object::Namespace(name) => Key::Namespace(name.clone()),
            Object::Node(node) => Key::Node(node.name.clone()),
            Object::Pod(pod) => Key::Pod(pod.key.clone()),
            Object::Service(service) => Key::Service(service.key.clone()),
            Object::EndpointSlice(slice) => Key::EndpointSlice(slice.key.clone()),
        }
    }
}

/// An object the cluster holds and weft can't use, and why. Shown, never dropped silently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The field at fault, as the API names it (`spec.podCIDRs[0]`).
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

/// One change of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is there, in this state.
    Put(Object),
    /// The object is there and can't be used; an earlier usable state of it is gone.
    Reject(Key, Rejection),
    /// The object is gone.
    Delete(Key),
}

impl Change {
    /// The object that changes.
    pub fn key(&self) -> Key {
        match self {
            Change::Put(object) => object.key(),
            Change::Reject(key, _) | Change::Delete(key) => key.clone(),
        }
    }
}

impl Cluster {
    /// Takes a change in; tells whether anything is different now.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Put(object) => {
                let fixed = self.rejected.remove(&object.key()).is_some();
                self.put(object) || fixed
            }
            Change::Reject(key, rejection) => {
                let removed = self.remove(&key);
                let news = self.rejected.get(&key) != Some(&rejection);
                self.rejected.insert(key, rejection);
                removed || news
            }
            Change::Delete(key) => {
                let known = self.rejected.remove(&key).is_some();
                self.remove(&key) || known
            }
        }
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// One node.
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// All pods, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// One pod.
    pub fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// All Services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// One Service.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// One endpoint slice.
    pub fn slice(&self, key: &ObjectKey) -> Option<&EndpointSlice> {
        self.slices.get(key)
    }

    /// The endpoint slices of one Service, by name.
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_of
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|key| self.slices.get(key))
    }

    /// The namespaces that exist.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.iter()
    }

    /// Whether a namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// What the cluster holds and weft can't use.
    pub fn rejected(&self) -> impl Iterator<Item = (&Key, &Rejection)> {
        self.rejected.iter()
    }

    /// Keeps what there is in less memory: a list that came in order has left its maps half
    /// empty.
    pub fn tighten(&mut self) {
        tighten(&mut self.services);
        tighten(&mut self.slices);
        tighten(&mut self.slices_of);
    }

    /// The same for its nodes alone.
    pub fn tighten_nodes(&mut self) {
        tighten(&mut self.nodes);
    }

    fn put(&mut self, object: Object) -> bool {
        match object {
            Object::Namespace(name) => self.namespaces.insert(name),
            Object::Node(node) => replace(&mut self.nodes, node.name.clone(), node),
            Object::Pod(pod) => replace(&mut self.pods, pod.key.clone(), pod),
            Object::Service(service) => replace(&mut self.services, service.key.clone(), service),
            Object::EndpointSlice(slice) => {
                self.unlink_slice(&slice.key);
                let keys = self.slices_of.entry(slice.service.clone()).or_default();
                if let Err(at) = keys.binary_search(&slice.key) {
                    keys.reserve_exact(1);
                    keys.insert(at, slice.key.clone());
                }
                replace(&mut self.slices, slice.key.clone(), slice)
            }
        }
    }

    fn remove(&mut self, key: &Key) -> bool {
        match key {
            Key::Namespace(name) => self.namespaces.remove(name),
            Key::Node(name) => self.nodes.remove(name).is_some(),
            Key::Pod(key) => self.pods.remove(key).is_some(),
            Key::Service(key) => self.services.remove(key).is_some(),
            Key::EndpointSlice(key) => {
                self.unlink_slice(key);
                self.slices.remove(key).is_some()
            }
        }
    }

    /// Takes a slice out of its Service's list, so that a slice whose Service label
    /// changed belongs to one Service only.
    fn unlink_slice(&mut self, key: &ObjectKey) {
        let Some(slice) = self.slices.get(key) else {
            return;
        };
        if let Some(keys) = self.slices_of.get_mut(&slice.service) {
            keys.retain(|other| other != key);
            if keys.is_empty() {
                self.slices_of.remove(&slice.service);
            }
        }
    }
}

/// Built at once a map is full; one that has grown in order is half full.
/// Makes every node of a map full: one that grew in order is half empty. Needs no room for a second
/// map, because nodes are freed as others are filled.
pub fn tighten<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    if let Some((key, value)) = map.pop_first() {
        let mut full = BTreeMap::from([(key, value)]);
        full.append(map);
        *map = full;
    }
}

fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_was_tightened_has_the_same_in_it() {
        for count in [0, 1, 2, 11, 12, 1000] {
            let map: BTreeMap<u32, String> = (0..count)
                .map(|number| (number * 7919 % 1009, number.to_string()))
                .collect();
            let mut tight = map.clone();
            tighten(&mut tight);
            assert_eq!(tight, map);
        }
    }
}
