//! From other nodes to the kernel.

use std::io::IoSlice;
use std::net::SocketAddrV4;

use weft_proto::packet::{Coalesce, Ipv4, coalesce};
use weft_sys::datagrams::{DatagramSocket, Inbox};
use weft_sys::tun::Queue;

use super::counters::Reason;
use super::{Peers, Shared};

/// Messages that are taken at once.
const MESSAGES: usize = 4;

/// Buffers of a thread.
pub(super) struct Inward {
    inbox: Inbox,
    allowed: Coalesce,
}

impl Inward {
    pub(super) fn new(allowed: Coalesce) -> Self {
        Self {
            inbox: Inbox::new(MESSAGES),
            allowed,
        }
    }

    /// Gives the kernel what waits, at most as much as there is room for.
    pub(super) fn forward(&mut self, shared: &Shared, queue: &Queue, socket: &DatagramSocket) {
        // An error is about a datagram that was sent: its node is not there. It is over once told.
        if !matches!(socket.receive(&mut self.inbox), Ok(1..)) {
            return;
        }
        let peers = shared.peers.load();
        let mut packets: Vec<&[u8]> = Vec::with_capacity(64);
        for (sender, datagram) in self.inbox.datagrams() {
            match taken(shared, &peers, sender, datagram) {
                Ok(()) => packets.push(datagram),
                Err(reason) => shared.counters.dropped(reason, 1),
            }
        }
        let mut left = &packets[..];
        while !left.is_empty() {
            let frame = coalesce(left, self.allowed);
            let (now, later) = left.split_at(frame.packets());
            let parts: Vec<_> = frame.parts(now).map(IoSlice::new).collect();
            let (count, bytes) = (now.len() as u64, now.iter().map(|it| it.len() as u64).sum());
            match queue.write(&parts) {
                Ok(()) => shared.counters.received.add(count, bytes),
                Err(_) => shared.counters.dropped(Reason::NotTaken, count),
            }
            left = later;
        }
    }
}

/// Whether a datagram is a packet from another node. Nodes send from the port that they listen at,
/// which programs and pods behind their addresses don't have.
fn taken(
    shared: &Shared,
    peers: &Peers,
    sender: SocketAddrV4,
    datagram: &[u8],
) -> Result<(), Reason> {
    if sender.port() != shared.tunnel.port || !peers.knows(*sender.ip()) {
        return Err(Reason::Stranger);
    }
    let packet = Ipv4::parse(datagram)?;
    match shared.tunnel.range.contains(&packet.source()) {
        true => Err(Reason::OwnSource),
        false => Ok(()),
    }
}
