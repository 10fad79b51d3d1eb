//! Which nodes a lab has, as they come and go: worked out and checked before anything is done.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::plan::{
    self, FIRST_FREE, FIRST_NODE, MAX_NODES, NodePlan, Plan, RESERVED, check_name, hosts,
    is_reserved, nth_host,
};
use super::settings::NodeSettings;
use weft_kinds::node_ranges::{Masks, free_parts};

/// A node that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRequest {
    /// Its name; the lowest free `node-N` without.
    pub name: Option<String>,
    /// Its addresses, at most one for each family; the lowest free ones without.
    pub addresses: Vec<IpAddr>,
    /// What its kubelet says of it.
    pub settings: NodeSettings,
}

/// Why a lab's nodes cannot become so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A name that cannot be a host name.
    #[error(transparent)]
    Name(plan::Error),
    /// A name with another meaning.
    #[error("{0:?} cannot be a node's name ({RESERVED}); choose another one")]
    Reserved(String),
    /// There is such a node.
    #[error(
        "there is a node {0:?} in this lab already; choose another name, or remove that one first (`weft lab node remove {0}`)"
    )]
    Taken(String),
    /// A removal that failed halfway.
    #[error(
        "node {0:?} is not removed yet: its removal failed; finish that first (`weft lab node remove {0}`)"
    )]
    Leaving(String),
    /// There is no such node.
    #[error("there is no node {name:?} in this lab; its nodes: {}", nodes.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The nodes that there are.
        nodes: Vec<String>,
    },
    /// It would be the end of the cluster.
    #[error(
        "{0:?} is the lab's last node, and a lab has at least one; add another first, or end the lab (`weft lab down`)"
    )]
    Last(String),
    /// Too many nodes.
    #[error("the lab has {MAX_NODES} nodes, and that is as many as a lab can have")]
    Full,
    /// The pod range is used up.
    #[error(
        "the pod range {0} has no part left for another node; start a lab with a wider --pod-cidr"
    )]
    PodRange(IpNet),
    /// The node network is used up.
    #[error(
        "the node network {0} has no address left for another node; start a lab with a wider --node-cidr"
    )]
    NodeRange(IpNet),
    /// An address that the node cannot have.
    #[error("--address {address}: {reason}")]
    Address {
        /// The address asked for.
        address: IpAddr,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// What kind of complaint it is.
    #[must_use]
    pub fn kind(&self) -> Complaint {
        match self {
            Error::Taken(_) | Error::Leaving(_) => Complaint::InUse,
            Error::Unknown { .. } => Complaint::NotThere,
            Error::Name(_)
            | Error::Reserved(_)
            | Error::Last(_)
            | Error::Full
            | Error::PodRange(_)
            | Error::NodeRange(_)
            | Error::Address { .. } => Complaint::DoesNotFit,
        }
    }
}

/// What kind of complaint there is, for an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Complaint {
    /// What was asked for is not possible.
    DoesNotFit,
    /// A name or address is in use.
    InUse,
    /// It is not there.
    NotThere,
    /// It was tried, and failed.
    Failed,
}

impl Plan {
    /// The node that a request is for. It is not one of the plan's yet.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new_node(&self, request: &NodeRequest) -> Result<NodePlan, Error> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Error::Full);
        }
        let chosen = self.nodes.iter().flat_map(|node| &node.pod_cidrs);
        let taken: Vec<IpNet> = self.node_cidrs.iter().chain(chosen).copied().collect();
        for range in &self.pod_cidrs {
            let has_chosen =
                |node: &&NodePlan| node.pod_cidrs.iter().any(|part| range.contains(part));
            let others = self.nodes.len() - self.nodes.iter().filter(has_chosen).count();
            let parts = free_parts(*range, Masks::default(), &taken);
            if parts.take(others + 1).count() <= others {
                return Err(Error::PodRange(*range));
            }
        }
        let name = match &request.name {
            Some(name) => self.new_name(name)?,
            None => self.free_name(),
        };
        Ok(NodePlan {
            name,
            addresses: self.new_addresses(&request.addresses)?,
            pod_cidrs: Vec::new(),
            settings: request.settings.clone(),
        })
    }

    /// A node of the plan.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn node(&self, name: &str) -> Result<&NodePlan, Error> {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.ok_or_else(|| Error::Unknown {
            name: name.to_owned(),
            nodes: self.nodes.iter().map(|node| node.name.clone()).collect(),
        })
    }

    /// The nodes without one of them.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Last`].
    pub fn nodes_without(&self, name: &str) -> Result<Vec<NodePlan>, Error> {
        self.node(name)?;
        let others = self.nodes.iter().filter(|node| node.name != name);
        let others: Vec<NodePlan> = others.cloned().collect();
        if others.is_empty() {
            return Err(Error::Last(name.to_owned()));
        }
        Ok(others)
    }

    fn new_name(&self, name: &str) -> Result<String, Error> {
        check_name("the node", name).map_err(Error::Name)?;
        if is_reserved(name) {
            return Err(Error::Reserved(name.to_owned()));
        }
        if self.node(name).is_ok() {
            return Err(Error::Taken(name.to_owned()));
        }
        Ok(name.to_owned())
    }

    fn free_name(&self) -> String {
        let mut names = (1..).map(|number: u32| format!("node-{number}"));
        names
            .find(|name| self.node(name).is_err())
            .unwrap_or_default()
    }

    /// The addresses asked for, and for each other family the lowest free one.
    fn new_addresses(&self, asked: &[IpAddr]) -> Result<Vec<IpNet>, Error> {
        let wrong = |address: IpAddr, reason: String| Err(Error::Address { address, reason });
        for address in asked {
            if !self.node_cidrs.iter().any(|range| range.contains(address)) {
                let ranges: Vec<_> = self.node_cidrs.iter().map(ToString::to_string).collect();
                let reason = format!("it is not in the node network {}", ranges.join(", "));
                return wrong(*address, reason);
            }
        }
        let mut addresses = Vec::with_capacity(self.node_cidrs.len());
        for range in &self.node_cidrs {
            let mut of_range = asked.iter().filter(|address| range.contains(*address));
            match (of_range.next(), of_range.next()) {
                (Some(_), Some(second)) => {
                    return wrong(*second, format!("another one in {range} is given"));
                }
                (Some(address), None) => {
                    if let Some(user) = self.user_of(*address) {
                        return wrong(*address, format!("it is {user}'s"));
                    }
                    if !is_host(*range, *address) {
                        let reason = format!("it is no address of a host in {range}");
                        return wrong(*address, reason);
                    }
                    addresses.push(IpNet::new(*address, range.prefix_len()).unwrap_or(*range));
                }
                (None, _) => {
                    let free = self.free_address(*range).ok_or(Error::NodeRange(*range))?;
                    addresses.push(free);
                }
            }
        }
        Ok(addresses)
    }

    fn free_address(&self, range: IpNet) -> Option<IpNet> {
        // From where the first nodes are; what lies before it when the rest is used up.
        let all = u32::try_from(hosts(range)).unwrap_or(u32::MAX);
        let positions = (FIRST_NODE..=all).chain(FIRST_FREE..FIRST_NODE.min(all.saturating_add(1)));
        positions
            .map(|position| nth_host(range, position))
            .find(|address| self.user_of(address.addr()).is_none())
    }

    /// Who has an address of the node network.
    fn user_of(&self, address: IpAddr) -> Option<&str> {
        let nodes = self
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), &node.addresses));
        [("the API server", &self.api), ("outside", &self.outside)]
            .into_iter()
            .chain(nodes)
            .find(|(_, addresses)| addresses.iter().any(|one| one.addr() == address))
            .map(|(name, _)| name)
    }
}

/// Whether an address is neither the network's own nor, in IPv4, the broadcast one.
fn is_host(range: IpNet, address: IpAddr) -> bool {
    address != range.network() && (address.is_ipv6() || address != range.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::{Chosen, Families, Request};

    fn lab(families: Families, nodes: usize, node_cidrs: &[&str]) -> Plan {
        Plan::new(&Request {
            name: "weft".to_owned(),
            nodes: Some(nodes),
            node_names: Vec::new(),
            families,
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_cidrs: node_cidrs.iter().map(|one| one.parse().unwrap()).collect(),
            chosen: Chosen::default(),
            zones: Vec::new(),
            settings: NodeSettings::default(),
        })
        .unwrap()
    }

    fn asked(name: Option<&str>, addresses: &[&str]) -> NodeRequest {
        NodeRequest {
            name: name.map(str::to_owned),
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
            ..NodeRequest::default()
        }
    }

    fn said(node: &NodePlan) -> String {
        let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
        format!("{} {}", node.name, addresses.join(" "))
    }

    #[test]
    fn a_new_node_takes_the_lowest_name_and_addresses_that_are_free() {
        let mut plan = lab(Families::Dual, 3, &[]);
        assert_eq!(
            said(&plan.new_node(&asked(None, &[])).unwrap()),
            "node-4 172.30.0.14/24 fd00:172:30::e/64"
        );
        plan.nodes = plan.nodes_without("node-2").unwrap();
        assert_eq!(
            said(&plan.new_node(&asked(None, &[])).unwrap()),
            "node-2 172.30.0.12/24 fd00:172:30::c/64"
        );
        assert_eq!(
            said(
                &plan
                    .new_node(&asked(Some("gpu"), &["172.30.0.200"]))
                    .unwrap()
            ),
            "gpu 172.30.0.200/24 fd00:172:30::c/64"
        );
    }

    #[test]
    fn a_small_network_is_used_to_its_end() {
        let mut plan = lab(Families::Ipv4, 1, &["192.0.2.0/28"]);
        let mut seen = vec![said(&plan.nodes[0])];
        while let Ok(node) = plan.new_node(&asked(None, &[])) {
            seen.push(said(&node));
            plan.nodes.push(node);
        }
        // 14 hosts without the API server and outside.
        assert_eq!(seen.len(), 12, "{seen:?}");
        assert_eq!(seen[1], "node-2 192.0.2.12/28");
        assert_eq!(seen[4], "node-5 192.0.2.3/28");
        assert_eq!(
            plan.new_node(&asked(None, &[])).unwrap_err(),
            Error::NodeRange("192.0.2.0/28".parse().unwrap())
        );
    }

    #[test]
    fn what_cannot_be_is_said() {
        let plan = lab(Families::Ipv4, 2, &[]);
        let cases = [
            (asked(Some("node-1"), &[]), Complaint::InUse, "already"),
            (
                asked(Some("outside"), &[]),
                Complaint::DoesNotFit,
                "cannot be a node",
            ),
            (asked(Some("Ä"), &[]), Complaint::DoesNotFit, "lower-case"),
            (
                asked(None, &["10.0.0.1"]),
                Complaint::DoesNotFit,
                "not in the node network",
            ),
            (
                asked(None, &["172.30.0.1"]),
                Complaint::DoesNotFit,
                "the API server",
            ),
            (
                asked(None, &["172.30.0.12"]),
                Complaint::DoesNotFit,
                "it is node-2's",
            ),
            (
                asked(None, &["172.30.0.255"]),
                Complaint::DoesNotFit,
                "no address of a host",
            ),
            (
                asked(None, &["172.30.0.50", "172.30.0.51"]),
                Complaint::DoesNotFit,
                "another one in",
            ),
        ];
        for (request, kind, text) in cases {
            let error = plan.new_node(&request).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(error.kind(), kind, "{error}");
        }
        let unknown = plan.nodes_without("node-9").unwrap_err();
        assert_eq!(unknown.kind(), Complaint::NotThere);
        let last = lab(Families::Ipv4, 1, &[]).nodes_without("node-1");
        assert_eq!(last.unwrap_err(), Error::Last("node-1".to_owned()));
    }
}
