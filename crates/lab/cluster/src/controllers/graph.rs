//! Who owns whom, over all kinds: what garbage collection looks at, and when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::ObjectKey;

use super::kind::{AnyKey, Foreign, Kind};
use super::served::{Kinds, Served};

/// Its presence keeps an object until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Its presence keeps an object until its dependents have forgotten it.
pub(super) const ORPHAN: &str = "orphan";
/// How many owners are remembered after their end.
const REMEMBERED: usize = 10_000;

/// The reference by which one object is the controller of another. As Kubernetes' controllers
/// write it: in a foreground deletion the owner waits for the other.
pub(super) fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> Option<OwnerReference> {
    Some(OwnerReference {
        block_owner_deletion: Some(true),
        ..owner.controller_owner_ref(&())?
    })
}

/// What garbage collection needs of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Meta {
    pub(super) uid: String,
    pub(super) version: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) terminating: bool,
}

impl Meta {
    pub(super) fn of(object: &impl ResourceExt) -> Self {
        Self {
            uid: object.uid().unwrap_or_default(),
            version: object.resource_version().unwrap_or_default(),
            owners: object.owner_references().to_vec(),
            finalizers: object.finalizers().to_vec(),
            terminating: object.meta().deletion_timestamp.is_some(),
        }
    }

    pub(super) fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|name| name == finalizer)
    }

    /// Whether it goes when its dependents are gone.
    pub(super) fn awaits_dependents(&self) -> bool {
        self.terminating && self.has_finalizer(FOREGROUND)
    }

    /// Whether it goes when its dependents have forgotten it.
    pub(super) fn orphans_dependents(&self) -> bool {
        self.terminating && self.has_finalizer(ORPHAN)
    }

    fn is_blocked_by(&self, owner: &str) -> bool {
        let mut owners = self.owners.iter();
        owners.any(|one| one.uid == owner && one.block_owner_deletion == Some(true))
    }
}

/// An object that is owned by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dependent {
    pub(super) any: AnyKey,
    /// Its owner may not go before it.
    pub(super) blocks: bool,
    /// It waits for dependents of its own.
    pub(super) awaits: bool,
}

/// What is known of an owner without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is there, and does not wait for its dependents.
    There,
    /// Its end was seen.
    Gone,
    /// The API has to be asked.
    No,
}

/// Owners whose end was seen, by uid: when somebody asks, their kind may not be served any more.
#[derive(Debug, Default)]
struct Departed {
    uids: BTreeSet<String>,
    /// The longest gone first.
    order: VecDeque<String>,
}

impl Departed {
    fn insert(&mut self, uid: &str) {
        if self.uids.insert(uid.to_owned()) {
            self.order.push_back(uid.to_owned());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

/// All objects of the kinds that are watched, and who owns whom.
#[derive(Debug, Default)]
pub(super) struct Graph {
    objects: BTreeMap<AnyKey, Meta>,
    uids: BTreeMap<String, AnyKey>,
    /// Who is owned by a uid, whether its object is there or not.
    dependents: BTreeMap<String, BTreeSet<AnyKey>>,
    /// What should be looked at.
    suspects: BTreeSet<AnyKey>,
    departed: Departed,
    kinds: Kinds,
    /// The kinds among them that no controller reads, and those of which all objects are here.
    watched: BTreeSet<Rc<Foreign>>,
    listed: BTreeSet<Rc<Foreign>>,
}

impl Graph {
    /// Who is owned by a uid.
    pub(super) fn owned_by(&self, uid: &str) -> impl Iterator<Item = &AnyKey> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// The same, with what matters when the owner goes.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Dependent> {
        let dependents = self.owned_by(uid).filter_map(|any| {
            let meta = self.objects.get(any)?;
            Some(Dependent {
                any: any.clone(),
                blocks: meta.is_blocked_by(uid),
                awaits: meta.awaits_dependents(),
            })
        });
        dependents.collect()
    }

    /// Whether an object of this uid is there.
    pub(super) fn has_uid(&self, uid: &str) -> bool {
        self.uids.contains_key(uid)
    }

    pub(super) fn meta(&self, any: &AnyKey) -> Option<&Meta> {
        self.objects.get(any)
    }

    /// What garbage collection should look at since this was last asked.
    pub(super) fn take_suspects(&mut self) -> BTreeSet<AnyKey> {
        std::mem::take(&mut self.suspects)
    }

    /// What can be said of an owner. A reference that does not say of it what it is has to be
    /// looked up as it stands.
    pub(super) fn known(&self, dependent: &AnyKey, owner: &OwnerReference) -> Known {
        if self.departed.uids.contains(&owner.uid) {
            return Known::Gone;
        }
        let there = self.uids.get(&owner.uid).filter(|any| {
            let resource = any.kind.place().0;
            resource.api_version == owner.api_version
                && resource.kind == owner.kind
                && *any.key.name == owner.name
                && (any.key.namespace.is_empty() || any.key.namespace == dependent.key.namespace)
        });
        match there.and_then(|any| self.objects.get(any)) {
            Some(meta) if !meta.awaits_dependents() => Known::There,
            Some(_) | None => Known::No,
        }
    }

    /// Whether an owner is there, in a namespace where it can't own this.
    pub(super) fn is_elsewhere(&self, dependent: &AnyKey, owner: &OwnerReference) -> bool {
        let there = self.uids.get(&owner.uid).map(|any| &any.key.namespace);
        there
            .is_some_and(|namespace| !namespace.is_empty() && *namespace != dependent.key.namespace)
    }

    /// Takes an object's new state in; `None`: it is gone.
    pub(super) fn put(&mut self, any: &AnyKey, after: Option<Meta>) {
        let before = self.replace(any, after.clone());
        let Some(before) = before else {
            return self.note_new(any, after.as_ref());
        };
        match after {
            Some(after) if after.uid == before.uid => self.note_changed(any, &before, &after),
            after => {
                self.note_end(&before);
                self.note_new(any, after.as_ref());
            }
        }
    }

    fn replace(&mut self, any: &AnyKey, after: Option<Meta>) -> Option<Meta> {
        let before = self.objects.remove(any);
        if let Some(before) = &before {
            // The same object may be here in another version of its kind.
            if self.uids.get(&before.uid) == Some(any) {
                self.uids.remove(&before.uid);
            }
            for owner in &before.owners {
                if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                    dependents.remove(any);
                    if dependents.is_empty() {
                        self.dependents.remove(&owner.uid);
                    }
                }
            }
        }
        if let Some(after) = after {
            self.uids.insert(after.uid.clone(), any.clone());
            for owner in &after.owners {
                let dependents = self.dependents.entry(owner.uid.clone()).or_default();
                dependents.insert(any.clone());
            }
            self.objects.insert(any.clone(), after);
        }
        before
    }

    fn note_new(&mut self, any: &AnyKey, meta: Option<&Meta>) {
        let Some(meta) = meta else { return };
        self.departed.uids.remove(&meta.uid);
        if !meta.owners.is_empty() || meta.awaits_dependents() || meta.orphans_dependents() {
            self.suspects.insert(any.clone());
        }
        // What refers to it could not be judged before, or not rightly.
        self.suspect_dependents(&meta.uid);
    }

    fn note_changed(&mut self, any: &AnyKey, before: &Meta, after: &Meta) {
        if before.owners != after.owners || after.awaits_dependents() || after.orphans_dependents()
        {
            self.suspects.insert(any.clone());
        }
        if before.awaits_dependents() != after.awaits_dependents() {
            self.suspect_dependents(&after.uid);
        }
        for owner in &before.owners {
            if before.is_blocked_by(&owner.uid) && !after.is_blocked_by(&owner.uid) {
                self.suspects.extend(self.uids.get(&owner.uid).cloned());
            }
        }
    }

    /// Its dependents have lost an owner, and owners may have waited for it.
    fn note_end(&mut self, before: &Meta) {
        // What has finalizers and was not being deleted is gone only for whoever said so.
        let ended = before.terminating || before.finalizers.is_empty();
        if ended && self.dependents.contains_key(&before.uid) {
            self.departed.insert(&before.uid);
        }
        self.suspect_dependents(&before.uid);
        for owner in &before.owners {
            self.suspects.extend(self.uids.get(&owner.uid).cloned());
        }
    }

    fn suspect_dependents(&mut self, uid: &str) {
        if let Some(dependents) = self.dependents.get(uid) {
            self.suspects.extend(dependents.iter().cloned());
        }
    }

    /// All objects of a kind that no controller reads have been put: others are gone.
    pub(super) fn listed(&mut self, kind: &Rc<Foreign>, there: &BTreeSet<ObjectKey>) {
        self.listed.insert(kind.clone());
        for any in self.objects_of(kind) {
            if !there.contains(&any.key) {
                self.put(&any, None);
            }
        }
    }

    /// The kinds that are served now. Whose owner was of no known kind is looked at again.
    pub(super) fn serve(&mut self, kinds: Kinds, watched: BTreeSet<Rc<Foreign>>) {
        self.kinds = kinds;
        self.watched = watched;
        let ownerless = self.dependents.iter();
        let ownerless = ownerless.filter(|(owner, _)| !self.uids.contains_key(*owner));
        self.suspects
            .extend(ownerless.flat_map(|(_, all)| all.iter().cloned()));
    }

    /// Whether objects of a kind that no controller reads can be listed now.
    pub(super) fn is_served(&self, kind: &Rc<Foreign>) -> bool {
        self.watched.contains(kind)
    }

    /// A kind is not served any more. That is no end of its objects: they may be kept, or
    /// served in another version.
    pub(super) fn forget(&mut self, kind: &Rc<Foreign>) {
        self.listed.remove(kind);
        for any in self.objects_of(kind) {
            self.replace(&any, None);
        }
    }

    fn objects_of(&self, kind: &Rc<Foreign>) -> Vec<AnyKey> {
        let kind = Kind::Foreign(kind.clone());
        let first = AnyKey {
            kind: kind.clone(),
            key: ObjectKey::new("", ""),
        };
        let of_kind = self.objects.range(first..);
        let of_kind = of_kind.take_while(|(any, _)| any.kind == kind);
        of_kind.map(|(any, _)| any.clone()).collect()
    }

    /// What a reference means, if the API serves it.
    pub(super) fn kind_of(&self, owner: &OwnerReference) -> Option<&Served> {
        self.kinds.find(&owner.api_version, &owner.kind)
    }

    /// A kind of which not all objects have been listed: who has no dependents here may have
    /// some of it. `now` are the kinds served now.
    pub(super) fn unlisted(&self, now: &BTreeSet<Rc<Foreign>>) -> Option<Rc<Foreign>> {
        now.difference(&self.listed).next().cloned()
    }
}

#[cfg(test)]
mod tests {
    use weft_kube::kube::api::ApiResource;
    use weft_kube::kube::core::GroupVersionKind;

    use super::*;

    fn sites() -> Rc<Foreign> {
        let kind = GroupVersionKind::gvk("example.com", "v2", "Site");
        Rc::new(Foreign::new(&ApiResource::from_gvk(&kind), true))
    }

    fn any(kind: &Rc<Foreign>, namespace: &str, name: &str) -> AnyKey {
        AnyKey {
            kind: Kind::Foreign(kind.clone()),
            key: ObjectKey::new(namespace, name),
        }
    }

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "example.com/v2".to_owned(),
            kind: "Site".to_owned(),
            name: uid.to_owned(),
            uid: uid.to_owned(),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        }
    }

    fn meta(uid: &str, owners: &[&str]) -> Meta {
        Meta {
            uid: uid.to_owned(),
            owners: owners.iter().map(|uid| owner(uid)).collect(),
            ..Meta::default()
        }
    }

    fn awaiting(uid: &str) -> Meta {
        Meta {
            finalizers: vec![FOREGROUND.to_owned()],
            terminating: true,
            ..meta(uid, &[])
        }
    }

    /// A graph with an owner `o` and a dependent `d`, and nothing to look at.
    fn pair(kind: &Rc<Foreign>) -> (Graph, AnyKey, AnyKey) {
        let mut graph = Graph::default();
        let (o, d) = (any(kind, "a", "o"), any(kind, "a", "d"));
        graph.put(&o, Some(meta("o", &[])));
        graph.put(&d, Some(meta("d", &["o"])));
        graph.take_suspects();
        (graph, o, d)
    }

    fn suspects(graph: &mut Graph) -> Vec<String> {
        let suspects = graph.take_suspects();
        suspects
            .iter()
            .map(|any| any.key.name.to_string())
            .collect()
    }

    #[test]
    fn an_end_concerns_dependents_and_owners() {
        let kind = sites();
        let (mut graph, o, d) = pair(&kind);
        graph.put(&d, None);
        assert_eq!(suspects(&mut graph), ["o"]);
        graph.put(&d, Some(meta("d", &["o"])));
        assert_eq!(suspects(&mut graph), ["d"]);
        graph.put(&o, None);
        assert_eq!(suspects(&mut graph), ["d"]);
        assert_eq!(graph.known(&d, &owner("o")), Known::Gone);
    }

    #[test]
    fn a_foreground_deletion_concerns_dependents_at_its_start() {
        let kind = sites();
        let (mut graph, o, d) = pair(&kind);
        assert_eq!(graph.known(&d, &owner("o")), Known::There);
        graph.put(&o, Some(awaiting("o")));
        assert_eq!(suspects(&mut graph), ["d", "o"]);
        assert_eq!(graph.known(&d, &owner("o")), Known::No);
        // It no longer blocks.
        graph.put(&d, Some(meta("d", &[])));
        assert_eq!(suspects(&mut graph), ["d", "o"]);
    }

    #[test]
    fn only_a_reference_that_fits_is_known_to_be_there() {
        let kind = sites();
        let (graph, _, d) = pair(&kind);
        let with = |change: fn(&mut OwnerReference)| {
            let mut owner = owner("o");
            change(&mut owner);
            graph.known(&d, &owner)
        };
        assert_eq!(with(|_| {}), Known::There);
        assert_eq!(with(|owner| owner.name = "p".to_owned()), Known::No);
        assert_eq!(with(|owner| owner.kind = "Plot".to_owned()), Known::No);
        assert_eq!(
            with(|owner| owner.api_version = "example.com/v1".to_owned()),
            Known::No
        );
        assert_eq!(with(|owner| owner.uid = "p".to_owned()), Known::No);
        let elsewhere = any(&kind, "b", "d");
        assert_eq!(graph.known(&elsewhere, &owner("o")), Known::No);
        assert!(graph.is_elsewhere(&elsewhere, &owner("o")));
        assert!(!graph.is_elsewhere(&d, &owner("o")));
        assert!(!graph.is_elsewhere(&elsewhere, &owner("p")));
    }

    #[test]
    fn a_kind_that_is_no_longer_served_is_no_end_of_its_objects() {
        let kind = sites();
        let (mut graph, _, d) = pair(&kind);
        graph.forget(&kind);
        assert_eq!(suspects(&mut graph), [""; 0]);
        assert_eq!(graph.known(&d, &owner("o")), Known::No);
        // What is missing in a list is gone.
        let (mut graph, _, d) = pair(&kind);
        graph.listed(&kind, &[d.key.clone()].into());
        assert_eq!(suspects(&mut graph), ["d"]);
        assert_eq!(graph.known(&d, &owner("o")), Known::Gone);
    }

    #[test]
    fn who_was_forgotten_before_its_time_may_come_back() {
        let kind = sites();
        let (mut graph, o, d) = pair(&kind);
        let mut held = meta("o", &[]);
        held.finalizers = vec!["example.com/hold".to_owned()];
        graph.put(&o, Some(held.clone()));
        graph.put(&o, None);
        assert_eq!(graph.known(&d, &owner("o")), Known::No);
        graph.put(&o, Some(meta("o", &[])));
        graph.put(&o, None);
        graph.put(&o, Some(held));
        assert_eq!(graph.known(&d, &owner("o")), Known::There);
    }

    #[test]
    fn a_kind_counts_as_listed_only_after_its_list() {
        let kind = sites();
        let (mut graph, _, d) = pair(&kind);
        let now: BTreeSet<_> = [kind.clone()].into();
        assert_eq!(graph.unlisted(&now), Some(kind.clone()));
        graph.listed(&kind, &[d.key.clone()].into());
        assert_eq!(graph.unlisted(&now), None);
        graph.forget(&kind);
        assert_eq!(graph.unlisted(&now), Some(kind));
    }

    #[test]
    fn the_same_object_in_two_versions_of_its_kind_stays_when_one_goes() {
        let kind = sites();
        let (mut graph, _, _) = pair(&kind);
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v3", "Site"));
        let newer = Rc::new(Foreign::new(&resource, true));
        graph.put(&any(&newer, "a", "o"), Some(meta("o", &[])));
        graph.forget(&kind);
        assert!(graph.has_uid("o"));
        graph.forget(&newer);
        assert!(!graph.has_uid("o"));
    }
}
