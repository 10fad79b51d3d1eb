//! From the kernel to other nodes.

use std::io::{self, IoSlice};
use std::net::SocketAddrV4;
use std::ops::Range;

use weft_proto::packet::{Header, Ipv4, NET_HEADER, Offload, segments, unreachable};
use weft_sys::datagrams::{DatagramSocket, MOST_BYTES, MOST_SEGMENTS, Outgoing};
use weft_sys::tun::Queue;

use super::counters::Reason;
use super::{Peers, Shared};

/// What the device gives at once at most: a packet whose length is beyond what IPv4 can say, for
/// it is to be cut, and its header.
const LARGEST: usize = NET_HEADER + (1 << 16) + 256;
/// Room for packets that wait: what fits a core's own cache.
const ROOM: usize = 4 * LARGEST;
/// Packets that are taken before they are sent.
const MOST_PACKETS: usize = 64;

/// Buffers of a thread.
pub(super) struct Outward {
    room: Box<[u8]>,
    /// Where in `room` each packet is that was read.
    read: Vec<Range<usize>>,
}

/// A datagram to send.
struct Piece<'a> {
    to: SocketAddrV4,
    header: Header,
    rest: &'a [u8],
}

impl Piece<'_> {
    fn length(&self) -> usize {
        self.header.bytes().len() + self.rest.len()
    }
}

impl Outward {
    pub(super) fn new() -> Self {
        Self {
            room: vec![0; ROOM].into(),
            read: Vec::with_capacity(MOST_PACKETS),
        }
    }

    /// Sends what waits, at most as much as there is room for. Fails when the device is gone.
    pub(super) fn forward(
        &mut self,
        shared: &Shared,
        queue: &Queue,
        socket: &DatagramSocket,
    ) -> io::Result<()> {
        self.read(queue)?;
        let peers = shared.peers.load();
        let mut pieces = Vec::with_capacity(MOST_SEGMENTS * 2);
        let mut room = &mut self.room[..];
        for range in &self.read {
            let (packet, behind) = room.split_at_mut(range.len());
            room = behind;
            if let Err(reason) = cut(shared, &peers, queue, packet, &mut pieces) {
                shared.counters.dropped(reason, 1);
            }
        }
        send(shared, socket, &pieces);
        Ok(())
    }

    /// One behind the other.
    fn read(&mut self, queue: &Queue) -> io::Result<()> {
        self.read.clear();
        let mut end = 0;
        while self.read.len() < MOST_PACKETS && self.room.len() - end >= LARGEST {
            let Some(length) = queue.read(&mut self.room[end..])? else {
                break;
            };
            self.read.push(end..end + length);
            end += length;
        }
        Ok(())
    }
}

/// Adds a packet's datagrams.
fn cut<'a>(
    shared: &Shared,
    peers: &Peers,
    queue: &Queue,
    packet: &'a mut [u8],
    pieces: &mut Vec<Piece<'a>>,
) -> Result<(), Reason> {
    let (about, packet) = packet
        .split_first_chunk_mut::<NET_HEADER>()
        .ok_or(Reason::Short)?;
    let offload = Offload::read(about)?;
    let destination = Ipv4::destination_of(packet)?;
    let Some(to) = peers.find(destination) else {
        tell(shared, queue, packet);
        return Err(Reason::NoRoute);
    };
    let segments = segments(packet, offload)?;
    pieces.extend(segments.map(|segment| Piece {
        to,
        header: segment.header,
        rest: segment.rest,
    }));
    Ok(())
}

/// Says to who sent a packet that nobody takes it.
fn tell(shared: &Shared, queue: &Queue, packet: &[u8]) {
    if let Some(message) = unreachable(packet) {
        let about = Offload::default().write(0);
        let told = queue.write(&[IoSlice::new(&about), IoSlice::new(&message)]);
        if told.is_err() {
            shared.counters.dropped(Reason::NotTaken, 1);
        }
    }
}

/// In as few messages as possible: datagrams of one size to one node go together, and a shorter
/// one may end them.
fn send(shared: &Shared, socket: &DatagramSocket, pieces: &[Piece<'_>]) {
    let mut slices = Vec::with_capacity(pieces.len() * 2);
    let mut groups = Vec::new();
    let mut left = pieces;
    while let Some(first) = left.first() {
        let count = together(left);
        let start = slices.len();
        for piece in &left[..count] {
            let parts = [piece.header.bytes(), piece.rest];
            slices.extend(
                parts
                    .iter()
                    .filter(|it| !it.is_empty())
                    .map(|it| IoSlice::new(it)),
            );
        }
        groups.push((first, count, start..slices.len()));
        left = &left[count..];
    }
    let messages: Vec<Outgoing<'_>> = groups
        .iter()
        .map(|(first, count, range)| Outgoing {
            to: first.to,
            parts: &slices[range.clone()],
            segment: (*count > 1).then_some(first.length() as u16),
        })
        .collect();
    let mut number = 0;
    let mut at = 0;
    while number < messages.len() {
        let sent = match socket.send(&messages[number..]) {
            Ok(sent) => sent.max(1),
            Err(error) => {
                let group = &pieces[at..at + groups[number].1];
                let done = refused(shared, socket, group, &error);
                at += done;
                if done < group.len() {
                    // All would wait in vain, one after the other.
                    let lost = pieces.len() - at;
                    return shared.counters.dropped(Reason::NotSent, lost as u64);
                }
                number += 1;
                continue;
            }
        };
        let count: usize = groups[number..number + sent].iter().map(|it| it.1).sum();
        count_sent(shared, &pieces[at..at + count]);
        at += count;
        number += sent;
    }
}

/// How many of the first datagrams make one message.
fn together(pieces: &[Piece<'_>]) -> usize {
    let Some(first) = pieces.first() else {
        return 0;
    };
    let size = first.length();
    let most = MOST_SEGMENTS.min((MOST_BYTES / size.max(1)).max(1));
    let mut count = 1;
    for piece in pieces[1..].iter().take(most - 1) {
        if piece.to != first.to || piece.length() > size {
            break;
        }
        count += 1;
        if piece.length() < size {
            break;
        }
    }
    count
}

fn count_sent(shared: &Shared, pieces: &[Piece<'_>]) {
    let bytes: usize = pieces.iter().map(Piece::length).sum();
    let packets = pieces.len() as u64;
    shared.counters.sent.add(packets, bytes as u64);
}

/// Several at once were refused: a link may take them one by one (a network card without
/// checksums, a way that takes less in one piece than the device does). Tells how many it is done
/// with: all, unless there is no room for what is to be sent.
fn refused(
    shared: &Shared,
    socket: &DatagramSocket,
    pieces: &[Piece<'_>],
    error: &io::Error,
) -> usize {
    if error.kind() == io::ErrorKind::WouldBlock {
        return 0;
    }
    // Of an earlier datagram: its node is not there. The next attempt is about these.
    let of_another = error.kind() == io::ErrorKind::ConnectionRefused;
    if pieces.len() == 1 && !of_another {
        shared.counters.dropped(Reason::NotSent, 1);
        return 1;
    }
    for (done, piece) in pieces.iter().enumerate() {
        let parts = [piece.header.bytes(), piece.rest].map(IoSlice::new);
        let message = Outgoing {
            to: piece.to,
            parts: &parts,
            segment: None,
        };
        match socket.send(&[message]) {
            Ok(_) => count_sent(shared, std::slice::from_ref(piece)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return done,
            Err(_) => shared.counters.dropped(Reason::NotSent, 1),
        }
    }
    pieces.len()
}
