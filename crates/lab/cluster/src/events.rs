//! Events: what a person sees in `kubectl describe`. Repeated ones are counted, not repeated.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde_json::json;
use weft_kube::Client;
use weft_kube::k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use weft_kube::kube::api::{Patch, PatchParams, PostParams};
use weft_kube::kube::{Api, Resource};

/// How many different events are remembered for counting.
const REMEMBERED: usize = 256;
/// How many may wait to be sent, as in client-go; beyond that they are dropped, as they are
/// only told.
const QUEUE: usize = 1000;

/// Whether an event is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It is.
    Normal,
    /// A person may have to look.
    Warning,
}

/// Sends events, in order, behind the back of whoever has one: nobody waits for an event or
/// fails by one.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: tokio::sync::mpsc::Sender<Noted>,
}

#[derive(Debug, Clone)]
struct Noted {
    object: ObjectReference,
    component: &'static str,
    severity: Severity,
    reason: &'static str,
    message: String,
}

impl Noted {
    /// Whether it says again what `other` said. The object may have changed meanwhile.
    fn repeats(&self, other: &Noted) -> bool {
        let said = |noted: &Noted| (noted.component, noted.severity, noted.reason);
        said(self) == said(other)
            && self.message == other.message
            && self.object.uid == other.object.uid
            && self.object.field_path == other.object.field_path
    }
}

struct Remembered {
    noted: Noted,
    name: String,
    count: i32,
}

impl Recorder {
    /// Starts the sender, for those of a node or (`None`) of the whole cluster.
    #[must_use]
    pub fn start(client: Client, node: Option<String>) -> Self {
        let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
        tokio::spawn(send_all(client, node, receiver));
        Recorder { sender }
    }

    /// Says something about an object, in the name of `component`.
    pub fn say<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        component: &'static str,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.note(
            &object.object_ref(&()),
            component,
            severity,
            reason,
            message,
        );
    }

    /// The same, about what a reference names.
    pub fn note(
        &self,
        object: &ObjectReference,
        component: &'static str,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let noted = Noted {
            object: object.clone(),
            component,
            severity,
            reason,
            message: message.into(),
        };
        if self.sender.try_send(noted).is_err() {
            tracing::warn!(reason, "too many events at once: one is not told");
        }
    }
}

async fn send_all(
    client: Client,
    node: Option<String>,
    mut receiver: tokio::sync::mpsc::Receiver<Noted>,
) {
    let mut remembered: VecDeque<Remembered> = VecDeque::new();
    while let Some(noted) = receiver.recv().await {
        let namespace = noted
            .object
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let now = Time(Timestamp::now());
        if let Some(old) = remembered.iter_mut().find(|old| noted.repeats(&old.noted)) {
            old.count += 1;
            let patch = json!({"count": old.count, "lastTimestamp": now});
            let patched = api
                .patch(&old.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            match patched {
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, "an event is written anew");
                    remembered.retain(|old| !noted.repeats(&old.noted));
                }
            }
        }
        let event = new_event(&noted, node.as_deref(), &namespace, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if remembered.len() == REMEMBERED {
                    remembered.pop_front();
                }
                remembered.push_back(Remembered {
                    noted,
                    name,
                    count: 1,
                });
            }
            Err(error) => tracing::debug!(%error, reason = noted.reason, "an event is not told"),
        }
    }
}

fn new_event(noted: &Noted, node: Option<&str>, namespace: &str, now: Time) -> Event {
    let object = noted.object.name.as_deref().unwrap_or_default();
    let nanoseconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    Event {
        metadata: ObjectMeta {
            // Kubernetes' own form: the object and the time in hexadecimal digits.
            name: Some(format!("{object}.{nanoseconds:x}")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: noted.object.clone(),
        type_: Some(
            match noted.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            }
            .to_owned(),
        ),
        reason: Some(noted.reason.to_owned()),
        message: Some(noted.message.clone()),
        source: Some(EventSource {
            component: Some(noted.component.to_owned()),
            host: node.map(str::to_owned),
        }),
        reporting_component: Some(noted.component.to_owned()),
        reporting_instance: Some(node.unwrap_or_default().to_owned()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_is_counted_though_its_object_has_changed() {
        let noted = |uid: &str, version: &str, message: &str| Noted {
            object: ObjectReference {
                uid: Some(uid.to_owned()),
                resource_version: Some(version.to_owned()),
                ..ObjectReference::default()
            },
            component: "kubelet",
            severity: Severity::Normal,
            reason: "Pulled",
            message: message.to_owned(),
        };
        let first = noted("a", "1", "m");
        assert!(noted("a", "2", "m").repeats(&first));
        assert!(!noted("b", "1", "m").repeats(&first));
        assert!(!noted("a", "1", "n").repeats(&first));
    }
}
