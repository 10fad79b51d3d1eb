//! Who gets a thing that two objects claim.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;

use weft_model::{ObjectKey, Uid, tighten};

/// The older claim wins; of two of one second, the smaller uid. Both are the object's
/// for life, so the answer does not depend on the order of events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) created: i64,
    pub(crate) uid: Uid,
}

/// How much a claim weighs against others of the same thing, before its [`Rank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// It names the thing.
    Named,
    /// It is for this thing among others, such as one address of the node.
    OneOfMany,
}

/// Things of which each has one holder, and losers in waiting.
#[derive(Clone, Debug)]
pub(crate) struct Claims<K> {
    /// The first holds it. By name where two objects have the same rank: then somebody
    /// made up uids.
    by_key: BTreeMap<K, Vec<Claim>>,
    by_owner: BTreeMap<ObjectKey, Vec<K>>,
    /// The keys with claims of more than one owner: few, in a cluster that is in order.
    contested: BTreeSet<K>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    weight: Weight,
    rank: Rank,
    owner: ObjectKey,
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            contested: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Copy> Claims<K> {
    /// Replaces all claims of one owner. Returns the keys it claims or claimed.
    pub(crate) fn set(
        &mut self,
        owner: &ObjectKey,
        rank: &Rank,
        keys: impl IntoIterator<Item = (K, Weight)>,
    ) -> BTreeSet<K> {
        let mut touched = self.withdraw(owner);
        let mut claimed = BTreeMap::new();
        for (key, weight) in keys {
            let known = claimed.entry(key).or_insert(weight);
            *known = weight.min(*known);
        }
        for (&key, &weight) in &claimed {
            let claims = self.by_key.entry(key).or_default();
            let claim = Claim {
                weight,
                rank: rank.clone(),
                owner: owner.clone(),
            };
            // Nearly all keys have one claim for ever.
            claims.reserve_exact(1);
            claims.insert(claims.partition_point(|other| *other < claim), claim);
            if claims.len() > 1 {
                self.contested.insert(key);
            }
        }
        touched.extend(claimed.keys());
        if !claimed.is_empty() {
            let keys = claimed.into_keys().collect();
            self.by_owner.insert(owner.clone(), keys);
        }
        touched
    }

    /// Takes back all claims of one owner. Returns the keys it claimed.
    pub(crate) fn withdraw(&mut self, owner: &ObjectKey) -> BTreeSet<K> {
        let keys = self.by_owner.remove(owner).unwrap_or_default();
        for key in &keys {
            if let Some(claims) = self.by_key.get_mut(key) {
                claims.retain(|claim| claim.owner != *owner);
                if claims.len() < 2 {
                    self.contested.remove(key);
                }
                if claims.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        keys.into_iter().collect()
    }

    /// Keeps the same in less memory, if claims were made in order.
    pub(crate) fn tighten(&mut self) {
        tighten(&mut self.by_key);
        tighten(&mut self.by_owner);
    }

    /// Who has the key.
    pub(crate) fn holder(&self, key: &K) -> Option<&ObjectKey> {
        self.by_key.get(key)?.first().map(|claim| &claim.owner)
    }

    /// The keys of a range that somebody has.
    pub(crate) fn held(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = &K> {
        self.by_key.range(range).map(|(key, _)| key)
    }

    /// Who claims the key, its holder first.
    pub(crate) fn claimants(&self, key: &K) -> impl Iterator<Item = &ObjectKey> {
        let claims = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        claims.iter().map(|claim| &claim.owner)
    }

    /// Every claim that another one beats: the key, the loser, the winner.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&K, &ObjectKey, &ObjectKey)> {
        self.contested.iter().flat_map(|key| {
            let mut owners = self.claimants(key);
            let winner = owners.next();
            owners.filter_map(move |loser| winner.map(|winner| (key, loser, winner)))
        })
    }
}

/// A shared table: which owners hold each key. Nobody loses. Nearly always a key has one owner, and
/// an owner few keys, for which sets would take ten times the room of lists.
#[derive(Clone, Debug)]
pub(crate) struct Holders<K, O> {
    /// Sorted, as by owner.
    by_key: BTreeMap<K, Vec<O>>,
    by_owner: BTreeMap<O, Vec<K>>,
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
        let before: BTreeSet<K> = before.into_iter().collect();
        for key in before.difference(&after) {
            if let Some(owners) = self.by_key.get_mut(key) {
                owners.retain(|other| *other != owner);
                if owners.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        for key in after.difference(&before) {
            let owners = self.by_key.entry(*key).or_default();
            if let Err(at) = owners.binary_search(&owner) {
                owners.reserve_exact(1);
                owners.insert(at, owner.clone());
            }
        }
        let changed = before.symmetric_difference(&after).copied().collect();
        if !after.is_empty() {
            self.by_owner.insert(owner, after.into_iter().collect());
        }
        changed
    }

    /// Keeps the same in less memory, if it came in order.
    pub(crate) fn tighten(&mut self) {
        tighten(&mut self.by_key);
        tighten(&mut self.by_owner);
    }

    /// The first of a key's holders, by name.
    pub(crate) fn first(&self, key: &K) -> Option<&O> {
        self.by_key.get(key).and_then(|owners| owners.first())
    }
}
