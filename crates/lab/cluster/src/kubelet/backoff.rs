//! How long to wait before a failed container or image is tried again.

use std::time::{Duration, Instant};

/// Kubernetes' first wait for containers and images.
const FIRST: Duration = Duration::from_secs(10);
/// Its longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// A container that ran this long starts anew at the first wait.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// The back-off of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    current: Duration,
    next: Option<Duration>,
    until: Option<Instant>,
}

impl Backoff {
    /// Notes an end at `now` of a container that ran for `ran`. The first restart is at once, the
    /// next ones wait 10 s, 20 s, … 5 min after the end.
    pub fn ended(&mut self, now: Instant, ran: Duration) {
        if ran >= FORGIVEN_AFTER {
            *self = Self::default();
        }
        match self.next {
            None => self.next = Some(FIRST),
            Some(wait) => self.wait(now, wait),
        }
    }

    /// Notes that nothing could be started at `now` (image, sandbox): the first retry waits too.
    pub fn failed(&mut self, now: Instant) {
        self.wait(now, self.next.unwrap_or(FIRST));
    }

    fn wait(&mut self, now: Instant, wait: Duration) {
        self.current = wait;
        self.until = Some(now + wait);
        self.next = Some((wait * 2).min(LONGEST));
    }

    /// The time before which nothing is started.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether a start is to wait at `now`.
    #[must_use]
    pub fn waiting(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// The wait that is under way, as Kubernetes prints it: `10s`, `1m20s`, `5m0s`.
    #[must_use]
    pub fn current(&self) -> String {
        let seconds = self.current.as_secs();
        if seconds < 60 {
            format!("{seconds}s")
        } else {
            format!("{}m{}s", seconds / 60, seconds % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_then_waits_double_up_to_five_minutes() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.ended(now, Duration::from_secs(1));
        assert!(!backoff.waiting(now));
        let waits: Vec<_> = (0..7)
            .map(|_| {
                backoff.ended(now, Duration::from_secs(1));
                (backoff.until().unwrap() - now, backoff.current())
            })
            .map(|(wait, text)| format!("{}={text}", wait.as_secs()))
            .collect();
        assert_eq!(
            waits,
            [
                "10=10s",
                "20=20s",
                "40=40s",
                "80=1m20s",
                "160=2m40s",
                "300=5m0s",
                "300=5m0s"
            ]
        );
    }

    #[test]
    fn ten_good_minutes_forgive() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.ended(now, Duration::from_secs(1));
        }
        backoff.ended(now, Duration::from_secs(600));
        assert!(!backoff.waiting(now));
        backoff.ended(now, Duration::from_secs(1));
        assert_eq!(backoff.current(), "10s");
    }

    #[test]
    fn what_could_not_be_started_waits_from_the_first_time() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(now);
        assert!(backoff.waiting(now + Duration::from_secs(9)));
        assert!(!backoff.waiting(now + Duration::from_secs(10)));
        backoff.failed(now);
        assert_eq!(backoff.current(), "20s");
    }
}
