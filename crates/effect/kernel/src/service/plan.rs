//! What a change would write, element by element, without writing it.

use std::collections::BTreeSet;

use weft_desired::{Frontend, FrontendKey, NodeNat, Table, View};

use super::installed::{Installed, Slots};
use super::ip_family::IpFamily;
use super::item::{ItemKey, ItemValue, Items, Step, nat_items, service_address, steps};
use super::layout::{Layout, Shape};
use super::listing::element;

/// One element added or deleted. A replaced one is deleted and added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Added, or else deleted.
    pub add: bool,
    /// The set or map.
    pub set: String,
    /// The element in nft's words.
    pub element: String,
}

/// A state of what a table is made from.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The frontends.
    pub frontends: &'a Table<FrontendKey, Frontend>,
    /// What address translation knows besides.
    pub nat: &'a NodeNat,
}

/// The operations that lead a family's table from one state to another, in their order.
/// Endpoints that stand keep the slots that they have in `live`, where that is known.
pub fn plan(
    family: IpFamily,
    before: Side<'_>,
    after: Side<'_>,
    live: Option<&View>,
) -> Vec<Operation> {
    let timeouts = [before, after]
        .into_iter()
        .flat_map(|side| side.frontends.values())
        .filter_map(|entry| entry.value.affinity)
        .collect();
    let shape = Shape {
        timeouts,
        ..Shape::default()
    };
    let layout = Layout::of(family, &shape);
    let keys: BTreeSet<&FrontendKey> = before
        .frontends
        .keys()
        .chain(after.frontends.keys())
        .filter(|key| family.has(key.address))
        .filter(|key| before.frontends.get(*key) != after.frontends.get(*key))
        .collect();
    let items = |side: Side<'_>| {
        let mut items = nat_items(side.nat, family);
        let ours = side.frontends.iter();
        for (key, entry) in ours.filter(|(key, _)| family.has(key.address)) {
            if entry.value.exclusive {
                items.extend([service_address(key.address)]);
            }
        }
        for key in &keys {
            if let Some(entry) = side.frontends.get(*key) {
                items.extend(frontend_items(key, &entry.value, family, live, before));
            }
        }
        items
    };
    let (before, after) = (items(before), items(after));
    let mut operations = Vec::new();
    for step in steps(&before, &after) {
        let mut put = |add, key: &ItemKey, value: &ItemValue| {
            let name = key.set.name().into_owned();
            if let Some(set) = layout.sets.get(&name) {
                operations.push(Operation {
                    add,
                    element: element(set, key, value, add),
                    set: name,
                });
            }
        };
        match step {
            Step::Add(key, value) => put(true, key, value),
            Step::Remove(key, value) => put(false, key, value),
            Step::Replace(key, old, new) => {
                put(false, key, old);
                put(true, key, new);
            }
        }
    }
    operations
}

fn frontend_items(
    key: &FrontendKey,
    frontend: &Frontend,
    family: IpFamily,
    live: Option<&View>,
    before: Side<'_>,
) -> Items {
    let seen = live.and_then(|view| view.frontends.get(key));
    let slots = match (seen, before.frontends.get(key)) {
        (Some(seen), _) => Slots {
            all: seen.backends.clone(),
            outside: seen
                .outside
                .as_ref()
                .map(|outside| outside.backends.clone())
                .unwrap_or_default(),
        },
        (None, Some(before)) => Installed::new(&before.value, family, &Slots::default()).slots(),
        (None, None) => Slots::default(),
    };
    Installed::new(frontend, family, &slots).items(key, None)
}
