//! Volumes and claims: where they start, and the two names of a claim's source.

use serde_json::{Value, json};

use super::keep_status;
use crate::Kind;
use crate::read::{at, map_mut, text};

/// Nobody has bound it yet.
pub(crate) fn pending_create(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"phase": "Pending"}));
    }
}

impl Kind {
    /// Writes into an object that was prepared when it came to the phase it is in, where the kind
    /// tells that. `now` is a time of the API.
    pub fn tell_transition(&self, object: &mut Value, old: Option<&Value>, now: &str) {
        const PHASE: &[&str] = &["status", "phase"];
        const SINCE: &str = "lastPhaseTransitionTime";
        if self.kind != "PersistentVolume" {
            return;
        }
        let since = |of: &Value| at(of, &["status", SINCE]).cloned();
        let held = old.and_then(since);
        let stays = old.is_some_and(|old| at(old, PHASE) == at(object, PHASE));
        let said = since(object);
        let told = match (stays, said) {
            (true, said) => said.or(held),
            (false, Some(said)) if Some(&said) != held.as_ref() => Some(said),
            (false, _) => Some(now.into()),
        };
        if let (Some(told), Some(status)) = (told, map_mut(object, &["status"])) {
            status.insert(SINCE.to_owned(), told);
        }
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
    fn a_volume_tells_since_when_it_is_what_it_is() {
        let kind = crate::find_kind("", "v1", "PersistentVolume").unwrap();
        let volume = |phase: &str, since: Option<&str>| json!({"status": {"phase": phase, "lastPhaseTransitionTime": since}});
        let told = |mut object: Value, old: Option<Value>| {
            kind.tell_transition(&mut object, old.as_ref(), "now");
            object["status"]["lastPhaseTransitionTime"].clone()
        };
        assert_eq!(told(volume("Pending", None), None), "now");
        let old = || Some(volume("Pending", Some("then")));
        assert_eq!(told(volume("Pending", None), old()), "then");
        assert_eq!(told(volume("Bound", None), old()), "now");
        assert_eq!(told(volume("Bound", Some("then")), old()), "now");
        assert_eq!(told(volume("Bound", Some("said")), old()), "said");
    }

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
