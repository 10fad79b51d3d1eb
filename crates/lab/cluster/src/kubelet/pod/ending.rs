//! A pod's end: by itself, or because it was deleted.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use weft_kube::k8s_openapi::api::core::v1::Pod;
use weft_kube::kube;
use weft_kube::kube::Api;
use weft_kube::kube::api::{DeleteParams, Preconditions};

use super::{Next, RETRY, Worker, seconds};
use crate::kubelet::volumes;

/// Where the logs of pods are: `NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log`.
const LOGS: &str = "/var/log/pods";

/// What an evicted pod has, whatever it asks for (kubelet's immediateEvictionGracePeriodSeconds).
const EVICTED_GRACE: i64 = 1;

/// Removes the logs of pods other than these.
pub(in crate::kubelet) fn remove_logs_but(uids: &[String]) {
    for entry in fs::read_dir(LOGS).into_iter().flatten().flatten() {
        // A UID has no `_`; neither have the names before it.
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.rsplit('_').next());
        if owner.is_some_and(|owner| !uids.iter().any(|known| known == owner)) {
            remove_folder(&entry.path());
        }
    }
}

fn remove_folder(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "a pod's logs stay");
        }
        Ok(()) | Err(_) => {}
    }
}

impl Worker {
    /// The pod has run to its end: its network is given back, its status stays.
    pub(super) async fn finish(&mut self) {
        self.finished = true;
        self.events = None;
        // The address stays in the status.
        let known = self.published.is_some();
        if !known {
            self.publish().await;
        }
        if let Some(sandbox) = self.sandbox.take() {
            sandbox.remove().await;
        }
        self.shared.ports.give_back(self.uid());
    }

    /// One step of the end of a pod that has done its work, or may not go on.
    pub(super) async fn conclude(&mut self) -> Next {
        if self.sandbox.is_some() && !self.finished {
            let evicted = self
                .verdict
                .as_ref()
                .is_some_and(|one| one.reason == "Evicted");
            let grace = seconds(if evicted { EVICTED_GRACE } else { self.grace() });
            let since = *self.ending.get_or_insert_with(Instant::now);
            if let Some(until) = self.wind_down(since + grace, grace).await {
                return Next::Wait(Some(until));
            }
        }
        self.finish().await;
        Next::Wait(None)
    }

    /// One step of the pod's end.
    pub(super) async fn end(&mut self) -> Next {
        self.shared.ports.leave(self.uid());
        let metadata = &self.pod.metadata;
        let grace = metadata.deletion_grace_period_seconds;
        let grace = seconds(grace.unwrap_or_else(|| self.grace()));
        let since = *self.ending.get_or_insert_with(Instant::now);
        if !self.removed
            && self.sandbox.is_some()
            && let Some(until) = self.wind_down(since + grace, grace).await
        {
            return Next::Wait(Some(until));
        }
        self.finish().await;
        volumes::remove(self.uid());
        self.remove_logs();
        if !self.removed {
            self.publish().await;
            if !self.delete().await {
                return Next::Wait(Some(Instant::now() + RETRY));
            }
        }
        tracing::info!(pod = self.name(), namespace = self.namespace(), "removed");
        Next::Gone
    }

    fn remove_logs(&self) {
        let folder = format!("{}_{}_{}", self.namespace(), self.name(), self.uid());
        remove_folder(&Path::new(LOGS).join(folder));
    }

    /// Tells the API that nothing of the pod is left.
    async fn delete(&self) -> bool {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), self.namespace());
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid().to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(self.name(), &parameters).await {
            Ok(_) => true,
            // Gone, or another pod has its name now.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => true,
            Err(error) => {
                tracing::warn!(pod = self.name(), namespace = self.namespace(), %error, "not deleted yet");
                false
            }
        }
    }
}
