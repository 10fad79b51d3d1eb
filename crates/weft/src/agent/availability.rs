//! Tells the API whether the node's network is there: the condition NetworkUnavailable.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;
use weft_kube::{Client, NetworkState, Pauses};
use weft_model::NodeName;

/// How long the network is away before it is told: a node that joins is not all there at once.
const PATIENCE: Duration = Duration::from_secs(3);

/// Writes the condition beside everything else that the agent does.
pub(super) struct Availability {
    state: watch::Sender<Option<NetworkState>>,
}

impl Availability {
    pub(super) fn new(client: Client, node: NodeName) -> Self {
        let state = watch::Sender::new(None);
        tokio::spawn(tell(client, node, state.subscribe()));
        Self { state }
    }

    /// All that carries traffic stands.
    pub(super) fn available(&self) {
        self.set(NetworkState {
            available: true,
            reason: "WeftIsUp",
            message: "weft's agent has set up this node's network".to_owned(),
        });
    }

    /// It does not, and why.
    pub(super) fn unavailable(&self, why: &str) {
        self.set(NetworkState {
            available: false,
            reason: "FabricNotApplied",
            message: why.to_owned(),
        });
    }

    fn set(&self, state: NetworkState) {
        self.state.send_if_modified(|now| {
            let differs = now.as_ref() != Some(&state);
            *now = Some(state);
            differs
        });
    }
}

async fn tell(client: Client, node: NodeName, mut state: watch::Receiver<Option<NetworkState>>) {
    let mut pauses = Pauses::default();
    loop {
        let now = state.borrow_and_update().clone();
        if now.as_ref().is_some_and(|now| !now.available) {
            match timeout(PATIENCE, state.changed()).await {
                Ok(Ok(())) => continue,
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
        let told = match &now {
            Some(now) => weft_kube::tell_network_state(&client, &node, now).await,
            None => Ok(()),
        };
        match told {
            Ok(()) => {
                pauses = Pauses::default();
                if state.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "the node's condition NetworkUnavailable is not written; trying again");
                if let Some(pause) = pauses.next() {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
