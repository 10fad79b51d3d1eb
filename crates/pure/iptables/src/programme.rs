//! What a family's kernel holds, as far as it is ours, and the way from there to what is
//! desired: input for one `iptables-restore --noflush`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use weft_desired::{IpFamily, NodeNat, ServicePort, ServicePortKey, Table as Entries};

use crate::chain::{Chain, Table};
use crate::fragment::{Fragment, Shared};
use crate::listing::Listing;
use crate::restore::Restore;
use crate::rule::Rule;
use crate::ruleset::{COMMENTED_ENDPOINTS, Frame, endpoints, fragment};
use crate::settings::{Options, Settings};

/// What stands in for a chain's rules.
type Digest = u64;

/// The lines of one port in the chains that all share, and digests of its own.
#[derive(Clone, Debug, Default)]
struct Part {
    shared: BTreeMap<Shared, Vec<String>>,
    own: BTreeMap<Chain, Digest>,
    rules: Counts,
    endpoints: usize,
}

/// How many rules tables have.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    filter: usize,
    nat: usize,
}

impl Counts {
    fn of(self, table: Table) -> usize {
        match table {
            Table::Filter => self.filter,
            Table::Nat => self.nat,
            // Nothing but marks and canaries, which have no rules.
            Table::Mangle => 0,
        }
    }

    fn add(&mut self, other: Self) {
        self.filter += other.filter;
        self.nat += other.nat;
    }

    fn take(&mut self, other: Self) {
        self.filter -= other.filter;
        self.nat -= other.nat;
    }
}

/// What a change comes to.
#[derive(Debug, Default)]
struct Step {
    restore: Restore,
    /// Chains that nothing needs any more.
    gone: BTreeSet<Chain>,
    /// Chains that all share and that lost or gained rules.
    shared: BTreeSet<Shared>,
}

/// A family's rules as they were last desired, without the bulk of their text.
#[derive(Clone, Debug)]
pub struct Programme {
    family: IpFamily,
    options: Options,
    settings: Settings,
    parts: BTreeMap<ServicePortKey, Part>,
    endpoints: usize,
    /// The rules of all parts.
    rules: Counts,
    comments: bool,
    /// Digests of the chains that all share.
    shared: BTreeMap<(Table, Chain), Digest>,
    /// Where iptables prints a chain in other words than it was written in.
    printed: BTreeMap<(Table, Chain), Printed>,
}

/// A chain in our words and in iptables'. The second stand for the first and for no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Printed {
    wanted: Digest,
    listed: Digest,
}

impl Programme {
    /// Knows nothing of the kernel yet: [`Programme::reconcile`] comes first.
    pub fn new(family: IpFamily, options: Options) -> Self {
        Self {
            family,
            settings: Settings::new(family, &NodeNat::default(), &options),
            options,
            parts: BTreeMap::new(),
            endpoints: 0,
            rules: Counts::default(),
            comments: true,
            shared: BTreeMap::new(),
            printed: BTreeMap::new(),
        }
    }

    /// The way from what the kernel holds to what is desired. Chains of Services that are not
    /// desired go, whoever made them.
    pub fn reconcile(
        &mut self,
        services: &Entries<ServicePortKey, ServicePort>,
        nat: &NodeNat,
        actual: &Listing,
    ) -> Restore {
        self.settings = Settings::new(self.family, nat, &self.options);
        let family = self.family;
        let ports = || {
            let entries = services.iter().filter(move |(key, _)| key.family == family);
            entries.map(|(key, entry)| (key, &entry.value))
        };
        self.endpoints = ports().map(|(_, port)| endpoints(port)).sum();
        self.comments = self.endpoints <= COMMENTED_ENDPOINTS;
        self.parts.clear();
        self.rules = Counts::default();
        let mut restore = Restore::default();
        if !is_ours(actual) {
            restore.write(Table::Mangle, &Chain::MARK, &[]);
        }
        let mut wanted = BTreeSet::new();
        for (key, port) in ports() {
            let fragment = fragment(key, port, &self.settings, self.comments);
            restore.begin_port();
            let own = own(family, &fragment, |chain, lines, _| {
                if !self.is_there(actual, Table::Nat, chain, lines) {
                    restore.write_own(chain, lines);
                }
                wanted.insert(chain.clone());
            });
            let part = part(family, port, &fragment, own);
            self.rules.add(part.rules);
            self.parts.insert(key.clone(), part);
        }
        self.shared.clear();
        for ((table, chain), _) in Frame::new(&self.settings).chains {
            let lines = self.shared_lines(table, &chain);
            // A kubelet's as much as ours: without a rule of ours it only has to exist.
            let others = lines.is_empty() && !is_a_proxys(actual, table, &chain);
            let there = if others {
                actual.has(table, &chain)
            } else {
                self.is_there(actual, table, &chain, &lines)
            };
            if !there {
                restore.write(table, &chain, &lines);
            }
            self.shared.insert((table, chain), digest(&lines));
        }
        self.jumps(actual, &mut restore);
        self.sweep(actual, &wanted, &mut restore);
        restore
    }

    /// The way from what was desired last to what is now: `changes` has what some ports have
    /// become, and `None` for those that are gone. What else the rules depend on is as it was.
    pub fn apply<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a ServicePortKey, Option<&'a ServicePort>)>,
        all: &Entries<ServicePortKey, ServicePort>,
    ) -> Restore {
        let changes: BTreeMap<_, _> = changes
            .into_iter()
            .filter(|(key, _)| key.family == self.family)
            .collect();
        for (key, port) in &changes {
            let before = self.parts.get(*key).map_or(0, |part| part.endpoints);
            self.endpoints += port.map_or(0, endpoints);
            self.endpoints -= before;
        }
        let comments = self.endpoints <= COMMENTED_ENDPOINTS;
        let mut ports = BTreeMap::new();
        if comments != self.comments {
            self.comments = comments;
            let entries = all.iter().filter(|(key, _)| key.family == self.family);
            ports.extend(entries.map(|(key, entry)| (key, Some(&entry.value))));
        }
        ports.extend(changes);
        let mut step = Step::default();
        for (key, port) in ports {
            self.replace(key, port, &mut step);
        }
        let Step {
            mut restore,
            gone,
            shared,
        } = step;
        for shared in shared {
            let (table, chain) = shared.place();
            let lines = self.shared_lines(table, &chain);
            let digest = digest(&lines);
            let key = (table, chain);
            if self.shared.get(&key) != Some(&digest) {
                restore.write(table, &key.1, &lines);
                self.shared.insert(key, digest);
            }
        }
        for chain in gone {
            restore.remove(Table::Nat, &chain);
        }
        restore
    }

    /// To be called with what is in the kernel after [`Programme::reconcile`]'s input was
    /// restored. Some versions of iptables print rules in other words than these.
    pub fn settle(&mut self, services: &Entries<ServicePortKey, ServicePort>, actual: &Listing) {
        let mut printed = BTreeMap::new();
        let mut compare = |table, chain: &Chain, wanted: Digest| {
            if let Some(rules) = actual.rules(table, chain) {
                let listed = digest(rules);
                if listed != wanted {
                    printed.insert((table, chain.clone()), Printed { wanted, listed });
                }
            }
        };
        for ((table, chain), wanted) in &self.shared {
            compare(*table, chain, *wanted);
        }
        for key in services.keys() {
            for (chain, wanted) in self.parts.get(key).into_iter().flat_map(|part| &part.own) {
                compare(Table::Nat, chain, *wanted);
            }
        }
        self.printed = printed;
    }

    /// Whether a node of these addresses and settings needs the rules that are there: what its
    /// Services are aside.
    pub fn fits(&self, nat: &NodeNat) -> bool {
        self.settings == Settings::new(self.family, nat, &self.options)
    }

    /// How many rules of ours a table has, those in the kernel's own chains included.
    pub fn rules(&self, table: Table) -> usize {
        let Frame {
            jumps,
            chains,
            last,
        } = Frame::new(&self.settings);
        let framed = chains.iter().chain(&jumps);
        let framed = framed.filter(|((of, _), _)| *of == table);
        let last = (Shared::Portals.place().0 == table).then_some(last.len());
        self.rules.of(table)
            + framed.map(|(_, rules)| rules.len()).sum::<usize>()
            + last.unwrap_or(0)
    }

    /// Whether a chain is as it should be.
    fn is_there(&self, actual: &Listing, table: Table, chain: &Chain, lines: &[String]) -> bool {
        actual.rules(table, chain).is_some_and(|rules| {
            rules == lines
                || self
                    .printed
                    .get(&(table, chain.clone()))
                    .is_some_and(|known| {
                        *known
                            == Printed {
                                wanted: digest(lines),
                                listed: digest(rules),
                            }
                    })
        })
    }

    /// What a port has become, against what it was.
    fn replace(&mut self, key: &ServicePortKey, port: Option<&ServicePort>, step: &mut Step) {
        let old = self.parts.remove(key).unwrap_or_default();
        let mut new = Part::default();
        if let Some(port) = port {
            let fragment = fragment(key, port, &self.settings, self.comments);
            step.restore.begin_port();
            let own = own(self.family, &fragment, |chain, lines, digest| {
                if old.own.get(chain) != Some(&digest) {
                    step.restore.write_own(chain, lines);
                }
            });
            new = part(self.family, port, &fragment, own);
        }
        self.rules.add(new.rules);
        self.rules.take(old.rules);
        let dropped = old.own.keys().filter(|chain| !new.own.contains_key(*chain));
        step.gone.extend(dropped.cloned());
        let shared = old.shared.keys().chain(new.shared.keys());
        let changed = shared.filter(|shared| old.shared.get(shared) != new.shared.get(shared));
        step.shared.extend(changed);
        if port.is_some() {
            self.parts.insert(key.clone(), new);
        }
    }

    /// The lines of a chain that all share.
    fn shared_lines(&self, table: Table, chain: &Chain) -> Vec<String> {
        let place = (table, chain.clone());
        let frame = Frame::new(&self.settings);
        let first = frame.chains.get(&place).map(Vec::as_slice);
        let mut all = lines(self.family, chain, first.unwrap_or_default());
        for part in self.parts.values() {
            for (shared, lines) in &part.shared {
                if shared.place() == place {
                    all.extend(lines.iter().cloned());
                }
            }
        }
        if place == Shared::Portals.place() {
            all.extend(lines(self.family, chain, &frame.last));
        }
        all
    }

    /// Puts jumps to our chains first in the kernel's, and takes out those that nothing needs.
    fn jumps(&self, actual: &Listing, restore: &mut Restore) {
        let frame = Frame::new(&self.settings);
        for ((table, hook), rules) in &frame.jumps {
            let table = *table;
            let there = actual.rules(table, hook).unwrap_or_default();
            let wanted = lines(self.family, hook, rules);
            let in_place = wanted
                .iter()
                .map(|line| there.iter().position(|one| one == line));
            let in_place: Vec<Option<usize>> = in_place.collect();
            // One by one they'd come in another order.
            if in_place.contains(&None) || !in_place.is_sorted() {
                for line in there.iter().filter(|line| wanted.contains(line)) {
                    restore.delete(table, line);
                }
                for line in wanted.iter().rev() {
                    restore.insert(table, line);
                }
            }
            let ours = |line: &&String| {
                target(line).is_some_and(|target| is_a_proxys(actual, table, &target))
            };
            for line in there.iter().filter(ours) {
                if !wanted.contains(line) {
                    restore.delete(table, line);
                }
            }
        }
    }

    /// Removes chains that nothing needs.
    fn sweep(&self, actual: &Listing, wanted: &BTreeSet<Chain>, restore: &mut Restore) {
        for (table, chain, _) in actual.chains() {
            let stale = if chain.is_of_a_service() {
                table == Table::Nat && !wanted.contains(chain)
            } else {
                is_a_proxys(actual, table, chain)
                    && *chain != Chain::MARK
                    && !self.shared.contains_key(&(table, chain.clone()))
            };
            if stale {
                restore.remove(table, chain);
            }
        }
    }
}

/// The way from what the kernel holds to nothing of what a proxy of Services wrote: ours or
/// kube-proxy's, of every generation.
pub fn cleanup(actual: &Listing) -> Restore {
    let mut restore = Restore::default();
    for (table, chain, rules) in actual.chains() {
        let goes = |chain: &Chain| {
            (chain.is_of_a_service() && table == Table::Nat) || is_a_proxys(actual, table, chain)
        };
        if goes(chain) {
            restore.remove(table, chain);
        } else {
            for line in rules {
                if target(line).is_some_and(|target| goes(&target)) {
                    restore.delete(table, line);
                }
            }
        }
    }
    restore
}

/// Whether what [`cleanup`] removes was written by weft.
pub fn is_ours(actual: &Listing) -> bool {
    actual.has(Table::Mangle, &Chain::MARK)
}

/// Whether a chain is one that a proxy of Services shares among them. Those that a kubelet
/// has too are its own where one is running.
fn is_a_proxys(actual: &Listing, table: Table, chain: &Chain) -> bool {
    let kubelet = || {
        let canary = |table| actual.has(table, &Chain::KUBELET_CANARY);
        Table::ALL.into_iter().any(canary)
    };
    let alone = [
        (Table::Nat, Chain::SERVICES),
        (Table::Nat, Chain::NODE_PORTS),
        (Table::Filter, Chain::SERVICES),
        (Table::Filter, Chain::EXTERNAL_SERVICES),
        (Table::Filter, Chain::NODE_PORTS),
        (Table::Filter, Chain::FORWARD),
        (Table::Filter, Chain::PROXY_FIREWALL),
        (Table::Mangle, Chain::MARK),
        (Table::Mangle, Chain::CANARY),
        (Table::Filter, Chain::CANARY),
        (Table::Nat, Chain::CANARY),
    ];
    let with_kubelet = [
        (Table::Nat, Chain::POSTROUTING),
        (Table::Nat, Chain::MARK_MASQ),
        (Table::Nat, Chain::MARK_DROP),
        (Table::Filter, Chain::FIREWALL),
    ];
    let place = (table, chain.clone());
    alone.contains(&place) || (with_kubelet.contains(&place) && !kubelet())
}

/// The chain that a line jumps to.
fn target(line: &str) -> Option<Chain> {
    let (_, target) = line.rsplit_once(" -j ")?;
    target.split(' ').next().map(Chain::named)
}

/// Digests of a port's own chains; `each` is shown their lines.
fn own(
    family: IpFamily,
    fragment: &Fragment,
    mut each: impl FnMut(&Chain, &[String], Digest),
) -> BTreeMap<Chain, Digest> {
    let mut own = BTreeMap::new();
    for (chain, rules) in &fragment.chains {
        let lines = lines(family, chain, rules);
        let digest = digest(&lines);
        each(chain, &lines, digest);
        own.insert(chain.clone(), digest);
    }
    own
}

fn part(
    family: IpFamily,
    port: &ServicePort,
    fragment: &Fragment,
    own: BTreeMap<Chain, Digest>,
) -> Part {
    let shared = fragment
        .shared
        .iter()
        .map(|(shared, rules)| (*shared, lines(family, &shared.place().1, rules)))
        .collect();
    let count = |table| {
        let of_table = fragment
            .shared
            .iter()
            .filter(|(it, _)| it.place().0 == table);
        of_table.map(|(_, rules)| rules.len()).sum::<usize>()
    };
    let own_rules = fragment.chains.values().map(Vec::len).sum::<usize>();
    let rules = Counts {
        filter: count(Table::Filter),
        nat: count(Table::Nat) + own_rules,
    };
    Part {
        shared,
        own,
        rules,
        endpoints: endpoints(port),
    }
}

fn lines(family: IpFamily, chain: &Chain, rules: &[Rule]) -> Vec<String> {
    rules.iter().map(|rule| rule.line(family, chain)).collect()
}

fn digest(lines: &[impl AsRef<str>]) -> Digest {
    let mut hasher = DefaultHasher::new();
    for line in lines {
        hasher.write(line.as_ref().as_bytes());
        hasher.write_u8(b'\n');
    }
    hasher.finish()
}
