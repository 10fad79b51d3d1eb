//! Tells when the node's links, addresses or routes have changed, or what leads through its
//! tunnels.

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
            due: None,
        })
    }

    /// Returns some time after something changed that is news. Dropping the future loses nothing.
    pub(super) async fn settled(&mut self, is_news: impl Fn(&Event) -> bool) -> Result<()> {
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
                        if is_news(&event) {
                            self.due.get_or_insert_with(|| Instant::now() + BURST);
                        }
                    }
                    ready.clear_ready();
                }
            }
        }
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
    use super::*;

    #[test]
    fn a_notification_that_cannot_be_read_ends_nothing() {
        assert_eq!(taken(Ok(None)).unwrap(), None);
        let malformed = Error::Malformed {
            operation: "receive a notification",
            reason: "an attribute of a newer kernel".to_owned(),
        };
        assert_eq!(taken(Err(malformed)).unwrap(), Some(Event::Overflow));
        let broken = Error::Socket {
            operation: "receive",
            source: std::io::ErrorKind::Other.into(),
        };
        assert!(taken(Err(broken)).is_err());
    }
}
