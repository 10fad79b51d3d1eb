//! What a lab is to be: its nodes, ranges and addresses, worked out and checked before anything
//! is started.

mod chosen;
mod ranges;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::chosen::Chosen;
use self::ranges::{Family, NODE, POD, SERVICE, check_sizes, overlap, ranges};
pub(super) use self::ranges::{hosts, nth_host};
use super::init::OUTSIDE;
use super::settings::NodeSettings;
use crate::placement::Scoring;

/// The API server's port on the node network.
pub const API_PORT_INSIDE: u16 = 6443;

/// The most nodes a lab may have: what the second half of a /24 node network and a /16 pod
/// range with a /24 for each node leave room for, with a margin that one machine can carry.
pub const MAX_NODES: usize = 100;

/// The IP families of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both; IPv4 is the primary one.
    Dual,
}

impl Families {
    fn list(self) -> &'static [Family] {
        match self {
            Families::Ipv4 => &[Family::V4],
            Families::Ipv6 => &[Family::V6],
            Families::Dual => &[Family::V4, Family::V6],
        }
    }

    /// The value of `--ip-family`.
    pub(super) fn flag_value(self) -> &'static str {
        match self {
            Families::Ipv4 => "ipv4",
            Families::Ipv6 => "ipv6",
            Families::Dual => "dual",
        }
    }
}

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The lab's name.
    pub name: String,
    /// How many nodes; `None` for as many as there are names, else two.
    pub nodes: Option<usize>,
    /// Names of the first nodes; the others are `node-N`.
    pub node_names: Vec<String>,
    /// Families.
    pub families: Families,
    /// Pod ranges, at most one for each family.
    pub pod_cidrs: Vec<IpNet>,
    /// Service ranges, likewise.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges of the node network, likewise.
    pub node_cidrs: Vec<IpNet>,
    /// What single nodes are to have of them.
    pub chosen: Chosen,
    /// Zones that the nodes are in, by turns.
    pub zones: Vec<String>,
    /// What every node has and is called.
    pub settings: NodeSettings,
}

/// A lab, worked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The lab's name.
    pub name: String,
    /// Its families.
    pub families: Families,
    /// Pod ranges, one for each family, the primary one first.
    pub pod_cidrs: Vec<IpNet>,
    /// Service ranges, likewise.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges of the node network, likewise.
    pub node_cidrs: Vec<IpNet>,
    /// The API server's addresses on the node network, likewise, with the network's prefix.
    pub api: Vec<IpNet>,
    /// The addresses of `outside`, the nodes' default gateway, likewise.
    pub outside: Vec<IpNet>,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// After how many silent seconds a node is taken for dead; `None` for Kubernetes' default.
    #[serde(default)]
    pub node_grace: Option<u64>,
    /// Which nodes the scheduler fills first.
    #[serde(default)]
    pub scoring: Scoring,
    /// Whether somebody else gives nodes their parts of the pod ranges.
    #[serde(default)]
    pub leaves_node_ranges: bool,
}

/// One node, worked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// Its name, and host name.
    pub name: String,
    /// Its addresses on the node network with the network's prefix, the primary family first.
    pub addresses: Vec<IpNet>,
    /// Its parts of the pod ranges as far as they were chosen; else the first free ones.
    #[serde(default)]
    pub pod_cidrs: Vec<IpNet>,
    /// What its kubelet says of it.
    #[serde(default)]
    pub settings: NodeSettings,
}

/// A request that cannot be met. Each names the flag to change.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A name that cannot be a host name.
    #[error(
        "{flag} {name:?}: a name consists of at most 63 lower-case letters, digits and '-', and begins and ends with a letter or digit"
    )]
    Name {
        /// The flag.
        flag: &'static str,
        /// Its value.
        name: String,
    },
    /// A node's name is taken.
    #[error("--node-name {0:?} is there twice; every node needs a name of its own")]
    NameTwice(String),
    /// A node's name is reserved.
    #[error("--node-name {0:?} means something else in a lab ({RESERVED}); choose another one")]
    NameReserved(String),
    /// Too few or too many nodes.
    #[error("--nodes {0}: a lab has 1 to {MAX_NODES} nodes")]
    NodeCount(usize),
    /// More names than nodes.
    #[error("{names} times --node-name but --nodes {nodes}: raise --nodes or leave names out")]
    MoreNamesThanNodes {
        /// Names given.
        names: usize,
        /// Nodes asked for.
        nodes: usize,
    },
    /// A range of a family that the lab does not have.
    #[error(
        "{flag} {range} is {family}, but the lab's --ip-family is {families}; use --ip-family dual for both"
    )]
    WrongFamily {
        /// The flag.
        flag: &'static str,
        /// The range.
        range: IpNet,
        /// The range's family.
        family: &'static str,
        /// The lab's families.
        families: &'static str,
    },
    /// Two ranges of one family for one purpose.
    #[error(
        "{flag} gives two {family} ranges, {first} and {second}; one for each family is allowed"
    )]
    TwoRanges {
        /// The flag.
        flag: &'static str,
        /// The family.
        family: &'static str,
        /// One.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
    /// An address where a range should stand.
    #[error("{flag} {range} has bits set behind its prefix; the range is {network}")]
    HostBits {
        /// The flag.
        flag: &'static str,
        /// As given.
        range: IpNet,
        /// As it should be.
        network: IpNet,
    },
    /// A range that no pod or node may use.
    #[error(
        "{flag} {range} overlaps {reserved}, which is reserved ({purpose}); choose another range"
    )]
    Reserved {
        /// The flag.
        flag: &'static str,
        /// The range.
        range: IpNet,
        /// The reserved one.
        reserved: IpNet,
        /// For what.
        purpose: &'static str,
    },
    /// Two ranges of the lab share addresses.
    #[error(
        "{first_flag} {first} overlaps {second_flag} {second}; choose ranges that have no address in common"
    )]
    Overlap {
        /// One flag.
        first_flag: &'static str,
        /// Its range.
        first: IpNet,
        /// The other flag.
        second_flag: &'static str,
        /// Its range.
        second: IpNet,
    },
    /// A range cannot hold what the lab needs.
    #[error("{flag} {range} is too small: {need}; use a prefix of /{prefix} or shorter")]
    TooSmall {
        /// The flag.
        flag: &'static str,
        /// The range.
        range: IpNet,
        /// What it has to hold.
        need: String,
        /// The longest prefix that would do.
        prefix: u8,
    },
    /// What was chosen for a single node.
    #[error(transparent)]
    Chosen(#[from] chosen::Error),
}

/// Names that no node can have, and why.
pub(super) const RESERVED: &str = "`outside` is what is beyond the cluster, `api` its API server";

impl Plan {
    /// Works a request out.
    ///
    /// # Errors
    /// [`Error`], on the first thing that does not fit.
    pub fn new(request: &Request) -> Result<Self, Error> {
        check_name("--name", &request.name)?;
        let names = node_names(request)?;
        let pod_cidrs = ranges(POD, request.families, &request.pod_cidrs)?;
        let service_cidrs = ranges(SERVICE, request.families, &request.service_cidrs)?;
        let node_cidrs = ranges(NODE, request.families, &request.node_cidrs)?;

        let all: Vec<(&'static str, IpNet)> = [
            (POD, &pod_cidrs),
            (SERVICE, &service_cidrs),
            (NODE, &node_cidrs),
        ]
        .into_iter()
        .flat_map(|(flag, ranges)| ranges.iter().map(move |range| (flag, *range)))
        .collect();
        for (position, (first_flag, first)) in all.iter().enumerate() {
            for (second_flag, second) in &all[position + 1..] {
                // A pod range may contain the node network: nodes get parts beside it.
                let apart = (*first_flag, *second_flag) == (POD, NODE);
                if !apart && overlap(*first, *second) {
                    return Err(Error::Overlap {
                        first_flag,
                        first: *first,
                        second_flag,
                        second: *second,
                    });
                }
            }
        }
        check_sizes(&names, &pod_cidrs, &service_cidrs, &node_cidrs)?;

        let at = |position: u32| -> Vec<IpNet> {
            node_cidrs
                .iter()
                .map(|range| nth_host(*range, position))
                .collect()
        };
        let (api, outside) = (at(1), at(2));
        let network = chosen::Network {
            pod_cidrs: &pod_cidrs,
            node_cidrs: &node_cidrs,
            taken: [("the API server", &api), (OUTSIDE, &outside)],
        };
        let nodes = request.chosen.nodes(names, &network)?;
        let mut zones = request.zones.iter().cycle();
        let nodes = nodes
            .into_iter()
            .map(|node| NodePlan {
                settings: request.settings.clone().in_zone(zones.next()),
                ..node
            })
            .collect();
        Ok(Plan {
            name: request.name.clone(),
            families: request.families,
            api,
            outside,
            nodes,
            pod_cidrs,
            service_cidrs,
            node_cidrs,
            cluster_domain: "cluster.local".to_owned(),
            node_grace: None,
            scoring: Scoring::default(),
            leaves_node_ranges: false,
        })
    }

    /// The addresses of the `kubernetes` Service: the first of each Service range.
    #[must_use]
    pub fn kubernetes_service(&self) -> Vec<IpAddr> {
        self.service_address(1)
    }

    /// The addresses of the kube-dns Service: the tenth of each Service range.
    #[must_use]
    pub fn dns_service(&self) -> Vec<IpAddr> {
        self.service_address(10)
    }

    fn service_address(&self, position: u32) -> Vec<IpAddr> {
        self.service_cidrs
            .iter()
            .map(|range| nth_host(*range, position).addr())
            .collect()
    }

    /// Where the nodes reach the API server: `https://` URL with its primary address.
    #[must_use]
    pub fn api_url_inside(&self) -> String {
        let address = self
            .api
            .first()
            .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), IpNet::addr);
        format!(
            "https://{}",
            std::net::SocketAddr::new(address, API_PORT_INSIDE)
        )
    }
}

/// The position of the first node's address in a range with room: people find it by heart.
pub(super) const FIRST_NODE: u32 = 11;
/// The first position behind those of the API server and `outside`.
pub(super) const FIRST_FREE: u32 = 3;

pub(super) fn check_name(flag: &'static str, name: &str) -> Result<(), Error> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let fits = (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
        && bytes.first().copied().is_some_and(inner)
        && bytes.last().copied().is_some_and(inner);
    if fits {
        Ok(())
    } else {
        Err(Error::Name {
            flag,
            name: name.to_owned(),
        })
    }
}

/// Whether a name means something else than a node.
pub(super) fn is_reserved(name: &str) -> bool {
    ["outside", "api"].contains(&name)
}

fn node_names(request: &Request) -> Result<Vec<String>, Error> {
    let given = &request.node_names;
    let count = request
        .nodes
        .unwrap_or(if given.is_empty() { 2 } else { given.len() });
    if !(1..=MAX_NODES).contains(&count) {
        return Err(Error::NodeCount(count));
    }
    if given.len() > count {
        return Err(Error::MoreNamesThanNodes {
            names: given.len(),
            nodes: count,
        });
    }
    let mut names: Vec<String> = Vec::with_capacity(count);
    let others = (given.len() + 1..=count).map(|number| format!("node-{number}"));
    for name in given.iter().cloned().chain(others) {
        check_name("--node-name", &name)?;
        if is_reserved(&name) {
            return Err(Error::NameReserved(name));
        }
        if names.contains(&name) {
            return Err(Error::NameTwice(name));
        }
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            name: "weft".to_owned(),
            nodes: None,
            node_names: Vec::new(),
            families: Families::Ipv4,
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_cidrs: Vec::new(),
            chosen: Chosen::default(),
            zones: Vec::new(),
            settings: NodeSettings::default(),
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let plan = Plan::new(&Request {
            families: Families::Dual,
            ..request()
        })
        .unwrap();
        assert_eq!(
            plan.pod_cidrs,
            [net("10.244.0.0/16"), net("fd00:10:244::/56")]
        );
        assert_eq!(
            plan.service_cidrs,
            [net("10.96.0.0/12"), net("fd00:10:96::/112")]
        );
        assert_eq!(plan.api, [net("172.30.0.1/24"), net("fd00:172:30::1/64")]);
        assert_eq!(
            plan.outside,
            [net("172.30.0.2/24"), net("fd00:172:30::2/64")]
        );
        assert_eq!(plan.nodes.len(), 2);
        assert_eq!(plan.nodes[0].name, "node-1");
        assert_eq!(
            plan.nodes[1].addresses,
            [net("172.30.0.12/24"), net("fd00:172:30::c/64")]
        );
        assert_eq!(plan.dns_service()[0].to_string(), "10.96.0.10");
        assert_eq!(plan.kubernetes_service()[1].to_string(), "fd00:10:96::1");
        assert_eq!(plan.api_url_inside(), "https://172.30.0.1:6443");
    }

    #[test]
    fn a_small_node_network_starts_at_the_third_address() {
        let plan = Plan::new(&Request {
            node_cidrs: vec![net("192.0.2.0/29")],
            nodes: Some(4),
            ..request()
        })
        .unwrap();
        assert_eq!(plan.nodes[0].addresses, [net("192.0.2.3/29")]);
        assert_eq!(plan.nodes[3].addresses, [net("192.0.2.6/29")]);
    }

    #[test]
    fn names_come_first_and_numbers_follow() {
        let plan = Plan::new(&Request {
            nodes: Some(3),
            node_names: vec!["alpha".to_owned()],
            ..request()
        })
        .unwrap();
        let names: Vec<_> = plan.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["alpha", "node-2", "node-3"]);
    }

    #[test]
    fn a_pod_range_may_contain_the_node_network_if_nodes_find_room_beside_it() {
        let plan = Plan::new(&Request {
            pod_cidrs: vec![net("192.168.0.0/16")],
            node_cidrs: vec![net("192.168.191.0/24")],
            ..request()
        })
        .unwrap();
        assert_eq!(plan.node_cidrs, [net("192.168.191.0/24")]);
    }

    #[test]
    fn what_does_not_fit_is_said_with_the_flags() {
        let cases: &[(Request, &str)] = &[
            (
                Request {
                    pod_cidrs: vec![net("10.100.0.0/16")],
                    ..request()
                },
                "--pod-cidr 10.100.0.0/16 overlaps --service-cidr 10.96.0.0/12",
            ),
            (
                Request {
                    pod_cidrs: vec![net("10.9.0.0/23")],
                    node_cidrs: vec![net("10.9.1.0/24")],
                    ..request()
                },
                "--pod-cidr 10.9.0.0/23 overlaps --node-cidr 10.9.1.0/24",
            ),
            (
                Request {
                    node_cidrs: vec![net("192.0.2.0/30")],
                    ..request()
                },
                "--node-cidr 192.0.2.0/30 is too small: the API server, outside and 2 nodes need an address each; use a prefix of /29",
            ),
            (
                Request {
                    pod_cidrs: vec![net("10.9.0.0/24")],
                    ..request()
                },
                "--pod-cidr 10.9.0.0/24 is too small: 2 nodes take a /24 each; use a prefix of /23",
            ),
            (
                Request {
                    service_cidrs: vec![net("10.9.0.0/28")],
                    ..request()
                },
                "--service-cidr 10.9.0.0/28 is too small",
            ),
            (
                Request {
                    pod_cidrs: vec![net("10.9.0.1/16")],
                    ..request()
                },
                "--pod-cidr 10.9.0.1/16 has bits set behind its prefix; the range is 10.9.0.0/16",
            ),
            (
                Request {
                    pod_cidrs: vec![net("fd00::/56")],
                    ..request()
                },
                "--pod-cidr fd00::/56 is IPv6, but the lab's --ip-family is ipv4",
            ),
            (
                Request {
                    pod_cidrs: vec![net("10.1.0.0/16"), net("10.2.0.0/16")],
                    ..request()
                },
                "--pod-cidr gives two IPv4 ranges",
            ),
            (
                Request {
                    node_cidrs: vec![net("127.0.0.0/24")],
                    ..request()
                },
                "--node-cidr 127.0.0.0/24 overlaps 127.0.0.0/8, which is reserved (loopback)",
            ),
            (
                Request {
                    nodes: Some(0),
                    ..request()
                },
                "--nodes 0: a lab has 1 to 100 nodes",
            ),
            (
                Request {
                    name: "Lab_1".to_owned(),
                    ..request()
                },
                "--name \"Lab_1\"",
            ),
            (
                Request {
                    name: "..".to_owned(),
                    ..request()
                },
                "--name \"..\"",
            ),
            (
                Request {
                    node_names: vec!["a".to_owned(), "a".to_owned()],
                    ..request()
                },
                "--node-name \"a\" is there twice",
            ),
            (
                Request {
                    node_names: vec!["outside".to_owned()],
                    ..request()
                },
                "--node-name \"outside\" means something else in a lab",
            ),
            (
                Request {
                    nodes: Some(1),
                    node_names: vec!["a".to_owned(), "b".to_owned()],
                    ..request()
                },
                "2 times --node-name but --nodes 1",
            ),
        ];
        for (request, start) in cases {
            let error = Plan::new(request).unwrap_err().to_string();
            assert!(
                error.starts_with(start),
                "{error:?} does not start with {start:?}"
            );
        }
    }
}
