//! Columns of networking.k8s.io.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, NAME, age, label_selector, name, or_none, shortened, text_column};
use crate::Column;
use crate::read::{at, list, text, texts};

pub(crate) const INGRESS: &[Column] = &[
    NAME,
    text_column("Class", "The class of controller that serves it."),
    text_column("Hosts", "Names its rules are for."),
    text_column("Address", "Addresses of the load balancer."),
    text_column("Ports", "Ports it is served at."),
    AGE,
];

pub(crate) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<String> = list(object, &["spec", "rules"])
        .iter()
        .map(|rule| text(rule, &["host"]).to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let mut addresses: Vec<&str> = list(object, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|ingress| match text(ingress, &["ip"]) {
            "" => text(ingress, &["hostname"]),
            address => address,
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    let ports = if list(object, &["spec", "tls"]).is_empty() {
        "80"
    } else {
        "80, 443"
    };
    let class = match at(object, &["spec", "ingressClassName"]) {
        Some(class) => class.clone(),
        None => "<none>".into(),
    };
    vec![
        name(object),
        class,
        shortened(&hosts, "*").into(),
        addresses.join(",").into(),
        ports.into(),
        age(object, now),
    ]
}

pub(crate) const INGRESS_CLASS: &[Column] = &[
    NAME,
    text_column("Controller", "Who serves Ingresses of this class."),
    text_column("Parameters", "The object with the controller's settings."),
    AGE,
];

pub(crate) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = at(object, &["spec", "parameters"]).map_or("<none>".to_owned(), |one| {
        let kind = text(one, &["kind"]);
        let name = text(one, &["name"]);
        match at(one, &["apiGroup"]).and_then(Value::as_str) {
            Some(group) => format!("{kind}.{group}/{name}"),
            None => format!("{kind}/{name}"),
        }
    });
    vec![
        name(object),
        text(object, &["spec", "controller"]).into(),
        parameters.into(),
        age(object, now),
    ]
}

pub(crate) const NETWORK_POLICY: &[Column] = &[
    NAME,
    text_column("Pod-Selector", "Labels of the pods it is for."),
    AGE,
];

pub(crate) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        label_selector(at(object, &["spec", "podSelector"])).into(),
        age(object, now),
    ]
}

pub(crate) const SERVICE_CIDR: &[Column] = &[
    NAME,
    text_column("CIDRs", "Ranges of addresses of Services."),
    AGE,
];

pub(crate) fn service_cidr(object: &Value, now: Timestamp) -> Vec<Value> {
    let ranges = texts(object, &["spec", "cidrs"]).join(",");
    vec![name(object), ranges.into(), age(object, now)]
}

pub(crate) const IP_ADDRESS: &[Column] = &[
    NAME,
    text_column("ParentRef", "The object that has the address."),
    AGE,
];

pub(crate) fn ip_address(object: &Value, now: Timestamp) -> Vec<Value> {
    let part = |field: &str| text(object, &["spec", "parentRef", field]);
    let resource = match part("group") {
        "" => part("resource").to_lowercase(),
        group => format!("{}.{group}", part("resource")).to_lowercase(),
    };
    let parent = match (part("namespace"), part("name")) {
        (_, "") => String::new(),
        ("", name) => format!("{resource}/{name}"),
        (namespace, name) => format!("{resource}/{namespace}/{name}"),
    };
    vec![name(object), or_none(parent).into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(row: fn(&Value, Timestamp) -> Vec<Value>, mut object: Value) -> Vec<Value> {
        object["metadata"] = json!({"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"});
        let mut cells = row(&object, "2024-01-01T00:05:00Z".parse().unwrap());
        assert_eq!(cells.remove(0), "a");
        assert_eq!(cells.pop().unwrap(), "5m");
        cells
    }

    #[test]
    fn ingresses() {
        assert_eq!(cells(ingress, json!({})), ["<none>", "*", "", "80"]);
        let full = json!({
            "spec": {"ingressClassName": "nginx", "tls": [{}],
                "rules": [{"host": "a"}, {}, {"host": "b"}, {"host": "c"}, {"host": "d"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}, {"hostname": "10.a"}]}}});
        assert_eq!(
            cells(ingress, full),
            ["nginx", "a,b,c + 1 more...", "10.0.0.2,10.a", "80, 443"]
        );
    }

    #[test]
    fn classes_policies_and_ranges() {
        let class = json!({"spec": {"controller": "a.io/b",
            "parameters": {"apiGroup": "g", "kind": "K", "name": "n"}}});
        assert_eq!(cells(ingress_class, class), ["a.io/b", "K.g/n"]);
        assert_eq!(
            cells(ingress_class, json!({"spec": {"controller": "a.io/b"}})),
            ["a.io/b", "<none>"]
        );
        let policy = json!({"spec": {"podSelector": {"matchLabels": {"b": "c"},
            "matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["y", "x"]}]}}});
        assert_eq!(cells(network_policy, policy), ["a notin (x,y),b=c"]);
        assert_eq!(
            cells(network_policy, json!({"spec": {"podSelector": {}}})),
            ["<none>"]
        );
        let ranges = json!({"spec": {"cidrs": ["10.0.0.0/8", "fd00::/112"]}});
        assert_eq!(cells(service_cidr, ranges), ["10.0.0.0/8,fd00::/112"]);
        let address = json!({"spec": {"parentRef":
            {"resource": "services", "namespace": "default", "name": "web"}}});
        assert_eq!(cells(ip_address, address), ["services/default/web"]);
        let other =
            json!({"spec": {"parentRef": {"group": "g.io", "resource": "as", "name": "b"}}});
        assert_eq!(cells(ip_address, other), ["as.g.io/b"]);
        assert_eq!(cells(ip_address, json!({})), ["<none>"]);
    }
}
