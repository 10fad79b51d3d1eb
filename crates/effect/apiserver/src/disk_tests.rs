//! Tests of the file: what becomes of one that is damaged.

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
    disk.commit(&commit, |_, _| None)
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
fn what_a_failed_commit_may_have_left_is_undone_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (mut disk, _) = Disk::open(&path, &mut state()).unwrap();
    // As after a commit whose sync failed, though all of it is on the disk.
    let landed = Objects::from([(place("landed"), Some(object("landed", 2)))]);
    commit(&mut disk, 2, &landed).unwrap();
    disk.database = None;
    disk.unsure.insert(place("landed"));
    let next = Objects::from([(place("next"), Some(object("next", 3)))]);
    commit(&mut disk, 3, &next).unwrap();
    drop(disk);
    let mut state = state();
    Disk::open(&path, &mut state).unwrap();
    let names: Vec<&str> = state.all().map(|(_, object)| &*object.name).collect();
    assert_eq!(names, ["next"]);
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
    // The one that is left is at the end: the file does not shrink by itself.
    let gone = &names[..39];
    let empty: Objects = gone.iter().map(|name| (place(name), None)).collect();
    commit(&mut disk, 3, &empty).unwrap();
    drop(disk);
    let before = fs::metadata(&path).unwrap().len();
    assert!(before > COMPACT_FROM, "{before}");
    let mut state = state();
    let (disk, loaded) = Disk::open(&path, &mut state).unwrap();
    drop(disk);
    assert_eq!(state.all().count(), 1);
    let after = fs::metadata(&path).unwrap().len();
    assert!(after < before / 4, "{before} to {after}");
    assert_eq!(loaded.version, 3);
}
