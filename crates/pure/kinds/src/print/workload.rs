//! Columns of the workload kinds.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, NAME, age, count, labels, name, number_column, or_none, text_column, wide};
use crate::Column;
use crate::read::{at, int, list, map, text, texts};

const CONTAINERS: Column = wide("Containers", "Names of the template's containers.");
const IMAGES: Column = wide("Images", "Images of the template's containers.");
const SELECTOR: Column = wide("Selector", "Labels of the pods it owns.");

pub(crate) const DEPLOYMENT: &[Column] = &[
    NAME,
    text_column("Ready", "Ready pods of those wanted."),
    text_column("Up-to-date", "Pods of the current template."),
    text_column("Available", "Pods ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!(
        "{}/{}",
        int(object, &["status", "readyReplicas"]).unwrap_or(0),
        int(object, &["spec", "replicas"]).unwrap_or(0)
    );
    let mut cells = vec![
        name(object),
        ready.into(),
        count(object, &["status", "updatedReplicas"]),
        count(object, &["status", "availableReplicas"]),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

pub(crate) const REPLICA_SET: &[Column] = &[
    NAME,
    number_column("Desired", "Pods wanted."),
    number_column("Current", "Pods there."),
    number_column("Ready", "Pods ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(object),
        count(object, &["spec", "replicas"]),
        count(object, &["status", "replicas"]),
        count(object, &["status", "readyReplicas"]),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

pub(crate) const DAEMON_SET: &[Column] = &[
    NAME,
    number_column("Desired", "Nodes that should run the pod."),
    number_column("Current", "Nodes that run the pod."),
    number_column("Ready", "Pods ready."),
    number_column("Up-to-date", "Pods of the current template."),
    number_column("Available", "Pods ready for long enough."),
    text_column("Node Selector", "Labels of the nodes it runs on."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = |field| count(object, &["status", field]);
    let mut cells = vec![
        name(object),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        labels(object, &["spec", "template", "spec", "nodeSelector"]).into(),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

/// Containers, images and selector.
fn template(object: &Value) -> [Value; 3] {
    let containers = list(object, &["spec", "template", "spec", "containers"]);
    let column = |field: &str| {
        let values: Vec<&str> = containers.iter().map(|one| text(one, &[field])).collect();
        values.join(",")
    };
    [
        column("name").into(),
        column("image").into(),
        selector(at(object, &["spec", "selector"])).into(),
    ]
}

/// A label selector as text: `app=web,tier in (a,b),!old`.
fn selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return "<none>".to_owned();
    };
    let mut parts: Vec<(String, String)> = map(selector, &["matchLabels"])
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            (
                key.clone(),
                format!("{key}={}", value.as_str().unwrap_or("")),
            )
        })
        .collect();
    for requirement in list(selector, &["matchExpressions"]) {
        let key = text(requirement, &["key"]);
        let mut values = texts(requirement, &["values"]);
        values.sort_unstable();
        let values = values.join(",");
        let shown = match text(requirement, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => format!("{key} {other} ({values})"),
        };
        parts.push((key.to_owned(), shown));
    }
    parts.sort();
    let shown: Vec<String> = parts.into_iter().map(|(_, shown)| shown).collect();
    or_none(shown.join(","))
}
