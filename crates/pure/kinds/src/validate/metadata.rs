//! Rules of `metadata`.

use serde_json::Value;

use super::rules::{
    IMMUTABLE, dns_label, immutable, invalid_all, labels, not_negative, qualified_name,
};
use crate::read::{at, flag, int, list, map, text, texts};
use crate::syntax::is_qualified_name;
use crate::{FieldError, Kind, Path};

/// All annotations of an object together (Kubernetes: 256 KiB).
const ANNOTATIONS_MAX: usize = 256 << 10;

pub(crate) fn check(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("metadata");
    let generate = text(object, &["metadata", "generateName"]);
    if !generate.is_empty() {
        let complaints = (kind.name_syntax)(generate, true);
        invalid_all(
            &mut errors,
            &path.child("generateName"),
            generate,
            complaints,
        );
    }
    let name = text(object, &["metadata", "name"]);
    let name_path = path.child("name");
    if name.is_empty() {
        errors.push(FieldError::required(
            &name_path,
            "name or generateName is required",
        ));
    } else {
        invalid_all(
            &mut errors,
            &name_path,
            name,
            (kind.name_syntax)(name, false),
        );
    }
    let namespace = text(object, &["metadata", "namespace"]);
    let namespace_path = path.child("namespace");
    if !kind.namespaced() {
        if !namespace.is_empty() {
            errors.push(FieldError::forbidden(
                &namespace_path,
                "not allowed on this type",
            ));
        }
    } else if namespace.is_empty() {
        errors.push(FieldError::required(&namespace_path, ""));
    } else {
        dns_label(&mut errors, &namespace_path, namespace);
    }
    not_negative(
        &mut errors,
        &path.child("generation"),
        int(object, &["metadata", "generation"]),
    );
    labels(
        &mut errors,
        &path.child("labels"),
        map(object, &["metadata", "labels"]),
    );
    annotations(&mut errors, &path.child("annotations"), object);
    owners(&mut errors, &path.child("ownerReferences"), object);
    finalizers(&mut errors, &path.child("finalizers"), object);
    errors
}

fn finalizers(errors: &mut Vec<FieldError>, path: &Path, object: &Value) {
    let all = texts(object, &["metadata", "finalizers"]);
    for finalizer in &all {
        qualified_name(errors, path, finalizer);
    }
    for (index, finalizer) in all.iter().enumerate() {
        let standard = ["kubernetes", "orphan", "foregroundDeletion"].contains(finalizer);
        if !finalizer.contains('/') && !standard {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path.index(index), *finalizer, detail));
        }
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, all, detail));
    }
}

pub(super) fn annotations(errors: &mut Vec<FieldError>, path: &Path, object: &Value) {
    let mut size = 0;
    for (key, value) in map(object, &["metadata", "annotations"])
        .into_iter()
        .flatten()
    {
        invalid_all(
            errors,
            path,
            key.as_str(),
            is_qualified_name(&key.to_lowercase()),
        );
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owners(errors: &mut Vec<FieldError>, path: &Path, object: &Value) {
    let mut controller: Option<String> = None;
    for owner in list(object, &["metadata", "ownerReferences"]) {
        let api_version = text(owner, &["apiVersion"]);
        if api_version.rsplit('/').next().unwrap_or("").is_empty() {
            let path = path.child("apiVersion");
            errors.push(FieldError::invalid(
                &path,
                api_version,
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, &[field]).is_empty() {
                let detail = format!("{field} must not be empty");
                errors.push(FieldError::invalid(&path.child(field), "", detail));
            }
        }
        if api_version == "v1" && text(owner, &["kind"]) == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, owner.clone(), detail));
        }
        if flag(owner, &["controller"]) {
            let name = format!("{}/{}", text(owner, &["kind"]), text(owner, &["name"]));
            if let Some(other) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {other} and {name}"
                );
                let all = at(object, &["metadata", "ownerReferences"]).cloned();
                errors.push(FieldError::invalid(
                    path,
                    all.unwrap_or(Value::Null),
                    detail,
                ));
            }
            controller = Some(name);
        }
    }
}

/// Kubernetes looks at a change of metadata for all kinds and again for the kind, and counts what
/// is wrong both times.
pub(crate) fn check_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = changed(object, old);
    errors.extend(errors.clone());
    errors
}

fn changed(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("metadata");
    for field in ["name", "namespace"] {
        immutable(
            &mut errors,
            &path.child(field),
            &["metadata", field],
            object,
            old,
        );
    }
    let uid = text(object, &["metadata", "uid"]);
    if !uid.is_empty() && uid != text(old, &["metadata", "uid"]) {
        errors.push(FieldError::invalid(&path.child("uid"), uid, IMMUTABLE));
    }
    if at(old, &["metadata", "deletionTimestamp"]).is_some() {
        let had = texts(old, &["metadata", "finalizers"]);
        let new: Vec<&str> = texts(object, &["metadata", "finalizers"])
            .into_iter()
            .filter(|one| !had.contains(one))
            .collect();
        if !new.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {}",
                Value::from(new)
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), detail));
        }
    }
    labels(
        &mut errors,
        &path.child("labels"),
        map(object, &["metadata", "labels"]),
    );
    annotations(&mut errors, &path.child("annotations"), object);
    owners(&mut errors, &path.child("ownerReferences"), object);
    errors
}

#[cfg(test)]
mod tests {
    use crate::find_kind;
    use serde_json::{Value, json};

    fn lines(kind: &str, metadata: Value) -> Vec<String> {
        let kind = find_kind("", "v1", kind).unwrap();
        let object = json!({"metadata": metadata});
        super::check(kind, &object)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn names_and_labels() {
        assert_eq!(
            lines("ConfigMap", json!({})),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value"
            ]
        );
        assert_eq!(
            lines("Service", json!({"name": "1a", "namespace": "default"})),
            [
                r#"metadata.name: Invalid value: "1a": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"#
            ]
        );
        assert_eq!(
            lines("Node", json!({"name": "a", "namespace": "x"})),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        let odd = lines(
            "ConfigMap",
            json!({"name": "a", "namespace": "b", "labels": {"a b": "-"}}),
        );
        assert_eq!(odd.len(), 2);
        assert!(
            odd[0].starts_with(r#"metadata.labels: Invalid value: "a b": name part must consist"#)
        );
        assert!(
            odd[1].starts_with(r#"metadata.labels: Invalid value: "-": a valid label must be"#)
        );
        let generated = json!({"name": "a-x", "generateName": "a-", "namespace": "b",
            "finalizers": ["odd", "example.com/ok"]});
        assert_eq!(
            lines("ConfigMap", generated),
            [
                r#"metadata.finalizers[0]: Invalid value: "odd": name is neither a standard finalizer name nor is it fully qualified"#
            ]
        );
    }
}
