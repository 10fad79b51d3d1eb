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
