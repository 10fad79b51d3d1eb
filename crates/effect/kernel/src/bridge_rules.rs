//! What becomes of packets between a bridge of pods and the rest of the node.
//!
//! Rules are constant, a bridge is elements of sets.
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
    Batch, BitOperation, ChainKind, Connection, DataType, ElementRef, Expression, Family, Hook,
    MetaKey, Register, TableName, Verdict,
};

use crate::expression::{device_name, lookup, translated};
use crate::plugin_table::{PluginTable, until_undisturbed};

/// Every bridge of pods.
const BRIDGES: &str = "bridges";
/// Those that are cut off.
const ISOLATED: &str = "isolated";
/// Each bridge with itself.
const WITHIN: &str = "within";
/// Those of them whose packets netfilter does not see.
const TURNED: &str = "turned";

/// Has the rules say about a bridge what they should.
///
/// # Errors
/// What nf_tables refused; then all is as it was.
pub fn set(bridge: &Bridge) -> Result<(), netlink::Error> {
    let mut connection = Connection::open()?;
    let table = table();
    // Pods that come at once have the same bridge.
    until_undisturbed(|| {
        let mut batch = Batch::new();
        let exists = table.exists(&mut connection)?;
        if !exists || !table.holds(&mut connection)? {
            table.write(&mut batch);
        }
        for (set, key, held, wanted) in compared(&mut connection, &table, exists, bridge)? {
            let element = ElementRef {
                key: &key,
                ..ElementRef::default()
            };
            match (held, wanted) {
                (false, true) => batch.add_element(&table.name, set, element),
                (true, false) => batch.delete_element(&table.name, set, element),
                (true, true) | (false, false) => {}
            }
        }
        match batch.is_empty() {
            true => Ok(()),
            false => connection.commit(batch),
        }
    })
}

/// Whether they do.
///
/// # Errors
/// A failure of the conversation with the kernel.
pub fn hold(bridge: &Bridge) -> Result<bool, netlink::Error> {
    let mut connection = Connection::open()?;
    let table = table();
    if !table.exists(&mut connection)? || !table.holds(&mut connection)? {
        return Ok(false);
    }
    let compared = compared(&mut connection, &table, true, bridge)?;
    Ok(compared.iter().all(|(_, _, held, wanted)| held == wanted))
}

/// Whether the table has its chains and rules, whatever they say of bridges.
///
/// # Errors
/// A failure of the conversation with the kernel.
pub fn stand() -> Result<bool, netlink::Error> {
    let mut connection = Connection::open()?;
    let table = table();
    Ok(table.exists(&mut connection)? && table.holds(&mut connection)?)
}

/// The elements about a bridge: the set, the key, whether it is in it, and whether it should.
type Compared = (&'static str, Vec<u8>, bool, bool);

fn compared(
    connection: &mut Connection,
    table: &PluginTable,
    exists: bool,
    bridge: &Bridge,
) -> Result<Vec<Compared>, netlink::Error> {
    let sets = match exists {
        true => connection.sets(&table.name)?,
        false => Vec::new(),
    };
    let name = device_name(&bridge.name);
    let itself = [name.as_slice(), name.as_slice()].concat();
    let mut compared = Vec::new();
    for (set, key, wanted) in [
        (BRIDGES, name.clone(), true),
        (ISOLATED, name, bridge.isolated),
        (WITHIN, itself.clone(), true),
        (TURNED, itself, !is_filtered()),
    ] {
        let held = sets.iter().flatten().any(|there| there.name == set) && {
            let elements = connection.elements(&table.name, set)?;
            elements.iter().any(|element| element.key == key)
        };
        compared.push((set, key, held, wanted));
    }
    Ok(compared)
}

/// Whether netfilter sees what goes from port to port (br_netfilter is loaded, and not told to
/// leave either family alone). Its settings are the network namespace's.
fn is_filtered() -> bool {
    ["iptables", "ip6tables"].iter().all(|family| {
        fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"))
            .is_ok_and(|text| text.trim() == "1")
    })
}

fn table() -> PluginTable {
    let mut table = PluginTable::new(TableName::new(Family::Inet, mark::BRIDGES));
    for (name, parts) in [(BRIDGES, 1), (ISOLATED, 1), (WITHIN, 2), (TURNED, 2)] {
        table.set(name, &vec![DataType::InterfaceName; parts], &[]);
    }
    table.chain("forward", ChainKind::Filter, Hook::Forward, -5);
    let verdict = |verdict| vec![Expression::Verdict(verdict)];
    table.rule(
        "forward",
        [pair_in(WITHIN), verdict(Verdict::Accept)].concat(),
    );
    for (one, other) in [
        (MetaKey::InputName, MetaKey::OutputName),
        (MetaKey::OutputName, MetaKey::InputName),
    ] {
        let isolated = name_in(one, ISOLATED);
        let drop = verdict(Verdict::Drop);
        let bridges = name_in(other, BRIDGES);
        table.rule(
            "forward",
            [isolated.clone(), bridges, drop.clone()].concat(),
        );
        table.rule("forward", [isolated, is_routed_pod(other), drop].concat());
    }
    table.chain("postrouting", ChainKind::Nat, Hook::Postrouting, 99);
    let masquerade = vec![Expression::Masquerade { random: true }];
    let turned = [translated(), pair_in(TURNED), masquerade];
    table.rule("postrouting", turned.concat());
    table
}

fn name_in(key: MetaKey, set: &str) -> Vec<Expression> {
    vec![load(key, 0), lookup(set, false)]
}

fn pair_in(set: &str) -> Vec<Expression> {
    vec![
        load(MetaKey::InputName, 0),
        load(MetaKey::OutputName, 4),
        lookup(set, false),
    ]
}

fn load(key: MetaKey, word: u8) -> Expression {
    Expression::Meta {
        key,
        into: Register::word(word),
    }
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
