//! Which volume a claim gets, and how a volume stands: the decisions of Kubernetes' persistent
//! volume controller, without its loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_kinds::Quantity;
use weft_kube::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use weft_kube::kube::{Resource, ResourceExt};

use crate::placement::reaches;

/// The older name of `storageClassName`.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class of a claim; none if it does not say, empty if it wants none.
pub(super) fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let spec = claim.spec.as_ref();
    let named = claim.annotations().get(CLASS).map(String::as_str);
    named.or_else(|| spec.and_then(|spec| spec.storage_class_name.as_deref()))
}

fn volume_class(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    let named = volume.annotations().get(CLASS).map(String::as_str);
    named
        .or_else(|| spec.and_then(|spec| spec.storage_class_name.as_deref()))
        .unwrap_or_default()
}

/// For whom a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// Whoever it fits.
    Nobody,
    /// This claim.
    This,
    Another,
}

/// For whom a volume is, as this claim sees it. A reference without a uid was written by a
/// person, for whatever claim will have the name.
pub(super) fn reserved(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Reserved {
    let Some(reference) = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref())
    else {
        return Reserved::Nobody;
    };
    let same_name =
        reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace;
    let uid = reference.uid.as_deref().unwrap_or_default();
    if same_name && (uid.is_empty() || Some(uid) == claim.uid().as_deref()) {
        Reserved::This
    } else {
        Reserved::Another
    }
}

/// The best volume for a claim among those that no other has: one that is kept for it, else
/// the smallest that fits. With a node, only what can be reached from there.
pub(super) fn choose<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'a Arc<PersistentVolume>>,
    node: Option<&Node>,
) -> Option<&'a Arc<PersistentVolume>> {
    let wanted = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref());
    let wanted = wanted.filter(|name| !name.is_empty());
    volumes
        .filter(|volume| volume.meta().deletion_timestamp.is_none())
        .filter(|volume| wanted.is_none_or(|name| volume.name_any() == name))
        .filter_map(|volume| match reserved(volume, claim) {
            Reserved::Another => None,
            Reserved::This => Some((false, volume)),
            Reserved::Nobody => Some((true, volume)),
        })
        .filter(|(_, volume)| fits(claim, volume))
        .filter(|(_, volume)| node.is_none_or(|node| reaches(node, volume)))
        .min_by_key(|(not_kept, volume)| (*not_kept, capacity(volume), volume.name_any()))
        .map(|(_, volume)| volume)
}

fn fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let (Some(asks), Some(has)) = (&claim.spec, &volume.spec) else {
        return false;
    };
    let modes = has.access_modes.as_deref().unwrap_or_default();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    // What is named, or kept, is taken without its labels being looked at.
    let labels = asks.selector.as_ref();
    let named = asks
        .volume_name
        .as_ref()
        .is_some_and(|name| !name.is_empty());
    mode(&asks.volume_mode) == mode(&has.volume_mode)
        && claim_class(claim).unwrap_or_default() == volume_class(volume)
        && asks
            .access_modes
            .iter()
            .flatten()
            .all(|mode| modes.contains(mode))
        && request(claim) <= capacity(volume)
        && (named || labels.is_none_or(|selector| selects(selector, volume.labels())))
}

fn storage(
    quantities: Option<
        &BTreeMap<String, weft_kube::k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    >,
) -> i64 {
    let storage = quantities.and_then(|quantities| quantities.get("storage"));
    storage
        .and_then(|quantity| Quantity::parse(&quantity.0).ok())
        .map_or(0, Quantity::units)
}

fn capacity(volume: &PersistentVolume) -> i64 {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn request(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut pod = weft_kube::k8s_openapi::api::core::v1::Pod::default();
    pod.metadata.labels = Some(labels.clone());
    crate::placement::selector_matches(selector, &pod)
}

/// How a volume stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Available,
    Bound,
    /// Its claim is gone.
    Released,
}

/// How a volume stands; `claim` is the one of its reference's name.
pub(super) fn phase(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Phase {
    let reference = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    let Some(uid) = reference.map(|reference| reference.uid.as_deref().unwrap_or_default()) else {
        return Phase::Available;
    };
    match claim {
        _ if uid.is_empty() => Phase::Available,
        Some(claim) if claim.uid().as_deref() == Some(uid) => Phase::Bound,
        Some(_) | None => Phase::Released,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let mut object = json!({
            "metadata": {"name": name, "labels": {"disk": name}},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual"},
        });
        for (field, value) in more.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut object = json!({
            "metadata": {"name": "data", "namespace": "shop", "uid": "mine"},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual"},
        });
        for (field, value) in more.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn chosen(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> String {
        choose(claim, volumes.iter(), None).map_or_else(String::new, |volume| volume.name_any())
    }

    #[test]
    fn the_smallest_that_fits_is_taken_unless_one_is_kept() {
        let plain = json!({});
        let all = [
            volume("small", "500Mi", plain.clone()),
            volume("large", "10Gi", plain.clone()),
            volume("right", "1Gi", plain.clone()),
        ];
        assert_eq!(chosen(&claim(plain.clone()), &all), "right");
        assert_eq!(chosen(&claim(plain.clone()), &all[..1]), "");
        let kept = json!({"claimRef": {"name": "data", "namespace": "shop"}});
        let mut with_kept = all.to_vec();
        with_kept.push(volume("kept", "20Gi", kept));
        assert_eq!(chosen(&claim(plain.clone()), &with_kept), "kept");
        let anothers = json!({"claimRef": {"name": "data", "namespace": "shop", "uid": "other"}});
        assert_eq!(chosen(&claim(plain), &[volume("old", "1Gi", anothers)]), "");
        assert_eq!(
            chosen(&claim(json!({"volumeName": "large"})), &all),
            "large"
        );
    }

    #[test]
    fn class_modes_and_labels_have_to_fit() {
        let all = [volume("a", "1Gi", json!({})), volume("b", "2Gi", json!({}))];
        let with = |more| chosen(&claim(more), &all);
        assert_eq!(with(json!({"storageClassName": "other"})), "");
        assert_eq!(with(json!({"storageClassName": ""})), "");
        assert_eq!(with(json!({"accessModes": ["ReadWriteMany"]})), "");
        assert_eq!(with(json!({"volumeMode": "Block"})), "");
        assert_eq!(
            with(json!({"selector": {"matchLabels": {"disk": "b"}}})),
            "b"
        );
    }

    #[test]
    fn a_volume_is_chosen_for_the_node_it_can_be_reached_from() {
        let on = |node: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}}})
        };
        let all = [volume("x", "1Gi", on("one")), volume("y", "1Gi", on("two"))];
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "two", "labels": {"kubernetes.io/hostname": "two"}}}),
        )
        .unwrap();
        let found = choose(&claim(json!({})), all.iter(), Some(&node));
        assert_eq!(found.unwrap().name_any(), "y");
    }

    #[test]
    fn a_volume_is_released_when_its_claim_is_gone() {
        let plain = volume("a", "1Gi", json!({}));
        let mine = claim(json!({}));
        assert_eq!(phase(&plain, Some(&mine)), Phase::Available);
        let by_hand = volume(
            "a",
            "1Gi",
            json!({"claimRef": {"name": "data", "namespace": "shop"}}),
        );
        assert_eq!(phase(&by_hand, None), Phase::Available);
        let bound = |uid: &str| {
            volume(
                "a",
                "1Gi",
                json!({"claimRef": {"name": "data", "namespace": "shop", "uid": uid}}),
            )
        };
        assert_eq!(phase(&bound("mine"), Some(&mine)), Phase::Bound);
        assert_eq!(phase(&bound("mine"), None), Phase::Released);
        assert_eq!(phase(&bound("other"), Some(&mine)), Phase::Released);
    }
}
