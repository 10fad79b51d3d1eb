//! Barriers on a bridge: pairs of its ports, or a port and the bridge itself, between which no
//! frame passes, while everything else of both goes on.
//!
//! They stand as rules of nf_tables in the bridge's own network namespace, so that nothing inside
//! the namespaces at the ports can see or change them.

use weft_sys::nft::{
    BaseChain, Batch, BitOperation, Chain, ChainKind, Connection, Expression, Family, Hook,
    MetaKey, Policy, Register, Rule, Table, TableFlags, TableName, Verdict,
};

use crate::Error;

/// The table of the barriers; nobody else has one of that name.
const TABLE: &str = "weft-barriers";
/// A device's name as the kernel compares it (`IFNAMSIZ`).
const NAME_LENGTH: usize = 16;

/// One side of a barrier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// What is at a port of the bridge, by the port's name.
    Port(String),
    /// The bridge itself: who has its addresses.
    Bridge,
}

/// Puts up these barriers, in both directions each, and takes down all others, at once. The
/// bridge is one of the calling thread's network namespace.
///
/// # Errors
/// When the kernel has no nf_tables for bridges, or refuses.
pub fn set(barriers: &[(Side, Side)]) -> Result<(), Error> {
    let failed = |source| Error::Network {
        name: "lab".to_owned(),
        action: "set barriers on the bridge (nf_tables, family bridge)".to_owned(),
        source: std::io::Error::other(source),
    };
    let mut connection = Connection::open().map_err(failed)?;
    connection.commit(transaction(barriers)).map_err(failed)
}

fn transaction(barriers: &[(Side, Side)]) -> Batch {
    let table = Table {
        name: TableName::new(Family::Bridge, TABLE),
        flags: TableFlags::default(),
        comment: None,
    };
    let mut batch = Batch::new();
    // Making what is there changes nothing, so the old one can be deleted in any case.
    batch.add_table(&table);
    batch.delete_table(&table.name);
    if barriers.is_empty() {
        return batch;
    }
    batch.add_table(&table);
    for hook in [Hook::Input, Hook::Forward, Hook::Output] {
        batch.add_chain(
            &table.name,
            &Chain {
                name: chain(hook).to_owned(),
                base: Some(BaseChain {
                    kind: ChainKind::Filter,
                    hook,
                    priority: 0,
                    policy: Policy::Accept,
                }),
            },
        );
    }
    for (left, right) in barriers {
        for (from, to) in [(left, right), (right, left)] {
            if let Some(rule) = rule(from, to) {
                batch.add_rule(&table.name, &rule);
            }
        }
    }
    batch
}

fn chain(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    }
}

/// Drops what goes from one side to the other; nothing goes from the bridge to itself.
fn rule(from: &Side, to: &Side) -> Option<Rule> {
    let (hook, mut expressions) = match (from, to) {
        (Side::Port(from), Side::Port(to)) => {
            let mut both = device(MetaKey::InputName, from);
            both.extend(device(MetaKey::OutputName, to));
            (Hook::Forward, both)
        }
        (Side::Port(from), Side::Bridge) => (Hook::Input, device(MetaKey::InputName, from)),
        (Side::Bridge, Side::Port(to)) => (Hook::Output, device(MetaKey::OutputName, to)),
        (Side::Bridge, Side::Bridge) => return None,
    };
    expressions.push(Expression::Verdict(Verdict::Drop));
    Some(Rule {
        chain: chain(hook).to_owned(),
        expressions,
        comment: None,
    })
}

fn device(key: MetaKey, name: &str) -> Vec<Expression> {
    let into = Register::word(0);
    let mut value = name.as_bytes().to_vec();
    value.resize(NAME_LENGTH, 0);
    vec![
        Expression::Meta { key, into },
        Expression::Compare {
            from: into,
            operation: BitOperation::Equal,
            value,
        },
    ]
}
