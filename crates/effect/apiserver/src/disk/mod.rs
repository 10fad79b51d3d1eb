//! The store on disk: a log, which an acknowledged write is in, and a file, into which it is
//! brought later, many together.
//!
//! Writing to the log is one write and one sync of a place that is ready for it; bringing a change
//! into the file writes nine pages and more. A start reads the file and what the log has beyond
//! it.

mod exercise;
mod file;
mod log;
mod record;
mod transfer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::Database;

pub use self::exercise::exercise_log;
use self::file::Standing;
use self::log::{Log, LogError, Replay, Sizes};
use self::transfer::{Order, Outcome, Transfer};
use crate::object::Object;
use crate::state::State;
use crate::status::ApiError;

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
        "{path}: the store's file is damaged: {what}; put a copy of it and of its log ({path}.log0, {path}.log1) in their place, or move all of them away to begin with an empty store"
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
    let database = file::open(path)?;
    let standing = file::standing(&database).map_err(|error| refused(path, error))?;
    let mut version = standing.version;
    if let Some(identity) = &standing.identity {
        let replay = Replay::read(path, identity, &standing);
        let replay = replay.map_err(|error| unusable(path, error))?;
        for body in replay.bodies() {
            let body = body.map_err(|error| unusable(path, error))?;
            version = version.max(body.version);
        }
    }
    Ok(Some(version))
}

/// What a start finds.
pub(crate) struct Loaded {
    /// The newest version given out.
    pub(crate) version: u64,
}

/// Objects by collection and key; `None` where there is none any more.
pub(crate) type Objects = BTreeMap<(String, String), Option<Arc<Object>>>;

/// What one commit changes, and the version of the last change of each collection.
pub(crate) struct Commit<'a> {
    pub(crate) version: u64,
    pub(crate) objects: &'a Objects,
    pub(crate) changed: BTreeMap<&'a str, u64>,
}

/// What commits say together.
struct Contents {
    version: u64,
    objects: Objects,
    changed: BTreeMap<String, u64>,
}

impl Contents {
    /// What a commit of that version says, without what it changes.
    fn at(version: u64) -> Self {
        Self {
            version,
            objects: Objects::new(),
            changed: BTreeMap::new(),
        }
    }

    fn add(&mut self, commit: &Commit<'_>) {
        self.version = commit.version;
        for (place, object) in commit.objects {
            self.objects.insert(place.clone(), object.clone());
        }
        for (collection, version) in &commit.changed {
            self.changed.insert((*collection).to_owned(), *version);
        }
    }

    /// Puts what is `older` below this.
    fn add_below(&mut self, older: Self) {
        self.version = self.version.max(older.version);
        for (place, object) in older.objects {
            self.objects.entry(place).or_insert(object);
        }
        for (collection, version) in older.changed {
            self.changed.entry(collection).or_insert(version);
        }
    }
}

/// The open store.
pub(crate) struct Disk {
    path: PathBuf,
    log: Log,
    transfer: Transfer,
    /// The number of the last record that is in the file.
    applied: u64,
    /// What is in the log, and neither in the file nor on its way there.
    waiting: Option<Contents>,
    record: record::Writer,
}

impl Disk {
    /// Opens the store at `path` (made if missing), and fills `state` with what it holds.
    pub(crate) fn open(path: &Path, state: &mut State) -> Result<(Self, Loaded), StoreError> {
        Self::open_sized(path, state, Sizes::default())
    }

    fn open_sized(
        path: &Path,
        state: &mut State,
        sizes: Sizes,
    ) -> Result<(Self, Loaded), StoreError> {
        let mut database = file::open(path)?;
        let (standing, identity) = identified(path, &database)?;
        let log_error = |error| unusable(path, error);
        let replay = Replay::read(path, &identity, &standing).map_err(log_error)?;
        let held = file::load(&database, path, state)?;
        file::compact(&mut database, path, held.stored);
        let waiting = replayed(&replay, state).map_err(log_error)?;
        let mut version = standing.version;
        let mut changed = held.changed;
        if let Some(waiting) = &waiting {
            version = version.max(waiting.version);
            changed.extend(waiting.changed.clone());
        }
        state.loaded(version, &changed);
        let log = Log::open(identity, standing.applied, replay, sizes).map_err(log_error)?;
        let mut disk = Self {
            path: path.to_owned(),
            log,
            transfer: Transfer::new(path.to_owned(), database).map_err(StoreError::Thread)?,
            applied: standing.applied,
            waiting,
            record: record::Writer::default(),
        };
        disk.begin_transfer();
        Ok((disk, Loaded { version }))
    }

    /// Writes a commit; it is on the disk when this returns.
    pub(crate) fn commit(&mut self, commit: &Commit<'_>) -> Result<(), ApiError> {
        if commit.objects.is_empty() {
            return Ok(());
        }
        let written = self.log(commit);
        if let Err(error) = &written {
            tracing::error!(path = %self.path.display(), %error, "the store can't write; the writes are refused");
        }
        written.map_err(|error| refusal(&error))?;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Contents::at(commit.version));
        waiting.add(commit);
        Ok(())
    }

    fn log(&mut self, commit: &Commit<'_>) -> Result<(), redb::Error> {
        if let Some(outcome) = self.transfer.ended() {
            // One that failed is tried again when the log is full.
            let _ = self.settle(outcome);
        }
        let next = self.log.sequence() + 1;
        self.record.begin(self.log.identity(), next, commit.version);
        self.record.count(commit.changed.len());
        for (collection, version) in &commit.changed {
            self.record.changed(collection, *version);
        }
        self.record.count(commit.objects.len());
        for ((collection, key), object) in commit.objects {
            let json = object.as_ref().map(|object| &*object.json);
            self.record.object(collection, key, json);
        }
        let length = self.record.finish();
        match self.log.make_room(length) {
            Ok(true) => {}
            Ok(false) => self.turn(length)?,
            // There is no room for more of this segment, and the other one may have some.
            Err(error) => self.turn(length).map_err(|_| error)?,
        }
        self.log.append(self.record.whole())?;
        Ok(())
    }

    /// Goes over to the other segment of the log, as soon as what it holds is in the file.
    fn turn(&mut self, length: usize) -> Result<(), redb::Error> {
        // What failed before may succeed now.
        if let Some(outcome) = self.transfer.wait() {
            let _ = self.settle(outcome);
        }
        if !self.log.can_turn(self.applied) {
            self.begin_transfer();
            match self.transfer.wait() {
                Some(outcome) => self.settle(outcome)?,
                None => return Err(io::Error::other("the store's thread has ended").into()),
            }
        }
        if !self.log.can_turn(self.applied) {
            return Err(io::Error::other("a part of the log can't be written").into());
        }
        self.log.turn();
        if !self.transfer.is_under_way() {
            self.begin_transfer();
        }
        if !self.log.make_room(length)? {
            return Err(io::Error::other("a segment of the log is full from the start").into());
        }
        Ok(())
    }

    /// Begins to bring what waits into the file, if anything does.
    fn begin_transfer(&mut self) {
        let sequence = self.log.sequence();
        if let Some(contents) = self.waiting.take() {
            self.transfer.begin(Order { contents, sequence });
        }
    }

    fn settle(&mut self, outcome: Outcome) -> Result<(), redb::Error> {
        match &outcome.result {
            Ok(()) => self.applied = outcome.order.sequence,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the store's file can't be written; its log goes on as long as it has room");
                let older = outcome.order.contents;
                match &mut self.waiting {
                    Some(waiting) => waiting.add_below(older),
                    None => self.waiting = Some(older),
                }
            }
        }
        outcome.result
    }

    /// Brings all there is into the file, and closes it. What does not get there stays in the log.
    pub(crate) fn close(mut self) {
        if let Some(outcome) = self.transfer.wait() {
            let _ = self.settle(outcome);
        }
        self.begin_transfer();
        if let Some(outcome) = self.transfer.wait() {
            let _ = self.settle(outcome);
        }
    }
}

/// How the file stands, and whose its log is; a file of before there was a log gets one.
fn identified(
    path: &Path,
    database: &Database,
) -> Result<(Standing, record::Identity), StoreError> {
    let standing = file::standing(database).map_err(|error| refused(path, error))?;
    if let Some(identity) = standing.identity {
        return Ok((standing, identity));
    }
    let identity = *uuid::Uuid::new_v4().as_bytes();
    // Only what is there can be named: nothing is lost if this ends in between.
    log::create(path, &identity).map_err(|error| unusable(path, error))?;
    file::identify(database, &identity).map_err(|error| refused(path, error))?;
    Ok((standing, identity))
}

/// Brings what the log has beyond the file into `state`.
fn replayed(replay: &Replay, state: &mut State) -> Result<Option<Contents>, LogError> {
    let mut found: Option<Contents> = None;
    for body in replay.bodies() {
        let body = body?;
        let contents = found.get_or_insert_with(|| Contents::at(body.version));
        contents.version = body.version;
        for (collection, version) in body.changed {
            contents.changed.insert(collection.to_owned(), version);
        }
        for ((collection, key), json) in body.objects {
            let object = match json.map(|json| Object::from_json(json.to_vec())) {
                Some(Ok(object)) => Some(Arc::new(object)),
                Some(Err(error)) => {
                    return Err(LogError::Damaged(format!(
                        "the object {collection}/{key} in its log can't be read: {error}"
                    )));
                }
                None => None,
            };
            let place = (collection.to_owned(), key.to_owned());
            contents.objects.insert(place, object);
        }
    }
    let objects = found.iter().flat_map(|contents| &contents.objects);
    for ((collection, key), object) in objects {
        match object {
            Some(object) => state.load(collection, object.clone()),
            None => state.unload(collection, key),
        }
    }
    Ok(found)
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

fn unusable(path: &Path, error: LogError) -> StoreError {
    match error {
        LogError::Io(error) => refused(path, error.into()),
        LogError::InUse => StoreError::InUse {
            path: path.to_owned(),
        },
        LogError::Damaged(what) => StoreError::Damaged {
            path: path.to_owned(),
            what,
        },
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

#[cfg(test)]
mod tests;
