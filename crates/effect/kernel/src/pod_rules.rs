//! What pods may send, and as whom they leave the cluster: a table in each family.
//!
//! ```text
//! -300 prerouting    what only routers say, iifname @links               counted, dropped
//!                    iifname . saddr @sources                            accept
//!                    0.0.0.0 asks for an address (DHCP)                  accept
//!                    fe80::/10; from :: a search for duplicates, MLD     accept
//!                    iifname @links                                      counted, dropped
//!  101 postrouting   to a group of hosts                                 accept
//!                    saddr @leaving, saddr . daddr not @inside           masquerade
//! ```
//!
//! A packet with a source that is not the pod's ends before conntrack sees it. Masquerade comes
//! after the agent's: a connection that has a source by then keeps it.
//!
//! What comes in by a port of a bridge is told by its port in the family `bridge` alone, before
//! the bridge hands it on or the node takes it:
//!
//! ```text
//! -300 prerouting    iifname . ether saddr not @macs, iifname @links     counted, dropped
//!                    what only routers say, iifname @links               counted, dropped
//!                    a neighbour's answer, iifname . the target neither
//!                    @targets nor fe80::/10,    iifname @links           counted, dropped
//!                    iifname . saddr @sources, or @sources-v6            accept
//!                    iifname . the sender of ARP @sources, or nobody     accept
//!                    the same exceptions                                 accept
//!                    iifname @links                                      counted, dropped
//! ```
//!
//! What is about a link stands under the link's name, what is about an address under the address;
//! so everything about one link of a pod is found again by the two, whatever is known besides.

mod item;
mod layout;
mod rehearsal;

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_desired::PodRules;
use weft_sys::netlink::Error;
use weft_sys::nft::{Batch, Connection, Element};

use crate::plugin_table::{PluginTable, until_undisturbed};

use self::item::{Item, PLACES, SETS, elements, heads};
use self::layout::{layout, table_name};

pub use self::rehearsal::rehearse;

/// Makes the rules about one link exactly these, all of them or none.
///
/// # Errors
/// See [`Error`].
pub fn set(connection: &mut Connection, rules: &PodRules) -> Result<(), Error> {
    until_undisturbed(|| {
        let mut batch = Batch::new();
        for place in PLACES {
            let layout = layout(place);
            let wanted = elements(rules, place);
            if !wanted.is_empty() && !layout.holds(connection)? {
                layout.write(&mut batch);
            }
            let there: BTreeSet<Item> = own(connection, &layout, rules)?.into_iter().collect();
            for item in there.difference(&wanted) {
                batch.delete_element(&layout.name, item.set, item.element(""));
            }
            for item in wanted.difference(&there) {
                batch.add_element(&layout.name, item.set, item.element(&rules.comment));
            }
        }
        connection.commit(batch)
    })
}

/// The same of a link that nothing was said about before. It takes as long however many pods
/// there are: everything is looked through only if something stands there all the same.
///
/// What a link may send that is gone, or whose record is lost, from an address that is this link's
/// by now is not found so: such a link's name is its container's and interface's own, and nobody
/// else's ever; whoever has it again finds what stands under it.
///
/// # Errors
/// See [`Error`].
pub fn begin(connection: &mut Connection, rules: &PodRules) -> Result<(), Error> {
    let mut batch = Batch::new();
    let mut unwanted = Vec::new();
    for place in PLACES {
        let table = table_name(place);
        let wanted = elements(rules, place);
        if !wanted.is_empty() {
            let layout = layout(place);
            if !layout.holds(connection)? {
                layout.write(&mut batch);
            }
        }
        for item in &wanted {
            batch.add_element(&table, item.set, item.element(&rules.comment));
        }
        let heads = heads(rules, place).into_iter();
        unwanted.extend(
            heads
                .filter(|head| !wanted.contains(head))
                .map(|head| (table.clone(), head)),
        );
    }
    let unwanted: Vec<_> = unwanted
        .iter()
        .map(|(table, item)| (table, item.set, item.key.as_slice()))
        .collect();
    // Of what is wanted nothing may be there either: the transaction would be refused.
    if !connection.any_stands(&unwanted)? && connection.commit(batch).is_ok() {
        return Ok(());
    }
    set(connection, rules)
}

/// Removes everything about a link and the addresses of a pod on it.
///
/// # Errors
/// See [`Error`].
pub fn clear(connection: &mut Connection, link: &str, addresses: &[IpAddr]) -> Result<(), Error> {
    let nothing = PodRules {
        link: link.into(),
        is_port: false,
        mac: [0; 6],
        addresses: addresses.to_vec(),
        other_links: Vec::new(),
        other_addresses: Vec::new(),
        is_guarded: false,
        masquerade_beyond: None,
        comment: "".into(),
    };
    set(connection, &nothing)
}

/// What is not as [`set`] makes it, in words.
///
/// # Errors
/// See [`Error`].
pub fn deviations(rules: &PodRules) -> Result<Vec<String>, Error> {
    let mut connection = Connection::open()?;
    let mut deviations = Vec::new();
    for place in PLACES {
        let layout = layout(place);
        let wanted = elements(rules, place);
        let exists = layout.exists(&mut connection)?;
        if wanted.is_empty() && !exists {
            continue;
        }
        if !wanted.is_empty() && (!exists || !layout.holds(&mut connection)?) {
            deviations.push(format!("table {} has not weft's rules", layout.name));
            continue;
        }
        let there: BTreeSet<Item> = own(&mut connection, &layout, rules)?.into_iter().collect();
        let name = &layout.name;
        deviations.extend(
            wanted
                .difference(&there)
                .map(|item| format!("table {name}: {item} is missing")),
        );
        deviations.extend(
            there
                .difference(&wanted)
                .map(|item| format!("table {name}: {item} should not be there")),
        );
    }
    Ok(deviations)
}

/// Writes what is missing of all these rules, and removes nothing. Says whether anything was.
///
/// # Errors
/// See [`Error`].
pub fn restore(all: &[PodRules]) -> Result<bool, Error> {
    let mut connection = Connection::open()?;
    let mut was_missing = false;
    for place in PLACES {
        let layout = layout(place);
        let comment_of: Vec<(BTreeSet<Item>, &str)> = all
            .iter()
            .map(|rules| (elements(rules, place), &*rules.comment))
            .filter(|(wanted, _)| !wanted.is_empty())
            .collect();
        if comment_of.is_empty() {
            continue;
        }
        until_undisturbed(|| {
            let mut batch = Batch::new();
            let exists = layout.exists(&mut connection)?;
            if !exists || !layout.holds(&mut connection)? {
                layout.write(&mut batch);
            }
            let there: BTreeSet<Item> = match exists {
                true => standing(&mut connection, &layout)?.into_iter().collect(),
                false => BTreeSet::new(),
            };
            let mut added = BTreeSet::new();
            for (wanted, comment) in &comment_of {
                for item in wanted.difference(&there) {
                    if added.insert(item) {
                        batch.add_element(&layout.name, item.set, item.element(comment));
                    }
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            was_missing = true;
            connection.commit(batch)
        })?;
    }
    Ok(was_missing)
}

/// Whether every table that one of these has its part in has its chains and rules. What is in the
/// sets is not looked at.
///
/// # Errors
/// See [`Error`].
pub fn stand(all: &[PodRules]) -> Result<bool, Error> {
    let mut connection = Connection::open()?;
    for place in PLACES {
        let layout = layout(place);
        let is_needed = all.iter().any(|rules| !elements(rules, place).is_empty());
        if is_needed && !(layout.exists(&mut connection)? && layout.holds(&mut connection)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What something is said about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subjects {
    /// Links, by the names of the node's ends.
    pub links: BTreeSet<String>,
    /// Addresses of pods.
    pub addresses: BTreeSet<IpAddr>,
}

/// Every link and every address that something is said about.
///
/// # Errors
/// See [`Error`].
pub fn subjects() -> Result<Subjects, Error> {
    let mut connection = Connection::open()?;
    let mut subjects = Subjects::default();
    for place in PLACES {
        let layout = layout(place);
        if layout.exists(&mut connection)? {
            let items = standing(&mut connection, &layout)?;
            subjects.links.extend(items.iter().filter_map(Item::link));
            let addresses = items.iter().filter_map(Item::address);
            subjects.addresses.extend(addresses);
        }
    }
    Ok(subjects)
}

/// What stands about a link and its pod's addresses.
fn own(
    connection: &mut Connection,
    layout: &PluginTable,
    rules: &PodRules,
) -> Result<Vec<Item>, Error> {
    let mut items = standing(connection, layout)?;
    items.retain(|item| item.is_about(rules));
    Ok(items)
}

fn standing(connection: &mut Connection, layout: &PluginTable) -> Result<Vec<Item>, Error> {
    let mut items = Vec::new();
    for set in SETS.into_iter().filter(|set| layout.has_set(set)) {
        let elements = match connection.elements(&layout.name, set) {
            // There is no such set, or no table.
            Err(error) if error.is_absent() => continue,
            other => other?.into_iter(),
        };
        items.extend(elements.map(|Element { key, key_end, .. }| Item { set, key, key_end }));
    }
    Ok(items)
}
