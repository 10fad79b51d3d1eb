//! The subnets that a network is cut into.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Fault;

/// As many free subnets are drawn from, as flannel does: hosts that start together seldom want the
/// same one.
const DRAWN_FROM: usize = 100;
/// Flannel leaves room for two more bits: fewer than four subnets make no network.
const LEAST_BITS: u8 = 2;

/// One family's network and which subnets of it are leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The whole.
    pub network: IpNet,
    /// The prefix length of each subnet.
    pub subnet_len: u8,
    /// The first subnet's first address.
    first: u128,
    /// The last subnet's first address.
    last: u128,
}

/// What a configuration says of a pool, under the names it has for that.
pub(super) struct Asked<'a> {
    pub(super) network: (&'a str, IpNet),
    pub(super) len: (&'a str, Option<u64>),
    pub(super) min: (&'a str, Option<IpAddr>),
    pub(super) max: (&'a str, Option<IpAddr>),
}

impl Pool {
    pub(super) fn of(asked: &Asked<'_>) -> Result<Self, Fault> {
        let (name, network) = asked.network;
        let network = network.trunc();
        let prefix = network.prefix_len();
        let bits = network.max_prefix_len();
        // The least subnet has an address for the tunnel beside those of the network's ends.
        let longest = bits - LEAST_BITS;
        let (len_name, len) = asked.len;
        let subnet_len = match len {
            Some(len) => u8::try_from(len)
                .ok()
                .filter(|len| (prefix.saturating_add(LEAST_BITS)..=longest).contains(len))
                .ok_or_else(|| {
                    let least = prefix.saturating_add(LEAST_BITS);
                    let reason = match least <= longest {
                        true => format!("{len} is not between {least} and {longest}, for {network} has room for four subnets at least"),
                        false => format!("{len} does not fit: {name} {network} is too small to be cut into subnets"),
                    };
                    Fault::new(len_name, reason)
                })?,
            None if prefix > longest - LEAST_BITS => {
                let reason = format!(
                    "{network} is too small to be cut into subnets; give a /{} at least",
                    longest - LEAST_BITS
                );
                return Err(Fault::new(name, reason));
            }
            None => {
                let usual = if network.addr().is_ipv4() { 24 } else { 64 };
                usual.max(prefix + LEAST_BITS)
            }
        };
        let size = size_of(bits, subnet_len);
        let low = number(network.network());
        let high = number(network.broadcast());
        let bound = |(name, bound): (&str, Option<IpAddr>), otherwise: u128| {
            let Some(address) = bound else {
                return Ok(otherwise);
            };
            if !network.contains(&address) {
                let reason = format!("{address} is not in {network}");
                return Err(Fault::new(name, reason));
            }
            if !number(address).is_multiple_of(size) {
                let reason =
                    format!("{address} is not the first address of a subnet /{subnet_len}");
                return Err(Fault::new(name, reason));
            }
            Ok(number(address))
        };
        // Flannel leaves the first subnet out: its first address is the network's own.
        let first = bound(asked.min, low + size)?;
        let last = bound(asked.max, high - (size - 1))?;
        if first > last {
            let reason = format!(
                "{} is behind {} {}",
                address(first, network),
                asked.max.0,
                address(last, network)
            );
            return Err(Fault::new(asked.min.0, reason));
        }
        Ok(Self {
            network,
            subnet_len,
            first,
            last,
        })
    }

    /// Whether a subnet is one of the pool's.
    pub fn has(&self, subnet: IpNet) -> bool {
        let first = number(subnet.network());
        subnet == subnet.trunc()
            && self.network.contains(&subnet)
            && subnet.prefix_len() == self.subnet_len
            && (self.first..=self.last).contains(&first)
    }

    /// One of the first free subnets; `draw` chooses. `None`: all are taken.
    pub fn free(&self, taken: impl IntoIterator<Item = IpNet>, draw: u64) -> Option<IpNet> {
        let same = |subnet: &IpNet| subnet.addr().is_ipv4() == self.network.addr().is_ipv4();
        let taken = taken.into_iter().filter(same);
        let mut taken: Vec<(u128, u128)> = taken
            .map(|subnet| (number(subnet.network()), number(subnet.broadcast())))
            .collect();
        taken.sort_unstable();
        let size = size_of(self.network.max_prefix_len(), self.subnet_len);
        let mut free = Vec::new();
        // Every subnet before it has been looked at.
        let mut at = Some(self.first);
        let taken = taken.into_iter().map(Some);
        for next in taken.chain([None]) {
            let is_before = |end: u128| next.is_none_or(|(first, _)| end < first);
            while let Some(start) = at
                && start <= self.last
                && free.len() < DRAWN_FROM
                && is_before(start + (size - 1))
            {
                free.push(start);
                at = start.checked_add(size);
            }
            let Some((_, last)) = next else {
                break;
            };
            at = match at {
                Some(start) if start <= last => (last / size + 1).checked_mul(size),
                at => at,
            };
        }
        let many = u64::try_from(free.len()).ok()?;
        let chosen = usize::try_from(draw.checked_rem(many)?).ok()?;
        let start = address(*free.get(chosen)?, self.network);
        IpNet::new(start, self.subnet_len).ok()
    }
}

/// How many addresses a subnet has: at least four, at most a quarter of all there are.
fn size_of(bits: u8, prefix: u8) -> u128 {
    1 << (bits - prefix)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(number: u128, like: IpNet) -> IpAddr {
    match like {
        // A subnet of an IPv4 network begins below 2^32.
        IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(network: &str, len: Option<u64>, min: &str, max: &str) -> Result<Pool, Fault> {
        Pool::of(&Asked {
            network: ("Network", network.parse().unwrap()),
            len: ("SubnetLen", len),
            min: ("SubnetMin", min.parse().ok()),
            max: ("SubnetMax", max.parse().ok()),
        })
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn subnets_are_as_long_as_flannel_makes_them() {
        for (network, length) in [
            ("10.0.0.0/8", 24),
            ("10.5.0.0/22", 24),
            ("10.5.0.0/23", 25),
            ("10.5.0.0/28", 30),
            ("fd00::/48", 64),
            ("fd00::/63", 65),
            ("fd00::/124", 126),
        ] {
            let pool = pool(network, None, "", "").unwrap();
            assert_eq!(pool.subnet_len, length, "{network}");
        }
        assert_eq!(
            pool("10.5.0.0/29", None, "", "").unwrap_err().field,
            "Network"
        );
    }

    #[test]
    fn a_free_subnet_overlaps_none_that_is_taken() {
        let pool = pool("10.5.0.0/16", Some(24), "10.5.8.0", "10.5.11.0").unwrap();
        let free = |taken: &[&str], draw| {
            let net = pool.free(nets(taken), draw);
            net.map(|net| net.to_string()).unwrap_or_default()
        };
        assert_eq!(free(&[], 0), "10.5.8.0/24");
        assert_eq!(free(&[], 3), "10.5.11.0/24");
        assert_eq!(free(&[], 4), "10.5.8.0/24");
        // Taken ones overlap each other, lie outside, are of another length or family.
        let taken = [
            "10.5.9.128/25",
            "10.5.8.0/23",
            "10.6.0.0/16",
            "fd00::/64",
            "10.5.11.0/24",
        ];
        assert_eq!(free(&taken, 0), "10.5.10.0/24");
        assert_eq!(free(&taken, 7), "10.5.10.0/24");
        assert_eq!(free(&["10.0.0.0/8"], 0), "");
        assert!(pool.has("10.5.11.0/24".parse().unwrap()));
        for other in ["10.5.12.0/24", "10.5.7.0/24", "10.5.8.0/25", "10.5.8.1/24"] {
            assert!(!pool.has(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn the_ends_of_all_addresses_are_no_end() {
        for (network, first) in [("0.0.0.0/0", "0.0.1.0/24"), ("::/0", "0:0:0:1::/64")] {
            let pool = pool(network, None, "", "").unwrap();
            assert_eq!(pool.free([], 0).unwrap().to_string(), first);
            assert_eq!(pool.free(nets(&[network]), 0), None);
        }
        let last = pool("ffff:ffff:ffff:ffff::/64", Some(66), "", "").unwrap();
        let drawn: Vec<_> = (0..3).map(|draw| last.free([], draw).unwrap()).collect();
        assert_eq!(drawn[2].to_string(), "ffff:ffff:ffff:ffff:c000::/66");
        assert_eq!(last.free(drawn, 0), None);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (asked, field) in [
            (pool("10.5.0.0/16", Some(17), "", ""), "SubnetLen"),
            (pool("10.5.0.0/16", Some(31), "", ""), "SubnetLen"),
            (pool("10.5.0.0/16", Some(300), "", ""), "SubnetLen"),
            (pool("10.5.0.0/32", Some(30), "", ""), "SubnetLen"),
            (pool("10.5.0.0/16", Some(24), "10.6.0.0", ""), "SubnetMin"),
            (pool("10.5.0.0/16", Some(24), "fd00::", ""), "SubnetMin"),
            (pool("10.5.0.0/16", Some(24), "", "10.5.9.128"), "SubnetMax"),
            (
                pool("10.5.0.0/16", Some(24), "10.5.9.0", "10.5.8.0"),
                "SubnetMin",
            ),
        ] {
            assert_eq!(asked.unwrap_err().field, field);
        }
    }
}
