//! Services: what a change of type drops, and what a client may leave out.

use serde_json::{Value, json};

use super::{balanced_create, carry, keep_status};
use crate::read::{at, int, list, list_mut, map_mut, same, text};

/// An alias has no endpoints, so no policy which of them to take.
pub(crate) fn service_create(object: &mut Value) {
    balanced_create(object);
    if text(object, &["spec", "type"]) == "ExternalName"
        && let Some(spec) = map_mut(object, &["spec"])
    {
        spec.remove("internalTrafficPolicy");
    }
}

/// Drops what the new type of a Service has no use for, and carries over what the
/// client left out: addresses, node ports.
pub(crate) fn service_update(object: &mut Value, old: &Value) {
    keep_status(object, old);
    carry_allocations(object, old);
    drop_dependent_fields(object, old);
}

fn carry_allocations(object: &mut Value, old: &Value) {
    let kind = |service: &Value| text(service, &["spec", "type"]).to_owned();
    let needs_address = |service: &Value| kind(service) != "ExternalName";
    if needs_address(object) && needs_address(old) {
        if text(object, &["spec", "clusterIP"]).is_empty() {
            carry(object, old, &["spec"], "clusterIP");
        }
        if list(object, &["spec", "clusterIPs"]).is_empty()
            && text(object, &["spec", "clusterIP"]) == text(old, &["spec", "clusterIP"])
        {
            carry(object, old, &["spec"], "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if at(object, &["spec", field]).is_none() {
                carry(object, old, &["spec"], field);
            }
        }
    }
    carry_node_ports(object, old);
    let health = |service: &Value| {
        kind(service) == "LoadBalancer"
            && text(service, &["spec", "externalTrafficPolicy"]) == "Local"
    };
    if health(object)
        && health(old)
        && int(object, &["spec", "healthCheckNodePort"]).unwrap_or(0) == 0
    {
        carry(object, old, &["spec"], "healthCheckNodePort");
    }
}

/// A port that says no node port keeps the one that the port of its name had, unless both
/// versions use that one for another.
fn carry_node_ports(object: &mut Value, old: &Value) {
    if !draws_node_ports(object) || !draws_node_ports(old) {
        return;
    }
    let numbers = |service: &Value| -> Vec<i64> {
        let ports = list(service, &["spec", "ports"]).iter();
        ports
            .filter_map(|port| int(port, &["nodePort"]))
            .filter(|number| *number != 0)
            .collect()
    };
    let before = numbers(old);
    let both: Vec<i64> = numbers(object)
        .into_iter()
        .filter(|number| before.contains(number))
        .collect();
    let old_ports = list(old, &["spec", "ports"]);
    for port in list_mut(object, &["spec", "ports"]) {
        if int(port, &["nodePort"]).unwrap_or(0) != 0 {
            continue;
        }
        let name = text(port, &["name"]);
        let twin = old_ports.iter().rfind(|old| text(old, &["name"]) == name);
        let number = twin.and_then(|twin| int(twin, &["nodePort"])).unwrap_or(0);
        if number != 0
            && !both.contains(&number)
            && let Some(port) = port.as_object_mut()
        {
            port.insert("nodePort".to_owned(), number.into());
        }
    }
}

/// Whether ports of this Service get node ports without asking for them.
fn draws_node_ports(service: &Value) -> bool {
    match text(service, &["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => {
            at(service, &["spec", "allocateLoadBalancerNodePorts"]) != Some(&json!(false))
        }
        _ => false,
    }
}

/// Whether something outside the cluster reaches the Service.
fn reached_from_outside(service: &Value) -> bool {
    match text(service, &["spec", "type"]) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(service, &["spec", "externalIPs"]).is_empty(),
        _ => false,
    }
}

fn drop_dependent_fields(object: &mut Value, old: &Value) {
    let kind = text(object, &["spec", "type"]).to_owned();
    let old_kind = text(old, &["spec", "type"]).to_owned();
    let unchanged =
        |object: &Value, field: &str| same(at(object, &["spec", field]), at(old, &["spec", field]));
    let mut drop = Vec::new();
    if kind == "ExternalName" && old_kind != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if unchanged(object, field) {
                drop.push(field);
            }
        }
        if unchanged(object, "internalTrafficPolicy") {
            drop.push("internalTrafficPolicy");
        }
    }
    let external = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if reached_from_outside(old)
        && !reached_from_outside(object)
        && unchanged(object, "externalTrafficPolicy")
    {
        drop.push("externalTrafficPolicy");
    }
    if external(&old_kind) && !external(&kind) {
        let same_ports = same_node_ports(object, old);
        if same_ports {
            for port in list_mut(object, &["spec", "ports"]) {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
            }
        }
    }
    if old_kind == "LoadBalancer" && kind != "LoadBalancer" {
        for field in [
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
            "healthCheckNodePort",
        ] {
            if unchanged(object, field) {
                drop.push(field);
            }
        }
        drop_status_addresses(object);
    }
    let local = |service: &Value, kind: &str| {
        kind == "LoadBalancer" && text(service, &["spec", "externalTrafficPolicy"]) == "Local"
    };
    if local(old, &old_kind) && !local(object, &kind) && unchanged(object, "healthCheckNodePort") {
        drop.push("healthCheckNodePort");
    }
    if text(object, &["spec", "sessionAffinity"]) != "ClientIP"
        && unchanged(object, "sessionAffinityConfig")
    {
        drop.push("sessionAffinityConfig");
    }
    if let Some(spec) = map_mut(object, &["spec"]) {
        for field in drop {
            spec.remove(field);
        }
    }
}

/// Whether the new Service names no node port the old one had not.
fn same_node_ports(object: &Value, old: &Value) -> bool {
    let ports = |service: &Value| -> Vec<i64> {
        list(service, &["spec", "ports"])
            .iter()
            .filter_map(|port| int(port, &["nodePort"]))
            .collect()
    };
    let old = ports(old);
    ports(object).iter().all(|port| old.contains(port))
}

fn drop_status_addresses(object: &mut Value) {
    if let Some(status) = map_mut(object, &["status"]) {
        status.insert("loadBalancer".to_owned(), json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    #[test]
    fn a_service_keeps_its_addresses() {
        let kind = find_kind("", "v1", "Service").unwrap();
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [
            {"port": 80, "protocol": "TCP"}, {"name": "b", "port": 81, "protocol": "TCP"}]}});
        kind.prepare_update(&mut new, &old, None);
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.9"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        assert_eq!(new["spec"]["ports"][1].get("nodePort"), None);

        let mut alias = old.clone();
        alias["spec"]["type"] = "ExternalName".into();
        alias["spec"]["externalName"] = "example.com".into();
        kind.prepare_update(&mut alias, &old, None);
        assert_eq!(alias["spec"].get("clusterIP"), None);
        assert_eq!(alias["spec"]["ports"][0].get("nodePort"), None);
    }
}
