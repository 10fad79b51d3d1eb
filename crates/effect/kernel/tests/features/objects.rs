//! The objects of a cluster of which one node is there, with three pods.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft_desired::IpFamily;
use weft_model::{Object, ObjectKey};

use crate::scene::pod::pod_addresses;

pub(crate) const NODE: &str = "node-1";

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn node_address(family: IpFamily) -> IpAddr {
    in_family(family, ["172.30.0.11", "fd00:172:30::11"])
}

pub(crate) fn outside_address(family: IpFamily) -> IpAddr {
    in_family(family, ["172.30.0.2", "fd00:172:30::2"])
}

pub(crate) fn in_family(family: IpFamily, texts: [&str; 2]) -> IpAddr {
    match family {
        IpFamily::V4 => texts[0].parse().unwrap(),
        IpFamily::V6 => texts[1].parse().unwrap(),
    }
}

pub(crate) fn node_addresses() -> BTreeSet<IpAddr> {
    IpFamily::BOTH.map(node_address).into()
}

pub(crate) fn pod_address(family: IpFamily, number: u8) -> IpAddr {
    let [v4, v6] = pod_addresses(number);
    match family {
        IpFamily::V4 => v4,
        IpFamily::V6 => v6,
    }
}

/// The address of the Service of a number.
pub(crate) fn cluster_ip(family: IpFamily, number: u8) -> IpAddr {
    let texts = [format!("10.96.0.{number}"), format!("fd00:10:96::{number}")];
    in_family(family, texts.each_ref().map(String::as_str))
}

/// An address that `outside` sends to the node.
pub(crate) fn beyond(family: IpFamily, number: u8) -> IpAddr {
    let texts = [
        format!("198.51.100.{number}"),
        format!("2001:db8:51::{number}"),
    ];
    in_family(family, texts.each_ref().map(String::as_str))
}

pub(crate) fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// The node and its pods.
pub(crate) fn scene() -> Vec<Object> {
    let node = object(json!({
        "name": NODE,
        "internal_ips": IpFamily::BOTH.map(node_address),
        "pod_cidrs": ["10.244.0.0/16", "fd00:10:244::/48"],
    }));
    let pod = |number| {
        Object::Pod(object(json!({
            "key": ObjectKey::new("default", &format!("pod-{number}")),
            "uid": format!("pod-{number}"),
            "node": NODE,
            "ips": pod_addresses(number),
            "ready": true,
        })))
    };
    [Object::Node(node), pod(1), pod(2), pod(3)].into()
}

/// A Service of its number, of TCP and UDP at port 80, with more or other fields.
pub(crate) fn service(number: u8, more: Value) -> Object {
    let node_port = more.get("node_port").and_then(Value::as_u64);
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 80, "node_port": node_port});
    let own = IpFamily::BOTH.map(|family| cluster_ip(family, number));
    let mut value = json!({
        "key": ObjectKey::new("default", &format!("s{number}")),
        "uid": format!("s{number}"),
        "service_type": "LoadBalancer",
        "address": {"Virtual": own},
        "ports": [port("web", "TCP"), port("talk", "UDP")],
    });
    for (key, field) in more.as_object().unwrap() {
        if key != "node_port" {
            value[key] = field.clone();
        }
    }
    Object::Service(object(value))
}

/// An endpoint of a slice: a pod of this node, as it is; with more or other fields.
pub(crate) fn pod(number: u8, more: Value) -> impl Fn(IpFamily) -> Value {
    endpoint([pod_addresses(number)[0], pod_addresses(number)[1]], more)
}

/// An endpoint at these addresses.
pub(crate) fn endpoint(addresses: [IpAddr; 2], more: Value) -> impl Fn(IpFamily) -> Value {
    move |family| {
        let address = addresses.iter().find(|address| family.has(**address));
        let mut value = json!({
            "addresses": [address.unwrap()],
            "ready": true,
            "serving": true,
            "terminating": false,
            "node": NODE,
        });
        for (key, field) in more.as_object().into_iter().flatten() {
            value[key] = field.clone();
        }
        value
    }
}

/// The slices of a Service with these endpoints, which all have port 8080.
pub(crate) fn slices(number: u8, endpoints: &[&dyn Fn(IpFamily) -> Value]) -> Vec<Object> {
    slices_with(
        number,
        "all",
        &json!({"web": 8080, "talk": 8080}),
        endpoints,
    )
}

/// Slices of a name whose endpoints have these ports.
pub(crate) fn slices_with(
    number: u8,
    name: &str,
    ports: &Value,
    endpoints: &[&dyn Fn(IpFamily) -> Value],
) -> Vec<Object> {
    let ports = ports.as_object().unwrap().iter();
    let ports: Vec<Value> = ports
        .map(|(name, port)| {
            let protocol = match name.as_str() {
                "talk" => "UDP",
                "call" => "SCTP",
                _ => "TCP",
            };
            json!({"name": name, "protocol": protocol, "port": port})
        })
        .collect();
    let slice = |family: IpFamily| {
        let endpoints: Vec<Value> = endpoints.iter().map(|it| it(family)).collect();
        Object::EndpointSlice(object(json!({
            "key": ObjectKey::new("default", &format!("s{number}-{name}-{family}")),
            "service": ObjectKey::new("default", &format!("s{number}")),
            "family": family.to_string(),
            "ports": ports,
            "endpoints": endpoints,
        })))
    };
    IpFamily::BOTH.map(slice).into()
}

/// A Service and its slices, with pods of this node by their numbers.
pub(crate) fn served(number: u8, more: Value, pods: &[u8]) -> Vec<Object> {
    let pods: Vec<_> = pods.iter().map(|it| pod(*it, json!({}))).collect();
    let pods: Vec<&dyn Fn(IpFamily) -> Value> = pods.iter().map(|it| it as _).collect();
    let mut objects = vec![service(number, more)];
    objects.extend(slices(number, &pods));
    objects
}
