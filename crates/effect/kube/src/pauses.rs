//! How long to wait before an interrupted watch is taken up again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use kube::runtime::utils::Backoff;

/// The client library's own pauses (up to 30 s) would leave a node with yesterday's
/// endpoints long after the API is back.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Growing pauses, each at random between half and all of its length, so that the clients
/// of an API server that comes back do not all come at once.
#[derive(Debug, Default)]
pub struct Pauses {
    last: Duration,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.last = (self.last * 2).clamp(FIRST, LONGEST);
        let half = self.last / 2;
        // The keys of a RandomState are random: enough to spread clients.
        let random = RandomState::new().hash_one(()) as u32;
        Some(half + half.mul_f64(f64::from(random) / f64::from(u32::MAX)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut pauses = Pauses::default();
        let first = pauses.next().unwrap();
        assert!(first >= FIRST / 2 && first <= FIRST);
        let later = pauses.nth(20).unwrap();
        assert!(later >= LONGEST / 2 && later <= LONGEST);
        pauses.reset();
        assert!(pauses.next().unwrap() <= FIRST);
    }
}
