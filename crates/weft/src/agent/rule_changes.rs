//! Tells when somebody may have changed Service rules.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// Changes come in bursts, and a flush is a burst: the rules are looked at once, when it may
/// be over.
const BURST: Duration = Duration::from_millis(50);

/// Waits for the kernel's notifications; whoever holds the socket reads them.
pub(super) struct RuleChanges {
    socket: Option<AsyncFd<OwnedFd>>,
    due: Option<Instant>,
}

impl RuleChanges {
    /// By a socket on which they come, if there is one.
    pub(super) fn on(socket: Option<OwnedFd>) -> Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe: the descriptor must stay open as long as the \
                      value lives, and it is the value's own"
        )]
        let socket = socket.map(AsyncFd::new).transpose();
        Ok(Self {
            socket: socket.context("notifications of nf_tables")?,
            due: None,
        })
    }

    /// Returns some time after something changed. Dropping the future loses nothing.
    pub(super) async fn settled(&mut self) -> Result<()> {
        let Some(socket) = &self.socket else {
            return std::future::pending().await;
        };
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
                ready = socket.readable() => {
                    ready.context("notifications of nf_tables")?.clear_ready();
                    self.due.get_or_insert_with(|| Instant::now() + BURST);
                }
            }
        }
    }
}
