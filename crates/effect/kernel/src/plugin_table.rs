//! A table of nf_tables that the CNI plugin writes.
//!
//! Rules are constant, and what differs are elements of sets. Several processes write at a time;
//! whoever finds the rules wanting writes all of them anew in one transaction, which gives the
//! same table however often it is done.

use weft_desired::IpFamily;
use weft_sys::netlink;
use weft_sys::nft::{
    BaseChain, Batch, Chain, ChainKind, Connection, DataType, Expression, Family, Hook,
    PayloadBase, Policy, Register, Rule, Set, SetFlags, Table, TableFlags, TableName,
};

use crate::expression::{DESTINATION_V4, DESTINATION_V6, SOURCE_V4, SOURCE_V6};

/// How often a transaction is made anew that others came in between.
const ATTEMPTS: u32 = 64;

/// Looks and writes until nobody adds or removes the very same element in between.
pub(crate) fn until_undisturbed(
    mut write: impl FnMut() -> Result<(), netlink::Error>,
) -> Result<(), netlink::Error> {
    for _ in 1..ATTEMPTS {
        match write() {
            Err(error) if error.is_exists() || error.is_absent() => {}
            done => return done,
        }
    }
    write()
}

/// The name of a table of an address family.
pub(crate) fn name_of(family: IpFamily, name: &str) -> TableName {
    let family = match family {
        IpFamily::V4 => Family::V4,
        IpFamily::V6 => Family::V6,
    };
    TableName::new(family, name)
}

/// A table and what is in it.
pub(crate) struct PluginTable {
    pub(crate) name: TableName,
    sets: Vec<Set>,
    chains: Vec<Chain>,
    rules: Vec<Rule>,
}

impl PluginTable {
    /// A table without anything in it.
    pub(crate) fn new(name: TableName) -> Self {
        Self {
            name,
            sets: Vec::new(),
            chains: Vec::new(),
            rules: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, name: &str, key: &[DataType], data: &[DataType]) {
        self.sets.push(Set {
            name: name.to_owned(),
            key: key.to_vec(),
            data: data.to_vec(),
            flags: SetFlags::default(),
            timeout: None,
            counter: false,
            comment: None,
        });
    }

    /// A set whose keys have several parts, each of them a range.
    pub(crate) fn ranges(&mut self, name: &str, key: &[DataType]) {
        self.set(name, key, &[]);
        if let Some(set) = self.sets.last_mut() {
            set.flags.interval = true;
        }
    }

    pub(crate) fn chain(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32) {
        self.chains.push(Chain {
            name: name.to_owned(),
            base: Some(BaseChain {
                kind,
                hook,
                priority,
                policy: Policy::Accept,
            }),
        });
    }

    pub(crate) fn rule(&mut self, chain: &str, expressions: Vec<Expression>) {
        self.rules.push(Rule {
            chain: chain.to_owned(),
            expressions,
            comment: None,
        });
    }

    /// The address family of what it sees; of several, IPv4.
    fn family(&self) -> IpFamily {
        match self.name.family {
            Family::V6 => IpFamily::V6,
            Family::V4 | Family::Inet | Family::Bridge => IpFamily::V4,
        }
    }

    pub(crate) fn address_type(&self) -> DataType {
        address_type(self.family())
    }

    /// Words that an address takes.
    pub(crate) fn words(&self) -> u8 {
        match self.family() {
            IpFamily::V4 => 1,
            IpFamily::V6 => 4,
        }
    }

    /// Loads the packet's source.
    pub(crate) fn source(&self, into: u8) -> Expression {
        source(self.family(), into)
    }

    /// Loads the packet's destination.
    pub(crate) fn destination(&self, into: u8) -> Expression {
        address(self.family(), DESTINATION_V4, DESTINATION_V6, into)
    }

    pub(crate) fn has_set(&self, name: &str) -> bool {
        self.sets.iter().any(|set| set.name == name)
    }

    /// Whether there is such a table, whatever is in it.
    pub(crate) fn exists(&self, connection: &mut Connection) -> Result<bool, netlink::Error> {
        let tables = connection.tables(self.name.family)?;
        Ok(tables.iter().any(|table| table.name == self.name))
    }

    /// Whether chains and rules stand as they should; where there is no table they do not.
    pub(crate) fn holds(&self, connection: &mut Connection) -> Result<bool, netlink::Error> {
        let rules = connection.rules(&self.name)?;
        let chains = connection.chains(&self.name)?;
        let same = self.chains.iter().all(|chain| {
            chains.contains(chain) && rules_of(chain, &rules).eq(rules_of(chain, &self.rules))
        });
        Ok(same && chains.len() == self.chains.len())
    }

    pub(crate) fn write(&self, batch: &mut Batch) {
        batch.add_table(&Table {
            name: self.name.clone(),
            flags: TableFlags::default(),
            comment: None,
        });
        for set in &self.sets {
            batch.add_set(&self.name, set);
        }
        for chain in &self.chains {
            batch.add_chain(&self.name, chain);
            batch.flush_chain(&self.name, &chain.name);
        }
        for rule in &self.rules {
            batch.add_rule(&self.name, rule);
        }
    }
}

fn rules_of<'a>(chain: &Chain, rules: &'a [Rule]) -> impl Iterator<Item = &'a Rule> {
    rules.iter().filter(|rule| rule.chain == chain.name)
}

pub(crate) fn address_type(family: IpFamily) -> DataType {
    match family {
        IpFamily::V4 => DataType::Ipv4Address,
        IpFamily::V6 => DataType::Ipv6Address,
    }
}

/// Loads the source of a packet of this family.
pub(crate) fn source(family: IpFamily, into: u8) -> Expression {
    address(family, SOURCE_V4, SOURCE_V6, into)
}

fn address(family: IpFamily, v4: u32, v6: u32, into: u8) -> Expression {
    let (offset, length) = match family {
        IpFamily::V4 => (v4, 4),
        IpFamily::V6 => (v6, 16),
    };
    Expression::Payload {
        base: PayloadBase::Network,
        offset,
        length,
        into: Register::word(into),
    }
}
