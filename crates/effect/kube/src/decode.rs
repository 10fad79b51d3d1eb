//! From API objects to the model.
//!
//! Each function answers `None` only for an object that says nothing to weft (a slice
//! of no Service, an address type that is not an IP family). An object that should say
//! something and does not make sense becomes a [`Change::Reject`].

mod sharing;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::ResourceExt;
use weft_model::{
    Change, Details, Endpoint, EndpointPort, EndpointSlice, External, Hints, IpFamily, Key,
    LabelSet, Node, NodeName, Object, ObjectKey, Pod, PodNames, Port, PortName, Protocol,
    Rejection, Service, ServiceAddress, ServicePort, ServiceType, TrafficPolicy, Uid,
};

/// The label that ties a slice to its Service (Kubernetes API, discovery/v1).
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Labels of Services and slices that are not for every node's proxy: `kube-proxy` leaves
/// out what has one of them, whatever its value.
const NOT_PROXIED: [&str; 2] = [
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
];

/// The annotation that takes the place of `spec.topologyKeys`, which Kubernetes 1.22
/// removed.
const TOPOLOGY_KEYS: &str = "weft/topology-keys";
/// `spec.topologyKeys` was limited so.
const MOST_TOPOLOGY_KEYS: usize = 16;

/// Kubernetes API, `ClientIPConfig.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;
const LONGEST_AFFINITY_SECONDS: u32 = 86_400;

type Decoded<T> = Result<T, Rejection>;

/// A Namespace.
pub fn namespace(object: &core::Namespace) -> Option<Change> {
    Some(Change::Put(Object::Namespace(object.name_any().into())))
}

/// A Node.
pub fn node(object: &core::Node) -> Option<Change> {
    let name = NodeName::from(object.name_any());
    Some(put_or_reject(
        Key::Node(name.clone()),
        read_node(object, name).map(Object::Node),
    ))
}

/// A Pod.
pub fn pod(object: &core::Pod) -> Option<Change> {
    let key = object_key(object);
    Some(put_or_reject(
        Key::Pod(key.clone()),
        read_pod(object, key).map(Object::Pod),
    ))
}

/// A Service.
pub fn service(object: &core::Service) -> Option<Change> {
    let key = object_key(object);
    Some(put_or_reject(
        Key::Service(key.clone()),
        read_service(object, key).map(Object::Service),
    ))
}

/// An EndpointSlice; `None` for one that belongs to no Service or has names for addresses.
pub fn endpoint_slice(object: &discovery::EndpointSlice) -> Option<Change> {
    let key = object_key(object);
    let service = object.labels().get(SERVICE_NAME_LABEL)?;
    let service = ObjectKey::new(&key.namespace, service);
    let family = match object.address_type.as_str() {
        "IPv4" => IpFamily::V4,
        "IPv6" => IpFamily::V6,
        _ => return None,
    };
    Some(put_or_reject(
        Key::EndpointSlice(key.clone()),
        read_slice(object, key, service, family).map(Object::EndpointSlice),
    ))
}

fn put_or_reject(key: Key, object: Decoded<Object>) -> Change {
    match object {
        Ok(object) => Change::Put(object),
        Err(rejection) => Change::Reject(key, rejection),
    }
}

fn read_node(object: &core::Node, name: NodeName) -> Decoded<Node> {
    let spec = object.spec.as_ref();
    let ranges = spec
        .and_then(|spec| spec.pod_cidrs.clone())
        .or_else(|| {
            spec.and_then(|spec| spec.pod_cidr.clone())
                .map(|range| vec![range])
        })
        .unwrap_or_default();
    let pod_cidrs = ranges
        .iter()
        .enumerate()
        .map(|(index, text)| {
            parse(
                text,
                || format!("spec.podCIDRs[{index}]"),
                "a range like 10.244.1.0/24",
            )
        })
        .map(|range| range.map(|range: IpNet| range.trunc()))
        .collect::<Decoded<_>>()?;
    let internal_ips = object
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
        .enumerate()
        .filter(|(_, address)| address.type_ == "InternalIP")
        .map(|(index, address)| {
            parse(
                &address.address,
                || format!("status.addresses[{index}].address"),
                AN_ADDRESS,
            )
        })
        .collect::<Decoded<_>>()?;
    Ok(Node {
        name,
        generation: object.metadata.generation.unwrap_or_default(),
        labels: labels(object),
        internal_ips,
        pod_cidrs,
        announced: crate::announced::read(object),
        leaving: leaving(object),
    })
}

/// When what led to a slice's last change happened, in the words of its writer.
pub(crate) const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// When what led to an object's last change happened, if it says so.
pub(crate) fn happened(object: &impl ResourceExt) -> Option<SystemTime> {
    let text = object.annotations().get(TRIGGERED)?;
    let at: k8s_openapi::jiff::Timestamp = text.parse().ok()?;
    Some(at.into())
}

/// The taint of a node that the cluster's autoscaler is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

fn leaving(object: &core::Node) -> bool {
    let mut taints = object
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    object.metadata.deletion_timestamp.is_some() || taints.any(|it| it.key == TO_BE_DELETED)
}

fn read_pod(object: &core::Pod, key: ObjectKey) -> Decoded<Pod> {
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let ips = status
        .iter()
        .flat_map(|status| status.pod_ips.iter().flatten())
        .enumerate()
        .map(|(index, ip)| parse(&ip.ip, || format!("status.podIPs[{index}].ip"), AN_ADDRESS))
        .collect::<Decoded<_>>()?;
    let phase = status.and_then(|status| status.phase.as_deref());
    Ok(Pod {
        uid: uid(object),
        labels: labels(object),
        node: spec
            .and_then(|spec| spec.node_name.as_deref())
            .map(NodeName::from),
        ips,
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        ready: status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        terminating: object.metadata.deletion_timestamp.is_some(),
        hostname: spec
            .and_then(|spec| spec.hostname.as_deref())
            .map(Arc::from),
        subdomain: spec
            .and_then(|spec| spec.subdomain.as_deref())
            .map(Arc::from),
        key,
    })
}

fn read_service(object: &core::Service, key: ObjectKey) -> Decoded<Service> {
    let empty = core::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let service_type = match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ClusterIP" => ServiceType::ClusterIP,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        other => {
            return Err(rejection(
                "spec.type".to_owned(),
                other,
                "ClusterIP, NodePort, LoadBalancer or ExternalName",
            ));
        }
    };
    let ports = spec
        .ports
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, port)| {
            Ok(ServicePort {
                name: PortName::from(port.name.as_deref().unwrap_or_default()),
                protocol: protocol(port.protocol.as_deref(), || {
                    format!("spec.ports[{index}].protocol")
                })?,
                port: read_port(port.port, || format!("spec.ports[{index}].port"))?,
                // 0 says that no port at the nodes is wanted.
                node_port: match port.node_port.unwrap_or_default() {
                    0 => None,
                    number => Some(read_port(number, || {
                        format!("spec.ports[{index}].nodePort")
                    })?),
                },
            })
        })
        .collect::<Decoded<_>>()?;
    Ok(Service {
        uid: uid(object),
        generation: object.metadata.generation.unwrap_or_default(),
        created: object
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_second()),
        service_type,
        address: service_address(spec, service_type)?,
        ports,
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        internal_traffic_policy: policy(
            spec.internal_traffic_policy.as_deref(),
            "spec.internalTrafficPolicy",
        )?,
        external: read_external(object, spec)?,
        affinity: affinity(spec)?,
        topology_keys: topology_keys(object)?,
        sharing: sharing::read(object)?,
        not_proxied: not_proxied(object),
        key,
    })
}

fn policy(text: Option<&str>, field: &str) -> Decoded<TrafficPolicy> {
    match text {
        None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => Err(rejection(field.to_owned(), other, "Cluster or Local")),
    }
}

/// Whether nodes are to leave it to another proxy, or to DNS alone.
fn not_proxied(object: &impl ResourceExt) -> bool {
    let labels = object.labels();
    NOT_PROXIED.iter().any(|label| labels.contains_key(*label))
}

fn read_external(object: &core::Service, spec: &core::ServiceSpec) -> Decoded<External> {
    let addresses = spec
        .external_ips
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, text)| parse(text, || format!("spec.externalIPs[{index}]"), AN_ADDRESS))
        .collect::<Decoded<_>>()?;
    let ingress = object
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref())
        .flat_map(|balancer| balancer.ingress.iter().flatten());
    let load_balancer = ingress
        .enumerate()
        // A balancer in mode Proxy talks to nodes by other addresses; one with a name has none.
        .filter(|(_, ingress)| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|(index, ingress)| Some((index, ingress.ip.as_deref()?)))
        .filter(|(_, text)| !text.is_empty())
        .map(|(index, text)| {
            let field = || format!("status.loadBalancer.ingress[{index}].ip");
            parse(text, field, AN_ADDRESS)
        })
        .collect::<Decoded<_>>()?;
    let source_ranges = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .enumerate()
        // The API lets spaces around a range through.
        .map(|(index, text)| (index, text.trim()))
        .filter(|(_, text)| !text.is_empty())
        .map(|(index, text)| {
            let field = || format!("spec.loadBalancerSourceRanges[{index}]");
            let range: IpNet = parse(text, field, "a range like 192.0.2.0/24")?;
            Ok(range.trunc())
        })
        .collect::<Decoded<_>>()?;
    let health_check = match spec.health_check_node_port.unwrap_or_default() {
        0 => None,
        number => Some(read_port(number, || "spec.healthCheckNodePort".to_owned())?),
    };
    let policy = policy(
        spec.external_traffic_policy.as_deref(),
        "spec.externalTrafficPolicy",
    )?;
    Ok(External {
        addresses,
        load_balancer,
        source_ranges,
        policy,
        health_check,
    })
}

/// `sessionAffinity`, and for how long.
fn affinity(spec: &core::ServiceSpec) -> Decoded<Option<u32>> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => {
            let field = "spec.sessionAffinity".to_owned();
            return Err(rejection(field, other, "ClientIP or None"));
        }
    }
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client| client.timeout_seconds)
        .unwrap_or(DEFAULT_AFFINITY_SECONDS);
    match u32::try_from(timeout) {
        Ok(seconds @ 1..=LONGEST_AFFINITY_SECONDS) => Ok(Some(seconds)),
        Ok(_) | Err(_) => Err(rejection(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds".to_owned(),
            &timeout.to_string(),
            "a number of seconds between 1 and 86400",
        )),
    }
}

/// The labels that endpoints' nodes have to agree in, from the annotation.
fn topology_keys(object: &core::Service) -> Decoded<Vec<Arc<str>>> {
    let Some(text) = object.annotations().get(TOPOLOGY_KEYS) else {
        return Ok(Vec::new());
    };
    let keys: Vec<Arc<str>> = text
        .split(',')
        .map(str::trim)
        .filter(|key| !key.is_empty())
        .map(Arc::from)
        .collect();
    let last = keys.len().saturating_sub(1);
    let any_is_last = keys.iter().take(last).all(|key| &**key != "*");
    if any_is_last && keys.len() <= MOST_TOPOLOGY_KEYS {
        return Ok(keys);
    }
    Err(rejection(
        format!("metadata.annotations[{TOPOLOGY_KEYS}]"),
        text,
        "a list of at most 16 labels of nodes with commas between, \"*\" only as the last",
    ))
}

fn service_address(spec: &core::ServiceSpec, service_type: ServiceType) -> Decoded<ServiceAddress> {
    if service_type == ServiceType::ExternalName {
        let name = spec.external_name.as_deref().unwrap_or_default();
        return Ok(ServiceAddress::Alias(name.into()));
    }
    let addresses: Vec<&str> = match (&spec.cluster_ips, &spec.cluster_ip) {
        (Some(all), _) if !all.is_empty() => all.iter().map(String::as_str).collect(),
        (_, Some(one)) if !one.is_empty() => vec![one],
        _ => Vec::new(),
    };
    if addresses == ["None"] {
        return Ok(ServiceAddress::Headless);
    }
    addresses
        .iter()
        .enumerate()
        .map(|(index, text)| parse(text, || format!("spec.clusterIPs[{index}]"), AN_ADDRESS))
        .collect::<Decoded<_>>()
        .map(ServiceAddress::Virtual)
}

fn read_slice(
    object: &discovery::EndpointSlice,
    key: ObjectKey,
    service: ObjectKey,
    family: IpFamily,
) -> Decoded<EndpointSlice> {
    let ports = object
        .ports
        .iter()
        .flatten()
        .enumerate()
        // A port without number means "all ports" and carries nothing to translate to.
        .filter_map(|(index, port)| port.port.map(|number| (index, port, number)))
        .map(|(index, port, number)| {
            Ok(EndpointPort {
                name: PortName::from(port.name.as_deref().unwrap_or_default()),
                protocol: protocol(port.protocol.as_deref(), || {
                    format!("ports[{index}].protocol")
                })?,
                port: read_port(number, || format!("ports[{index}].port"))?,
            })
        })
        .collect::<Decoded<_>>()?;
    let endpoints = object
        .endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| read_endpoint(endpoint, index, &key, family))
        .collect::<Decoded<_>>()?;
    Ok(EndpointSlice {
        generation: object.metadata.generation.unwrap_or_default(),
        service,
        family,
        ports,
        endpoints,
        not_proxied: not_proxied(object),
        pods: PodNames::default(),
        key,
    })
}

fn read_endpoint(
    endpoint: &discovery::Endpoint,
    index: usize,
    slice: &ObjectKey,
    family: IpFamily,
) -> Decoded<Endpoint> {
    let field = |position: usize| format!("endpoints[{index}].addresses[{position}]");
    let addresses = endpoint
        .addresses
        .iter()
        .enumerate()
        .map(|(position, text)| {
            let address: IpAddr = parse(text, || field(position), AN_ADDRESS)?;
            if IpFamily::of(address) != family {
                return Err(rejection(
                    field(position),
                    text,
                    "an address of the slice's addressType",
                ));
            }
            Ok(address)
        })
        .collect::<Decoded<Vec<_>>>()?;
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true);
    Ok(Endpoint {
        addresses: addresses.into(),
        ready,
        serving: conditions
            .and_then(|conditions| conditions.serving)
            .unwrap_or(true),
        terminating: conditions
            .and_then(|conditions| conditions.terminating)
            .unwrap_or(false),
        node: endpoint.node_name.as_deref().map(NodeName::from),
        details: details(endpoint, slice).into(),
    })
}

fn details(endpoint: &discovery::Endpoint, slice: &ObjectKey) -> Details {
    Details {
        zone: endpoint.zone.as_deref().map(Arc::from),
        hostname: endpoint.hostname.as_deref().map(Arc::from),
        pod: endpoint
            .target_ref
            .as_ref()
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| {
                let namespace = target.namespace.as_deref().unwrap_or(&slice.namespace);
                let name = target.name.as_deref();
                name.map(|name| ObjectKey::new(namespace, name))
            }),
        hints: hints(endpoint),
    }
}

fn hints(endpoint: &discovery::Endpoint) -> Hints {
    let hints = endpoint.hints.as_ref();
    Hints {
        zones: hints
            .iter()
            .flat_map(|hints| hints.for_zones.iter().flatten())
            .map(|zone| zone.name.as_str().into())
            .collect(),
        nodes: hints
            .iter()
            .flat_map(|hints| hints.for_nodes.iter().flatten())
            .map(|node| node.name.as_str().into())
            .collect(),
    }
}

const AN_ADDRESS: &str = "an IPv4 or IPv6 address";

fn rejection(field: String, value: &str, expected: &str) -> Rejection {
    Rejection {
        field,
        reason: format!("{value:?} is not {expected}"),
    }
}

fn parse<T: std::str::FromStr>(
    text: &str,
    field: impl FnOnce() -> String,
    expected: &str,
) -> Decoded<T> {
    text.parse().map_err(|_| rejection(field(), text, expected))
}

fn read_port(number: i32, field: impl FnOnce() -> String) -> Decoded<Port> {
    u16::try_from(number)
        .ok()
        .and_then(Port::new)
        .ok_or_else(|| rejection(field(), &number.to_string(), "a port between 1 and 65535"))
}

fn protocol(text: Option<&str>, field: impl FnOnce() -> String) -> Decoded<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        other => Err(rejection(field(), other, "TCP, UDP or SCTP")),
    }
}

pub(crate) fn object_key(object: &impl ResourceExt) -> ObjectKey {
    ObjectKey::new(&object.namespace().unwrap_or_default(), &object.name_any())
}

fn uid(object: &impl ResourceExt) -> Uid {
    Uid::from(object.uid().unwrap_or_default())
}

fn labels(object: &impl ResourceExt) -> LabelSet {
    object
        .labels()
        .iter()
        .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_dual_stack_service_keeps_its_addresses_in_order() {
        let change = service(&read(json!({
            "metadata": {"namespace": "default", "name": "hello", "uid": "u", "creationTimestamp": "2024-01-02T03:04:05Z"},
            "spec": {
                "clusterIPs": ["10.96.0.7", "fd00:10:96::7"],
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            },
        })));
        let Some(Change::Put(Object::Service(service))) = change else {
            panic!("{change:?}");
        };
        assert_eq!(
            service.cluster_ips(),
            [
                "10.96.0.7".parse::<IpAddr>().unwrap(),
                "fd00:10:96::7".parse().unwrap()
            ]
        );
        assert_eq!(service.created, 1_704_164_645);
        assert_eq!(service.ports[0].protocol, Protocol::Tcp);
    }

    #[test]
    fn none_means_headless_and_external_name_is_an_alias() {
        let address = |spec: Value| match service(&read(
            json!({"metadata": {"name": "x", "namespace": "n"}, "spec": spec}),
        )) {
            Some(Change::Put(Object::Service(service))) => service.address,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            address(json!({"clusterIP": "None", "clusterIPs": ["None"]})),
            ServiceAddress::Headless
        );
        assert_eq!(
            address(json!({"type": "ExternalName", "externalName": "example.org"})),
            ServiceAddress::Alias("example.org".into())
        );
    }

    fn read_one(value: Value) -> Result<Service, Rejection> {
        match service(&read(value)) {
            Some(Change::Put(Object::Service(service))) => Ok(service),
            Some(Change::Reject(_, rejection)) => Err(rejection),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_there_for_clients_outside_is_read() {
        let service = read_one(json!({
            "metadata": {
                "name": "x",
                "namespace": "n",
                "labels": {"service.kubernetes.io/service-proxy-name": "another"},
                "annotations": {"weft/topology-keys": "kubernetes.io/hostname, *"},
            },
            "spec": {
                "type": "LoadBalancer",
                "clusterIPs": ["10.96.0.7"],
                "ports": [{"port": 80, "nodePort": 30080}, {"port": 81, "nodePort": 0}],
                "externalIPs": ["192.0.2.1"],
                "loadBalancerSourceRanges": [" 198.51.100.7/24 ", ""],
                "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 32000,
                "sessionAffinity": "ClientIP",
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "192.0.2.2", "ipMode": "VIP"},
                {"ip": "192.0.2.3", "ipMode": "Proxy"},
                {"hostname": "lb.example.org"},
                {"ip": "192.0.2.4"},
            ]}},
        }))
        .unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let expected = External {
            addresses: vec![ip("192.0.2.1")],
            load_balancer: vec![ip("192.0.2.2"), ip("192.0.2.4")],
            source_ranges: vec!["198.51.100.0/24".parse().unwrap()],
            policy: TrafficPolicy::Local,
            health_check: Port::new(32000),
        };
        assert_eq!(service.external, expected);
        assert_eq!(service.affinity, Some(10_800));
        let ports: Vec<_> = service.ports.iter().map(|port| port.node_port).collect();
        assert_eq!(ports, [Port::new(30080), None]);
        assert_eq!(
            service.topology_keys,
            ["kubernetes.io/hostname".into(), "*".into()]
        );
        assert!(service.not_proxied);
    }

    #[test]
    fn what_of_a_service_makes_no_sense_is_rejected_with_its_field() {
        let field = |spec: Value, more: Value| {
            let mut object = json!({"metadata": {"name": "x", "namespace": "n"}, "spec": spec});
            object["status"] = more;
            read_one(object).unwrap_err().field
        };
        for (spec, expected) in [
            (json!({"externalIPs": ["x"]}), "spec.externalIPs[0]"),
            (
                json!({"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0/33"]}),
                "spec.loadBalancerSourceRanges[1]",
            ),
            (
                json!({"externalTrafficPolicy": "x"}),
                "spec.externalTrafficPolicy",
            ),
            (
                json!({"healthCheckNodePort": 70_000}),
                "spec.healthCheckNodePort",
            ),
            (json!({"sessionAffinity": "x"}), "spec.sessionAffinity"),
            (
                json!({
                    "sessionAffinity": "ClientIP",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
                }),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": -1}]}),
                "spec.ports[0].nodePort",
            ),
        ] {
            assert_eq!(field(spec, json!({})), expected);
        }
        let ingress = json!({"loadBalancer": {"ingress": [{"ip": "x"}]}});
        assert_eq!(
            field(json!({}), ingress),
            "status.loadBalancer.ingress[0].ip"
        );
        let annotated = json!({"metadata": {
            "name": "x",
            "namespace": "n",
            "annotations": {"weft/topology-keys": "*,zone"},
        }});
        assert_eq!(
            read_one(annotated).unwrap_err().field,
            "metadata.annotations[weft/topology-keys]"
        );
    }

    #[test]
    fn absent_conditions_mean_ready_and_serving() {
        let change = endpoint_slice(&read(json!({
            "metadata": {"name": "hello-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "hello"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "any"}],
            "endpoints": [
                {"addresses": ["10.244.0.1"], "targetRef": {"kind": "Pod", "name": "p"}},
                {"addresses": ["10.244.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            ],
        })));
        let Some(Change::Put(Object::EndpointSlice(slice))) = change else {
            panic!("{change:?}");
        };
        assert_eq!(slice.ports.len(), 1);
        assert!(slice.endpoints[0].ready && slice.endpoints[0].serving);
        assert_eq!(
            slice.endpoints[0].details.pod.as_ref(),
            Some(&ObjectKey::new("n", "p"))
        );
        assert!(
            !slice.endpoints[1].ready
                && slice.endpoints[1].serving
                && slice.endpoints[1].terminating
        );
    }

    #[test]
    fn a_node_is_leaving_when_it_is_deleted_or_its_autoscaler_says_so() {
        let leaving = |metadata: Value, taints: Value| {
            let object = read(json!({"metadata": metadata, "spec": {"taints": taints}}));
            match node(&object) {
                Some(Change::Put(Object::Node(node))) => node.leaving,
                other => panic!("{other:?}"),
            }
        };
        let taint = |key: &str| json!([{"key": key, "effect": "NoSchedule"}]);
        let plain = || json!({"name": "node-1"});
        assert!(!leaving(plain(), json!([])));
        assert!(!leaving(plain(), taint("node.kubernetes.io/unschedulable")));
        assert!(leaving(plain(), taint("ToBeDeletedByClusterAutoscaler")));
        let deleted = json!({"name": "node-1", "deletionTimestamp": "2024-01-02T03:04:05Z"});
        assert!(leaving(deleted, json!([])));
    }

    #[test]
    fn what_makes_no_sense_is_rejected_with_its_field() {
        let change = node(&read(json!({
            "metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.0.0/24", "nonsense"]},
        })));
        let Some(Change::Reject(Key::Node(_), rejection)) = change else {
            panic!("{change:?}");
        };
        assert_eq!(rejection.field, "spec.podCIDRs[1]");
        assert_eq!(
            rejection.reason,
            "\"nonsense\" is not a range like 10.244.1.0/24"
        );
    }

    #[test]
    fn a_slice_of_no_service_says_nothing() {
        assert!(
            endpoint_slice(&read(json!({
                "metadata": {"name": "x", "namespace": "n"}, "addressType": "IPv4", "endpoints": [],
            })))
            .is_none()
        );
    }
}
