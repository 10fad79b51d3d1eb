//! Cuts what a TUN device gives: TCP's segments and UDP's datagrams (in Linux
//! `net/ipv4/tcp_offload.c` and `udp_offload.c` do the same).

use super::checksum::Sum;
use super::header::{Fault, Header, Ipv4, TCP, UDP, finish, pseudo_header};
use super::offload::{Offload, Transport};

/// TCP's flags that only the last segment has: FIN and PSH.
pub(super) const LAST: u8 = 0x01 | 0x08;
/// CWR, which only the first has (RFC 3168, 6.1.2).
pub(super) const FIRST: u8 = 0x80;
/// Where they stand in TCP's header.
pub(super) const FLAGS: usize = 13;
/// Where TCP's checksum stands in its header.
pub(super) const TCP_CHECKSUM: usize = 16;
/// Where UDP's does.
pub(super) const UDP_CHECKSUM: usize = 6;
/// Bytes of UDP's header.
pub(super) const UDP_HEADER: usize = 8;

/// A packet to send: a header, and what it carries.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Empty if all of the packet is in `rest`.
    pub header: Header,
    /// What follows it.
    pub rest: &'a [u8],
}

impl Segment<'_> {
    /// Bytes of the packet.
    #[must_use]
    pub fn length(&self) -> usize {
        self.header.bytes().len() + self.rest.len()
    }
}

/// The packets that one is to be sent as; at least one.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    /// What is carried begins here; with `cut` alone.
    headers: usize,
    cut: Option<(Transport, usize)>,
    next: Option<usize>,
    number: u16,
}

/// Does what is left to be done for a packet: checksums, and the cutting.
///
/// # Errors
/// What is said of the packet is not what it is.
pub fn segments(packet: &mut [u8], offload: Offload) -> Result<Segments<'_>, Fault> {
    let ip = Ipv4::parse_header(packet)?;
    let Some((transport, size)) = offload.cut else {
        Ipv4::parse(packet)?;
        if let Some((start, offset)) = offload.checksum {
            complete(packet, start.into(), offset.into())?;
        }
        return Ok(Segments {
            packet,
            headers: 0,
            cut: None,
            next: Some(0),
            number: 0,
        });
    };
    let headers = headers(&ip, transport).ok_or(Fault::Length)?;
    Ok(Segments {
        packet,
        headers,
        cut: Some((transport, size.into())),
        next: Some(headers),
        number: 0,
    })
}

/// Bytes of both headers, if there are such.
pub(super) fn headers(ip: &Ipv4<'_>, transport: Transport) -> Option<usize> {
    let start = ip.header_length();
    let (protocol, length) = match transport {
        Transport::Tcp => (TCP, usize::from(*ip.bytes().get(start + 12)? >> 4) * 4),
        Transport::Udp => (UDP, UDP_HEADER),
    };
    let least = match transport {
        Transport::Tcp => 20,
        Transport::Udp => UDP_HEADER,
    };
    let fits = ip.protocol() == protocol && length >= least && start + length <= ip.bytes().len();
    fits.then_some(start + length)
}

/// Sums what is from `start` on, and writes the checksum.
fn complete(packet: &mut [u8], start: usize, offset: usize) -> Result<(), Fault> {
    let at = start + offset;
    let summed = packet.get(start..).ok_or(Fault::Length)?;
    let mut checksum = Sum::default().with(summed).checksum();
    // UDP's 0 says that there is none (RFC 768); of TCP both are the same.
    if checksum == [0; 2] {
        checksum = [0xff; 2];
    }
    let place = packet.get_mut(at..at + 2).ok_or(Fault::Length)?;
    place.copy_from_slice(&checksum);
    Ok(())
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let at = self.next.take()?;
        let Some((transport, size)) = self.cut else {
            return Some(Segment {
                header: Header::empty(),
                rest: self.packet,
            });
        };
        let end = (at + size).min(self.packet.len());
        let is_last = end == self.packet.len();
        if !is_last {
            self.next = Some(end);
        }
        let (template, rest) = (&self.packet[..self.headers], &self.packet[at..end]);
        let mut header = Header::of(template)?;
        let carried = at - self.headers;
        cut(
            header.bytes_mut(),
            transport,
            Place {
                number: self.number,
                carried,
                is_last,
            },
            rest,
        );
        self.number = self.number.wrapping_add(1);
        Some(Segment { header, rest })
    }
}

/// Where a segment stands among those of a packet.
struct Place {
    number: u16,
    /// Bytes that those before it carry.
    carried: usize,
    is_last: bool,
}

/// Makes a packet's headers those of one of its segments.
fn cut(header: &mut [u8], transport: Transport, place: Place, rest: &[u8]) {
    let total = header.len() + rest.len();
    let (ip, inner) = header.split_at_mut(usize::from(header[0] & 0xf) * 4);
    let number = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(place.number);
    ip[4..6].copy_from_slice(&number.to_be_bytes());
    finish(ip, total);
    let length = inner.len() + rest.len();
    match transport {
        Transport::Tcp => {
            let sequence = u32::from_be_bytes([inner[4], inner[5], inner[6], inner[7]]);
            let sequence = sequence.wrapping_add(place.carried as u32);
            inner[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !place.is_last {
                inner[FLAGS] &= !LAST;
            }
            if place.number > 0 {
                inner[FLAGS] &= !FIRST;
            }
            inner[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0);
            let sum = pseudo_header(ip, TCP, length).with(inner).with(rest);
            inner[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&sum.checksum());
        }
        Transport::Udp => {
            inner[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            inner[UDP_CHECKSUM..UDP_HEADER].fill(0);
            let sum = pseudo_header(ip, UDP, length).with(inner).with(rest);
            let checksum = match sum.checksum() {
                [0, 0] => [0xff; 2],
                checksum => checksum,
            };
            inner[UDP_CHECKSUM..UDP_HEADER].copy_from_slice(&checksum);
        }
    }
}
