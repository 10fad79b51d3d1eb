//! How a volume stands, and what becomes of it without its claim.

use std::time::Duration;

use serde_json::{Value, json};
use weft_kube::k8s_openapi::api::core::v1::PersistentVolume;
use weft_kube::kube::api::{DeleteParams, Patch, PatchParams};
use weft_kube::kube::{Api, Resource, ResourceExt};
use weft_model::ObjectKey;

use super::matching::{Phase, phase};
use super::{
    COMPONENT, FOLDER_FINALIZER, HOSTNAME, PROVISIONED_BY, PROVISIONER, finalizers, node_of_volume,
};
use crate::controllers::{Context, During, Error};
use crate::events::Severity;

/// Keeps a volume while a claim has it.
const PROTECTION: &str = "kubernetes.io/pv-protection";

pub(in crate::controllers) struct Volumes {
    context: Context,
}

impl Volumes {
    pub(in crate::controllers) fn new(context: Context) -> Self {
        Self { context }
    }

    pub(in crate::controllers) async fn reconcile(
        &self,
        key: ObjectKey,
    ) -> Result<Option<Duration>, Error> {
        let (volume, phase, orphaned) = {
            let world = self.context.world.borrow();
            let Some(volume) = world.volumes.get(&key).cloned() else {
                return Ok(None);
            };
            let reference = volume
                .spec
                .as_ref()
                .and_then(|spec| spec.claim_ref.as_ref());
            let claim = reference.and_then(|reference| {
                let namespace = reference.namespace.as_deref().unwrap_or_default();
                let name = reference.name.as_deref().unwrap_or_default();
                world.claims.get(&ObjectKey::new(namespace, name))
            });
            let phase = phase(&volume, claim.map(|claim| &**claim));
            let node = node_of_volume(&volume);
            let orphaned = node.is_some_and(|node| {
                let mut nodes = world.nodes.values();
                !nodes.any(|one| one.labels().get(HOSTNAME).is_some_and(|name| name == node))
            });
            (volume, phase, orphaned)
        };
        let protected = volume.finalizers().iter().any(|name| name == PROTECTION);
        if volume.meta().deletion_timestamp.is_some() {
            // With its node the folder of a volume is gone, and nobody else will say so.
            let abandoned = orphaned
                && volume
                    .finalizers()
                    .iter()
                    .any(|one| one == FOLDER_FINALIZER);
            if (protected || abandoned) && phase != Phase::Bound {
                let patch = finalizers::without(&*volume, |name| {
                    name == PROTECTION || (orphaned && name == FOLDER_FINALIZER)
                });
                self.merge(&key, &patch).await?;
            }
            return Ok(None);
        }
        if !protected {
            let patch = finalizers::with(&*volume, PROTECTION);
            self.merge(&key, &patch).await?;
        }
        let (name, message) = self.settle(&key, &volume, phase).await?;
        self.write_phase(&key, &volume, name, message).await?;
        Ok(None)
    }

    /// Carries out the reclaim policy; says the phase and its message.
    async fn settle(
        &self,
        key: &ObjectKey,
        volume: &PersistentVolume,
        phase: Phase,
    ) -> Result<(&'static str, Option<&'static str>), Error> {
        let policy = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        match phase {
            Phase::Available => Ok(("Available", None)),
            Phase::Bound => Ok(("Bound", None)),
            Phase::Released if policy != Some("Delete") => Ok(("Released", None)),
            Phase::Released => {
                let by = volume.annotations().get(PROVISIONED_BY);
                if by.is_some_and(|by| by == PROVISIONER) {
                    self.volumes()
                        .delete(&key.name, &DeleteParams::default())
                        .await
                        .settled(404, || format!("deleting PersistentVolume {}", key.name))?;
                    return Ok(("Released", None));
                }
                Ok(("Failed", Some("no deletable volume plugin matched")))
            }
        }
    }

    async fn write_phase(
        &self,
        key: &ObjectKey,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<(), Error> {
        let said = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if said == Some(phase) {
            return Ok(());
        }
        if let Some(message) = message {
            self.context.recorder.say(
                volume,
                COMPONENT,
                Severity::Warning,
                "VolumeFailedDelete",
                message,
            );
        }
        let reason = message.map(|_| "VolumeFailedDelete");
        let patch = json!({"status": {"phase": phase, "message": message, "reason": reason}});
        self.volumes()
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .settled(404, || {
                format!("writing the phase of PersistentVolume {}", key.name)
            })?;
        Ok(())
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.context.client.clone())
    }

    async fn merge(&self, key: &ObjectKey, patch: &Value) -> Result<(), Error> {
        self.volumes()
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .settled(404, || format!("changing PersistentVolume {}", key.name))?;
        Ok(())
    }
}
