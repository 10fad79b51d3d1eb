//! What one Service port adds to the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_desired::{Backend, Protocol, ServicePort, ServicePortKey, Sharing};

use crate::chain::{Chain, ServiceChains, Table};
use crate::rule::{Match, Rule, Target};

/// A chain that holds rules of all Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shared {
    /// The way in, by addresses.
    Portals,
    /// The way in, by the node's own addresses.
    NodePorts,
    /// Cluster addresses without endpoints.
    Refused,
    /// Other addresses without endpoints.
    RefusedExternal,
    /// Where load balancers ask for endpoints.
    HealthChecks,
    /// What no source range admitted.
    Firewall,
}

impl Shared {
    /// Its table and name.
    pub(crate) fn place(self) -> (Table, Chain) {
        match self {
            Shared::Portals => (Table::Nat, Chain::SERVICES),
            Shared::NodePorts => (Table::Nat, Chain::NODE_PORTS),
            Shared::Refused => (Table::Filter, Chain::SERVICES),
            Shared::RefusedExternal => (Table::Filter, Chain::EXTERNAL_SERVICES),
            Shared::HealthChecks => (Table::Filter, Chain::NODE_PORTS),
            Shared::Firewall => (Table::Filter, Chain::PROXY_FIREWALL),
        }
    }
}

/// Rules in the chains that all Services share, and chains of the port's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// In chains that all share.
    pub(crate) shared: BTreeMap<Shared, Vec<Rule>>,
    /// The port's own chains, all in nat.
    pub(crate) chains: BTreeMap<Chain, Vec<Rule>>,
}

impl Fragment {
    /// Adds a rule to a chain that all share.
    pub(crate) fn share(&mut self, shared: Shared, rule: Rule) {
        self.shared.entry(shared).or_default().push(rule);
    }

    /// The rules of a chain of its own.
    pub(crate) fn chain(&mut self, chain: Chain) -> &mut Vec<Rule> {
        self.chains.entry(chain).or_default()
    }

    /// The port where the load balancer asks whether this node has endpoints is let through,
    /// whether it has any or not.
    pub(crate) fn health_check(&mut self, port: &ServicePort) {
        if let Some(number) = port.health_check {
            let rule = Rule::about(format!("{} health check node port", port.label))
                .of(Protocol::Tcp, Some(number));
            self.share(Shared::HealthChecks, rule.then(Target::Accept));
        }
    }
}

/// The protocol and port of a Service at each of its addresses.
pub(crate) struct Portal {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl Portal {
    /// A rule for packets to one of the addresses.
    pub(crate) fn at(&self, address: IpAddr, comment: String) -> Rule {
        Rule::about(comment)
            .to(address)
            .of(self.protocol, Some(self.port))
    }
}

/// The rules that choose among endpoints: the one that a client had before, or any.
pub(crate) fn spread(
    chains: &ServiceChains,
    affinity: Option<u32>,
    backends: &BTreeSet<Backend>,
    sharing: &Sharing,
    comment: impl Fn(&Backend) -> Option<String>,
) -> Vec<Rule> {
    let backends = in_order(backends);
    let rule = |backend| comment(backend).map_or_else(Rule::default, Rule::about);
    let mut rules = Vec::new();
    if let Some(seconds) = affinity {
        for backend in &backends {
            let list = chains.endpoint(backend);
            let remembered = Match::Remembered {
                list: list.clone(),
                seconds,
            };
            rules.push(rule(backend).with(remembered).jump(list));
        }
    }
    let weight = |backend: &Backend| u64::from(sharing.weight(backend));
    let mut of: u64 = backends.iter().map(weight).sum();
    for (index, backend) in backends.iter().enumerate() {
        let mut rule = rule(backend);
        let part = weight(backend);
        if index + 1 < backends.len() {
            rule = rule.with(Match::Share { part, of });
        }
        of -= part;
        rules.push(rule.jump(chains.endpoint(backend)));
    }
    rules
}

/// The chains that translate to endpoints.
pub(crate) fn endpoint_chains(
    fragment: &mut Fragment,
    chains: &ServiceChains,
    key: &ServicePortKey,
    port: &ServicePort,
    backends: &BTreeSet<Backend>,
    comment: Option<&str>,
) {
    for backend in backends {
        let chain = chains.endpoint(backend);
        let rule = || comment.map_or_else(Rule::default, Rule::about);
        // A pod that reaches itself would answer itself directly.
        let hairpin = rule().from(backend.address).jump(Chain::MARK_MASQ);
        let mut translate = rule();
        if port.affinity.is_some() {
            translate = translate.with(Match::Remember(chain.clone()));
        }
        let translate = translate
            .of(key.protocol, None)
            .then(Target::Translate(*backend));
        *fragment.chain(chain) = vec![hairpin, translate];
    }
}

/// In the order of their texts, as kube-proxy has them.
fn in_order(backends: &BTreeSet<Backend>) -> Vec<Backend> {
    let mut ordered: Vec<(String, Backend)> = backends
        .iter()
        .map(|backend| (backend.to_string(), *backend))
        .collect();
    ordered.sort();
    ordered.into_iter().map(|(_, backend)| backend).collect()
}
