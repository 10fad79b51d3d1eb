//! Columns of volumes, claims and storage classes.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, NAME, age, name, text_column, wide};
use crate::Column;
use crate::read::{at, flag, text, texts};

const CAPACITY: Column = text_column("Capacity", "Size of the volume.");
const ACCESS_MODES: Column = text_column("Access Modes", "How many nodes may use it, and how.");
const CLASS: Column = text_column("StorageClass", "The class it is of.");
const ATTRIBUTES: Column = text_column(
    "VolumeAttributesClass",
    "The class of its changeable attributes.",
);
const MODE: Column = wide("VolumeMode", "Filesystem or block device.");

pub(crate) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    CAPACITY,
    ACCESS_MODES,
    text_column(
        "Reclaim Policy",
        "What becomes of it when its claim is gone.",
    ),
    text_column("Status", "Available, bound or released."),
    text_column("Claim", "The claim that has it."),
    CLASS,
    ATTRIBUTES,
    text_column("Reason", "Why the status is what it is, in one word."),
    AGE,
    MODE,
];

pub(crate) fn persistent_volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match at(object, &["spec", "claimRef"]) {
        Some(claim) => format!("{}/{}", text(claim, &["namespace"]), text(claim, &["name"])),
        None => String::new(),
    };
    vec![
        name(object),
        text(object, &["spec", "capacity", "storage"]).into(),
        access_modes(object, "spec").into(),
        text(object, &["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase(object).into(),
        claim.into(),
        class(object).into(),
        attributes(object).into(),
        text(object, &["status", "reason"]).into(),
        age(object, now),
        mode(object).into(),
    ]
}

pub(crate) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    text_column("Status", "Pending, bound or lost."),
    text_column("Volume", "The volume it has."),
    CAPACITY,
    ACCESS_MODES,
    CLASS,
    ATTRIBUTES,
    AGE,
    MODE,
];

pub(crate) fn persistent_volume_claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let volume = text(object, &["spec", "volumeName"]);
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        (
            text(object, &["status", "capacity", "storage"]),
            access_modes(object, "status"),
        )
    };
    vec![
        name(object),
        phase(object).into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        class(object).into(),
        attributes(object).into(),
        age(object, now),
        mode(object).into(),
    ]
}

fn phase(object: &Value) -> &str {
    if at(object, &["metadata", "deletionTimestamp"]).is_some() {
        return "Terminating";
    }
    text(object, &["status", "phase"])
}

fn access_modes(object: &Value, part: &str) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes = texts(object, &[part, "accessModes"]);
    let short: Vec<&str> = SHORT
        .iter()
        .filter(|(mode, _)| modes.contains(mode))
        .map(|(_, short)| *short)
        .collect();
    short.join(",")
}

/// The class, which an annotation named before it was a field.
fn class(object: &Value) -> &str {
    const ANNOTATION: [&str; 3] = [
        "metadata",
        "annotations",
        "volume.beta.kubernetes.io/storage-class",
    ];
    match at(object, &ANNOTATION).and_then(Value::as_str) {
        Some(class) => class,
        None => text(object, &["spec", "storageClassName"]),
    }
}

fn attributes(object: &Value) -> &str {
    at(object, &["spec", "volumeAttributesClassName"])
        .and_then(Value::as_str)
        .unwrap_or("<unset>")
}

fn mode(object: &Value) -> &str {
    at(object, &["spec", "volumeMode"])
        .and_then(Value::as_str)
        .unwrap_or("<unset>")
}

pub(crate) const STORAGE_CLASS: &[Column] = &[
    NAME,
    text_column("Provisioner", "Who makes volumes of this class."),
    text_column("ReclaimPolicy", "What becomes of a volume without a claim."),
    text_column("VolumeBindingMode", "When a volume is made and bound."),
    text_column("AllowVolumeExpansion", "Whether claims may grow."),
    AGE,
];

pub(crate) fn storage_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let default = [
        "storageclass.kubernetes.io",
        "storageclass.beta.kubernetes.io",
    ]
    .iter()
    .any(|prefix| {
        let key = format!("{prefix}/is-default-class");
        text(object, &["metadata", "annotations", &key]) == "true"
    });
    let own = text(object, &["metadata", "name"]);
    let shown = if default {
        format!("{own} (default)")
    } else {
        own.to_owned()
    };
    let or = |field: &str, default: &str| match text(object, &[field]) {
        "" => default.to_owned(),
        value => value.to_owned(),
    };
    vec![
        shown.into(),
        text(object, &["provisioner"]).into(),
        or("reclaimPolicy", "Delete").into(),
        or("volumeBindingMode", "Immediate").into(),
        flag(object, &["allowVolumeExpansion"]).into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(row: fn(&Value, Timestamp) -> Vec<Value>, mut object: Value) -> Vec<Value> {
        object["metadata"]["name"] = "a".into();
        object["metadata"]["creationTimestamp"] = "2024-01-01T00:00:00Z".into();
        row(&object, "2024-01-01T00:05:00Z".parse().unwrap())
    }

    #[test]
    fn volumes() {
        let volume = json!({"spec": {"capacity": {"storage": "5Gi"},
            "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "fast",
            "claimRef": {"namespace": "n", "name": "c"}, "volumeMode": "Block"},
            "status": {"phase": "Bound", "reason": "r"}});
        assert_eq!(
            cells(persistent_volume, volume),
            [
                "a", "5Gi", "RWO,RWX", "Retain", "Bound", "n/c", "fast", "<unset>", "r", "5m",
                "Block"
            ]
        );
    }

    #[test]
    fn claims() {
        let claim =
            json!({"spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"}});
        assert_eq!(
            cells(persistent_volume_claim, claim),
            ["a", "Pending", "", "", "", "", "<unset>", "5m", "<unset>"]
        );
        let bound = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"volumeName": "v", "storageClassName": "fast"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOncePod"]}});
        assert_eq!(
            cells(persistent_volume_claim, bound)[1..6],
            ["Terminating", "v", "1Gi", "RWOP", "fast"]
        );
    }

    #[test]
    fn classes() {
        let class = json!({"metadata": {"annotations":
            {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"});
        assert_eq!(
            cells(storage_class, class),
            [
                json!("a (default)"),
                json!("p"),
                json!("Delete"),
                json!("Immediate"),
                json!(false),
                json!("5m")
            ]
        );
    }
}
