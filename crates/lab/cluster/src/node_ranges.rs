//! How a cluster's pod range is cut into the parts that nodes get.

use std::collections::BTreeMap;
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
pub fn free_parts<'a>(
    range: IpNet,
    masks: Masks,
    taken: &'a [IpNet],
) -> impl Iterator<Item = IpNet> + 'a {
    let mask = match range {
        IpNet::V4(_) => masks.v4,
        IpNet::V6(_) => masks.v6,
    };
    let mask = mask.max(range.prefix_len()).min(range.max_prefix_len());
    let end = number(range.broadcast());
    let mut next = Some(number(range.network()));
    std::iter::from_fn(move || {
        while let Some(start) = next.filter(|start| *start <= end) {
            let part = part(range, start, mask)?;
            let obstacle = taken
                .iter()
                .find(|taken| taken.contains(&part) || part.contains(*taken));
            // Beyond whichever is larger: an obstacle is passed in one step, however
            // many parts it covers.
            let last = match obstacle {
                Some(obstacle) => number(obstacle.broadcast()).max(number(part.broadcast())),
                None => number(part.broadcast()),
            };
            next = last.checked_add(1);
            if obstacle.is_none() {
                return Some(part);
            }
        }
        None
    })
}

/// The ranges that nodes were given. What a node was given is its own from that moment on:
/// the watch tells it only later, and would have the next node given the same.
#[derive(Debug, Default)]
pub(crate) struct Given {
    by_node: BTreeMap<String, Vec<IpNet>>,
}

impl Given {
    /// A node's ranges: those it was given before, or of each range the wanted part or the first
    /// free one. The range that has none left is the error.
    pub(crate) fn give(
        &mut self,
        node: &str,
        ranges: &[IpNet],
        masks: Masks,
        wanted: &[IpNet],
        mut taken: Vec<IpNet>,
    ) -> Result<Vec<IpNet>, IpNet> {
        if let Some(given) = self.by_node.get(node) {
            return Ok(given.clone());
        }
        taken.extend(self.by_node.values().flatten());
        let given: Vec<IpNet> = ranges
            .iter()
            .map(|range| {
                let wanted = wanted.iter().find(|part| range.contains(*part)).copied();
                wanted
                    .or_else(|| free_parts(*range, masks, &taken).next())
                    .ok_or(*range)
            })
            .collect::<Result<_, _>>()?;
        self.by_node.insert(node.to_owned(), given.clone());
        Ok(given)
    }

    /// The node is gone: its ranges are free.
    pub(crate) fn take_back(&mut self, node: &str) {
        self.by_node.remove(node);
    }
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
    }

    #[test]
    fn no_range_is_given_twice_before_the_watch_tells_of_it() {
        let ranges: Vec<IpNet> = ["10.244.0.0/23", "fd00::/56"]
            .map(|range| range.parse().unwrap())
            .into();
        let mut given = Given::default();
        let mut give = |node: &str| {
            let of_node = given.give(node, &ranges, Masks::default(), &[], Vec::new())?;
            Ok::<_, IpNet>(of_node.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let first = give("node-1").unwrap();
        assert_eq!(first, ["10.244.0.0/24", "fd00::/64"]);
        assert_eq!(
            give("node-2").unwrap(),
            ["10.244.1.0/24", "fd00:0:0:1::/64"]
        );
        // Asked again, after a write whose outcome is not known.
        assert_eq!(give("node-1").unwrap(), first);
        assert_eq!(give("node-3"), Err(ranges[0]));
        given.take_back("node-1");
        let third = given.give("node-3", &ranges, Masks::default(), &[], Vec::new());
        assert_eq!(third.unwrap()[0].to_string(), first[0]);
        given.take_back("node-2");
        let wanted = "10.244.1.128/25".parse().unwrap();
        let fourth = given.give("node-4", &ranges, Masks::default(), &[wanted], Vec::new());
        assert_eq!(fourth.unwrap()[0], wanted);
    }
}
