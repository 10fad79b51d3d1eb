//! Which Services of a lab are published: a small file for each in the lab's folder on the machine,
//! which belongs to whoever holds a lock on it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use weft_netlab::process;

/// What every such file's name begins with.
const PREFIX: &str = "publish-";
/// Locked by whoever gives such a file its name, or takes a name away: a file that is found to be
/// nobody's has to be the one that is then removed.
const TURN: &str = "publishing";

/// A Service that is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// The port asked for, by name or number.
    #[serde(default)]
    pub port: Option<String>,
    /// Where it is on the machine.
    pub address: SocketAddr,
    /// The process that carries the connections.
    pub pid: i32,
}

/// The record of what this process publishes. Dropped, it is removed.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    lock: File,
}

impl Record {
    /// Records it in the lab's folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(folder: &Path, published: &Published) -> io::Result<Self> {
        let path = folder.join(format!("{PREFIX}{}", published.address));
        let fresh = folder.join(format!("new-{PREFIX}{}", published.address));
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&fresh)?;
        // Locked before anybody can find it under its name.
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        lock.write_all(&serde_json::to_vec_pretty(published)?)?;
        let _turn = turn(folder)?;
        fs::rename(&fresh, &path)?;
        Ok(Record { path, lock })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let folder = self.path.parent().unwrap_or(&self.path);
        // With the lab its whole folder goes.
        let Ok(_turn) = turn(folder) else {
            return;
        };
        // The address was free before this: the name may be the next one's already.
        if is_at(&self.lock, &self.path) {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// Waits until nobody else gives or takes names in this folder.
fn turn(folder: &Path) -> io::Result<File> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(folder.join(TURN))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Whether a path leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |about: fs::Metadata| (about.dev(), about.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(path)) => identity(file) == identity(path),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// What is published of the lab whose folder this is, by address. What killed processes left is
/// removed.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(folder: &Path) -> io::Result<Vec<Published>> {
    let _turn = turn(folder)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        // One that ends at this moment is none.
        let Ok(file) = File::open(&path) else {
            continue;
        };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            let _gone = fs::remove_file(&path);
            continue;
        }
        if let Ok(text) = fs::read(&path)
            && let Ok(published) = serde_json::from_slice::<Published>(&text)
        {
            found.push(published);
        }
    }
    found.sort_by_key(|published| published.address);
    Ok(found)
}

/// Ends the process that publishes something, and waits until it is gone. Returns whether it is.
///
/// # Errors
/// When it belongs to somebody else.
pub fn stop(folder: &Path, published: &Published, patience: Duration) -> io::Result<bool> {
    let Ok(process) = process::open_pid(published.pid) else {
        return Ok(true);
    };
    // Its lock tells whether the id is still its own.
    if !list(folder)?.contains(published) {
        return Ok(true);
    }
    process::send_signal(process.as_fd(), Signal::TERM)?;
    process::wait_for_end(process.as_fd(), patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(port: u16) -> Published {
        Published {
            namespace: "default".to_owned(),
            service: "web".to_owned(),
            port: None,
            address: ([127, 0, 0, 1], port).into(),
            pid: 1,
        }
    }

    #[test]
    fn what_is_published_is_listed_for_as_long_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lab.json"), "{}").unwrap();
        let second = Record::new(folder.path(), &published(9002)).unwrap();
        let _first = Record::new(folder.path(), &published(9001)).unwrap();
        assert_eq!(
            list(folder.path()).unwrap(),
            [published(9001), published(9002)]
        );
        drop(second);
        assert_eq!(list(folder.path()).unwrap(), [published(9001)]);

        // What a killed process leaves has nobody's lock.
        let left = folder.path().join("publish-127.0.0.1:9003");
        fs::write(&left, serde_json::to_vec(&published(9003)).unwrap()).unwrap();
        assert_eq!(list(folder.path()).unwrap(), [published(9001)]);
        assert!(!left.exists());
    }
    #[test]
    fn an_address_that_changes_hands_keeps_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let first = Record::new(folder.path(), &published(9001)).unwrap();
        let second = Record::new(folder.path(), &published(9001)).unwrap();
        drop(first);
        assert_eq!(list(folder.path()).unwrap(), [published(9001)]);
        drop(second);
        assert!(list(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn who_sweeps_what_was_left_does_not_take_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let text = serde_json::to_vec(&published(9001)).unwrap();
        for _ in 0..500 {
            fs::write(path.join("publish-127.0.0.1:9001"), &text).unwrap();
            let record = std::thread::scope(|scope| {
                scope.spawn(|| list(path).unwrap());
                Record::new(path, &published(9001)).unwrap()
            });
            assert_eq!(list(path).unwrap(), [published(9001)]);
            drop(record);
        }
    }
}
