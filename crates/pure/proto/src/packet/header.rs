//! Headers of IPv4 (RFC 791).

use std::net::Ipv4Addr;

use super::checksum::Sum;

/// Bytes of a header without options.
pub(super) const LEAST: usize = 20;
/// Bytes of the largest headers of IP and TCP together.
const LARGEST: usize = 60 + 60;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;

/// Why something is not one IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Less than a header.
    #[error("shorter than a header")]
    Short,
    /// Another version.
    #[error("not IPv4")]
    NotIpv4,
    /// The lengths in it are not those of what was received.
    #[error("a length that is not the packet's")]
    Length,
}

/// A packet whose header is whole and that is as long as it says.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    bytes: &'a [u8],
    header: usize,
}

impl<'a> Ipv4<'a> {
    /// Looks at the lengths; checksums are others' to look at.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let packet = Self::parse_header(bytes)?;
        let total = usize::from(packet.word(2));
        match total == bytes.len() {
            true => Ok(packet),
            false => Err(Fault::Length),
        }
    }

    /// As [`Ipv4::parse`], of what may be larger than its length can say.
    pub(super) fn parse_header(bytes: &'a [u8]) -> Result<Self, Fault> {
        let first = *bytes.first().ok_or(Fault::Short)?;
        if first >> 4 != 4 {
            return Err(Fault::NotIpv4);
        }
        if bytes.len() < LEAST {
            return Err(Fault::Short);
        }
        let header = usize::from(first & 0xf) * 4;
        if header < LEAST || header > bytes.len() {
            return Err(Fault::Length);
        }
        Ok(Self { bytes, header })
    }

    /// Who a packet is for that may be larger than its length can say.
    ///
    /// # Errors
    /// It has no header of IPv4.
    pub fn destination_of(bytes: &'a [u8]) -> Result<Ipv4Addr, Fault> {
        Self::parse_header(bytes).map(|packet| packet.destination())
    }

    /// Who sent it.
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        self.address(12)
    }

    /// Who it is for.
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        self.address(16)
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        let b = self.bytes;
        Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3])
    }

    pub(super) fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn header_length(&self) -> usize {
        self.header
    }

    pub(super) fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    pub(super) fn identification(&self) -> u16 {
        self.word(4)
    }

    pub(super) fn may_be_fragmented(&self) -> bool {
        self.word(6) & 0x4000 == 0
    }

    /// Whether it is a piece of a packet.
    pub(super) fn is_fragment(&self) -> bool {
        self.word(6) & 0x3fff != 0
    }

    /// Whether it is a piece of a packet and not the first.
    pub(super) fn is_later_fragment(&self) -> bool {
        self.word(6) & 0x1fff != 0
    }

    pub(super) fn header_is_right(&self) -> bool {
        Sum::default().with(&self.bytes[..self.header]).is_right()
    }
}

/// The sum that a transport's checksum begins with (RFC 9293, 3.1; RFC 768).
pub(super) fn pseudo_header(header: &[u8], protocol: u8, length: usize) -> Sum {
    Sum::default()
        .with(&header[12..LEAST])
        .word(u16::from(protocol))
        .word(length as u16)
}

/// Writes the length and the checksum into a header.
pub(super) fn finish(header: &mut [u8], total: usize) {
    header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    header[10..12].fill(0);
    let checksum = Sum::default().with(header).checksum();
    header[10..12].copy_from_slice(&checksum);
}

/// The headers of IP and of what is in it; empty for a packet that has its own.
#[derive(Clone, Copy)]
pub struct Header {
    bytes: [u8; LARGEST],
    length: usize,
}

impl Header {
    pub(super) fn empty() -> Self {
        Self {
            bytes: [0; LARGEST],
            length: 0,
        }
    }

    /// `None` for more than the largest.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let mut header = Self::empty();
        header.length = bytes.len();
        header.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(header)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Header").field(&self.bytes()).finish()
    }
}
