//! Scenes: manifests, and what a node makes of them by Kubernetes' rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use weft_desired::{
    Backend, Entry, IpFamily, LocalDetection, NodeNat, NodePortAddresses, Origin, Policy,
    PortEndpoints, Protocol, ServicePort, ServicePortKey, Table,
};
use weft_iptables::Options;

/// A scene, read.
pub(crate) struct Scene {
    pub(crate) services: Table<ServicePortKey, ServicePort>,
    pub(crate) nat: NodeNat,
    pub(crate) options: Options,
}

/// What the first line of a scene asks for.
#[derive(Default)]
struct Header {
    node: String,
    values: BTreeMap<String, String>,
}

impl Header {
    fn parse(line: &str) -> Self {
        let mut header = Self::default();
        let mut words = line.trim_start_matches('#').split_whitespace().peekable();
        while let Some(word) = words.next() {
            let word = word.trim_start_matches("--");
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, value),
                None => (
                    word,
                    words
                        .next_if(|next| !next.starts_with("--"))
                        .unwrap_or("true"),
                ),
            };
            if name == "node" {
                header.node = value.to_owned();
            } else {
                header.values.insert(name.to_owned(), value.to_owned());
            }
        }
        header
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.values
            .get(name)
            .map(|value| value.split(',').map(str::to_owned).collect())
            .unwrap_or_default()
    }

    fn is(&self, name: &str, default: bool) -> bool {
        self.values
            .get(name)
            .map_or(default, |value| value == "true")
    }
}

impl Scene {
    pub(crate) fn read(text: &str) -> Self {
        let header = Header::parse(text.lines().next().unwrap());
        let documents: Vec<Value> = text
            .split("\n---\n")
            .map(|document| serde_norway::from_str(document).unwrap())
            .collect();
        let of_kind = |kind: &'static str| {
            let documents = documents.iter();
            documents.filter(move |document| document["kind"] == kind)
        };
        let node = of_kind("Node")
            .find(|node| node["metadata"]["name"] == *header.node)
            .unwrap();
        let addresses: BTreeSet<IpAddr> = items(&node["status"]["addresses"])
            .filter_map(|address| address["address"].as_str()?.parse().ok())
            .collect();
        let zone = node["metadata"]["labels"]["topology.kubernetes.io/zone"].as_str();
        let mut services = Table::new();
        for service in of_kind("Service") {
            let slices: Vec<&Value> = of_kind("EndpointSlice")
                .filter(|slice| {
                    let labels = &slice["metadata"]["labels"];
                    slice["metadata"]["namespace"] == service["metadata"]["namespace"]
                        && labels["kubernetes.io/service-name"] == service["metadata"]["name"]
                })
                .collect();
            let view = View {
                service,
                slices,
                node: &header.node,
                addresses: &addresses,
                zone,
            };
            services.extend(view.ports());
        }
        Self {
            services,
            nat: nat(&header, addresses),
            options: Options {
                masquerade_bit: header
                    .values
                    .get("masquerade-bit")
                    .map_or(14, |bit| bit.parse().unwrap()),
                ..Options::default()
            },
        }
    }
}

fn nat(header: &Header, addresses: BTreeSet<IpAddr>) -> NodeNat {
    let detect = header.values.get("detect-local").map(String::as_str);
    let ranges = |name| {
        header
            .list(name)
            .iter()
            .map(|range| range.parse().unwrap())
            .collect()
    };
    let local = match detect.and_then(|detect| detect.split_once(':')) {
        Some(("bridge", name)) => LocalDetection::Bridge(name.into()),
        Some(("prefix", name)) => LocalDetection::InterfacePrefix(name.into()),
        Some(other) => panic!("{other:?}"),
        None if detect == Some("none") => LocalDetection::Nothing,
        None => LocalDetection::Ranges(ranges("cluster-cidr")),
    };
    let within: BTreeSet<_> = ranges("nodeport-addresses");
    NodeNat {
        own_addresses: addresses,
        node_port_addresses: if within.is_empty() {
            NodePortAddresses::All
        } else {
            NodePortAddresses::Within(within)
        },
        local,
        masquerade_all: header.is("masquerade-all", false),
        localhost_node_ports: header.is("localhost-nodeports", true),
        ..NodeNat::default()
    }
}

struct View<'a> {
    service: &'a Value,
    slices: Vec<&'a Value>,
    node: &'a str,
    addresses: &'a BTreeSet<IpAddr>,
    zone: Option<&'a str>,
}

impl View<'_> {
    fn ports(&self) -> Vec<(ServicePortKey, Entry<ServicePort>)> {
        let spec = &self.service["spec"];
        let mut ports = Vec::new();
        for address in addresses(&spec["clusterIPs"]) {
            for port in items(&spec["ports"]) {
                ports.push(self.port(address, port));
            }
        }
        ports
    }

    fn port(&self, cluster: IpAddr, port: &Value) -> (ServicePortKey, Entry<ServicePort>) {
        let metadata = &self.service["metadata"];
        let spec = &self.service["spec"];
        let family = IpFamily::of(cluster);
        let text = |value: &Value| Arc::<str>::from(value.as_str().unwrap_or_default());
        let number = |value: &Value| value.as_u64().map(|number| u16::try_from(number).unwrap());
        let key = ServicePortKey {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            port: text(&port["name"]),
            protocol: protocol(&port["protocol"]),
            family,
        };
        let label = format!("{}/{}", key.namespace, key.name);
        let label = if key.port.is_empty() {
            label
        } else {
            format!("{label}:{}", key.port)
        };
        let of_family = |address: &IpAddr| family.has(*address);
        let source_ranges: Vec<ipnet::IpNet> = items(&spec["loadBalancerSourceRanges"])
            .map(|range| range.as_str().unwrap().parse().unwrap())
            .filter(|range: &ipnet::IpNet| family.has(range.addr()))
            .collect();
        let policy = |value: &Value| {
            if value == "Local" {
                Policy::Local
            } else {
                Policy::Cluster
            }
        };
        let mut value = ServicePort {
            label: label.into(),
            cluster_address: Some(cluster),
            port: number(&port["port"]).unwrap(),
            node_port: number(&port["nodePort"]),
            external_addresses: addresses(&spec["externalIPs"]).filter(of_family).collect(),
            load_balancer_addresses: items(&self.service["status"]["loadBalancer"]["ingress"])
                .filter(|ingress| ingress["ipMode"] != "Proxy")
                .filter_map(|ingress| ingress["ip"].as_str()?.parse().ok())
                .filter(of_family)
                .collect(),
            source_ranges_have_node: source_ranges
                .iter()
                .any(|range| self.addresses.iter().any(|own| range.contains(own))),
            source_ranges,
            health_check: number(&spec["healthCheckNodePort"]),
            affinity: (spec["sessionAffinity"] == "ClientIP").then(|| {
                let config = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
                u32::try_from(config.as_u64().unwrap()).unwrap()
            }),
            internal_policy: policy(&spec["internalTrafficPolicy"]),
            external_policy: policy(&spec["externalTrafficPolicy"]),
            endpoints: PortEndpoints::default(),
        };
        value.endpoints = self.endpoints(&key, &value);
        let origin = Origin {
            kind: "Service",
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            generation: 0,
        };
        (key, Entry { value, origin })
    }

    fn endpoints(&self, key: &ServicePortKey, port: &ServicePort) -> PortEndpoints {
        let family = key.family.to_string();
        let mut all: Vec<(Backend, &Value)> = Vec::new();
        for slice in &self.slices {
            if slice["addressType"] != *family {
                continue;
            }
            for target in items(&slice["ports"]) {
                if target["name"].as_str().unwrap_or_default() != &*key.port
                    || protocol(&target["protocol"]) != key.protocol
                {
                    continue;
                }
                all.extend(items(&slice["endpoints"]).map(|endpoint| {
                    let backend = Backend {
                        address: addresses(&endpoint["addresses"]).next().unwrap(),
                        port: u16::try_from(target["port"].as_u64().unwrap()).unwrap(),
                    };
                    (backend, endpoint)
                }));
            }
        }
        let ready = |endpoint: &Value| endpoint["conditions"]["ready"] != false;
        let ending = |endpoint: &Value| {
            let conditions = &endpoint["conditions"];
            conditions["serving"] != false && conditions["terminating"] == true
        };
        let here = |endpoint: &Value| endpoint["nodeName"] == *self.node;
        let choose = |eligible: &dyn Fn(&Value) -> bool| -> BTreeSet<Backend> {
            let chosen = all.iter().filter(|(_, endpoint)| eligible(endpoint));
            chosen.map(|(backend, _)| *backend).collect()
        };
        let hinted = |endpoint: &Value| {
            let mut zones = items(&endpoint["hints"]["forZones"]);
            zones.any(|zone| zone["name"].as_str() == self.zone)
        };
        let use_hints = all
            .iter()
            .filter(|(_, endpoint)| ready(endpoint))
            .all(|(_, endpoint)| items(&endpoint["hints"]["forZones"]).next().is_some())
            && all
                .iter()
                .any(|(_, endpoint)| ready(endpoint) && hinted(endpoint));
        let or = |first: BTreeSet<Backend>, second: &dyn Fn() -> BTreeSet<Backend>| {
            if first.is_empty() { second() } else { first }
        };
        let cluster = or(
            choose(&|one| ready(one) && (!use_hints || hinted(one))),
            &|| choose(&ending),
        );
        let local = or(choose(&|one| ready(one) && here(one)), &|| {
            choose(&|one| ending(one) && here(one))
        });
        let any = !cluster.is_empty();
        let external = port.is_external();
        let uses_cluster = port.internal_policy == Policy::Cluster || external;
        let uses_local = port.internal_policy == Policy::Local
            || (port.external_policy == Policy::Local && external);
        let used =
            |used: bool, set: BTreeSet<Backend>| Arc::new(if used { set } else { BTreeSet::new() });
        PortEndpoints {
            cluster: used(uses_cluster, cluster),
            local: used(uses_local, local),
            any,
            ..PortEndpoints::default()
        }
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn addresses(value: &Value) -> impl Iterator<Item = IpAddr> {
    items(value).map(|address| address.as_str().unwrap().parse().unwrap())
}

fn protocol(value: &Value) -> Protocol {
    match value.as_str().unwrap() {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => panic!("{other}"),
    }
}
