//! The folders of local-path volumes: this node's go when their volumes do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;
use weft_kube::k8s_openapi::api::core::v1::PersistentVolume;
use weft_kube::kube::api::{Patch, PatchParams};
use weft_kube::kube::runtime::watcher::{self, Event};
use weft_kube::kube::{self, Api, ResourceExt};

use super::Shared;
use crate::controllers::storage::{self, FOLDER_FINALIZER, VOLUME_FOLDER};

/// Before an interrupted watch, or what failed, is tried again; the pause grows to the second.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Removes folders for as long as the kubelet lives. What cannot be removed is tried again, and
/// holds up no other.
pub(super) async fn keep(shared: Arc<Shared>) {
    let api: Api<PersistentVolume> = Api::all(shared.client.clone());
    let node = &shared.config.node_name;
    let stream = watcher::watcher(api.clone(), watcher::Config::default());
    let mut stream = std::pin::pin!(stream);
    let mut under_way = BTreeSet::new();
    let mut work = FuturesUnordered::new();
    loop {
        let event = tokio::select! {
            Some(uid) = work.next() => {
                under_way.remove(&uid);
                continue;
            }
            event = stream.next() => event,
        };
        match event {
            Some(Ok(Event::Apply(volume) | Event::InitApply(volume))) => {
                let uid = volume.uid().unwrap_or_default();
                if to_reclaim(&volume, node).is_some() && under_way.insert(uid.clone()) {
                    let api = &api;
                    work.push(async move {
                        until_done(api, volume, node).await;
                        uid
                    });
                }
            }
            Some(Ok(Event::Init | Event::InitDone | Event::Delete(_))) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "the watch for volumes is interrupted");
                tokio::time::sleep(RETRY).await;
            }
            None => return,
        }
    }
}

/// Reclaims a volume, however often that has to be tried, unless it is gone meanwhile.
async fn until_done(api: &Api<PersistentVolume>, mut volume: PersistentVolume, node: &str) {
    let mut pause = RETRY;
    while let Some(folder) = to_reclaim(&volume, node) {
        if reclaim(api, &volume, folder).await {
            return;
        }
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
            match api.get_opt(&volume.name_any()).await {
                Ok(Some(now)) if now.uid() == volume.uid() => {
                    volume = now;
                    break;
                }
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "a volume cannot be read"),
            }
        }
    }
}

/// The folder of a volume that is being deleted and that nobody has any more, on this node;
/// an empty path if it is to stay.
fn to_reclaim(volume: &PersistentVolume, node: &str) -> Option<PathBuf> {
    volume.metadata.deletion_timestamp.as_ref()?;
    let finalizers = volume.finalizers();
    let alone = finalizers.iter().all(|name| name == FOLDER_FINALIZER);
    if finalizers.is_empty() || !alone || storage::node_of_volume(volume) != Some(node) {
        return None;
    }
    let spec = volume.spec.as_ref()?;
    if spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete") {
        return Some(PathBuf::new());
    }
    let folder = PathBuf::from(&spec.host_path.as_ref()?.path);
    // Whoever writes a volume by hand does not have any folder removed.
    let ours = folder.parent() == Some(Path::new(VOLUME_FOLDER))
        && folder
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&volume.name_any()));
    Some(if ours { folder } else { PathBuf::new() })
}

/// Tries once. Returns whether nothing is left to do.
async fn reclaim(api: &Api<PersistentVolume>, volume: &PersistentVolume, folder: PathBuf) -> bool {
    let name = volume.name_any();
    if !folder.as_os_str().is_empty() {
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        match removed {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(volume = name, %error, "a volume's folder stays for now");
                return false;
            }
            Ok(_) => tracing::info!(volume = name, "a volume's folder is removed"),
            Err(_) => return false,
        }
    }
    let patch = json!({"metadata": {
        "finalizers": null, "resourceVersion": volume.resource_version(),
    }});
    let patched = api
        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match patched {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 404 => true,
        // There may be a newer one.
        Err(error) => {
            tracing::debug!(volume = name, %error, "not let go of yet");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(policy: &str, path: &str, finalizers: &[&str]) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": "pvc-1", "deletionTimestamp": "2026-01-02T03:04:05Z",
                "finalizers": finalizers,
                "annotations": {"pv.kubernetes.io/provisioned-by": storage::PROVISIONER}},
            "spec": {"persistentVolumeReclaimPolicy": policy, "hostPath": {"path": path},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                    "key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}]}]}}},
        }))
        .unwrap()
    }

    #[test]
    fn only_folders_of_our_own_are_removed_and_only_here() {
        let own = format!("{VOLUME_FOLDER}/pvc-1_default_data");
        let all = [FOLDER_FINALIZER];
        let folder = |volume: &PersistentVolume, node| {
            to_reclaim(volume, node).map(|folder| folder.display().to_string())
        };
        let plain = volume("Delete", &own, &all);
        assert_eq!(folder(&plain, "node-1"), Some(own.clone()));
        assert_eq!(folder(&plain, "node-2"), None);
        assert_eq!(
            folder(&volume("Retain", &own, &all), "node-1").as_deref(),
            Some("")
        );
        let stranger = volume("Delete", "/etc", &all);
        assert_eq!(folder(&stranger, "node-1").as_deref(), Some(""));
        let used = volume(
            "Delete",
            &own,
            &["kubernetes.io/pv-protection", FOLDER_FINALIZER],
        );
        assert_eq!(folder(&used, "node-1"), None);
    }
}
