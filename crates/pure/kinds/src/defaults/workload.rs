//! Defaults of the workload kinds.

use serde_json::{Value, json};

use super::storage::claim_template;
use super::{default_below, existing, pod_template};
use crate::read::{at, default, default_text, list_mut, map_mut, text};

/// The template is there, said or not.
fn template(object: &mut Value) {
    let path = ["spec", "template"];
    if map_mut(object, &path).is_some()
        && let Some(template) = object.pointer_mut("/spec/template")
    {
        pod_template(template);
    }
}

pub(crate) fn deployment(object: &mut Value) {
    let Some(spec) = map_mut(object, &["spec"]) else {
        return;
    };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    rolling(object, "strategy", "25%", "25%");
    template(object);
}

pub(crate) fn replica_set(object: &mut Value) {
    if let Some(spec) = map_mut(object, &["spec"]) {
        default(spec, "replicas", 1);
    }
    template(object);
}

pub(crate) fn stateful_set(object: &mut Value) {
    let Some(spec) = map_mut(object, &["spec"]) else {
        return;
    };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default_text(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = map_mut(object, &["spec", "updateStrategy"])
        && strategy
            .get("type")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
    {
        default_text(strategy, "type", "RollingUpdate");
        default(strategy, "rollingUpdate", json!({}));
    }
    if text(object, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        let rolling = ["spec", "updateStrategy", "rollingUpdate"];
        default_below(object, &rolling, "partition", 0);
    }
    let policy = ["spec", "persistentVolumeClaimRetentionPolicy"];
    if let Some(policy) = map_mut(object, &policy) {
        default_text(policy, "whenDeleted", "Retain");
        default_text(policy, "whenScaled", "Retain");
    }
    for claim in list_mut(object, &["spec", "volumeClaimTemplates"]) {
        claim_template(claim);
    }
    template(object);
}

pub(crate) fn daemon_set(object: &mut Value) {
    if let Some(spec) = map_mut(object, &["spec"]) {
        default(spec, "revisionHistoryLimit", 10);
    }
    rolling(object, "updateStrategy", 1, 0);
    template(object);
}

fn rolling(
    object: &mut Value,
    field: &str,
    max_unavailable: impl Into<Value>,
    max_surge: impl Into<Value>,
) {
    if let Some(strategy) = map_mut(object, &["spec", field]) {
        default_text(strategy, "type", "RollingUpdate");
    }
    let rolls = at(object, &["spec", field, "type"]).is_some_and(|kind| kind == "RollingUpdate");
    if rolls && let Some(rolling) = map_mut(object, &["spec", field, "rollingUpdate"]) {
        default(rolling, "maxUnavailable", max_unavailable);
        default(rolling, "maxSurge", max_surge);
    }
    // A template keeps no empty map where a strategy of another type has none.
    if !rolls
        && existing(object, &["spec", field, "rollingUpdate"]).is_some_and(|map| map.is_empty())
        && let Some(strategy) = map_mut(object, &["spec", field])
    {
        strategy.remove("rollingUpdate");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies() {
        let mut object = json!({"spec": {"template": {"spec": {"containers": []}}}});
        deployment(&mut object);
        assert_eq!(
            object["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(
            object["spec"]["template"]["spec"]["dnsPolicy"],
            "ClusterFirst"
        );
        let mut set = json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "a"}}]}});
        stateful_set(&mut set);
        assert_eq!(
            set["spec"]["template"]["spec"]["restartPolicy"], "Always",
            "a template that is not said"
        );
        set["spec"].as_object_mut().unwrap().remove("template");
        assert_eq!(
            set["spec"],
            json!({"replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "persistentVolumeClaimRetentionPolicy":
                    {"whenDeleted": "Retain", "whenScaled": "Retain"},
                "volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "metadata": {"name": "a"}, "spec": {"volumeMode": "Filesystem"},
                    "status": {"phase": "Pending"}}]})
        );
        let mut set = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
        stateful_set(&mut set);
        assert_eq!(set["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
        let mut daemon = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
        daemon_set(&mut daemon);
        assert_eq!(
            daemon["spec"]["updateStrategy"],
            json!({"type": "OnDelete"})
        );
    }
}
