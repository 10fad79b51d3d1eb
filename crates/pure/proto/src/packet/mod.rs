//! IPv4 packets as a program sends and takes them that stands between a TUN device and a network:
//! large ones cut as a network card would cut them, and pieces put together again.
//!
//! Nothing here copies what packets carry: a [`Segment`] is a header and a part of the packet it
//! was cut from, a [`Frame`] a header and the packets it is made of.

mod checksum;
mod coalesce;
mod header;
mod icmp;
mod offload;
mod segment;

pub use checksum::Sum;
pub use coalesce::{Coalesce, Frame, coalesce};
pub use header::{Fault, Header, Ipv4};
pub use icmp::unreachable;
pub use offload::{NET_HEADER, Offload, Transport};
pub use segment::{Segment, Segments, segments};

/// Reads anything as what a TUN device gives, and as what comes in datagrams.
#[doc(hidden)]
pub fn exercise(data: &[u8]) {
    let Some((about, packet)) = data.split_first_chunk::<NET_HEADER>() else {
        return;
    };
    let mut packet = packet.to_vec();
    if let Ok(offload) = Offload::read(about) {
        let mut pieces = 0;
        if let Ok(segments) = segments(&mut packet, offload) {
            pieces = segments.map(|piece| piece.length()).sum();
        }
        assert!(pieces == 0 || pieces >= packet.len());
    }
    if Ipv4::parse(&packet).is_ok() {
        let _told = unreachable(&packet);
    }
    let size = usize::from(about[0]).max(1) * 8;
    let packets: Vec<&[u8]> = data[NET_HEADER..]
        .chunks(size)
        .filter(|packet| Ipv4::parse(packet).is_ok())
        .collect();
    let mut left = &packets[..];
    while !left.is_empty() {
        let frame = coalesce(
            left,
            Coalesce {
                tcp: true,
                udp: true,
            },
        );
        let bytes: usize = frame.parts(left).map(<[u8]>::len).sum();
        assert!(bytes > NET_HEADER && frame.packets() > 0);
        left = &left[frame.packets()..];
    }
}
