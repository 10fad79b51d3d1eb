//! Puts together what was cut: packets of one connection that follow each other become one, which
//! the kernel takes at the cost of one, and would cut at the same places again.

use super::checksum::Sum;
use super::header::{Header, Ipv4, LEAST, TCP, UDP, finish, pseudo_header};
use super::offload::{NET_HEADER, Offload, Transport};
use super::segment::{FLAGS, LAST, TCP_CHECKSUM, UDP_CHECKSUM, headers};

/// What the length of an IPv4 packet can say.
const LARGEST: usize = u16::MAX as usize;
/// Datagrams that Linux takes in one (`UDP_MAX_SEGMENTS` of all its versions).
const MOST_DATAGRAMS: usize = 64;
/// TCP's flag ACK.
const ACK: u8 = 0x10;
/// ECE (RFC 3168).
const ECE: u8 = 0x40;

/// What may be put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalesce {
    /// TCP's segments.
    pub tcp: bool,
    /// UDP's datagrams.
    pub udp: bool,
}

/// What is written to a TUN device at once: the first packets of a list.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    about: [u8; NET_HEADER],
    header: Header,
    /// Bytes at the start of each packet that `header` stands for.
    skipped: usize,
    packets: usize,
}

impl Frame {
    /// A packet as it is.
    #[must_use]
    pub fn single() -> Self {
        Self {
            about: Offload::default().write(0),
            header: Header::empty(),
            skipped: 0,
            packets: 1,
        }
    }

    /// How many packets of the list are in it.
    #[must_use]
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// Its bytes, piece by piece; `packets` is the list that it was made of.
    pub fn parts<'a>(&'a self, packets: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
        let carried = packets.iter().take(self.packets);
        [&self.about[..], self.header.bytes()]
            .into_iter()
            .chain(carried.map(|packet| &packet[self.skipped..]))
            .filter(|part| !part.is_empty())
    }
}

/// As many of the first packets as go together; all of them are packets by [`Ipv4::parse`]. One
/// whose checksum is wrong stays alone, so that it is still wrong for whoever gets it.
#[must_use]
pub fn coalesce(packets: &[&[u8]], allowed: Coalesce) -> Frame {
    longest(packets, allowed).unwrap_or_else(Frame::single)
}

/// `None` for one.
fn longest(packets: &[&[u8]], allowed: Coalesce) -> Option<Frame> {
    let (first, rest) = packets.split_first()?;
    let first = Piece::of(first, allowed)?;
    let mut bytes = first.bytes.len();
    let mut last = first;
    let mut count = 1;
    for packet in rest {
        if last.ends(&first) || bytes + packet.len() - first.headers > LARGEST {
            break;
        }
        let Some(next) = Piece::of(packet, allowed) else {
            break;
        };
        let most = first.transport == Transport::Udp && count == MOST_DATAGRAMS;
        if most || !next.follows(&last, &first) || !next.is_right() {
            break;
        }
        if count == 1 && !first.is_right() {
            break;
        }
        bytes += next.carried().len();
        last = next;
        count += 1;
    }
    (count > 1).then(|| first.with(&last, bytes, count))?
}

/// A packet that may go together with others.
#[derive(Clone, Copy)]
struct Piece<'a> {
    bytes: &'a [u8],
    ip: Ipv4<'a>,
    transport: Transport,
    /// Bytes before what it carries.
    headers: usize,
}

impl<'a> Piece<'a> {
    fn of(bytes: &'a [u8], allowed: Coalesce) -> Option<Self> {
        let ip = Ipv4::parse(bytes).ok()?;
        if ip.header_length() != LEAST || ip.is_fragment() {
            return None;
        }
        let transport = match ip.protocol() {
            TCP if allowed.tcp => Transport::Tcp,
            UDP if allowed.udp => Transport::Udp,
            _ => return None,
        };
        let headers = headers(&ip, transport)?;
        let piece = Self {
            bytes,
            ip,
            transport,
            headers,
        };
        let fits = match transport {
            // What begins or ends a connection, is urgent, or says something new of congestion
            // stays alone.
            Transport::Tcp => piece.flags() & !LAST & !ECE == ACK,
            Transport::Udp => {
                let said = usize::from(ip.word(LEAST + 4));
                said == bytes.len() - LEAST && ip.word(LEAST + UDP_CHECKSUM) != 0
            }
        };
        (fits && bytes.len() > headers).then_some(piece)
    }

    fn flags(&self) -> u8 {
        self.bytes[LEAST + FLAGS]
    }

    fn carried(&self) -> &'a [u8] {
        &self.bytes[self.headers..]
    }

    fn sequence(&self) -> u32 {
        let b = &self.bytes[LEAST + 4..];
        u32::from_be_bytes([b[0], b[1], b[2], b[3]])
    }

    /// Whether nothing follows it in the same frame.
    fn ends(&self, first: &Self) -> bool {
        let flagged = self.transport == Transport::Tcp && self.flags() & LAST != 0;
        flagged || self.carried().len() < first.carried().len()
    }

    /// Whether it comes next after `last`, in a frame that `first` begins.
    fn follows(&self, last: &Self, first: &Self) -> bool {
        let (mine, theirs) = (self.bytes, last.bytes);
        // Version, class; what becomes of fragments, hops, protocol; who sends it to whom.
        let same = |part: std::ops::Range<usize>| mine[part.clone()] == theirs[part];
        let alike = same(0..2) && same(6..10) && same(12..LEAST) && self.headers == last.headers;
        // Who counts its packets has them counted on (RFC 6864: nobody looks at others' numbers).
        let counted = !self.ip.may_be_fragmented()
            || self.ip.identification() == last.ip.identification().wrapping_add(1);
        if !alike || !counted || self.carried().len() > first.carried().len() {
            return false;
        }
        match self.transport {
            // Ports.
            Transport::Udp => same(LEAST..LEAST + 4),
            Transport::Tcp => {
                let (flags, window) = (LEAST + FLAGS, LEAST + FLAGS + 1..LEAST + TCP_CHECKSUM);
                let next = last.sequence().wrapping_add(last.carried().len() as u32);
                // Ports; acknowledgement and the header's length; window; urgency and options.
                same(LEAST..LEAST + 4)
                    && self.sequence() == next
                    && same(LEAST + 8..flags)
                    && mine[flags] & !LAST == theirs[flags] & !LAST
                    && same(window)
                    && same(LEAST + TCP_CHECKSUM + 2..self.headers)
            }
        }
    }

    /// Whether its checksums are.
    fn is_right(&self) -> bool {
        let inner = &self.bytes[LEAST..];
        let sum: Sum = pseudo_header(self.bytes, self.ip.protocol(), inner.len()).with(inner);
        self.ip.header_is_right() && sum.is_right()
    }

    /// The frame of `count` packets from this one to `last`, which is a packet of `bytes`.
    fn with(&self, last: &Self, bytes: usize, count: usize) -> Option<Frame> {
        let mut header = Header::of(&self.bytes[..self.headers])?;
        let (ip, inner) = header.bytes_mut().split_at_mut(LEAST);
        finish(ip, bytes);
        let offset = match self.transport {
            Transport::Tcp => {
                inner[FLAGS] |= last.flags() & LAST;
                TCP_CHECKSUM
            }
            Transport::Udp => {
                inner[4..6].copy_from_slice(&((bytes - LEAST) as u16).to_be_bytes());
                UDP_CHECKSUM
            }
        };
        // Of the checksum there is what the kernel begins with.
        let begun = pseudo_header(ip, self.ip.protocol(), bytes - LEAST).folded();
        inner[offset..offset + 2].copy_from_slice(&begun);
        let offload = Offload {
            checksum: Some((LEAST as u16, offset as u16)),
            cut: Some((self.transport, self.carried().len() as u16)),
        };
        Some(Frame {
            about: offload.write(self.headers),
            header,
            skipped: self.headers,
            packets: count,
        })
    }
}
