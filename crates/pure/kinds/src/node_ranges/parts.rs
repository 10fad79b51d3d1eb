//! A range is cut into parts of one length.

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::IpNet;

/// Prefix lengths of a node's part (kube-controller-manager's `--node-cidr-mask-size-ipv4`
/// and `-ipv6`, and their defaults).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masks {
    /// Of an IPv4 range.
    pub v4: u8,
    /// Of an IPv6 range.
    pub v6: u8,
}

impl Default for Masks {
    fn default() -> Self {
        Self { v4: 24, v6: 64 }
    }
}

/// The parts of `range` that share no address with any of `taken`, in order. A range
/// smaller than a part is one part.
pub fn free_parts(
    range: IpNet,
    masks: Masks,
    taken: &[IpNet],
) -> impl Iterator<Item = IpNet> + use<> {
    let mask = match range {
        IpNet::V4(_) => masks.v4,
        IpNet::V6(_) => masks.v6,
    };
    let mask = mask.max(range.prefix_len()).min(range.max_prefix_len());
    let mut obstacles = outermost(range, taken).into_iter().peekable();
    let (first, end) = bounds(range);
    let mut next = Some(first);
    std::iter::from_fn(move || {
        while let Some(start) = next.filter(|start| *start <= end) {
            let part = part(range, start, mask)?;
            let (_, mut last) = bounds(part);
            while obstacles.next_if(|(_, end)| *end < start).is_some() {}
            // Beyond whichever is larger: an obstacle is passed in one step, however
            // many parts it covers.
            let obstacle = obstacles.peek().filter(|(first, _)| *first <= last);
            let is_free = obstacle.is_none();
            last = last.max(obstacle.map_or(0, |(_, end)| *end));
            next = last.checked_add(1);
            if is_free {
                return Some(part);
            }
        }
        None
    })
}

/// First and last address of what is taken of the range's family, in order; what lies in
/// another is left out, so that no two overlap.
fn outermost(range: IpNet, taken: &[IpNet]) -> Vec<(u128, u128)> {
    let is_like = |other: &&IpNet| other.addr().is_ipv4() == range.addr().is_ipv4();
    let mut all: Vec<_> = taken.iter().filter(is_like).copied().map(bounds).collect();
    all.sort_by_key(|(first, last)| (*first, Reverse(*last)));
    // Of two ranges one lies within the other, or they have nothing in common.
    all.dedup_by(|inner, outer| inner.1 <= outer.1);
    all
}

fn bounds(range: IpNet) -> (u128, u128) {
    (number(range.network()), number(range.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn part(range: IpNet, start: u128, mask: u8) -> Option<IpNet> {
    let address = match range {
        IpNet::V4(_) => IpAddr::from(u32::try_from(start).ok()?.to_be_bytes()),
        IpNet::V6(_) => IpAddr::from(start.to_be_bytes()),
    };
    IpNet::new(address, mask).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(range: &str, taken: &[&str], count: usize) -> Vec<String> {
        let taken: Vec<IpNet> = taken.iter().map(|text| text.parse().unwrap()).collect();
        free_parts(range.parse().unwrap(), Masks::default(), &taken)
            .take(count)
            .map(|part| part.to_string())
            .collect()
    }

    #[test]
    fn a_range_is_cut_into_parts_of_the_mask() {
        assert_eq!(
            cut("10.244.0.0/16", &[], 2),
            ["10.244.0.0/24", "10.244.1.0/24"]
        );
        assert_eq!(
            cut("fd00:10:244::/56", &[], 2),
            ["fd00:10:244::/64", "fd00:10:244:1::/64"]
        );
        assert_eq!(cut("10.244.0.0/25", &[], 2), ["10.244.0.0/25"]);
        assert_eq!(cut("255.255.255.0/24", &[], 2), ["255.255.255.0/24"]);
        assert_eq!(cut("0.0.0.0/0", &[], 1), ["0.0.0.0/24"]);
    }

    #[test]
    fn what_is_taken_is_passed_over_whole() {
        assert_eq!(
            cut("10.244.0.0/16", &["10.244.0.0/24", "10.244.2.128/25"], 2),
            ["10.244.1.0/24", "10.244.3.0/24"]
        );
        // Half of an IPv6 range, far more parts than could be tried one by one.
        assert_eq!(cut("fd00::/16", &["fd00::/17"], 1), ["fd00:8000::/64"]);
        assert!(cut("10.244.0.0/16", &["10.0.0.0/8"], 1).is_empty());
        let nested = ["10.244.1.0/26", "10.244.0.0/23", "10.244.1.0/24"];
        assert_eq!(cut("10.244.0.0/16", &nested, 1), ["10.244.2.0/24"]);
    }

    /// Ranges of some 4,000 addresses, so that many of them overlap.
    fn range() -> impl Strategy<Value = IpNet> {
        (0..4096u32, 20..=32u8).prop_map(|(offset, length)| {
            let address = u32::from_be_bytes([10, 0, 0, 0]) + offset;
            let net = IpNet::new(IpAddr::from(address.to_be_bytes()), length).unwrap();
            net.trunc()
        })
    }

    proptest! {
        /// Each part of the range, tried one after the other against all that is taken.
        #[test]
        fn the_free_parts_are_those_that_nothing_overlaps(
            range in range(),
            mask in 20..=32u8,
            taken in proptest::collection::vec(range(), 0..12),
        ) {
            let mask = mask.max(range.prefix_len());
            let IpNet::V4(within) = range else { unreachable!() };
            let overlaps = |part: &IpNet, other: &IpNet| {
                part.contains(other) || other.contains(part)
            };
            let expected: Vec<IpNet> = within
                .subnets(mask)
                .unwrap()
                .map(IpNet::V4)
                .filter(|part| !taken.iter().any(|other| overlaps(part, other)))
                .collect();
            let masks = Masks { v4: mask, v6: 64 };
            let free: Vec<IpNet> = free_parts(range, masks, &taken).collect();
            prop_assert_eq!(free, expected);
        }
    }
}
