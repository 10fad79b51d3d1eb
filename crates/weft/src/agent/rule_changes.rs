//! Tells when somebody may have changed Service rules.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// Changes come in bursts, and a flush is a burst: the rules are looked at once, when it may
/// be over.
const BURST: Duration = Duration::from_millis(50);
/// Between two passes over all rules, where somebody keeps changing them. With the pass itself
/// it is within a second that damage is repaired.
const PAUSE: Duration = Duration::from_millis(800);

/// Waits for the kernel's notifications; whoever holds the socket reads them.
pub(super) struct RuleChanges {
    socket: Option<AsyncFd<OwnedFd>>,
    pace: Pace,
}

/// When the rules are looked at.
#[derive(Debug, Default)]
struct Pace {
    due: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Pace {
    fn changed(&mut self, now: Instant) {
        let soon = now + BURST;
        let at = self.rests_until.map_or(soon, |until| until.max(soon));
        self.due.get_or_insert(at);
    }

    fn looked(&mut self, now: Instant) {
        self.rests_until = Some(now + PAUSE);
    }

    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }
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
            pace: Pace::default(),
        })
    }

    /// All rules were looked at.
    pub(super) fn looked(&mut self) {
        self.pace.looked(Instant::now());
    }

    /// Whether it is too early to look at all of them again, and [`RuleChanges::settled`]
    /// tells when it is not.
    pub(super) fn rests(&self) -> bool {
        self.socket.is_some() && self.pace.rests(Instant::now())
    }

    /// Returns some time after something changed. Dropping the future loses nothing.
    pub(super) async fn settled(&mut self) -> Result<()> {
        let Some(socket) = &self.socket else {
            return std::future::pending().await;
        };
        loop {
            if let Some(due) = self.pace.due {
                // What else comes until then is of the same burst, and stays where it is.
                sleep_until(due).await;
                self.pace.due = None;
                return Ok(());
            }
            let ready = socket.readable().await;
            ready.context("notifications of nf_tables")?.clear_ready();
            self.pace.changed(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_looked_at_soon_and_those_that_go_on_are_paced() {
        let mut pace = Pace::default();
        let began = Instant::now();
        let mut now = began;
        let mut passes = Vec::new();
        // Somebody writes every millisecond for ten seconds.
        while now < began + Duration::from_secs(10) {
            pace.changed(now);
            if pace.due.is_some_and(|due| due <= now) {
                pace.due = None;
                assert!(!pace.rests(now));
                passes.push(now - began);
                pace.looked(now);
            }
            now += Duration::from_millis(1);
        }
        assert_eq!(passes[0], BURST);
        assert_eq!(passes[1] - passes[0], PAUSE);
        // Ten seconds by the pause.
        assert_eq!(passes.len(), 13);
        // After a quiet time the next is looked at soon again.
        now += Duration::from_secs(5);
        pace.due = None;
        pace.changed(now);
        assert_eq!(pace.due, Some(now + BURST));
    }
}
