//! DNS on the wire (RFC 1035, RFC 6891), for a server whose answers are ready before
//! the question comes.
//!
//! A [`Query`] borrows the packet it was parsed from. An [`Answer`] holds the records
//! of one name and type in wire form, everything after the question; a reply is the
//! query's question, a copy of the answer, and a few bytes of header
//! ([`reply`]). Names inside an answer are compressed against the question's name
//! only, so that records can be rotated and cut off without touching any other.

mod answer;
mod exercise;
mod name;
mod query;
mod record;
pub mod reply;
mod response;

pub use answer::{Answer, AnswerBuilder, Soa};
pub use exercise::exercise;
pub use name::{NameError, WireName, suffix_offset};
pub use query::{Edns, Query, Rejected, encode_query};
pub use record::{RecordData, RecordType};
pub use response::{Malformed, Response, ResponseRecord};

/// The size of a message's header (RFC 1035, section 4.1.1).
pub const HEADER_LEN: usize = 12;
/// What a client without EDNS can take over UDP (RFC 1035, section 4.2.1).
pub const PLAIN_UDP_SIZE: usize = 512;
/// The largest reply sent over UDP: passes every path without fragments
/// (DNS Flag Day 2020).
pub const EDNS_UDP_SIZE: usize = 1232;
/// The largest message there can be: TCP's length prefix has two bytes.
pub const MAX_MESSAGE: usize = 65_535;
/// CLASS IN (RFC 1035, section 3.2.4).
pub const CLASS_IN: u16 = 1;

/// A response code (IANA, DNS RCODEs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// The answer is in the reply; an empty one says that the name has no such records.
    NoError,
    /// The query makes no sense.
    FormErr,
    /// The server can't say now.
    ServFail,
    /// The name does not exist.
    NxDomain,
    /// The server does not know this kind of query.
    NotImp,
    /// The server does not answer this for this client.
    Refused,
    /// EDNS of a version the server does not know (RFC 6891, section 9).
    BadVers,
}

impl Rcode {
    /// The code's number: 4 bits, and above them those that go into the OPT record.
    pub fn number(self) -> u16 {
        match self {
            Rcode::NoError => 0,
            Rcode::FormErr => 1,
            Rcode::ServFail => 2,
            Rcode::NxDomain => 3,
            Rcode::NotImp => 4,
            Rcode::Refused => 5,
            Rcode::BadVers => 16,
        }
    }
}

/// Bits of the header's second 16-bit word (RFC 1035, section 4.1.1; RFC 4035 for CD).
pub(crate) mod flag {
    pub(crate) const RESPONSE: u16 = 0x8000;
    pub(crate) const OPCODE: u16 = 0x7800;
    pub(crate) const AUTHORITATIVE: u16 = 0x0400;
    pub(crate) const TRUNCATED: u16 = 0x0200;
    pub(crate) const RECURSION_DESIRED: u16 = 0x0100;
    pub(crate) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(crate) const CHECKING_DISABLED: u16 = 0x0010;
    pub(crate) const RCODE: u16 = 0x000f;
}

/// The 16-bit word at `at`, most significant byte first.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}
