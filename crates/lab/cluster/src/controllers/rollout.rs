//! How far a rolling update may go in one step: the arithmetic of Kubernetes' Deployment
//! controller, without its loop.

use weft_kube::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// One replica set, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// `spec.replicas`.
    pub(super) wanted: i32,
    /// `status.availableReplicas`.
    pub(super) available: i32,
}

/// Bounds on a rolling update, as numbers of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) surge: i32,
    pub(super) unavailable: i32,
}

impl Bounds {
    /// From `maxSurge` and `maxUnavailable`: a share is rounded up for the first and
    /// down for the second. Both 0 would never move, so one may be unavailable then.
    pub(super) fn resolve(
        surge: Option<&IntOrString>,
        unavailable: Option<&IntOrString>,
        replicas: i32,
    ) -> Self {
        let share = |percent: i32, round_up: bool| {
            let product = replicas.saturating_mul(percent);
            if round_up {
                product.saturating_add(99) / 100
            } else {
                product / 100
            }
        };
        let number = |value: Option<&IntOrString>, round_up| match value {
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(text)) => text
                .strip_suffix('%')
                .and_then(|percent| percent.parse().ok())
                .map_or(0, |percent| share(percent, round_up)),
            None => share(25, round_up),
        };
        let surge = number(surge, true);
        let unavailable = number(unavailable, false);
        Self {
            surge,
            unavailable: if surge == 0 && unavailable == 0 {
                1
            } else {
                unavailable
            },
        }
    }
}

/// The new replica set's next size.
pub(super) fn grow(replicas: i32, bounds: Bounds, new: Size, old: &[Size]) -> i32 {
    if new.wanted >= replicas {
        return replicas;
    }
    let total = sum(new.wanted, old.iter().map(|size| size.wanted));
    let room = replicas.saturating_add(bounds.surge).saturating_sub(total);
    new.wanted + room.clamp(0, replicas - new.wanted)
}

fn sum(first: i32, others: impl Iterator<Item = i32>) -> i32 {
    others.fold(first, i32::saturating_add)
}

/// The old replica sets' next sizes, oldest first. Those of their pods that are not
/// available go first: they serve nobody.
pub(super) fn shrink(replicas: i32, bounds: Bounds, new: Size, old: &[Size]) -> Vec<i32> {
    let mut next: Vec<i32> = old.iter().map(|size| size.wanted).collect();
    let total = sum(new.wanted, next.iter().copied());
    let needed = replicas - bounds.unavailable;
    let unready = (new.wanted - new.available).max(0);
    let mut spare = total.saturating_sub(needed).saturating_sub(unready);
    if spare <= 0 {
        return next;
    }
    for (next, size) in next.iter_mut().zip(old) {
        let broken = (size.wanted - size.available).clamp(0, spare);
        *next -= broken;
        spare -= broken;
    }
    let available = sum(new.available, old.iter().map(|size| size.available));
    let mut spare = spare.min(available - needed);
    for next in &mut next {
        let step = (*next).clamp(0, spare.max(0));
        *next -= step;
        spare -= step;
    }
    next
}

/// A replica set with pods when the number of replicas changes in the middle of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// `spec.replicas`.
    pub(super) wanted: i32,
    /// As many pods as all sets could have together when this one was scaled last.
    pub(super) most_before: i32,
}

/// The next sizes of the replica sets, oldest first, when `spec.replicas` changed in the middle of
/// a rollout: each grows or shrinks by its share, and what rounding leaves is the largest one's,
/// so that no version gets all of the change (Kubernetes' "Proportional scaling").
pub(super) fn proportional(replicas: i32, bounds: Bounds, sets: &[Share]) -> Vec<i32> {
    let mut next: Vec<i32> = sets.iter().map(|set| set.wanted).collect();
    let most = match replicas {
        0 => 0,
        some => some.saturating_add(bounds.surge),
    };
    let change = most.saturating_sub(sum(0, next.iter().copied()));
    if change == 0 {
        return next;
    }
    let mut order: Vec<usize> = (0..sets.len()).collect();
    // The largest first; of equal ones the newest grows first, and the oldest shrinks first.
    if change > 0 {
        order.reverse();
    }
    order.sort_by_key(|position| std::cmp::Reverse(sets.get(*position).map(|set| set.wanted)));
    let mut done = 0_i32;
    for position in &order {
        if let (Some(set), Some(size)) = (sets.get(*position), next.get_mut(*position)) {
            let left = change - done;
            let share = share(*set, replicas, most);
            let step = if change > 0 {
                share.min(left)
            } else {
                share.max(left)
            };
            *size += step;
            done += step;
        }
    }
    if let Some(size) = order.first().and_then(|first| next.get_mut(*first)) {
        *size = size.saturating_add(change - done).max(0);
    }
    next
}

/// By how much one set would change if there were no rounding.
fn share(set: Share, replicas: i32, most: i32) -> i32 {
    if replicas == 0 {
        return -set.wanted;
    }
    let before = i64::from(set.most_before);
    if before <= 0 {
        return 0;
    }
    // Rounded to the nearest, halves up.
    let scaled = (2 * i64::from(set.wanted) * i64::from(most) + before) / (2 * before);
    i32::try_from(scaled)
        .unwrap_or(i32::MAX)
        .saturating_sub(set.wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER: Bounds = Bounds {
        surge: 1,
        unavailable: 0,
    };

    fn size(wanted: i32, available: i32) -> Size {
        Size { wanted, available }
    }

    #[test]
    fn shares_are_rounded_away_from_standing_still() {
        let percent = |text: &str| IntOrString::String(text.to_owned());
        assert_eq!(Bounds::resolve(None, None, 3), QUARTER);
        assert_eq!(
            Bounds::resolve(Some(&percent("50%")), Some(&percent("50%")), 5),
            Bounds {
                surge: 3,
                unavailable: 2
            }
        );
        assert_eq!(
            Bounds::resolve(Some(&IntOrString::Int(0)), Some(&IntOrString::Int(0)), 5),
            Bounds {
                surge: 0,
                unavailable: 1
            }
        );
    }

    /// Runs a rollout in which every pod becomes available at once.
    fn run(replicas: i32, bounds: Bounds) -> Vec<(i32, i32)> {
        let (mut new, mut old) = (size(0, 0), size(replicas, replicas));
        let mut steps = Vec::new();
        for _ in 0..100 {
            let total = new.available + old.available;
            assert!(total >= replicas - bounds.unavailable && total <= replicas + bounds.surge);
            let grown = grow(replicas, bounds, new, &[old]);
            new = size(grown, grown);
            let shrunk = shrink(replicas, bounds, new, &[old])[0];
            old = size(shrunk, shrunk);
            if steps.last() == Some(&(new.wanted, old.wanted)) {
                break;
            }
            steps.push((new.wanted, old.wanted));
        }
        steps
    }

    #[test]
    fn a_rollout_stays_within_its_bounds_and_ends() {
        assert_eq!(run(3, QUARTER), [(1, 2), (2, 1), (3, 0)]);
        assert_eq!(
            run(
                3,
                Bounds {
                    surge: 0,
                    unavailable: 1
                }
            )
            .last(),
            Some(&(3, 0))
        );
        assert_eq!(
            run(
                10,
                Bounds {
                    surge: 3,
                    unavailable: 2
                }
            )
            .last(),
            Some(&(10, 0))
        );
    }

    #[test]
    fn a_change_in_the_middle_is_shared_out() {
        // (replicas, surge, most before, sizes before (oldest first), sizes after), worked out by
        // hand from the example of Kubernetes' documentation and cases around it.
        type Case = (i32, i32, i32, &'static [i32], &'static [i32]);
        let cases: [Case; 8] = [
            // "Proportional scaling": 10 replicas, surge 3, unavailable 2: 8 old ones and 5 new
            // ones become 15 (18 with the surge) and get 3 and 2 of the 5 that are added.
            (15, 3, 13, &[8, 5], &[11, 7]),
            (5, 3, 13, &[8, 5], &[5, 3]),
            // Nothing to share.
            (10, 3, 13, &[8, 5], &[8, 5]),
            // What rounding leaves is the largest one's.
            (6, 0, 5, &[4, 1], &[5, 1]),
            // Of equal ones the newest grows, the oldest shrinks.
            (5, 0, 4, &[2, 2], &[2, 3]),
            (3, 0, 4, &[2, 2], &[1, 2]),
            (0, 1, 5, &[3, 2], &[0, 0]),
            // A set of an unknown past takes what is left if it is the largest.
            (8, 0, 0, &[3, 1], &[7, 1]),
        ];
        for (replicas, surge, most_before, before, after) in cases {
            let bounds = Bounds {
                surge,
                unavailable: 0,
            };
            let sets: Vec<Share> = before
                .iter()
                .map(|wanted| Share {
                    wanted: *wanted,
                    most_before,
                })
                .collect();
            assert_eq!(
                proportional(replicas, bounds, &sets),
                after,
                "{replicas} {before:?}"
            );
        }
    }

    #[test]
    fn the_largest_numbers_fit() {
        let bounds = Bounds::resolve(None, None, i32::MAX);
        let most = size(i32::MAX, 0);
        assert_eq!(grow(i32::MAX, bounds, size(0, 0), &[most]), 0);
        assert_eq!(shrink(i32::MAX, bounds, most, &[most]), [i32::MAX]);
    }

    #[test]
    fn nothing_available_goes_before_its_successor_is_there() {
        // The new pod is not available yet: all three old ones stay.
        assert_eq!(shrink(3, QUARTER, size(1, 0), &[size(3, 3)]), [3]);
        // Of the old ones one is broken: it goes first, whichever set it is in.
        assert_eq!(
            shrink(3, QUARTER, size(1, 1), &[size(2, 2), size(1, 0)]),
            [2, 0]
        );
    }
}
