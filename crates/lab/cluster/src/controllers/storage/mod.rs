//! Volumes and claims: who has which, and what becomes of a volume when its claim is gone.

mod claims;
mod finalizers;
mod matching;
mod volumes;

use weft_kube::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use weft_kube::k8s_openapi::api::storage::v1::StorageClass;
use weft_kube::kube::ResourceExt;
use weft_model::ObjectKey;

use self::matching::{choose, claim_class};
use super::scheduling::is_finished;
use super::world::World;
use crate::placement::reaches;

pub(super) use self::claims::Claims;
pub(super) use self::volumes::Volumes;

/// Makes volumes in folders of nodes.
pub(crate) const PROVISIONER: &str = "weft/local-path";
/// The class of those volumes, which is the default one.
pub(crate) const LOCAL_PATH: &str = "local-path";
/// Marks the default class.
pub(crate) const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
/// Where provisioned volumes lie on their nodes.
pub(crate) const VOLUME_FOLDER: &str = "/var/lib/weft/volumes";
/// Keeps a provisioned volume until its node has removed the folder; the name is that of
/// Kubernetes' own provisioners.
pub(crate) const FOLDER_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The node that the scheduler chose for the first pod of a claim.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const COMPONENT: &str = "persistentvolume-controller";

/// The node that a provisioned volume is on.
pub(crate) fn node_of_volume(volume: &PersistentVolume) -> Option<&str> {
    let by = volume.annotations().get(PROVISIONED_BY)?;
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let mut terms = affinity.required.as_ref()?.node_selector_terms.iter();
    let expression = terms.next()?.match_expressions.as_ref()?.first()?;
    let value = expression.values.as_ref()?.first()?;
    (by == PROVISIONER && expression.key == HOSTNAME).then_some(value)
}

/// The claims of a pod, by name.
pub(super) fn claims_of(pod: &Pod) -> impl Iterator<Item = ObjectKey> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| volume.persistent_volume_claim.as_ref())
        .map(move |source| ObjectKey::new(&namespace, &source.claim_name))
}

/// The pods of a namespace that use a claim.
pub(super) fn users<'a>(
    world: &'a World,
    claim: &'a ObjectKey,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Pod)> {
    world
        .within::<Pod>(&claim.namespace)
        .map(|(key, pod)| (key, &**pod))
        .filter(move |(_, pod)| claims_of(pod).any(|used| used == *claim))
}

/// The volumes that name a claim as theirs.
pub(super) fn volumes_of(world: &World, claim: &ObjectKey) -> Vec<ObjectKey> {
    let is_its = |volume: &PersistentVolume| {
        let reference = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.claim_ref.as_ref());
        reference.is_some_and(|reference| {
            reference.name.as_deref() == Some(&*claim.name)
                && reference.namespace.as_deref() == Some(&*claim.namespace)
        })
    };
    let volumes = world.volumes.iter();
    let those = volumes.filter(|(_, volume)| is_its(volume));
    those.map(|(key, _)| key.clone()).collect()
}

/// Whether a pod that runs or is bound to a node uses the claim.
fn is_used(world: &World, claim: &ObjectKey) -> bool {
    users(world, claim).any(|(_, pod)| {
        let bound = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some());
        bound && !is_finished(pod)
    })
}

/// The volume that a claim is bound to.
pub(super) fn bound_volume<'a>(
    world: &'a World,
    claim: &PersistentVolumeClaim,
) -> Option<&'a PersistentVolume> {
    claim.annotations().get(BIND_COMPLETED)?;
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    world
        .volumes
        .get(&ObjectKey::new("", name))
        .map(|volume| &**volume)
}

fn class<'a>(world: &'a World, claim: &PersistentVolumeClaim) -> Option<&'a StorageClass> {
    let name = claim_class(claim).filter(|name| !name.is_empty())?;
    let class = world.storage_classes.get(&ObjectKey::new("", name));
    class.map(|class| &**class)
}

/// Whether a claim is bound only when a pod that uses it has a node.
fn waits_for_pod(world: &World, claim: &PersistentVolumeClaim) -> bool {
    class(world, claim)
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

/// What of a pod's storage speaks against a node; texts are those of kube-scheduler's plugin.
pub(super) fn objection(world: &World, pod: &Pod, node: &Node) -> Option<String> {
    claims_of(pod).find_map(|key| {
        let Some(claim) = world.claims.get(&key) else {
            return Some(format!("persistentvolumeclaim {:?} not found", key.name));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(format!(
                "persistentvolumeclaim {:?} is being deleted",
                key.name
            ));
        }
        if let Some(volume) = bound_volume(world, claim) {
            return (!reaches(node, volume))
                .then(|| "node(s) had volume node affinity conflict".to_owned());
        }
        if !waits_for_pod(world, claim) {
            return Some("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        let chosen = claim.annotations().get(SELECTED_NODE);
        let elsewhere = chosen.is_some_and(|chosen| *chosen != node.name_any());
        let provisioned = class(world, claim).is_some_and(|class| class.provisioner == PROVISIONER);
        let found = provisioned || choose(claim, world.volumes.values(), Some(node)).is_some();
        (elsewhere || !found)
            .then(|| "node(s) didn't find available persistent volumes to bind".to_owned())
    })
}

/// The claims of a pod that wait for its node to be known.
pub(super) fn unbound(world: &World, pod: &Pod) -> Vec<ObjectKey> {
    claims_of(pod)
        .filter(|key| {
            let claim = world.claims.get(key);
            claim.is_some_and(|claim| bound_volume(world, claim).is_none())
        })
        .collect()
}
