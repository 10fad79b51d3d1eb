//! What an agent tells of its node in the API: the condition NetworkUnavailable, and events.

use std::fmt;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::warn;
use weft_model::NodeName;

/// As many as wait while the API does not answer; what comes then is lost.
const WAITING: usize = 256;
/// The condition by which a node says that it has no network (Kubernetes, "Node Status").
const CONDITION: &str = "NetworkUnavailable";

/// Whether a node's pods can reach others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkState {
    /// Whether they can.
    pub available: bool,
    /// Why, in one word for programs.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

/// Says it in the node's conditions, unless they do.
///
/// # Errors
/// The API's answer.
pub async fn tell_network_state(
    client: &Client,
    node: &NodeName,
    state: &NetworkState,
) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let Some(known) = nodes.get_opt(node.as_str()).await? else {
        return Ok(());
    };
    let status = if state.available { "False" } else { "True" };
    let conditions = known.status.and_then(|status| status.conditions);
    let mut conditions = conditions.into_iter().flatten();
    let now = Timestamp::now();
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let there = conditions.find(|condition| condition.type_ == CONDITION);
    let there = there.filter(|condition| condition.status == status);
    let stands = there.as_ref().is_some_and(|condition| {
        condition.reason.as_deref() == Some(state.reason)
            && condition.message.as_deref() == Some(&*state.message)
    });
    if stands {
        return Ok(());
    }
    let since = there.and_then(|condition| condition.last_transition_time);
    let since = since.map_or_else(|| serde_json::json!(now), |time| serde_json::json!(time));
    let patch = serde_json::json!({"status": {"conditions": [{
        "type": CONDITION,
        "status": status,
        "reason": state.reason,
        "message": state.message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": since,
    }]}});
    nodes
        .patch_status(
            node.as_str(),
            &PatchParams::default(),
            &Patch::Strategic(patch),
        )
        .await
        .map(drop)
}

/// What is wrong with a node, or with the way to it.
#[derive(Clone, Debug)]
pub struct NodeWarning {
    /// Which.
    pub node: NodeName,
    /// What it is, in one word for programs.
    pub reason: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// What it is, for people.
    pub note: String,
}

/// Writes events about nodes. What can't be written is logged, and not tried again.
#[derive(Clone, Debug)]
pub struct NodeEvents {
    told: Sender<NodeWarning>,
}

impl NodeEvents {
    /// In the name of a component on this node. Needs a tokio runtime.
    pub fn start(client: &Client, component: &str, node: &NodeName) -> Self {
        let (told, warnings) = channel(WAITING);
        let reporter = Reporter {
            controller: component.to_owned(),
            instance: Some(format!("{component}-{}", node.as_str())),
        };
        tokio::spawn(write(client.clone(), reporter, warnings));
        Self { told }
    }

    /// Has an event written.
    pub fn warn(&self, warning: NodeWarning) {
        if let Err(error) = self.told.try_send(warning) {
            warn!(%error, "an event is not written");
        }
    }
}

async fn write(client: Client, reporter: Reporter, mut warnings: Receiver<NodeWarning>) {
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
    warning: &NodeWarning,
) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    // By its uid it is the one that `kubectl describe` shows.
    let Some(node) = nodes.get_opt(warning.node.as_str()).await? else {
        return Ok(());
    };
    let event = Event {
        type_: EventType::Warning,
        reason: warning.reason.to_owned(),
        note: Some(warning.note.clone()),
        action: warning.action.to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &node.object_ref(&())).await
}

impl fmt::Display for NodeWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            reason,
            action: _,
            note,
        } = self;
        write!(f, "Node {node}: {reason}: {note}")
    }
}
