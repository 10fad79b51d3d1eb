//! Tests of the store on disk: what a start finds, whatever happened before.

use std::collections::BTreeSet;

use proptest::prelude::{Strategy, any, prop};
use proptest::{prop_assert, prop_assert_eq};
use serde_json::json;

use super::*;
use crate::state::HistoryLimits;

const COLLECTION: &str = "/things";

fn state() -> State {
    State::new(HistoryLimits::default())
}

fn object(name: &str, version: u64) -> Arc<Object> {
    let value = json!({
        "metadata": {"name": name, "resourceVersion": version.to_string()},
        "text": "x".repeat(200),
    });
    Arc::new(Object::new(&value, version))
}

fn place(name: &str) -> (String, String) {
    (COLLECTION.to_owned(), format!("/{name}"))
}

fn commit(disk: &mut Disk, version: u64, objects: &Objects) -> Result<(), ApiError> {
    let commit = Commit {
        version,
        objects,
        changed: BTreeMap::from([(COLLECTION, version)]),
    };
    disk.commit(&commit)
}

/// A store of 300 objects.
fn write_store(path: &Path) {
    let (mut disk, _) = Disk::open(path, &mut state()).unwrap();
    for versions in [2..152, 152..302] {
        let objects: Objects = versions
            .clone()
            .map(|version| {
                let name = format!("thing-{version:03}");
                (place(&name), Some(object(&name, version)))
            })
            .collect();
        commit(&mut disk, versions.end - 1, &objects).unwrap();
    }
    disk.close();
}

/// How many objects are found, or the complaint.
fn found(path: &Path) -> Result<usize, String> {
    let mut state = state();
    match Disk::open(path, &mut state) {
        Ok((disk, loaded)) => {
            assert_eq!(loaded.version, 301);
            drop(disk);
            Ok(state.all().count())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn a_damaged_file_is_a_complaint_that_names_it_or_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    write_store(&path);
    assert_eq!(found(&path), Ok(300));
    assert_eq!(stored_version(&path).unwrap(), Some(301));
    let whole = fs::read(&path).unwrap();
    let mut complaints = 0;
    let mut expect = |content: &[u8], what: &str| {
        fs::write(&path, content).unwrap();
        match found(&path) {
            // Bytes that hold nothing may be anything.
            Ok(count) => assert_eq!(count, 300, "{what}"),
            Err(said) => {
                complaints += 1;
                assert!(said.contains("store.redb: the store"), "{what}: {said}");
                assert!(said.contains("damaged"), "{what}: {said}");
            }
        }
    };
    expect(b"apiVersion: v1\n", "a file of another sort");
    let cuts = 12;
    for cut in 1..cuts {
        expect(&whole[..whole.len() * cut / cuts], &format!("cut {cut}"));
    }
    // One bit of every fifth page.
    for page in (0..whole.len() / 4096).step_by(5) {
        let mut bent = whole.clone();
        bent[page * 4096 + 100] ^= 0x10;
        expect(&bent, &format!("a bit of page {page}"));
    }
    assert!(complaints > cuts, "{complaints} complaints");
}

#[test]
fn a_missing_store_has_no_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    assert_eq!(stored_version(&path).unwrap(), None);
    assert!(!path.exists());
}

#[test]
fn a_file_that_holds_little_is_compacted_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (mut disk, _) = Disk::open(&path, &mut state()).unwrap();
    let big = json!({"metadata": {"name": "big"}, "text": "x".repeat(1 << 20)});
    let names: Vec<String> = (0..40).map(|number| format!("big-{number}")).collect();
    let fill: Objects = names
        .iter()
        .map(|name| (place(name), Some(Arc::new(Object::new(&big, 2)))))
        .collect();
    commit(&mut disk, 2, &fill).unwrap();
    disk.close();
    let (mut disk, _) = Disk::open(&path, &mut state()).unwrap();
    // The one that is left is at the end: the file does not shrink by itself.
    let gone = &names[..39];
    let empty: Objects = gone.iter().map(|name| (place(name), None)).collect();
    commit(&mut disk, 3, &empty).unwrap();
    disk.close();
    let before = fs::metadata(&path).unwrap().len();
    assert!(before > file::COMPACT_FROM, "{before}");
    let mut state = state();
    let (disk, loaded) = Disk::open(&path, &mut state).unwrap();
    drop(disk);
    assert_eq!(state.all().count(), 1);
    let after = fs::metadata(&path).unwrap().len();
    assert!(after < before / 4, "{before} to {after}");
    assert_eq!(loaded.version, 3);
}

const SMALL: Sizes = Sizes {
    full: 5 * record::BLOCK as u64,
    step: 3 * record::BLOCK as u64,
};

fn open_small(path: &Path, state: &mut State) -> Result<(Disk, Loaded), StoreError> {
    Disk::open_sized(path, state, SMALL)
}

/// Names and versions of all objects, and the newest version.
type Sight = (BTreeMap<String, u64>, u64);

fn sight(state: &State, version: u64) -> Sight {
    let objects = state.all();
    let objects = objects.map(|(_, object)| (object.name.to_string(), object.version));
    (objects.collect(), version)
}

/// What a start makes of these files.
fn start(files: &Files) -> Result<Sight, StoreError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    files.write(&path);
    let mut state = state();
    let (disk, loaded) = open_small(&path, &mut state)?;
    let seen = sight(&state, loaded.version);
    // And what the next one makes of what it left.
    disk.close();
    let mut again = self::state();
    let (_disk, loaded) = open_small(&path, &mut again)?;
    assert_eq!(sight(&again, loaded.version), seen);
    Ok(seen)
}

/// The store's file and its log, as a crash leaves them.
#[derive(Clone, PartialEq)]
struct Files {
    file: Vec<u8>,
    logs: [Vec<u8>; 2],
}

impl Files {
    /// With the file at rest: what it is in the middle of its own writes is the database's concern.
    fn read(disk: &mut Disk) -> Self {
        if let Some(outcome) = disk.transfer.wait() {
            disk.settle(outcome).unwrap();
        }
        Self {
            file: fs::read(&disk.path).unwrap(),
            logs: log::paths(&disk.path).map(|path| fs::read(path).unwrap()),
        }
    }

    fn write(&self, path: &Path) {
        fs::write(path, &self.file).unwrap();
        for (path, content) in log::paths(path).iter().zip(&self.logs) {
            fs::write(path, content).unwrap();
        }
    }
}

/// What one commit of a story does: objects by number, and whether each is put or removed.
type Step = Vec<(u8, bool)>;

/// How a store was after a step.
struct Moment {
    /// What was acknowledged.
    sight: Sight,
    files: Files,
    /// The number of the last record that the file has. A step is one record.
    applied: u64,
    /// The number of the oldest record that the log has.
    oldest: u64,
}

/// Carries a story out.
fn told(path: &Path, story: &[Step]) -> Vec<Moment> {
    let mut state = state();
    let (mut disk, _) = open_small(path, &mut state).unwrap();
    let mut held = BTreeMap::new();
    let mut version = 1;
    let mut seen = vec![Moment {
        sight: (held.clone(), version),
        files: Files::read(&mut disk),
        applied: 0,
        oldest: 1,
    }];
    // The first record of the segment that is written.
    let mut first = 1;
    for (number, step) in (1..).zip(story) {
        let mut oldest = seen[seen.len() - 1].oldest;
        let segment = disk.log.active();
        let mut objects = Objects::new();
        for (number, put) in step {
            version += 1;
            let name = format!("thing-{number}");
            objects.insert(place(&name), put.then(|| object(&name, version)));
            match put {
                true => drop(held.insert(name, version)),
                false => drop(held.remove(&name)),
            }
        }
        commit(&mut disk, version, &objects).unwrap();
        if disk.log.active() != segment {
            (oldest, first) = (first, number);
        }
        seen.push(Moment {
            sight: (held.clone(), version),
            files: Files::read(&mut disk),
            applied: disk.applied,
            oldest,
        });
    }
    seen
}

fn stories() -> impl Strategy<Value = Vec<Step>> {
    let step = prop::collection::vec((0..12_u8, any::<bool>()), 1..40);
    prop::collection::vec(step, 1..16)
}

/// The blocks in which two contents of a log differ.
fn changed_blocks(before: &[u8], after: &[u8]) -> Vec<usize> {
    let block = |content: &[u8], number: usize| {
        let from = (number * record::BLOCK).min(content.len());
        content[from..(from + record::BLOCK).min(content.len())].to_vec()
    };
    let blocks = after.len().max(before.len()).div_ceil(record::BLOCK);
    let differ = (0..blocks).filter(|number| block(before, *number) != block(after, *number));
    differ.collect()
}

/// A log in which only some of the blocks that a commit writes have arrived.
fn partly(before: &[u8], after: &[u8], arrived: &BTreeSet<usize>) -> Vec<u8> {
    let mut content = before.to_vec();
    for number in arrived {
        let from = number * record::BLOCK;
        let to = (from + record::BLOCK).min(after.len());
        if content.len() < to {
            content.resize(to, 0);
        }
        content[from..to].copy_from_slice(&after[from..to]);
    }
    content
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 24,
        ..Default::default()
    })]

    /// Power fails while a commit is written: any of its blocks have arrived, in any order. A start
    /// finds the state before it, or after it when all have; whether what the file was given
    /// meanwhile has arrived, too, or not.
    #[test]
    fn what_was_acknowledged_is_found_whatever_part_of_the_next_commit_has_arrived(
        story in stories(),
        which in any::<prop::sample::Index>(),
        arrived in prop::collection::vec(any::<bool>(), 64),
        transferred in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let seen = told(&folder.path().join("store"), &story);
        let next = 1 + which.index(story.len());
        let (before, after) = (&seen[next - 1].sight, &seen[next].sight);
        let (old, new) = (&seen[next - 1].files, &seen[next].files);
        let mut cut = old.clone();
        if transferred {
            cut.file.clone_from(&new.file);
        }
        let mut complete = true;
        for (log, content) in cut.logs.iter_mut().enumerate() {
            let blocks = changed_blocks(&old.logs[log], &new.logs[log]);
            let some = blocks.iter().filter(|number| arrived[**number % arrived.len()]);
            let some: BTreeSet<usize> = some.copied().collect();
            complete &= some.len() == blocks.len();
            *content = partly(&old.logs[log], &new.logs[log], &some);
        }
        let found = start(&cut).unwrap();
        // What is missing can be room that was prepared.
        prop_assert!(found == *before || found == *after);
        prop_assert!(!complete || found == *after);
    }

    /// A process is killed: all it wrote is there, and its file is as old as the log allows. An
    /// older one is noticed.
    #[test]
    fn a_log_and_an_older_file_make_the_newest_state(
        story in stories(),
        which in any::<prop::sample::Index>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let seen = told(&folder.path().join("store"), &story);
        let newest = 1 + which.index(story.len());
        let Moment { sight: acknowledged, files, oldest, .. } = &seen[newest];
        for earlier in &seen[..=newest] {
            let mut files = files.clone();
            files.file.clone_from(&earlier.files.file);
            match start(&files) {
                Ok(found) => {
                    prop_assert!(earlier.applied + 1 >= *oldest);
                    prop_assert_eq!(&found, acknowledged);
                }
                Err(error) => {
                    prop_assert!(earlier.applied + 1 < *oldest, "{error}");
                    prop_assert!(error.to_string().contains("lacks changes"), "{error}");
                }
            }
        }
    }

    /// A bit of the log has turned: a start says so, or has lost nothing but the last commit (which
    /// nobody can tell from one that was torn).
    #[test]
    fn damage_of_the_log_is_noticed(
        story in stories(),
        log in 0..2_usize,
        block in any::<prop::sample::Index>(),
        bit in 0..8 * record::BLOCK,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let seen = told(&folder.path().join("store"), &story);
        let Moment { sight: newest, files, .. } = &seen[story.len()];
        let before = &seen[story.len() - 1].sight;
        let mut bent = files.clone();
        let at = block.index(bent.logs[log].len() / record::BLOCK) * record::BLOCK + bit / 8;
        bent.logs[log][at] ^= 1 << (bit % 8);
        match start(&bent) {
            Ok(found) => prop_assert!(found == *newest || found == *before),
            Err(error) => prop_assert!(error.to_string().contains("damaged"), "{error}"),
        }
    }
}

/// Writes until the log has turned several times; returns the names.
fn fill(disk: &mut Disk, names: std::ops::Range<u64>) {
    for number in names {
        let name = format!("thing-{number:03}");
        let version = number + 2;
        let objects = Objects::from([(place(&name), Some(object(&name, version)))]);
        commit(disk, version, &objects).unwrap();
    }
}

#[test]
fn the_log_stays_as_small_as_it_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (mut disk, _) = open_small(&path, &mut state()).unwrap();
    fill(&mut disk, 0..100);
    for path in log::paths(&path) {
        let length = fs::metadata(path).unwrap().len();
        assert!(
            length <= SMALL.full + SMALL.step + record::BLOCK as u64,
            "{length}"
        );
    }
    // As a killed process leaves it.
    let crashed = Files::read(&mut disk);
    let (found, version) = start(&crashed).unwrap();
    assert_eq!((found.len(), version), (100, 101));
    assert_eq!(stored_version(&path).unwrap_err().to_string(), {
        let path = path.clone();
        StoreError::InUse { path }.to_string()
    });
    disk.close();
    assert_eq!(stored_version(&path).unwrap(), Some(101));
}

#[test]
fn the_version_of_a_store_that_was_not_closed_is_in_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (mut disk, _) = open_small(&path, &mut state()).unwrap();
    fill(&mut disk, 0..3);
    let copy = folder.path().join("copy");
    Files::read(&mut disk).write(&copy);
    assert_eq!(stored_version(&copy).unwrap(), Some(4));
    drop(disk);
}

#[test]
fn a_log_that_is_missing_or_of_another_store_is_a_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("store"), folder.path().join("other"));
    for path in [&path, &other] {
        let (mut disk, _) = open_small(path, &mut state()).unwrap();
        fill(&mut disk, 0..3);
        disk.close();
    }
    let complaint = || match open_small(&path, &mut state()) {
        Ok(_) => panic!("it opens"),
        Err(error) => error.to_string(),
    };
    let [log, _] = log::paths(&path);
    fs::copy(&log::paths(&other)[0], &log).unwrap();
    assert!(
        complaint().contains("store.log0 is not its log"),
        "{}",
        complaint()
    );
    fs::remove_file(&log).unwrap();
    assert!(
        complaint().contains("store.log0 is missing"),
        "{}",
        complaint()
    );
    // A new file beside the log of the old one.
    fs::remove_file(&path).unwrap();
    let (mut disk, _) = open_small(&other, &mut state()).unwrap();
    fill(&mut disk, 3..6);
    fs::copy(&log::paths(&other)[0], &log).unwrap();
    assert!(
        complaint().contains("store.log0 is the log of another store"),
        "{}",
        complaint()
    );
}

/// A build of before there was a log has been used on a store that was not closed.
#[test]
fn a_log_that_is_older_than_its_file_is_a_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("store"), folder.path().join("copy"));
    let (mut disk, _) = open_small(&path, &mut state()).unwrap();
    fill(&mut disk, 0..3);
    Files::read(&mut disk).write(&copy);
    disk.close();
    assert_eq!(stored_version(&copy).unwrap(), Some(4));
    let database = redb::Database::open(&copy).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    let mut table = transaction.open_table(meta).unwrap();
    table.insert("version", 2).unwrap();
    drop(table);
    transaction.commit().unwrap();
    drop(database);
    for error in [
        open_small(&copy, &mut state()).err(),
        stored_version(&copy).err(),
    ] {
        let said = error.unwrap().to_string();
        assert!(said.contains("knows of no log"), "{said}");
    }
}

/// The file that another process has, here a copy, need not be locked: it is opened anew now and
/// then. The log always is.
#[test]
fn a_log_that_is_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("store"), folder.path().join("other"));
    let (disk, _) = open_small(&path, &mut state()).unwrap();
    fs::copy(&path, &other).unwrap();
    for (log, same) in log::paths(&path).iter().zip(log::paths(&other)) {
        fs::hard_link(log, same).unwrap();
    }
    let refused = |error| matches!(error, Some(StoreError::InUse { .. }));
    assert!(refused(open_small(&other, &mut state()).err()));
    assert!(refused(stored_version(&other).err()));
    disk.close();
    assert_eq!(stored_version(&other).unwrap(), Some(1));
}

/// A file of before there was a log.
#[test]
fn a_store_without_a_log_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let objects = redb::TableDefinition::<&str, &[u8]>::new("objects");
    let numbers = |name| redb::TableDefinition::<&str, u64>::new(name);
    let database = redb::Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let held = object("old", 7);
    transaction
        .open_table(objects)
        .unwrap()
        .insert("/things//old", &*held.json)
        .unwrap();
    for (table, key) in [("meta", "version"), ("changed", COLLECTION)] {
        let mut table = transaction.open_table(numbers(table)).unwrap();
        table.insert(key, 7).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    assert_eq!(stored_version(&path).unwrap(), Some(7));
    let mut state = state();
    let (mut disk, loaded) = open_small(&path, &mut state).unwrap();
    assert_eq!(
        sight(&state, loaded.version),
        (BTreeMap::from([("old".to_owned(), 7)]), 7)
    );
    fill(&mut disk, 8..10);
    let (found, version) = start(&Files::read(&mut disk)).unwrap();
    assert_eq!((found.len(), version), (3, 11));
}

/// A transfer that fails keeps what it was about; writing goes on until the log is full.
#[test]
fn what_the_file_refuses_stays_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (mut disk, _) = open_small(&path, &mut state()).unwrap();
    fill(&mut disk, 0..3);
    let order = Order {
        contents: disk.waiting.take().unwrap(),
        sequence: disk.log.sequence(),
    };
    let result = Err(io::Error::from(io::ErrorKind::StorageFull).into());
    disk.settle(Outcome { order, result }).unwrap_err();
    let waiting = |disk: &Disk| disk.waiting.as_ref().unwrap().objects.len();
    assert_eq!((disk.applied, waiting(&disk)), (0, 3));
    // What is newer stays so.
    fill(&mut disk, 0..1);
    assert_eq!(waiting(&disk), 3);
    fill(&mut disk, 3..40);
    let (found, _) = start(&Files::read(&mut disk)).unwrap();
    assert_eq!(found.len(), 40);
    disk.close();
}

/// The log is full, and the file has all of it already: nothing is brought there a second time.
#[test]
fn a_log_that_turns_with_nothing_waiting_leaves_the_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (mut disk, _) = open_small(&path, &mut state()).unwrap();
    fill(&mut disk, 0..3);
    disk.begin_transfer();
    let outcome = disk.transfer.wait().unwrap();
    disk.settle(outcome).unwrap();
    disk.turn(record::BLOCK).unwrap();
    disk.close();
    assert_eq!(stored_version(&path).unwrap(), Some(4));
}

/// What was refused is not found, though its writing may have come far.
#[test]
fn a_commit_that_was_refused_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (mut disk, _) = open_small(&path, &mut state()).unwrap();
    fill(&mut disk, 0..2);
    let before = Files::read(&mut disk);
    fill(&mut disk, 2..3);
    let after = Files::read(&mut disk);
    // The record is there, and the sync has failed: as the log does then.
    let blocks = changed_blocks(&before.logs[0], &after.logs[0]);
    let segment = fs::OpenOptions::new()
        .write(true)
        .open(&log::paths(&path)[0]);
    log::erase(&segment.unwrap(), (blocks[0] * record::BLOCK) as u64).unwrap();
    let (found, version) = start(&Files::read(&mut disk)).unwrap();
    drop(disk);
    assert_eq!((found.len(), version), (2, 3));
}
