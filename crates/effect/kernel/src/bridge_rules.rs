//! What becomes of packets between a bridge of pods and the rest of the node.
//!
//! Rules are constant, a bridge is elements of sets. The CNI plugin writes them, several
//! processes at a time; whoever finds the rules wanting writes all of them anew in one
//! transaction, which gives the same table however often it is done.
//!
//! ```text
//!  -5 forward      iifname . oifname @within                              accept
//!                  iifname @isolated, oifname @bridges or weft*           drop
//!                  iifname @bridges or weft*, oifname @isolated           drop
//!  99 postrouting  translated, iifname . oifname @turned                  masquerade
//! ```
//!
//! The last is for a pod that asks another on its own bridge by way of a Service or a port of
//! the node: the answer would go past the node, to somebody who never asked that address. A
//! bridge whose packets netfilter sees (br_netfilter) does not need it.

use std::fs;

use weft_desired::{Bridge, mark};
use weft_sys::netlink;
use weft_sys::nft::{
    BaseChain, Batch, BitOperation, Chain, ChainKind, Connection, DataType, ElementRef, Expression,
    Family, Hook, MetaKey, Policy, Register, Rule, Set, SetFlags, Table, TableFlags, TableName,
    Verdict,
};

use crate::expression::translated;
use crate::plugin_table::until_undisturbed;

/// Every bridge of pods.
const BRIDGES: &str = "bridges";
/// Those that are cut off.
const ISOLATED: &str = "isolated";
/// Each bridge with itself.
const WITHIN: &str = "within";
/// Those of them whose packets netfilter does not see.
const TURNED: &str = "turned";
const SETS: [&str; 4] = [BRIDGES, ISOLATED, WITHIN, TURNED];

/// IFNAMSIZ, `include/uapi/linux/if.h`.
const NAME_LENGTH: usize = 16;

/// Has the rules say about a bridge what they should.
///
/// # Errors
/// What nf_tables refused; then all is as it was.
pub fn set(bridge: &Bridge) -> Result<(), netlink::Error> {
    let mut connection = Connection::open()?;
    // Pods that come at once have the same bridge.
    until_undisturbed(|| write(&mut connection, bridge))
}

fn write(connection: &mut Connection, bridge: &Bridge) -> Result<(), netlink::Error> {
    let table = table();
    let there = exists(connection)?;
    let mut batch = Batch::new();
    let layout = Layout::new();
    if !there || !layout.holds(connection)? {
        layout.write(&mut batch);
    }
    let has_sets = there && has_sets(connection)?;
    for (set, key, wanted) in elements(bridge) {
        let held = has_sets && holds(connection, set, &key)?;
        let element = ElementRef {
            key: &key,
            ..ElementRef::default()
        };
        match (held, wanted) {
            (false, true) => batch.add_element(&table, set, element),
            (true, false) => batch.delete_element(&table, set, element),
            (true, true) | (false, false) => {}
        }
    }
    match batch.is_empty() {
        true => Ok(()),
        false => connection.commit(batch),
    }
}

/// Whether they do.
///
/// # Errors
/// A failure of the conversation with the kernel.
pub fn hold(bridge: &Bridge) -> Result<bool, netlink::Error> {
    let mut connection = Connection::open()?;
    if !exists(&mut connection)?
        || !Layout::new().holds(&mut connection)?
        || !has_sets(&mut connection)?
    {
        return Ok(false);
    }
    for (set, key, wanted) in elements(bridge) {
        if holds(&mut connection, set, &key)? != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A set, a key, and whether it is to be in it.
fn elements(bridge: &Bridge) -> [(&'static str, Vec<u8>, bool); 4] {
    let name = padded(&bridge.name);
    let itself = [name.as_slice(), name.as_slice()].concat();
    [
        (BRIDGES, name.clone(), true),
        (ISOLATED, name, bridge.isolated),
        (WITHIN, itself.clone(), true),
        (TURNED, itself, !is_filtered()),
    ]
}

/// Whether netfilter sees what goes from port to port (br_netfilter is loaded, and not told to
/// leave either family alone). Its settings are the network namespace's.
fn is_filtered() -> bool {
    ["iptables", "ip6tables"].iter().all(|family| {
        fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"))
            .is_ok_and(|text| text.trim() == "1")
    })
}

fn table() -> TableName {
    TableName::new(Family::Inet, mark::BRIDGES)
}

fn exists(connection: &mut Connection) -> Result<bool, netlink::Error> {
    let tables = connection.tables(Family::Inet)?;
    Ok(tables.iter().any(|there| there.name == table()))
}

fn has_sets(connection: &mut Connection) -> Result<bool, netlink::Error> {
    let sets = connection.sets(&table())?;
    let has = |name: &str| sets.iter().flatten().any(|set| set.name == name);
    Ok(SETS.iter().all(|name| has(name)))
}

fn holds(connection: &mut Connection, set: &str, key: &[u8]) -> Result<bool, netlink::Error> {
    let elements = connection.elements(&table(), set)?;
    Ok(elements.iter().any(|element| element.key == key))
}

fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_LENGTH, 0);
    bytes
}

/// The table without its elements.
struct Layout {
    sets: Vec<Set>,
    chains: Vec<Chain>,
    rules: Vec<Rule>,
}

impl Layout {
    fn new() -> Self {
        let set = |name: &str, parts: usize| Set {
            name: name.to_owned(),
            key: vec![DataType::InterfaceName; parts],
            data: Vec::new(),
            flags: SetFlags::default(),
            timeout: None,
            counter: false,
            comment: None,
        };
        let mut layout = Layout {
            sets: vec![
                set(BRIDGES, 1),
                set(ISOLATED, 1),
                set(WITHIN, 2),
                set(TURNED, 2),
            ],
            chains: Vec::new(),
            rules: Vec::new(),
        };
        layout.chain("forward", ChainKind::Filter, Hook::Forward, -5);
        let verdict = |verdict| vec![Expression::Verdict(verdict)];
        layout.rule("forward", [pair_in(WITHIN), verdict(Verdict::Accept)]);
        for (one, other) in [
            (MetaKey::InputName, MetaKey::OutputName),
            (MetaKey::OutputName, MetaKey::InputName),
        ] {
            let isolated = name_in(one, ISOLATED);
            let drop = verdict(Verdict::Drop);
            layout.rule(
                "forward",
                [isolated.clone(), name_in(other, BRIDGES), drop.clone()],
            );
            layout.rule("forward", [isolated, is_routed_pod(other), drop]);
        }
        layout.chain("postrouting", ChainKind::Nat, Hook::Postrouting, 99);
        let masquerade = vec![Expression::Masquerade { random: true }];
        layout.rule("postrouting", [translated(), pair_in(TURNED), masquerade]);
        layout
    }

    fn chain(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32) {
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

    fn rule<const N: usize>(&mut self, chain: &str, parts: [Vec<Expression>; N]) {
        self.rules.push(Rule {
            chain: chain.to_owned(),
            expressions: parts.concat(),
            comment: None,
        });
    }

    /// Whether chains and rules stand as they should.
    fn holds(&self, connection: &mut Connection) -> Result<bool, netlink::Error> {
        let rules = connection.rules(&table())?;
        let chains = connection.chains(&table())?;
        let same = self.chains.iter().all(|chain| {
            let of = |rules: &[Rule]| -> Vec<Rule> {
                let own = rules.iter().filter(|rule| rule.chain == chain.name);
                own.cloned().collect()
            };
            chains.contains(chain) && of(&rules) == of(&self.rules)
        });
        Ok(same && chains.len() == self.chains.len())
    }

    fn write(&self, batch: &mut Batch) {
        let table = table();
        batch.add_table(&Table {
            name: table.clone(),
            flags: TableFlags::default(),
            comment: None,
        });
        for set in &self.sets {
            batch.add_set(&table, set);
        }
        for chain in &self.chains {
            batch.add_chain(&table, chain);
            batch.flush_chain(&table, &chain.name);
        }
        for rule in &self.rules {
            batch.add_rule(&table, rule);
        }
    }
}

fn load(key: MetaKey, word: u8) -> Expression {
    Expression::Meta {
        key,
        into: Register::word(word),
    }
}

fn in_set(set: &str) -> Expression {
    Expression::Lookup {
        set: set.to_owned(),
        from: Register::word(0),
        into: None,
        invert: false,
    }
}

fn name_in(key: MetaKey, set: &str) -> Vec<Expression> {
    vec![load(key, 0), in_set(set)]
}

fn pair_in(set: &str) -> Vec<Expression> {
    vec![
        load(MetaKey::InputName, 0),
        load(MetaKey::OutputName, 4),
        in_set(set),
    ]
}

/// The link of a pod that is in no bridge.
fn is_routed_pod(key: MetaKey) -> Vec<Expression> {
    vec![
        load(key, 0),
        Expression::Compare {
            from: Register::word(0),
            operation: BitOperation::Equal,
            value: mark::LINK_NAME.as_bytes().to_vec(),
        },
    ]
}
