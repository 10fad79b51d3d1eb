//! Lifecycle hooks of a pod's containers: run beside the pod's task, which is told how they went.

use std::time::{Duration, Instant};

use weft_kube::k8s_openapi::api::core::v1::LifecycleHandler;

use super::{Heard, Worker, seconds};
use crate::events::Severity;
use crate::kubelet::hooks::{self, When};

/// The end of a hook, with the container's id: one of an earlier run does not count.
pub(super) struct HookEnded {
    container: String,
    id: String,
    when: When,
    result: Result<(), String>,
}

impl Worker {
    /// Runs a container's hook, for so long at most.
    pub(super) fn run_hook(
        &self,
        name: &str,
        when: When,
        hook: LifecycleHandler,
        limit: Option<Duration>,
    ) {
        let (Some(sandbox), Some(container)) = (&self.sandbox, self.spec_of(name)) else {
            return;
        };
        let id = self.records.get(name).and_then(|record| record.id.clone());
        let (container, pod_ip) = (container.clone(), self.pod_ips().first().copied());
        let (shim, sender) = (sandbox.connection().clone(), self.heard_sender.clone());
        tokio::spawn(async move {
            let result = hooks::run(&hook, &container, pod_ip, &shim, limit).await;
            let ended = HookEnded {
                container: container.name,
                id: id.unwrap_or_default(),
                when,
                result,
            };
            let _pod_is_gone = sender.send(Heard::Hook(ended));
        });
    }

    pub(super) async fn hook_ended(&mut self, ended: HookEnded) {
        let HookEnded {
            container: name,
            id,
            when,
            result,
        } = ended;
        let current = self
            .records
            .get(&name)
            .is_some_and(|record| record.running() && record.id.as_ref() == Some(&id));
        if !current {
            return;
        }
        match (when, result) {
            (When::PostStart, Ok(())) => {
                if let Some(record) = self.records.get_mut(&name) {
                    record.hooked = false;
                }
                let stops = self.live.get(&name).is_some_and(|live| live.stop.is_some());
                if !stops {
                    self.begin_probes(&name, Instant::now(), false, false);
                }
            }
            (When::PostStart, Err(reason)) => {
                self.hook_failed(&name, "FailedPostStartHook", "PostStartHook failed");
                self.note_container(&name, Severity::Normal, "Killing", "FailedPostStartHook");
                self.live.entry(name.clone()).or_default().hook_failed = Some(reason);
                self.stop(&name, seconds(self.grace())).await;
            }
            (When::PreStop, result) => {
                if result.is_err() {
                    self.hook_failed(&name, "FailedPreStopHook", "PreStopHook failed");
                }
                self.ask_after_hook(&name).await;
            }
        }
    }

    /// What the hook said may be a secret, so it is not told to everybody (as the kubelet's).
    fn hook_failed(&self, name: &str, reason: &'static str, text: &str) {
        self.note_container(name, Severity::Warning, reason, text);
    }
}
