//! Defaults of Services and endpoints.

use serde_json::{Value, json};

use super::default_below;
use crate::read::{at, default, default_text, list, list_mut, map_mut, text};

/// Three hours (Kubernetes API, `ClientIPConfig.timeoutSeconds`).
const AFFINITY_SECONDS: i64 = 10800;

pub(crate) fn service(object: &mut Value) {
    let Some(spec) = map_mut(object, &["spec"]) else {
        return;
    };
    default_text(spec, "type", "ClusterIP");
    default_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    }
    let kind = spec["type"].as_str().unwrap_or("").to_owned();
    let affine = spec["sessionAffinity"] == "ClientIP";
    if affine && let Some(client) = map_mut(object, &["spec", "sessionAffinityConfig", "clientIP"])
    {
        default(client, "timeoutSeconds", AFFINITY_SECONDS);
    }
    for port in list_mut(object, &["spec", "ports"]) {
        let number = at(port, &["port"]).cloned().unwrap_or(json!(0));
        let Some(port) = port.as_object_mut() else {
            continue;
        };
        default_text(port, "protocol", "TCP");
        let target = port.entry("targetPort").or_insert(Value::Null);
        if target.is_null() || *target == json!(0) || *target == json!("") {
            *target = number;
        }
    }
    let reachable = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !list(object, &["spec", "externalIPs"]).is_empty());
    if let Some(spec) = map_mut(object, &["spec"]) {
        if reachable {
            default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            default(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
    }
    if kind == "LoadBalancer" {
        for ingress in list_mut(object, &["status", "loadBalancer", "ingress"]) {
            if !text(ingress, &["ip"]).is_empty() {
                default_below(ingress, &[], "ipMode", "VIP");
            }
        }
    }
}

pub(crate) fn endpoints(object: &mut Value) {
    for subset in list_mut(object, &["subsets"]) {
        for port in list_mut(subset, &["ports"]) {
            if let Some(port) = port.as_object_mut() {
                default_text(port, "protocol", "TCP");
            }
        }
    }
}

pub(crate) fn endpoint_slice(object: &mut Value) {
    for endpoint in list_mut(object, &["endpoints"]) {
        if let Some(endpoint) = endpoint.as_object_mut() {
            default(endpoint, "conditions", json!({}));
        }
    }
    for port in list_mut(object, &["ports"]) {
        if let Some(port) = port.as_object_mut() {
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_of_one_port() {
        let mut object = json!({"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        service(&mut object);
        assert_eq!(
            object["spec"],
            json!({"selector": {"app": "web"}, "type": "ClusterIP", "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
        );
        let again = object.clone();
        service(&mut object);
        assert_eq!(object, again);
    }

    #[test]
    fn affinity_and_exposure() {
        let mut object = json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}});
        service(&mut object);
        assert_eq!(
            object["spec"],
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                "allocateLoadBalancerNodePorts": true})
        );
        let mut alias = json!({"spec": {"type": "ExternalName", "externalName": "x.org"}});
        service(&mut alias);
        assert_eq!(alias["spec"].get("internalTrafficPolicy"), None);
    }
}
