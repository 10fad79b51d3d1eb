//! Responses of other servers.

use thiserror::Error;

use super::name::{self, WireName};
use super::{CLASS_IN, HEADER_LEN, RecordType, flag, word};

/// The bytes are no DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed DNS message")]
pub struct Malformed;

/// A response to one question.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    message: &'a [u8],
    records_at: usize,
}

/// A record of a response's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseRecord {
    /// The name it belongs to.
    pub owner: WireName,
    /// Its type.
    pub record_type: RecordType,
    /// How many seconds it may be kept.
    pub ttl: u32,
    /// Its data, names in it uncompressed.
    pub data: Vec<u8>,
}

impl<'a> Response<'a> {
    /// Reads a response's header and question.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let flags = word(message, 2).ok_or(Malformed)?;
        if message.len() < HEADER_LEN || flags & flag::RESPONSE == 0 || word(message, 4) != Some(1)
        {
            return Err(Malformed);
        }
        let question = name::plain_length(&message[HEADER_LEN..]).ok_or(Malformed)?;
        let records_at = HEADER_LEN + question + 4;
        if message.len() < records_at {
            return Err(Malformed);
        }
        Ok(Self {
            message,
            records_at,
        })
    }

    /// Whether it answers the query sent as `query`: same number, same question.
    pub fn answers(&self, query: &[u8]) -> bool {
        query.get(..2) == self.message.get(..2)
            && query
                .get(HEADER_LEN..self.records_at)
                .is_some_and(|question| {
                    question.eq_ignore_ascii_case(&self.message[HEADER_LEN..self.records_at])
                })
    }

    /// TC: more than was sent.
    pub fn truncated(&self) -> bool {
        word(self.message, 2).is_some_and(|flags| flags & flag::TRUNCATED != 0)
    }

    /// The response code's four bits of the header.
    pub fn rcode(&self) -> u16 {
        word(self.message, 2).unwrap_or_default() & flag::RCODE
    }

    /// The answer's records of class IN whose data weft can copy: of type `record_type`
    /// (with no names in its data), and aliases.
    pub fn records(&self, record_type: RecordType) -> Result<Vec<ResponseRecord>, Malformed> {
        let count = word(self.message, 6).ok_or(Malformed)?;
        let mut found = Vec::new();
        let mut at = self.records_at;
        for _ in 0..count {
            let (owner, fields) = name::read(self.message, at).ok_or(Malformed)?;
            let field = |offset| word(self.message, fields + offset).ok_or(Malformed);
            let this_type = RecordType(field(0)?);
            let class = field(2)?;
            let ttl = u32::from(field(4)?) << 16 | u32::from(field(6)?);
            let start = fields + 10;
            let end = start + usize::from(field(8)?);
            let data = self.message.get(start..end).ok_or(Malformed)?;
            at = end;
            let data = if this_type == RecordType::CNAME {
                let (target, _) = name::read(self.message, start).ok_or(Malformed)?;
                target.as_bytes().to_vec()
            } else if this_type == record_type {
                data.to_vec()
            } else {
                continue;
            };
            if class == CLASS_IN {
                found.push(ResponseRecord {
                    owner,
                    record_type: this_type,
                    ttl,
                    data,
                });
            }
        }
        Ok(found)
    }
}
