//! Tests of the store: order, history, rollback, and what a crash leaves.

use serde_json::json;

use super::*;
use crate::resource::{NoAdmission, Refusal, Strategy};

struct Plain;

impl Strategy for Plain {
    fn cells(&self, _: &Value, _: jiff::Timestamp) -> Vec<Value> {
        Vec::new()
    }
}

fn things() -> Resource {
    Resource {
        group: "example.com".into(),
        version: "v1".into(),
        kind: "Thing".into(),
        list_kind: "ThingList".into(),
        plural: "things".into(),
        singular: "thing".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: Vec::new(),
        subresources: Vec::new(),
        columns: Vec::new(),
        strategy: Arc::new(Plain),
    }
}

fn registry() -> Arc<RwLock<Arc<Registry>>> {
    Arc::new(RwLock::new(Arc::new(Registry::new([things()]))))
}

fn open(path: &Path, events: usize) -> Store {
    let limits = HistoryLimits {
        events,
        bytes: 1 << 20,
        ..HistoryLimits::default()
    };
    let registry = registry();
    let catalog = Catalog::new(registry.clone(), None);
    Store::open(path, limits, registry, Box::new(NoAdmission), catalog).unwrap()
}

fn thing(name: &str, value: u64) -> Value {
    json!({"metadata": {"namespace": "default", "name": name}, "value": value})
}

async fn put(store: &Store, name: &str, value: u64) -> u64 {
    let object = thing(name, value);
    let name = name.to_owned();
    let written = store.write(move |tx| {
        let previous = tx.get(&things(), "default", &name);
        Ok(tx.put(&things(), object, previous).version)
    });
    written.await.unwrap()
}

async fn remove(store: &Store, name: &str) -> u64 {
    let name = name.to_owned();
    let removed = store.write(move |tx| {
        let previous = tx.get(&things(), "default", &name).unwrap();
        Ok(tx.remove(&things(), previous).version)
    });
    removed.await.unwrap()
}

fn listed(store: &Store, version: Option<u64>) -> Vec<(String, u64)> {
    let snapshot = store.list(&things(), Some("default"), version).unwrap();
    let objects = snapshot.objects.iter();
    objects
        .map(|object| {
            (
                object.name.to_string(),
                object.value()["value"].as_u64().unwrap(),
            )
        })
        .collect()
}

fn pairs(all: &[(&str, u64)]) -> Vec<(String, u64)> {
    all.iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

const COLLECTION: &str = "example.com/things";

#[tokio::test]
async fn versions_grow_and_history_replays() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"), 100);
    let start = store.version();
    let mut versions = vec![put(&store, "a", 1).await, put(&store, "b", 2).await];
    let middle = store.version();
    versions.extend([
        put(&store, "a", 3).await,
        remove(&store, "b").await,
        put(&store, "c", 4).await,
    ]);
    assert!(
        versions.windows(2).all(|pair| pair[0] < pair[1]),
        "{versions:?}"
    );
    let (events, newest) = store.since(COLLECTION, start, 100).unwrap();
    let told: Vec<(Change, &str, u64)> = events
        .iter()
        .map(|event| (event.change, &*event.object.name, event.version()))
        .collect();
    assert_eq!(
        told,
        [
            (Change::Added, "a", versions[0]),
            (Change::Added, "b", versions[1]),
            (Change::Modified, "a", versions[2]),
            (Change::Deleted, "b", versions[3]),
            (Change::Added, "c", versions[4]),
        ]
    );
    assert_eq!(newest, versions[4]);
    assert_eq!(listed(&store, None), pairs(&[("a", 3), ("c", 4)]));
    assert_eq!(
        listed(&store, Some(middle)),
        pairs(&[("a", 1), ("b", 2)]),
        "the past can be listed"
    );
    store.close().await;
}

#[tokio::test]
async fn history_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"), 3);
    let start = store.version();
    let mut versions = Vec::new();
    for value in 0..10 {
        versions.push(put(&store, "a", value).await);
    }
    assert_eq!(
        store.since(COLLECTION, start, 9).unwrap_err(),
        Forgotten(versions[6])
    );
    assert_eq!(store.since(COLLECTION, versions[6], 9).unwrap().0.len(), 3);
    assert!(store.list(&things(), None, Some(versions[5])).is_err());
    store.close().await;
}

#[tokio::test]
async fn the_histories_of_all_kinds_share_a_bound() {
    const KINDS: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let limits = HistoryLimits {
        events: 1000,
        bytes: 64 << 10,
        total_bytes: 256 << 10,
    };
    let path = directory.path().join("store");
    let registry = registry();
    let catalog = Catalog::new(registry.clone(), None);
    let store = Store::open(&path, limits, registry, Box::new(NoAdmission), catalog).unwrap();
    let start = store.version();
    let kinds: Vec<Resource> = (0..KINDS)
        .map(|number| Resource {
            plural: format!("things-{number}"),
            ..things()
        })
        .collect();
    for round in 0..20 {
        let kinds: Vec<_> = (0..KINDS)
            .map(|number| format!("things-{number}"))
            .collect();
        let written = store.write(move |tx| {
            for plural in kinds {
                let resource = Resource { plural, ..things() };
                let mut object = thing("big", round);
                object["text"] = "x".repeat(2000).into();
                let previous = tx.get(&resource, "default", "big");
                tx.put(&resource, object, previous);
            }
            Ok(())
        });
        written.await.unwrap();
    }
    let held = |kind: &Resource| {
        let collection = kind.collection();
        let oldest = match store.since(&collection, start, 1000) {
            Ok((events, _)) => return events.len(),
            Err(Forgotten(oldest)) => oldest,
        };
        store.since(&collection, oldest, 1000).unwrap().0.len()
    };
    let each: Vec<usize> = kinds.iter().map(held).collect();
    let bytes = each.iter().sum::<usize>() * 2000;
    assert!(bytes <= limits.total_bytes, "{bytes} bytes: {each:?}");
    // All the same, for all write the same.
    assert!(each.iter().all(|count| (2..=3).contains(count)), "{each:?}");
    store.close().await;
}

#[tokio::test]
async fn an_error_undoes_its_writes_and_only_those() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"), 100);
    let failing = store.write(|tx| {
        tx.put(&things(), thing("lost", 1), None);
        Err::<(), _>(ApiError::bad_request("no"))
    });
    let panicking = store.write(|tx| -> Result<(), ApiError> {
        tx.put(&things(), thing("lost", 1), None);
        panic!("a fault in a kind's rules");
    });
    let dry = store.write(|tx| {
        tx.set_dry_run();
        Ok(tx.put(&things(), thing("lost", 1), None).name.to_string())
    });
    let (failed, panicked, dry, version) =
        tokio::join!(failing, panicking, dry, put(&store, "kept", 1));
    assert_eq!(failed.unwrap_err().code, 400);
    assert_eq!(panicked.unwrap_err().code, 500);
    assert_eq!(dry.unwrap(), "lost");
    assert_eq!(listed(&store, None), pairs(&[("kept", 1)]));
    assert_eq!(store.version(), version);
    store.close().await;
}

#[tokio::test]
async fn many_writers_share_commits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path, 10_000);
    let mut writers = tokio::task::JoinSet::new();
    for at in 0..400 {
        let store = store.clone();
        writers.spawn(async move { put(&store, &format!("thing-{at}"), at).await });
    }
    let mut versions = writers.join_all().await;
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 400, "no version is given out twice");
    store.close().await;
    let store = open(&path, 10);
    assert_eq!(listed(&store, None).len(), 400);
    store.close().await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path, 100);
    put(&store, "a", 1).await;
    put(&store, "b", 2).await;
    remove(&store, "b").await;
    let last = put(&store, "a", 3).await;
    // The files as a killed process leaves them: nothing is closed.
    let crashed = directory.path().join("crashed");
    for end in ["", ".log0", ".log1"] {
        let named = |path: &Path| format!("{}{end}", path.display());
        std::fs::copy(named(&path), named(&crashed)).unwrap();
    }
    let after = open(&crashed, 100);
    assert_eq!(listed(&after, None), pairs(&[("a", 3)]));
    assert_eq!(
        after.version(),
        last,
        "versions go on where they were, deletions included"
    );
    assert_eq!(
        after.since(COLLECTION, last - 1, 9).unwrap_err(),
        Forgotten(last)
    );
    assert!(put(&after, "c", 4).await > last);
    after.close().await;
    store.close().await;
}

#[tokio::test]
async fn a_restart_is_not_felt_by_who_has_seen_everything() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path, 100);
    put(&store, "a", 1).await;
    let last = remove(&store, "a").await;
    let others = Resource {
        plural: "others".into(),
        ..things()
    };
    let written = store.write(move |tx| Ok(tx.put(&others, thing("b", 2), None).version));
    let newest = written.await.unwrap();
    store.close().await;

    let store = open(&path, 100);
    assert_eq!(store.version(), newest);
    assert!(store.since(COLLECTION, last, 100).unwrap().0.is_empty());
    assert_eq!(
        store.since(COLLECTION, last - 1, 100).unwrap_err(),
        Forgotten(last)
    );
    let next = put(&store, "c", 3).await;
    let (events, _) = store.since(COLLECTION, last, 100).unwrap();
    let versions: Vec<u64> = events.iter().map(|event| event.version()).collect();
    assert_eq!(versions, [next]);
}

#[tokio::test]
async fn a_store_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path, 100);
    let second = Store::open(
        &path,
        HistoryLimits::default(),
        registry(),
        Box::new(NoAdmission),
        Catalog::new(registry(), None),
    );
    assert!(matches!(second, Err(StoreError::InUse { .. })));
    store.close().await;
}

/// Counts what it hands out, and forgets on rollback.
struct Counter {
    given: u64,
    kept: u64,
}

impl Admission for Counter {
    fn repair(&mut self, objects: &mut dyn Iterator<Item = (&Resource, Value)>) {
        let given = objects
            .filter_map(|(_, object)| object["value"].as_u64())
            .max();
        self.given = given.unwrap_or(0);
        self.kept = self.given;
    }

    fn admit(&mut self, _: &Resource, operation: Operation<'_>) -> Result<(), Refusal> {
        if let Operation::Create { object } = operation {
            self.given += 1;
            object["value"] = self.given.into();
        }
        Ok(())
    }

    fn commit(&mut self) {
        self.kept = self.given;
    }

    fn rollback(&mut self) {
        self.given = self.kept;
    }
}

#[tokio::test]
async fn allocations_follow_their_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let open = || {
        let counter = Box::new(Counter { given: 9, kept: 9 });
        Store::open(
            &path,
            HistoryLimits::default(),
            registry(),
            counter,
            Catalog::new(registry(), None),
        )
        .unwrap()
    };
    let make = async |store: &Store, name: &'static str, fails: bool| {
        let made = store.write(move |tx| {
            let mut object = thing(name, 0);
            tx.admit(
                &things(),
                name,
                Operation::Create {
                    object: &mut object,
                },
            )?;
            if fails {
                return Err(ApiError::bad_request("no"));
            }
            Ok(tx.put(&things(), object, None).value()["value"].as_u64())
        });
        made.await.ok().flatten()
    };
    let store = open();
    assert_eq!(make(&store, "a", false).await, Some(1));
    assert_eq!(make(&store, "b", true).await, None);
    assert_eq!(make(&store, "c", false).await, Some(2));
    store.close().await;
    let store = open();
    assert_eq!(
        make(&store, "d", false).await,
        Some(3),
        "repaired from what is stored"
    );
    store.close().await;
}
