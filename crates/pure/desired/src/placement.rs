//! Which slot of a frontend each backend stands in.
//!
//! A back end that picks a backend by a random number needs them numbered without
//! gaps. The desired state is a set, so the numbers are chosen here, by difference
//! from what is there: as few slots as possible are written, and slot 0 is filled as
//! long as there is any backend, so that it can serve as the choice that never fails.

use std::collections::{BTreeMap, BTreeSet};

use crate::Backend;

/// A size that a frontend's slots are drawn from: `slots` numbers, of which at least
/// `filled` have a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeClass {
    /// One more than the largest number drawn.
    pub slots: u32,
    /// The fewest backends a frontend of this class has.
    pub filled: u32,
}

/// Up to 8 backends each count has a class of its own; above, each class is half as
/// large again as the one before, so that at least two of three draws hit.
const SIZES: [u32; 30] = [
    1, 2, 3, 4, 5, 6, 7, 8, 12, 18, 27, 40, 60, 90, 135, 202, 303, 454, 681, 1021, 1531, 2296,
    3444, 5166, 7749, 11623, 17434, 26151, 39226, 58839,
];

/// The most backends of one frontend that take connections: the largest class.
pub const MOST_BACKENDS: usize = SIZES[SIZES.len() - 1] as usize;

impl SizeClass {
    /// All classes, the smallest first.
    pub fn all() -> impl Iterator<Item = SizeClass> {
        let before = [0].into_iter().chain(SIZES);
        SIZES
            .into_iter()
            .zip(before)
            .map(|(slots, before)| SizeClass {
                slots,
                filled: before + 1,
            })
    }

    /// The class of a frontend with so many backends; `None` for none.
    pub fn of(backends: usize) -> Option<SizeClass> {
        if backends == 0 {
            return None;
        }
        Self::all()
            .find(|class| backends <= class.slots as usize)
            .or(Self::all().last())
    }

    /// Whether every slot is filled.
    pub fn is_exact(self) -> bool {
        self.slots == self.filled
    }
}

/// The backends slot by slot, from 0 without gaps, that hold the desired set and differ
/// from `actual` in as few slots as possible. Canonical (sorted) where nothing is there.
///
/// Beyond [`MOST_BACKENDS`] the last of the set get no slot.
pub fn place(actual: &BTreeMap<u32, Backend>, desired: &BTreeSet<Backend>) -> Vec<Backend> {
    let desired = desired.iter().take(MOST_BACKENDS);
    place_shares(actual, desired.map(|backend| (*backend, 1)).collect())
}

/// The same for backends of which each has so many slots.
pub fn place_shares(
    actual: &BTreeMap<u32, Backend>,
    desired: BTreeMap<Backend, u32>,
) -> Vec<Backend> {
    let count: u32 = desired.values().sum();
    let mut slots: Vec<Option<Backend>> = vec![None; count as usize];
    let mut missing = desired;
    for (slot, backend) in actual.iter().map(|(slot, b)| (*slot as usize, b)) {
        // A backend that stands in more slots than it gets keeps the first.
        if let Some(left) = missing.get_mut(backend).filter(|left| **left > 0)
            && slot < slots.len()
        {
            *left -= 1;
            slots[slot] = Some(*backend);
        }
    }
    let mut missing = missing
        .into_iter()
        .flat_map(|(backend, left)| (0..left).map(move |_| backend));
    let mut placed = Vec::with_capacity(slots.len());
    placed.extend(
        slots
            .into_iter()
            .filter_map(|slot| slot.or_else(|| missing.next())),
    );
    placed
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn backend(number: u8) -> Backend {
        Backend {
            address: IpAddr::from([10, 244, 0, number]),
            port: 80,
        }
    }

    fn set(numbers: &BTreeSet<u8>) -> BTreeSet<Backend> {
        numbers.iter().copied().map(backend).collect()
    }

    fn numbered(slots: &[Backend]) -> BTreeMap<u32, Backend> {
        (0..).zip(slots.iter().copied()).collect()
    }

    fn writes(old: &[Backend], new: &[Backend]) -> usize {
        (0..old.len().max(new.len()))
            .filter(|slot| old.get(*slot) != new.get(*slot))
            .count()
    }

    #[test]
    fn classes_cover_every_count_and_are_at_least_two_thirds_full() {
        for count in 1..=MOST_BACKENDS {
            let class = SizeClass::of(count).unwrap();
            assert!(class.filled as usize <= count && count <= class.slots as usize);
            assert!(class.filled * 3 + 2 >= class.slots * 2, "{class:?}");
        }
        assert_eq!(SizeClass::of(0), None);
        assert_eq!(SizeClass::of(MOST_BACKENDS + 1), SizeClass::all().last());
        assert!((1..=8).all(|n| SizeClass::of(n).unwrap().is_exact()));
    }

    proptest! {
        #[test]
        fn every_reachable_placement_holds_the_desired_set(
            steps in prop::collection::vec(prop::collection::btree_set(0_u8..30, 0..20), 1..12)
        ) {
            let mut slots = Vec::new();
            for step in &steps {
                let desired = set(step);
                slots = place(&numbered(&slots), &desired);
                prop_assert_eq!(slots.len(), desired.len());
                prop_assert_eq!(slots.iter().copied().collect::<BTreeSet<_>>(), desired);
            }
        }

        #[test]
        fn whatever_is_found_is_led_to_the_desired_set(
            found in prop::collection::btree_map(0_u32..40, 0_u8..12, 0..20),
            desired in prop::collection::btree_set(0_u8..30, 0..20),
        ) {
            let found = found.into_iter().map(|(slot, n)| (slot, backend(n))).collect();
            let desired = set(&desired);
            let slots = place(&found, &desired);
            prop_assert_eq!(slots.len(), desired.len());
            prop_assert_eq!(slots.iter().copied().collect::<BTreeSet<_>>(), desired);
        }

        #[test]
        fn one_change_writes_at_most_two_slots(
            start in prop::collection::btree_set(0_u8..30, 1..20),
            removed in any::<prop::sample::Index>(),
            added in 30_u8..40,
        ) {
            let old = place(&BTreeMap::new(), &set(&start));
            prop_assert!(old.is_sorted());

            let mut more = start.clone();
            more.insert(added);
            prop_assert_eq!(writes(&old, &place(&numbered(&old), &set(&more))), 1);

            let gone = *removed.get(&start.iter().copied().collect::<Vec<_>>());
            let mut fewer = start.clone();
            fewer.remove(&gone);
            let new = place(&numbered(&old), &set(&fewer));
            // The last one moves into the gap, unless it is the one that went.
            let expected = if old.last() == Some(&backend(gone)) { 1 } else { 2 };
            prop_assert_eq!(writes(&old, &new), expected);

            let mut other = fewer;
            other.insert(added);
            prop_assert_eq!(writes(&old, &place(&numbered(&old), &set(&other))), 1);
        }
    }
}
