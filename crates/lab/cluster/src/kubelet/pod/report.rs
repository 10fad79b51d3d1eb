//! Writes a pod's status to the API, when it has changed and at once.

use jiff::Timestamp;
use serde_json::json;
use weft_kube::k8s_openapi::api::core::v1::{Pod, PodStatus};
use weft_kube::kube;
use weft_kube::kube::Api;
use weft_kube::kube::api::{Patch, PatchParams};

use super::Worker;
use crate::kubelet::conditions;
use crate::kubelet::status::{self, View};

impl Worker {
    /// Writes the status if it has changed. Returns whether the API has it.
    pub(super) async fn publish(&mut self) -> bool {
        if self.removed {
            return true;
        }
        let mut pod = Pod::clone(&self.pod);
        let published = self.published.as_ref();
        if let Some(published) = published.filter(|published| !is_overruled(published, &pod)) {
            // The watch may lag behind what was written here.
            let mut merged = pod.status.clone().unwrap_or_default();
            let others = merged.conditions.take().unwrap_or_default();
            let mut conditions = published.conditions.clone().unwrap_or_default();
            conditions.retain(|own| conditions::is_own(&own.type_));
            conditions.extend(
                others
                    .into_iter()
                    .filter(|other| !conditions::is_own(&other.type_)),
            );
            merged.conditions = Some(conditions);
            pod.status = Some(merged);
        }
        let (pod_ips, host_ips) = (self.pod_ips(), self.host_ips());
        let status = status::status(&View {
            pod: &pod,
            records: &self.records,
            sandbox: self.sandbox.is_some(),
            finished: self.finished || self.ending.is_some() && self.sandbox.is_none(),
            pod_ips: &pod_ips,
            host_ips: &host_ips,
            verdict: self.verdict.as_ref(),
            start: self.start,
            now: Timestamp::now(),
        });
        if self.published.as_ref() == Some(&status) {
            return true;
        }
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), self.namespace());
        let patch = json!({"metadata": {"uid": self.uid()}, "status": status});
        match api
            .patch_status(self.name(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => {
                self.published = Some(status);
                true
            }
            // The watch will say so.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => true,
            Err(error) => {
                tracing::warn!(pod = self.name(), namespace = self.namespace(), %error, "status not written yet");
                false
            }
        }
    }
}

/// Whether somebody declared the pod unready after the kubelet wrote otherwise: while the node
/// was silent, nobody knew.
fn is_overruled(published: &PodStatus, pod: &Pod) -> bool {
    let ready = |status: &PodStatus| {
        let mut conditions = status.conditions.iter().flatten();
        let ready = conditions.find(|condition| condition.type_ == "Ready")?;
        let since = ready.last_transition_time.as_ref().map(|time| time.0);
        Some((ready.status.clone(), since))
    };
    let theirs = pod.status.as_ref().and_then(ready);
    match (ready(published), theirs) {
        (Some((ours, wrote)), Some((theirs, since))) => {
            ours == "True" && theirs == "False" && wrote < since
        }
        (None, _) | (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_word_overrules_and_not_a_late_watch() {
        let status = |ready: &str, at: &str| -> PodStatus {
            let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": at});
            serde_json::from_value(json!({"conditions": [condition]})).unwrap()
        };
        let wrote = status("True", "2024-01-01T00:00:10Z");
        let overruled = |theirs: PodStatus| {
            let pod = Pod {
                status: Some(theirs),
                ..Pod::default()
            };
            is_overruled(&wrote, &pod)
        };
        assert!(overruled(status("False", "2024-01-01T00:01:00Z")));
        assert!(!overruled(status("False", "2024-01-01T00:00:05Z")));
        assert!(!overruled(status("True", "2024-01-01T00:01:00Z")));
        assert!(!overruled(PodStatus::default()));
    }
}
