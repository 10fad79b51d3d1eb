//! What should happen to the pods of a StatefulSet: the decision of Kubernetes' controller,
//! without its loop.

use std::collections::BTreeMap;
use std::ops::Range;

/// What a StatefulSet asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    /// The ordinals that should be there.
    pub(super) ordinals: Range<i32>,
    /// `podManagementPolicy: Parallel`: nobody waits for a neighbour.
    pub(super) parallel: bool,
    pub(super) update: Update,
    /// The revision that the update leads to.
    pub(super) revision: &'a str,
}

/// `updateStrategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Update {
    OnDelete,
    /// From the last to the one at this place among the replicas.
    Rolling {
        partition: i32,
    },
}

/// A pod of the set.
#[derive(Clone, Debug, Default)]
pub(super) struct Replica {
    pub(super) revision: String,
    /// Succeeded or Failed.
    pub(super) finished: bool,
    pub(super) terminating: bool,
    pub(super) ready: bool,
    /// Ready for `minReadySeconds`.
    pub(super) available: bool,
}

impl Replica {
    fn healthy(&self) -> bool {
        self.ready && !self.terminating && !self.finished
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Create(i32),
    Delete(i32),
}

/// What to do now. Of an ordered set one thing at a time: the lowest that is missing first,
/// then the highest that is too much, then the highest that is out of date.
pub(super) fn plan(wanted: &Wanted<'_>, pods: &BTreeMap<i32, Replica>) -> Vec<Act> {
    let mut acts = Vec::new();
    for ordinal in wanted.ordinals.clone() {
        let settled = match pods.get(&ordinal) {
            None => {
                acts.push(Act::Create(ordinal));
                false
            }
            Some(pod) if pod.finished => {
                if !pod.terminating {
                    acts.push(Act::Delete(ordinal));
                }
                false
            }
            Some(pod) => !pod.terminating && pod.ready && pod.available,
        };
        if !settled && !wanted.parallel {
            return acts;
        }
    }
    if !condemn(wanted, pods, &mut acts) {
        return acts;
    }
    acts.extend(outdated(wanted, pods).map(Act::Delete));
    acts
}

/// Removes what is too much; says whether nothing stands in the way of an update.
fn condemn(wanted: &Wanted<'_>, pods: &BTreeMap<i32, Replica>, acts: &mut Vec<Act>) -> bool {
    let condemned = || {
        pods.iter()
            .filter(|(ordinal, _)| !wanted.ordinals.contains(ordinal))
    };
    // One that is broken must not keep those above it from going, nor itself.
    let first_unhealthy = condemned().find(|(_, pod)| !pod.healthy());
    for (ordinal, pod) in condemned().rev() {
        let is_first_unhealthy = first_unhealthy.is_some_and(|(first, _)| first == ordinal);
        if pod.terminating {
            if !wanted.parallel {
                return false;
            }
            continue;
        }
        let may_go = wanted.parallel || is_first_unhealthy || (pod.ready && pod.available);
        if !may_go {
            return false;
        }
        acts.push(Act::Delete(*ordinal));
        if !wanted.parallel {
            return false;
        }
    }
    true
}

/// The next pod to replace by one of the new revision, from the last.
fn outdated(wanted: &Wanted<'_>, pods: &BTreeMap<i32, Replica>) -> Option<i32> {
    let Update::Rolling { partition } = wanted.update else {
        return None;
    };
    let first = wanted.ordinals.start.saturating_add(partition);
    for ordinal in (first..wanted.ordinals.end).rev() {
        let pod = pods.get(&ordinal)?;
        if pod.revision != wanted.revision && !pod.terminating {
            return (!pod.finished).then_some(ordinal);
        }
        if !pod.healthy() {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(ordinals: Range<i32>) -> Wanted<'static> {
        Wanted {
            ordinals,
            parallel: false,
            update: Update::Rolling { partition: 0 },
            revision: "new",
        }
    }

    fn pod(revision: &str) -> Replica {
        Replica {
            revision: revision.to_owned(),
            ready: true,
            available: true,
            ..Replica::default()
        }
    }

    fn broken(revision: &str) -> Replica {
        Replica {
            ready: false,
            available: false,
            ..pod(revision)
        }
    }

    fn leaving() -> Replica {
        Replica {
            terminating: true,
            ..pod("new")
        }
    }

    fn pods(list: impl IntoIterator<Item = (i32, Replica)>) -> BTreeMap<i32, Replica> {
        list.into_iter().collect()
    }

    /// Carries acts out until nothing is left to do; every pod becomes ready at once.
    fn settle(wanted: &Wanted<'_>, mut all: BTreeMap<i32, Replica>) -> (Vec<Act>, Vec<i32>) {
        let mut done = Vec::new();
        for _ in 0..100 {
            let acts = plan(wanted, &all);
            if acts.is_empty() {
                break;
            }
            for act in &acts {
                match act {
                    Act::Create(ordinal) => all.insert(*ordinal, pod("new")),
                    Act::Delete(ordinal) => all.remove(ordinal),
                };
            }
            done.extend(acts);
        }
        (done, all.into_keys().collect())
    }

    #[test]
    fn pods_come_one_after_the_other_and_each_waits_for_the_one_before() {
        let three = wanted(0..3);
        assert_eq!(plan(&three, &pods([])), [Act::Create(0)]);
        assert_eq!(plan(&three, &pods([(0, broken("new"))])), []);
        assert_eq!(plan(&three, &pods([(0, pod("new"))])), [Act::Create(1)]);
        // One in the middle is replaced before any other is made.
        let gap = pods([(0, pod("new")), (2, pod("new"))]);
        assert_eq!(plan(&three, &gap), [Act::Create(1)]);
        assert_eq!(plan(&three, &pods([(0, leaving()), (1, pod("new"))])), []);
        let ready_but_young = Replica {
            available: false,
            ..pod("new")
        };
        assert_eq!(plan(&three, &pods([(0, ready_but_young)])), []);
    }

    #[test]
    fn a_parallel_set_waits_for_nobody() {
        let parallel = Wanted {
            parallel: true,
            ..wanted(0..3)
        };
        let create = [Act::Create(0), Act::Create(1), Act::Create(2)];
        assert_eq!(plan(&parallel, &pods([])), create);
        let none = Wanted {
            ordinals: 0..1,
            ..parallel
        };
        let all = pods([(0, broken("new")), (1, broken("new")), (2, pod("new"))]);
        assert_eq!(plan(&none, &all), [Act::Delete(2), Act::Delete(1)]);
    }

    #[test]
    fn the_highest_goes_first() {
        let one = wanted(0..1);
        let all = || pods((0..3).map(|ordinal| (ordinal, pod("new"))));
        assert_eq!(
            settle(&one, all()),
            (vec![Act::Delete(2), Act::Delete(1)], vec![0])
        );
        // While one is on its way out the next stays.
        let mut waiting = all();
        waiting.insert(2, leaving());
        assert_eq!(plan(&one, &waiting), []);
        // A broken one below holds the higher up, unless it is the first that is broken.
        let mut two_broken = all();
        two_broken.insert(1, broken("new"));
        assert_eq!(plan(&one, &two_broken), [Act::Delete(2)]);
        two_broken.insert(2, broken("new"));
        assert_eq!(plan(&one, &two_broken), []);
    }

    #[test]
    fn ordinals_begin_where_they_are_told_to() {
        let (acts, left) = settle(&wanted(5..7), pods([(0, pod("new"))]));
        assert_eq!(acts, [Act::Create(5), Act::Create(6), Act::Delete(0)]);
        assert_eq!(left, [5, 6]);
    }

    #[test]
    fn an_update_goes_from_the_last_to_the_partition() {
        let old = || pods((0..3).map(|ordinal| (ordinal, pod("old"))));
        let (acts, _) = settle(&wanted(0..3), old());
        let order = [2, 1, 0].map(|ordinal| [Act::Delete(ordinal), Act::Create(ordinal)]);
        assert_eq!(acts, order.concat());
        let from_two = Wanted {
            update: Update::Rolling { partition: 2 },
            ..wanted(0..3)
        };
        let (acts, _) = settle(&from_two, old());
        assert_eq!(acts, [Act::Delete(2), Act::Create(2)]);
        let by_hand = Wanted {
            update: Update::OnDelete,
            ..wanted(0..3)
        };
        assert_eq!(plan(&by_hand, &old()), []);
        // What was replaced has to be well before the next goes.
        let parallel = Wanted {
            parallel: true,
            ..wanted(0..3)
        };
        let mut half = old();
        half.insert(2, broken("new"));
        assert_eq!(plan(&parallel, &half), []);
    }

    #[test]
    fn what_has_ended_is_removed_and_made_anew() {
        let ended = Replica {
            finished: true,
            ..broken("new")
        };
        let one = wanted(0..2);
        assert_eq!(plan(&one, &pods([(0, ended)])), [Act::Delete(0)]);
    }
}
