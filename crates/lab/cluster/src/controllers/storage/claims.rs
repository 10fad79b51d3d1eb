//! Binds claims to volumes, and makes volumes for those that none fits.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weft_kube::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use weft_kube::k8s_openapi::api::storage::v1::StorageClass;
use weft_kube::kube::api::{Patch, PatchParams, PostParams};
use weft_kube::kube::{Api, Resource, ResourceExt};
use weft_model::ObjectKey;

use super::matching::{Reserved, choose, claim_class, reserved};
use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, COMPONENT, FOLDER_FINALIZER, HOSTNAME, IS_DEFAULT,
    PROVISIONED_BY, PROVISIONER, SELECTED_NODE, VOLUME_FOLDER, class, finalizers, is_used,
    waits_for_pod,
};
use crate::controllers::world::{World, api};
use crate::controllers::{Context, During, Error};
use crate::events::Severity;

/// Keeps a claim while a pod uses it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

pub(in crate::controllers) struct Claims {
    context: Context,
}

/// What to do with a claim.
enum Step {
    Nothing,
    /// It says no class: it gets the default one.
    Class(String),
    Bind(Arc<PersistentVolume>),
    /// Its volume is gone, or another's.
    Lost(&'static str),
    Provision(Arc<Node>, Box<StorageClass>),
    Wait(Severity, &'static str, String),
}

impl Claims {
    pub(in crate::controllers) fn new(context: Context) -> Self {
        Self { context }
    }

    pub(in crate::controllers) async fn reconcile(
        &self,
        key: ObjectKey,
    ) -> Result<Option<Duration>, Error> {
        let (claim, used, step) = {
            let world = self.context.world.borrow();
            let Some(claim) = world.claims.get(&key).cloned() else {
                return Ok(None);
            };
            let step = step(&world, &claim);
            (claim, is_used(&world, &key), step)
        };
        let protected = claim.finalizers().iter().any(|name| name == PROTECTION);
        if claim.meta().deletion_timestamp.is_some() {
            if protected && !used {
                let patch = finalizers::without(&*claim, |name| name == PROTECTION);
                self.merge(&key, &patch).await?;
            }
            return Ok(None);
        }
        if !protected {
            let patch = finalizers::with(&*claim, PROTECTION);
            // The event of this write brings us back.
            return self.merge(&key, &patch).await.map(|()| None);
        }
        match step {
            Step::Nothing => {}
            Step::Class(name) => {
                self.merge(&key, &json!({"spec": {"storageClassName": name}}))
                    .await?;
            }
            Step::Bind(volume) => self.bind(&key, &claim, &volume).await?,
            Step::Lost(why) => self.lose(&key, &claim, why).await?,
            Step::Provision(node, class) => {
                self.provision(&key, &claim, &node, &class).await?;
            }
            Step::Wait(severity, reason, message) => {
                self.say(&claim, severity, reason, message);
            }
        }
        Ok(None)
    }

    fn say(
        &self,
        claim: &PersistentVolumeClaim,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let recorder = &self.context.recorder;
        recorder.say(claim, COMPONENT, severity, reason, message);
    }

    /// The volume first: from then on it is nobody else's.
    async fn bind(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), Error> {
        let name = volume.name_any();
        let reference = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.claim_ref.as_ref());
        if reference.and_then(|reference| reference.uid.as_ref()) != claim.uid().as_ref() {
            let by_us = reference
                .is_none()
                .then(|| json!({BOUND_BY_CONTROLLER: "yes"}));
            let patch = json!({
                "metadata": {
                    "resourceVersion": volume.resource_version(),
                    "annotations": by_us.unwrap_or_else(|| json!({})),
                },
                "spec": {"claimRef": claim_reference(claim)},
            });
            let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
            let written = volumes
                .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .during(|| format!("binding PersistentVolume {name} to claim {key}"))?;
            let volume_key = ObjectKey::new("", &name);
            self.context
                .world
                .borrow_mut()
                .put(Some(written), &volume_key);
        }
        let named = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_ref());
        if named != Some(&name) || !claim.annotations().contains_key(BIND_COMPLETED) {
            let mut annotations = json!({BIND_COMPLETED: "yes"});
            if named.is_none_or(String::is_empty) {
                annotations[BOUND_BY_CONTROLLER] = json!("yes");
            }
            let patch = json!({
                "metadata": {"annotations": annotations},
                "spec": {"volumeName": name},
            });
            self.merge(key, &patch).await?;
        }
        let spec = volume.spec.as_ref();
        let status = json!({"status": {
            "phase": "Bound",
            "accessModes": spec.and_then(|spec| spec.access_modes.as_ref()),
            "capacity": spec.and_then(|spec| spec.capacity.as_ref()),
        }});
        self.write_status(key, &status).await
    }

    async fn lose(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        why: &'static str,
    ) -> Result<(), Error> {
        self.say(claim, Severity::Warning, "ClaimLost", why.to_owned());
        self.write_status(key, &json!({"status": {"phase": "Lost"}}))
            .await
    }

    /// A folder on the node that the scheduler chose.
    async fn provision(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        node: &Node,
        class: &StorageClass,
    ) -> Result<(), Error> {
        let volume = provisioned(claim, node, class);
        let name = volume["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let volume: PersistentVolume = serde_json::from_value(volume)
            .map_err(|error| Error::Impossible(format!("the volume of claim {key}: {error}")))?;
        let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let made = volumes
            .create(&PostParams::default(), &volume)
            .await
            .settled(409, || format!("making a volume for claim {key}"))?;
        if made.is_some() {
            let message = format!("Successfully provisioned volume {name}");
            self.say(claim, Severity::Normal, "ProvisioningSucceeded", message);
        }
        // The event of the volume brings us back to bind it.
        Ok(())
    }

    async fn merge(&self, key: &ObjectKey, patch: &Value) -> Result<(), Error> {
        api::<PersistentVolumeClaim>(&self.context.client, key)
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .settled(404, || format!("changing PersistentVolumeClaim {key}"))?;
        Ok(())
    }

    async fn write_status(&self, key: &ObjectKey, status: &Value) -> Result<(), Error> {
        api::<PersistentVolumeClaim>(&self.context.client, key)
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .settled(404, || {
                format!("writing the status of PersistentVolumeClaim {key}")
            })?;
        Ok(())
    }
}

fn claim_reference(claim: &PersistentVolumeClaim) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": claim.metadata.namespace,
        "name": claim.metadata.name,
        "uid": claim.metadata.uid,
    })
}

fn provisioned(claim: &PersistentVolumeClaim, node: &Node, class: &StorageClass) -> Value {
    let spec = claim.spec.clone().unwrap_or_default();
    let name = format!("pvc-{}", claim.uid().unwrap_or_default());
    let requests = spec.resources.and_then(|resources| resources.requests);
    let hostname = node.labels().get(HOSTNAME).cloned();
    let namespace = claim.namespace().unwrap_or_default();
    let folder = format!("{VOLUME_FOLDER}/{name}_{namespace}_{}", claim.name_any());
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: PROVISIONER},
            "finalizers": [FOLDER_FINALIZER],
        },
        "spec": {
            "capacity": {"storage": requests.and_then(|mut all| all.remove("storage"))},
            "accessModes": spec.access_modes,
            "volumeMode": "Filesystem",
            "storageClassName": class.name_any(),
            "persistentVolumeReclaimPolicy": class.reclaim_policy,
            "mountOptions": class.mount_options,
            "claimRef": claim_reference(claim),
            "hostPath": {"path": folder, "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                "key": HOSTNAME,
                "operator": "In",
                "values": [hostname.unwrap_or_else(|| node.name_any())],
            }]}]}},
        },
    })
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    let status = claim.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

fn step(world: &World, claim: &PersistentVolumeClaim) -> Step {
    let spec = claim.spec.as_ref();
    let named = spec.and_then(|spec| spec.volume_name.as_deref());
    match named.filter(|name| !name.is_empty()) {
        Some(name) => step_named(world, claim, name),
        None => step_unbound(world, claim),
    }
}

/// For a claim that says which volume it has, or wants.
fn step_named(world: &World, claim: &PersistentVolumeClaim, name: &str) -> Step {
    let complete = claim.annotations().contains_key(BIND_COMPLETED);
    let volume = world.volumes.get(&ObjectKey::new("", name));
    match (volume, complete) {
        _ if phase(claim) == "Lost" => Step::Nothing,
        (None, true) => {
            Step::Lost("Bound claim has lost its PersistentVolume. Data on the volume is lost!")
        }
        (None, false) => Step::Nothing,
        (Some(volume), _) if reserved(volume, claim) == Reserved::This => {
            if complete && phase(claim) == "Bound" && is_bound_to(volume, claim) {
                Step::Nothing
            } else {
                Step::Bind(volume.clone())
            }
        }
        (Some(_), true) => Step::Lost(
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (Some(volume), false) => match choose(claim, std::iter::once(volume), None) {
            Some(volume) => Step::Bind(volume.clone()),
            None => Step::Wait(
                Severity::Warning,
                "VolumeMismatch",
                format!(
                    "Cannot bind to requested volume {name:?}: it does not fit, or is another claim's"
                ),
            ),
        },
    }
}

fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    reference.and_then(|reference| reference.uid.as_ref()) == claim.uid().as_ref()
}

fn step_unbound(world: &World, claim: &PersistentVolumeClaim) -> Step {
    if claim_class(claim).is_none()
        && let Some(name) = default_class(world)
    {
        return Step::Class(name);
    }
    let selected = claim.annotations().get(SELECTED_NODE);
    let node = selected.and_then(|name| world.nodes.get(&ObjectKey::new("", name)));
    let kept = world
        .volumes
        .values()
        .filter(|volume| reserved(volume, claim) == Reserved::This);
    if let Some(volume) = choose(claim, kept, None) {
        return Step::Bind(volume.clone());
    }
    if waits_for_pod(world, claim) && node.is_none() {
        let message = "waiting for first consumer to be created before binding";
        return Step::Wait(Severity::Normal, "WaitForFirstConsumer", message.to_owned());
    }
    if let Some(volume) = choose(claim, world.volumes.values(), node.map(|node| &**node)) {
        return Step::Bind(volume.clone());
    }
    match (class(world, claim), claim_class(claim), node) {
        (Some(class), _, Some(node)) if class.provisioner == PROVISIONER => {
            Step::Provision(node.clone(), Box::new(class.clone()))
        }
        (Some(class), _, None) if class.provisioner == PROVISIONER => Step::Wait(
            Severity::Warning,
            "ProvisioningFailed",
            "a folder needs a node: use a class with volumeBindingMode WaitForFirstConsumer"
                .to_owned(),
        ),
        (Some(class), _, _) if class.provisioner != "kubernetes.io/no-provisioner" => Step::Wait(
            Severity::Normal,
            "ExternalProvisioning",
            format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or \
                 manually by the system administrator. If volume creation is delayed, please \
                 verify that the provisioner is running and correctly registered.",
                class.provisioner
            ),
        ),
        (None, Some(name), _) if !name.is_empty() => Step::Wait(
            Severity::Warning,
            "ProvisioningFailed",
            format!("storageclass.storage.k8s.io {name:?} not found"),
        ),
        (Some(_) | None, _, _) => Step::Wait(
            Severity::Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set".to_owned(),
        ),
    }
}

/// The newest class that is marked.
fn default_class(world: &World) -> Option<String> {
    world
        .storage_classes
        .values()
        .filter(|class| {
            class
                .annotations()
                .get(IS_DEFAULT)
                .is_some_and(|is| is == "true")
        })
        .max_by_key(|class| class.creation_timestamp().map(|time| time.0))
        .map(|class| class.name_any())
}
