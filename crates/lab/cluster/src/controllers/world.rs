//! The cluster as the controllers see it: one cache of each kind they read, fed by one
//! watch each, and which work an event makes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};
use serde::de::DeserializeOwned;
use tracing::warn;
use weft_kube::k8s_openapi::NamespaceResourceScope;
use weft_kube::k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use weft_kube::k8s_openapi::api::coordination::v1::Lease;
use weft_kube::k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service,
    ServiceAccount,
};
use weft_kube::k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_kube::k8s_openapi::api::storage::v1::StorageClass;
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use weft_kube::kube::api::ApiResource;
use weft_kube::kube::core::GroupVersionKind;
use weft_kube::kube::runtime::WatchStreamExt;
use weft_kube::kube::runtime::watcher::{self, Event, watcher};
use weft_kube::kube::{Api, Resource, ResourceExt};
use weft_kube::{Client, Pauses};
use weft_model::ObjectKey;

/// The ConfigMap every namespace gets.
pub(super) const ROOT_CA: &str = "kube-root-ca.crt";
/// Where nodes renew their leases.
pub(super) const LEASES: &str = "kube-node-lease";

/// All objects of one kind. Those of a kind without namespaces have an empty one.
pub(super) type Cache<K> = BTreeMap<ObjectKey, Arc<K>>;

/// A kind the controllers watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
    Deployment,
    ReplicaSet,
    DaemonSet,
    StatefulSet,
    ControllerRevision,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    ServiceAccount,
    ConfigMap,
    Lease,
    Foreign(Rc<Foreign>),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Kind::Foreign(kind) = self {
            f.write_str(&kind.kind)
        } else {
            Debug::fmt(self, f)
        }
    }
}

/// A kind that no controller reads: of its objects only the metadata is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Foreign {
    pub(super) group: String,
    version: String,
    pub(super) kind: String,
    plural: String,
    pub(super) namespaced: bool,
}

impl Foreign {
    pub(super) fn new(resource: &ApiResource, namespaced: bool) -> Self {
        Self {
            group: resource.group.clone(),
            version: resource.version.clone(),
            kind: resource.kind.clone(),
            plural: resource.plural.clone(),
            namespaced,
        }
    }

    pub(super) fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(&self.group, &self.version, &self.kind);
        ApiResource::from_gvk_with_plural(&kind, &self.plural)
    }
}

/// The objects of such a kind.
#[derive(Debug, Default)]
struct ForeignObjects {
    objects: BTreeMap<ObjectKey, Meta>,
    in_sync: bool,
}

/// An object, whatever its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AnyKey {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
}

impl std::fmt::Display for AnyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// A kind that [`World`] has a cache of.
pub(super) trait Kept:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    const KIND: Kind;
    fn cache(world: &World) -> &Cache<Self>;
    fn cache_mut(world: &mut World) -> &mut Cache<Self>;
}

macro_rules! caches {
    ($($field:ident: $kind:ident),* $(,)?) => {
        /// The caches, and what is looked up in them other than by name.
        #[derive(Debug, Default)]
        pub(super) struct World {
            $(pub(super) $field: Cache<$kind>,)*
            foreign: BTreeMap<Rc<Foreign>, ForeignObjects>,
            in_sync: BTreeSet<Kind>,
            /// Who is owned by a uid.
            dependents: BTreeMap<String, BTreeSet<AnyKey>>,
            /// Every uid that is there, and whose it is.
            uids: BTreeMap<String, AnyKey>,
            /// What garbage collection should look at.
            garbage: BTreeSet<AnyKey>,
        }

        $(impl Kept for $kind {
            const KIND: Kind = Kind::$kind;
            fn cache(world: &World) -> &Cache<Self> {
                &world.$field
            }
            fn cache_mut(world: &mut World) -> &mut Cache<Self> {
                &mut world.$field
            }
        })*

        impl World {
            /// The metadata-bearing part all kinds share.
            pub(super) fn meta(&self, any: &AnyKey) -> Option<Meta> {
                match &any.kind {
                    $(Kind::$kind => self.$field.get(&any.key).map(|object| Meta::of(&**object)),)*
                    Kind::Foreign(kind) => self.foreign.get(kind)?.objects.get(&any.key).cloned(),
                }
            }
        }

        const KINDS: usize = [$(Kind::$kind),*].len();
    };
}

caches! {
    namespaces: Namespace,
    nodes: Node,
    pods: Pod,
    services: Service,
    endpoints: Endpoints,
    slices: EndpointSlice,
    deployments: Deployment,
    replica_sets: ReplicaSet,
    daemon_sets: DaemonSet,
    stateful_sets: StatefulSet,
    revisions: ControllerRevision,
    volumes: PersistentVolume,
    claims: PersistentVolumeClaim,
    storage_classes: StorageClass,
    service_accounts: ServiceAccount,
    config_maps: ConfigMap,
    leases: Lease,
}

/// What garbage collection needs of an object.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) uid: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) terminating: bool,
}

impl Meta {
    pub(super) fn of(object: &impl ResourceExt) -> Self {
        Self {
            uid: object.uid().unwrap_or_default(),
            owners: object.owner_references().to_vec(),
            finalizers: object.finalizers().to_vec(),
            terminating: object.meta().deletion_timestamp.is_some(),
        }
    }
}

/// One event, taken into the world.
#[derive(Clone, Debug)]
pub(super) enum Happened {
    /// An object is new, changed or gone.
    Changed(Changed),
    /// Every kind has been listed: from now on absence means absence.
    AllInSync,
}

/// An object before and after.
#[derive(Clone, Debug)]
pub(super) enum Changed {
    Namespace(ObjectKey),
    Node(ObjectKey, Option<Arc<Node>>, Option<Arc<Node>>),
    Pod(ObjectKey, Option<Arc<Pod>>, Option<Arc<Pod>>),
    Service(ObjectKey),
    Endpoints(ObjectKey),
    EndpointSlice(ObjectKey, Option<Arc<EndpointSlice>>),
    Deployment(ObjectKey),
    ReplicaSet(ObjectKey, Option<Arc<ReplicaSet>>),
    DaemonSet(ObjectKey),
    StatefulSet(ObjectKey),
    ControllerRevision(ObjectKey, Option<Arc<ControllerRevision>>),
    PersistentVolume(ObjectKey),
    PersistentVolumeClaim(ObjectKey),
    StorageClass,
    ServiceAccount(ObjectKey),
    ConfigMap(ObjectKey),
    Lease(ObjectKey),
}

type Wrap<K> = fn(ObjectKey, Option<Arc<K>>, Option<Arc<K>>) -> Changed;

impl World {
    /// Whether everything has been listed once.
    pub(super) fn all_in_sync(&self) -> bool {
        self.in_sync.len() == KINDS
    }

    /// Who is owned by a uid.
    pub(super) fn dependents(&self, uid: &str) -> Vec<AnyKey> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Whether an object of this uid is there.
    pub(super) fn has_uid(&self, uid: &str) -> bool {
        self.uids.contains_key(uid)
    }

    /// What garbage collection should look at since this was last asked.
    pub(super) fn take_garbage(&mut self) -> BTreeSet<AnyKey> {
        std::mem::take(&mut self.garbage)
    }

    /// The objects of one kind in one namespace.
    pub(super) fn within<'a, K: Kept>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<K>)> {
        K::cache(self)
            .range(ObjectKey::new(namespace, "")..)
            .take_while(move |(key, _)| *key.namespace == *namespace)
    }

    /// The pods whose controller has this uid.
    pub(super) fn pods_of(&self, uid: &str) -> Vec<Arc<Pod>> {
        self.dependents(uid)
            .into_iter()
            .filter(|any| any.kind == Kind::Pod)
            .filter_map(|any| self.pods.get(&any.key).cloned())
            .filter(|pod| controller_of(&**pod).is_some_and(|owner| owner.uid == uid))
            .collect()
    }

    /// Takes an object's new state in (`None`: it is gone); returns the old one and the new
    /// one. A controller does it with what it has just written: the watch brings the same
    /// later, and until then it would write it again.
    pub(super) fn put<K: Kept>(
        &mut self,
        object: Option<K>,
        key: &ObjectKey,
    ) -> (Option<Arc<K>>, Option<Arc<K>>) {
        let any = AnyKey {
            kind: K::KIND,
            key: key.clone(),
        };
        let before = K::cache(self).get(key).cloned();
        let after = object.map(Arc::new);
        let meta = |object: &Option<Arc<K>>| object.as_deref().map(Meta::of);
        self.index(&any, meta(&before), meta(&after));
        match &after {
            Some(object) => K::cache_mut(self).insert(key.clone(), object.clone()),
            None => K::cache_mut(self).remove(key),
        };
        (before, after)
    }

    /// The same for an object of a kind that no controller reads.
    pub(super) fn put_foreign(&mut self, kind: &Rc<Foreign>, key: &ObjectKey, after: Option<Meta>) {
        let any = AnyKey {
            kind: Kind::Foreign(kind.clone()),
            key: key.clone(),
        };
        let objects = &mut self.foreign.entry(kind.clone()).or_default().objects;
        let before = match &after {
            Some(meta) => objects.insert(key.clone(), meta.clone()),
            None => objects.remove(key),
        };
        self.index(&any, before, after);
    }

    /// All objects of such a kind have been put: others are gone, and who was owned by one of
    /// the kind may be looked at.
    pub(super) fn listed(&mut self, kind: &Rc<Foreign>, there: &BTreeSet<ObjectKey>) {
        let of_kind = self.foreign.entry(kind.clone()).or_default();
        of_kind.in_sync = true;
        let gone: Vec<_> = of_kind.objects.keys().cloned().collect();
        for key in gone.iter().filter(|key| !there.contains(*key)) {
            self.put_foreign(kind, key, None);
        }
        let orphans = self.dependents.iter();
        let orphans = orphans.filter(|(owner, _)| !self.uids.contains_key(*owner));
        self.garbage
            .extend(orphans.flat_map(|(_, all)| all.iter().cloned()));
    }

    /// A kind is not served any more.
    pub(super) fn forget(&mut self, kind: &Rc<Foreign>) {
        self.listed(kind, &BTreeSet::new());
        self.foreign.remove(kind);
    }

    /// The kind of an owner, if no controller reads it and all its objects have been listed.
    pub(super) fn foreign_kind(&self, api_version: &str, kind: &str) -> Option<Rc<Foreign>> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let mut kinds = self.foreign.iter().filter(|(_, objects)| objects.in_sync);
        kinds
            .find(|(foreign, _)| foreign.group == group && foreign.kind == kind)
            .map(|(foreign, _)| foreign.clone())
    }

    fn index(&mut self, any: &AnyKey, before: Option<Meta>, after: Option<Meta>) {
        if let Some(before) = &before {
            self.uids.remove(&before.uid);
            for owner in &before.owners {
                if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                    dependents.remove(any);
                    if dependents.is_empty() {
                        self.dependents.remove(&owner.uid);
                    }
                }
            }
        }
        self.note_garbage(any, before.as_ref(), after.as_ref());
        if let Some(after) = after {
            self.uids.insert(after.uid, any.clone());
            for owner in after.owners {
                let dependents = self.dependents.entry(owner.uid).or_default();
                dependents.insert(any.clone());
            }
        }
    }

    /// An object that has an owner may have lost it; one that goes leaves dependents
    /// behind, and owners that may have waited for it.
    fn note_garbage(&mut self, any: &AnyKey, before: Option<&Meta>, after: Option<&Meta>) {
        if after.is_some_and(|meta| {
            !meta.owners.is_empty() || (meta.terminating && !meta.finalizers.is_empty())
        }) {
            self.garbage.insert(any.clone());
        }
        if let (Some(before), None) = (before, after) {
            self.garbage.extend(self.dependents(&before.uid));
            let owners = before
                .owners
                .iter()
                .filter_map(|owner| self.uids.get(&owner.uid));
            self.garbage.extend(owners.cloned().collect::<Vec<_>>());
        }
    }
}

/// The controller among an object's owners.
pub(super) fn controller_of(object: &impl ResourceExt) -> Option<&OwnerReference> {
    object
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
}

/// Namespace and name of an object.
pub(super) fn key_of(object: &impl ResourceExt) -> ObjectKey {
    ObjectKey::new(&object.namespace().unwrap_or_default(), &object.name_any())
}

/// The world, shared by controllers of one thread.
pub(super) type SharedWorld = Rc<RefCell<World>>;

/// Watches every kind into the world, and tells what happened.
pub(super) fn watch(client: &Client, world: &SharedWorld) -> impl Stream<Item = Happened> + use<> {
    let all = watcher::Config::default;
    let streams = [
        one(
            Api::<Namespace>::all(client.clone()),
            all(),
            world,
            |key, _, _| Changed::Namespace(key),
        ),
        one(
            Api::<Node>::all(client.clone()),
            all(),
            world,
            Changed::Node,
        ),
        one(Api::<Pod>::all(client.clone()), all(), world, Changed::Pod),
        one(
            Api::<Service>::all(client.clone()),
            all(),
            world,
            |key, _, _| Changed::Service(key),
        ),
        one(
            Api::<Endpoints>::all(client.clone()),
            all(),
            world,
            |key, _, _| Changed::Endpoints(key),
        ),
        one(
            Api::<EndpointSlice>::all(client.clone()),
            all(),
            world,
            |key, before, _| Changed::EndpointSlice(key, before),
        ),
        one(
            Api::<Deployment>::all(client.clone()),
            all(),
            world,
            |key, _, _| Changed::Deployment(key),
        ),
        one(
            Api::<ReplicaSet>::all(client.clone()),
            all(),
            world,
            |key, before, _| Changed::ReplicaSet(key, before),
        ),
        one(
            Api::<DaemonSet>::all(client.clone()),
            all(),
            world,
            |key, _, _| Changed::DaemonSet(key),
        ),
        one(
            Api::<StatefulSet>::all(client.clone()),
            all(),
            world,
            |key, _, _| Changed::StatefulSet(key),
        ),
        one(
            Api::<ControllerRevision>::all(client.clone()),
            all(),
            world,
            |key, before, _| Changed::ControllerRevision(key, before),
        ),
        one(
            Api::<PersistentVolumeClaim>::all(client.clone()),
            all(),
            world,
            |key, _, _| Changed::PersistentVolumeClaim(key),
        ),
        one(
            Api::<PersistentVolume>::all(client.clone()),
            all(),
            world,
            |key, _, _| Changed::PersistentVolume(key),
        ),
        one(
            Api::<StorageClass>::all(client.clone()),
            all(),
            world,
            |_, _, _| Changed::StorageClass,
        ),
        one(
            Api::<ServiceAccount>::all(client.clone()),
            all(),
            world,
            |key, _, _| Changed::ServiceAccount(key),
        ),
        one(
            Api::<ConfigMap>::all(client.clone()),
            all().fields(&format!("metadata.name={ROOT_CA}")),
            world,
            |key, _, _| Changed::ConfigMap(key),
        ),
        one(
            Api::<Lease>::namespaced(client.clone(), LEASES),
            all(),
            world,
            |key, _, _| Changed::Lease(key),
        ),
    ];
    stream::select_all(streams)
}

type HappenedStream = std::pin::Pin<Box<dyn Stream<Item = Happened>>>;

fn one<K: Kept>(
    api: Api<K>,
    config: watcher::Config,
    world: &SharedWorld,
    wrap: Wrap<K>,
) -> HappenedStream {
    let world = world.clone();
    let mut listing: BTreeSet<ObjectKey> = BTreeSet::new();
    watcher(api, config)
        .backoff(Pauses::default())
        .flat_map(move |event| {
            let mut world = world.borrow_mut();
            let mut put = |object: Option<K>, key: ObjectKey| {
                let (before, after) = world.put(object, &key);
                Happened::Changed(wrap(key, before, after))
            };
            let happened = match event {
                Err(error) => {
                    warn!(kind = %K::KIND, %error, "watch interrupted; trying again");
                    Vec::new()
                }
                Ok(Event::Init) => {
                    listing.clear();
                    Vec::new()
                }
                Ok(Event::InitApply(object)) => {
                    let key = key_of(&object);
                    listing.insert(key.clone());
                    vec![put(Some(slim(object)), key)]
                }
                Ok(Event::InitDone) => {
                    let gone: Vec<ObjectKey> = K::cache(&world)
                        .keys()
                        .filter(|key| !listing.contains(*key))
                        .cloned()
                        .collect();
                    let mut happened: Vec<Happened> = gone
                        .into_iter()
                        .map(|key| {
                            let (before, after) = world.put(None, &key);
                            Happened::Changed(wrap(key, before, after))
                        })
                        .collect();
                    listing.clear();
                    if world.in_sync.insert(K::KIND) && world.all_in_sync() {
                        happened.push(Happened::AllInSync);
                    }
                    happened
                }
                Ok(Event::Apply(object)) => {
                    let key = key_of(&object);
                    vec![put(Some(slim(object)), key)]
                }
                Ok(Event::Delete(object)) => vec![put(None, key_of(&object))],
            };
            stream::iter(happened)
        })
        .boxed_local()
}

/// Without what no controller reads: it would only take memory.
fn slim<K: Kept>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// Whether the kind has namespaces; for building an [`Api`] of it.
pub(super) fn api<K>(client: &Client, key: &ObjectKey) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), &key.namespace)
}
