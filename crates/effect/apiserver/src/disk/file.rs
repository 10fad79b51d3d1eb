//! The store's file, a database: what a start reads, what is brought into it, and what becomes of
//! one that can't be read.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};

use super::record::Identity;
use super::{Contents, StoreError, refused};
use crate::object::Object;
use crate::state::State;

/// `collection/namespace/name` -> JSON.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// `version` -> the newest resource version given out; `applied` -> the number of the log's last
/// record that is in here.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const VERSION: &str = "version";
const APPLIED: &str = "applied";
/// `collection` -> the version of its last change.
const CHANGED: TableDefinition<'_, &str, u64> = TableDefinition::new("changed");
/// `log` -> the identity by which the log's records are known.
const IDENTITY: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("identity");
const LOG: &str = "log";
const TABLES: usize = 4;

/// The database's page cache. Reads come from memory, so it only serves commits.
const PAGE_CACHE: usize = 2 << 20;
/// A file is compacted at start when it is longer than this, and so many times as long as what is
/// stored in it: short of that a start is faster without. Half of a file is free in the long run,
/// for a commit writes its pages anew.
pub(super) const COMPACT_FROM: u64 = 16 << 20;
const COMPACT_TIMES: u64 = 4;

/// What the file says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// The newest version in it.
    pub(super) version: u64,
    /// The number of the log's last record that is in it.
    pub(super) applied: u64,
    /// Whose records the log has; `None` before there was a log.
    pub(super) identity: Option<Identity>,
}

pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    // A file of another sort may be anything at all to redb.
    let opened = catch_unwind(AssertUnwindSafe(|| open_checked(path)));
    match opened {
        Ok(result) => result,
        Err(_) => Err(StoreError::Damaged {
            path: path.to_owned(),
            what: "its structure makes no sense".to_owned(),
        }),
    }
}

fn open_checked(path: &Path) -> Result<Database, StoreError> {
    let refused = |error: redb::Error| refused(path, error);
    let repaired = Arc::new(AtomicBool::new(false));
    let noted = repaired.clone();
    let mut database = Database::builder()
        .set_cache_size(PAGE_CACHE)
        .set_repair_callback(move |_| noted.store(true, Ordering::Relaxed))
        .create(path)
        .map_err(|error| refused(error.into()))?;
    // A file that was not closed has just been checked.
    if !repaired.load(Ordering::Relaxed)
        && !database
            .check_integrity()
            .map_err(|error| refused(error.into()))?
    {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            what: "a part of it is not what was written".to_owned(),
        });
    }
    let begin = || -> Result<(), redb::Error> {
        if database.begin_read()?.list_tables()?.count() == TABLES {
            return Ok(());
        }
        let transaction = database.begin_write()?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(META)?;
        transaction.open_table(CHANGED)?;
        transaction.open_table(IDENTITY)?;
        transaction.commit()?;
        Ok(())
    };
    begin().map_err(refused)?;
    Ok(database)
}

/// Opens a file that was open before, and fell out of use by a failed write.
pub(super) fn reopen(path: &Path) -> Result<Database, redb::Error> {
    Ok(Database::builder().set_cache_size(PAGE_CACHE).open(path)?)
}

pub(super) fn standing(database: &Database) -> Result<Standing, redb::Error> {
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let number = |name: &str| -> Result<Option<u64>, redb::Error> {
        Ok(meta.get(name)?.map(|number| number.value()))
    };
    let identity = read.open_table(IDENTITY)?.get(LOG)?;
    Ok(Standing {
        version: number(VERSION)?.unwrap_or(1),
        applied: number(APPLIED)?.unwrap_or(0),
        identity: identity.and_then(|identity| identity.value().try_into().ok()),
    })
}

/// Notes that the store has a log.
pub(super) fn identify(database: &Database, identity: &Identity) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction
        .open_table(IDENTITY)?
        .insert(LOG, identity.as_slice())?;
    transaction.commit()?;
    Ok(())
}

/// Brings `contents` into the file, the log's records up to `applied`; it is on the disk when this
/// returns.
pub(super) fn write(
    database: &Database,
    contents: &Contents,
    applied: u64,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for ((collection, key), object) in &contents.objects {
            let key = disk_key(collection, key);
            match object {
                Some(object) => drop(objects.insert(key.as_str(), &*object.json)?),
                None => drop(objects.remove(key.as_str())?),
            }
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(VERSION, contents.version)?;
        meta.insert(APPLIED, applied)?;
        let mut changed = transaction.open_table(CHANGED)?;
        for (collection, version) in &contents.changed {
            changed.insert(collection.as_str(), version)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Gives back what deleted objects and old versions have left. `stored` is what the objects take,
/// in bytes.
pub(super) fn compact(database: &mut Database, path: &Path, stored: u64) {
    let mut done = || -> Result<(), redb::Error> {
        let length = fs::metadata(path)?.len();
        if length < COMPACT_FROM || length < COMPACT_TIMES * stored {
            return Ok(());
        }
        database.compact()?;
        tracing::info!(path = %path.display(), before = length, stored, "compacted the store");
        Ok(())
    };
    if let Err(error) = done() {
        // It goes on as large as it is.
        tracing::warn!(path = %path.display(), %error, "the store can't be compacted");
    }
}

/// What a file holds besides objects.
pub(super) struct Held {
    /// The version of each collection's last change.
    pub(super) changed: BTreeMap<String, u64>,
    /// What the objects take, in bytes.
    pub(super) stored: u64,
}

/// Fills `state` with the objects.
pub(super) fn load(
    database: &Database,
    path: &Path,
    state: &mut State,
) -> Result<Held, StoreError> {
    let open = |error: redb::Error| refused(path, error);
    let read = database.begin_read().map_err(|error| open(error.into()))?;
    let stored = load_objects(&read, path, state)?;
    let mut changed = BTreeMap::new();
    let table = read.open_table(CHANGED).map_err(|e| open(e.into()))?;
    for entry in table.iter().map_err(|e| open(e.into()))? {
        let (collection, version) = entry.map_err(|e| open(e.into()))?;
        changed.insert(collection.value().to_owned(), version.value());
    }
    Ok(Held { changed, stored })
}

fn load_objects(read: &ReadTransaction, path: &Path, state: &mut State) -> Result<u64, StoreError> {
    let open = |error: redb::Error| refused(path, error);
    let damaged = |what: String| StoreError::Damaged {
        path: path.to_owned(),
        what,
    };
    let objects = read.open_table(OBJECTS).map_err(|e| open(e.into()))?;
    let (mut count, mut stored) = (0, 0);
    for entry in objects.iter().map_err(|e| open(e.into()))? {
        let (key, value) = entry.map_err(|e| open(e.into()))?;
        let key = key.value();
        let object = Object::from_json(value.value().to_vec())
            .map_err(|error| damaged(format!("the object {key} can't be read: {error}")))?;
        state.load(collection_of(key), Arc::new(object));
        count += 1;
        stored += (key.len() + value.value().len()) as u64;
    }
    let expected = objects.len().map_err(|e| open(e.into()))?;
    if count != expected {
        return Err(damaged(format!(
            "it has {count} objects where it should have {expected}"
        )));
    }
    Ok(stored)
}

fn disk_key(collection: &str, key: &str) -> String {
    format!("{collection}/{key}")
}

/// `group/plural` of `group/plural/namespace/name`.
fn collection_of(disk_key: &str) -> &str {
    let end = disk_key
        .match_indices('/')
        .nth(1)
        .map_or(disk_key.len(), |(at, _)| at);
    &disk_key[..end]
}
