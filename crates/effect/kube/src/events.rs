//! Events about Services: who asks why one does not do what it says is told by kubectl.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::warn;

/// As many as wait while the API does not answer; what comes then is lost.
const WAITING: usize = 256;

/// What is wrong with a Service on this node.
#[derive(Clone, Debug)]
pub struct Warning {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What it is, in one word for programs.
    pub reason: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// What it is, for people.
    pub note: String,
}

/// Writes events. What can't be written is logged, and not tried again.
#[derive(Clone, Debug)]
pub struct ServiceEvents {
    told: Sender<Warning>,
}

impl ServiceEvents {
    /// In the name of a component on this node. Needs a tokio runtime.
    pub fn start(client: &Client, component: &str, node: &str) -> Self {
        let (told, warnings) = channel(WAITING);
        let reporter = Reporter {
            controller: component.to_owned(),
            instance: Some(format!("{component}-{node}")),
        };
        tokio::spawn(write(client.clone(), reporter, warnings));
        Self { told }
    }

    /// Has an event written.
    pub fn warn(&self, warning: Warning) {
        if let Err(error) = self.told.try_send(warning) {
            warn!(%error, "an event is not written");
        }
    }
}

async fn write(client: Client, reporter: Reporter, mut warnings: Receiver<Warning>) {
    let recorder = Recorder::new(client.clone(), reporter);
    while let Some(warning) = warnings.recv().await {
        if let Err(error) = publish(&client, &recorder, &warning).await {
            warn!(%error, %warning, "an event is not written");
        }
    }
}

async fn publish(
    client: &Client,
    recorder: &Recorder,
    warning: &Warning,
) -> Result<(), kube::Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), &warning.namespace);
    // By its uid it is the one that `kubectl describe` shows.
    let Some(service) = services.get_opt(&warning.name).await? else {
        return Ok(());
    };
    let event = Event {
        type_: EventType::Warning,
        reason: warning.reason.to_owned(),
        note: Some(warning.note.clone()),
        action: warning.action.to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &service.object_ref(&())).await
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            reason,
            action: _,
            note,
        } = self;
        write!(f, "Service {namespace}/{name}: {reason}: {note}")
    }
}
