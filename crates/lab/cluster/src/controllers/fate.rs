//! What garbage collection does with an object, decided from what is known of it, its owners
//! and its dependents (Kubernetes documentation, "Garbage Collection", and what its garbage
//! collector does where that is silent).

use super::graph::{Dependent, FOREGROUND, Meta, ORPHAN};
use super::kind::AnyKey;

/// How one of an object's owners stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is there.
    Solid,
    /// It is being deleted, and waits for its dependents.
    Waiting,
    /// It is not there.
    Dangling,
    /// Nobody can tell: the API serves no such kind.
    Unresolved,
    /// An object without a namespace refers to one that has one: it can't be found.
    OutOfReach,
}

/// What to do with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    /// It can't be told yet.
    Undecided,
    /// The owners at these positions are gone, or wait for it to go, while others stay.
    Disown(Vec<usize>),
    /// Nobody owns it any more; what becomes of its dependents.
    Delete(Propagation),
    /// It waits for nobody: this finalizer has done its work.
    Release(&'static str),
    /// It waits for its dependents, and these have yet to be told.
    Await(Vec<AnyKey>),
    /// Its dependents, whoever they are by then, forget it, and then it is released.
    Orphan,
}

/// How an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Propagation {
    Background,
    Orphan,
    /// Its owners go before it if they would wait for each other.
    Foreground {
        unblock: bool,
    },
}

/// Decides. `owners` has an element for each of the object's.
pub(super) fn fate(object: &Meta, owners: &[Standing], dependents: &[Dependent]) -> Fate {
    if object.orphans_dependents() {
        return Fate::Orphan;
    }
    if object.awaits_dependents() {
        let mut blocking = dependents.iter().filter(|one| one.blocks).peekable();
        return if blocking.peek().is_none() {
            Fate::Release(FOREGROUND)
        } else {
            let untold = blocking.filter(|one| !one.awaits);
            Fate::Await(untold.map(|one| one.any.clone()).collect())
        };
    }
    // It goes already.
    if object.terminating || owners.is_empty() {
        return Fate::Keep;
    }
    let has = |standing| owners.contains(&standing);
    if has(Standing::Unresolved) {
        return Fate::Undecided;
    }
    if has(Standing::OutOfReach) {
        return Fate::Keep;
    }
    if has(Standing::Solid) {
        // A waiting owner would otherwise wait for ever.
        let others = owners.iter().enumerate();
        let others = others.filter(|(_, standing)| **standing != Standing::Solid);
        let others: Vec<usize> = others.map(|(at, _)| at).collect();
        return if others.is_empty() {
            Fate::Keep
        } else {
            Fate::Disown(others)
        };
    }
    if has(Standing::Waiting) && !dependents.is_empty() {
        // What the owner waits for waits for its own dependents, so that all is gone when the
        // owner is. Those that wait already may wait for this one.
        let unblock = dependents.iter().any(|one| one.awaits);
        return Fate::Delete(Propagation::Foreground { unblock });
    }
    Fate::Delete(if object.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if object.has_finalizer(FOREGROUND) {
        Propagation::Foreground { unblock: false }
    } else {
        Propagation::Background
    })
}

#[cfg(test)]
mod tests {
    use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use weft_model::ObjectKey;

    use super::super::kind::Kind;
    use super::Standing::{Dangling, OutOfReach, Solid, Unresolved, Waiting};
    use super::*;

    fn object(terminating: bool, finalizers: &[&str], owners: usize) -> Meta {
        Meta {
            owners: vec![OwnerReference::default(); owners],
            finalizers: finalizers.iter().map(|one| (*one).to_owned()).collect(),
            terminating,
            ..Meta::default()
        }
    }

    fn pod(name: &str) -> AnyKey {
        AnyKey {
            kind: Kind::Pod,
            key: ObjectKey::new("a", name),
        }
    }

    fn dependent(name: &str, blocks: bool, awaits: bool) -> Dependent {
        Dependent {
            any: pod(name),
            blocks,
            awaits,
        }
    }

    #[test]
    fn owners_decide_about_what_is_not_being_deleted() {
        let background = Fate::Delete(Propagation::Background);
        for (owners, wanted) in [
            (&[][..], Fate::Keep),
            (&[Solid], Fate::Keep),
            (&[Solid, Solid], Fate::Keep),
            (&[Dangling], background.clone()),
            (&[Dangling, Dangling], background.clone()),
            (&[Solid, Dangling], Fate::Disown(vec![1])),
            (&[Waiting, Solid], Fate::Disown(vec![0])),
            (&[Dangling, Solid, Waiting], Fate::Disown(vec![0, 2])),
            // Nobody waits for what has no dependents.
            (&[Waiting], background.clone()),
            (&[Waiting, Dangling], background),
            (&[Unresolved], Fate::Undecided),
            (&[Dangling, Unresolved], Fate::Undecided),
            (&[Solid, Dangling, Unresolved], Fate::Undecided),
            (&[OutOfReach], Fate::Keep),
            (&[OutOfReach, Dangling], Fate::Keep),
        ] {
            let object = object(false, &[], owners.len());
            assert_eq!(fate(&object, owners, &[]), wanted, "{owners:?}");
        }
    }

    #[test]
    fn dependents_decide_how_what_an_owner_waits_for_is_deleted() {
        let foreground = |unblock| Fate::Delete(Propagation::Foreground { unblock });
        let object = object(false, &[], 1);
        let plain = [dependent("p", false, false)];
        assert_eq!(fate(&object, &[Waiting], &plain), foreground(false));
        // The owner is also a dependent: both would wait.
        let circle = [dependent("p", true, false), dependent("o", true, true)];
        assert_eq!(fate(&object, &[Waiting], &circle), foreground(true));
        let background = Fate::Delete(Propagation::Background);
        assert_eq!(fate(&object, &[Dangling], &circle), background);
    }

    #[test]
    fn a_policy_that_was_chosen_before_is_kept() {
        let delete = |finalizer| fate(&object(false, &[finalizer], 1), &[Dangling], &[]);
        assert_eq!(delete(ORPHAN), Fate::Delete(Propagation::Orphan));
        let foreground = Propagation::Foreground { unblock: false };
        assert_eq!(delete(FOREGROUND), Fate::Delete(foreground));
        assert_eq!(delete("other"), Fate::Delete(Propagation::Background));
    }

    #[test]
    fn who_waits_is_held_by_what_blocks_and_by_nothing_else() {
        let owner = object(true, &["other", FOREGROUND], 1);
        let released = Fate::Release(FOREGROUND);
        assert_eq!(fate(&owner, &[], &[]), released);
        let plain = dependent("plain", false, false);
        assert_eq!(fate(&owner, &[], std::slice::from_ref(&plain)), released);
        let (told, untold) = (
            dependent("told", true, true),
            dependent("untold", true, false),
        );
        assert_eq!(
            fate(&owner, &[], &[plain.clone(), told.clone(), untold]),
            Fate::Await(vec![pod("untold")])
        );
        assert_eq!(fate(&owner, &[], &[plain, told]), Fate::Await(Vec::new()));
    }

    #[test]
    fn an_orphaning_owner_is_forgotten_by_all() {
        let owner = object(true, &[ORPHAN], 0);
        let dependents = [dependent("a", true, false), dependent("b", false, true)];
        assert_eq!(fate(&owner, &[], &dependents), Fate::Orphan);
        assert_eq!(fate(&owner, &[], &[]), Fate::Orphan);
    }

    #[test]
    fn what_is_being_deleted_is_left_to_whoever_holds_it() {
        let going = object(true, &["other"], 1);
        assert_eq!(fate(&going, &[Dangling], &[]), Fate::Keep);
        // A finalizer without a deletion says nothing.
        assert_eq!(fate(&object(false, &[FOREGROUND], 0), &[], &[]), Fate::Keep);
    }
}
