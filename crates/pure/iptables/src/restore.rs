//! Input for `iptables-restore --noflush`, as one transaction or as several.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::chain::{Chain, Table};

/// How many chains one transaction of iptables over nf_tables names. `iptables-restore` keeps the
/// chains that a transaction names in a list that it searches from its start for each line, so
/// that the time for all grows with their square; each transaction has the kernel pass over all
/// chains of its table. 4,000 Services of 10 endpoints took 41 s of processor as one transaction,
/// 4.1 s as transactions of 200 chains, 4.9 s of 100, 4.4 s of 500.
const CHAINS_AT_ONCE: usize = 250;

/// Input for `iptables-restore --noflush`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    tables: BTreeMap<Table, Changes>,
    /// Chains that are written whole.
    pub written: usize,
    /// Chains that are removed.
    pub removed: usize,
    /// Rules put into or taken from the chains that the kernel calls.
    pub jumps: usize,
}

/// What changes in a table, in an order in which every part can be in force without those
/// behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Changes {
    /// Chains that set marks and lead nowhere: those of ports lead there.
    marks: Part,
    /// Ports' own chains, those of one port together.
    ports: Vec<Part>,
    /// Chains that lead to ports', and jumps in the chains that the kernel calls.
    shared: Part,
    /// Chains that nothing needs when all that is done.
    gone: Vec<Chain>,
}

/// Lines that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    /// How many chains they name.
    names: usize,
    /// `:CHAIN - [0:0]`, which makes or empties a chain.
    chains: String,
    rules: String,
    /// `-X CHAIN`, when no rule leads there any more.
    removals: String,
}

impl Restore {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The input, with one transaction a table.
    pub fn text(&self) -> String {
        self.text_of(usize::MAX)
    }

    /// The input, with transactions that name some 250 chains each. After each of them every
    /// connection to a Service finds its way: a port's chains are of one state, what leads
    /// to them comes behind them, and what goes does so in the end.
    pub fn text_in_steps(&self) -> String {
        self.text_of(CHAINS_AT_ONCE)
    }

    /// How many rules of a table are written, or taken away.
    pub fn rules(&self, table: Table) -> usize {
        let changes = self.tables.get(&table);
        changes.map_or(0, |changes| {
            let parts = changes
                .ports
                .iter()
                .chain([&changes.marks, &changes.shared]);
            parts.map(|part| part.rules.lines().count()).sum()
        })
    }

    fn text_of(&self, most: usize) -> String {
        let mut text = String::new();
        for (table, changes) in &self.tables {
            for transaction in changes.transactions(most) {
                let Part {
                    chains,
                    rules,
                    removals,
                    ..
                } = transaction;
                let name = table.name();
                let _ = write!(text, "*{name}\n{chains}{rules}{removals}COMMIT\n");
            }
        }
        text
    }

    fn table(&mut self, table: Table) -> &mut Changes {
        self.tables.entry(table).or_default()
    }

    /// The chains of another port follow.
    pub(crate) fn begin_port(&mut self) {
        if let Some(changes) = self.tables.get_mut(&Table::Nat)
            && changes.ports.last().is_some_and(|port| port.names > 0)
        {
            changes.ports.push(Part::default());
        }
    }

    /// Writes one of a port's own chains.
    pub(crate) fn write_own(&mut self, chain: &Chain, lines: &[String]) {
        self.written += 1;
        let ports = &mut self.table(Table::Nat).ports;
        match ports.last_mut() {
            Some(port) => port.write(chain, lines),
            None => {
                let mut port = Part::default();
                port.write(chain, lines);
                ports.push(port);
            }
        }
    }

    /// Writes a chain that is no port's own.
    pub(crate) fn write(&mut self, table: Table, chain: &Chain, lines: &[String]) {
        self.written += 1;
        let changes = self.table(table);
        let part = match *chain == Chain::MARK_MASQ || *chain == Chain::MARK_DROP {
            true => &mut changes.marks,
            false => &mut changes.shared,
        };
        part.write(chain, lines);
    }

    pub(crate) fn remove(&mut self, table: Table, chain: &Chain) {
        self.removed += 1;
        self.table(table).gone.push(chain.clone());
    }

    /// A rule `-A CHAIN …`, put in front of the chain's others.
    pub(crate) fn insert(&mut self, table: Table, line: &str) {
        self.jump(table, &line.replacen("-A ", "-I ", 1));
    }

    /// A rule `-A CHAIN …`, taken away.
    pub(crate) fn delete(&mut self, table: Table, line: &str) {
        self.jump(table, &line.replacen("-A ", "-D ", 1));
    }

    fn jump(&mut self, table: Table, line: &str) {
        self.jumps += 1;
        let _ = writeln!(self.table(table).shared.rules, "{line}");
    }
}

impl Changes {
    fn transactions(&self, most: usize) -> Vec<Part> {
        let mut all: Vec<Part> = Vec::new();
        let mut add = |part: &Part| match all.last_mut() {
            _ if part.is_empty() => {}
            Some(last) if last.names + part.names <= most => last.extend(part),
            Some(_) | None => all.push(part.clone()),
        };
        add(&self.marks);
        self.ports.iter().for_each(&mut add);
        add(&self.shared);
        // One that goes may lead to another.
        for chain in &self.gone {
            let mut emptied = Part::default();
            emptied.write(chain, &[]);
            add(&emptied);
        }
        for chain in &self.gone {
            add(&Part {
                names: 1,
                removals: format!("-X {chain}\n"),
                ..Part::default()
            });
        }
        all
    }
}

impl Part {
    fn is_empty(&self) -> bool {
        self.names == 0 && self.rules.is_empty()
    }

    fn write(&mut self, chain: &Chain, lines: &[String]) {
        self.names += 1;
        let _ = writeln!(self.chains, ":{chain} - [0:0]");
        for line in lines {
            self.rules.push_str(line);
            self.rules.push('\n');
        }
    }

    fn extend(&mut self, other: &Part) {
        self.names += other.names;
        self.chains.push_str(&other.chains);
        self.rules.push_str(&other.rules);
        self.removals.push_str(&other.removals);
    }
}
