//! What the log holds: records, each the outcome of one batch of writes.
//!
//! A record begins at a block's edge, so that writing one never touches a block in which an
//! acknowledged one stands, and so that one behind a damaged place can be found:
//!
//! ```text
//! head:    identity of the store (16) | sequence (8) | length of the body (8) | CRC-32 (4)
//! body:    version (8)
//!          count (4), of each collection that changed:  name | version of its last change (8)
//!          count (4), of each object:                   collection | key | 1 and its JSON, or 0
//! zeros:   to the end of the block
//! ```
//!
//! Numbers are little-endian; a text is its length (4) and its bytes. The sum is over the head
//! before it and the body. The identity is random and told to nobody, so no object can be written
//! in such a way that a part of it looks like a record.

use std::collections::BTreeMap;
use std::ops::Range;

/// What is written at once, at least. Pages and the sectors of today's disks are as long.
pub(super) const BLOCK: usize = 4096;
const SUM_AT: usize = 16 + 8 + 8;
const HEAD: usize = SUM_AT + 4;

/// Whose a log is.
pub(super) type Identity = [u8; 16];

/// A record that was found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) sequence: u64,
    /// Where the body stands in what was searched.
    body: Range<usize>,
}

impl Found {
    pub(super) fn body<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.body.clone()).unwrap_or_default()
    }

    /// Where the next record begins.
    pub(super) fn end(&self) -> usize {
        self.body.end.next_multiple_of(BLOCK)
    }
}

/// The record at `offset`, if a whole one of this store stands there.
pub(super) fn find(identity: &Identity, bytes: &[u8], offset: usize) -> Option<Found> {
    let bytes_here = bytes.get(offset..)?;
    let (sequence, sum, body) = split(identity, bytes_here)?;
    if sum != checksum(&bytes_here[..SUM_AT], body) {
        return None;
    }
    let start = offset + HEAD;
    Some(Found {
        sequence,
        body: start..start + body.len(),
    })
}

/// Sequence, sum, and body of what begins like a record.
fn split<'a>(identity: &Identity, bytes: &'a [u8]) -> Option<(u64, u32, &'a [u8])> {
    let mut head = Reader(bytes.get(..HEAD)?);
    if head.bytes(identity.len())? != identity {
        return None;
    }
    let (sequence, length, sum) = (head.u64()?, head.u64()?, head.u32()?);
    let body = bytes[HEAD..].get(..usize::try_from(length).ok()?)?;
    Some((sequence, sum, body))
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(head);
    sum.update(body);
    sum.finalize()
}

/// The records that follow one another from `start` on, and whether a whole one with a higher
/// number stands somewhere behind them: then one in between was lost.
pub(super) fn scan(identity: &Identity, bytes: &[u8], start: usize) -> (Vec<Found>, Option<u64>) {
    let mut records: Vec<Found> = Vec::new();
    let mut at = start;
    while let Some(found) = find(identity, bytes, at) {
        if records
            .last()
            .is_some_and(|last| last.sequence.checked_add(1) != Some(found.sequence))
        {
            break;
        }
        at = found.end();
        records.push(found);
    }
    let rest = (at..bytes.len()).step_by(BLOCK);
    let stray = rest
        .filter_map(|at| find(identity, bytes, at))
        .map(|found| found.sequence)
        .max();
    (records, stray)
}

/// Makes the sum of what begins like a record right, wherever it does. For fuzzing: nothing would
/// come past the sum.
pub(super) fn seal_all(identity: &Identity, bytes: &mut [u8]) {
    for at in (0..bytes.len()).step_by(BLOCK) {
        if let Some((_, _, body)) = split(identity, &bytes[at..]) {
            let sum = checksum(&bytes[at..at + SUM_AT], body);
            bytes[at + SUM_AT..at + HEAD].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// A body that was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Body<'a> {
    pub(super) version: u64,
    pub(super) changed: BTreeMap<&'a str, u64>,
    /// JSON by collection and key; `None` where there is none any more.
    pub(super) objects: BTreeMap<(&'a str, &'a str), Option<&'a [u8]>>,
}

impl<'a> Body<'a> {
    /// Reads a body; `None` if it is not one.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let mut body = Self {
            version: reader.u64()?,
            ..Self::default()
        };
        for _ in 0..reader.u32()? {
            let collection = reader.text()?;
            body.changed.insert(collection, reader.u64()?);
        }
        for _ in 0..reader.u32()? {
            let place = (reader.text()?, reader.text()?);
            let json = match reader.bytes(1)? {
                [0] => None,
                [1] => Some(reader.long()?),
                _ => return None,
            };
            body.objects.insert(place, json);
        }
        reader.0.is_empty().then_some(body)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.bytes(4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let bytes = self.bytes(8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.long()?).ok()
    }
}

/// Writes one record into a buffer that is used again and again.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

/// A buffer that a large record has made longer than this is given back.
const KEPT_BUFFER: usize = 1 << 20;

impl Writer {
    pub(super) fn begin(&mut self, identity: &Identity, sequence: u64, version: u64) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BUFFER);
        self.bytes.extend_from_slice(identity);
        self.bytes.extend_from_slice(&sequence.to_le_bytes());
        self.bytes.resize(HEAD, 0);
        self.bytes.extend_from_slice(&version.to_le_bytes());
    }

    pub(super) fn count(&mut self, count: usize) {
        self.bytes.extend_from_slice(&short(count).to_le_bytes());
    }

    pub(super) fn changed(&mut self, collection: &str, version: u64) {
        self.long(collection.as_bytes());
        self.bytes.extend_from_slice(&version.to_le_bytes());
    }

    pub(super) fn object(&mut self, collection: &str, key: &str, json: Option<&[u8]>) {
        self.long(collection.as_bytes());
        self.long(key.as_bytes());
        self.bytes.push(u8::from(json.is_some()));
        if let Some(json) = json {
            self.long(json);
        }
    }

    fn long(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Completes the record; returns its length.
    pub(super) fn finish(&mut self) -> usize {
        let length = (self.bytes.len() - HEAD) as u64;
        self.bytes[SUM_AT - 8..SUM_AT].copy_from_slice(&length.to_le_bytes());
        let (head, body) = self.bytes.split_at(HEAD);
        let sum = checksum(&head[..SUM_AT], body);
        self.bytes[SUM_AT..HEAD].copy_from_slice(&sum.to_le_bytes());
        let whole = self.bytes.len().next_multiple_of(BLOCK);
        self.bytes.resize(whole, 0);
        whole
    }

    /// The record, as it is written.
    pub(super) fn whole(&self) -> &[u8] {
        &self.bytes
    }
}

/// Objects are bounded by what a client may send, a batch by their number.
fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
