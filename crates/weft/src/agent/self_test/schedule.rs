//! When which way is tried: at once when it is new, soon when something was wrong, and now and
//! then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Target;
use crate::fabric::findings::{Findings, Outcome};

/// While all is well.
const INTERVAL: Duration = Duration::from_secs(600);
/// After something was wrong, twice as long each time…
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// …up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// When what was tried is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It is well.
    Later,
    /// Something was wrong.
    Soon,
    /// Nobody answers: an agent may be on its way, or the node is another fabric's for good. Soon,
    /// and ever less often.
    Unless,
}

impl Again {
    pub(super) fn after(findings: &Findings) -> Self {
        let nobody = [findings.node, findings.tunnel].contains(&Outcome::NoAgent);
        match (findings.fails(), nobody) {
            (true, _) => Again::Soon,
            (false, true) => Again::Unless,
            (false, false) => Again::Later,
        }
    }
}

type Key = (Arc<str>, IpNet);

/// All ways, and when each is due.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    ways: BTreeMap<Key, Entry>,
    due: BTreeSet<(Instant, Key)>,
}

#[derive(Debug)]
struct Entry {
    target: Arc<Target>,
    pause: Duration,
    /// `None` while it is tried.
    due: Option<Instant>,
}

impl Schedule {
    /// These ways there are; what is new or another one is due now.
    pub(super) fn set(&mut self, targets: &[Arc<Target>], now: Instant) {
        let mut before = std::mem::take(&mut self.ways);
        self.due.clear();
        for target in targets {
            let key = (target.node.clone(), target.range);
            let entry = match before.remove(&key) {
                Some(entry) if entry.target == *target => entry,
                Some(_) | None => Entry {
                    target: target.clone(),
                    pause: FIRST_PAUSE,
                    due: Some(now),
                },
            };
            if let Some(due) = entry.due {
                self.due.insert((due, key.clone()));
            }
            self.ways.insert(key, entry);
        }
    }

    /// A way that is to be tried now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Arc<Target>> {
        let (due, _) = self.due.first()?;
        if *due > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        let entry = self.ways.get_mut(&key)?;
        entry.due = None;
        Some(entry.target.clone())
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// One is not well, as somebody found who asked: it is due now.
    pub(super) fn hasten(&mut self, target: &Arc<Target>, now: Instant) {
        let key = (target.node.clone(), target.range);
        let Some(entry) = self.ways.get_mut(&key) else {
            return;
        };
        // One that is tried, or was not well before, is looked after.
        if entry.target == *target
            && let Some(due) = entry.due
            && due > now + LONGEST_PAUSE
        {
            self.due.remove(&(due, key.clone()));
            entry.due = Some(now);
            self.due.insert((now, key));
        }
    }

    /// One was tried. `false` if it is another one by now.
    pub(super) fn found(&mut self, target: &Arc<Target>, again: Again, now: Instant) -> bool {
        let key = (target.node.clone(), target.range);
        let Some(entry) = self.ways.get_mut(&key) else {
            return false;
        };
        if entry.target != *target || entry.due.is_some() {
            return false;
        }
        let growing =
            |longest: Duration| (entry.pause.min(longest), (entry.pause * 2).min(longest));
        let (pause, next) = match again {
            Again::Later => (INTERVAL, FIRST_PAUSE),
            Again::Soon => growing(LONGEST_PAUSE),
            Again::Unless => growing(INTERVAL),
        };
        entry.pause = next;
        entry.due = Some(now + pause);
        self.due.insert((now + pause, key));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(node: &str, packet: u32) -> Arc<Target> {
        Arc::new(Target {
            node: node.into(),
            range: "10.244.1.0/24".parse().unwrap(),
            address: [172, 30, 0, 12].into(),
            way: "direct",
            tunnel: None,
            leaves_checksums: false,
            device: None,
            packet,
        })
    }

    #[test]
    fn what_is_new_or_wrong_is_tried_soon_and_the_rest_now_and_then() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::default();
        let (a, b) = (target("a", 1500), target("b", 1500));
        schedule.set(&[a.clone(), b.clone()], start);
        assert_eq!(schedule.take_due(start), Some(a.clone()));
        assert_eq!(schedule.take_due(start), Some(b.clone()));
        assert_eq!((schedule.take_due(start), schedule.next()), (None, None));
        assert!(schedule.found(&a, Again::Later, start) && schedule.found(&b, Again::Soon, start));
        assert_eq!(schedule.next(), Some(at(1)));
        // Ever longer pauses while it is wrong.
        let mut now = 0;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            now += pause;
            assert_eq!(schedule.take_due(at(now - 1)), None);
            assert_eq!(schedule.take_due(at(now)), Some(b.clone()));
            assert!(schedule.found(&b, Again::Soon, at(now)));
        }
        // Another one is due at once, and what was found of the one before is of no use.
        let other = target("b", 1400);
        assert!(schedule.take_due(at(now + 60)).is_some());
        schedule.set(&[a.clone(), other.clone()], at(now + 60));
        assert!(!schedule.found(&b, Again::Later, at(now + 60)));
        assert_eq!(schedule.take_due(at(now + 60)), Some(other));
        schedule.set(std::slice::from_ref(&a), at(now + 60));
        assert_eq!(schedule.next(), Some(at(600)));
        // What was well and is not any more, as somebody found.
        schedule.hasten(&a, at(300));
        assert_eq!(schedule.take_due(at(300)), Some(a));
    }

    #[test]
    fn a_node_where_nobody_answers_is_asked_soon_and_then_ever_less_often() {
        let mut now = Instant::now();
        let mut schedule = Schedule::default();
        let one = target("a", 1500);
        schedule.set(std::slice::from_ref(&one), now);
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            assert_eq!(schedule.take_due(now), Some(one.clone()));
            assert!(schedule.found(&one, Again::Unless, now));
            now += Duration::from_secs(pause);
            assert_eq!(schedule.next(), Some(now));
        }
        let nobody = Findings {
            node: Outcome::NoAgent,
            ..Findings::default()
        };
        assert_eq!(Again::after(&nobody), Again::Unless);
        assert_eq!(Again::after(&Findings::default()), Again::Later);
        let wrong = Findings {
            mtu: Outcome::Fails,
            ..nobody
        };
        assert_eq!(Again::after(&wrong), Again::Soon);
    }
}
