//! The store's file: what a commit writes, what a start reads, and what becomes of a file that
//! can't be read or a disk that is full.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use crate::object::Object;
use crate::state::State;
use crate::status::ApiError;

/// `collection/namespace/name` -> JSON.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// `version` -> the newest resource version given out.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const VERSION: &str = "version";
/// `collection` -> the version of its last change.
const CHANGED: TableDefinition<'_, &str, u64> = TableDefinition::new("changed");
const TABLES: usize = 3;

/// The database's page cache. Reads come from memory, so it only serves commits.
const PAGE_CACHE: usize = 2 << 20;
/// A file is compacted at start when it is longer than this, and so many times as long as what is
/// stored in it: short of that a start is faster without. Half of a file is free in the long run,
/// for a commit writes its pages anew.
const COMPACT_FROM: u64 = 16 << 20;
const COMPACT_TIMES: u64 = 4;

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{path}: the store is in use by another server; end that one first")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be read or written.
    #[error(
        "{path}: the store can't be opened; check the file's owner and mode, and the disk's room"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// The file's content is not what a store wrote.
    #[error(
        "{path}: the store's file is damaged: {what}; put a copy of it in its place, or move it away to begin with an empty store"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it was found out.
        what: String,
    },
    /// The writer's thread could not be started.
    #[error("the store's thread can't be started")]
    Thread(#[source] io::Error),
}

/// The newest version that the store at `path` holds; `None` without a file. Finds out whether a
/// server can open it.
///
/// # Errors
/// [`StoreError`], as a server that opens it would.
pub fn stored_version(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(_) | Err(_) => {}
    }
    let database = open(path)?;
    let read = || -> Result<u64, redb::Error> {
        let read = database.begin_read()?;
        let version = read.open_table(META)?.get(VERSION)?;
        Ok(version.map_or(1, |version| version.value()))
    };
    read().map(Some).map_err(|error| refused(path, error))
}

/// What a start finds.
pub(crate) struct Loaded {
    /// The newest version given out.
    pub(crate) version: u64,
}

/// The open file.
pub(crate) struct Disk {
    path: PathBuf,
    /// `None` after a commit that failed: redb wants its file opened anew.
    database: Option<Database>,
    /// What failed commits were about: nobody knows whether the disk has it.
    unsure: BTreeSet<(String, String)>,
}

/// Objects by collection and key; `None` where there is none any more.
pub(crate) type Objects = BTreeMap<(String, String), Option<Arc<Object>>>;

/// What one commit changes, and the version of the last change of each collection.
pub(crate) struct Commit<'a> {
    pub(crate) version: u64,
    pub(crate) objects: &'a Objects,
    pub(crate) changed: BTreeMap<&'a str, u64>,
}

impl Disk {
    /// Opens the file at `path` (made if missing), and fills `state` with what it holds.
    pub(crate) fn open(path: &Path, state: &mut State) -> Result<(Self, Loaded), StoreError> {
        let mut database = open(path)?;
        let (version, stored) = load(&database, path, state)?;
        compact(&mut database, path, stored);
        let disk = Self {
            path: path.to_owned(),
            database: Some(database),
            unsure: BTreeSet::new(),
        };
        Ok((disk, Loaded { version }))
    }

    /// Writes a commit; it is on the disk when this returns. After an error the next commit undoes
    /// what may be there of it, to what `held` says of an object (by collection and key).
    pub(crate) fn commit(
        &mut self,
        commit: &Commit<'_>,
        held: impl Fn(&str, &str) -> Option<Arc<Object>>,
    ) -> Result<(), ApiError> {
        if commit.objects.is_empty() {
            return Ok(());
        }
        let database = match self.database.take() {
            Some(database) => Ok(database),
            None => reopen(&self.path),
        };
        let written = database.and_then(|database| {
            let undone: BTreeMap<_, _> = self
                .unsure
                .iter()
                .map(|place| (place.clone(), held(&place.0, &place.1)))
                .collect();
            write(&database, commit, &undone)?;
            Ok(database)
        });
        match written {
            Ok(database) => {
                self.database = Some(database);
                self.unsure.clear();
                Ok(())
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the store can't write; the writes are refused");
                self.unsure.extend(commit.objects.keys().cloned());
                Err(refusal(&error))
            }
        }
    }
}

/// What a client is told of a commit that failed.
fn refusal(error: &redb::Error) -> ApiError {
    if let redb::Error::Io(error) = error
        && is_full(error)
    {
        return ApiError::storage_full(format!(
            "the disk of the API server's store is full, so nothing can be written until there is room on it; reading goes on ({error})"
        ));
    }
    ApiError::internal(format!("the store can't write: {error}"))
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn write(database: &Database, commit: &Commit<'_>, undone: &Objects) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for ((collection, key), object) in undone.iter().chain(commit.objects) {
            let key = disk_key(collection, key);
            match object {
                Some(object) => drop(objects.insert(key.as_str(), &*object.json)?),
                None => drop(objects.remove(key.as_str())?),
            }
        }
        transaction
            .open_table(META)?
            .insert(VERSION, commit.version)?;
        let mut changed = transaction.open_table(CHANGED)?;
        for (collection, version) in &commit.changed {
            changed.insert(*collection, version)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn open(path: &Path) -> Result<Database, StoreError> {
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
        transaction.commit()?;
        Ok(())
    };
    begin().map_err(refused)?;
    Ok(database)
}

fn reopen(path: &Path) -> Result<Database, redb::Error> {
    Ok(Database::builder()
        .set_cache_size(PAGE_CACHE)
        .create(path)?)
}

/// Gives back what deleted objects and old versions have left. `stored` is what the objects take,
/// in bytes.
fn compact(database: &mut Database, path: &Path, stored: u64) {
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

fn refused(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    if matches!(error, redb::Error::DatabaseAlreadyOpen) {
        return StoreError::InUse { path };
    }
    if let redb::Error::Io(cause) = &error
        && !matches!(
            cause.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        )
    {
        return StoreError::Open {
            path,
            source: Box::new(error),
        };
    }
    StoreError::Damaged {
        path,
        what: error.to_string(),
    }
}

/// Fills `state`; returns the newest version, and what the objects take, in bytes.
fn load(database: &Database, path: &Path, state: &mut State) -> Result<(u64, u64), StoreError> {
    let open = |error: redb::Error| refused(path, error);
    let damaged = |what: String| StoreError::Damaged {
        path: path.to_owned(),
        what,
    };
    let read = database.begin_read().map_err(|e| open(e.into()))?;
    let objects = read.open_table(OBJECTS).map_err(|e| open(e.into()))?;
    let (mut count, mut stored) = (0, 0);
    for entry in objects.iter().map_err(|e| open(e.into()))? {
        let (key, value) = entry.map_err(|e| open(e.into()))?;
        let key = key.value();
        let object = Object::from_json(value.value().to_vec())
            .map_err(|error| damaged(format!("the object {key} can't be read: {error}")))?;
        state.load(collection_of(key), object);
        count += 1;
        stored += (key.len() + value.value().len()) as u64;
    }
    let expected = objects.len().map_err(|e| open(e.into()))?;
    if count != expected {
        return Err(damaged(format!(
            "it has {count} objects where it should have {expected}"
        )));
    }
    let meta = read.open_table(META).map_err(|e| open(e.into()))?;
    let version = meta.get(VERSION).map_err(|e| open(e.into()))?;
    let version = version.map_or(1, |version| version.value());
    let mut changed = BTreeMap::new();
    let table = read.open_table(CHANGED).map_err(|e| open(e.into()))?;
    for entry in table.iter().map_err(|e| open(e.into()))? {
        let (collection, version) = entry.map_err(|e| open(e.into()))?;
        changed.insert(collection.value().to_owned(), version.value());
    }
    state.loaded(version, &changed);
    Ok((version, stored))
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

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
