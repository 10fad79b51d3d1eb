//! Clusters that look drawn, the same ones at every run.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft_desired::IpFamily;
use weft_model::{Change, Object, ObjectKey, Port, ServiceAddress, ServiceType, TrafficPolicy};

use super::{
    NODES, PODS, SERVICES, balancer_address, cluster_address, external_address, node_address,
    node_name, outside_address, pod_address, pod_key,
};

/// Which endpoints there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoints {
    /// Pods and nodes.
    OfCluster,
    /// Hosts beyond the cluster too, as of a Service without selector.
    Beyond,
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's MMIX generator.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn policy(&mut self) -> TrafficPolicy {
        match self.one_in(3) {
            true => TrafficPolicy::Local,
            false => TrafficPolicy::Cluster,
        }
    }
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A cluster of three nodes.
pub(crate) fn cluster(seed: u64, endpoints: Endpoints) -> Vec<Change> {
    let mut draw = Draw(seed);
    let mut objects = Vec::new();
    for node in 1..=NODES {
        objects.push(self::node(node));
        objects.extend((0..PODS).map(|number| pod(node, number)));
    }
    for number in 1..=SERVICES {
        service(number, endpoints, &mut draw, &mut objects);
    }
    objects.into_iter().map(Change::Put).collect()
}

fn node(number: u8) -> Object {
    Object::Node(object(json!({
        "name": node_name(number),
        "internal_ips": IpFamily::BOTH.map(|family| node_address(family, number)),
        "pod_cidrs": [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")],
        "labels": {
            "kubernetes.io/hostname": node_name(number),
            "topology.kubernetes.io/zone": zone(number),
        },
    })))
}

/// The last node is in a zone of its own.
fn zone(node: u8) -> &'static str {
    if node == NODES { "far" } else { "near" }
}

fn pod(node: u8, number: u8) -> Object {
    Object::Pod(object(json!({
        "key": pod_key(node, number),
        "uid": format!("pod-{node}-{number}"),
        "node": node_name(node),
        "ips": IpFamily::BOTH.map(|family| pod_address(family, node, number)),
        "ready": true,
    })))
}

/// Every port that a Service may have: the same one by three protocols, and another.
const PORTS: [(&str, weft_model::Protocol, u16); 4] = [
    ("web", weft_model::Protocol::Tcp, 80),
    ("talk", weft_model::Protocol::Udp, 80),
    ("call", weft_model::Protocol::Sctp, 80),
    ("more", weft_model::Protocol::Tcp, 8443),
];

fn service(number: u8, endpoints: Endpoints, draw: &mut Draw, objects: &mut Vec<Object>) {
    let key = ObjectKey::new("default", &format!("service-{number}"));
    let families: &[IpFamily] = match draw.below(4) {
        0 => &[IpFamily::V4],
        1 => &[IpFamily::V6],
        _ => &IpFamily::BOTH,
    };
    let chosen = 1 + draw.below(15);
    let ports = || (0..PORTS.len()).filter(move |index| chosen & (1 << index) > 0);
    let kind = match draw.below(3) {
        0 => ServiceType::ClusterIP,
        1 => ServiceType::NodePort,
        _ => ServiceType::LoadBalancer,
    };
    let node_ports = kind != ServiceType::ClusterIP && !draw.one_in(6);
    let described: Vec<Value> = ports()
        .map(|index| {
            let (name, protocol, port) = PORTS[index];
            let node_port = 30000 + 10 * u16::from(number) + index as u16;
            let node_port = Port::new(node_port).filter(|_| node_ports);
            json!({"name": name, "protocol": protocol, "port": port, "node_port": node_port})
        })
        .collect();
    let own: Vec<_> = families
        .iter()
        .map(|it| cluster_address(*it, number))
        .collect();
    let balanced = kind == ServiceType::LoadBalancer;
    objects.push(Object::Service(object(json!({
        "key": key,
        "uid": format!("service-{number}"),
        "created": number,
        "service_type": kind,
        "address": ServiceAddress::Virtual(own),
        "ports": described,
        "internal_traffic_policy": draw.policy(),
        "external": {
            "addresses": match draw.one_in(3) {
                true => IpFamily::BOTH.map(|it| external_address(it, number)).to_vec(),
                false => Vec::new(),
            },
            "load_balancer": match balanced {
                true => IpFamily::BOTH.map(|it| balancer_address(it, number)).to_vec(),
                false => Vec::new(),
            },
            "source_ranges": match balanced {
                true => source_ranges(draw),
                false => Vec::new(),
            },
            "policy": draw.policy(),
        },
        "affinity": draw.one_in(3).then_some(600),
        "topology_keys": match draw.below(8) {
            0 => json!(["kubernetes.io/hostname", "*"]),
            1 => json!(["kubernetes.io/hostname", "topology.kubernetes.io/zone"]),
            _ => json!([]),
        },
        "sharing": sharing(draw),
        "not_proxied": draw.one_in(12),
    }))));
    // Of several slices a Service's endpoints are all of them.
    let (hints, nobody, plenty) = (draw.below(4), draw.one_in(6), draw.one_in(4));
    for family in IpFamily::BOTH {
        for part in 0..2 {
            let nodes = (1..=NODES).filter(|node| node % 2 == part);
            let mut members = Vec::new();
            for node in nodes.filter(|_| !nobody) {
                for pod in 0..PODS {
                    if plenty || draw.one_in(4) {
                        let address = pod_address(family, node, pod);
                        members.push(endpoint(draw, hints, node, address));
                    }
                }
                if draw.one_in(6) {
                    members.push(endpoint(draw, hints, node, node_address(family, node)));
                }
            }
            if endpoints == Endpoints::Beyond && draw.one_in(4) {
                members.push(json!({
                    "addresses": [outside_address(family, 50)],
                    "ready": true, "serving": true, "terminating": false,
                }));
            }
            let targets: Vec<Value> = ports()
                .filter(|_| !draw.one_in(10))
                .map(|index| {
                    let (name, protocol, _) = PORTS[index];
                    json!({"name": name, "protocol": protocol, "port": 8000 + index})
                })
                .collect();
            let family = match family {
                IpFamily::V4 => weft_model::IpFamily::V4,
                IpFamily::V6 => weft_model::IpFamily::V6,
            };
            objects.push(Object::EndpointSlice(object(json!({
                "key": ObjectKey::new("default", &format!("slice-{number}-{family}-{part}")),
                "service": key,
                "family": family,
                "ports": targets,
                "endpoints": members,
            }))));
        }
    }
}

/// What some Services' annotations say: endpoints that weigh more, or nothing; a hash. It has
/// more than a thousand slots to look into, so that few have one.
fn sharing(draw: &mut Draw) -> Value {
    let weigh: &[(&str, u16)] = match draw.below(6) {
        0 => &[("10.244.1.*", 0), ("fd00:10:244:1::2", 9), ("fd00:*", 3)],
        1 => &[("fd00:10:244:1:*", 0), ("10.244.1.2", 0), ("10.244.*", 5)],
        2 => &[("*", 0)],
        _ => &[],
    };
    let weight =
        |(endpoints, weight): &(&str, u16)| json!({"endpoints": endpoints, "weight": weight});
    let hash = match draw.below(8) {
        0 => json!("source"),
        1 => json!("five-tuple"),
        _ => Value::Null,
    };
    json!({
        "weights": weigh.iter().map(weight).collect::<Vec<Value>>(),
        "hash": hash,
    })
}

/// Of those who may send, some, all or none.
fn source_ranges(draw: &mut Draw) -> Vec<String> {
    let all = [
        "10.244.1.0/24",
        "172.30.0.201/32",
        "172.30.0.0/25",
        "192.0.2.128/25",
        "fd00:10:244:1::/64",
        "fd00:172:30::c9/128",
        "fd00:172:30::/122",
        "2001:db8:ff::/64",
    ];
    match draw.below(3) {
        0 => Vec::new(),
        _ => all
            .iter()
            .filter(|_| draw.one_in(3))
            .map(|it| (*it).to_owned())
            .collect(),
    }
}

fn endpoint(draw: &mut Draw, hints: u64, node: u8, address: std::net::IpAddr) -> Value {
    // Ready, also while it ends (publishNotReadyAddresses); ending, and serving or not; not ready.
    let (ready, serving, terminating) = match draw.below(9) {
        0..4 => (true, true, false),
        4 => (true, true, true),
        5 | 6 => (false, true, true),
        7 => (false, false, true),
        _ => (false, false, false),
    };
    let hints = match hints {
        0 => json!({"zones": [zone(node)]}),
        1 => json!({"zones": [zone(node)], "nodes": [node_name(node)]}),
        // One without takes the others' meaning away.
        2 if draw.one_in(2) => json!({"zones": [zone(node)]}),
        _ => json!({}),
    };
    json!({
        "addresses": [address],
        "ready": ready,
        "serving": serving,
        "terminating": terminating,
        "node": node_name(node),
        "hints": hints,
    })
}
