//! Who of several leads, by a Lease of the API: client-go's rules, so that a holder of either
//! kind is understood by the other.
//!
//! Source: client-go's `tools/leaderelection`. Clocks of two machines are never compared: a lease
//! has run out when nothing of it has changed for as long as it says, on one's own clock.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

/// How long what lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// After how long without a sign of its holder others may take the lease.
    pub lease: Duration,
    /// After how long without an answer to a renewal the holder takes itself for none: before
    /// others do.
    pub renew_within: Duration,
    /// Between two looks.
    pub retry: Duration,
}

impl Terms {
    /// As Kubernetes' own components have them in proportion: 15, 10 and 2 seconds.
    pub fn of(lease: Duration) -> Self {
        Self {
            lease,
            renew_within: lease * 2 / 3,
            retry: lease * 2 / 15,
        }
    }

    /// How long what the holder began while it led has to be over: others lead then.
    pub fn grace(&self) -> Duration {
        self.lease.saturating_sub(self.renew_within)
    }
}

/// Both clocks: the one that does not jump, and the one that people read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) clock: Instant,
    pub(crate) wall: Timestamp,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self {
            clock: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

/// One candidate's view.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    lease: Duration,
    /// What the lease said last, and since when it has been seen to say so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Election {
    pub(crate) fn new(identity: String, lease: Duration) -> Self {
        Self {
            identity,
            lease,
            seen: None,
        }
    }

    /// Who holds the lease, as it was last seen.
    pub(crate) fn holder(&self) -> Option<&str> {
        self.seen.as_ref().and_then(|(spec, _)| holder(spec))
    }

    /// What to write over what is there, to lead or to go on leading; nothing while another leads.
    pub(crate) fn bid(&mut self, there: Option<&LeaseSpec>, now: Now) -> Option<LeaseSpec> {
        let Some(there) = there else {
            return Some(self.spec(now, None, 0));
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != there) {
            self.seen = Some((there.clone(), now.clock));
        }
        let transitions = there.lease_transitions.unwrap_or_default();
        match holder(there) {
            Some(holder) if holder == self.identity => {
                Some(self.spec(now, there.acquire_time.clone(), transitions))
            }
            Some(_) if !self.has_run_out(now.clock) => None,
            Some(_) | None => Some(self.spec(now, None, transitions.saturating_add(1))),
        }
    }

    /// What to write over what is there, so that another need not wait for the lease to run out.
    pub(crate) fn resignation(&self, there: &LeaseSpec, now: Now) -> Option<LeaseSpec> {
        let own = holder(there) == Some(self.identity.as_str());
        own.then(|| LeaseSpec {
            holder_identity: Some(String::new()),
            // Zero is refused by the API.
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(now.wall)),
            ..there.clone()
        })
    }

    fn has_run_out(&self, now: Instant) -> bool {
        self.seen.as_ref().is_none_or(|(spec, since)| {
            let seconds = spec.lease_duration_seconds.unwrap_or_default();
            let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            now.duration_since(*since) >= lasts
        })
    }

    fn spec(&self, now: Now, acquired: Option<MicroTime>, transitions: i32) -> LeaseSpec {
        let seconds = self.lease.as_secs().max(1);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquire_time: Some(acquired.unwrap_or(MicroTime(now.wall))),
            renew_time: Some(MicroTime(now.wall)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity
        .as_deref()
        .filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    /// A moment so many seconds after the beginning, on a machine whose wall clock is off.
    fn at(start: Instant, seconds: u64, off: i64) -> Now {
        let wall = 1_700_000_000 + off + i64::try_from(seconds).unwrap();
        Now {
            clock: start + Duration::from_secs(seconds),
            wall: Timestamp::from_second(wall).unwrap(),
        }
    }

    fn pair() -> (Election, Election, Instant) {
        let election = |name: &str| Election::new(name.to_owned(), LEASE);
        (election("one"), election("two"), Instant::now())
    }

    #[test]
    fn one_leads_and_another_waits_until_nothing_changes_any_more() {
        let (mut one, mut two, start) = pair();
        let first = one.bid(None, at(start, 0, 0)).unwrap();
        assert_eq!(first.holder_identity.as_deref(), Some("one"));
        assert_eq!(first.lease_transitions, Some(0));
        // Its clock says that the lease ran out a day ago.
        let day = 86_400;
        assert_eq!(two.bid(Some(&first), at(start, 1, day)), None);
        assert_eq!(two.holder(), Some("one"));
        let renewed = one.bid(Some(&first), at(start, 10, 0)).unwrap();
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(renewed.lease_transitions, Some(0));
        assert_eq!(two.bid(Some(&renewed), at(start, 15, day)), None);
        assert_eq!(two.bid(Some(&renewed), at(start, 29, day)), None);
        let taken = two.bid(Some(&renewed), at(start, 30, day)).unwrap();
        assert_eq!(taken.holder_identity.as_deref(), Some("two"));
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(one.bid(Some(&taken), at(start, 30, 0)), None);
    }

    #[test]
    fn who_resigns_is_followed_at_once() {
        let (mut one, mut two, start) = pair();
        let held = one.bid(None, at(start, 0, 0)).unwrap();
        assert_eq!(two.bid(Some(&held), at(start, 1, 0)), None);
        assert_eq!(two.resignation(&held, at(start, 1, 0)), None);
        let free = one.resignation(&held, at(start, 2, 0)).unwrap();
        assert!(two.bid(Some(&free), at(start, 2, 0)).is_some());
        assert_eq!(two.holder(), None);
    }

    #[test]
    fn a_lease_lasts_as_long_as_its_holder_says() {
        let (mut one, mut two, start) = pair();
        let held = LeaseSpec {
            lease_duration_seconds: Some(60),
            ..one.bid(None, at(start, 0, 0)).unwrap()
        };
        assert_eq!(two.bid(Some(&held), at(start, 1, 0)), None);
        assert_eq!(two.bid(Some(&held), at(start, 60, 0)), None);
        assert!(two.bid(Some(&held), at(start, 61, 0)).is_some());
        // Nobody can have written it, so that nobody is robbed.
        let nonsense = LeaseSpec {
            lease_duration_seconds: None,
            ..held
        };
        assert!(two.bid(Some(&nonsense), at(start, 61, 0)).is_some());
    }
}
