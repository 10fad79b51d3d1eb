//! The log: what was acknowledged and is not in the store's file yet.
//!
//! Two segments, files beside the store's. One is written, record behind record, each synced before
//! anybody is told of it. When it is full the other one is written from its beginning, as soon as
//! all that stands there is in the store's file. The room was written before, with zeros: a sync
//! then has no metadata to bring to the disk, which takes it much longer.
//!
//! Records have consecutive numbers, and one is written only when the one before is on the disk.
//! So of those that the store's file lacks all but the last have to be there; the last one may be
//! torn, and then was never acknowledged.
//!
//! An open segment is locked: the lock of the store's file goes with the file when that has to be
//! opened anew, and two that append would overwrite each other.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::file::Standing;
use super::record::{self, BLOCK, Body, Found, Identity};

/// The first block of a segment: this, the format's number, and the store's identity.
const MARK: &[u8; 8] = b"weft log";
const FORMAT: u64 = 1;
const RECORDS: usize = BLOCK;

/// How large segments are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// A segment that has reached this is full, in bytes.
    pub(super) full: u64,
    /// By so much room is prepared, in bytes.
    pub(super) step: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            // Some thousands of objects, which the store's file takes in some tens of milliseconds.
            full: 4 << 20,
            step: 1 << 20,
        }
    }
}

/// Why a log can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another process has it open.
    #[error("the log is in use")]
    InUse,
    /// It is not what the store wrote.
    #[error("{0}")]
    Damaged(String),
}

/// The files of the log of the store at `path`.
pub(super) fn paths(path: &Path) -> [PathBuf; 2] {
    ["log0", "log1"].map(|which| {
        let mut name = OsString::from(path);
        name.push(".");
        name.push(which);
        PathBuf::from(name)
    })
}

struct Segment {
    file: File,
    /// So much of it was written before, in bytes.
    prepared: u64,
    /// Where the next record begins.
    tail: u64,
    /// The number of its last record; 0 without one that matters.
    last: u64,
}

/// The open log.
pub(super) struct Log {
    identity: Identity,
    segments: [Segment; 2],
    /// Which of the two is written.
    active: usize,
    /// The number of the last record.
    sequence: u64,
    sizes: Sizes,
    /// A write has failed, and nobody knows what of it is on the disk: what is written next has
    /// to take its place.
    unsure: bool,
}

/// What a start finds.
pub(super) struct Replay {
    files: [File; 2],
    bytes: [Vec<u8>; 2],
    /// What the store's file lacks, oldest first, by segment.
    records: Vec<(usize, Found)>,
}

impl Replay {
    /// Reads the log of the store at `path`, whose file stands so, and keeps others from it.
    pub(super) fn read(
        path: &Path,
        identity: &Identity,
        standing: &Standing,
    ) -> Result<Self, LogError> {
        let [first, second] = paths(path);
        let files = [open(&first)?, open(&second)?];
        let bytes = [
            read(&files[0], &first, identity)?,
            read(&files[1], &second, identity)?,
        ];
        let records = follow(identity, &bytes, standing.applied).ok_or_else(|| {
            LogError::Damaged("its log lacks changes that were acknowledged".to_owned())
        })?;
        let replay = Self {
            files,
            bytes,
            records,
        };
        // Each record has a newer version than the one before.
        let first = replay.bodies().next().transpose()?;
        if first.is_some_and(|body| body.version <= standing.version) {
            return Err(LogError::Damaged(
                "a weft that knows of no log has written to it since, and its log is of before"
                    .to_owned(),
            ));
        }
        Ok(replay)
    }

    /// What the records say, oldest first.
    pub(super) fn bodies(&self) -> impl Iterator<Item = Result<Body<'_>, LogError>> {
        self.records.iter().map(|(segment, found)| {
            Body::parse(found.body(&self.bytes[*segment])).ok_or_else(|| {
                let what = format!("the record {} of its log makes no sense", found.sequence);
                LogError::Damaged(what)
            })
        })
    }
}

/// Opens a segment; it is locked for as long as it is open.
fn open(path: &Path) -> Result<File, LogError> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file = opened.map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            return LogError::Damaged(format!("its log {} is missing", path.display()));
        }
        LogError::Io(error)
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::InUse),
        Err(TryLockError::Error(error)) => Err(LogError::Io(error)),
    }
}

/// The content of a segment of this store.
fn read(mut file: &File, path: &Path, identity: &Identity) -> Result<Vec<u8>, LogError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    if bytes.get(..BLOCK) != Some(&first_block(identity)[..]) {
        return Err(LogError::Damaged(format!(
            "{} is not its log",
            path.display()
        )));
    }
    Ok(bytes)
}

/// The records behind `applied`, by segment; `None` if one of them is lost.
pub(super) fn follow(
    identity: &Identity,
    segments: &[Vec<u8>; 2],
    applied: u64,
) -> Option<Vec<(usize, Found)>> {
    let mut found = Vec::new();
    let mut newest = applied;
    for (segment, bytes) in segments.iter().enumerate() {
        let (records, stray) = record::scan(identity, bytes, RECORDS);
        newest = newest.max(stray.unwrap_or_default());
        found.extend(records.into_iter().map(|record| (segment, record)));
    }
    found.retain(|(_, record)| record.sequence > applied);
    found.sort_by_key(|(_, record)| record.sequence);
    let mut last = applied;
    for (_, record) in &found {
        if last.checked_add(1) != Some(record.sequence) {
            return None;
        }
        last = record.sequence;
    }
    (newest <= last).then_some(found)
}

fn first_block(identity: &Identity) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    block.extend_from_slice(MARK);
    block.extend_from_slice(&FORMAT.to_le_bytes());
    block.extend_from_slice(identity);
    block.resize(BLOCK, 0);
    block
}

/// Whether there is a log at `path` that holds anything.
fn holds_records(path: &Path) -> io::Result<bool> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(bytes
        .get(RECORDS..)
        .is_some_and(|rest| rest.iter().any(|byte| *byte != 0)))
}

/// Makes an empty log for the store at `path`, which has none; it is on the disk when this returns.
pub(super) fn create(path: &Path, identity: &Identity) -> Result<(), LogError> {
    for path in paths(path) {
        if holds_records(&path)? {
            return Err(LogError::Damaged(format!(
                "{} is the log of another store",
                path.display()
            )));
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        // Secrets are in it.
        let file = options.mode(0o600).open(&path)?;
        file.write_all_at(&first_block(identity), 0)?;
        file.sync_all()?;
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(())
}

impl Log {
    /// Opens the log that was read, to go on behind what was found there.
    pub(super) fn open(
        identity: Identity,
        applied: u64,
        replay: Replay,
        sizes: Sizes,
    ) -> Result<Self, LogError> {
        let [first, second] = replay.files;
        let mut segments = [Segment::open(first)?, Segment::open(second)?];
        let (mut active, mut sequence) = (0, applied);
        for (segment, found) in &replay.records {
            (active, sequence) = (*segment, found.sequence);
            segments[active].last = sequence;
            segments[active].tail = found.end() as u64;
        }
        Ok(Self {
            identity,
            segments,
            active,
            sequence,
            sizes,
            unsure: false,
        })
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number of the last record.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Which segment is written.
    #[cfg(test)]
    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// Makes room for a record; `false` if the segment is full.
    pub(super) fn make_room(&mut self, length: usize) -> io::Result<bool> {
        let segment = &mut self.segments[self.active];
        if segment.tail >= self.sizes.full && !self.unsure {
            return Ok(false);
        }
        segment.prepare(length as u64, self.sizes.step)?;
        Ok(true)
    }

    /// Whether the other segment can be written: all that is in it has been `applied`.
    pub(super) fn can_turn(&self, applied: u64) -> bool {
        !self.unsure && self.segments[1 - self.active].last <= applied
    }

    /// Goes over to the other segment.
    pub(super) fn turn(&mut self) {
        self.active = 1 - self.active;
        let segment = &mut self.segments[self.active];
        segment.tail = RECORDS as u64;
        segment.last = 0;
        // A record may have been longer than a segment should be.
        if segment.prepared > 2 * self.sizes.full && segment.file.set_len(self.sizes.full).is_ok() {
            segment.prepared = self.sizes.full;
        }
    }

    /// Writes the next record; it is on the disk when this returns. There has to be room for it.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let segment = &mut self.segments[self.active];
        if let Err(error) = write_synced(&segment.file, record, segment.tail) {
            // It was refused, so no start should find it.
            self.unsure = erase(&segment.file, segment.tail).is_err();
            return Err(error);
        }
        self.unsure = false;
        self.sequence += 1;
        segment.tail += record.len() as u64;
        segment.last = self.sequence;
        Ok(())
    }
}

impl Segment {
    fn open(file: File) -> io::Result<Self> {
        // What a killed process has written can be read, and need not be on the disk.
        file.sync_data()?;
        let length = file.metadata()?.len();
        Ok(Self {
            file,
            prepared: length - length % BLOCK as u64,
            tail: RECORDS as u64,
            last: 0,
        })
    }

    /// Prepares room for so many bytes, if there is none.
    fn prepare(&mut self, length: u64, step: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        let end = self.tail + length;
        if end <= self.prepared {
            return Ok(());
        }
        let end = end.next_multiple_of(step);
        let mut at = self.prepared;
        while at < end {
            let piece = (end - at).min(ZEROS.len() as u64);
            let zeros = &ZEROS[..usize::try_from(piece).unwrap_or(ZEROS.len())];
            if let Err(error) = self.file.write_all_at(zeros, at) {
                // Others may need what little room there is.
                let _ = self.file.set_len(self.prepared);
                return Err(error);
            }
            at += piece;
        }
        // Or the first records here would have to bring its metadata to the disk.
        self.file.sync_data()?;
        self.prepared = end;
        Ok(())
    }
}

/// Writes so that it is on the disk when this returns: in one call, where the file system can.
fn write_synced(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let written = pwritev2(file, &[IoSlice::new(bytes)], at, ReadWriteFlags::DSYNC);
    match written {
        Ok(length) if length == bytes.len() => Ok(()),
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {
            file.write_all_at(bytes, at)?;
            file.sync_data()
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes what stands there no record.
pub(super) fn erase(segment: &File, at: u64) -> io::Result<()> {
    segment.write_all_at(&[0; BLOCK], at)?;
    segment.sync_data()
}
