//! Texts that many objects have, kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::{
    Change, Details, Endpoint, EndpointSlice, Hints, NodeName, Object, ObjectKey, PortName,
    Service, ServiceAddress,
};

/// The texts known so far: names of nodes, zones, namespaces, Services and ports. Hundreds
/// of thousands of endpoints name few of them; those that nobody has any more are forgotten.
#[derive(Clone, Debug, Default)]
pub struct Names {
    known: BTreeSet<Arc<str>>,
    /// As many as there have to be before it is looked which are still in use.
    full: usize,
}

/// So many are kept whether anybody has them or not.
const FEW: usize = 1024;

impl Names {
    /// The change as it is, in less memory: what its object says in the same words as others
    /// is kept once, and lists have no room to spare.
    #[must_use]
    pub fn share(&mut self, mut change: Change) -> Change {
        match &mut change {
            Change::Put(Object::Service(service)) => self.service(service),
            Change::Put(Object::EndpointSlice(slice)) => self.slice(slice),
            Change::Put(Object::Namespace(_) | Object::Node(_) | Object::Pod(_))
            | Change::Reject(..)
            | Change::Delete(_) => {}
        }
        change
    }

    fn text(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.known.get(&**text) {
            *text = known.clone();
            return;
        }
        if self.known.len() >= self.full.max(FEW) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.full = self.known.len() * 2;
        }
        self.known.insert(text.clone());
    }

    fn key(&mut self, key: &mut ObjectKey) {
        self.text(&mut key.namespace);
        self.text(&mut key.name);
    }

    fn port(&mut self, port: &mut PortName) {
        self.text(port.as_mut());
    }

    fn node(&mut self, node: &mut NodeName) {
        self.text(node.as_mut());
    }

    fn service(&mut self, service: &mut Service) {
        self.key(&mut service.key);
        service.ports.shrink_to_fit();
        for port in &mut service.ports {
            self.port(&mut port.name);
        }
        match &mut service.address {
            ServiceAddress::Virtual(addresses) => addresses.shrink_to_fit(),
            ServiceAddress::Headless | ServiceAddress::Alias(_) => {}
        }
        service.external.addresses.shrink_to_fit();
        service.external.load_balancer.shrink_to_fit();
    }

    fn slice(&mut self, slice: &mut EndpointSlice) {
        // Its own name is no other object's.
        self.text(&mut slice.key.namespace);
        self.key(&mut slice.service);
        slice.ports.shrink_to_fit();
        for port in &mut slice.ports {
            self.port(&mut port.name);
        }
        slice.endpoints.shrink_to_fit();
        for endpoint in &mut slice.endpoints {
            self.endpoint(endpoint);
        }
    }

    fn endpoint(&mut self, endpoint: &mut Endpoint) {
        if let Some(node) = &mut endpoint.node {
            self.node(node);
        }
        let mut details = Details::from(std::mem::take(&mut endpoint.details));
        if let Some(zone) = &mut details.zone {
            self.text(zone);
        }
        if let Some(pod) = &mut details.pod {
            self.text(&mut pod.namespace);
        }
        self.hints(&mut details.hints);
        endpoint.details = details.into();
    }

    fn hints(&mut self, hints: &mut Hints) {
        let zones = std::mem::take(&mut hints.zones);
        hints.zones = zones
            .into_iter()
            .map(|mut zone| {
                self.text(&mut zone);
                zone
            })
            .collect();
        let nodes = std::mem::take(&mut hints.nodes);
        hints.nodes = nodes
            .into_iter()
            .map(|mut node| {
                self.node(&mut node);
                node
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{IpFamily, PodNames};

    fn slice(number: usize, node: &str) -> Change {
        let mut endpoints = Vec::with_capacity(9);
        endpoints.push(Endpoint {
            addresses: vec![IpAddr::from([10, 244, 0, 1])].into(),
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.into()),
            details: Details {
                zone: Some("east".into()),
                hints: Hints {
                    zones: ["east".into()].into(),
                    nodes: BTreeSet::new(),
                },
                ..Details::default()
            }
            .into(),
        });
        Change::Put(Object::EndpointSlice(EndpointSlice {
            key: ObjectKey::new("shop", &format!("web-{number}")),
            generation: 1,
            service: ObjectKey::new("shop", "web"),
            family: IpFamily::V4,
            ports: Vec::new(),
            endpoints,
            not_proxied: false,
            pods: PodNames::default(),
        }))
    }

    fn taken(change: Change) -> EndpointSlice {
        match change {
            Change::Put(Object::EndpointSlice(slice)) => slice,
            other @ (Change::Put(_) | Change::Reject(..) | Change::Delete(_)) => {
                panic!("{other:?}")
            }
        }
    }

    #[test]
    fn equal_names_are_one_text_and_the_object_is_the_same() {
        let mut names = Names::default();
        let [one, other] = [1, 2].map(|number| {
            let change = slice(number, "node-1");
            let shared = names.share(change.clone());
            assert_eq!(shared, change);
            taken(shared)
        });
        assert!(Arc::ptr_eq(&one.service.name, &other.service.name));
        let endpoints = [&one.endpoints[0], &other.endpoints[0]];
        let texts = endpoints.map(|endpoint| {
            let details = &endpoint.details;
            let zone = details.zone.clone().unwrap();
            assert!(Arc::ptr_eq(&zone, details.hints.zones.first().unwrap()));
            zone
        });
        assert!(Arc::ptr_eq(&texts[0], &texts[1]));
        assert_eq!(one.endpoints.capacity(), 1);
    }

    #[test]
    fn names_that_nobody_has_are_forgotten() {
        let mut names = Names::default();
        let kept = names.share(slice(0, "kept"));
        for number in 0..10 * FEW {
            // A node of its own each time, and gone at once.
            drop(names.share(slice(number, &format!("node-{number}"))));
        }
        assert!(names.known.len() <= FEW + 8, "{}", names.known.len());
        let node = |change| taken(change).endpoints[0].node.clone();
        assert!(node(kept).is_some_and(|node| names.known.contains(node.as_str())));
    }
}
