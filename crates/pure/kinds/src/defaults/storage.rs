//! Defaults of volumes, claims and storage classes.

use serde_json::Value;

use super::{default_below, existing, quantities};
use crate::read::{at, default, default_text, map_mut};

pub(crate) fn persistent_volume(object: &mut Value) {
    if let Some(status) = map_mut(object, &["status"]) {
        default_text(status, "phase", "Pending");
    }
    if let Some(spec) = map_mut(object, &["spec"]) {
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
    }
    default_below(object, &["spec", "hostPath"], "type", "");
    if at(object, &["spec", "capacity"]).is_some() {
        quantities(object, &["spec", "capacity"]);
    }
}

pub(crate) fn persistent_volume_claim(object: &mut Value) {
    if let Some(status) = map_mut(object, &["status"]) {
        default_text(status, "phase", "Pending");
    }
    claim_spec(object);
}

fn claim_spec(object: &mut Value) {
    if let Some(spec) = map_mut(object, &["spec"]) {
        default(spec, "volumeMode", "Filesystem");
    }
    for group in ["limits", "requests"] {
        if at(object, &["spec", "resources", group]).is_some() {
            quantities(object, &["spec", "resources", group]);
        }
    }
}

/// The claims of a StatefulSet are documents of their own kind.
pub(super) fn claim_template(object: &mut Value) {
    persistent_volume_claim(object);
    if let Some(claim) = existing(object, &[]) {
        default_text(claim, "apiVersion", "v1");
        default_text(claim, "kind", "PersistentVolumeClaim");
    }
}

pub(crate) fn storage_class(object: &mut Value) {
    default_below(object, &[], "reclaimPolicy", "Delete");
    default_below(object, &[], "volumeBindingMode", "Immediate");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_claims_and_classes() {
        let mut volume =
            json!({"spec": {"capacity": {"storage": 1024}, "hostPath": {"path": "/a"}}});
        persistent_volume(&mut volume);
        assert_eq!(
            volume,
            json!({"spec": {"capacity": {"storage": "1024"}, "hostPath": {"path": "/a", "type": ""},
                "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"},
                "status": {"phase": "Pending"}})
        );
        let mut claim = json!({"spec": {"resources": {"requests": {"storage": 5}}}});
        persistent_volume_claim(&mut claim);
        assert_eq!(
            claim,
            json!({"spec": {"resources": {"requests": {"storage": "5"}}, "volumeMode": "Filesystem"},
                "status": {"phase": "Pending"}})
        );
        let mut class = json!({"provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"});
        storage_class(&mut class);
        assert_eq!(
            class,
            json!({"provisioner": "p", "reclaimPolicy": "Delete",
                "volumeBindingMode": "WaitForFirstConsumer"})
        );
    }
}
