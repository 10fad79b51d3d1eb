//! Writes that the watch has not shown yet. Until it has, the cache would make a controller
//! write the same again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_model::ObjectKey;

/// How long a write may take to come back through the watch before it is no longer waited for:
/// what came and went between two looks is never seen.
const LONGEST: Duration = Duration::from_secs(10);

/// What each owner of pods waits for.
#[derive(Debug, Default)]
pub(super) struct Echoes(RefCell<BTreeMap<ObjectKey, Expected>>);

/// Uids of pods.
#[derive(Debug)]
struct Expected {
    created: BTreeSet<String>,
    deleted: BTreeSet<String>,
    until: Instant,
}

impl Echoes {
    /// The pods of an owner that were just created and deleted.
    pub(super) fn expect(
        &self,
        owner: &ObjectKey,
        created: BTreeSet<String>,
        deleted: BTreeSet<String>,
    ) {
        let expected = Expected {
            created,
            deleted,
            until: Instant::now() + LONGEST,
        };
        self.0.borrow_mut().insert(owner.clone(), expected);
    }

    /// Waits for nothing of this owner any more.
    pub(super) fn forget(&self, owner: &ObjectKey) {
        self.0.borrow_mut().remove(owner);
    }

    /// How long at most to wait for what is still to be seen; none when all was: each pod
    /// created is there (`has_uid`), each deleted is not active any more (`is_active`).
    pub(super) fn wait(
        &self,
        owner: &ObjectKey,
        has_uid: impl Fn(&str) -> bool,
        is_active: impl Fn(&str) -> bool,
    ) -> Option<Duration> {
        self.wait_at(Instant::now(), owner, has_uid, is_active)
    }

    fn wait_at(
        &self,
        now: Instant,
        owner: &ObjectKey,
        has_uid: impl Fn(&str) -> bool,
        is_active: impl Fn(&str) -> bool,
    ) -> Option<Duration> {
        let mut all = self.0.borrow_mut();
        let expected = all.get_mut(owner)?;
        expected.created.retain(|uid| !has_uid(uid));
        expected.deleted.retain(|uid| is_active(uid));
        let seen = expected.created.is_empty() && expected.deleted.is_empty();
        let left = expected.until.saturating_duration_since(now);
        if seen || left.is_zero() {
            all.remove(owner);
            return None;
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_waited_for_until_it_is_seen_or_it_is_late() {
        let echoes = Echoes::default();
        let owner = ObjectKey::new("default", "web");
        let expect = || {
            let uids = |uid: &str| BTreeSet::from([uid.to_owned()]);
            echoes.expect(&owner, uids("new"), uids("old"));
        };
        expect();
        assert!(echoes.wait(&owner, |_| false, |_| false).is_some());
        assert_eq!(echoes.wait(&owner, |uid| uid == "new", |_| false), None);
        expect();
        // Somebody waits for it, so it is looked at again though nothing happens.
        assert!(echoes.wait(&owner, |_| false, |_| true).is_some());
        let late = Instant::now() + LONGEST;
        assert_eq!(echoes.wait_at(late, &owner, |_| false, |_| true), None);
    }
}
