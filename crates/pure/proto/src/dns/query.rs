//! Queries.

use super::name::{self, WireName};
use super::{
    CLASS_IN, EDNS_UDP_SIZE, HEADER_LEN, MAX_MESSAGE, PLAIN_UDP_SIZE, Rcode, RecordType, flag, word,
};

/// A query of one question, as practically all are.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    packet: &'a [u8],
    name_len: usize,
    record_type: RecordType,
    class: u16,
    edns: Option<Edns>,
}

/// What the query's OPT record says (RFC 6891, section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The largest reply the client takes over UDP.
    pub udp_size: u16,
    /// The version; only 0 exists.
    pub version: u8,
    /// DO: the client wants signatures (RFC 3225).
    pub dnssec_ok: bool,
    /// Where the record's class, which is the UDP size, stands in the packet.
    size_at: usize,
}

/// Why a packet is not a [`Query`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Nothing may be sent: too short for a header, or itself a response.
    Silent,
    /// The sender is told so ([`super::reply::rejection`]).
    Reply(Rcode),
}

/// The most additional records looked at; a query has one or two.
const MAX_RECORDS: u32 = 64;

impl<'a> Query<'a> {
    /// Reads a packet. Bytes behind the message are ignored.
    pub fn parse(packet: &'a [u8]) -> Result<Self, Rejected> {
        if packet.len() < HEADER_LEN {
            return Err(Rejected::Silent);
        }
        let header = |index: usize| word(packet, index * 2).unwrap_or_default();
        let flags = header(1);
        if flags & flag::RESPONSE != 0 {
            return Err(Rejected::Silent);
        }
        if flags & flag::OPCODE != 0 {
            return Err(Rejected::Reply(Rcode::NotImp));
        }
        const FORM_ERR: Rejected = Rejected::Reply(Rcode::FormErr);
        // One question: RFC 9619.
        if header(2) != 1 {
            return Err(FORM_ERR);
        }
        let name_len = name::plain_length(&packet[HEADER_LEN..]).ok_or(FORM_ERR)?;
        let fields = HEADER_LEN + name_len;
        let (Some(record_type), Some(class)) = (word(packet, fields), word(packet, fields + 2))
        else {
            return Err(FORM_ERR);
        };
        let records = u32::from(header(3)) + u32::from(header(4)) + u32::from(header(5));
        if records > MAX_RECORDS {
            return Err(FORM_ERR);
        }
        Ok(Self {
            packet,
            name_len,
            record_type: RecordType(record_type),
            class,
            edns: find_edns(packet, fields + 4, records).ok_or(FORM_ERR)?,
        })
    }

    /// The whole packet.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// The transaction's number.
    pub fn id(&self) -> u16 {
        word(self.packet, 0).unwrap_or_default()
    }

    /// The question's name, uncompressed, in the client's spelling.
    pub fn name(&self) -> &'a [u8] {
        &self.packet[HEADER_LEN..HEADER_LEN + self.name_len]
    }

    /// The question's name in lower case, written to `buffer`.
    pub fn lower_name<'b>(&self, buffer: &'b mut [u8; 255]) -> &'b [u8] {
        let lower = &mut buffer[..self.name_len];
        lower.copy_from_slice(self.name());
        // Length bytes are below 64 and no letters.
        lower.make_ascii_lowercase();
        lower
    }

    /// The type asked for.
    pub fn record_type(&self) -> RecordType {
        self.record_type
    }

    /// The class asked for.
    pub fn class(&self) -> u16 {
        self.class
    }

    /// The OPT record.
    pub fn edns(&self) -> Option<Edns> {
        self.edns
    }

    /// How many bytes a reply over UDP may have.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_UDP_SIZE, |edns| {
            usize::from(edns.udp_size).clamp(PLAIN_UDP_SIZE, EDNS_UDP_SIZE)
        })
    }

    /// The query as it is sent on to another server: another number, and no larger
    /// UDP size than passes every path.
    pub fn forwarded(&self, id: u16) -> Vec<u8> {
        let mut packet = self.packet.to_vec();
        packet[..2].copy_from_slice(&id.to_be_bytes());
        if let Some(edns) = self.edns {
            let size = u16::try_from(self.udp_limit()).unwrap_or(u16::MAX);
            packet[edns.size_at..edns.size_at + 2].copy_from_slice(&size.to_be_bytes());
        }
        packet
    }

    /// Header flags a reply repeats.
    pub(super) fn repeated_flags(&self) -> u16 {
        word(self.packet, 2).unwrap_or_default()
            & (flag::RECURSION_DESIRED | flag::CHECKING_DISABLED)
    }

    /// The question section, in the client's spelling.
    pub fn question(&self) -> &'a [u8] {
        &self.packet[HEADER_LEN..HEADER_LEN + self.name_len + 4]
    }
}

/// The OPT record among the records behind the question. The outer `None`: the
/// packet makes no sense.
fn find_edns(packet: &[u8], mut at: usize, records: u32) -> Option<Option<Edns>> {
    let mut found = None;
    for _ in 0..records {
        let fields = name::skip(packet, at)?;
        let data = fields + 10;
        let data_len = usize::from(word(packet, fields + 8)?);
        if packet.len() < data + data_len {
            return None;
        }
        if word(packet, fields)? == RecordType::OPT.0 {
            // One, and of the root's name (RFC 6891, section 6.1.1 and 6.1.2).
            if found.is_some() || fields != at + 1 {
                return None;
            }
            check_options(&packet[data..data + data_len])?;
            found = Some(Edns {
                udp_size: word(packet, fields + 2)?,
                version: *packet.get(fields + 5)?,
                dnssec_ok: word(packet, fields + 6)? & 0x8000 != 0,
                size_at: fields + 2,
            });
        }
        at = data + data_len;
    }
    Some(found)
}

/// Options are code, length, value (RFC 6891, section 6.1.2); weft acts on none.
fn check_options(mut options: &[u8]) -> Option<()> {
    while !options.is_empty() {
        let length = usize::from(word(options, 2)?);
        options = options.get(4 + length..)?;
    }
    Some(())
}

/// A query of our own, recursion desired, with EDNS.
pub fn encode_query(id: u16, name: &WireName, record_type: RecordType) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + name.as_bytes().len() + 4 + 11);
    out.extend_from_slice(&id.to_be_bytes());
    for field in [flag::RECURSION_DESIRED, 1, 0, 0, 1] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&record_type.0.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    super::reply::write_opt(&mut out, 0, false);
    debug_assert!(out.len() <= MAX_MESSAGE);
    out
}
