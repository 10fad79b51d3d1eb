//! Tables of entries, and their difference.

use std::collections::BTreeMap;

use crate::Entry;

/// Everything of one sort that a node must hold.
pub type Table<K, V> = BTreeMap<K, Entry<V>>;

/// One step from an actual to a desired table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference<'a, K, A, D> {
    /// Desired, and not there.
    Add(&'a K, &'a D),
    /// There with another value.
    Change(&'a K, &'a A, &'a D),
    /// There, and not desired.
    Remove(&'a K, &'a A),
}

/// The steps that lead from `actual` to `desired`, in the order of their keys.
/// Costs one walk over both maps.
pub fn difference<'a, K: Ord, A, D>(
    actual: &'a BTreeMap<K, A>,
    desired: &'a BTreeMap<K, D>,
    same: impl Fn(&A, &D) -> bool,
) -> Vec<Difference<'a, K, A, D>> {
    let mut steps = Vec::new();
    let mut have = actual.iter().peekable();
    let mut want = desired.iter().peekable();
    loop {
        match (have.peek(), want.peek()) {
            (None, None) => return steps,
            (Some(&(key, value)), None) => {
                steps.push(Difference::Remove(key, value));
                have.next();
            }
            (None, Some(&(key, value))) => {
                steps.push(Difference::Add(key, value));
                want.next();
            }
            (Some(&(old_key, old)), Some(&(new_key, new))) => match old_key.cmp(new_key) {
                std::cmp::Ordering::Less => {
                    steps.push(Difference::Remove(old_key, old));
                    have.next();
                }
                std::cmp::Ordering::Greater => {
                    steps.push(Difference::Add(new_key, new));
                    want.next();
                }
                std::cmp::Ordering::Equal => {
                    if !same(old, new) {
                        steps.push(Difference::Change(new_key, old, new));
                    }
                    have.next();
                    want.next();
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_between_the_two_maps_and_no_others() {
        let actual = BTreeMap::from([(1, 'a'), (2, 'b'), (4, 'd')]);
        let desired = BTreeMap::from([(2, 'b'), (3, 'c'), (4, 'x')]);
        assert_eq!(
            difference(&actual, &desired, |a, d| a == d),
            vec![
                Difference::Remove(&1, &'a'),
                Difference::Add(&3, &'c'),
                Difference::Change(&4, &'d', &'x'),
            ]
        );
        assert!(difference(&desired, &desired, |a, d| a == d).is_empty());
    }
}
