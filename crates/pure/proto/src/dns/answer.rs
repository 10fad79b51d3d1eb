//! Answers in wire form, made before they are asked for.

use super::name::{self, WireName};
use super::{CLASS_IN, MAX_MESSAGE, RecordData, RecordType};

/// The records that answer one question: everything of the message after the
/// question, valid behind any spelling of the question's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    records: Box<[u8]>,
    /// Where the additional records begin in `records`.
    additional_at: u32,
    answers: u16,
    additional: u16,
}

impl Answer {
    /// Records of the answer section.
    pub fn count(&self) -> u16 {
        self.answers
    }

    /// Records of the additional section.
    pub fn additional_count(&self) -> u16 {
        self.additional
    }

    /// TTL and data of the answer's records, for types without names in their data.
    pub fn plain_records(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let bytes = self.answer_bytes();
        let mut at = 0;
        std::iter::from_fn(move || {
            let end = super::reply::record_end(bytes, at)?;
            let fields = name::skip(bytes, at)?;
            at = end;
            let ttl = bytes.get(fields + 4..fields + 8)?.first_chunk()?;
            Some((u32::from_be_bytes(*ttl), &bytes[fields + 10..end]))
        })
    }

    pub(super) fn answer_bytes(&self) -> &[u8] {
        &self.records[..self.additional_at as usize]
    }

    pub(super) fn additional_bytes(&self) -> &[u8] {
        &self.records[self.additional_at as usize..]
    }
}

/// Makes an [`Answer`]. Answers first, then additional records.
#[derive(Debug)]
pub struct AnswerBuilder<'q> {
    question: &'q [u8],
    answers: Vec<u8>,
    additional: Vec<u8>,
    answer_count: u16,
    additional_count: u16,
}

impl<'q> AnswerBuilder<'q> {
    /// For a question about this name, lower-case and uncompressed.
    pub fn new(question: &'q [u8]) -> Self {
        Self {
            question,
            answers: Vec::new(),
            additional: Vec::new(),
            answer_count: 0,
            additional_count: 0,
        }
    }

    /// Adds a record of the question's name. `ttl` in seconds. What no message can
    /// carry any more is left out.
    pub fn answer(&mut self, ttl: u32, data: &RecordData) -> &mut Self {
        if self.answers.len() <= MAX_MESSAGE {
            self.answers.extend_from_slice(&name::pointer(0));
            write_record(&mut self.answers, self.question, ttl, data);
            self.answer_count += 1;
        }
        self
    }

    /// Adds a record of another name to the answer: the later links of a chain of aliases.
    pub fn answer_of(&mut self, owner: &WireName, ttl: u32, data: &RecordData) -> &mut Self {
        if self.answers.len() <= MAX_MESSAGE {
            name::write_compressed(&mut self.answers, owner, self.question);
            write_record(&mut self.answers, self.question, ttl, data);
            self.answer_count += 1;
        }
        self
    }

    /// Adds a record of another name to the answer, its data in wire form without
    /// compressed names.
    pub fn answer_raw(
        &mut self,
        owner: &WireName,
        record_type: RecordType,
        ttl: u32,
        data: &[u8],
    ) -> &mut Self {
        let Ok(length) = u16::try_from(data.len()) else {
            return self;
        };
        if self.answers.len() <= MAX_MESSAGE {
            let out = &mut self.answers;
            name::write_compressed(out, owner, self.question);
            out.extend_from_slice(&record_type.0.to_be_bytes());
            out.extend_from_slice(&CLASS_IN.to_be_bytes());
            out.extend_from_slice(&ttl.to_be_bytes());
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(data);
            self.answer_count += 1;
        }
        self
    }

    /// Adds what spares the client a question: an address of a name in the answer.
    pub fn additional(&mut self, owner: &WireName, ttl: u32, data: &RecordData) -> &mut Self {
        if self.additional.len() <= MAX_MESSAGE {
            name::write_compressed(&mut self.additional, owner, self.question);
            write_record(&mut self.additional, self.question, ttl, data);
            self.additional_count += 1;
        }
        self
    }

    /// The answer.
    pub fn finish(mut self) -> Answer {
        // Both sections stop growing just past 64 KiB.
        let additional_at = u32::try_from(self.answers.len()).unwrap_or(u32::MAX);
        self.answers.append(&mut self.additional);
        Answer {
            records: self.answers.into(),
            additional_at,
            answers: self.answer_count,
            additional: self.additional_count,
        }
    }
}

/// Appends type, class, TTL and data of a record whose owner's name is written.
fn write_record(out: &mut Vec<u8>, question: &[u8], ttl: u32, data: &RecordData) {
    out.extend_from_slice(&data.record_type().0.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    match data {
        RecordData::V4(address) => out.extend_from_slice(&address.octets()),
        RecordData::V6(address) => out.extend_from_slice(&address.octets()),
        RecordData::Alias(name) | RecordData::Pointer(name) | RecordData::NameServer(name) => {
            name::write_compressed(out, name, question);
        }
        RecordData::Service {
            priority,
            weight,
            port,
            target,
        } => {
            out.extend_from_slice(&priority.to_be_bytes());
            out.extend_from_slice(&weight.to_be_bytes());
            out.extend_from_slice(&port.to_be_bytes());
            // Never compressed: RFC 2782, "Target".
            out.extend_from_slice(target.as_bytes());
        }
        RecordData::Text(text) => write_text(out, text.as_bytes()),
    }
    let length = u16::try_from(out.len() - length_at - 2).unwrap_or(u16::MAX);
    out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Most a TXT record carries, length bytes included.
const MAX_TEXT: usize = 65_280;

fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_empty() {
        out.push(0);
    }
    for part in text[..text.len().min(MAX_TEXT - 256)].chunks(255) {
        out.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(part);
    }
}

/// A zone's SOA record (RFC 1035, section 3.3.13), as it stands in answers about it and
/// in answers that there is nothing. All times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soa {
    /// The zone.
    pub zone: WireName,
    /// The name of its first server.
    pub server: WireName,
    /// The mailbox of who answers for it, `@` written as a dot.
    pub mailbox: WireName,
    /// How long the record itself may be kept.
    pub ttl: u32,
    /// Refresh interval for secondary servers.
    pub refresh: u32,
    /// Retry interval for secondary servers.
    pub retry: u32,
    /// When secondary servers stop answering.
    pub expire: u32,
    /// How long it may be kept that a name or record does not exist (RFC 2308).
    pub minimum: u32,
}

impl Soa {
    /// Appends the record to a message whose question is about `question`, lower-case
    /// and uncompressed.
    pub(super) fn write(&self, out: &mut Vec<u8>, question: &[u8], serial: u32) {
        name::write_compressed(out, &self.zone, question);
        out.extend_from_slice(&RecordType::SOA.0.to_be_bytes());
        out.extend_from_slice(&CLASS_IN.to_be_bytes());
        out.extend_from_slice(&self.ttl.to_be_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0, 0]);
        name::write_compressed(out, &self.server, question);
        name::write_compressed(out, &self.mailbox, question);
        for field in [serial, self.refresh, self.retry, self.expire, self.minimum] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        let length = u16::try_from(out.len() - length_at - 2).unwrap_or_default();
        out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }
}
