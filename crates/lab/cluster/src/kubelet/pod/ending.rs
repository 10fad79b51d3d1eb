//! A pod's end: by itself, or because it was deleted.

use std::time::{Duration, Instant};

use weft_kube::k8s_openapi::api::core::v1::Pod;
use weft_kube::kube;
use weft_kube::kube::Api;
use weft_kube::kube::api::{DeleteParams, Preconditions};

use super::{Ending, Next, RETRY, SIGKILL, SIGTERM, Worker, seconds};
use crate::events::Severity;
use crate::kubelet::status::Life;
use crate::kubelet::volumes;

/// How long the shim has to tell of what was killed.
const LAST_WORDS: Duration = Duration::from_millis(500);

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
    }

    /// One step of the pod's end.
    pub(super) async fn end(&mut self) -> Next {
        let now = Instant::now();
        let running: Vec<String> = self
            .records
            .iter()
            .filter(|(_, record)| matches!(record.life, Life::Running(_)))
            .map(|(name, _)| name.clone())
            .collect();
        let grace = if self.removed {
            Duration::ZERO
        } else {
            seconds(
                self.pod
                    .metadata
                    .deletion_grace_period_seconds
                    .unwrap_or_else(|| self.grace()),
            )
        };
        let (since, killed) = match &self.ending {
            Some(ending) => (ending.since, ending.killed),
            None => {
                for name in &running {
                    self.note_container(
                        name,
                        Severity::Normal,
                        "Killing",
                        format!("Stopping container {name}"),
                    );
                    if !grace.is_zero() {
                        self.signal(name, SIGTERM).await;
                    }
                }
                (now, false)
            }
        };
        let deadline = since + grace;
        let kill = !killed && now >= deadline;
        self.ending = Some(Ending {
            since,
            killed: killed || kill,
        });
        if kill {
            for name in &running {
                self.signal(name, SIGKILL).await;
            }
        }
        if !running.is_empty() && self.sandbox.is_some() && !self.removed {
            // The end of what was killed is still told, with its exit code.
            let last = deadline + LAST_WORDS;
            let until = if now < deadline { deadline } else { last };
            if now < until {
                return Next::Wait(Some(until));
            }
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
        let folder = format!(
            "/var/log/pods/{}_{}_{}",
            self.namespace(),
            self.name(),
            self.uid()
        );
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder, %error, "a pod's logs stay");
        }
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
