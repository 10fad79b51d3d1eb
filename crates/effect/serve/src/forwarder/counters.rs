//! What is counted.

use prometheus::{IntCounter, IntCounterVec};

/// Why a packet was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It came from an address that no node has.
    Stranger,
    /// It is shorter than a header.
    Short,
    /// It is not IPv4.
    NotIpv4,
    /// A length in it is not the packet's.
    Length,
    /// It came from another node and says that it is from this one.
    OwnSource,
    /// No node has its destination.
    NoRoute,
    /// The network did not take it.
    NotSent,
    /// The kernel did not take it.
    NotTaken,
}

impl Reason {
    const ALL: [Reason; 8] = [
        Reason::Stranger,
        Reason::Short,
        Reason::NotIpv4,
        Reason::Length,
        Reason::OwnSource,
        Reason::NoRoute,
        Reason::NotSent,
        Reason::NotTaken,
    ];

    fn label(self) -> &'static str {
        match self {
            Reason::Stranger => "unknown sender",
            Reason::Short => "short",
            Reason::NotIpv4 => "not IPv4",
            Reason::Length => "wrong length",
            Reason::OwnSource => "own source",
            Reason::NoRoute => "no route",
            Reason::NotSent => "not sent",
            Reason::NotTaken => "not taken",
        }
    }
}

impl From<weft_proto::packet::Fault> for Reason {
    fn from(fault: weft_proto::packet::Fault) -> Self {
        match fault {
            weft_proto::packet::Fault::Short => Reason::Short,
            weft_proto::packet::Fault::NotIpv4 => Reason::NotIpv4,
            weft_proto::packet::Fault::Length => Reason::Length,
        }
    }
}

/// Packets and bytes of one direction.
#[derive(Clone, Debug)]
pub(super) struct Direction {
    pub(super) packets: IntCounter,
    pub(super) bytes: IntCounter,
}

impl Direction {
    pub(super) fn add(&self, packets: u64, bytes: u64) {
        self.packets.inc_by(packets);
        self.bytes.inc_by(bytes);
    }
}

/// Counters of packets in UDP datagrams. Clones count together.
#[derive(Clone, Debug)]
pub struct Counters {
    pub(super) sent: Direction,
    pub(super) received: Direction,
    dropped: [IntCounter; Reason::ALL.len()],
}

impl Counters {
    /// Children of these: `packets` and `bytes` by `direction`, `dropped` by `reason`.
    #[must_use]
    pub fn new(packets: &IntCounterVec, bytes: &IntCounterVec, dropped: &IntCounterVec) -> Self {
        let direction = |name: &str| Direction {
            packets: packets.with_label_values(&[name]),
            bytes: bytes.with_label_values(&[name]),
        };
        Self {
            sent: direction("sent"),
            received: direction("received"),
            dropped: Reason::ALL.map(|reason| dropped.with_label_values(&[reason.label()])),
        }
    }

    /// Packets were not forwarded.
    pub(super) fn dropped(&self, reason: Reason, packets: u64) {
        self.dropped[reason as usize].inc_by(packets);
    }

    /// How many packets were sent to other nodes, and taken from them.
    #[must_use]
    pub fn forwarded(&self) -> [u64; 2] {
        [&self.sent, &self.received].map(|direction| direction.packets.get())
    }

    /// How many packets were not forwarded for this reason.
    #[must_use]
    pub fn count(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize].get()
    }
}
