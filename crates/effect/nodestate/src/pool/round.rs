//! The addresses of a set in the order in which they are tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_proto::cni::RangeSet;

/// Every address of a set once, beginning after a given one.
pub(super) struct Round<'a> {
    set: &'a RangeSet,
    range: usize,
    next: IpAddr,
    left: u128,
}

impl<'a> Round<'a> {
    pub(super) fn starting_after(set: &'a RangeSet, last: Option<IpAddr>) -> Self {
        let start = last.and_then(|last| {
            let range = set.ranges.iter().position(|range| range.contains(last))?;
            Some((range, last))
        });
        let first = set.ranges.first();
        let mut round = Self {
            set,
            range: 0,
            next: first.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |range| range.first),
            left: if first.is_some() { set.size() } else { 0 },
        };
        if let Some((range, last)) = start {
            round.range = range;
            round.next = last;
            round.advance();
        }
        round
    }

    fn advance(&mut self) {
        if self.next == self.set.ranges[self.range].last {
            self.range = (self.range + 1) % self.set.ranges.len();
            self.next = self.set.ranges[self.range].first;
        } else {
            self.next = successor(self.next);
        }
    }
}

impl Iterator for Round<'_> {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        self.left = self.left.checked_sub(1)?;
        let address = self.next;
        self.advance();
        Some(address)
    }
}

fn successor(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4).wrapping_add(1))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6).wrapping_add(1))),
    }
}
