//! What is said to who sent a packet that can't be delivered (RFC 792, RFC 1812).

use std::net::Ipv4Addr;

use super::checksum::Sum;
use super::header::{ICMP, Ipv4, LEAST, finish};

/// Bytes of such a message at most, with its header (RFC 1812, 4.3.2.3).
const LARGEST: usize = 576;
/// Bytes of an ICMP header.
const ICMP_HEADER: usize = 8;
/// As Linux sends its own.
const HOPS: u8 = 64;

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// No network has such an address.
    NoRoute,
    /// It passed as many nodes as it may.
    HopsUsedUp,
}

/// The message to the packet's sender, from `from`. `None` where there must be none (RFC 1122,
/// 3.2.2): about other such messages, later fragments, and what was not between two hosts.
#[must_use]
pub fn undelivered(packet: &[u8], from: Ipv4Addr, why: Undelivered) -> Option<Vec<u8>> {
    let ip = Ipv4::parse_header(packet).ok()?;
    let (source, destination) = (ip.source(), ip.destination());
    let is_host = |address: Ipv4Addr| {
        !(address.is_multicast()
            || address.is_broadcast()
            || address.is_unspecified()
            || address.is_loopback())
    };
    if ip.is_later_fragment() || !is_host(source) || !is_host(destination) {
        return None;
    }
    // Questions may be asked of an answer; whatever else ICMP has is one.
    const ECHO: [u8; 2] = [0, 8];
    let kind = packet.get(ip.header_length());
    if ip.protocol() == ICMP && !kind.is_some_and(|kind| ECHO.contains(kind)) {
        return None;
    }
    let quoted = &packet[..packet.len().min(LARGEST - LEAST - ICMP_HEADER)];
    let [kind, code] = match why {
        Undelivered::NoRoute => [3, 0],
        Undelivered::HopsUsedUp => [11, 0],
    };
    let mut message = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, HOPS, ICMP, 0, 0];
    message.extend(from.octets());
    message.extend(source.octets());
    message.extend([kind, code, 0, 0, 0, 0, 0, 0]);
    message.extend(quoted);
    let total = message.len();
    let (header, said) = message.split_at_mut(LEAST);
    finish(header, total);
    let checksum = Sum::default().with(said).checksum();
    said[2..4].copy_from_slice(&checksum);
    Some(message)
}
