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
use weft_kube::kube::runtime::WatchStreamExt;
use weft_kube::kube::runtime::watcher::{self, Event, watcher};
use weft_kube::kube::{Api, Resource, ResourceExt};
use weft_kube::{Client, Pauses};
use weft_model::ObjectKey;

use super::graph::{Graph, Meta};
use super::kind::{AnyKey, Kind};

/// The ConfigMap every namespace gets.
pub(super) const ROOT_CA: &str = "kube-root-ca.crt";
/// Where nodes renew their leases.
pub(super) const LEASES: &str = "kube-node-lease";

/// All objects of one kind. Those of a kind without namespaces have an empty one.
pub(super) type Cache<K> = BTreeMap<ObjectKey, Arc<K>>;

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
            in_sync: BTreeSet<Kind>,
            /// Who owns whom, whatever their kind.
            pub(super) graph: Graph,
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
        self.graph.owned_by(uid).cloned().collect()
    }

    /// Whether an object of this uid is there.
    pub(super) fn has_uid(&self, uid: &str) -> bool {
        self.graph.has_uid(uid)
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
        // Of these not all are read here: they are watched as kinds that nobody reads are.
        if !matches!(K::KIND, Kind::ConfigMap | Kind::Lease) {
            self.graph.put(&any, after.as_deref().map(Meta::of));
        }
        match &after {
            Some(object) => K::cache_mut(self).insert(key.clone(), object.clone()),
            None => K::cache_mut(self).remove(key),
        };
        (before, after)
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
