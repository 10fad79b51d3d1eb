//! TCP segments sent in another's name: what makes a client say where its connection stands.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

/// A TCP header without options (RFC 9293, 3.1).
const TCP_HEADER: usize = 20;
/// With a header and a byte of data: Linux answers what has none only twice a second
/// (`tcp_oow_rate_limited`). No end takes the byte: it stands where no window is, but for one
/// of tens of thousands, and acknowledges what was never sent.
const SEGMENT: usize = TCP_HEADER + 1;
/// RFC 791.
const V4_HEADER: usize = 20;
const TCP: u8 = 6;
const ACK: u8 = 0x10;
/// As Linux sends its own.
const HOPS: u8 = 64;

/// Raw sockets of one network namespace, whose packets carry a mark.
#[derive(Debug)]
pub struct SegmentSocket {
    v4: OwnedFd,
    /// A kernel may have no IPv6.
    v6: Option<OwnedFd>,
}

impl SegmentSocket {
    /// Sockets of the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel refused: it takes `CAP_NET_RAW` and `CAP_NET_ADMIN`.
    pub fn open(mark: u32) -> io::Result<Self> {
        Ok(Self {
            v4: raw(AddressFamily::INET, mark)?,
            v6: raw(AddressFamily::INET6, mark).ok(),
        })
    }

    /// Sends an acknowledgement out of the blue. A client with such a connection answers with one
    /// that has the right numbers (RFC 9293, 3.10.7.4), whoever comes to read it.
    ///
    /// # Errors
    /// What the kernel refused; `Unsupported` for ends of two families.
    pub fn acknowledge(&self, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
        let packet = packet(from, to).ok_or(io::ErrorKind::Unsupported)?;
        let socket = match to {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        // The header says which port.
        let to = SocketAddr::new(to.ip(), 0);
        rustix::net::sendto(socket, &packet, SendFlags::DONTWAIT, &to)?;
        Ok(())
    }
}

fn raw(family: AddressFamily, mark: u32) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        family,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ipproto::RAW),
    )?;
    set_mark(socket.as_fd(), mark)?;
    Ok(socket)
}

fn set_mark(socket: BorrowedFd<'_>, mark: u32) -> io::Result<()> {
    // SAFETY: the option's value is a 32-bit integer, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The packet, header first.
fn packet(from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let (mut packet, pseudo) = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (V4_HEADER + SEGMENT) as u16;
            let [high, low] = length.to_be_bytes();
            // Linux writes identification and checksum.
            let mut header = vec![0x45, 0, high, low, 0, 0, 0, 0, HOPS, TCP, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let ends = [source.octets(), destination.octets()].concat();
            (header, ends)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = (SEGMENT as u16).to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, TCP, HOPS];
            header.extend(source.octets());
            header.extend(destination.octets());
            let ends = [source.octets(), destination.octets()].concat();
            (header, ends)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let mut segment = Vec::with_capacity(SEGMENT);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0; 8]);
    segment.extend([(TCP_HEADER as u8 / 4) << 4, ACK]);
    segment.extend([0; 7]);
    let mut summed = pseudo;
    summed.extend([0, TCP, 0, SEGMENT as u8]);
    summed.extend(&segment);
    segment[16..18].copy_from_slice(&checksum(&summed).to_be_bytes());
    packet.extend(segment);
    Some(packet)
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_makes_the_sum_come_out_even() {
        for (from, to) in [
            ("10.96.0.10:80", "10.244.1.2:4711"),
            ("[fd00:10:96::a]:80", "[fd00:10:244:1::2]:4711"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = packet(from, to).unwrap();
            let header = packet.len() - SEGMENT;
            // Sources and destinations are the end of both headers.
            let ends = if from.is_ipv4() { 8 } else { 32 };
            let mut summed = vec![0, TCP, 0, SEGMENT as u8];
            summed.extend(&packet[header - ends..]);
            // A sum that has its checksum in it is all ones.
            assert_eq!(checksum(&summed), 0);
        }
        let other = packet("10.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        assert_eq!(other, None);
    }
}
