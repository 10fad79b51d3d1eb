//! What holds for all Services of a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use weft_desired::{IpFamily, LocalDetection, NodeNat, Protocol};

use crate::rule::{Condition, Rule, Target};

/// Which of kube-proxy's generations of chains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// KUBE-EXT chains, the endpoint in the comment (kube-proxy 1.26 and later; compared with
    /// 1.32.3).
    #[default]
    Current,
    /// KUBE-XLB and KUBE-MARK-DROP chains (compared with kube-proxy 1.23.3).
    V1_23,
}

/// What is asked of the rules beside [`NodeNat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which chains.
    pub generation: Generation,
    /// The bit of the mark that stands for "masquerade", below 32.
    pub masquerade_bit: u8,
    /// Whether source ports of masqueraded flows are drawn at random.
    pub random_fully: bool,
    /// Whether packets that conntrack calls invalid are dropped: not where the kernel was
    /// told to be liberal (`nf_conntrack_tcp_be_liberal`).
    pub drop_invalid: bool,
    /// Whether the kernel counts under names (`nfacct`): the counters have to be there.
    pub counters: bool,
    /// Whether clients by TCP are reset where there is no endpoint. kube-proxy answers by ICMP,
    /// which ends no connection that was open (RFC 1122, 4.2.3.9).
    pub reset_refused: bool,
}

impl Default for Options {
    /// kube-proxy's, where the kernel has no `nfacct`.
    fn default() -> Self {
        Self {
            generation: Generation::Current,
            masquerade_bit: 14,
            random_fully: true,
            drop_invalid: true,
            counters: false,
            reset_refused: false,
        }
    }
}

/// Settings of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) family: IpFamily,
    pub(crate) generation: Generation,
    /// The mark that stands for "masquerade".
    pub(crate) mark: u32,
    pub(crate) masquerade_all: bool,
    pub(crate) local_traffic: LocalTraffic,
    pub(crate) node_ports: NodePorts,
    pub(crate) localhost_node_ports: bool,
    pub(crate) random_fully: bool,
    pub(crate) drop_invalid: bool,
    pub(crate) counters: bool,
    reset_refused: bool,
}

impl Settings {
    pub(crate) fn new(family: IpFamily, nat: &NodeNat, options: &Options) -> Self {
        let localhost_node_ports = nat.localhost_node_ports
            && family == IpFamily::V4
            && nat.node_port_addresses.include(Ipv4Addr::LOCALHOST.into());
        Self {
            family,
            generation: options.generation,
            mark: 1_u32
                .checked_shl(options.masquerade_bit.into())
                .unwrap_or(0),
            masquerade_all: nat.masquerade_all,
            local_traffic: LocalTraffic::new(family, &nat.local),
            node_ports: NodePorts::new(family, nat, localhost_node_ports),
            localhost_node_ports,
            random_fully: options.random_fully,
            drop_invalid: options.drop_invalid,
            counters: options.counters && options.generation == Generation::Current,
            reset_refused: options.reset_refused,
        }
    }

    /// What clients meet where there is no endpoint.
    pub(crate) fn refusal(&self, protocol: Protocol) -> Target {
        match protocol {
            Protocol::Tcp if self.reset_refused => Target::Reset,
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => Target::Reject,
        }
    }
}

/// How a packet of a pod is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LocalTraffic {
    /// Not at all.
    Unknown,
    /// By its source.
    Range(IpNet),
    /// By the link that it comes in by; a `+` at the end stands for anything.
    Link(String),
}

impl LocalTraffic {
    fn new(family: IpFamily, detection: &LocalDetection) -> Self {
        match detection {
            LocalDetection::Nothing => LocalTraffic::Unknown,
            // "In none of these" can't be said in one rule: of several, the range around them.
            LocalDetection::Ranges(ranges) => ranges
                .iter()
                .filter(|range| family.has(range.addr()))
                .copied()
                .reduce(around)
                .map_or(LocalTraffic::Unknown, LocalTraffic::Range),
            LocalDetection::Bridge(name) => LocalTraffic::Link(name.to_string()),
            LocalDetection::InterfacePrefix(prefix) => LocalTraffic::Link(format!("{prefix}+")),
        }
    }

    /// The rule for pods' packets alone; none if they aren't known.
    pub(crate) fn restrict(&self, mut rule: Rule) -> Option<Rule> {
        match self {
            LocalTraffic::Unknown => return None,
            LocalTraffic::Range(range) => rule.source = Some(Condition::Is(*range)),
            LocalTraffic::Link(name) => rule.interface = Some(Condition::Is(name.clone())),
        }
        Some(rule)
    }

    /// The rule for all but pods' packets; none if they aren't known.
    pub(crate) fn exclude(&self, mut rule: Rule) -> Option<Rule> {
        match self {
            LocalTraffic::Unknown => return None,
            LocalTraffic::Range(range) => rule.source = Some(Condition::IsNot(*range)),
            LocalTraffic::Link(name) => rule.interface = Some(Condition::IsNot(name.clone())),
        }
        Some(rule)
    }
}

/// The smallest range that two are in.
fn around(mut one: IpNet, other: IpNet) -> IpNet {
    while !one.contains(&other) {
        match one.supernet() {
            Some(wider) => one = wider,
            None => return one,
        }
    }
    one
}

/// Where node ports answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodePorts {
    /// At every address of the node.
    Everywhere,
    /// At these.
    At(Vec<IpAddr>),
}

impl NodePorts {
    fn new(family: IpFamily, nat: &NodeNat, localhost: bool) -> Self {
        let wanted = &nat.node_port_addresses;
        if wanted.include_all(family) {
            return NodePorts::Everywhere;
        }
        let own = nat.own_addresses.iter().copied();
        let chosen = own.filter(|own| family.has(*own) && wanted.include(*own));
        let localhost = localhost.then_some(IpAddr::from(Ipv4Addr::LOCALHOST));
        NodePorts::At(localhost.into_iter().chain(chosen).collect())
    }
}

/// All addresses of a family's loopback.
pub(crate) fn loopback(family: IpFamily) -> IpNet {
    match family {
        IpFamily::V4 => localhost(),
        IpFamily::V6 => IpAddr::from(Ipv6Addr::LOCALHOST).into(),
    }
}

/// 127.0.0.0/8.
pub(crate) fn localhost() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))
}
