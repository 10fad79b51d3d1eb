//! Addresses and pod ranges that a person chose for single nodes, so that a lab can be like a
//! cluster that exists already.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::settings::NodeSettings;
use super::{FIRST_FREE, FIRST_NODE, NodePlan, hosts, nth_host, overlap};
use weft_kinds::node_ranges::{Masks, free_parts};

const ADDRESS: &str = "--node-address";
const PART: &str = "--node-pod-cidr";

/// What was chosen. Of each family the first is the first node's, the second the second node's,
/// and so on; nodes without a choice get what is free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Addresses on the node network.
    pub addresses: Vec<IpAddr>,
    /// Parts of the pod ranges.
    pub pod_cidrs: Vec<IpNet>,
}

/// A choice that cannot be met.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// More choices than nodes.
    #[error(
        "{flag} is given for {given} nodes of {nodes}: raise --nodes or leave the last ones out"
    )]
    TooMany {
        /// The flag.
        flag: &'static str,
        /// For how many.
        given: usize,
        /// How many there are.
        nodes: usize,
    },
    /// It is not a part of the range that it has to come from.
    #[error(
        "{flag} {value} is not in {range_flag} {ranges}: choose one that is, or widen the range"
    )]
    Beyond {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// The flag of the range.
        range_flag: &'static str,
        /// The range's value.
        ranges: String,
    },
    /// An address has a use already.
    #[error("{ADDRESS} {address} is {owner}; choose another address")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        owner: String,
    },
    /// A part shares addresses with another part or with the node network.
    #[error("{PART} {part} overlaps {other}; choose parts that have no address in common")]
    Shared {
        /// The part.
        part: IpNet,
        /// With what.
        other: String,
    },
    /// A part without room for pods.
    #[error("{PART} {0} has no room for pods; use a shorter prefix")]
    Tiny(IpNet),
    /// Nothing is left for the nodes without a choice.
    #[error("{PART} leaves nothing of --pod-cidr {range} for the other nodes: widen the range")]
    NothingLeft {
        /// The range.
        range: IpNet,
    },
}

/// What the choices are made from.
pub(super) struct Network<'a> {
    pub(super) pod_cidrs: &'a [IpNet],
    pub(super) node_cidrs: &'a [IpNet],
    /// Addresses that are the API server's and those of `outside`.
    pub(super) taken: [(&'static str, &'a [IpNet]); 2],
}

impl Chosen {
    /// Works out the nodes.
    pub(super) fn nodes(
        &self,
        names: Vec<String>,
        network: &Network<'_>,
    ) -> Result<Vec<NodePlan>, Error> {
        self.check(&names, network)?;
        let mut nodes: Vec<NodePlan> = names
            .into_iter()
            .enumerate()
            .map(|(position, name)| NodePlan {
                name,
                addresses: Vec::new(),
                settings: NodeSettings::default(),
                pod_cidrs: network
                    .pod_cidrs
                    .iter()
                    .filter_map(|range| self.parts(*range).nth(position))
                    .collect(),
            })
            .collect();
        for range in network.node_cidrs {
            let chosen: Vec<IpAddr> = self.addresses_in(*range).collect();
            // The 11th address on, unless the range is too small for that.
            let first = if hosts(*range) >= 10 + nodes.len() as u64 {
                FIRST_NODE
            } else {
                FIRST_FREE
            };
            let mut free = (first..)
                .map(|position| nth_host(*range, position))
                .filter(|address| !chosen.contains(&address.addr()));
            for (position, node) in nodes.iter_mut().enumerate() {
                let address = match chosen.get(position) {
                    Some(address) => IpNet::new(*address, range.prefix_len()).ok(),
                    None => free.next(),
                };
                node.addresses.extend(address);
            }
        }
        Ok(nodes)
    }

    /// The chosen addresses of a range of the node network, in the order of the nodes.
    fn addresses_in(&self, range: IpNet) -> impl Iterator<Item = IpAddr> {
        let chosen = self.addresses.iter().copied();
        chosen.filter(move |address| range.contains(address))
    }

    /// The chosen parts of a pod range, in the order of the nodes.
    fn parts(&self, range: IpNet) -> impl Iterator<Item = IpNet> {
        let chosen = self.pod_cidrs.iter().copied();
        chosen.filter(move |part| range.contains(part))
    }

    fn check(&self, names: &[String], network: &Network<'_>) -> Result<(), Error> {
        self.check_addresses(names.len(), network)?;
        self.check_parts(names.len(), network)
    }

    fn check_addresses(&self, nodes: usize, network: &Network<'_>) -> Result<(), Error> {
        for (position, address) in self.addresses.iter().enumerate() {
            let range = network
                .node_cidrs
                .iter()
                .find(|range| range.contains(address))
                .ok_or_else(|| Error::Beyond {
                    flag: ADDRESS,
                    value: address.to_string(),
                    range_flag: "--node-cidr",
                    ranges: list(network.node_cidrs),
                })?;
            let edge = match range {
                IpNet::V4(v4) => [range.network(), v4.broadcast().into()].contains(address),
                IpNet::V6(_) => range.network() == *address,
            };
            let owner = if edge {
                Some("no host's address".to_owned())
            } else if self.addresses[..position].contains(address) {
                Some("another node's".to_owned())
            } else {
                network
                    .taken
                    .iter()
                    .find(|(_, taken)| taken.iter().any(|taken| taken.addr() == *address))
                    .map(|(owner, _)| format!("{owner}'s"))
            };
            if let Some(owner) = owner {
                return Err(Error::Taken {
                    address: *address,
                    owner,
                });
            }
        }
        for range in network.node_cidrs {
            not_more(ADDRESS, self.addresses_in(*range).count(), nodes)?;
        }
        Ok(())
    }

    fn check_parts(&self, nodes: usize, network: &Network<'_>) -> Result<(), Error> {
        for (position, part) in self.pod_cidrs.iter().enumerate() {
            if !network.pod_cidrs.iter().any(|range| range.contains(part)) {
                return Err(Error::Beyond {
                    flag: PART,
                    value: part.to_string(),
                    range_flag: "--pod-cidr",
                    ranges: list(network.pod_cidrs),
                });
            }
            let before = self.pod_cidrs[..position].iter();
            let other = before
                .map(|other| (other, "the part"))
                .chain(network.node_cidrs.iter().map(|node| (node, "--node-cidr")))
                .find(|(other, _)| overlap(*part, **other));
            if let Some((other, what)) = other {
                return Err(Error::Shared {
                    part: *part,
                    other: format!("{what} {other}"),
                });
            }
            if hosts(*part) < 2 {
                return Err(Error::Tiny(*part));
            }
        }
        for range in network.pod_cidrs {
            let given = self.parts(*range).count();
            not_more(PART, given, nodes)?;
            let mut taken = network.node_cidrs.to_vec();
            taken.extend(&self.pod_cidrs);
            let others = nodes - given;
            let left = free_parts(*range, Masks::default(), &taken).take(others);
            if left.count() < others {
                return Err(Error::NothingLeft { range: *range });
            }
        }
        Ok(())
    }

    /// The first of its choices that nodes which are there already do not have: the flag, what
    /// it says, and what they have.
    pub(in crate::lab) fn contradicted_by(
        &self,
        nodes: &[NodePlan],
    ) -> Option<(&'static str, String, String)> {
        let addresses: Vec<IpAddr> = nodes
            .iter()
            .flat_map(|node| node.addresses.iter().map(IpNet::addr))
            .collect();
        let parts: Vec<IpNet> = nodes
            .iter()
            .flat_map(|node| node.pod_cidrs.iter().copied())
            .collect();
        contradiction(ADDRESS, &self.addresses, &addresses, IpAddr::is_ipv4)
            .or_else(|| contradiction(PART, &self.pod_cidrs, &parts, |part| part.addr().is_ipv4()))
    }
}

fn not_more(flag: &'static str, given: usize, nodes: usize) -> Result<(), Error> {
    if given > nodes {
        return Err(Error::TooMany { flag, given, nodes });
    }
    Ok(())
}

/// Compares each family's choices with as many of what there is.
fn contradiction<T: Copy + PartialEq + ToString>(
    flag: &'static str,
    chosen: &[T],
    held: &[T],
    is_v4: impl Fn(&T) -> bool,
) -> Option<(&'static str, String, String)> {
    [true, false].into_iter().find_map(|v4| {
        let of_family = |list: &[T]| -> Vec<T> {
            let list = list.iter().copied();
            list.filter(|one| is_v4(one) == v4).collect()
        };
        let (chosen, held) = (of_family(chosen), of_family(held));
        (!held.starts_with(&chosen)).then(|| (flag, list(&chosen), list(&held)))
    })
}

fn list<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::super::{Families, Plan, Request};
    use super::*;

    fn plan(nodes: usize, addresses: &[&str], parts: &[&str]) -> Result<Plan, String> {
        let request = Request {
            name: "weft".to_owned(),
            nodes: Some(nodes),
            node_names: Vec::new(),
            families: Families::Ipv4,
            pod_cidrs: vec!["192.168.0.0/16".parse().unwrap()],
            service_cidrs: Vec::new(),
            node_cidrs: vec!["192.168.191.0/24".parse().unwrap()],
            zones: Vec::new(),
            settings: NodeSettings::default(),
            chosen: Chosen {
                addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
                pod_cidrs: parts.iter().map(|one| one.parse().unwrap()).collect(),
            },
        };
        Plan::new(&request).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_nodes_get_what_was_chosen_and_the_others_what_is_free() {
        let plan = plan(
            3,
            &["192.168.191.153", "192.168.191.11"],
            &["192.168.185.0/24"],
        )
        .unwrap();
        let addresses: Vec<_> = plan
            .nodes
            .iter()
            .map(|node| node.addresses[0].to_string())
            .collect();
        assert_eq!(
            addresses,
            [
                "192.168.191.153/24",
                "192.168.191.11/24",
                "192.168.191.12/24"
            ]
        );
        assert_eq!(plan.nodes[0].pod_cidrs[0].to_string(), "192.168.185.0/24");
        assert!(plan.nodes[1].pod_cidrs.is_empty());
    }

    #[test]
    fn each_family_is_counted_by_itself() {
        let request = Request {
            name: "weft".to_owned(),
            nodes: Some(2),
            node_names: Vec::new(),
            families: Families::Dual,
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_cidrs: Vec::new(),
            zones: Vec::new(),
            settings: NodeSettings::default(),
            chosen: Chosen {
                addresses: ["fd00:172:30::7", "172.30.0.20", "172.30.0.30"]
                    .map(|one| one.parse().unwrap())
                    .into(),
                pod_cidrs: Vec::new(),
            },
        };
        let plan = Plan::new(&request).unwrap();
        let addresses = |node: &NodePlan| -> Vec<String> {
            let addresses = node.addresses.iter();
            addresses.map(|one| one.addr().to_string()).collect()
        };
        assert_eq!(addresses(&plan.nodes[0]), ["172.30.0.20", "fd00:172:30::7"]);
        assert_eq!(addresses(&plan.nodes[1]), ["172.30.0.30", "fd00:172:30::b"]);
    }

    #[test]
    fn what_cannot_be_is_said_with_the_flag() {
        let part = &["192.168.185.0/24"][..];
        for (nodes, addresses, parts, said) in [
            (
                1,
                &["192.168.191.4", "192.168.191.5"][..],
                &[][..],
                "--node-address is given for 2 nodes of 1",
            ),
            (
                1,
                &["10.0.0.1"],
                &[],
                "--node-address 10.0.0.1 is not in --node-cidr 192.168.191.0/24",
            ),
            (
                1,
                &["192.168.191.1"],
                &[],
                "192.168.191.1 is the API server's",
            ),
            (1, &["192.168.191.2"], &[], "192.168.191.2 is outside's"),
            (1, &["192.168.191.255"], &[], "is no host's address"),
            (
                2,
                &["192.168.191.9", "192.168.191.9"],
                &[],
                "another node's",
            ),
            (
                1,
                &[],
                &["10.0.0.0/24"],
                "is not in --pod-cidr 192.168.0.0/16",
            ),
            (
                1,
                &[],
                &["192.168.191.128/25"],
                "overlaps --node-cidr 192.168.191.0/24",
            ),
            (
                2,
                &[],
                &["192.168.185.0/24", "192.168.185.128/25"],
                "192.168.185.128/25 overlaps the part 192.168.185.0/24",
            ),
            (1, &[], &["192.168.185.0/31"], "has no room for pods"),
            (2, &[], &["192.168.0.0/17"], ""),
        ] {
            let result = plan(nodes, addresses, parts);
            if said.is_empty() {
                assert!(result.is_ok(), "{result:?}");
            } else {
                let error = result.unwrap_err();
                assert!(error.contains(said), "{error:?} lacks {said:?}");
            }
        }
        let nodes = plan(1, &["192.168.191.153"], part).unwrap().nodes;
        let choice = |address: &str| Chosen {
            addresses: vec![address.parse().unwrap()],
            pod_cidrs: vec![part[0].parse().unwrap()],
        };
        assert_eq!(choice("192.168.191.153").contradicted_by(&nodes), None);
        let other = choice("192.168.191.3").contradicted_by(&nodes).unwrap();
        assert_eq!(other.0, ADDRESS);
    }

    #[test]
    fn a_part_that_takes_all_leaves_no_room_for_another_node() {
        let request = Request {
            name: "weft".to_owned(),
            nodes: Some(2),
            node_names: Vec::new(),
            families: Families::Ipv4,
            pod_cidrs: vec!["10.1.0.0/23".parse().unwrap()],
            service_cidrs: Vec::new(),
            node_cidrs: Vec::new(),
            zones: Vec::new(),
            settings: NodeSettings::default(),
            chosen: Chosen {
                addresses: Vec::new(),
                pod_cidrs: vec!["10.1.0.0/23".parse().unwrap()],
            },
        };
        let error = Plan::new(&request).unwrap_err().to_string();
        assert!(error.contains("leaves nothing of --pod-cidr"), "{error}");
    }
}
