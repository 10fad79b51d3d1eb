//! A kernel's way of looking at the first packet of a connection, rule by rule. Where chance
//! decides, both ways are gone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_desired::{Backend, Protocol};
use weft_iptables::{Chain, Condition, Match, Rule, Ruleset, State, Table, Target};

use crate::clusters::Fate;

/// The packet, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// The link that it comes in by; none for what the node itself sends.
    pub(crate) interface: Option<String>,
}

/// A packet on its way through chains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    mark: u32,
    endpoint: Option<Backend>,
    masqueraded: bool,
    /// The lists that the client is in from now on.
    remembered: BTreeSet<Chain>,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// This table is done with it.
    Accepted,
    Rejected,
    Dropped,
}

pub(crate) struct Evaluator<'a> {
    pub(crate) ruleset: &'a Ruleset,
    /// The node's own addresses.
    pub(crate) own: &'a BTreeSet<IpAddr>,
}

/// What became of a packet, and the lists in which its client is since.
pub(crate) type Passage = (Fate, BTreeSet<Chain>);

impl Evaluator<'_> {
    /// All that may become of a client's packet that is in these lists.
    pub(crate) fn passages(
        &self,
        packet: &Packet,
        remembered: &BTreeSet<Chain>,
    ) -> BTreeSet<Passage> {
        let start = Way {
            mark: 0,
            endpoint: None,
            masqueraded: false,
            remembered: remembered.clone(),
            end: None,
        };
        let sent_here = packet.interface.is_none();
        let before = if sent_here { "OUTPUT" } else { "PREROUTING" };
        let mut passages = BTreeSet::new();
        for way in self.hook(Table::Nat, before, packet, &start) {
            let destination = way.endpoint.map_or(packet.destination, |to| to.address);
            let stays = self.own.contains(&destination);
            // What the node sends to itself leaves it first, and comes in again.
            let hooks: &[&str] = match (sent_here, stays) {
                (true, true) => &["OUTPUT", "INPUT"],
                (true, false) => &["OUTPUT"],
                (false, true) => &["INPUT"],
                (false, false) => &["FORWARD"],
            };
            let mut ways = BTreeSet::from([way]);
            for hook in hooks {
                let next = ways.iter().flat_map(|way| match way.end {
                    Some(End::Rejected | End::Dropped) => BTreeSet::from([way.clone()]),
                    Some(End::Accepted) | None => self.hook(Table::Filter, hook, packet, way),
                });
                ways = next.collect();
            }
            for way in ways {
                let remembered = way.remembered.clone();
                match way.end {
                    Some(End::Rejected) => _ = passages.insert((Fate::Rejected, remembered)),
                    Some(End::Dropped) => _ = passages.insert((Fate::Dropped, remembered)),
                    // Only what leaves the node is masqueraded.
                    Some(End::Accepted) | None if stays && !sent_here => {
                        _ = passages.insert(passed(way));
                    }
                    Some(End::Accepted) | None => {
                        let ways = self.hook(Table::Nat, "POSTROUTING", packet, &way);
                        passages.extend(ways.into_iter().map(passed));
                    }
                }
            }
        }
        passages
    }

    /// All that may become of the first packet of a client that was never here.
    pub(crate) fn fates(&self, packet: &Packet) -> BTreeSet<Fate> {
        let passages = self.passages(packet, &BTreeSet::new());
        passages.into_iter().map(|(fate, _)| fate).collect()
    }

    fn hook(&self, table: Table, hook: &str, packet: &Packet, way: &Way) -> BTreeSet<Way> {
        let way = Way {
            end: None,
            ..way.clone()
        };
        let key = (table, Chain::named(hook));
        let rules = self.ruleset.jumps.get(&key).map(Vec::as_slice);
        self.walk(table, rules.unwrap_or_default(), packet, way)
    }

    fn walk(&self, table: Table, rules: &[Rule], packet: &Packet, way: Way) -> BTreeSet<Way> {
        let Some((rule, rest)) = rules.split_first() else {
            return BTreeSet::from([way]);
        };
        let mut ways = BTreeSet::new();
        let (may_match, may_not) = self.matches(rule, packet, &way);
        if may_not {
            ways.extend(self.walk(table, rest, packet, way.clone()));
        }
        if may_match {
            ways.extend(self.follow(table, rule, rest, packet, way));
        }
        ways
    }

    fn follow(
        &self,
        table: Table,
        rule: &Rule,
        rest: &[Rule],
        packet: &Packet,
        mut way: Way,
    ) -> BTreeSet<Way> {
        for condition in &rule.matches {
            if let Match::Remember(list) = condition {
                way.remembered.insert(list.clone());
            }
        }
        match &rule.target {
            None => {}
            Some(Target::Return) => return BTreeSet::from([way]),
            Some(Target::Accept) => way.end = Some(End::Accepted),
            Some(Target::Drop) => way.end = Some(End::Dropped),
            Some(Target::Reject | Target::Reset) => way.end = Some(End::Rejected),
            Some(Target::SetMark(mark)) => way.mark |= mark,
            Some(Target::FlipMark(mark)) => way.mark ^= mark,
            Some(Target::Masquerade { .. }) => {
                way.masqueraded = true;
                way.end = Some(End::Accepted);
            }
            Some(Target::Translate(backend)) => {
                way.endpoint = Some(*backend);
                way.end = Some(End::Accepted);
            }
            Some(Target::Jump(chain)) => {
                let called = &self.ruleset.chains[&(table, chain.clone())];
                let back = self.walk(table, called, packet, way);
                let (ended, on): (Vec<Way>, Vec<Way>) =
                    back.into_iter().partition(|way| way.end.is_some());
                let on = on
                    .into_iter()
                    .flat_map(|way| self.walk(table, rest, packet, way));
                return ended.into_iter().chain(on).collect();
            }
        }
        if way.end.is_some() {
            return BTreeSet::from([way]);
        }
        self.walk(table, rest, packet, way)
    }

    /// Whether a rule may match, and whether it may not.
    fn matches(&self, rule: &Rule, packet: &Packet, way: &Way) -> (bool, bool) {
        let destination = way.endpoint.map_or(packet.destination, |to| to.address);
        let port = way.endpoint.map_or(packet.port, |to| to.port);
        let net = |condition: &Option<Condition<ipnet::IpNet>>, address: IpAddr| match condition {
            None => true,
            Some(Condition::Is(range)) => range.contains(&address),
            Some(Condition::IsNot(range)) => !range.contains(&address),
        };
        let link = |name: &str| {
            let interface = packet.interface.as_deref().unwrap_or_default();
            match name.strip_suffix('+') {
                Some(prefix) => interface.starts_with(prefix),
                None => interface == name,
            }
        };
        let interface = match &rule.interface {
            None => true,
            Some(Condition::Is(name)) => link(name),
            Some(Condition::IsNot(name)) => !link(name),
        };
        let mut chance = false;
        let certain = net(&rule.source, packet.source)
            && net(&rule.destination, destination)
            && interface
            && rule
                .protocol
                .is_none_or(|protocol| protocol == packet.protocol)
            && rule.matches.iter().all(|condition| match condition {
                Match::Comment(_) | Match::Count(_) | Match::Remember(_) => true,
                Match::Transport(_, wanted) => wanted.is_none_or(|wanted| wanted == port),
                Match::ToNode => self.is_own(destination),
                Match::FromNode => self.is_own(packet.source),
                Match::Marked(Condition::Is(mark)) => way.mark & mark == *mark,
                Match::Marked(Condition::IsNot(mark)) => way.mark & mark != *mark,
                Match::State(Condition::Is(states)) => has_state(states, way),
                Match::State(Condition::IsNot(states)) => !has_state(states, way),
                Match::Share { .. } => {
                    chance = true;
                    true
                }
                Match::Remembered { list, .. } => way.remembered.contains(list),
            });
        (certain, !certain || chance)
    }

    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.own.contains(&address)
    }
}

fn passed(way: Way) -> Passage {
    let fate = Fate::Passed {
        endpoint: way.endpoint,
        masqueraded: way.masqueraded,
    };
    (fate, way.remembered)
}

/// The first packet of a connection is new, and translated or not.
fn has_state(states: &[State], way: &Way) -> bool {
    states.iter().any(|state| match state {
        State::New => true,
        State::Dnat => way.endpoint.is_some(),
        State::Invalid | State::Related | State::Established => false,
    })
}
