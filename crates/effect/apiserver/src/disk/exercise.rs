//! The body of the log's fuzz target.

use super::log;
use super::record::{self, BLOCK, Body, Writer};

const IDENTITY: record::Identity = *b"a store to fuzz.";

/// Reads a log. `data` is the number of blocks of the first segment (1), then each block of both
/// segments: the length (2) of what it begins with, and that; the rest of it is zeros. Must not
/// panic, whatever `data` is, be the records' sums right or not; asserts that what is found is
/// without gaps, and says the same when it is written again.
pub fn exercise_log(data: &[u8]) {
    let mut segments = expanded(data);
    read(&segments);
    for segment in &mut segments {
        record::seal_all(&IDENTITY, segment);
    }
    read(&segments);
}

fn expanded(data: &[u8]) -> [Vec<u8>; 2] {
    let mut segments = [vec![0; BLOCK], vec![0; BLOCK]];
    let Some((first, mut rest)) = data.split_first() else {
        return segments;
    };
    let mut number = 0;
    while let Some((length, tail)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(tail.len());
        let (block, tail) = tail.split_at(length.min(BLOCK));
        let segment = &mut segments[usize::from(number >= usize::from(*first))];
        segment.extend_from_slice(block);
        segment.resize(segment.len().next_multiple_of(BLOCK), 0);
        (rest, number) = (tail, number + 1);
    }
    segments
}

fn read(segments: &[Vec<u8>; 2]) {
    for applied in [0, 1, 7, u64::MAX] {
        let Some(records) = log::follow(&IDENTITY, segments, applied) else {
            continue;
        };
        let mut last = applied;
        for (segment, found) in &records {
            assert_eq!(
                Some(found.sequence),
                last.checked_add(1),
                "records follow each other"
            );
            last = found.sequence;
            if let Some(body) = Body::parse(found.body(&segments[*segment])) {
                let same = written_again(found.sequence, &body);
                assert_eq!(same, Some(true), "what was read can be written");
            }
        }
    }
}

/// Whether a record of this body reads as it should.
fn written_again(sequence: u64, body: &Body<'_>) -> Option<bool> {
    let mut writer = Writer::default();
    writer.begin(&IDENTITY, sequence, body.version);
    writer.count(body.changed.len());
    for (collection, version) in &body.changed {
        writer.changed(collection, *version);
    }
    writer.count(body.objects.len());
    for ((collection, key), json) in &body.objects {
        writer.object(collection, key, *json);
    }
    writer.finish();
    let found = record::find(&IDENTITY, writer.whole(), 0)?;
    let again = Body::parse(found.body(writer.whole()))?;
    Some(found.sequence == sequence && again == *body)
}
