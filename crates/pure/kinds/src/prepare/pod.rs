//! Pods: what admission adds, and the class of service that follows from resources.

use serde_json::{Value, json};

use super::keep_status;
use crate::Quantity;
use crate::read::{at, default, default_text, list, map_mut, text};

/// What the admission plugins of Kubernetes add to a pod: its account, its priority, and
/// five minutes of patience with a node that is lost.
fn admit_pod(object: &mut Value) {
    tolerate_lost_nodes(object);
    let Some(spec) = map_mut(object, &["spec"]) else {
        return;
    };
    default_text(spec, "serviceAccountName", "default");
    let account = spec["serviceAccountName"].clone();
    spec.insert("serviceAccount".to_owned(), account);
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    let priority = match spec.get("priorityClassName").and_then(Value::as_str) {
        Some("system-cluster-critical") => 2_000_000_000,
        Some("system-node-critical") => 2_000_001_000,
        _ => 0,
    };
    default(spec, "priority", priority);
}

/// Five minutes of patience with a node that is lost, unless the pod says how long.
fn tolerate_lost_nodes(object: &mut Value) {
    const LOST: [&str; 2] = [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ];
    let tolerated = |key: &str| {
        list(object, &["spec", "tolerations"]).iter().any(|one| {
            let own = text(one, &["key"]);
            (own == key || own.is_empty()) && matches!(text(one, &["effect"]), "" | "NoExecute")
        })
    };
    let missing: Vec<Value> = LOST
        .iter()
        .filter(|key| !tolerated(key))
        .map(|key| {
            json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
        })
        .collect();
    if let Some(spec) = map_mut(object, &["spec"])
        && !missing.is_empty()
    {
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        match tolerations.as_array_mut() {
            Some(list) => list.extend(missing),
            None => *tolerations = missing.into(),
        }
    }
}

/// At the main endpoint status does not change, and admission looks at the pod again.
pub(crate) fn pod_update(object: &mut Value, old: &Value) {
    keep_status(object, old);
    tolerate_lost_nodes(object);
}

pub(crate) fn pod_create(object: &mut Value) {
    admit_pod(object);
    let qos = quality_of_service(object);
    if let Some(map) = object.as_object_mut() {
        map.insert(
            "status".to_owned(),
            json!({"phase": "Pending", "qosClass": qos}),
        );
    }
    let gated = !list(object, &["spec", "schedulingGates"]).is_empty();
    if gated && let Some(status) = map_mut(object, &["status"]) {
        status.insert(
            "conditions".to_owned(),
            json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"}]),
        );
    }
}

/// The QoS class: Guaranteed if every container limits CPU and memory to what it
/// requests, BestEffort if none says anything.
fn quality_of_service(pod: &Value) -> &'static str {
    const RESOURCES: [&str; 2] = ["cpu", "memory"];
    let containers = || {
        list(pod, &["spec", "containers"])
            .iter()
            .chain(list(pod, &["spec", "initContainers"]))
    };
    let amount = |container: &Value, group: &str, resource: &str| {
        let value = at(container, &["resources", group, resource])?;
        let shown = value
            .as_str()
            .map(str::to_owned)
            .unwrap_or_else(|| value.to_string());
        Quantity::parse(&shown)
            .ok()
            .filter(|amount| *amount != Quantity::default())
    };
    let silent = containers().all(|container| {
        RESOURCES.iter().all(|resource| {
            amount(container, "limits", resource).is_none()
                && amount(container, "requests", resource).is_none()
        })
    });
    if silent {
        return "BestEffort";
    }
    let guaranteed = containers().all(|container| {
        RESOURCES.iter().all(|resource| {
            let limit = amount(container, "limits", resource);
            let request = amount(container, "requests", resource);
            limit.is_some() && (request.is_none() || request == limit)
        })
    });
    if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    #[test]
    fn pods_start_pending_with_a_class() {
        let kind = find_kind("", "v1", "Pod").unwrap();
        let class = |resources: Value| {
            let mut pod = json!({"spec": {"containers": [{"name": "a", "resources": resources}]},
                "status": {"phase": "Running"}});
            kind.prepare_create(&mut pod);
            assert_eq!(pod["status"]["phase"], "Pending");
            pod["status"]["qosClass"].as_str().unwrap().to_owned()
        };
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(
            class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})),
            "Guaranteed"
        );
    }
}
