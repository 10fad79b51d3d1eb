//! Events: what a person sees in `kubectl describe`. Repeated ones are counted, similar ones
//! combined, and what is too much is kept back.

mod correlate;

use correlate::{Correlator, Subject, Told, Verdict};

use jiff::Timestamp;
use serde_json::json;
use weft_kube::Client;
use weft_kube::k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use weft_kube::kube::api::{Patch, PatchParams, PostParams};
use weft_kube::kube::{Api, Error, Resource};

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
    /// What decides whether it is one of several. The object may change meanwhile, and stays
    /// the same object.
    fn subject(&self, node: Option<&str>) -> Subject {
        let object = &self.object;
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let about = [
            self.component.to_owned(),
            node.unwrap_or_default().to_owned(),
            text(&object.kind),
            text(&object.namespace),
            text(&object.name),
            text(&object.uid),
            text(&object.api_version),
            self.severity.name().to_owned(),
        ];
        Subject {
            about: about.join("\0"),
            field_path: text(&object.field_path),
            reason: self.reason.to_owned(),
            message: self.message.clone(),
        }
    }
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
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
    let mut correlator = Correlator::default();
    while let Some(noted) = receiver.recv().await {
        let now = Timestamp::now();
        let verdict = correlator.observe(&noted.subject(node.as_deref()), now);
        let told = match verdict {
            Verdict::KeepBack => {
                tracing::debug!(reason = noted.reason, "too many events about one object");
                continue;
            }
            Verdict::Tell { key, message } => {
                let told = Told {
                    name: new_name(&noted, now),
                    first: now,
                    count: 1,
                };
                create(&client, &noted, node.as_deref(), message, &told, now)
                    .await
                    .map(|()| (key, told))
            }
            Verdict::Count { key, message, told } => {
                let told = Told {
                    count: told.count.saturating_add(1),
                    ..told
                };
                count(&client, &noted, node.as_deref(), message, &told, now)
                    .await
                    .map(|()| (key, told))
            }
        };
        match told {
            Ok((key, told)) => correlator.told(key, told),
            Err(error) => tracing::debug!(%error, reason = noted.reason, "an event is not told"),
        }
    }
}

fn events_of(client: &Client, noted: &Noted) -> Api<Event> {
    Api::namespaced(client.clone(), namespace_of(noted))
}

fn namespace_of(noted: &Noted) -> &str {
    noted.object.namespace.as_deref().unwrap_or("default")
}

/// Counts an event that was told; one that is gone meanwhile is told anew.
async fn count(
    client: &Client,
    noted: &Noted,
    node: Option<&str>,
    message: String,
    told: &Told,
    now: Timestamp,
) -> Result<(), Error> {
    let patch = json!({"count": told.count, "lastTimestamp": Time(now), "message": message});
    let patched = events_of(client, noted)
        .patch(&told.name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match patched {
        Err(Error::Api(status)) if status.code == 404 => {
            create(client, noted, node, message, told, now).await
        }
        other => other.map(|_| ()),
    }
}

async fn create(
    client: &Client,
    noted: &Noted,
    node: Option<&str>,
    message: String,
    told: &Told,
    now: Timestamp,
) -> Result<(), Error> {
    let event = new_event(noted, node, message, told, now);
    events_of(client, noted)
        .create(&PostParams::default(), &event)
        .await
        .map(|_| ())
}

/// Kubernetes' own form: the object and the time in hexadecimal digits.
fn new_name(noted: &Noted, now: Timestamp) -> String {
    let object = noted.object.name.as_deref().unwrap_or_default();
    format!("{object}.{:x}", now.as_nanosecond())
}

fn new_event(
    noted: &Noted,
    node: Option<&str>,
    message: String,
    told: &Told,
    now: Timestamp,
) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(told.name.clone()),
            namespace: Some(namespace_of(noted).to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: noted.object.clone(),
        type_: Some(noted.severity.name().to_owned()),
        reason: Some(noted.reason.to_owned()),
        message: Some(message),
        source: Some(EventSource {
            component: Some(noted.component.to_owned()),
            host: node.map(str::to_owned),
        }),
        reporting_component: Some(noted.component.to_owned()),
        reporting_instance: Some(node.unwrap_or_default().to_owned()),
        count: Some(told.count),
        first_timestamp: Some(Time(told.first)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_stays_the_same_though_it_has_changed() {
        let subject = |uid: &str, version: &str| {
            let noted = Noted {
                object: ObjectReference {
                    uid: Some(uid.to_owned()),
                    resource_version: Some(version.to_owned()),
                    ..ObjectReference::default()
                },
                component: "kubelet",
                severity: Severity::Normal,
                reason: "Pulled",
                message: "m".to_owned(),
            };
            noted.subject(Some("node-1"))
        };
        assert_eq!(subject("a", "1"), subject("a", "2"));
        assert_ne!(subject("a", "1"), subject("b", "1"));
    }
}
