//! Which addresses of a set were given out, one bit each: what makes taking the next one
//! cost the same whether none or all but one are taken.
//!
//! The index decides nothing. An address is taken when there is a file of its name; a bit
//! that is clear and should not be is found when the name is there already, and a bit that
//! is set and should not be when nothing else is left and the index is built anew from the
//! names. So it is written in place and never synced, and losing it costs one listing.
//!
//! A set bit means taken, reserved, or waiting in the queue of what came back.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use weft_proto::cni::{Range, RangeSet};

use super::{PoolError, failed};
use crate::durable;

/// Of a larger set (65,536 times sixteen) so few addresses are ever given out that the one
/// after the last is free: no index is kept.
const LARGEST_SET: u128 = 1 << 20;
/// What the file begins with: this layout.
const MAGIC: [u8; 8] = *b"weftidx1";
/// Magic, digest of the ranges, place in the queue.
const HEADER: u64 = 8 + 32 + 24;
const QUEUE_AT: u64 = 8 + 32;
/// Bytes of bits that are read at a time: a page.
const WINDOW: u64 = 4096;

/// How much of the queue of released addresses has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueuePlace {
    /// The queue's file; of another file nothing has been.
    pub(super) inode: u64,
    /// Up to here addresses were given out again. Bytes.
    pub(super) used: u64,
    /// Up to here addresses have their bits. Bytes.
    pub(super) seen: u64,
}

/// The index of one set, under the pool's lock.
pub(super) struct Index<'a> {
    file: File,
    path: PathBuf,
    set: &'a RangeSet,
    size: u64,
    /// How much of the queue has been read.
    pub(super) queue: QueuePlace,
}

/// Whether a set has an index.
pub(super) fn is_kept(set: &RangeSet) -> bool {
    set.size() <= LARGEST_SET
}

/// The file of the set with this number.
pub(super) fn path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("index.{number}"))
}

impl<'a> Index<'a> {
    /// The index on disk; `None` if there is none, or one of other ranges.
    pub(super) fn open(
        directory: &Path,
        number: usize,
        set: &'a RangeSet,
        reserved: &BTreeSet<IpAddr>,
    ) -> Result<Option<Self>, PoolError> {
        let path = path(directory, number);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("open", &path, source)),
            Ok(file) => file,
        };
        let size = size(set);
        let mut header = [0; HEADER as usize];
        let read = file
            .metadata()
            .and_then(|metadata| file.read_exact_at(&mut header, 0).map(|()| metadata.len()));
        let length = match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(source) => return Err(failed("read", &path, source)),
            Ok(length) => length,
        };
        if length != HEADER + bytes(size) || header[..QUEUE_AT as usize] != head(set, reserved) {
            return Ok(None);
        }
        let number_at = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Ok(Some(Self {
            file,
            path,
            set,
            size,
            queue: QueuePlace {
                inode: number_at(QUEUE_AT as usize),
                used: number_at(QUEUE_AT as usize + 8),
                seen: number_at(QUEUE_AT as usize + 16),
            },
        }))
    }

    /// Writes the index anew.
    pub(super) fn build(
        directory: &Path,
        number: usize,
        set: &'a RangeSet,
        reserved: &BTreeSet<IpAddr>,
        spent: &HashSet<IpAddr>,
    ) -> Result<Self, PoolError> {
        let path = path(directory, number);
        let size = size(set);
        let mut content = head(set, reserved);
        content.resize((HEADER + bytes(size)) as usize, 0);
        let bits = &mut content[HEADER as usize..];
        let ordinals = spent
            .iter()
            .chain(reserved)
            .filter_map(|address| ordinal(set, *address));
        for ordinal in ordinals {
            bits[(ordinal / 8) as usize] |= 1 << (ordinal % 8);
        }
        let temporary = directory.join(format!(".index.{number}"));
        durable::replace(&path, &temporary, &content)
            .map_err(|source| failed("write", &path, source))?;
        Self::open(directory, number, set, reserved)?.ok_or_else(|| {
            let source = io::Error::other("it does not hold what was written a moment ago");
            failed("read", &path, source)
        })
    }

    /// The first address behind `last` whose bit is clear, around the end; `None` if there
    /// is none.
    pub(super) fn next(&self, last: Option<IpAddr>) -> Result<Option<IpAddr>, PoolError> {
        let start = last
            .and_then(|address| ordinal(self.set, address))
            .map_or(0, |ordinal| (ordinal + 1) % self.size);
        let found = match self.clear_in(start, self.size)? {
            None => self.clear_in(0, start)?,
            found => found,
        };
        Ok(found.and_then(|ordinal| address(self.set, ordinal)))
    }

    /// The first clear bit from `from` to below `to`.
    fn clear_in(&self, from: u64, to: u64) -> Result<Option<u64>, PoolError> {
        let mut window = [0; WINDOW as usize];
        let mut at = from;
        while at < to {
            let first = at / 8;
            let length = (bytes(to) - first).min(WINDOW) as usize;
            self.file
                .read_exact_at(&mut window[..length], HEADER + first)
                .map_err(|source| failed("read", &self.path, source))?;
            for (byte, bits) in (first..).zip(&window[..length]) {
                // What is in front of `at` counts as set.
                let ahead = at.saturating_sub(byte * 8).min(8);
                let bits = u16::from(*bits) | ((1_u16 << ahead) - 1);
                let clear = u64::from(bits.trailing_ones());
                if clear < 8 {
                    let ordinal = byte * 8 + clear;
                    return Ok(Some(ordinal).filter(|ordinal| *ordinal < to));
                }
            }
            at = (first + length as u64) * 8;
        }
        Ok(None)
    }

    /// Sets an address's bit.
    pub(super) fn mark(&self, address: IpAddr) -> Result<(), PoolError> {
        let Some(ordinal) = ordinal(self.set, address) else {
            return Ok(());
        };
        let at = HEADER + ordinal / 8;
        let mut byte = [0];
        self.file
            .read_exact_at(&mut byte, at)
            .and_then(|()| self.file.write_all_at(&[byte[0] | 1 << (ordinal % 8)], at))
            .map_err(|source| failed("write", &self.path, source))
    }

    /// Writes down how much of the queue has been read.
    pub(super) fn remember_queue(&mut self, queue: QueuePlace) -> Result<(), PoolError> {
        if queue == self.queue {
            return Ok(());
        }
        self.queue = queue;
        let words = [queue.inode, queue.used, queue.seen].map(u64::to_le_bytes);
        let words = words.concat();
        self.file
            .write_all_at(&words, QUEUE_AT)
            .map_err(|source| failed("write", &self.path, source))
    }
}

fn head(set: &RangeSet, reserved: &BTreeSet<IpAddr>) -> Vec<u8> {
    let mut digest = Sha256::new();
    for range in &set.ranges {
        digest.update(format!("{}-{}\n", range.first, range.last));
    }
    for address in reserved.iter().filter(|address| set.contains(**address)) {
        digest.update(format!("{address}\n"));
    }
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&digest.finalize());
    head
}

fn size(set: &RangeSet) -> u64 {
    u64::try_from(set.size().min(LARGEST_SET)).unwrap_or(0)
}

fn bytes(bits: u64) -> u64 {
    bits.div_ceil(8)
}

/// An address's place among all of the set's.
fn ordinal(set: &RangeSet, address: IpAddr) -> Option<u64> {
    let mut before: u128 = 0;
    for range in &set.ranges {
        if range.contains(address) {
            let place = before + (number(address) - number(range.first));
            return u64::try_from(place).ok();
        }
        before = before.saturating_add(range.size());
    }
    None
}

fn address(set: &RangeSet, ordinal: u64) -> Option<IpAddr> {
    let mut left = u128::from(ordinal);
    for range in &set.ranges {
        if left < range.size() {
            return Some(at(range, left));
        }
        left -= range.size();
    }
    None
}

fn at(range: &Range, offset: u128) -> IpAddr {
    match range.first {
        // In the range, so it fits.
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(
            u32::from(first).wrapping_add(u32::try_from(offset).unwrap_or(0)),
        )),
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first).wrapping_add(offset))),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[&str]) -> RangeSet {
        RangeSet {
            ranges: ranges
                .iter()
                .map(|range| Range::of(range.parse().unwrap()))
                .collect(),
        }
    }

    #[test]
    fn every_address_has_one_place() {
        let set = set(&["10.0.0.0/30", "10.0.9.0/29"]);
        let all: Vec<IpAddr> = (0..8).map(|n| address(&set, n).unwrap()).collect();
        assert_eq!(address(&set, 8), None);
        for (place, one) in (0..).zip(&all) {
            assert_eq!(ordinal(&set, *one), Some(place));
        }
        assert_eq!(all[2].to_string(), "10.0.9.1");
        assert_eq!(ordinal(&set, "10.0.5.1".parse().unwrap()), None);
    }

    #[test]
    fn the_next_clear_bit_is_found_around_the_end_and_across_windows() {
        let root = tempfile::tempdir().unwrap();
        let set = set(&["10.0.0.0/15"]);
        let none = BTreeSet::new();
        let all: HashSet<IpAddr> = (0..size(&set))
            .filter(|ordinal| ![5, 100_000].contains(ordinal))
            .map(|ordinal| address(&set, ordinal).unwrap())
            .collect();
        let index = Index::build(root.path(), 0, &set, &none, &all).unwrap();
        let next = |last: Option<u64>| {
            let last = last.and_then(|ordinal| address(&set, ordinal));
            let found = index.next(last).unwrap();
            found.and_then(|address| ordinal(&set, address))
        };
        assert_eq!(next(None), Some(5));
        assert_eq!(next(Some(4)), Some(5));
        assert_eq!(next(Some(5)), Some(100_000));
        assert_eq!(next(Some(100_000)), Some(5));
        assert_eq!(next(Some(size(&set) - 1)), Some(5));
        index.mark(address(&set, 5).unwrap()).unwrap();
        assert_eq!(next(Some(99_999)), Some(100_000));
        index.mark(address(&set, 100_000).unwrap()).unwrap();
        assert_eq!(next(Some(3)), None);
    }

    #[test]
    fn an_index_of_other_ranges_is_none() {
        let root = tempfile::tempdir().unwrap();
        let (one, other) = (set(&["10.0.0.0/24"]), set(&["10.0.1.0/24"]));
        let mut reserved = BTreeSet::new();
        Index::build(root.path(), 0, &one, &reserved, &HashSet::new()).unwrap();
        let open = |set: &RangeSet, reserved: &BTreeSet<IpAddr>| {
            Index::open(root.path(), 0, set, reserved)
                .unwrap()
                .is_some()
        };
        assert!(open(&one, &reserved));
        assert!(!open(&other, &reserved));
        reserved.insert("10.0.0.7".parse().unwrap());
        assert!(!open(&one, &reserved));
        std::fs::write(path(root.path(), 0), b"weftidx1 and nothing").unwrap();
        assert!(!open(&one, &BTreeSet::new()));
    }
}
