//! The durable store: one writer thread, group commit, reads from memory.
//!
//! Writes are closures that run one after another in the writer thread, against what is
//! committed and what the same batch has written before. A batch is one transaction on
//! disk, synced once; only then are its changes visible and its callers answered.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::companion;
use crate::custom::{self, Catalog};
use crate::disk::{Commit, Disk, Loaded, Objects, StoreError};
use crate::object::{self, Object};
use crate::resource::{Admission, Operation, Registry, Resource};
use crate::state::{Change, Event, Forgotten, HistoryLimits, Snapshot, State};
use crate::status::ApiError;

/// Writes that wait; more callers wait for a place.
const QUEUE: usize = 1024;
/// Writes that share one sync.
const BATCH: usize = 512;

/// A write that waits for its turn, and then for the disk.
trait Job: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    fn answer(self: Box<Self>, committed: Result<(), ApiError>);
}

struct Write<T, F> {
    run: Option<F>,
    result: Option<Result<T, ApiError>>,
    reply: oneshot::Sender<Result<T, ApiError>>,
}

impl<T, F> Job for Write<T, F>
where
    T: Send,
    F: FnOnce(&mut Tx<'_>) -> Result<T, ApiError> + Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let Some(run) = self.run.take() else {
            return false;
        };
        // A fault in one kind's rules must not end the server for all of them.
        let result = catch_unwind(AssertUnwindSafe(|| run(tx))).unwrap_or_else(|_| {
            Err(ApiError::internal(
                "the write failed in the kind's own rules",
            ))
        });
        let stands = result.is_ok();
        self.result = Some(result);
        stands
    }

    fn answer(self: Box<Self>, committed: Result<(), ApiError>) {
        if let Some(result) = self.result {
            // Whoever does not wait any more does not want to know.
            let _ = self.reply.send(committed.and(result));
        }
    }
}

enum Message {
    Write(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

/// A handle to the store.
#[derive(Clone)]
pub(crate) struct Store {
    state: Arc<RwLock<State>>,
    queue: mpsc::Sender<Message>,
}

impl Store {
    /// Opens the file at `path` (made if missing) and starts the writer.
    pub(crate) fn open(
        path: &Path,
        limits: HistoryLimits,
        registry: Arc<RwLock<Arc<Registry>>>,
        mut admission: Box<dyn Admission>,
        mut catalog: Catalog,
    ) -> Result<Self, StoreError> {
        let mut state = State::new(limits);
        let (disk, Loaded { version }) = Disk::open(path, &mut state)?;
        let definitions = state.list(custom::COLLECTION, None, None);
        catalog.load(definitions.into_iter().flat_map(|now| now.objects));
        repair(&state, &current(&registry), &mut *admission);

        let state = Arc::new(RwLock::new(state));
        let (queue, messages) = mpsc::channel(QUEUE);
        let writer = Writer {
            disk,
            version,
            state: state.clone(),
            registry,
            admission,
            catalog,
        };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(messages))
            .map_err(StoreError::Thread)?;
        Ok(Self { state, queue })
    }

    /// Runs `write` as one transaction. What it returns is returned after its changes
    /// are on disk; an error undoes them.
    pub(crate) async fn write<T, F>(&self, write: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, ApiError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Write {
            run: Some(write),
            result: None,
            reply,
        };
        let closing = || ApiError::internal("the server is shutting down");
        self.queue
            .send(Message::Write(Box::new(job)))
            .await
            .map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?
    }

    /// Ends the writer after the writes that wait, and closes the file.
    pub(crate) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.queue.send(Message::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        let held = self
            .state()
            .get(&resource.collection(), &object::key(namespace, name));
        held.map(|object| object.seen_as(resource))
    }

    pub(crate) fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        version: Option<u64>,
    ) -> Result<Snapshot, Forgotten> {
        let mut snapshot = self
            .state()
            .list(&resource.collection(), namespace, version)?;
        for object in &mut snapshot.objects {
            *object = object.seen_as(resource);
        }
        Ok(snapshot)
    }

    /// At most `limit` changes after `version`, oldest first, and the newest version.
    pub(crate) fn since(
        &self,
        collection: &str,
        version: u64,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, u64), Forgotten> {
        let state = self.state();
        Ok((state.since(collection, version, limit)?, state.version))
    }

    pub(crate) fn subscribe(&self, collection: &str) -> watch::Receiver<u64> {
        self.state
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .subscribe(collection)
    }

    /// The newest version that is visible.
    pub(crate) fn version(&self) -> u64 {
        self.state().version
    }
}

fn current(registry: &RwLock<Arc<Registry>>) -> Arc<Registry> {
    registry
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

fn repair(state: &State, registry: &Registry, admission: &mut dyn Admission) {
    let concerned: BTreeSet<String> = registry
        .iter()
        .filter(|resource| admission.concerns(resource))
        .map(|resource| resource.collection())
        .collect();
    let concerned = |resource: &Resource| concerned.contains(&resource.collection());
    let mut known: BTreeMap<&str, Option<&Arc<Resource>>> = BTreeMap::new();
    let mut objects = state.all().filter_map(|(collection, object)| {
        let resource = *known.entry(collection).or_insert_with(|| {
            let resource = registry.find_collection(collection);
            resource.filter(|resource| concerned(resource))
        });
        Some((&**resource?, object.outline()))
    });
    admission.repair(&mut objects);
}

type Overlay = Objects;

struct Writer {
    disk: Disk,
    version: u64,
    state: Arc<RwLock<State>>,
    registry: Arc<RwLock<Arc<Registry>>>,
    admission: Box<dyn Admission>,
    catalog: Catalog,
}

impl Writer {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut close = None;
        while close.is_none() {
            let Some(first) = messages.blocking_recv() else {
                break;
            };
            let mut jobs = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    Message::Write(job) => jobs.push(job),
                    Message::Close(reply) => close = Some(reply),
                }
                if close.is_none() && jobs.len() < BATCH {
                    next = messages.try_recv().ok();
                }
            }
            self.batch(jobs);
        }
        drop(messages);
        self.disk.close();
        if let Some(reply) = close {
            let _ = reply.send(());
        }
    }

    fn batch(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let mut overlay = Overlay::new();
        let mut changes: Vec<(String, Arc<Event>)> = Vec::new();
        let registry = current(&self.registry);
        for job in &mut jobs {
            let mut tx = Tx {
                registry: &registry,
                state: &self.state,
                overlay: &overlay,
                version: self.version,
                changes: Vec::new(),
                admission: &mut *self.admission,
                dry_run: false,
            };
            let stands = job.run(&mut tx) && !tx.dry_run;
            if stands {
                custom::settle(&mut tx);
            }
            let (version, written) = (tx.version, std::mem::take(&mut tx.changes));
            if !stands {
                self.admission.rollback();
                continue;
            }
            self.admission.commit();
            self.version = version;
            for (collection, event) in written {
                let held = match event.change {
                    Change::Added | Change::Modified => Some(event.object.clone()),
                    Change::Deleted => None,
                };
                overlay.insert((collection.clone(), event.object.key()), held);
                changes.push((collection, event));
            }
        }
        let commit = Commit {
            version: self.version,
            objects: &overlay,
            changed: changes
                .iter()
                .map(|(collection, event)| (collection.as_str(), event.version()))
                .collect(),
        };
        let committed = self.disk.commit(&commit);
        let mut news = None;
        match &committed {
            Ok(()) => {
                if !changes.is_empty() {
                    // Before the changes are seen: what is established is served.
                    self.catalog.absorb(&changes);
                    let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                    news = Some(state.publish(changes));
                }
            }
            Err(_) => {
                // The versions are not given out again: some of them may be on the disk.
                let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
                repair(&state, &registry, &mut *self.admission);
            }
        }
        for job in jobs {
            job.answer(committed.clone());
        }
        if let Some(news) = news {
            news.tell();
        }
    }
}

/// One transaction.
pub(crate) struct Tx<'a> {
    registry: &'a Registry,
    state: &'a RwLock<State>,
    overlay: &'a Overlay,
    version: u64,
    changes: Vec<(String, Arc<Event>)>,
    admission: &'a mut dyn Admission,
    dry_run: bool,
}

impl Tx<'_> {
    /// The kinds served now.
    pub(crate) fn registry(&self) -> &Registry {
        self.registry
    }

    /// Nothing of this transaction will be kept, its result will be returned.
    pub(crate) fn set_dry_run(&mut self) {
        self.dry_run = true;
    }

    /// The object as it is, this transaction's own writes included.
    pub(crate) fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        let held = self.held(resource, namespace, name)?;
        Some(held.seen_as(resource))
    }

    /// The names of what this transaction changed in `collection`.
    pub(crate) fn changed_names<'b>(
        &'b self,
        collection: &'b str,
    ) -> impl Iterator<Item = &'b str> {
        let changes = self
            .changes
            .iter()
            .filter(move |(name, _)| name == collection);
        changes.map(|(_, event)| &*event.object.name)
    }

    /// All objects of a kind, this transaction's own writes included.
    pub(crate) fn collection(&self, resource: &Resource) -> Vec<Arc<Object>> {
        let name = resource.collection();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let committed = state.list(&name, None, None);
        drop(state);
        let mut all: BTreeMap<String, Arc<Object>> = committed
            .into_iter()
            .flat_map(|now| now.objects)
            .map(|object| (object.key(), object))
            .collect();
        let batch = self.overlay.iter().filter(|((of, _), _)| *of == name);
        for ((_, key), held) in batch {
            match held {
                Some(object) => all.insert(key.clone(), object.clone()),
                None => all.remove(key),
            };
        }
        for (_, event) in self.changes.iter().filter(|(of, _)| *of == name) {
            match event.change {
                Change::Added | Change::Modified => {
                    all.insert(event.object.key(), event.object.clone())
                }
                Change::Deleted => all.remove(&event.object.key()),
            };
        }
        all.into_values().map(|one| one.seen_as(resource)).collect()
    }

    fn held(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let place = (resource.collection(), object::key(namespace, name));
        for (collection, event) in self.changes.iter().rev() {
            if *collection == place.0 && event.object.key() == place.1 {
                return match event.change {
                    Change::Added | Change::Modified => Some(event.object.clone()),
                    Change::Deleted => None,
                };
            }
        }
        if let Some(held) = self.overlay.get(&place) {
            return held.clone();
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.get(&place.0, &place.1)
    }

    /// Asks for allocation.
    pub(crate) fn admit(
        &mut self,
        resource: &Resource,
        name: &str,
        operation: Operation<'_>,
    ) -> Result<(), ApiError> {
        self.admission
            .admit(resource, operation)
            .map_err(|refusal| refusal.into_error(resource, name))
    }

    /// Writes an object and gives it the next version.
    pub(crate) fn put(
        &mut self,
        resource: &Resource,
        mut value: Value,
        previous: Option<Arc<Object>>,
    ) -> Arc<Object> {
        let change = match previous {
            Some(_) => Change::Modified,
            None => Change::Added,
        };
        if self.dry_run {
            return Arc::new(Object::new(&value, self.version));
        }
        resource.strategy.store(&mut value);
        let object = self.stamp(&mut value, change);
        self.record(resource, change, object, previous)
    }

    /// Removes an object; returns its last state.
    pub(crate) fn remove(&mut self, resource: &Resource, previous: Arc<Object>) -> Arc<Object> {
        if self.dry_run {
            return previous;
        }
        let mut value = previous.value();
        resource.strategy.store(&mut value);
        let object = self.stamp(&mut value, Change::Deleted);
        self.record(resource, Change::Deleted, object, Some(previous))
    }

    fn stamp(&mut self, value: &mut Value, change: Change) -> Object {
        self.version += 1;
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        Object::changed(value, self.version, change.event_kind())
    }

    fn record(
        &mut self,
        resource: &Resource,
        change: Change,
        object: Object,
        previous: Option<Arc<Object>>,
    ) -> Arc<Object> {
        let object = Arc::new(object);
        // As it is stored: other kinds may read it in other forms.
        let previous =
            previous.and_then(|previous| self.held(resource, &previous.namespace, &previous.name));
        let event = Arc::new(Event {
            change,
            object: object.clone(),
            previous,
        });
        self.changes.push((resource.collection(), event.clone()));
        if self.admission.has_companions(resource) {
            self.follow(resource, &event);
        }
        object.seen_as(resource)
    }

    /// Writes what goes with a change.
    fn follow(&mut self, resource: &Resource, event: &Event) {
        let old = event.previous.as_ref().map(|previous| previous.value());
        let new = match event.change {
            Change::Added | Change::Modified => Some(event.object.value()),
            Change::Deleted => None,
        };
        let wanted = self
            .admission
            .companions(resource, old.as_ref(), new.as_ref());
        companion::settle(self, wanted);
    }

    /// Writes what a repair found missing, and removes what it found left over.
    pub(crate) fn complete(&mut self) {
        let wanted = self.admission.outstanding();
        companion::settle(self, wanted);
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
