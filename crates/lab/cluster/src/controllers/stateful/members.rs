//! The pods of a StatefulSet and the claims that come with them: named, not counted.

use weft_kube::k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use weft_kube::k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use weft_kube::kube::ResourceExt;

use crate::controllers::graph::controller_ref;
use crate::controllers::replicas::pod_from;

/// Says of which revision a pod is.
pub(super) const REVISION: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal of a pod of the set, from its name.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let number: i32 = digits.parse().ok()?;
    (number >= 0 && number.to_string() == digits).then_some(number)
}

/// The set's pod with an ordinal.
pub(super) fn pod(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: i32,
) -> Pod {
    let owner = controller_ref(set).unwrap_or_default();
    let set_name = set.name_any();
    let name = format!("{set_name}-{ordinal}");
    let mut pod = pod_from(template, &set_name, owner);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.labels_mut();
    labels.insert(REVISION.to_owned(), revision.to_owned());
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(name);
    pod_spec.subdomain = spec.service_name.clone().filter(|name| !name.is_empty());
    let claims = spec.volume_claim_templates.iter().flatten();
    let claims: Vec<Volume> = claims
        .map(|template| Volume {
            name: template.name_any(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(template, &set_name, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    if !claims.is_empty() {
        let volumes = pod_spec.volumes.get_or_insert_default();
        volumes.retain(|volume| claims.iter().all(|claim| claim.name != volume.name));
        volumes.extend(claims);
    }
    pod
}

fn claim_name(template: &PersistentVolumeClaim, set: &str, ordinal: i32) -> String {
    format!("{}-{set}-{ordinal}", template.name_any())
}

/// The claims of the pod with an ordinal.
pub(super) fn claims(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    ordinal: i32,
) -> Vec<PersistentVolumeClaim> {
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(claim_name(template, &set.name_any(), ordinal));
            claim.metadata.namespace = set.namespace();
            claim.status = None;
            let selector = spec.selector.match_labels.clone().unwrap_or_default();
            claim.labels_mut().extend(selector);
            claim
        })
        .collect()
}

/// With whom a claim goes (`persistentVolumeClaimRetentionPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoesWith {
    Nobody,
    Set,
    Pod,
}

/// With whom the claims of a pod go; `condemned`: the set is being made smaller by it.
pub(super) fn goes_with(spec: &StatefulSetSpec, condemned: bool) -> GoesWith {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    match (condemned && when_scaled, when_deleted) {
        (true, _) => GoesWith::Pod,
        (false, true) => GoesWith::Set,
        (false, false) => GoesWith::Nobody,
    }
}

/// A claim's owners as they should be; none if they are. Owners other than the set and its pod
/// are left alone, and a claim that another controller has is left to it.
pub(super) fn owners(
    claim: &PersistentVolumeClaim,
    set: &StatefulSet,
    pod: Option<&Pod>,
    with: GoesWith,
) -> Option<Vec<OwnerReference>> {
    let set_owner = controller_ref(set)?;
    let pod_owner = pod.and_then(controller_ref);
    let is = |owner: &OwnerReference, other: &OwnerReference| {
        owner.api_version == other.api_version
            && owner.kind == other.kind
            && owner.name == other.name
    };
    let is_ours = |owner: &OwnerReference| {
        is(owner, &set_owner) || pod_owner.as_ref().is_some_and(|pod| is(owner, pod))
    };
    let present = claim.owner_references();
    let others = present.iter().filter(|owner| !is_ours(owner));
    let mut owners: Vec<OwnerReference> = others.cloned().collect();
    let foreign = owners.iter().any(|owner| owner.controller == Some(true));
    match with {
        GoesWith::Nobody => {}
        GoesWith::Set | GoesWith::Pod if foreign => {}
        GoesWith::Set => owners.push(set_owner),
        GoesWith::Pod => owners.extend(pod_owner),
    }
    (owners != present).then_some(owners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(policy: Value) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "set-uid"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "serviceName": "peers",
                "persistentVolumeClaimRetentionPolicy": policy,
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]},
                },
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_has_its_name_its_place_and_its_claims() {
        let set = set(Value::Null);
        let spec = set.spec.as_ref().unwrap();
        let pod = pod(&set, spec, &spec.template, "web-abc", 2);
        assert_eq!(pod.name_any(), "web-2");
        assert_eq!(pod.labels()[POD_NAME], "web-2");
        assert_eq!(pod.labels()[POD_INDEX], "2");
        assert_eq!(pod.labels()[REVISION], "web-abc");
        let pod_spec = pod.spec.unwrap();
        assert_eq!(pod_spec.hostname.as_deref(), Some("web-2"));
        assert_eq!(pod_spec.subdomain.as_deref(), Some("peers"));
        let volumes = pod_spec.volumes.unwrap();
        let names: Vec<&str> = volumes.iter().map(|volume| &*volume.name).collect();
        assert_eq!(names, ["tmp", "data"]);
        let claim = volumes[1].persistent_volume_claim.as_ref().unwrap();
        assert_eq!(claim.claim_name, "data-web-2");
        let claims = claims(&set, spec, 2);
        assert_eq!(claims[0].name_any(), "data-web-2");
        assert_eq!(claims[0].labels()["app"], "web");
    }

    #[test]
    fn ordinals_are_read_from_names() {
        assert_eq!(ordinal("web", "web-12"), Some(12));
        for other in [
            "web", "web-", "web-01", "web-x", "other-1", "web-1-2", "web--1",
        ] {
            assert_eq!(ordinal("web", other), None, "{other}");
        }
    }

    #[test]
    fn claims_go_with_whom_the_policy_says() {
        let policies = [
            (json!(null), GoesWith::Nobody, GoesWith::Nobody),
            (
                json!({"whenDeleted": "Delete"}),
                GoesWith::Set,
                GoesWith::Set,
            ),
            (
                json!({"whenScaled": "Delete"}),
                GoesWith::Nobody,
                GoesWith::Pod,
            ),
            (
                json!({"whenScaled": "Delete", "whenDeleted": "Delete"}),
                GoesWith::Set,
                GoesWith::Pod,
            ),
        ];
        for (policy, kept, condemned) in policies {
            let set = set(policy.clone());
            let spec = set.spec.as_ref().unwrap();
            let found = (goes_with(spec, false), goes_with(spec, true));
            assert_eq!(found, (kept, condemned), "{policy}");
        }
    }

    #[test]
    fn only_owners_of_ours_are_changed() {
        let set = set(Value::Null);
        let foreign = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"});
        let claim = |owners: Value| -> PersistentVolumeClaim {
            serde_json::from_value(
                json!({"metadata": {"name": "data-web-0", "ownerReferences": owners}}),
            )
            .unwrap()
        };
        let owned = owners(&claim(json!([foreign])), &set, None, GoesWith::Set).unwrap();
        assert_eq!(owned.len(), 2);
        assert_eq!(owned[1].uid, "set-uid");
        let as_json = serde_json::to_value(&owned).unwrap();
        assert_eq!(
            owners(&claim(as_json.clone()), &set, None, GoesWith::Set),
            None
        );
        let freed = owners(&claim(as_json), &set, None, GoesWith::Nobody).unwrap();
        assert_eq!(freed.len(), 1);
        let another = json!([{"apiVersion": "v1", "kind": "Pod", "name": "other", "uid": "o", "controller": true}]);
        assert_eq!(owners(&claim(another), &set, None, GoesWith::Set), None);
    }
}
