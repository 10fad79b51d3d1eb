//! Tells when the node's links, addresses or routes have changed, or what leads through its
//! tunnels.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};
use tracing::debug;
use weft_sys::rtnl::{Error, Event, Group, Notifications};

/// Changes come in bursts (a link that goes down takes its routes along): the routes are
/// looked at once, when a burst may be over.
const BURST: Duration = Duration::from_millis(50);

/// The kernel's notifications.
pub(super) struct NetworkChanges {
    notifications: AsyncFd<Notifications>,
    tunnels: BTreeSet<u32>,
    due: Option<Instant>,
}

impl NetworkChanges {
    /// From now on.
    pub(super) fn subscribe() -> Result<Self> {
        let notifications =
            Notifications::open(&Group::ALL).context("notifications of the network")?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe: the descriptor must stay open as long as the \
                      value lives, and Notifications owns its socket"
        )]
        Ok(Self {
            notifications: AsyncFd::new(notifications).context("notifications of the network")?,
            tunnels: BTreeSet::new(),
            due: None,
        })
    }

    /// Which devices' neighbours count: on other links they come and go by themselves.
    pub(super) fn follow(&mut self, tunnels: impl IntoIterator<Item = u32>) {
        self.tunnels.clear();
        self.tunnels.extend(tunnels);
    }

    /// Returns some time after something changed. Dropping the future loses nothing.
    pub(super) async fn settled(&mut self) -> Result<()> {
        loop {
            let burst_over = async {
                match self.due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = burst_over => {
                    self.due = None;
                    return Ok(());
                }
                ready = self.notifications.readable_mut() => {
                    let mut ready = ready.context("notifications of the network")?;
                    while let Some(event) = taken(ready.get_inner_mut().take()).context("notifications of the network")? {
                        if is_change(&event, &self.tunnels) {
                            self.due.get_or_insert_with(|| Instant::now() + BURST);
                        }
                    }
                    ready.clear_ready();
                }
            }
        }
    }
}

/// Whether a notification is a reason to look at what this node must hold.
fn is_change(event: &Event, tunnels: &BTreeSet<u32>) -> bool {
    match event {
        Event::Neighbour(neighbour) | Event::NeighbourGone(neighbour) => {
            tunnels.contains(&neighbour.index)
        }
        Event::Forwarding(entry) | Event::ForwardingGone(entry) => tunnels.contains(&entry.index),
        Event::Link(_)
        | Event::LinkGone(_)
        | Event::Address(_)
        | Event::AddressGone(_)
        | Event::Route(_)
        | Event::RouteGone(_)
        | Event::Overflow => true,
    }
}

/// What was taken. A message that can't be read tells of a change as well: what changed is read
/// from the kernel anyway.
fn taken(taken: Result<Option<Event>, Error>) -> Result<Option<Event>, Error> {
    match taken {
        Ok(event) => Ok(event),
        Err(error @ Error::Malformed { .. }) => {
            debug!(%error, "taken for a change");
            Ok(Some(Event::Overflow))
        }
        Err(
            error @ (Error::Socket { .. }
            | Error::Refused { .. }
            | Error::Unsettled { .. }
            | Error::Lost { .. }),
        ) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use weft_sys::rtnl::{Neighbour, NeighbourState};

    use super::*;

    #[test]
    fn a_notification_that_cannot_be_read_ends_nothing() {
        assert_eq!(taken(Ok(None)).unwrap(), None);
        let malformed = Error::Malformed {
            operation: "receive a notification",
            reason: "an attribute of a newer kernel".to_owned(),
        };
        let event = taken(Err(malformed)).unwrap().unwrap();
        assert!(is_change(&event, &BTreeSet::new()));
        let broken = Error::Socket {
            operation: "receive",
            source: std::io::ErrorKind::Other.into(),
        };
        assert!(taken(Err(broken)).is_err());
    }

    #[test]
    fn only_the_neighbours_of_tunnels_count() {
        let gone = |index| {
            Event::NeighbourGone(Neighbour {
                index,
                address: [10, 244, 2, 0].into(),
                mac: None,
                state: NeighbourState::Unresolved,
            })
        };
        assert!(is_change(&gone(7), &[7].into()));
        assert!(!is_change(&gone(2), &[7].into()));
    }
}
