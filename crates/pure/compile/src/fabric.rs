//! Routes to the pods of other nodes, through those nodes (host-gw).
//!
//! Every node routes the pod ranges of every other node through that node's address.
//! A node's own ranges lead nowhere, except to the pods that have a route of their
//! own: a packet to an address that no pod has would otherwise leave by the default
//! route, come back from the router, and circle until its hop limit ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_desired::{Entry, NextHop, Origin, Route, RouteKey, RouteOwner, Table};
use weft_model::{Cluster, IpFamily, Key, Node, NodeName};

use crate::Problem;

/// What the node list becomes on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fabric {
    /// The routes; all of them belong to [`RouteOwner::Fabric`].
    pub routes: Table<RouteKey, Route>,
    /// The pod ranges of the nodes, those that can't be reached among them: their
    /// addresses are pods' all the same. No two overlap.
    pub ranges: BTreeSet<IpNet>,
    /// What can't be routed, and why, by node. The rest is routed.
    pub problems: Vec<Problem>,
}

/// The fabric as the node `me` must hold it.
///
/// Two nodes whose ranges overlap are a mistake in their objects: the range goes to
/// this node itself if it is one of them, or else to the first by name, so that all
/// other nodes choose alike whatever the order in which they heard of them.
pub fn compile(cluster: &Cluster, me: &NodeName) -> Fabric {
    let mut fabric = Fabric::default();
    let mut claims = Claims::default();
    let own = cluster.node(me);
    for node in own
        .into_iter()
        .chain(cluster.nodes().filter(|node| node.name != *me))
    {
        let mut faults = Vec::new();
        for range in node.pod_cidrs.iter().map(IpNet::trunc) {
            let taken = claims.take(range, &node.name);
            match taken.and_then(|()| next_hop(node, range, own, me)) {
                Ok(next_hop) => {
                    let key = RouteKey {
                        owner: RouteOwner::Fabric,
                        destination: range,
                    };
                    let entry = Entry {
                        value: Route { next_hop },
                        origin: origin(node),
                    };
                    fabric.routes.insert(key, entry);
                }
                Err(fault) => faults.push(fault),
            }
        }
        fabric
            .problems
            .extend(faults.into_iter().map(|fault| Problem {
                object: Key::Node(node.name.clone()),
                reason: fault.to_string(),
            }));
    }
    fabric.problems.sort();
    fabric.ranges = claims.holders.into_keys().collect();
    fabric
}

/// Why a range of a node is not routed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    NoAddress {
        range: IpNet,
        family: IpFamily,
    },
    OwnAddress {
        range: IpNet,
        address: IpAddr,
    },
    Inside {
        range: IpNet,
        address: IpAddr,
    },
    Overlap {
        range: IpNet,
        other: IpNet,
        holder: NodeName,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoAddress { range, family } => write!(
                f,
                "pod range {range} can't be reached: the node has no {family} address \
                 (status.addresses of type InternalIP)"
            ),
            Fault::OwnAddress { range, address } => write!(
                f,
                "pod range {range} can't be reached: the node's address {address} is this \
                 node's own; every node needs an address of its own"
            ),
            Fault::Inside { range, address } => write!(
                f,
                "pod range {range} can't be reached: the node's own address {address} is in it; \
                 pod ranges and node addresses must not overlap"
            ),
            Fault::Overlap {
                range,
                other,
                holder,
            } => write!(
                f,
                "pod range {range} is not routed: it overlaps {other} of node {holder}; \
                 delete one of the two nodes and let it be made again with a free range"
            ),
        }
    }
}

fn next_hop(
    node: &Node,
    range: IpNet,
    own: Option<&Node>,
    me: &NodeName,
) -> Result<NextHop, Fault> {
    if node.name == *me {
        return Ok(NextHop::Unreachable);
    }
    let Some(address) = node.address_like(range.addr()) else {
        return Err(Fault::NoAddress {
            range,
            family: IpFamily::of(range.addr()),
        });
    };
    if range.contains(&address) {
        return Err(Fault::Inside { range, address });
    }
    if own.is_some_and(|own| own.internal_ips.contains(&address)) {
        return Err(Fault::OwnAddress { range, address });
    }
    Ok(NextHop::Gateway { address })
}

fn origin(node: &Node) -> Origin {
    Origin {
        kind: "Node",
        namespace: "".into(),
        name: node.name.as_str().into(),
        generation: node.generation,
    }
}

/// The ranges that are given away; no two of them overlap.
#[derive(Default)]
struct Claims {
    holders: BTreeMap<IpNet, NodeName>,
}

impl Claims {
    fn take(&mut self, range: IpNet, node: &NodeName) -> Result<(), Fault> {
        // Ordered by first address: of ranges that overlap no other, only the one before
        // and the one behind can overlap this one.
        let before = self.holders.range(..=range).next_back();
        let behind = self.holders.range(range..).next();
        let taken = before
            .into_iter()
            .chain(behind)
            .find(|(other, _)| other.contains(&range) || range.contains(*other));
        if let Some((other, holder)) = taken {
            return Err(Fault::Overlap {
                range,
                other: *other,
                holder: holder.clone(),
            });
        }
        self.holders.insert(range, node.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{Change, Object};

    use super::*;

    fn node(name: &str, addresses: &[&str], ranges: &[&str]) -> Node {
        Node {
            name: name.into(),
            generation: 0,
            labels: Default::default(),
            internal_ips: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            pod_cidrs: ranges.iter().map(|r| r.parse().unwrap()).collect(),
            leaving: false,
        }
    }

    fn cluster(nodes: impl IntoIterator<Item = Node>) -> Cluster {
        let mut cluster = Cluster::default();
        for node in nodes {
            cluster.apply(Change::Put(Object::Node(node)));
        }
        cluster
    }

    fn lines(fabric: &Fabric) -> Vec<String> {
        let routes = fabric.routes.iter().map(|(key, entry)| {
            format!(
                "{} {} # {}",
                key.destination, entry.value.next_hop, entry.origin
            )
        });
        routes
            .chain(fabric.problems.iter().map(ToString::to_string))
            .collect()
    }

    fn dual() -> Vec<Node> {
        (1..=3)
            .map(|n| {
                node(
                    &format!("node-{n}"),
                    &[&format!("172.30.0.1{n}"), &format!("fd00:172:30::1{n}")],
                    &[
                        &format!("10.244.{n}.0/24"),
                        &format!("fd00:10:244:{n}::/64"),
                    ],
                )
            })
            .collect()
    }

    #[test]
    fn other_nodes_are_reached_in_their_own_family_and_unused_addresses_nowhere() {
        let fabric = compile(&cluster(dual()), &"node-1".into());
        assert_eq!(
            lines(&fabric),
            [
                "10.244.1.0/24 unreachable # Node node-1",
                "10.244.2.0/24 via 172.30.0.12 # Node node-2",
                "10.244.3.0/24 via 172.30.0.13 # Node node-3",
                "fd00:10:244:1::/64 unreachable # Node node-1",
                "fd00:10:244:2::/64 via fd00:172:30::12 # Node node-2",
                "fd00:10:244:3::/64 via fd00:172:30::13 # Node node-3",
            ]
        );
    }

    #[test]
    fn a_node_that_is_not_known_yet_still_reaches_the_others() {
        let fabric = compile(&cluster(dual().into_iter().skip(1)), &"node-1".into());
        assert_eq!(fabric.routes.len(), 4);
        assert!(fabric.problems.is_empty());
    }

    #[test]
    fn a_node_without_an_address_of_the_family_is_reported_and_the_rest_routed() {
        let nodes = [
            node("a", &["172.30.0.11"], &["10.244.1.0/24"]),
            node(
                "b",
                &["172.30.0.12"],
                &["10.244.2.0/24", "fd00:10:244:2::/64"],
            ),
            node("c", &[], &["10.244.3.0/24"]),
            node("d", &["172.30.0.14"], &[]),
        ];
        let fabric = compile(&cluster(nodes), &"a".into());
        // Addresses of pods, whether or not a route leads there.
        assert_eq!(
            fabric
                .ranges
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            [
                "10.244.1.0/24",
                "10.244.2.0/24",
                "10.244.3.0/24",
                "fd00:10:244:2::/64"
            ]
        );
        assert_eq!(
            lines(&fabric),
            [
                "10.244.1.0/24 unreachable # Node a",
                "10.244.2.0/24 via 172.30.0.12 # Node b",
                "Node b: pod range fd00:10:244:2::/64 can't be reached: the node has no IPv6 \
                 address (status.addresses of type InternalIP)",
                "Node c: pod range 10.244.3.0/24 can't be reached: the node has no IPv4 \
                 address (status.addresses of type InternalIP)",
            ]
        );
    }

    #[test]
    fn a_range_has_one_holder_this_node_first_and_then_by_name() {
        let nodes = [
            node("a", &["172.30.0.1"], &["10.244.0.0/22"]),
            node("b", &["172.30.0.2"], &["10.244.1.0/24"]),
            node("c", &["172.30.0.3"], &["10.244.1.128/25", "10.244.9.0/24"]),
            node("d", &["172.30.0.4"], &["10.244.9.0/24"]),
        ];
        let at_b = compile(&cluster(nodes.clone()), &"b".into());
        assert_eq!(
            lines(&at_b),
            [
                "10.244.1.0/24 unreachable # Node b",
                "10.244.9.0/24 via 172.30.0.3 # Node c",
                "Node a: pod range 10.244.0.0/22 is not routed: it overlaps 10.244.1.0/24 of \
                 node b; delete one of the two nodes and let it be made again with a free range",
                "Node c: pod range 10.244.1.128/25 is not routed: it overlaps 10.244.1.0/24 of \
                 node b; delete one of the two nodes and let it be made again with a free range",
                "Node d: pod range 10.244.9.0/24 is not routed: it overlaps 10.244.9.0/24 of \
                 node c; delete one of the two nodes and let it be made again with a free range",
            ]
        );
        let at_d = compile(&cluster(nodes.clone()), &"d".into());
        let of_others: Vec<_> = at_d
            .routes
            .keys()
            .map(|k| k.destination.to_string())
            .collect();
        assert_eq!(of_others, ["10.244.0.0/22", "10.244.9.0/24"]);
        assert!(
            at_d.ranges
                .iter()
                .eq(at_d.routes.keys().map(|k| &k.destination))
        );

        let mut reversed = nodes.to_vec();
        reversed.reverse();
        assert_eq!(compile(&cluster(reversed), &"b".into()), at_b);
    }

    #[test]
    fn an_address_that_would_route_in_a_circle_is_refused() {
        let nodes = [
            node("a", &["172.30.0.1"], &["10.244.1.0/24"]),
            node("b", &["172.30.0.1"], &["10.244.2.0/24"]),
            node("c", &["10.244.3.7"], &["10.244.3.0/24"]),
        ];
        let fabric = compile(&cluster(nodes), &"a".into());
        assert_eq!(fabric.routes.len(), 1);
        assert_eq!(
            fabric
                .problems
                .iter()
                .map(|p| p.object.to_string())
                .collect::<Vec<_>>(),
            ["Node b", "Node c"]
        );
    }

    #[test]
    fn ranges_are_taken_by_their_network_whatever_host_bits_they_carry() {
        let nodes = [
            node("a", &["172.30.0.1"], &[]),
            node("b", &["172.30.0.2"], &["10.244.2.9/24"]),
        ];
        let fabric = compile(&cluster(nodes), &"a".into());
        assert_eq!(lines(&fabric), ["10.244.2.0/24 via 172.30.0.2 # Node b"]);
    }
}
