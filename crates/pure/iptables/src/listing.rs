//! What `iptables-save` prints, read.

use std::collections::BTreeMap;

use crate::chain::{Chain, Table};

/// The chains of a family and their rules, each a line `-A CHAIN …`. Tables and lines that
/// have no meaning here are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    chains: BTreeMap<(Table, Chain), Vec<String>>,
}

impl Listing {
    /// Reads what `iptables-save` printed.
    pub fn parse(text: &str) -> Self {
        let mut chains: BTreeMap<(Table, Chain), Vec<String>> = BTreeMap::new();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::from_name(name);
                continue;
            }
            let Some(table) = table else { continue };
            let name = |rest: &str| rest.split(' ').next().map(Chain::named);
            if let Some(chain) = line.strip_prefix(':').and_then(name) {
                chains.entry((table, chain)).or_default();
            } else if let Some(chain) = line.strip_prefix("-A ").and_then(name) {
                let rules = chains.entry((table, chain)).or_default();
                rules.push(line.to_owned());
            }
        }
        Self { chains }
    }

    /// The rules of a chain; none if there is no such chain.
    pub fn rules(&self, table: Table, chain: &Chain) -> Option<&[String]> {
        self.chains.get(&(table, chain.clone())).map(Vec::as_slice)
    }

    /// Whether there is a chain.
    pub fn has(&self, table: Table, chain: &Chain) -> bool {
        self.rules(table, chain).is_some()
    }

    /// All chains with their rules.
    pub fn chains(&self) -> impl Iterator<Item = (Table, &Chain, &[String])> {
        self.chains
            .iter()
            .map(|((table, chain), rules)| (*table, chain, rules.as_slice()))
    }
}
