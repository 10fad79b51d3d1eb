//! Who is sent what, and who is believed.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use weft_desired::{Table, UdpPeer};

/// The nodes that take datagrams, by their pods' addresses, and all that may send some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// First and last address, and where to; sorted. No two overlap.
    ranges: Vec<(Ipv4Addr, Ipv4Addr, SocketAddrV4)>,
    /// Sorted.
    senders: Vec<Ipv4Addr>,
}

impl Peers {
    /// Those of a table whose keys don't overlap, all at this port.
    #[must_use]
    pub fn new(
        table: &Table<ipnet::Ipv4Net, UdpPeer>,
        senders: &BTreeSet<Ipv4Addr>,
        port: u16,
    ) -> Self {
        let range = |(range, entry): (&ipnet::Ipv4Net, &weft_desired::Entry<UdpPeer>)| {
            let to = SocketAddrV4::new(entry.value.remote, port);
            (range.network(), range.broadcast(), to)
        };
        let mut ranges: Vec<_> = table.iter().map(range).collect();
        ranges.sort();
        let senders = senders.iter().copied().collect();
        Self { ranges, senders }
    }

    /// Whether a node has this address: nobody else's datagrams are packets of pods.
    #[must_use]
    pub fn knows(&self, sender: Ipv4Addr) -> bool {
        self.senders.binary_search(&sender).is_ok()
    }

    /// Where packets for this address go.
    #[must_use]
    pub fn find(&self, address: Ipv4Addr) -> Option<SocketAddrV4> {
        let behind = self.ranges.partition_point(|(first, ..)| *first <= address);
        let (_, last, to) = self.ranges.get(behind.checked_sub(1)?)?;
        (address <= *last).then_some(*to)
    }
}
