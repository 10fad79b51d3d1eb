//! Rules of StatefulSets and of the revisions of sets.

use serde_json::{Map, Value};

use super::metadata::annotations;
use super::rules::{counter, dns_label, immutable, not_negative};
use super::workload::{runs_always, selected_template};
use crate::read::{at, int, map, same, text};
use crate::syntax::is_dns1123_subdomain;
use crate::{FieldError, Path};

const RETENTION: &[&str] = &["Delete", "Retain"];
/// What of the spec may change.
const MUTABLE: &[&str] = &[
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "replicas",
    "revisionHistoryLimit",
    "template",
    "updateStrategy",
];

pub(crate) fn stateful_set(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let management = text(object, &["spec", "podManagementPolicy"]);
    let path = spec.child("podManagementPolicy");
    match management {
        "" => errors.push(FieldError::required(&path, "")),
        "OrderedReady" | "Parallel" => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.push(FieldError::invalid(&path, other, detail));
        }
    }
    update_strategy(&mut errors, object);
    let policy = spec.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let value = text(
            object,
            &["spec", "persistentVolumeClaimRetentionPolicy", field],
        );
        if !RETENTION.contains(&value) {
            let path = policy.child(field);
            errors.push(FieldError::not_supported(&path, value, RETENTION));
        }
    }
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        counter(&mut errors, object, field);
    }
    let start = int(object, &["spec", "ordinals", "start"]);
    not_negative(&mut errors, &spec.child("ordinals").child("start"), start);
    let empty_selector = "empty selector is invalid for statefulset";
    selected_template(&mut errors, object, empty_selector);
    annotations(
        &mut errors,
        &spec.child("template").child("annotations"),
        at(object, &["spec", "template"]).unwrap_or(&Value::Null),
    );
    // As in Kubernetes: what else is wrong with the pods is said when one is made.
    runs_always(&mut errors, object);
    errors
}

/// A new set's name is that of its pods, and so a label of DNS.
pub(crate) fn stateful_set_create(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(object, &["metadata", "name"]);
    let path = Path::new("metadata").child("name");
    if is_dns1123_subdomain(name).is_empty() {
        dns_label(&mut errors, &path, name);
    }
    errors
}

fn update_strategy(errors: &mut Vec<FieldError>, object: &Value) {
    let path = Path::new("spec").child("updateStrategy");
    let rolling = at(object, &["spec", "updateStrategy", "rollingUpdate"]);
    let rolling_path = path.child("rollingUpdate");
    match (text(object, &["spec", "updateStrategy", "type"]), rolling) {
        ("", _) => errors.push(FieldError::required(&path, "")),
        ("OnDelete", Some(rolling)) => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(&rolling_path, rolling.clone(), detail));
        }
        ("RollingUpdate", Some(rolling)) => {
            let partition = int(rolling, &["partition"]);
            not_negative(errors, &rolling_path.child("partition"), partition);
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => {
            let value = at(object, &["spec", "updateStrategy"]).cloned();
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            let value = value.unwrap_or(Value::Null);
            errors.push(FieldError::invalid(&path, value, detail));
        }
    }
}

pub(crate) fn stateful_set_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let empty = Map::new();
    let new = map(object, &["spec"]).unwrap_or(&empty);
    let had = map(old, &["spec"]).unwrap_or(&empty);
    let changed = new
        .keys()
        .chain(had.keys())
        .any(|field| !MUTABLE.contains(&field.as_str()) && !same(new.get(field), had.get(field)));
    if !changed {
        return Vec::new();
    }
    let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    vec![FieldError::forbidden(&Path::new("spec"), detail)]
}

pub(crate) fn stateful_set_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let status = Path::new("status");
    let count = |field: &str| int(object, &["status", field]).unwrap_or(0);
    for field in [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        not_negative(&mut errors, &status.child(field), Some(count(field)));
    }
    for (field, limit) in [
        ("readyReplicas", "replicas"),
        ("currentReplicas", "replicas"),
        ("updatedReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ] {
        if count(field) > count(limit) {
            let detail = format!("cannot be greater than status.{limit}");
            let path = status.child(field);
            errors.push(FieldError::invalid(&path, count(field), detail));
        }
    }
    let collisions = int(old, &["status", "collisionCount"]).unwrap_or(0);
    if count("collisionCount") < collisions {
        let path = status.child("collisionCount");
        let detail = "cannot be decremented";
        errors.push(FieldError::invalid(&path, count("collisionCount"), detail));
    }
    errors
}

pub(crate) fn controller_revision(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if at(object, &["data"]).is_none() {
        errors.push(FieldError::required(
            &Path::new("data"),
            "data is mandatory",
        ));
    }
    let revision = int(object, &["revision"]);
    not_negative(&mut errors, &Path::new("revision"), revision);
    errors
}

pub(crate) fn controller_revision_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    immutable(&mut errors, &Path::new("data"), &["data"], object, old);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;
    use serde_json::json;

    fn lines(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn set(change: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {
            "serviceName": "a", "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [
                {"name": "a", "image": "b", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}});
        for (key, value) in change.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        let kind = find_kind("apps", "v1", "StatefulSet").unwrap();
        kind.set_defaults(&mut object);
        object
    }

    #[test]
    fn sets() {
        assert_eq!(stateful_set(&set(json!({}))), []);
        // What its pods mount is said when one is made.
        let mounts_nothing = set(json!({"volumeClaimTemplates": []}));
        assert_eq!(stateful_set(&mounts_nothing), []);
        for (change, expected) in [
            (
                json!({"podManagementPolicy": "Random"}),
                r#"spec.podManagementPolicy: Invalid value: "Random": must be 'OrderedReady' or 'Parallel'"#,
            ),
            (
                json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
                r#"spec.updateStrategy.rollingUpdate: Invalid value: {"partition":1}: only allowed for updateStrategy 'RollingUpdate'"#,
            ),
            (
                json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": -1}}}),
                "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"updateStrategy": {"type": "Never"}}),
                r#"spec.updateStrategy: Invalid value: {"type":"Never"}: must be 'RollingUpdate' or 'OnDelete'"#,
            ),
            (
                json!({"replicas": -1}),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Keep"}}),
                r#"spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Keep": supported values: "Delete", "Retain""#,
            ),
            (
                json!({"template": {"metadata": {"labels": {"app": "a", "b": "c d"}}}}),
                r#"spec.template.labels: Invalid value: "c d": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#,
            ),
            (
                json!({"template": {"metadata": {"labels": {"app": "a"}},
                    "spec": {"restartPolicy": "Never"}}}),
                r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#,
            ),
        ] {
            assert_eq!(
                lines(&stateful_set(&set(change.clone()))),
                [expected],
                "{change}"
            );
        }
    }

    #[test]
    fn only_some_of_a_set_changes() {
        let old = set(json!({}));
        let new = set(
            json!({"replicas": 3, "minReadySeconds": 2, "revisionHistoryLimit": 1,
            "ordinals": {"start": 1}}),
        );
        assert_eq!(stateful_set_update(&new, &old), []);
        let new = set(json!({"serviceName": "other"}));
        assert_eq!(
            lines(&stateful_set_update(&new, &old)),
            [
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
            ]
        );
    }

    #[test]
    fn counts_of_the_status_fit_together() {
        let status = |status: Value| json!({ "status": status });
        let old = status(json!({"collisionCount": 2}));
        let good =
            json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1, "collisionCount": 2});
        assert_eq!(stateful_set_status(&status(good), &old), []);
        let bad = json!({"replicas": 1, "readyReplicas": 2, "collisionCount": 1});
        assert_eq!(
            lines(&stateful_set_status(&status(bad), &old)),
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.collisionCount: Invalid value: 1: cannot be decremented"
            ]
        );
    }

    #[test]
    fn revisions() {
        let revision = json!({"data": {"spec": {}}, "revision": 1});
        assert_eq!(controller_revision(&revision), []);
        assert_eq!(
            lines(&controller_revision(&json!({"revision": -1}))),
            [
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
        assert_eq!(
            lines(&controller_revision_update(
                &json!({"data": {"a": 1}, "revision": 2}),
                &revision
            )),
            [r#"data: Invalid value: {"a":1}: field is immutable"#]
        );
    }
}
