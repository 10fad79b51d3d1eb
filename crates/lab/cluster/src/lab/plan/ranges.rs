//! The ranges of a lab: what was asked for, what else there is, and whether they are large enough.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Error, Families};
use weft_kinds::node_ranges::{Masks, free_parts};

pub(super) const POD: &str = "--pod-cidr";
pub(super) const SERVICE: &str = "--service-cidr";
pub(super) const NODE: &str = "--node-cidr";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(range: IpNet) -> Self {
        match range {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// The ranges given, the missing families filled in, in the order of the families.
pub(super) fn ranges(
    flag: &'static str,
    families: Families,
    given: &[IpNet],
) -> Result<Vec<IpNet>, Error> {
    for range in given {
        if range.trunc() != *range {
            return Err(Error::HostBits {
                flag,
                range: *range,
                network: range.trunc(),
            });
        }
        if !families.list().contains(&Family::of(*range)) {
            return Err(Error::WrongFamily {
                flag,
                range: *range,
                family: Family::of(*range).name(),
                families: families.flag_value(),
            });
        }
        for (reserved, purpose) in reserved() {
            if overlap(*range, reserved) {
                return Err(Error::Reserved {
                    flag,
                    range: *range,
                    reserved,
                    purpose,
                });
            }
        }
    }
    families
        .list()
        .iter()
        .map(|family| {
            let mut of_family = given.iter().filter(|range| Family::of(**range) == *family);
            match (of_family.next(), of_family.next()) {
                (Some(first), Some(second)) => Err(Error::TwoRanges {
                    flag,
                    family: family.name(),
                    first: *first,
                    second: *second,
                }),
                (Some(range), None) => Ok(*range),
                (None, _) => Ok(default_range(flag, *family)),
            }
        })
        .collect()
}

fn default_range(flag: &str, family: Family) -> IpNet {
    let v4 = |a, b, c, d, prefix| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix));
    let v6 = |address: [u16; 4], prefix| {
        let [a, b, c, d] = address;
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0),
            prefix,
        ))
    };
    match (flag, family) {
        (POD, Family::V4) => v4(10, 244, 0, 0, 16),
        (POD, Family::V6) => v6([0xfd00, 0x10, 0x244, 0], 56),
        (SERVICE, Family::V4) => v4(10, 96, 0, 0, 12),
        (SERVICE, Family::V6) => v6([0xfd00, 0x10, 0x96, 0], 112),
        (_, Family::V4) => v4(172, 30, 0, 0, 24),
        (_, Family::V6) => v6([0xfd00, 0x172, 0x30, 0], 64),
    }
}

/// Ranges with a meaning of their own (IANA special-purpose address registries).
fn reserved() -> [(IpNet, &'static str); 8] {
    let v4 = |a, prefix| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, 0, 0, 0), prefix));
    let v6 = |a, last, prefix| {
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, last),
            prefix,
        ))
    };
    [
        (v4(0, 8), "this network"),
        (v4(127, 8), "loopback"),
        (
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
            "link-local",
        ),
        (v4(224, 4), "multicast"),
        (v4(240, 4), "future use and broadcast"),
        (v6(0, 1, 128), "loopback"),
        (v6(0xfe80, 0, 10), "link-local"),
        (v6(0xff00, 0, 8), "multicast"),
    ]
}

pub(super) fn overlap(first: IpNet, second: IpNet) -> bool {
    first.contains(&second) || second.contains(&first)
}

pub(super) fn check_sizes(
    names: &[String],
    pod_cidrs: &[IpNet],
    service_cidrs: &[IpNet],
    node_cidrs: &[IpNet],
) -> Result<(), Error> {
    let count = names.len() as u64;
    let masks = Masks::default();
    for range in pod_cidrs {
        let parts = |taken: &[IpNet]| free_parts(*range, masks, taken).take(names.len()).count();
        let share = match range {
            IpNet::V4(_) => masks.v4,
            IpNet::V6(_) => masks.v6,
        };
        if parts(&[]) < names.len() || range.prefix_len() > share {
            return Err(Error::TooSmall {
                flag: POD,
                range: *range,
                need: format!("{count} nodes take a /{share} each"),
                prefix: share - bits_for(count),
            });
        }
        // The node network is judged against what nodes get of the range.
        if parts(node_cidrs) < names.len() {
            let node = node_cidrs.iter().find(|node| overlap(**node, *range));
            return Err(Error::Overlap {
                first_flag: POD,
                first: *range,
                second_flag: NODE,
                second: node.copied().unwrap_or(*range),
            });
        }
    }
    for range in service_cidrs {
        let longest = range.max_prefix_len() - 5;
        if range.prefix_len() > longest {
            return Err(Error::TooSmall {
                flag: SERVICE,
                range: *range,
                need: "a Service range holds at least 32 addresses".to_owned(),
                prefix: longest,
            });
        }
    }
    for range in node_cidrs {
        let needed = count + 2;
        if hosts(*range) < needed {
            return Err(Error::TooSmall {
                flag: NODE,
                range: *range,
                need: format!("the API server, outside and {count} nodes need an address each"),
                // Network and broadcast address on top.
                prefix: range.max_prefix_len() - bits_for(needed + 2),
            });
        }
    }
    Ok(())
}

/// The bits that number `count` things.
fn bits_for(count: u64) -> u8 {
    (u64::BITS - (count.max(1) - 1).leading_zeros()) as u8
}

/// Addresses that hosts can have: without the network's own and, in IPv4, the broadcast one.
pub(in crate::lab) fn hosts(range: IpNet) -> u64 {
    let bits = range.max_prefix_len() - range.prefix_len();
    let all = 1_u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX);
    all.saturating_sub(match range {
        IpNet::V4(_) => 2,
        IpNet::V6(_) => 1,
    })
}

/// The address at `position` in a range, with the range's prefix.
pub(in crate::lab) fn nth_host(range: IpNet, position: u32) -> IpNet {
    let address: IpAddr = match range.network() {
        IpAddr::V4(network) => {
            Ipv4Addr::from_bits(network.to_bits().saturating_add(position)).into()
        }
        IpAddr::V6(network) => {
            Ipv6Addr::from_bits(network.to_bits().saturating_add(u128::from(position))).into()
        }
    };
    IpNet::new(address, range.prefix_len()).unwrap_or(range)
}
