//! All rules of a node in one family.

use std::collections::BTreeMap;
use std::fmt::Write;

use weft_desired::{IpFamily, NodeNat, ServicePort, ServicePortKey, Table as Entries};

use crate::chain::{Chain, Table};
use crate::fragment::{Fragment, Shared};
use crate::rule::{Condition, Match, Rule, State, Target};
use crate::settings::{Generation, NodePorts, Options, Settings, localhost, loopback};
use crate::{current, v1_23};

/// How many endpoints there may be before endpoints' rules lose their comments, which are
/// close to half of all text then (kube-proxy's `largeClusterEndpointsThreshold`).
pub(crate) const COMMENTED_ENDPOINTS: usize = 1000;
/// The counter of packets that conntrack calls invalid.
const INVALID: &str = "ct_state_invalid_dropped_pkts";
/// The bit of the mark that stands for "drop" (kubelet's `--iptables-drop-bit`).
const DROP_MARK: u32 = 1 << 15;

/// Rules by chain.
pub type Chains = BTreeMap<(Table, Chain), Vec<Rule>>;

/// All rules of a node in one family: whole chains of ours, and jumps to them out of the
/// chains that the kernel calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The family.
    pub family: IpFamily,
    /// The rules that have to stand in the chains that the kernel calls, first of all and in
    /// this order. Others may stand there too.
    pub jumps: Chains,
    /// Our chains, whole.
    pub chains: Chains,
}

impl Ruleset {
    /// The rules for the Service ports of a family.
    pub fn new(
        family: IpFamily,
        services: &Entries<ServicePortKey, ServicePort>,
        nat: &NodeNat,
        options: &Options,
    ) -> Self {
        let settings = Settings::new(family, nat, options);
        let of_family = || {
            let entries = services.iter().filter(|(key, _)| key.family == family);
            entries.map(|(key, entry)| (key, &entry.value))
        };
        let endpoints: usize = of_family().map(|(_, port)| endpoints(port)).sum();
        let comments = endpoints <= COMMENTED_ENDPOINTS;
        let Frame {
            jumps,
            mut chains,
            last,
        } = Frame::new(&settings);
        for (key, port) in of_family() {
            let fragment = fragment(key, port, &settings, comments);
            for (shared, rules) in fragment.shared {
                chains.entry(shared.place()).or_default().extend(rules);
            }
            let own = fragment.chains.into_iter();
            chains.extend(own.map(|(chain, rules)| ((Table::Nat, chain), rules)));
        }
        let portals = chains.entry(Shared::Portals.place()).or_default();
        portals.extend(last);
        Self {
            family,
            jumps,
            chains,
        }
    }

    /// As `iptables-save` prints it, without dates and versions, and without what others have
    /// in the chains that the kernel calls.
    pub fn saved(&self) -> String {
        let mut text = String::new();
        for table in Table::ALL {
            let _ = writeln!(text, "*{}", table.name());
            for hook in table.hooks() {
                let _ = writeln!(text, ":{hook} ACCEPT [0:0]");
            }
            let chains = || self.chains.iter().filter(|((of, _), _)| *of == table);
            for ((_, chain), _) in chains() {
                let _ = writeln!(text, ":{chain} - [0:0]");
            }
            for hook in table.hooks() {
                let key = (table, Chain::hook(hook));
                self.write(&mut text, &key.1, self.jumps.get(&key));
            }
            for ((_, chain), rules) in chains() {
                self.write(&mut text, chain, Some(rules));
            }
            text.push_str("COMMIT\n");
        }
        text
    }

    fn write(&self, text: &mut String, chain: &Chain, rules: Option<&Vec<Rule>>) {
        for rule in rules.into_iter().flatten() {
            text.push_str(&rule.line(self.family, chain));
            text.push('\n');
        }
    }
}

/// How many endpoints' chains a port may need.
pub(crate) fn endpoints(port: &ServicePort) -> usize {
    port.endpoints.cluster.union(&port.endpoints.local).count()
}

/// What a port adds.
pub(crate) fn fragment(
    key: &ServicePortKey,
    port: &ServicePort,
    settings: &Settings,
    comments: bool,
) -> Fragment {
    match settings.generation {
        Generation::Current => current::render(key, port, settings, comments),
        Generation::V1_23 => v1_23::render(key, port, settings, comments),
    }
}

/// What stands without any Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    /// Jumps out of the kernel's chains.
    pub(crate) jumps: Chains,
    /// The chains, and those of their rules that come before Services'.
    pub(crate) chains: Chains,
    /// What comes after all Services' addresses.
    pub(crate) last: Vec<Rule>,
}

impl Frame {
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut builder = Builder {
            settings,
            frame: Frame::default(),
        };
        builder.jumps();
        for table in Table::ALL {
            builder.chain(table, Chain::CANARY);
        }
        for (table, chain) in [
            (Table::Nat, Chain::SERVICES),
            (Table::Nat, Chain::NODE_PORTS),
            (Table::Filter, Chain::SERVICES),
            (Table::Filter, Chain::EXTERNAL_SERVICES),
            (Table::Filter, Chain::NODE_PORTS),
        ] {
            builder.chain(table, chain);
        }
        builder.masquerade();
        builder.firewall();
        builder.forward();
        builder.frame.last = builder.node_ports();
        builder.frame
    }
}

struct Builder<'a> {
    settings: &'a Settings,
    frame: Frame,
}

impl Builder<'_> {
    fn chain(&mut self, table: Table, chain: Chain) -> &mut Vec<Rule> {
        self.frame.chains.entry((table, chain)).or_default()
    }

    /// The way to node ports, after every Service's addresses.
    fn node_ports(&self) -> Vec<Rule> {
        let settings = self.settings;
        let rule = || {
            Rule::about(
                "kubernetes service nodeports; NOTE: this must be the last rule in this chain",
            )
        };
        let rules = match &settings.node_ports {
            NodePorts::Everywhere => {
                let mut rule = rule().with(Match::ToNode);
                if settings.generation == Generation::Current && !settings.localhost_node_ports {
                    rule = rule.not_to(loopback(settings.family));
                }
                vec![rule]
            }
            NodePorts::At(addresses) => addresses
                .iter()
                .map(|address| rule().to(*address))
                .collect(),
        };
        rules
            .into_iter()
            .map(|rule| rule.jump(Chain::NODE_PORTS))
            .collect()
    }

    /// Where the kernel's chains lead to ours.
    fn jumps(&mut self) {
        let new = Match::State(Condition::Is(&[State::New]));
        let connections = |comment: &str, chain| {
            let about = Match::Comment(comment.to_owned());
            Rule::default().with(new.clone()).with(about).jump(chain)
        };
        let firewall = connections("kubernetes load balancer firewall", Chain::PROXY_FIREWALL);
        let firewall = match self.settings.generation {
            Generation::Current => Some(firewall),
            Generation::V1_23 => None,
        };
        let kubelets = Rule::default().jump(Chain::FIREWALL);
        let services = connections("kubernetes service portals", Chain::SERVICES);
        let external = connections(
            "kubernetes externally-visible service portals",
            Chain::EXTERNAL_SERVICES,
        );
        let health = Rule::about("kubernetes health check service ports").jump(Chain::NODE_PORTS);
        let forward = Rule::about("kubernetes forwarding rules").jump(Chain::FORWARD);
        let translate = Rule::about("kubernetes service portals").jump(Chain::SERVICES);
        let after = Rule::about("kubernetes postrouting rules").jump(Chain::POSTROUTING);
        let mut input = vec![kubelets.clone()];
        input.extend(firewall.clone());
        input.extend([health, external.clone()]);
        let mut forwarded: Vec<Rule> = firewall.clone().into_iter().collect();
        forwarded.extend([forward, services.clone(), external]);
        let mut output = vec![kubelets];
        output.extend(firewall);
        output.push(services);
        for (table, hook, rules) in [
            (Table::Filter, "INPUT", input),
            (Table::Filter, "FORWARD", forwarded),
            (Table::Filter, "OUTPUT", output),
            (Table::Nat, "PREROUTING", vec![translate.clone()]),
            (Table::Nat, "OUTPUT", vec![translate]),
            (Table::Nat, "POSTROUTING", vec![after]),
        ] {
            self.frame.jumps.insert((table, Chain::hook(hook)), rules);
        }
    }

    fn masquerade(&mut self) {
        let mark = self.settings.mark;
        let random = self.settings.random_fully;
        let unmarked = Match::Marked(Condition::IsNot(mark));
        let rules = [
            Rule::default().with(unmarked).then(Target::Return),
            // Once is enough, should the packet pass again.
            Rule::default().then(Target::FlipMark(mark)),
            Rule::about("kubernetes service traffic requiring SNAT")
                .then(Target::Masquerade { random }),
        ];
        self.chain(Table::Nat, Chain::POSTROUTING).extend(rules);
        self.chain(Table::Nat, Chain::MARK_MASQ)
            .push(Rule::default().then(Target::SetMark(mark)));
    }

    /// The chains that a kubelet has too, and the one of source ranges.
    fn firewall(&mut self) {
        self.chain(Table::Filter, Chain::FIREWALL);
        match self.settings.generation {
            Generation::Current => {
                self.chain(Table::Filter, Chain::PROXY_FIREWALL);
            }
            Generation::V1_23 => {
                let marked = Match::Marked(Condition::Is(DROP_MARK));
                let rule = Rule::about("kubernetes firewall for dropping marked packets");
                self.chain(Table::Filter, Chain::FIREWALL)
                    .push(rule.with(marked).then(Target::Drop));
                self.chain(Table::Nat, Chain::MARK_DROP)
                    .push(Rule::default().then(Target::SetMark(DROP_MARK)));
            }
        }
        let routed = match self.settings.generation {
            Generation::Current => self.settings.localhost_node_ports,
            Generation::V1_23 => self.settings.family == IpFamily::V4,
        };
        if routed {
            // `route_localnet` opens 127.0.0.0/8 to neighbours; nothing but translated
            // connections has business there.
            let known = &[State::Related, State::Established, State::Dnat];
            let rule = Rule::about("block incoming localnet connections")
                .to(localhost())
                .not_from(localhost())
                .with(Match::State(Condition::IsNot(known)))
                .then(Target::Drop);
            self.chain(Table::Filter, Chain::FIREWALL).push(rule);
        }
    }

    fn forward(&mut self) {
        let settings = self.settings;
        let state = |states| Match::State(Condition::Is(states));
        let mut rules = Vec::new();
        if settings.drop_invalid {
            let mut rule = Rule::default().with(state(&[State::Invalid]));
            if settings.counters {
                rule = rule.with(Match::Count(INVALID));
            }
            rules.push(rule.then(Target::Drop));
        }
        let marked = Match::Marked(Condition::Is(settings.mark));
        rules.extend([
            Rule::about("kubernetes forwarding rules")
                .with(marked)
                .then(Target::Accept),
            Rule::about("kubernetes forwarding conntrack rule")
                .with(state(&[State::Related, State::Established]))
                .then(Target::Accept),
        ]);
        self.chain(Table::Filter, Chain::FORWARD).extend(rules);
    }
}
