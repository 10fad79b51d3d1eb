//! Tells the other nodes how this one's pods are reached.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};
use weft_kube::{Client, Pauses};
use weft_model::{Announced, Node, NodeName, Vtep};

/// Between two writes, whoever writes in between: two writers don't chase each other.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes what is to be said into the node's own object, beside everything else that the
/// agent does.
pub(super) struct Announcing {
    wanted: watch::Sender<Option<Announced>>,
}

impl Announcing {
    pub(super) fn new(client: Client, node: NodeName) -> Self {
        let wanted = watch::Sender::new(None);
        tokio::spawn(say(client, node, wanted.clone()));
        Self { wanted }
    }

    /// Says it, unless the node's object does. What somebody else makes of it there is
    /// corrected.
    pub(super) fn announce(&self, own: &Node, announced: Announced) {
        let there = &own.announced;
        let keeps = !announced.is_vxlan();
        let same =
            |have: Option<Vtep>, want: Option<Vtep>| want == have || (want.is_none() && keeps);
        let stands = there.backend == announced.backend
            && there.public_ips == announced.public_ips
            && same(there.vtep_v4, announced.vtep_v4)
            && same(there.vtep_v6, announced.vtep_v6);
        let wanted = (!stands).then_some(announced);
        self.wanted.send_if_modified(|now| {
            let differs = *now != wanted;
            *now = wanted;
            differs
        });
    }
}

async fn say(client: Client, node: NodeName, wanted: watch::Sender<Option<Announced>>) {
    let mut changes = wanted.subscribe();
    let mut pauses = Pauses::default();
    loop {
        let announced = changes.borrow_and_update().clone();
        let Some(announced) = announced else {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        };
        let pause = match weft_kube::announce(&client, &node, &announced).await {
            Ok(()) => {
                let backend = announced.backend.as_deref().unwrap_or_default();
                info!(backend, "told the other nodes how this one is reached");
                // To be said again if somebody undoes it.
                wanted.send_if_modified(|now| {
                    if now.as_ref() == Some(&announced) {
                        *now = None;
                    }
                    false
                });
                pauses = Pauses::default();
                PAUSE
            }
            Err(error) => {
                warn!(%error, "the other nodes are not told how this one is reached; trying again");
                pauses.next().map_or(PAUSE, |pause| pause.max(PAUSE))
            }
        };
        tokio::time::sleep(pause).await;
    }
}
