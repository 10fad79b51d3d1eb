//! Rules of Events: those of the core group, and stricter ones of events.k8s.io. Paths are
//! the core group's in both, as in Kubernetes.

use serde_json::Value;

use super::rules::{dns_subdomain, immutable, qualified_name};
use crate::read::{at, int, text};
use crate::view::store_event;
use crate::{FieldError, Path};

/// Kubernetes' bounds, in bytes.
const NAME_MAX: usize = 128;
const NOTE_MAX: usize = 1024;
/// What an Event of events.k8s.io says once and for all.
const FIXED: [(&str, &str); 13] = [
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

fn stored(object: &Value) -> Value {
    let mut object = object.clone();
    store_event(&mut object);
    object
}

pub(crate) fn event(object: &Value) -> Vec<FieldError> {
    of_both(object, "reportingComponent")
}

/// The rules of both groups, who name the field of the reporting `controller` differently.
fn of_both(object: &Value, controller: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let about = text(object, &["involvedObject", "namespace"]);
    let own = text(object, &["metadata", "namespace"]);
    let timed = at(object, &["eventTime"]).is_some();
    let fits = match (timed, about) {
        // An event about a cluster-wide object lives in `default`.
        (false, "") => matches!(own, "" | "default"),
        (true, "") => matches!(own, "default" | "kube-system"),
        (false, about) => about == own,
        (true, _) => true,
    };
    if !fits {
        let path = Path::new("involvedObject").child("namespace");
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid(&path, about, detail));
    }
    if timed {
        reported(&mut errors, object, controller);
    }
    dns_subdomain(&mut errors, &Path::new("namespace"), own);
    errors
}

/// Who says it, what was done and why: needed since events have an `eventTime`.
fn reported(errors: &mut Vec<FieldError>, object: &Value, named: &str) {
    let controller = text(object, &["reportingComponent"]);
    let path = Path::new(named);
    if controller.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    qualified_name(errors, &path, controller);
    for field in ["reportingInstance", "action", "reason"] {
        let path = Path::new(field);
        match text(object, &[field]) {
            "" => errors.push(FieldError::required(&path, "")),
            value if value.len() > NAME_MAX => errors.push(too_many_characters(&path, NAME_MAX)),
            _ => {}
        }
    }
    if text(object, &["message"]).len() > NOTE_MAX {
        errors.push(too_many_characters(&Path::new("message"), NOTE_MAX));
    }
}

fn too_many_characters(path: &Path, limit: usize) -> FieldError {
    FieldError::invalid(path, "", format!("can have at most {limit} characters"))
}

pub(crate) fn regarding_event(object: &Value) -> Vec<FieldError> {
    of_both(&stored(object), "reportingController")
}

pub(crate) fn regarding_event_new(object: &Value) -> Vec<FieldError> {
    let object = &stored(object);
    let mut errors = Vec::new();
    series(&mut errors, object);
    if at(object, &["eventTime"]).is_none() {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let kind = text(object, &["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        let detail = format!("has invalid value: {kind}");
        errors.push(FieldError::invalid(&Path::new("type"), "", detail));
    }
    let count = int(object, &["count"]).unwrap_or(0) != 0;
    let source = ["component", "host"]
        .iter()
        .any(|field| !text(object, &["source", field]).is_empty());
    for (field, set) in [
        ("firstTimestamp", at(object, &["firstTimestamp"]).is_some()),
        ("lastTimestamp", at(object, &["lastTimestamp"]).is_some()),
        ("count", count),
        ("source", source),
    ] {
        if set {
            let detail = "needs to be unset";
            errors.push(FieldError::invalid(&Path::new(field), "", detail));
        }
    }
    errors
}

fn series(errors: &mut Vec<FieldError>, object: &Value) {
    let Some(series) = at(object, &["series"]) else {
        return;
    };
    let path = Path::new("series");
    if int(series, &["count"]).unwrap_or(0) < 2 {
        let detail = "should be at least 2";
        errors.push(FieldError::invalid(&path.child("count"), "", detail));
    }
    if at(series, &["lastObservedTime"]).is_none() {
        errors.push(FieldError::required(&path.child("lastObservedTime"), ""));
    }
}

pub(crate) fn regarding_event_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let (object, old) = (&stored(object), &stored(old));
    let mut errors = Vec::new();
    if at(object, &["series"]) != at(old, &["series"]) {
        series(&mut errors, object);
    }
    for (field, shown) in FIXED {
        immutable(&mut errors, &Path::new(shown), &[field], object, old);
    }
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

    fn new(change: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a", "namespace": "default"},
            "eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "a.io/b",
            "reportingInstance": "i", "action": "Look", "reason": "Seen", "type": "Normal",
            "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "note": "n"});
        for (key, value) in change.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    }

    #[test]
    fn new_events_are_complete() {
        let kind = find_kind("events.k8s.io", "v1", "Event").unwrap();
        assert_eq!(kind.validate_create(&new(json!({}))), []);
        let long = "x".repeat(1025);
        for (change, expected) in [
            (json!({"eventTime": null}), "eventTime: Required value"),
            (
                json!({"type": "Odd"}),
                r#"type: Invalid value: "": has invalid value: Odd"#,
            ),
            (
                json!({"deprecatedCount": 1}),
                r#"count: Invalid value: "": needs to be unset"#,
            ),
            (
                json!({"deprecatedSource": {"component": "c"}}),
                r#"source: Invalid value: "": needs to be unset"#,
            ),
            (
                json!({"series": {"count": 1, "lastObservedTime": "2024-01-01T00:00:00Z"}}),
                r#"series.count: Invalid value: "": should be at least 2"#,
            ),
            (
                json!({"series": {"count": 2}}),
                "series.lastObservedTime: Required value",
            ),
            (json!({"action": ""}), "action: Required value"),
            (
                json!({"reason": long}),
                r#"reason: Invalid value: "": can have at most 128 characters"#,
            ),
            (
                json!({"note": long}),
                r#"message: Invalid value: "": can have at most 1024 characters"#,
            ),
        ] {
            let errors = lines(&kind.validate_create(&new(change.clone())));
            assert_eq!(errors, [expected], "{change}");
        }
    }

    #[test]
    fn only_the_series_of_an_event_goes_on() {
        let old = new(json!({}));
        let series = json!({"count": 2, "lastObservedTime": "2024-01-01T00:00:00Z"});
        let next = new(json!({"series": series}));
        assert_eq!(regarding_event_update(&next, &old), []);
        let other = new(json!({"note": "m", "reportingController": "c.io/d"}));
        assert_eq!(
            lines(&regarding_event_update(&other, &old)),
            [
                r#"message: Invalid value: "m": field is immutable"#,
                r#"reportingController: Invalid value: "c.io/d": field is immutable"#
            ]
        );
    }

    #[test]
    fn events_of_the_core_group_live_beside_their_object() {
        let with = |namespace: &str, about: &str, time: Value| {
            lines(&event(
                &json!({"metadata": {"namespace": namespace}, "eventTime": time,
                "involvedObject": {"namespace": about}, "reportingComponent": "a",
                "reportingInstance": "i", "action": "a", "reason": "r"}),
            ))
        };
        let refused = |about: &str| {
            vec![format!(
                "involvedObject.namespace: Invalid value: {about:?}: does not match event.namespace"
            )]
        };
        let now = json!("2024-01-01T00:00:00Z");
        assert_eq!(with("a", "a", Value::Null), [""; 0]);
        assert_eq!(with("default", "", Value::Null), [""; 0]);
        assert_eq!(with("a", "b", Value::Null), refused("b"));
        assert_eq!(with("kube-system", "", Value::Null), refused(""));
        assert_eq!(with("kube-system", "", now.clone()), [""; 0]);
        assert_eq!(with("a", "b", now.clone()), [""; 0]);
        assert_eq!(with("a", "", now), refused(""));
    }
}
