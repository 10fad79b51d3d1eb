//! The order in which addresses came back.
//!
//! host-local gives out the address after the last one, which may have been released a
//! moment ago; packets for its old pod then reach the new one. Lines of addresses, the
//! oldest first, are enough to know better. They are used from the front, and how far is
//! remembered in the index. A line that can't be read is skipped and a lost file costs the
//! order once: nothing else depends on it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::index::QueuePlace;
use super::{PoolError, failed};
use crate::durable;

/// Bytes; a longer file is cut to [`KEPT`]. An IPv6 address and its newline have at most 40,
/// an IPv4 address 16: an index's set of 65,534 fits.
const LONGEST: u64 = 2 << 20;
/// Bytes of the newest lines that stay when a file is cut.
const KEPT: u64 = 1 << 20;
/// Bytes that have been used before the file is cut for that.
const USED: u64 = 64 << 10;
/// Bytes that are read at a time: a hundred addresses and more.
const WINDOW: usize = 4096;

/// What came back of one family, from a place on.
pub(super) struct Queue {
    /// `None`: nothing ever came back.
    file: Option<File>,
    path: PathBuf,
    /// Where the next line begins. Bytes.
    offset: u64,
    /// Read, and not yet handed out.
    window: Vec<u8>,
}

impl Queue {
    /// The queue, and how much of it had been read: nothing of a file that is another one
    /// than `before`.
    pub(super) fn open(
        directory: &Path,
        ipv4: bool,
        before: QueuePlace,
    ) -> Result<(Self, QueuePlace), PoolError> {
        let path = path(directory, ipv4);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (file, place) = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, QueuePlace::default()),
            Err(source) => return Err(failed("read", &path, source)),
            // A place behind the end is of an index that was damaged.
            Ok((metadata, file))
                if metadata.ino() == before.inode
                    && before.used <= metadata.len()
                    && before.seen <= metadata.len() =>
            {
                (Some(file), before)
            }
            Ok((metadata, file)) => {
                let inode = metadata.ino();
                (
                    Some(file),
                    QueuePlace {
                        inode,
                        ..QueuePlace::default()
                    },
                )
            }
        };
        let queue = Self {
            file,
            path,
            offset: 0,
            window: Vec::new(),
        };
        Ok((queue, place))
    }

    /// Goes to a place.
    pub(super) fn seek(&mut self, offset: u64) {
        self.offset = offset;
        self.window.clear();
    }

    /// The next line's address.
    pub(super) fn pop(&mut self) -> Result<Option<IpAddr>, PoolError> {
        loop {
            let Some(end) = self.window.iter().position(|byte| *byte == b'\n') else {
                if !self.fill()? {
                    return Ok(None);
                }
                continue;
            };
            let line: Vec<u8> = self.window.drain(..=end).collect();
            self.offset += line.len() as u64;
            let text = String::from_utf8_lossy(&line);
            if let Ok(address) = text.trim().parse() {
                return Ok(Some(address));
            }
        }
    }

    /// Everything from here on.
    pub(super) fn rest(&mut self) -> Result<Vec<IpAddr>, PoolError> {
        let mut addresses = Vec::new();
        while let Some(address) = self.pop()? {
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// How far lines have been handed out. Bytes.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    fn fill(&mut self) -> Result<bool, PoolError> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        // A line as long as this is none; the rest of it is skipped like any other.
        if self.window.len() >= WINDOW {
            self.offset += self.window.len() as u64;
            self.window.clear();
        }
        let mut more = [0; WINDOW];
        let read = file
            .read_at(&mut more, self.offset + self.window.len() as u64)
            .map_err(|source| failed("read", &self.path, source))?;
        self.window.extend_from_slice(&more[..read]);
        Ok(read > 0)
    }

    /// Cuts off what has been used, if it is worth it. Returns the place from then on.
    pub(super) fn trim(self, place: QueuePlace) -> Result<QueuePlace, PoolError> {
        if place.used < USED {
            return Ok(place);
        }
        let text = fs::read(&self.path).map_err(|source| failed("read", &self.path, source))?;
        let used = usize::try_from(place.used).unwrap_or(usize::MAX);
        replace(&self.path, text.get(used..).unwrap_or_default())?;
        let inode = fs::metadata(&self.path)
            .map_err(|source| failed("read", &self.path, source))?
            .ino();
        Ok(QueuePlace {
            inode,
            used: 0,
            seen: place.seen.saturating_sub(place.used),
        })
    }
}

/// Notes that an address came back. A full disk is no reason to keep an address: the order
/// is lost, and the address goes back.
pub(super) fn append(directory: &Path, address: IpAddr) -> Result<(), PoolError> {
    let path = path(directory, address.is_ipv4());
    let write = || -> io::Result<u64> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(format!("{address}\n").as_bytes())?;
        Ok(file.metadata()?.len())
    };
    let length = match write() {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
        Err(source) => return Err(failed("write", &path, source)),
        Ok(length) => length,
    };
    if length > LONGEST {
        let text = fs::read(&path).map_err(|source| failed("read", &path, source))?;
        let newest = &text[text.len().saturating_sub(KEPT as usize)..];
        let whole = newest.iter().position(|byte| *byte == b'\n');
        replace(&path, whole.map_or(newest, |end| &newest[end + 1..]))?;
    }
    Ok(())
}

fn replace(path: &Path, content: &[u8]) -> Result<(), PoolError> {
    let temporary = path.with_file_name(".released_ip");
    durable::replace(path, &temporary, content).map_err(|source| failed("write", path, source))
}

fn path(directory: &Path, ipv4: bool) -> PathBuf {
    directory.join(if ipv4 {
        "released_ip.4"
    } else {
        "released_ip.6"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(addresses: Vec<IpAddr>) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    fn open(root: &Path) -> Queue {
        Queue::open(root, true, QueuePlace::default()).unwrap().0
    }

    #[test]
    fn lines_come_in_their_order_and_what_is_none_is_skipped() {
        let root = tempfile::tempdir().unwrap();
        let path = path(root.path(), true);
        let long = "x".repeat(3 * WINDOW);
        let text = format!("10.0.0.3\n\n{long}\n\u{fffd}\n10.0.0.1\n10.0");
        fs::write(&path, text).unwrap();
        let mut queue = open(root.path());
        assert_eq!(texts(queue.rest().unwrap()), ["10.0.0.3", "10.0.0.1"]);
        let offset = queue.offset();
        append(root.path(), "10.0.0.9".parse().unwrap()).unwrap();
        append(root.path(), "10.0.0.8".parse().unwrap()).unwrap();
        let mut queue = open(root.path());
        queue.seek(offset);
        // The half line and the one written behind it are one that is none.
        assert_eq!(texts(queue.rest().unwrap()), ["10.0.0.8"]);
    }

    #[test]
    fn a_place_behind_the_end_is_none() {
        let root = tempfile::tempdir().unwrap();
        append(root.path(), "10.0.0.1".parse().unwrap()).unwrap();
        let (_, place) = Queue::open(root.path(), true, QueuePlace::default()).unwrap();
        for (used, seen) in [(u64::MAX, 0), (0, u64::MAX), (10, 0)] {
            let damaged = QueuePlace {
                used,
                seen,
                ..place
            };
            let (mut queue, found) = Queue::open(root.path(), true, damaged).unwrap();
            assert_eq!(found, place);
            queue.seek(found.seen);
            assert_eq!(texts(queue.rest().unwrap()), ["10.0.0.1"]);
        }
    }

    #[test]
    fn what_was_used_is_cut_off() {
        let root = tempfile::tempdir().unwrap();
        let lines: String = (0..10_000)
            .map(|n| format!("10.0.{}.{}\n", n / 250, n % 250))
            .collect();
        let length = lines.len() as u64;
        fs::write(path(root.path(), true), lines).unwrap();
        let (mut queue, place) = Queue::open(root.path(), true, QueuePlace::default()).unwrap();
        for _ in 0..9_999 {
            queue.pop().unwrap();
        }
        let place = QueuePlace {
            used: queue.offset(),
            seen: length,
            ..place
        };
        let place = queue.trim(place).unwrap();
        assert_eq!((place.used, place.seen), (0, 12));
        let (mut queue, same) = Queue::open(root.path(), true, place).unwrap();
        assert_eq!(same, place);
        assert_eq!(texts(queue.rest().unwrap()), ["10.0.39.249"]);
    }

    #[test]
    fn the_file_has_a_longest_length() {
        let root = tempfile::tempdir().unwrap();
        let line = "10.0.0.1\n";
        let path = path(root.path(), true);
        fs::write(&path, line.repeat(LONGEST as usize / line.len())).unwrap();
        append(root.path(), "10.0.0.2".parse().unwrap()).unwrap();
        append(root.path(), "10.0.0.3".parse().unwrap()).unwrap();
        assert!(fs::metadata(&path).unwrap().len() <= KEPT + 20);
        let left = texts(open(root.path()).rest().unwrap());
        assert_eq!(left[left.len() - 2..], ["10.0.0.2", "10.0.0.3"]);
    }
}
