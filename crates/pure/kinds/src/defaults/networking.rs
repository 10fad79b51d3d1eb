//! Defaults of networking.k8s.io.

use serde_json::{Value, json};

use super::default_below;
use crate::read::{default, list, list_mut, map_mut};

/// A policy that says no type is for incoming traffic, and for outgoing traffic if it
/// has rules for it.
pub(crate) fn network_policy(object: &mut Value) {
    for direction in ["ingress", "egress"] {
        for rule in list_mut(object, &["spec", direction]) {
            for port in list_mut(rule, &["ports"]) {
                if let Some(port) = port.as_object_mut() {
                    default(port, "protocol", "TCP");
                }
            }
        }
    }
    let untyped = list(object, &["spec", "policyTypes"]).is_empty();
    let types = if list(object, &["spec", "egress"]).is_empty() {
        json!(["Ingress"])
    } else {
        json!(["Ingress", "Egress"])
    };
    if let Some(spec) = map_mut(object, &["spec"]) {
        default(spec, "podSelector", json!({}));
        if untyped {
            spec.insert("policyTypes".to_owned(), types);
        }
    }
}

pub(crate) fn ingress_class(object: &mut Value) {
    default_below(object, &["spec", "parameters"], "scope", "Cluster");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        for (spec, expected) in [
            (
                json!({}),
                json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
            ),
            (
                json!({"policyTypes": ["Egress"], "podSelector": {"matchLabels": {"a": "b"}}}),
                json!({"policyTypes": ["Egress"], "podSelector": {"matchLabels": {"a": "b"}}}),
            ),
            (
                json!({"egress": [{"ports": [{"port": 53}, {"protocol": "UDP"}]}]}),
                json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                    "egress": [{"ports": [{"port": 53, "protocol": "TCP"}, {"protocol": "UDP"}]}]}),
            ),
        ] {
            let mut object = json!({ "spec": spec });
            network_policy(&mut object);
            assert_eq!(object["spec"], expected);
        }
    }

    #[test]
    fn parameters_are_of_the_cluster() {
        let mut class = json!({"spec": {"controller": "a.io/b"}});
        ingress_class(&mut class);
        assert_eq!(class["spec"], json!({"controller": "a.io/b"}));
        class["spec"]["parameters"] = json!({"kind": "a", "name": "b"});
        ingress_class(&mut class);
        assert_eq!(class["spec"]["parameters"]["scope"], "Cluster");
    }
}
