//! Rules of workloads: a selector that matches its own template, a strategy that can move.

use serde_json::{Value, json};

use super::pod::pod_spec;
use super::rules::{
    count_or_percent, counter, immutable, label_selector, labels, not_negative, one_of, percent,
    selects, selects_all,
};
use crate::read::{at, int, map, text};
use crate::{FieldError, Path};

/// A selector, and the template of the pods it selects.
fn template(errors: &mut Vec<FieldError>, object: &Value, empty_selector: &str) {
    selected_template(errors, object, empty_selector);
    let pod = at(object, &["spec", "template", "spec"]).unwrap_or(&Value::Null);
    pod_spec(
        errors,
        &Path::new("spec").child("template").child("spec"),
        pod,
    );
    runs_always(errors, object);
}

/// A selector, and the labels that it selects.
pub(super) fn selected_template(
    errors: &mut Vec<FieldError>,
    object: &Value,
    empty_selector: &str,
) {
    let spec = Path::new("spec");
    let selector_path = spec.child("selector");
    let template = spec.child("template");
    let template_labels = map(object, &["spec", "template", "metadata", "labels"]);
    let labels_path = template.child("metadata").child("labels");
    let mismatch = |errors: &mut Vec<FieldError>| {
        let value = template_labels.map_or(json!({}), |labels| json!(labels));
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(&labels_path, value, detail));
    };
    match at(object, &["spec", "selector"]) {
        // What is not there matches nothing; of a DaemonSet Kubernetes says only that.
        None => {
            if text(object, &["kind"]) != "DaemonSet" {
                errors.push(FieldError::required(&selector_path, ""));
            }
            mismatch(errors);
        }
        Some(selector) => {
            label_selector(errors, &selector_path, selector);
            if selects_all(selector) {
                errors.push(FieldError::invalid(
                    &selector_path,
                    selector.clone(),
                    empty_selector,
                ));
            } else if !selects(selector, template_labels) {
                mismatch(errors);
            }
        }
    }
    labels(errors, &template.child("labels"), template_labels);
}

/// Pods that are replaced run until they are deleted.
pub(super) fn runs_always(errors: &mut Vec<FieldError>, object: &Value) {
    let pod = at(object, &["spec", "template", "spec"]).unwrap_or(&Value::Null);
    let pod_path = Path::new("spec").child("template").child("spec");
    let restart = text(pod, &["restartPolicy"]);
    if !matches!(restart, "" | "Always") {
        let path = pod_path.child("restartPolicy");
        errors.push(FieldError::not_supported(&path, restart, &["Always"]));
    }
    if at(pod, &["activeDeadlineSeconds"]).is_some() {
        let path = pod_path.child("activeDeadlineSeconds");
        let kind = match text(object, &["kind"]) {
            // A Deployment's pods are those of its ReplicaSets.
            "Deployment" | "" => "ReplicaSet",
            other => other,
        };
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(&path, detail));
    }
}

pub(crate) fn replica_set(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    counter(&mut errors, object, "replicas");
    counter(&mut errors, object, "minReadySeconds");
    template(
        &mut errors,
        object,
        "empty selector is invalid for deployment",
    );
    errors
}

pub(crate) fn deployment(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    counter(&mut errors, object, "replicas");
    template(
        &mut errors,
        object,
        "empty selector is invalid for deployment",
    );
    strategy(&mut errors, object);
    counter(&mut errors, object, "minReadySeconds");
    counter(&mut errors, object, "revisionHistoryLimit");
    counter(&mut errors, object, "progressDeadlineSeconds");
    let ready = int(object, &["spec", "minReadySeconds"]).unwrap_or(0);
    if let Some(deadline) = int(object, &["spec", "progressDeadlineSeconds"])
        && deadline <= ready
    {
        let path = Path::new("spec").child("progressDeadlineSeconds");
        let detail = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid(&path, deadline, detail));
    }
    errors
}

fn strategy(errors: &mut Vec<FieldError>, object: &Value) {
    let path = Path::new("spec").child("strategy");
    let kind = text(object, &["spec", "strategy", "type"]);
    let rolling = at(object, &["spec", "strategy", "rollingUpdate"]);
    // Kubernetes complains of the whole strategy.
    one_of(errors, &path, kind, &["Recreate", "RollingUpdate"]);
    let path = path.child("rollingUpdate");
    match (kind, rolling) {
        ("Recreate", Some(_)) => errors.push(FieldError::forbidden(
            &path,
            "may not be specified when strategy `type` is 'Recreate'",
        )),
        ("RollingUpdate", None) => errors.push(FieldError::required(
            &path,
            "this should be defaulted and never be nil",
        )),
        ("RollingUpdate", Some(rolling)) => {
            bounds(errors, &path, rolling);
            if is_zero(rolling, "maxUnavailable") && is_zero(rolling, "maxSurge") {
                let value = at(rolling, &["maxUnavailable"])
                    .cloned()
                    .unwrap_or(json!(0));
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(
                    &path.child("maxUnavailable"),
                    value,
                    detail,
                ));
            }
        }
        _ => {}
    }
}

/// `maxUnavailable` and `maxSurge` one by one.
fn bounds(errors: &mut Vec<FieldError>, path: &Path, rolling: &Value) {
    for field in ["maxUnavailable", "maxSurge"] {
        count_or_percent(errors, &path.child(field), at(rolling, &[field]));
    }
    let unavailable = at(rolling, &["maxUnavailable"]).and_then(Value::as_str);
    if let Some(text) = unavailable
        && percent(text).is_some_and(|percent| percent > 100)
    {
        let path = path.child("maxUnavailable");
        errors.push(FieldError::invalid(
            &path,
            text,
            "must not be greater than 100%",
        ));
    }
}

fn is_zero(rolling: &Value, field: &str) -> bool {
    match at(rolling, &[field]) {
        None => true,
        Some(Value::String(text)) => percent(text) == Some(0),
        Some(other) => other.as_i64() == Some(0),
    }
}

/// A text that is no percentage counts nothing.
fn counts_nothing(rolling: &Value, field: &str) -> bool {
    let value = at(rolling, &[field]).and_then(Value::as_str);
    is_zero(rolling, field) || value.is_some_and(|text| percent(text).is_none())
}

pub(crate) fn daemon_set(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    template(
        &mut errors,
        object,
        "empty selector is invalid for daemonset",
    );
    counter(&mut errors, object, "minReadySeconds");
    counter(&mut errors, object, "revisionHistoryLimit");
    let path = Path::new("spec").child("updateStrategy");
    let kind = text(object, &["spec", "updateStrategy", "type"]);
    one_of(&mut errors, &path, kind, &["RollingUpdate", "OnDelete"]);
    let path = path.child("rollingUpdate");
    if kind == "RollingUpdate" {
        match at(object, &["spec", "updateStrategy", "rollingUpdate"]) {
            None => errors.push(FieldError::required(&path, "")),
            Some(rolling) => {
                bounds(&mut errors, &path, rolling);
                let unavailable = counts_nothing(rolling, "maxUnavailable");
                let surge = counts_nothing(rolling, "maxSurge");
                if unavailable && surge {
                    let path = path.child("maxUnavailable");
                    errors.push(FieldError::required(
                        &path,
                        "cannot be 0 when maxSurge is 0",
                    ));
                }
                if !unavailable && !surge {
                    let value = at(rolling, &["maxSurge"]).cloned().unwrap_or(json!(0));
                    let path = path.child("maxSurge");
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.push(FieldError::invalid(&path, value, detail));
                }
            }
        }
    }
    errors
}

/// Counts of pods that fit together.
pub(crate) fn deployment_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let status = Path::new("status");
    let count = |field: &str| int(object, &["status", field]).unwrap_or(0);
    for field in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
    ] {
        not_negative(&mut errors, &status.child(field), Some(count(field)));
    }
    for (field, limit, named) in [
        ("updatedReplicas", "replicas", "status.replicas"),
        ("readyReplicas", "replicas", "status.replicas"),
        ("availableReplicas", "replicas", "status.replicas"),
        ("availableReplicas", "readyReplicas", "readyReplicas"),
    ] {
        if count(field) > count(limit) {
            let detail = format!("cannot be greater than {named}");
            errors.push(FieldError::invalid(
                &status.child(field),
                count(field),
                detail,
            ));
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

/// Whom a workload owns is decided once.
pub(crate) fn workload_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("selector");
    immutable(&mut errors, &path, &["spec", "selector"], object, old);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    fn object(kind: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        change(&mut object["spec"]);
        find_kind("apps", "v1", kind)
            .unwrap()
            .set_defaults(&mut object);
        object
    }

    fn lines(kind: &str, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let object = object(kind, change);
        find_kind("apps", "v1", kind)
            .unwrap()
            .validate_create(&object)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn selectors() {
        for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
            assert_eq!(lines(kind, |_| {}), Vec::<String>::new(), "{kind}");
        }
        assert_eq!(
            lines("Deployment", |spec| spec["template"]["metadata"] =
                json!({"labels": {"app": "x"}})),
            [
                r#"spec.template.metadata.labels: Invalid value: {"app":"x"}: `selector` does not match template `labels`"#
            ]
        );
        assert_eq!(
            lines("DaemonSet", |spec| spec["selector"] = json!({})),
            ["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"]
        );
        assert_eq!(
            lines("ReplicaSet", |spec| spec["selector"] = Value::Null),
            [
                "spec.selector: Required value",
                r#"spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`"#
            ]
        );
        let old = object("Deployment", |_| {});
        let new = object("Deployment", |spec| {
            spec["selector"] = json!({"matchLabels": {"app": "web", "b": "c"}})
        });
        assert_eq!(
            workload_update(&new, &old)[0].to_string(),
            r#"spec.selector: Invalid value: {"matchLabels":{"app":"web","b":"c"}}: field is immutable"#
        );
    }

    #[test]
    fn counts_of_a_status_fit_together() {
        let status = |status: Value| json!({ "status": status });
        let old = status(json!({"collisionCount": 2}));
        let good = json!({"replicas": 3, "updatedReplicas": 3, "readyReplicas": 2,
            "availableReplicas": 2, "unavailableReplicas": 1, "collisionCount": 2});
        assert_eq!(deployment_status(&status(good), &old), []);
        let bad = json!({"replicas": 1, "updatedReplicas": 2, "availableReplicas": 1});
        let lines: Vec<String> = deployment_status(&status(bad), &old)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                "status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
                "status.collisionCount: Invalid value: 0: cannot be decremented"
            ]
        );
    }

    #[test]
    fn strategies() {
        assert_eq!(
            lines("Deployment", |spec| spec["strategy"] =
                json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}})),
            [
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"
            ]
        );
        assert_eq!(
            lines(
                "Deployment",
                |spec| spec["strategy"] =
                    json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}})
            ),
            [
                r#"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0"#
            ]
        );
        assert_eq!(
            lines("Deployment", |spec| spec["replicas"] = json!(-1)),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            lines("DaemonSet", |spec| spec["updateStrategy"] =
                json!({"rollingUpdate": {"maxSurge": 1}})),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"
            ]
        );
        assert_eq!(
            lines(
                "ReplicaSet",
                |spec| spec["template"]["spec"]["restartPolicy"] = "Never".into()
            ),
            [
                r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#
            ]
        );
    }
}
