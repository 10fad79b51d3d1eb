//! Volumes and claims: where they start, and the two names of a claim's source.

use serde_json::{Value, json};

use super::keep_status;
use crate::read::{at, map_mut, text};

/// Nobody has bound it yet.
pub(crate) fn pending_create(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"phase": "Pending"}));
    }
}

pub(crate) fn claim_create(object: &mut Value) {
    pending_create(object);
    mirror_source(object);
}

pub(crate) fn claim_update(object: &mut Value, old: &Value) {
    keep_status(object, old);
    mirror_source(object);
}

/// `dataSource` is the older name of `dataSourceRef`, and knows no namespace.
fn mirror_source(object: &mut Value) {
    let source = at(object, &["spec", "dataSource"]).cloned();
    let reference = at(object, &["spec", "dataSourceRef"]).cloned();
    let (field, value) = match (source, reference) {
        (Some(source), None) => ("dataSourceRef", source),
        (None, Some(reference)) if text(&reference, &["namespace"]).is_empty() => {
            ("dataSource", reference)
        }
        _ => return,
    };
    if let Some(spec) = map_mut(object, &["spec"]) {
        spec.insert(field.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_two_names() {
        let source = json!({"kind": "PersistentVolumeClaim", "name": "a"});
        for field in ["dataSource", "dataSourceRef"] {
            let mut claim = json!({"spec": {field: source}, "status": {"phase": "Bound"}});
            claim_create(&mut claim);
            assert_eq!(claim["spec"]["dataSource"], source);
            assert_eq!(claim["spec"]["dataSourceRef"], source);
            assert_eq!(claim["status"], json!({"phase": "Pending"}));
        }
        let elsewhere = json!({"kind": "PersistentVolumeClaim", "name": "a", "namespace": "b"});
        let mut claim = json!({"spec": {"dataSourceRef": elsewhere}});
        claim_create(&mut claim);
        assert_eq!(claim["spec"].get("dataSource"), None);
    }
}
