//! The subsets of a core/v1 Endpoints object: what EndpointSlices say, in the form that older
//! clients read.
//!
//! The canonical layout is that of Kubernetes: addresses that offer the same ports, each as
//! ready as the others see it, stand together once, sorted.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{IpFamily, NodeName, ObjectKey};

use crate::endpoints::{Backed, Selected, SlicePort, resolved_ports};

/// How many addresses an Endpoints object holds at most (Kubernetes' endpoints controller);
/// readers of more are meant to read slices.
pub const MAX_ADDRESSES: usize = 1000;

/// Addresses that offer the same ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subset<A, P> {
    /// `addresses`, sorted.
    pub ready: Vec<A>,
    /// `notReadyAddresses`, sorted.
    pub not_ready: Vec<A>,
    /// `ports`, sorted; none where whole addresses are offered.
    pub ports: Vec<P>,
}

/// A pod in a subset. Addresses are ordered as text, as Kubernetes orders them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodAddress {
    /// `ip`.
    pub ip: Arc<str>,
    /// The pod of `targetRef`.
    pub pod: ObjectKey,
    /// `nodeName`.
    pub node: Option<NodeName>,
    /// `hostname`.
    pub hostname: Option<Arc<str>>,
}

/// That an address offers a port (none: no port in particular), and is ready or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer<A, P> {
    /// The address.
    pub address: A,
    /// The port.
    pub port: Option<P>,
    /// Whether it is ready.
    pub ready: bool,
}

/// The canonical layout of offers. An address that is said to be ready and not to be at one
/// port is not.
pub fn repack<A: Ord + Clone, P: Ord>(
    offers: impl IntoIterator<Item = Offer<A, P>>,
) -> Vec<Subset<A, P>> {
    let mut by_port: BTreeMap<Option<P>, BTreeMap<A, bool>> = BTreeMap::new();
    for offer in offers {
        let ready = by_port
            .entry(offer.port)
            .or_default()
            .entry(offer.address)
            .or_insert(true);
        *ready &= offer.ready;
    }
    let mut by_addresses: BTreeMap<BTreeMap<A, bool>, Vec<P>> = BTreeMap::new();
    for (port, addresses) in by_port {
        by_addresses.entry(addresses).or_default().extend(port);
    }
    by_addresses
        .into_iter()
        .map(|(addresses, ports)| {
            let with = |wanted| {
                let those = addresses.iter().filter(move |(_, ready)| **ready == wanted);
                those.map(|(address, _)| address.clone()).collect()
            };
            Subset {
                ready: with(true),
                not_ready: with(false),
                ports,
            }
        })
        .collect()
}

/// The subsets of a Service with a selector, in its primary family, and whether some addresses
/// were left out because there are more than [`MAX_ADDRESSES`].
pub fn subsets(service: &Backed, pods: &[Selected]) -> (Vec<Subset<PodAddress, SlicePort>>, bool) {
    let mut offers = Vec::new();
    for pod in pods {
        let Some(address) = address(service, pod) else {
            continue;
        };
        let ready = pod.ready || service.publish_not_ready;
        let offer = |port| Offer {
            address: address.clone(),
            port,
            ready,
        };
        if service.ports.is_empty() {
            offers.push(offer(None));
        }
        let ports = resolved_ports(service, pod);
        offers.extend(ports.into_iter().map(|port| offer(Some(port))));
    }
    let mut subsets = repack(offers);
    let truncated = truncate(&mut subsets);
    (subsets, truncated)
}

/// A pod that ends is no endpoint here, unless the Service wants every pod: this form cannot
/// say "terminating".
fn address(service: &Backed, pod: &Selected) -> Option<PodAddress> {
    if pod.terminating && !service.publish_not_ready {
        return None;
    }
    let primary = service.families.first()?;
    let ip = pod
        .addresses
        .iter()
        .find(|address| IpFamily::of(**address) == *primary)?;
    Some(PodAddress {
        ip: ip.to_string().into(),
        pod: pod.pod.clone(),
        node: pod.node.clone(),
        hostname: pod.hostname.clone(),
    })
}

/// Keeps [`MAX_ADDRESSES`], ready ones first, and of each subset its share.
fn truncate<A, P>(subsets: &mut [Subset<A, P>]) -> bool {
    let ready: usize = subsets.iter().map(|subset| subset.ready.len()).sum();
    let not_ready: usize = subsets.iter().map(|subset| subset.not_ready.len()).sum();
    if ready + not_ready <= MAX_ADDRESSES {
        return false;
    }
    let only_ready = ready > MAX_ADDRESSES;
    let (room, total) = if only_ready {
        (MAX_ADDRESSES, ready)
    } else {
        (MAX_ADDRESSES - ready, not_ready)
    };
    let mut left = room;
    for subset in subsets {
        if only_ready {
            subset.not_ready.clear();
        }
        let addresses = if only_ready {
            &mut subset.ready
        } else {
            &mut subset.not_ready
        };
        addresses.truncate((addresses.len() * room).div_ceil(total).min(left));
        left -= addresses.len();
    }
    true
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::endpoints::{BackedPort, Distribution, Target};
    use weft_model::{Port, Protocol};

    fn service(names: &[&str]) -> Backed {
        Backed {
            families: vec![IpFamily::V4, IpFamily::V6],
            ports: names
                .iter()
                .map(|name| BackedPort {
                    name: (*name).into(),
                    protocol: Protocol::Tcp,
                    target: Target::Named((*name).into()),
                    app_protocol: None,
                })
                .collect(),
            publish_not_ready: false,
            distribution: Distribution::Everywhere,
        }
    }

    fn pod(number: u16, ready: bool, ports: &[(&str, u16)]) -> Selected {
        let [high, low] = number.to_be_bytes();
        Selected {
            pod: ObjectKey::new("default", &format!("pod-{number}")),
            addresses: vec![
                format!("fd00::{number:x}").parse().unwrap(),
                IpAddr::from([10, 244, high, low]),
            ],
            ready,
            terminating: false,
            node: Some("node-1".into()),
            zone: None,
            hostname: None,
            container_ports: ports
                .iter()
                .map(|(name, number)| {
                    (Arc::from(*name), Protocol::Tcp, Port::new(*number).unwrap())
                })
                .collect(),
        }
    }

    fn lines(service: &Backed, pods: &[Selected]) -> Vec<String> {
        let ips = |addresses: &[PodAddress]| {
            let ips: Vec<&str> = addresses.iter().map(|address| &*address.ip).collect();
            ips.join(",")
        };
        let (subsets, _) = subsets(service, pods);
        subsets
            .iter()
            .map(|subset| {
                let ports: Vec<String> = subset
                    .ports
                    .iter()
                    .map(|port| format!("{}:{}", port.name, port.port.number()))
                    .collect();
                let (ready, not_ready) = (ips(&subset.ready), ips(&subset.not_ready));
                format!("{ready}|{not_ready}|{}", ports.join(","))
            })
            .collect()
    }

    #[test]
    fn addresses_of_the_primary_family_stand_together_by_the_ports_they_offer() {
        let both = [("web", 80), ("admin", 90)];
        let pods = [
            pod(2, true, &both),
            pod(10, true, &both),
            pod(3, false, &both),
            pod(4, true, &[("web", 80)]),
            pod(5, true, &[("web", 8080)]),
            pod(6, true, &[]),
        ];
        assert_eq!(
            lines(&service(&["web", "admin"]), &pods),
            [
                // All who offer web on 80; the same without the one that offers nothing more.
                "10.244.0.10,10.244.0.2|10.244.0.3|admin:90",
                "10.244.0.10,10.244.0.2,10.244.0.4|10.244.0.3|web:80",
                "10.244.0.5||web:8080",
            ]
        );
        let one_port = &pods[..3];
        assert_eq!(
            lines(&service(&["web", "admin"]), one_port),
            ["10.244.0.10,10.244.0.2|10.244.0.3|admin:90,web:80"]
        );
    }

    #[test]
    fn a_pod_that_ends_stays_only_where_all_are_published() {
        let mut leaving = pod(1, true, &[("web", 80)]);
        leaving.terminating = true;
        let waiting = pod(2, false, &[("web", 80)]);
        let pods = [leaving, waiting];
        let mut service = service(&["web"]);
        assert_eq!(lines(&service, &pods), ["|10.244.0.2|web:80"]);
        service.publish_not_ready = true;
        assert_eq!(lines(&service, &pods), ["10.244.0.1,10.244.0.2||web:80"]);
    }

    #[test]
    fn a_service_without_ports_offers_addresses() {
        let pods = [pod(1, true, &[])];
        assert_eq!(lines(&service(&[]), &pods), ["10.244.0.1||"]);
        assert!(lines(&service(&["web"]), &pods).is_empty());
    }

    #[test]
    fn not_ready_wins_over_ready_for_the_same_address_and_port() {
        let offer = |ready| Offer {
            address: "10.0.0.1",
            port: Some(80),
            ready,
        };
        let packed = repack([offer(true), offer(false), offer(true)]);
        assert_eq!(packed.len(), 1);
        assert_eq!(packed[0].not_ready, ["10.0.0.1"]);
        assert!(packed[0].ready.is_empty());
    }

    #[test]
    fn beyond_capacity_every_subset_keeps_its_share_and_ready_ones_come_first() {
        let pods = |ready: u16, not_ready: u16| -> Vec<Selected> {
            (0..ready + not_ready)
                .map(|number| {
                    let port = if number % 4 == 0 { 8080 } else { 80 };
                    pod(number, number < ready, &[("web", port)])
                })
                .collect()
        };
        let counts = |ready, not_ready| {
            let (subsets, truncated) = subsets(&service(&["web"]), &pods(ready, not_ready));
            let counts: Vec<_> = subsets
                .iter()
                .map(|subset| (subset.ready.len(), subset.not_ready.len()))
                .collect();
            (counts, truncated)
        };
        assert_eq!(counts(800, 200), (vec![(200, 50), (600, 150)], false));
        assert_eq!(counts(800, 400), (vec![(200, 50), (600, 150)], true));
        assert_eq!(counts(1200, 400), (vec![(250, 0), (750, 0)], true));
    }
}
