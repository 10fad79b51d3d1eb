//! Replies: the query's question, ready records, a header.

use super::answer::{Answer, Soa};
use super::name;
use super::query::Query;
use super::{EDNS_UDP_SIZE, HEADER_LEN, MAX_MESSAGE, Rcode, RecordType, flag, word};

/// An OPT record without options.
const OPT_LEN: usize = 11;

/// Writes the reply that `answer` gives, with authority. `rotation` says which of its
/// records comes first (any number); `limit` is the most bytes the reply may have. What
/// does not fit is left out: from the answer section with TC set (RFC 2181, section 9),
/// additional records silently.
pub fn answer(out: &mut Vec<u8>, query: &Query<'_>, answer: &Answer, rotation: u32, limit: usize) {
    let limit = limit.min(MAX_MESSAGE);
    begin(out, query, Rcode::NoError, flag::AUTHORITATIVE);
    let room = limit.saturating_sub(out.len() + opt_len(query));
    let bytes = answer.answer_bytes();
    let count = answer.count();
    let first = if count > 1 && is_rrset(bytes) {
        nth_record(bytes, rotation % u32::from(count))
    } else {
        0
    };
    let complete = bytes.len() <= room;
    let (answers, additional) = if complete {
        out.extend_from_slice(&bytes[first..]);
        out.extend_from_slice(&bytes[..first]);
        let room = room - bytes.len();
        (
            count,
            append_fitting(
                out,
                answer.additional_bytes(),
                answer.additional_count(),
                room,
            ),
        )
    } else {
        let before = out.len();
        let mut some = append_fitting(out, &bytes[first..], count, room);
        let used = out.len() - before;
        if used == bytes.len() - first {
            some += append_fitting(out, &bytes[..first], count, room - used);
        }
        set_flags(out, flag::TRUNCATED);
        (some, 0)
    };
    finish(out, query, Rcode::NoError, [answers, 0, additional]);
}

/// Writes the reply that there is no such name ([`Rcode::NxDomain`]), no such record of
/// it ([`Rcode::NoError`]), or no knowing ([`Rcode::ServFail`]), with the zone's SOA.
/// `lower_name` is the question's name in lower case.
pub fn negative(
    out: &mut Vec<u8>,
    query: &Query<'_>,
    lower_name: &[u8],
    rcode: Rcode,
    soa: &Soa,
    serial: u32,
) {
    begin(out, query, rcode, flag::AUTHORITATIVE);
    soa.write(out, lower_name, serial);
    finish(out, query, rcode, [0, 1, 0]);
}

/// Writes the reply to a question for the zone's SOA.
pub fn soa(out: &mut Vec<u8>, query: &Query<'_>, lower_name: &[u8], soa: &Soa, serial: u32) {
    begin(out, query, Rcode::NoError, flag::AUTHORITATIVE);
    soa.write(out, lower_name, serial);
    finish(out, query, Rcode::NoError, [1, 0, 0]);
}

/// Writes a reply that has only a code. `recursion` sets RA: the code is that of a
/// server that asks others.
pub fn failure(out: &mut Vec<u8>, query: &Query<'_>, rcode: Rcode, recursion: bool) {
    let flags = if recursion {
        flag::RECURSION_AVAILABLE
    } else {
        0
    };
    begin(out, query, rcode, flags);
    finish(out, query, rcode, [0, 0, 0]);
}

/// Writes the reply to a packet that is no query weft understands; nothing if it is too
/// short for a header.
pub fn rejection(out: &mut Vec<u8>, packet: &[u8], rcode: Rcode) {
    out.clear();
    let Some(header) = packet.get(..HEADER_LEN) else {
        return;
    };
    let flags = word(header, 2).unwrap_or_default() & (flag::OPCODE | flag::RECURSION_DESIRED);
    out.extend_from_slice(&header[..2]);
    out.extend_from_slice(&(flags | flag::RESPONSE | rcode.number() & flag::RCODE).to_be_bytes());
    out.extend_from_slice(&[0; 8]);
}

/// Rewrites another server's response into the reply to `query`: its number and its
/// spelling of the question. Over `limit` bytes it is cut to the question, with TC set,
/// so that the client comes again over TCP.
pub fn relay(out: &mut Vec<u8>, query: &Query<'_>, response: &[u8], limit: usize) {
    let question = query.question();
    let end = HEADER_LEN + question.len();
    out.clear();
    if response.len() < end {
        failure(out, query, Rcode::ServFail, true);
        return;
    }
    let fits = response.len() <= limit.min(MAX_MESSAGE);
    out.extend_from_slice(if fits { response } else { &response[..end] });
    out[..2].copy_from_slice(&query.id().to_be_bytes());
    out[HEADER_LEN..end].copy_from_slice(question);
    if !fits {
        set_flags(out, flag::TRUNCATED);
        out[6..HEADER_LEN].fill(0);
        if query.edns().is_some() {
            finish(out, query, Rcode::NoError, [0, 0, 0]);
        }
    }
}

/// Appends an OPT record: the code's high bits, and DO as the client set it (RFC 3225).
pub(super) fn write_opt(out: &mut Vec<u8>, rcode: u16, dnssec_ok: bool) {
    let size = u16::try_from(EDNS_UDP_SIZE)
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    let [_, extended, _, _] = (u32::from(rcode) << 12).to_be_bytes();
    let dnssec_ok = if dnssec_ok { 0x80 } else { 0 };
    let [type_high, type_low] = RecordType::OPT.0.to_be_bytes();
    out.extend_from_slice(&[
        0, type_high, type_low, size[0], size[1], extended, 0, dnssec_ok, 0, 0, 0,
    ]);
}

/// Header with the counts of an empty reply, and the question.
fn begin(out: &mut Vec<u8>, query: &Query<'_>, rcode: Rcode, flags: u16) {
    out.clear();
    let flags = flag::RESPONSE | query.repeated_flags() | flags | (rcode.number() & flag::RCODE);
    out.extend_from_slice(&query.id().to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(query.question());
}

/// The OPT record if the client sent one, and the counts of answer, authority and
/// additional section.
fn finish(out: &mut Vec<u8>, query: &Query<'_>, rcode: Rcode, mut counts: [u16; 3]) {
    if let Some(edns) = query.edns() {
        write_opt(out, rcode.number(), edns.dnssec_ok);
        counts[2] += 1;
    }
    for (index, count) in counts.into_iter().enumerate() {
        let at = 6 + index * 2;
        out[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
}

fn opt_len(query: &Query<'_>) -> usize {
    if query.edns().is_some() { OPT_LEN } else { 0 }
}

fn set_flags(out: &mut [u8], flags: u16) {
    let [high, low] = flags.to_be_bytes();
    out[2] |= high;
    out[3] |= low;
}

/// Whether all is one set of records, whose order means nothing; an answer that begins
/// with an alias is a chain.
fn is_rrset(records: &[u8]) -> bool {
    name::skip(records, 0).and_then(|at| word(records, at)) != Some(RecordType::CNAME.0)
}

/// Where record `index` begins.
fn nth_record(records: &[u8], index: u32) -> usize {
    let mut at = 0;
    for _ in 0..index {
        let Some(next) = record_end(records, at) else {
            return 0;
        };
        at = next;
    }
    at
}

/// Position after the record at `at`.
pub(super) fn record_end(records: &[u8], at: usize) -> Option<usize> {
    let fields = name::skip(records, at)?;
    let length = usize::from(word(records, fields + 8)?);
    let end = fields + 10 + length;
    (end <= records.len()).then_some(end)
}

/// Appends whole records, at most `count`, while they fit into `room` bytes; tells how many.
fn append_fitting(out: &mut Vec<u8>, records: &[u8], count: u16, room: usize) -> u16 {
    let mut end = 0;
    let mut fitting = 0;
    while fitting < count
        && let Some(next) = record_end(records, end).filter(|next| *next <= room)
    {
        end = next;
        fitting += 1;
    }
    out.extend_from_slice(&records[..end]);
    fitting
}
