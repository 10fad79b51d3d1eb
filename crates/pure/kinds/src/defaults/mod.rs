//! What Kubernetes fills in where a document is silent.

mod networking;
mod pod;
mod service;
mod storage;
mod workload;

use serde_json::{Map, Value, json};

use crate::base64;
use crate::quantity::canonical;
use crate::read::{at, default, default_text, list, list_mut, map_mut, text};

pub(crate) use networking::{ingress_class, network_policy};
pub(crate) use pod::{pod, pod_template};
pub(crate) use service::{endpoint_slice, endpoints, service};
pub(crate) use storage::{persistent_volume, persistent_volume_claim, storage_class};
pub(crate) use workload::{daemon_set, deployment, replica_set, stateful_set};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Every namespace can be selected by its name.
pub(crate) fn namespace(object: &mut Value) {
    let name = text(object, &["metadata", "name"]).to_owned();
    if !name.is_empty()
        && let Some(labels) = map_mut(object, &["metadata", "labels"])
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
}

/// What is not said to be reserved is for pods.
pub(crate) fn node(object: &mut Value) {
    for group in ["capacity", "allocatable"] {
        if at(object, &["status", group]).is_some() {
            quantities(object, &["status", group]);
        }
    }
    let first = list(object, &["spec", "podCIDRs"]).first().cloned();
    let single = at(object, &["spec", "podCIDR"]).cloned();
    if let Some(spec) = existing(object, &["spec"]) {
        // One field under two names; the older one counts where they differ.
        if let Some(single) = single
            && first.as_ref() != Some(&single)
        {
            spec.insert("podCIDRs".to_owned(), vec![single].into());
        }
        if let Some(first) = first {
            default(spec, "podCIDR", first);
        }
    }
    let capacity = at(object, &["status", "capacity"]).cloned();
    if let Some(capacity) = capacity
        && let Some(status) = map_mut(object, &["status"])
    {
        default(status, "allocatable", capacity);
    }
}

pub(crate) fn secret(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        default_text(map, "type", "Opaque");
    }
    string_data(object);
}

/// `stringData` is write-only: it ends in `data`.
fn string_data(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    let Some(Value::Object(texts)) = map.remove("stringData") else {
        return;
    };
    let data = map.entry("data").or_insert_with(|| json!({}));
    if data.is_null() {
        *data = json!({});
    }
    if let Some(data) = data.as_object_mut() {
        for (key, value) in texts {
            let encoded = base64::encode(value.as_str().unwrap_or("").as_bytes());
            data.insert(key, encoded.into());
        }
    }
}

pub(crate) fn role_binding(object: &mut Value) {
    if let Some(role) = map_mut(object, &["roleRef"]) {
        default_text(role, "apiGroup", RBAC);
    }
    for subject in list_mut(object, &["subjects"]) {
        if matches!(text(subject, &["kind"]), "User" | "Group")
            && let Some(subject) = subject.as_object_mut()
        {
            default_text(subject, "apiGroup", RBAC);
        }
    }
}

/// Writes the quantities of a map as Kubernetes would: numbers become text.
fn quantities(object: &mut Value, path: &[&str]) {
    let Some(map) = map_mut(object, path) else {
        return;
    };
    for value in map.values_mut() {
        let plain = match &*value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => continue,
        };
        if let Some(quantity) = canonical(&plain) {
            *value = quantity.into();
        }
    }
}

/// The map at `path` if it is there: defaults do not create it.
fn existing<'a>(object: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    at(object, path)?;
    map_mut(object, path)
}

/// Sets a field below `path` if `path` is there.
fn default_below(object: &mut Value, path: &[&str], field: &str, value: impl Into<Value>) {
    if let Some(map) = existing(object, path) {
        default(map, field, value);
    }
}
