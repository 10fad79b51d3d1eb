//! What the store holds in memory: all objects, and a bounded history of their changes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use crate::object::Object;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    /// What watches call it.
    pub(crate) fn event_kind(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

/// One change.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) change: Change,
    /// The object after the change; of a deletion its last state, with the version of
    /// the deletion.
    pub(crate) object: Arc<Object>,
    pub(crate) previous: Option<Arc<Object>>,
}

impl Event {
    pub(crate) fn version(&self) -> u64 {
        self.object.version
    }

    fn bytes(&self) -> usize {
        // The text the history keeps alive, and about what an entry costs besides.
        self.object.json.len() + 256
    }
}

/// How much history a collection keeps; what is older makes a watch fail with 410.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Changes.
    pub events: usize,
    /// Bytes of objects.
    pub bytes: usize,
    /// Bytes of objects of all collections together.
    pub total_bytes: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            events: 8192,
            bytes: 8 << 20,
            total_bytes: 48 << 20,
        }
    }
}

/// The objects of one kind.
struct Collection {
    objects: BTreeMap<Box<str>, Arc<Object>>,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    /// Changes up to and including this version are forgotten.
    forgotten: u64,
    changed: watch::Sender<u64>,
}

impl Collection {
    fn new(forgotten: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            forgotten,
            changed: watch::Sender::new(forgotten),
        }
    }

    fn apply(&mut self, event: Arc<Event>, limits: HistoryLimits) {
        let key = event.object.key().into_boxed_str();
        match event.change {
            Change::Added | Change::Modified => {
                self.objects.insert(key, event.object.clone());
            }
            Change::Deleted => {
                self.objects.remove(&key);
            }
        }
        self.history_bytes += event.bytes();
        self.history.push_back(event);
        while (self.history.len() > limits.events || self.history_bytes > limits.bytes)
            && self.forget()
        {}
    }

    /// Forgets the oldest change, if there is one.
    fn forget(&mut self) -> bool {
        let Some(oldest) = self.history.pop_front() else {
            return false;
        };
        self.history_bytes -= oldest.bytes();
        self.forgotten = oldest.version();
        true
    }
}

/// Whom to tell that something is visible: not before the state can be read, for all who are told
/// read it at once.
pub(crate) struct News {
    version: u64,
    concerned: Vec<watch::Sender<u64>>,
}

impl News {
    pub(crate) fn tell(self) {
        for changed in self.concerned {
            changed.send_replace(self.version);
        }
    }
}

/// Everything the store holds.
pub(crate) struct State {
    pub(crate) version: u64,
    limits: HistoryLimits,
    collections: BTreeMap<Box<str>, Collection>,
    /// The version at start: nothing is known about what was before.
    start: u64,
}

/// The history a request needs is gone; it begins after this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forgotten(pub(crate) u64);

/// Some objects as they were at one version.
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) objects: Vec<Arc<Object>>,
}

impl State {
    pub(crate) fn new(limits: HistoryLimits) -> Self {
        Self {
            version: 1,
            limits,
            collections: BTreeMap::new(),
            start: 1,
        }
    }

    /// Takes what the disk holds.
    pub(crate) fn load(&mut self, collection: &str, object: Arc<Object>) {
        let key = object.key().into_boxed_str();
        let start = self.start;
        self.collections
            .entry(collection.into())
            .or_insert_with(|| Collection::new(start))
            .objects
            .insert(key, object);
    }

    /// Takes back an object that the disk has not any more.
    pub(crate) fn unload(&mut self, collection: &str, key: &str) {
        self.collection(collection).objects.remove(key);
    }

    /// Loading is over; `version` is the newest on disk, `changed` has that of each
    /// collection's last change. Whoever has seen that change missed nothing by a restart.
    pub(crate) fn loaded(&mut self, version: u64, changed: &BTreeMap<String, u64>) {
        self.version = version.max(1);
        self.start = self.version;
        for name in changed.keys() {
            self.collection(name);
        }
        for (name, collection) in &mut self.collections {
            collection.forgotten = changed.get(&**name).copied().unwrap_or(self.version);
        }
    }

    fn collection(&mut self, name: &str) -> &mut Collection {
        let start = self.start;
        self.collections
            .entry(name.into())
            .or_insert_with(|| Collection::new(start))
    }

    /// Makes committed changes visible, and says whom to tell of it.
    #[must_use]
    pub(crate) fn publish(&mut self, changes: Vec<(String, Arc<Event>)>) -> News {
        let limits = self.limits;
        let mut touched: Vec<String> = Vec::new();
        for (name, event) in changes {
            self.version = self.version.max(event.version());
            self.collection(&name).apply(event, limits);
            if !touched.contains(&name) {
                touched.push(name);
            }
        }
        self.forget_beyond(limits.total_bytes);
        News {
            version: self.version,
            concerned: touched
                .into_iter()
                .map(|name| self.collection(&name).changed.clone())
                .collect(),
        }
    }

    /// The collection with the longest history forgets first: who writes much pays for it.
    fn forget_beyond(&mut self, limit: usize) {
        let bytes = |one: &Collection| one.history_bytes;
        let mut total: usize = self.collections.values().map(bytes).sum();
        while total > limit {
            let longest = self.collections.values_mut().max_by_key(|one| bytes(one));
            let Some(longest) = longest else { return };
            let before = longest.history_bytes;
            if !longest.forget() {
                return;
            }
            total -= before - longest.history_bytes;
        }
    }

    pub(crate) fn get(&self, collection: &str, key: &str) -> Option<Arc<Object>> {
        self.collections.get(collection)?.objects.get(key).cloned()
    }

    /// The objects of a namespace (all for `None`) at `version` (now for `None`).
    pub(crate) fn list(
        &self,
        collection: &str,
        namespace: Option<&str>,
        version: Option<u64>,
    ) -> Result<Snapshot, Forgotten> {
        let now = Snapshot {
            version: self.version,
            objects: Vec::new(),
        };
        let Some(collection) = self.collections.get(collection) else {
            return match version {
                Some(version) if version < self.start => Err(Forgotten(self.start)),
                _ => Ok(now),
            };
        };
        let range = Range::of(namespace);
        let mut objects: Vec<Arc<Object>> = collection
            .objects
            .range::<str, _>(range.bounds())
            .map(|(_, object)| object.clone())
            .collect();
        let Some(version) = version else {
            return Ok(Snapshot { objects, ..now });
        };
        if version < collection.forgotten {
            return Err(Forgotten(collection.forgotten));
        }
        let since = collection
            .history
            .partition_point(|event| event.version() <= version);
        if since < collection.history.len() {
            let mut then: BTreeMap<String, Arc<Object>> = objects
                .drain(..)
                .map(|object| (object.key(), object))
                .collect();
            for event in collection.history.range(since..).rev() {
                let key = event.object.key();
                match &event.previous {
                    Some(previous) if range.contains(&key) => {
                        then.insert(key, previous.clone());
                    }
                    _ => {
                        then.remove(&key);
                    }
                }
            }
            objects = then.into_values().collect();
        }
        Ok(Snapshot { version, objects })
    }

    /// At most `limit` changes after `version`, oldest first.
    pub(crate) fn since(
        &self,
        collection: &str,
        version: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, Forgotten> {
        let Some(collection) = self.collections.get(collection) else {
            return if version < self.start {
                Err(Forgotten(self.start))
            } else {
                Ok(Vec::new())
            };
        };
        if version < collection.forgotten {
            return Err(Forgotten(collection.forgotten));
        }
        let from = collection
            .history
            .partition_point(|event| event.version() <= version);
        let to = collection.history.len().min(from + limit);
        Ok(collection.history.range(from..to).cloned().collect())
    }

    /// Wakes when the collection changes.
    pub(crate) fn subscribe(&mut self, collection: &str) -> watch::Receiver<u64> {
        self.collection(collection).changed.subscribe()
    }

    /// Every object, with its collection's name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Arc<Object>)> {
        self.collections.iter().flat_map(|(name, collection)| {
            collection.objects.values().map(move |one| (&**name, one))
        })
    }
}

/// The keys of a namespace.
struct Range {
    from: Option<String>,
    to: Option<String>,
}

impl Range {
    fn of(namespace: Option<&str>) -> Self {
        Self {
            from: namespace.map(|name| format!("{name}/")),
            // `0` is the character after `/`.
            to: namespace.map(|name| format!("{name}0")),
        }
    }

    fn bounds(&self) -> (Bound<&str>, Bound<&str>) {
        let from = self
            .from
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Included);
        let to = self.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        (from, to)
    }

    fn contains(&self, key: &str) -> bool {
        self.from
            .as_deref()
            .is_none_or(|from| key.starts_with(from))
    }
}
