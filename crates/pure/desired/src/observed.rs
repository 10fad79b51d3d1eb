//! Services as a kernel has them: what was read, whoever wrote it and by whatever back end.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Backend, FrontendKey, HashOf, Masquerade, Otherwise};

/// By which of a Service's addresses a frontend is there, as far as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// The Service's own address.
    ClusterIp,
    /// A port of the node.
    NodePort,
    /// Any other: an external address, or a load balancer's.
    External,
}

/// Why a packet to a Service was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The Service has no endpoints.
    NoEndpoints,
    /// It has, but none on this node, and its traffic policy allows no other.
    NoLocalEndpoints,
    /// `loadBalancerSourceRanges` does not have the source.
    SourceNotAdmitted,
}

/// Packets, and the bytes in them with their IP headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a kernel has counted of one frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// New connections that came to it; for UDP new flows.
    pub connections: u64,
    /// Packets from clients and to them, where those are counted.
    pub traffic: Option<(Volume, Volume)>,
    /// Packets that were turned away.
    pub turned_away: BTreeMap<Reason, u64>,
}

/// What clients beyond the cluster are given, if it is something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedOutside {
    /// Slot by slot. They are told nothing if it is empty.
    pub backends: BTreeMap<u32, Backend>,
}

/// A frontend as a kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// `namespace/name:port`, perhaps cut; empty if the kernel does not say.
    pub label: Arc<str>,
    /// By which address.
    pub door: Door,
    /// Slot by slot. An endpoint that gets more connections than others has several.
    pub backends: BTreeMap<u32, Backend>,
    /// What of a connection decides which slot it gets, where chance does not.
    pub hash: Option<HashOf>,
    /// What happens to everybody, if nobody is given an endpoint.
    pub turned_away: Option<Otherwise>,
    /// What clients beyond the cluster are given, if it is something else.
    pub outside: Option<ObservedOutside>,
    /// Who may send to it; everybody if there is nothing here.
    pub sources: Option<Vec<IpNet>>,
    /// For how many seconds clients are remembered.
    pub affinity: Option<u32>,
    /// How many are remembered now, where the kernel says.
    pub remembered: usize,
    /// Whose connections leave with the node's address.
    pub masquerade: Option<Masquerade>,
    /// What was counted.
    pub tally: Tally,
}

impl Observed {
    /// A frontend of which nothing is known yet.
    pub fn new(door: Door) -> Self {
        Self {
            label: Arc::default(),
            door,
            backends: BTreeMap::new(),
            hash: None,
            turned_away: None,
            outside: None,
            sources: None,
            affinity: None,
            remembered: 0,
            masquerade: None,
            tally: Tally::default(),
        }
    }
}

/// What a kernel has of Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// By address, protocol and port. Where node ports answer at every address of the node,
    /// the address is the unspecified one.
    pub frontends: BTreeMap<FrontendKey, Observed>,
    /// Packets turned away, by the reason that the rules give.
    pub turned_away: BTreeMap<String, u64>,
}

impl View {
    /// Takes another's frontends and counts in.
    pub fn merge(&mut self, other: View) {
        self.frontends.extend(other.frontends);
        for (reason, packets) in other.turned_away {
            *self.turned_away.entry(reason).or_default() += packets;
        }
    }
}
