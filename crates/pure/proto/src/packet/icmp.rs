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

/// Destination unreachable: the host (RFC 792).
const HOST_UNREACHABLE: [u8; 2] = [3, 1];

/// What is said to the sender of a packet that no node takes, in the name of who it was for: who
/// gave the packet would not believe an address of its own from outside. `None` where there must
/// be none (RFC 1122, 3.2.2): about other such messages, later fragments, and what was not between
/// two hosts.
#[must_use]
pub fn unreachable(packet: &[u8]) -> Option<Vec<u8>> {
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
    let mut message = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, HOPS, ICMP, 0, 0];
    message.extend(destination.octets());
    message.extend(source.octets());
    message.extend(HOST_UNREACHABLE);
    message.extend([0; 6]);
    message.extend(quoted);
    let total = message.len();
    let (header, said) = message.split_at_mut(LEAST);
    finish(header, total);
    let checksum = Sum::default().with(said).checksum();
    said[2..4].copy_from_slice(&checksum);
    Some(message)
}
