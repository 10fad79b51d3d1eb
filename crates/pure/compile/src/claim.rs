//! Who gets a thing that two objects claim.

use std::collections::{BTreeMap, BTreeSet};

use weft_desired::{Entry, Table};
use weft_model::{ObjectKey, Uid};

/// The older claim wins; of two of one second, the smaller uid. Both are the object's
/// for life, so the answer does not depend on the order of events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) created: i64,
    pub(crate) uid: Uid,
}

/// An exclusive table: each key has one winner, and losers in waiting.
#[derive(Clone, Debug)]
pub(crate) struct Claims<K, V> {
    /// By rank, and by name where two objects have the same: then somebody made up uids.
    by_key: BTreeMap<K, BTreeMap<(Rank, ObjectKey), Entry<V>>>,
    by_owner: BTreeMap<ObjectKey, (Rank, BTreeSet<K>)>,
    /// The keys with more than one claim: few, in a cluster that is in order.
    contested: BTreeSet<K>,
}

impl<K, V> Default for Claims<K, V> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            contested: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Copy, V: Clone + PartialEq> Claims<K, V> {
    /// Replaces all claims of one owner. Returns the keys to [`Claims::settle`].
    pub(crate) fn set(
        &mut self,
        owner: &ObjectKey,
        rank: Rank,
        claims: Vec<(K, Entry<V>)>,
    ) -> BTreeSet<K> {
        let mut touched = self.withdraw(owner);
        for (key, entry) in claims {
            self.by_key
                .entry(key)
                .or_default()
                .insert((rank.clone(), owner.clone()), entry);
            self.by_owner
                .entry(owner.clone())
                .or_insert_with(|| (rank.clone(), BTreeSet::new()))
                .1
                .insert(key);
            touched.insert(key);
        }
        touched
    }

    /// Every claim that another one beats: the key, the loser, the winner.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&K, &ObjectKey, &ObjectKey)> {
        self.contested.iter().flat_map(|key| {
            let mut owners = self
                .by_key
                .get(key)
                .into_iter()
                .flat_map(BTreeMap::keys)
                .map(|(_, owner)| owner);
            let winner = owners.next();
            owners.filter_map(move |loser| winner.map(|winner| (key, loser, winner)))
        })
    }

    /// Takes back all claims of one owner. Returns the keys to [`Claims::settle`].
    pub(crate) fn withdraw(&mut self, owner: &ObjectKey) -> BTreeSet<K> {
        let Some((rank, keys)) = self.by_owner.remove(owner) else {
            return BTreeSet::new();
        };
        let claim = (rank, owner.clone());
        for key in &keys {
            if let Some(claims) = self.by_key.get_mut(key) {
                claims.remove(&claim);
                if claims.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        keys
    }

    /// Brings `table` up to date with the claims of some keys. Returns those whose value
    /// in `table` is another one now.
    pub(crate) fn settle(
        &mut self,
        mut touched: BTreeSet<K>,
        table: &mut Table<K, V>,
    ) -> BTreeSet<K> {
        touched.retain(|key| {
            let claims = self.by_key.get(key).map_or(0, BTreeMap::len);
            if claims > 1 {
                self.contested.insert(*key);
            } else {
                self.contested.remove(key);
            }
            let winner = self
                .by_key
                .get(key)
                .and_then(|claims| claims.values().next());
            let before = table.get(key);
            let same = match (before, winner) {
                (Some(before), Some(entry)) => before == entry,
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            match winner {
                // The origin may be new though the value is not.
                Some(entry) => table.insert(*key, entry.clone()),
                None => table.remove(key),
            };
            !same
        });
        touched
    }
}

/// A shared table: which owners hold each key. Nobody loses.
#[derive(Clone, Debug)]
pub(crate) struct Holders<K, O> {
    by_key: BTreeMap<K, BTreeSet<O>>,
    by_owner: BTreeMap<O, BTreeSet<K>>,
}

impl<K, O> Default for Holders<K, O> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_owner: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy, O: Ord + Clone> Holders<K, O> {
    /// Replaces what one owner holds; returns the keys whose holders are others now.
    pub(crate) fn set(&mut self, owner: O, keys: impl IntoIterator<Item = K>) -> BTreeSet<K> {
        let after: BTreeSet<K> = keys.into_iter().collect();
        let before = self.by_owner.remove(&owner).unwrap_or_default();
        for key in before.difference(&after) {
            if let Some(owners) = self.by_key.get_mut(key) {
                owners.remove(&owner);
                if owners.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        for key in after.difference(&before) {
            self.by_key.entry(*key).or_default().insert(owner.clone());
        }
        let changed = before.symmetric_difference(&after).copied().collect();
        if !after.is_empty() {
            self.by_owner.insert(owner, after);
        }
        changed
    }

    /// The first of a key's holders, by name.
    pub(crate) fn first(&self, key: &K) -> Option<&O> {
        self.by_key.get(key).and_then(BTreeSet::first)
    }
}
