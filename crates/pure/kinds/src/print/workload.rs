//! Columns of the workload kinds.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, NAME, age, count, label_selector, labels, name, number_column, text_column, wide,
};
use crate::Column;
use crate::read::{at, flag, int, list, text};

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

pub(crate) const STATEFUL_SET: &[Column] = &[
    NAME,
    text_column("Ready", "Ready pods of those wanted."),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(crate) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!(
        "{}/{}",
        int(object, &["status", "readyReplicas"]).unwrap_or(0),
        int(object, &["spec", "replicas"]).unwrap_or(0)
    );
    let [containers, images, _] = template(object);
    vec![
        name(object),
        ready.into(),
        age(object, now),
        containers,
        images,
    ]
}

pub(crate) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    text_column("Controller", "The set it is a revision of."),
    text_column("Revision", "Number of the revision."),
    AGE,
];

pub(crate) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let controller = list(object, &["metadata", "ownerReferences"])
        .iter()
        .find(|owner| flag(owner, &["controller"]))
        .map_or("<none>".to_owned(), |owner| {
            let kind = text(owner, &["kind"]);
            let name = text(owner, &["name"]);
            match text(owner, &["apiVersion"]).split_once('/') {
                Some((group, _)) => format!("{}/{name}", format!("{kind}.{group}").to_lowercase()),
                None => format!("{}/{name}", kind.to_lowercase()),
            }
        });
    vec![
        name(object),
        controller.into(),
        count(object, &["revision"]),
        age(object, now),
    ]
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
        label_selector(at(object, &["spec", "selector"])).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sets_and_their_revisions() {
        let now: Timestamp = "2024-01-01T00:05:00Z".parse().unwrap();
        let metadata = json!({"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
                "controller": true}]});
        let set = json!({"metadata": metadata, "status": {"readyReplicas": 1},
            "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        assert_eq!(stateful_set(&set, now), ["a", "1/3", "5m", "c", "i"]);
        let revision = json!({"metadata": metadata, "revision": 4});
        assert_eq!(
            controller_revision(&revision, now),
            [
                json!("a"),
                json!("statefulset.apps/web"),
                json!(4),
                json!("5m")
            ]
        );
    }
}
