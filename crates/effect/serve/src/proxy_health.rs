//! Whether this node's Services are kept up to date, as kube-proxy says it on port 10256.
//!
//! `/healthz` is for load balancers: it is also about whether the node is to get connections
//! at all. `/livez` is about the process alone. Both, and the bodies, are kube-proxy's
//! (`pkg/proxy/healthcheck`, KEP-3836).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use jiff::Timestamp;

use crate::http_server::Answer;

/// How long a change may wait to be written: kube-proxy's, twice its `syncPeriod` of 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// A moment, by the clock on the wall and by the one that never jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What people read.
    pub wall: Timestamp,
    /// Since the process began.
    pub running: Duration,
}

impl fmt::Display for Moment {
    /// As Go writes a time: fractions without their last zeros, and its reading of the clock
    /// that never jumps.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} +0000 UTC m=+{}.{:09}",
            self.wall.strftime("%F %T%.f"),
            self.running.as_secs(),
            self.running.subsec_nanos()
        )
    }
}

/// Go's time of which nothing is known.
const NEVER: &str = "0001-01-01 00:00:00 +0000 UTC";

/// What is known of the work.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Since when a change waits.
    waiting: Option<Duration>,
    /// When all was written last.
    written: Option<Moment>,
    /// Whether the node is to get connections from load balancers.
    eligible: bool,
}

impl Progress {
    /// A node is healthy while it starts, and as long as no change waits too long.
    fn is_healthy(&self, now: Moment) -> bool {
        let late = self
            .waiting
            .is_some_and(|since| now.running.saturating_sub(since) >= PATIENCE);
        self.written.is_none() || !late
    }

    fn healthz(&self, now: Moment) -> Answer {
        let healthy = self.is_healthy(now) && self.eligible;
        let updated = self.updated(healthy, now);
        let eligible = self.eligible;
        let body = format!(
            r#"{{"lastUpdated": "{updated}","currentTime": "{now}", "nodeEligible": {eligible}}}"#
        );
        Answer::json(status(healthy), body)
    }

    fn livez(&self, now: Moment) -> Answer {
        let healthy = self.is_healthy(now);
        let updated = self.updated(healthy, now);
        let body = format!(r#"{{"lastUpdated": "{updated}","currentTime": "{now}"}}"#);
        Answer::json(status(healthy), body)
    }

    /// Of a healthy node all is up to date now, however long nothing has changed.
    fn updated(&self, healthy: bool, now: Moment) -> String {
        match self.written {
            _ if healthy => now.to_string(),
            Some(written) => written.to_string(),
            None => NEVER.to_owned(),
        }
    }
}

fn status(healthy: bool) -> StatusCode {
    match healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Whether this node's Services are kept up to date. Clones share what they know.
#[derive(Clone, Debug)]
pub struct ProxyHealth {
    began: Instant,
    progress: Arc<Mutex<Progress>>,
}

impl Default for ProxyHealth {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            progress: Arc::new(Mutex::new(Progress {
                waiting: None,
                written: None,
                eligible: true,
            })),
        }
    }
}

impl ProxyHealth {
    /// There is a change to write.
    pub fn waits(&self) {
        let now = self.now();
        self.progress().waiting.get_or_insert(now.running);
    }

    /// All there was to write is written.
    pub fn written(&self) {
        let now = self.now();
        let mut progress = self.progress();
        progress.waiting = None;
        progress.written = Some(now);
    }

    /// Whether the node is to get connections from load balancers; at first it is.
    pub fn set_eligible(&self, eligible: bool) {
        self.progress().eligible = eligible;
    }

    /// Whether no change waits too long.
    pub fn is_healthy(&self) -> bool {
        self.progress().is_healthy(self.now())
    }

    /// The answer to `/healthz`.
    pub fn healthz(&self) -> Answer {
        self.progress().healthz(self.now())
    }

    /// The answer to `/livez`.
    pub fn livez(&self) -> Answer {
        self.progress().livez(self.now())
    }

    fn now(&self) -> Moment {
        Moment {
            wall: Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH),
            running: self.began.elapsed(),
        }
    }

    /// A reader that panicked has changed nothing.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(wall: &str, running: Duration) -> Moment {
        Moment {
            wall: wall.parse().unwrap(),
            running,
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        let running = Duration::new(0, 16_779_717);
        assert_eq!(
            moment("2026-11-21T20:14:55.85523586Z", running).to_string(),
            "2026-11-21 20:14:55.85523586 +0000 UTC m=+0.016779717"
        );
        assert_eq!(
            moment("2026-11-21T20:14:55Z", Duration::from_secs(4000)).to_string(),
            "2026-11-21 20:14:55 +0000 UTC m=+4000.000000000"
        );
    }

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy_until_it_is_written() {
        let at = |seconds| moment("2026-11-21T20:14:55Z", Duration::from_secs(seconds));
        let mut progress = Progress {
            waiting: Some(Duration::ZERO),
            written: None,
            eligible: true,
        };
        // While it starts it takes its time.
        assert!(progress.is_healthy(at(600)));
        progress.written = Some(at(600));
        progress.waiting = None;
        assert!(progress.is_healthy(at(6000)));
        progress.waiting = Some(Duration::from_secs(6000));
        assert!(progress.is_healthy(at(6059)));
        assert!(!progress.is_healthy(at(6060)));
        assert_eq!(progress.livez(at(6060)).status, 503);
        progress.waiting = None;
        assert!(progress.is_healthy(at(6061)));
        // Who leaves is alive.
        progress.eligible = false;
        assert_eq!(progress.healthz(at(6061)).status, 503);
        assert_eq!(progress.livez(at(6061)).status, 200);
    }

    #[test]
    fn the_oldest_change_counts() {
        let health = ProxyHealth::default();
        health.waits();
        let first = health.progress().waiting;
        health.waits();
        assert_eq!(health.progress().waiting, first);
        health.written();
        assert_eq!(health.progress().waiting, None);
    }
}
