//! Columns of Services and endpoints.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, NAME, age, labels, name, or_none, shortened, text_column, wide};
use crate::Column;
use crate::read::{int, list, text, texts};

pub(crate) const SERVICE: &[Column] = &[
    NAME,
    text_column("Type", "How the Service is exposed."),
    text_column("Cluster-IP", "Address inside the cluster."),
    text_column("External-IP", "Addresses outside the cluster."),
    text_column("Port(s)", "Ports, with node ports and protocols."),
    AGE,
    wide("Selector", "Labels of the pods behind it."),
];

pub(crate) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let cluster_ip = match text(object, &["spec", "clusterIP"]) {
        "" => "<none>",
        address => address,
    };
    vec![
        name(object),
        text(object, &["spec", "type"]).into(),
        cluster_ip.into(),
        external(object).into(),
        ports(object).into(),
        age(object, now),
        labels(object, &["spec", "selector"]).into(),
    ]
}

fn external(service: &Value) -> String {
    let given = texts(service, &["spec", "externalIPs"]);
    match text(service, &["spec", "type"]) {
        "ExternalName" => text(service, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let mut addresses: Vec<&str> = list(service, &["status", "loadBalancer", "ingress"])
                .iter()
                .map(|ingress| match text(ingress, &["ip"]) {
                    "" => text(ingress, &["hostname"]),
                    address => address,
                })
                .filter(|address| !address.is_empty())
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
            match (addresses.is_empty(), given.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (true, false) => given.join(","),
                (false, true) => addresses.join(","),
                (false, false) => [addresses, given].concat().join(","),
            }
        }
        _ => or_none(given.join(",")),
    }
}

fn ports(service: &Value) -> String {
    let ports: Vec<String> = list(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let number = int(port, &["port"]).unwrap_or(0);
            let protocol = text(port, &["protocol"]);
            match int(port, &["nodePort"]) {
                Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    or_none(ports.join(","))
}

pub(crate) const ENDPOINTS: &[Column] =
    &[NAME, text_column("Endpoints", "Addresses and ports."), AGE];

pub(crate) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let subsets = list(object, &["subsets"]);
    let mut all: Vec<String> = Vec::new();
    for subset in subsets {
        let addresses = list(subset, &["addresses"]);
        let ports = list(subset, &["ports"]);
        if ports.is_empty() {
            all.extend(addresses.iter().map(|one| text(one, &["ip"]).to_owned()));
        }
        for port in ports {
            let number = int(port, &["port"]).unwrap_or(0);
            all.extend(
                addresses
                    .iter()
                    .map(|one| join_host(text(one, &["ip"]), number)),
            );
        }
    }
    // Subsets whose addresses are not ready show as nothing at all.
    let empty = if subsets.is_empty() { "<none>" } else { "" };
    vec![
        name(object),
        shortened(&all, empty).into(),
        age(object, now),
    ]
}

fn join_host(address: &str, port: i64) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

pub(crate) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text_column("AddressType", "IPv4, IPv6 or FQDN."),
    text_column("Ports", "Ports of every endpoint."),
    text_column("Endpoints", "Addresses of the endpoints."),
    AGE,
];

pub(crate) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(object, &["ports"])
        .iter()
        .map(|port| match int(port, &["port"]) {
            Some(number) => number.to_string(),
            None => match text(port, &["name"]) {
                "" => "*".to_owned(),
                name => name.to_owned(),
            },
        })
        .collect();
    let addresses: Vec<String> = list(object, &["endpoints"])
        .iter()
        .flat_map(|endpoint| texts(endpoint, &["addresses"]))
        .map(str::to_owned)
        .collect();
    vec![
        name(object),
        text(object, &["addressType"]).into(),
        shortened(&ports, "<unset>").into(),
        shortened(&addresses, "<unset>").into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services() {
        let now: Timestamp = "2024-01-01T00:05:00Z".parse().unwrap();
        let object = json!({"metadata": {"name": "web", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"type": "NodePort", "clusterIP": "10.96.0.20", "selector": {"app": "web", "a": "b"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(
            service(&object, now),
            vec![
                json!("web"),
                json!("NodePort"),
                json!("10.96.0.20"),
                json!("<none>"),
                json!("80:30080/TCP,53/UDP"),
                json!("5m"),
                json!("a=b,app=web")
            ]
        );
        let pending = json!({"spec": {"type": "LoadBalancer"}});
        assert_eq!(external(&pending), "<pending>");
    }

    #[test]
    fn endpoints_that_are_not_ready_leave_the_column_blank() {
        let shown = |subsets: Value| {
            let object = json!({"metadata": {"name": "web"}, "subsets": subsets});
            endpoints(&object, Timestamp::UNIX_EPOCH)[1].clone()
        };
        assert_eq!(shown(json!([])), "<none>");
        let ports = json!([{"port": 80}]);
        let addresses = json!([{"ip": "192.0.2.1"}]);
        let waiting = json!([{"notReadyAddresses": addresses, "ports": ports}]);
        assert_eq!(shown(waiting), "");
        let ready = json!([{"addresses": addresses, "ports": ports}]);
        assert_eq!(shown(ready), "192.0.2.1:80");
    }

    #[test]
    fn slices() {
        let endpoints: Vec<Value> = (1..=5)
            .map(|n| json!({"addresses": [format!("10.0.0.{n}")]}))
            .collect();
        let object = json!({"metadata": {"name": "web-x"}, "addressType": "IPv4",
            "ports": [{"port": 80}], "endpoints": endpoints});
        let cells = endpoint_slice(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[2], "80");
        assert_eq!(cells[3], "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more...");
    }
}
