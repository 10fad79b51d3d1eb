//! When to write again after a write that did not do all it should.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// How much a write looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All that the node must hold.
    Everything,
    /// What a change made different.
    Part,
}

/// What a write left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Single things could not be written, all others were: changes are still written as
    /// they come.
    Single,
    /// It is not known what was written: changes wait until all of it is read again.
    Unknown,
}

/// The next attempt to bring everything to the desired state, if one is needed.
#[derive(Debug, Default)]
pub(super) struct Retry {
    planned: Option<Planned>,
}

#[derive(Debug)]
struct Planned {
    at: Instant,
    pause: Duration,
    failure: Failure,
}

impl Retry {
    /// When everything is to be written again.
    pub(super) fn at(&self) -> Option<Instant> {
        self.planned.as_ref().map(|planned| planned.at)
    }

    /// Whether changes have to wait for it.
    pub(super) fn holds_changes(&self) -> bool {
        self.planned
            .as_ref()
            .is_some_and(|planned| planned.failure == Failure::Unknown)
    }

    /// A write did all it should. One of a part says nothing of the rest.
    pub(super) fn succeeded(&mut self, extent: Extent) {
        match extent {
            Extent::Everything => self.planned = None,
            Extent::Part => {}
        }
    }

    /// A write failed. Returns the pause before the next attempt.
    pub(super) fn failed(&mut self, now: Instant, extent: Extent, failure: Failure) -> Duration {
        let pause = match &self.planned {
            // Changes that come and fail in the same way must not put it off.
            Some(planned) if extent == Extent::Part && failure == Failure::Single => {
                return planned.at.saturating_duration_since(now);
            }
            Some(planned) if planned.failure == failure => (planned.pause * 2).min(LONGEST),
            Some(_) | None => FIRST,
        };
        self.planned = Some(Planned {
            at: now + pause,
            pause,
            failure,
        });
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_thing_that_fails_keeps_no_change_waiting() {
        let now = Instant::now();
        let mut retry = Retry::default();
        retry.failed(now, Extent::Everything, Failure::Single);
        assert!(!retry.holds_changes());
        // A change that is written says nothing of what failed, ...
        retry.succeeded(Extent::Part);
        assert_eq!(retry.at(), Some(now + FIRST));
        // ... and one that fails too does not put the attempt off.
        let later = now + FIRST / 2;
        assert_eq!(
            retry.failed(later, Extent::Part, Failure::Single),
            FIRST / 2
        );
        assert_eq!(retry.at(), Some(now + FIRST));
        retry.succeeded(Extent::Everything);
        assert_eq!(retry.at(), None);
    }

    #[test]
    fn an_unknown_state_holds_changes_until_it_is_read() {
        let now = Instant::now();
        let mut retry = Retry::default();
        for _ in 0..20 {
            retry.failed(now, Extent::Everything, Failure::Single);
        }
        assert_eq!(retry.at(), Some(now + LONGEST));
        // Now changes wait: soon, whatever the pauses have grown to.
        assert_eq!(retry.failed(now, Extent::Part, Failure::Unknown), FIRST);
        assert!(retry.holds_changes());
        assert_eq!(
            retry.failed(now, Extent::Everything, Failure::Unknown),
            FIRST * 2
        );
        retry.succeeded(Extent::Everything);
        assert!(!retry.holds_changes());
    }
}
