//! The lab's controllers and scheduler: small, separate loops over one shared view of
//! the cluster, all in one thread.
//!
//! Each is a queue of keys and a function that brings one key from what is to what
//! should be, whatever led there. An event only says which keys to look at again.

mod adoption;
mod backing;
mod daemon_plan;
mod daemons;
mod deployment;
mod echoes;
mod endpoints;
mod eviction;
mod expiry;
mod fate;
mod garbage;
mod graph;
mod history;
mod kind;
mod mirror;
mod namespaces;
mod nodes;
mod orphans;
mod ownership;
mod progress;
mod queue;
mod replicas;
mod rollout;
mod scheduling;
mod served;
mod sets;
mod slices;
mod stateful;
pub(crate) mod storage;
mod trigger_time;
mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle, LocalSet};
use weft_kube::Client;
use weft_kube::k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use weft_kube::k8s_openapi::api::core::v1::{Node, Pod};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use weft_kube::kube;
use weft_model::ObjectKey;

use crate::events::Recorder;
use crate::placement::Scoring;
use weft_kinds::node_ranges::Masks;

use self::kind::AnyKey;
pub use self::nodes::NODE_GRACE;
use self::queue::Queue;
use self::world::{Changed, Happened, SharedWorld, World};

/// What is the same for the life of the controllers.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's pod ranges, of which every node gets a part.
    pub pod_cidrs: Vec<IpNet>,
    /// How large those parts are.
    pub masks: Masks,
    /// Ranges that no node may get, though a pod range may contain them.
    pub reserved: Vec<IpNet>,
    /// Parts that are kept for nodes of these names.
    pub chosen: Vec<(String, IpNet)>,
    /// After how long a silence a node is taken for dead.
    pub node_grace: Duration,
    /// Which nodes the scheduler fills first.
    pub scoring: Scoring,
    /// The API's CA certificate, PEM: every namespace gets it as ConfigMap.
    pub root_ca: String,
}

/// What a controller could not do.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("{what}: {source}")]
    Api {
        what: String,
        source: Box<kube::Error>,
    },
    #[error("{0}")]
    Impossible(String),
}

impl Error {
    /// Somebody else wrote the object between our reading and our writing.
    fn is_conflict(&self) -> bool {
        matches!(self, Error::Api { source, .. }
            if matches!(&**source, kube::Error::Api(status) if status.code == 409))
    }
}

/// Says what was tried when an API call fails.
trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error>;
    /// The same, where "already so" is success: the object is gone, or is there already.
    fn settled(self, code: u16, what: impl FnOnce() -> String) -> Result<Option<T>, Error>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Api {
            what: what(),
            source: Box::new(source),
        })
    }

    fn settled(self, code: u16, what: impl FnOnce() -> String) -> Result<Option<T>, Error> {
        match self {
            Err(kube::Error::Api(status)) if status.code == code => Ok(None),
            other => other.during(what).map(Some),
        }
    }
}

/// How the API is reached, by which it knows who writes.
#[derive(Clone)]
pub struct Clients {
    /// By all but the scheduler.
    pub manager: Client,
    /// By the scheduler.
    pub scheduler: Client,
}

/// What every controller has.
#[derive(Clone)]
struct Context {
    client: Client,
    world: SharedWorld,
    recorder: Recorder,
}

/// The queues, one a controller.
#[derive(Clone, Default)]
struct Queues {
    namespaces: Queue<ObjectKey>,
    nodes: Queue<ObjectKey>,
    deployments: Queue<ObjectKey>,
    replica_sets: Queue<ObjectKey>,
    daemon_sets: Queue<ObjectKey>,
    stateful_sets: Queue<ObjectKey>,
    volumes: Queue<ObjectKey>,
    claims: Queue<ObjectKey>,
    slices: Queue<ObjectKey>,
    endpoints: Queue<ObjectKey>,
    mirror: Queue<ObjectKey>,
    scheduling: Queue<ObjectKey>,
    orphans: Queue<ObjectKey>,
    eviction: Queue<ObjectKey>,
    garbage: Queue<AnyKey>,
}

/// Runs all controllers, until one of them can't go on. Call it on a
/// `current_thread` runtime: everything stays on the calling thread.
pub async fn run(clients: Clients, options: Options) -> std::convert::Infallible {
    let client = clients.manager;
    let world: SharedWorld = Rc::new(RefCell::new(World::default()));
    let context = Context {
        recorder: Recorder::start(client.clone(), None),
        client: client.clone(),
        world: world.clone(),
    };
    let queues = Queues::default();
    let local = LocalSet::new();
    let controllers = start(&local, &context, clients.scheduler, &queues, options);
    let watching = async move {
        let mut events = Box::pin(world::watch(&client, &world));
        while let Some(happened) = events.next().await {
            match happened {
                // Before everything is listed, "it is not there" would be a guess.
                Happened::Changed(changed) => {
                    let mut world = world.borrow_mut();
                    if world.all_in_sync() {
                        queues.enqueue(&world, &changed);
                        for any in world.graph.take_suspects() {
                            queues.garbage.push(any);
                        }
                    }
                }
                Happened::AllInSync => queues.enqueue_everything(&mut world.borrow_mut()),
            }
        }
        std::future::pending().await
    };
    let never = local.run_until(async move {
        tokio::select! {
            never = watching => never,
            never = ended_with(controllers) => never,
        }
    });
    never.await
}

/// Without one of its controllers a cluster would only seem to work: the panic of one is the
/// end of all, and whoever runs them starts anew.
async fn ended_with(controllers: Vec<JoinHandle<()>>) -> std::convert::Infallible {
    let (ended, _, _) = futures::future::select_all(controllers).await;
    match ended.map_err(JoinError::try_into_panic) {
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Ok(()) | Err(Err(_)) => std::future::pending().await,
    }
}

fn start(
    local: &LocalSet,
    context: &Context,
    scheduler: Client,
    queues: &Queues,
    options: Options,
) -> Vec<JoinHandle<()>> {
    let mut controllers = Vec::new();
    let scoring = options.scoring;
    macro_rules! spawn {
        ($queue:ident, $controller:expr) => {{
            let controller = Rc::new($controller);
            let work = queues.$queue.clone().work(stringify!($queue), move |key| {
                let controller = controller.clone();
                async move { controller.reconcile(key).await }
            });
            controllers.push(local.spawn_local(work));
        }};
    }
    spawn!(
        namespaces,
        namespaces::Namespaces::new(context.clone(), options.root_ca.clone())
    );
    spawn!(nodes, nodes::Nodes::new(context.clone(), options));
    spawn!(deployments, deployment::Deployments::new(context.clone()));
    spawn!(replica_sets, replicas::ReplicaSets::new(context.clone()));
    spawn!(daemon_sets, daemons::DaemonSets::new(context.clone()));
    spawn!(stateful_sets, stateful::StatefulSets::new(context.clone()));
    spawn!(volumes, storage::Volumes::new(context.clone()));
    spawn!(claims, storage::Claims::new(context.clone()));
    spawn!(slices, slices::EndpointSlices::new(context.clone()));
    spawn!(
        endpoints,
        endpoints::EndpointsOfServices::new(context.clone())
    );
    spawn!(mirror, mirror::Mirror::new(context.clone()));
    let scheduler = Context {
        client: scheduler,
        ..context.clone()
    };
    spawn!(scheduling, scheduling::Scheduler::new(scheduler, scoring));
    spawn!(orphans, orphans::Orphans::new(context.clone()));
    spawn!(eviction, eviction::Eviction::new(context.clone()));
    let new_kinds = Rc::new(Notify::new());
    spawn!(
        garbage,
        garbage::Collector::new(context.clone(), queues.garbage.clone(), new_kinds.clone())
    );
    controllers.push(local.spawn_local(expiry::keep(context.client.clone())));
    let ownership = ownership::keep(context.clone(), queues.garbage.clone(), new_kinds);
    controllers.push(local.spawn_local(ownership));
    controllers
}

impl Queues {
    /// Which keys an event may concern.
    fn enqueue(&self, world: &World, changed: &Changed) {
        match changed {
            Changed::Namespace(key) => self.namespaces.push(key.clone()),
            Changed::ServiceAccount(key) | Changed::ConfigMap(key) => {
                self.namespaces.push(ObjectKey::new("", &key.namespace));
            }
            Changed::Node(key, before, after) => {
                self.nodes.push(key.clone());
                let zone = |node: &Option<Arc<Node>>| {
                    node.as_deref().map(|node| backing::zone(node).cloned())
                };
                if zone(before) != zone(after) {
                    for service in world.services.keys() {
                        self.push_endpoints(service);
                    }
                }
                if after.as_deref().is_some_and(eviction::drives_out) {
                    for pod in orphans::pods_on(world, &key.name) {
                        self.eviction.push(pod);
                    }
                }
                if after.is_none() {
                    for pod in orphans::pods_on(world, &key.name) {
                        self.orphans.push(pod);
                    }
                }
                for daemon_set in world.daemon_sets.keys() {
                    self.daemon_sets.push(daemon_set.clone());
                }
                self.enqueue_unscheduled(world);
            }
            Changed::Lease(key) => self.nodes.push(ObjectKey::new("", &key.name)),
            Changed::Service(key) => {
                self.push_endpoints(key);
                self.mirror.push(key.clone());
            }
            Changed::Endpoints(key) => {
                self.mirror.push(key.clone());
                // Who writes Endpoints before their Service may do so.
                if world.services.contains_key(key) {
                    self.endpoints.push(key.clone());
                }
            }
            Changed::EndpointSlice(key, before) => {
                let after = world.slices.get(key);
                for slice in before.iter().chain(after) {
                    if let Some(service) = slices::service_of(slice) {
                        self.slices.push(service);
                    }
                    if let Some(service) = mirror::service_of(slice) {
                        self.mirror.push(service);
                    }
                }
            }
            Changed::Deployment(key) => self.deployments.push(key.clone()),
            Changed::ReplicaSet(key, before) => {
                self.replica_sets.push(key.clone());
                let after = world.replica_sets.get(key);
                for replica_set in before.iter().chain(after) {
                    if let Some(owner) = world::controller_of(&**replica_set) {
                        self.deployments
                            .push(ObjectKey::new(&key.namespace, &owner.name));
                    }
                }
            }
            Changed::DaemonSet(key) => self.daemon_sets.push(key.clone()),
            Changed::StatefulSet(key) => self.stateful_sets.push(key.clone()),
            Changed::ControllerRevision(key, before) => {
                for revision in before.iter().chain(world.revisions.get(key)) {
                    if let Some(owner) = world::controller_of(&**revision) {
                        let owner_key = ObjectKey::new(&key.namespace, &owner.name);
                        match owner.kind.as_str() {
                            "StatefulSet" => self.stateful_sets.push(owner_key),
                            "DaemonSet" => self.daemon_sets.push(owner_key),
                            _ => {}
                        }
                    }
                }
            }
            Changed::PersistentVolume(key) => {
                self.volumes.push(key.clone());
                // One may be waiting for it, or have lost it.
                self.claims.push_all(world.claims.keys());
            }
            Changed::StorageClass => self.claims.push_all(world.claims.keys()),
            Changed::PersistentVolumeClaim(key) => {
                self.claims.push(key.clone());
                self.volumes
                    .push_all(storage::volumes_of(world, key).iter());
                for (pod_key, pod) in storage::users(world, key) {
                    if scheduling::is_waiting(pod) {
                        self.scheduling.push(pod_key.clone());
                    }
                }
                for set in stateful::sets_with_claims(world, &key.namespace) {
                    self.stateful_sets.push(set);
                }
            }
            Changed::Pod(key, before, after) => {
                for pod in before.iter().chain(after) {
                    if let Some(owner) = world::controller_of(&**pod) {
                        let owner_key = ObjectKey::new(&key.namespace, &owner.name);
                        match owner.kind.as_str() {
                            "ReplicaSet" => self.replica_sets.push(owner_key),
                            "DaemonSet" => self.daemon_sets.push(owner_key),
                            "StatefulSet" => self.stateful_sets.push(owner_key),
                            _ => {}
                        }
                    }
                    for service in backing::services_selecting(world, pod) {
                        self.push_endpoints(&service);
                    }
                }
                if after
                    .as_deref()
                    .is_some_and(|pod| world::controller_of(pod).is_none())
                {
                    self.push_adopters(world, key, after.as_deref());
                }
                if after
                    .as_deref()
                    .is_some_and(|pod| eviction::is_threatened(world, pod))
                {
                    self.eviction.push(key.clone());
                }
                if after.as_deref().is_none_or(scheduling::is_finished) {
                    // It holds its claims no longer.
                    if let Some(pod) = before {
                        for claim in storage::claims_of(pod) {
                            self.claims.push(claim);
                        }
                    }
                }
                match after {
                    Some(pod) if scheduling::is_waiting(pod) => self.scheduling.push(key.clone()),
                    Some(pod) if orphans::is_orphan(world, pod) => self.orphans.push(key.clone()),
                    Some(pod) if !scheduling::is_finished(pod) => {}
                    // What it held is free for others.
                    Some(_) | None => self.enqueue_unscheduled(world),
                }
                if after.is_none() {
                    // Its namespace may be waiting to be empty.
                    self.namespaces.push(ObjectKey::new("", &key.namespace));
                }
            }
        }
    }

    /// Who may want a pod that nobody owns.
    fn push_adopters(&self, world: &World, key: &ObjectKey, pod: Option<&Pod>) {
        let Some(pod) = pod else {
            return;
        };
        let wants = |selector: Option<&LabelSelector>| {
            selector.is_some_and(|selector| crate::placement::selector_matches(selector, pod))
        };
        for (set_key, set) in world.within::<ReplicaSet>(&key.namespace) {
            if wants(set.spec.as_ref().map(|spec| &spec.selector)) {
                self.replica_sets.push(set_key.clone());
            }
        }
        for (set_key, set) in world.within::<StatefulSet>(&key.namespace) {
            if wants(set.spec.as_ref().map(|spec| &spec.selector)) {
                self.stateful_sets.push(set_key.clone());
            }
        }
        for (set_key, set) in world.within::<DaemonSet>(&key.namespace) {
            if wants(set.spec.as_ref().map(|spec| &spec.selector)) {
                self.daemon_sets.push(set_key.clone());
            }
        }
    }

    /// Both forms of a Service's endpoints.
    fn push_endpoints(&self, service: &ObjectKey) {
        self.slices.push(service.clone());
        self.endpoints.push(service.clone());
    }

    fn enqueue_unscheduled(&self, world: &World) {
        for (key, _) in world
            .pods
            .iter()
            .filter(|(_, pod)| scheduling::is_waiting(pod))
        {
            self.scheduling.push(key.clone());
        }
    }

    fn enqueue_everything(&self, world: &mut World) {
        let push = |queue: &Queue<ObjectKey>, keys: &mut dyn Iterator<Item = &ObjectKey>| {
            keys.for_each(|key| queue.push(key.clone()));
        };
        push(&self.namespaces, &mut world.namespaces.keys());
        push(&self.nodes, &mut world.nodes.keys());
        push(&self.deployments, &mut world.deployments.keys());
        push(&self.replica_sets, &mut world.replica_sets.keys());
        push(&self.daemon_sets, &mut world.daemon_sets.keys());
        push(&self.stateful_sets, &mut world.stateful_sets.keys());
        push(&self.volumes, &mut world.volumes.keys());
        push(&self.claims, &mut world.claims.keys());
        push(&self.slices, &mut world.services.keys());
        push(&self.endpoints, &mut world.services.keys());
        push(&self.endpoints, &mut world.endpoints.keys());
        push(&self.mirror, &mut world.endpoints.keys());
        let mirrored = world.slices.values();
        for service in mirrored.filter_map(|slice| mirror::service_of(slice)) {
            self.mirror.push(service);
        }
        self.enqueue_unscheduled(world);
        for (key, _) in world
            .pods
            .iter()
            .filter(|(_, pod)| eviction::is_threatened(world, pod))
        {
            self.eviction.push(key.clone());
        }
        for (key, _) in world
            .pods
            .iter()
            .filter(|(_, pod)| orphans::is_orphan(world, pod))
        {
            self.orphans.push(key.clone());
        }
        for any in world.graph.take_suspects() {
            self.garbage.push(any);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "a fault in one")]
    async fn the_fault_of_one_controller_is_the_end_of_all() {
        let local = LocalSet::new();
        let others = local.spawn_local(std::future::pending());
        let faulty = local.spawn_local(async { panic!("a fault in one") });
        local.run_until(ended_with(vec![others, faulty])).await;
    }
}
