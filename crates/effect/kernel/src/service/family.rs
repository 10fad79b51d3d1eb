//! The table of one family: read, compare, change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_desired::{Backend, Frontend, FrontendKey, NodeNat, Table, place};
use weft_sys::netlink;
use weft_sys::nft::{self, Batch, Connection, TableFlags, TableName};

use super::item::{
    Bytes, Installed, ItemKey, ItemValue, Items, Step, frontend_of, nat_items, service_address,
    slots, steps,
};
use super::layout::{IpFamily, Layout, SetId};
use super::writer::Writer;
use super::{Error, Report};

// errno(3)
const EPERM: i32 = 1;
const EOPNOTSUPP: i32 = 95;

/// The table `weft` of one family, and what is remembered of it.
#[derive(Debug)]
pub(super) struct FamilyTable {
    family: IpFamily,
    name: TableName,
    layout: Layout,
    installed: BTreeMap<FrontendKey, Installed>,
    /// How many frontends an address has.
    addresses: BTreeMap<IpAddr, usize>,
    nat: Items,
}

/// What the kernel has under our table's name.
enum Standing {
    Absent,
    Ours,
    /// Other rules, and how they differ from ours.
    Other(String),
}

/// The elements the kernel has.
#[derive(Default)]
struct Found {
    frontends: BTreeMap<FrontendKey, Items>,
    addresses: Items,
    nat: Items,
    /// What belongs to nothing that could be desired.
    strays: Items,
}

impl FamilyTable {
    pub(super) fn new(family: IpFamily) -> Self {
        Self {
            family,
            name: family.table(),
            layout: Layout::of(family),
            installed: BTreeMap::new(),
            addresses: BTreeMap::new(),
            nat: Items::new(),
        }
    }

    pub(super) fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, &[Backend])> {
        self.installed
            .iter()
            .map(|(key, installed)| (key, installed.slots.as_slice()))
    }

    /// Takes the table over, or makes it.
    pub(super) fn adopt(&mut self, connection: &mut Connection) -> Result<(), Error> {
        match self.standing(connection)? {
            Standing::Absent => {
                let mut batch = self.make(connection)?;
                self.put_layout(&mut batch);
                connection.commit(batch)?;
                Ok(())
            }
            Standing::Ours | Standing::Other(_) => self.own(connection),
        }
    }

    /// Makes this socket the table's owner, if it has been left by its last one. A table
    /// made where the kernel knows no owners stays nobody's.
    fn own(&self, connection: &mut Connection) -> Result<(), Error> {
        let tables = connection.tables(self.name.family)?;
        let flags = tables
            .into_iter()
            .find(|table| table.name == self.name)
            .map(|table| table.flags);
        match flags {
            Some(flags) if flags.persist => {
                let mut batch = Batch::new();
                batch.add_table(&self.table(OWNED));
                self.commit_as_owner(connection, batch)
            }
            Some(flags) if flags.owner => Err(self.owned()),
            Some(_) | None => Ok(()),
        }
    }

    /// A batch that makes the table: owned, so that nobody else changes it, where the
    /// kernel can let an owned table outlive its owner (since Linux 6.9).
    fn make(&self, connection: &mut Connection) -> Result<Batch, Error> {
        let mut probe = Batch::new();
        probe.add_table(&self.table(OWNED));
        let flags = match connection.commit(probe) {
            Ok(()) => OWNED,
            Err(error) if has_errno(&error, EOPNOTSUPP) => TableFlags::default(),
            Err(error) if has_errno(&error, EPERM) => return Err(self.owned()),
            Err(error) => return Err(error.into()),
        };
        let mut batch = Batch::new();
        batch.add_table(&self.table(flags));
        Ok(batch)
    }

    fn table(&self, flags: TableFlags) -> nft::Table {
        nft::Table {
            name: self.name.clone(),
            flags,
            comment: Some("Services, made by weft".to_owned()),
        }
    }

    fn owned(&self) -> Error {
        Error::Owned {
            table: self.name.to_string(),
        }
    }

    fn commit_as_owner(&self, connection: &mut Connection, batch: Batch) -> Result<(), Error> {
        connection.commit(batch).map_err(|error| {
            if has_errno(&error, EPERM) {
                self.owned()
            } else {
                error.into()
            }
        })
    }

    fn put_layout(&self, batch: &mut Batch) {
        for set in self.layout.sets.values() {
            batch.add_set(&self.name, set);
        }
        for chain in self.layout.chains.values() {
            batch.add_chain(&self.name, chain);
        }
        for rule in self.layout.rules.values().flatten() {
            batch.add_rule(&self.name, rule);
        }
    }

    fn standing(&self, connection: &mut Connection) -> Result<Standing, Error> {
        let tables = connection.tables(self.name.family)?;
        if !tables.iter().any(|table| table.name == self.name) {
            return Ok(Standing::Absent);
        }
        let mut found = Layout {
            sets: BTreeMap::new(),
            chains: BTreeMap::new(),
            rules: BTreeMap::new(),
        };
        for set in connection.sets(&self.name)? {
            match set {
                Ok(set) => found.sets.insert(set.name.clone(), set),
                Err(name) => {
                    return Ok(Standing::Other(format!("set {name} is not of this layout")));
                }
            };
        }
        for chain in connection.chains(&self.name)? {
            found.rules.insert(chain.name.clone(), Vec::new());
            found.chains.insert(chain.name.clone(), chain);
        }
        for rule in connection.rules(&self.name)? {
            found
                .rules
                .entry(rule.chain.clone())
                .or_default()
                .push(rule);
        }
        if found.sets.is_empty() && found.chains.is_empty() {
            // Made by an agent that ended before it could fill it.
            return Ok(Standing::Absent);
        }
        Ok(match self.layout.difference(&found) {
            None => Standing::Ours,
            Some(reason) => Standing::Other(reason),
        })
    }

    /// Reads the table and makes it what is desired.
    pub(super) fn reconcile(
        &mut self,
        connection: &mut Connection,
        frontends: &Table<FrontendKey, Frontend>,
        nat: &NodeNat,
        report: &mut Report,
    ) -> Result<(), Error> {
        let name = self.name.clone();
        let (found, mut writer) = match self.standing(connection)? {
            Standing::Ours => {
                self.own(connection)?;
                let found = self.read(connection)?;
                (found, Writer::new(connection))
            }
            Standing::Absent => {
                let mut batch = self.make(connection)?;
                self.put_layout(&mut batch);
                report
                    .rebuilt
                    .push(format!("{name}: the table was missing"));
                (Found::default(), Writer::with_start(connection, batch))
            }
            Standing::Other(reason) => {
                self.own(connection)?;
                let mut batch = Batch::new();
                batch.delete_table(&name);
                batch.add_table(&self.table(self.flags(connection)?));
                self.put_layout(&mut batch);
                report.rebuilt.push(format!("{name}: {reason}"));
                (Found::default(), Writer::with_start(connection, batch))
            }
        };

        let nat = nat_items(nat, self.family);
        writer.put(&name, &steps(&found.nat, &nat))?;

        let wanted = self.wanted(frontends, &found);
        let addresses = service_addresses(wanted.keys());
        let kept = |step: &Step<'_>| !matches!(step, Step::Remove(..));
        let (first, last): (Vec<_>, Vec<_>) = steps(&found.addresses, &addresses)
            .into_iter()
            .partition(kept);
        writer.put(&name, &first)?;

        let nothing = Items::new();
        for (key, installed) in &wanted {
            let old = found.frontends.get(key).unwrap_or(&nothing);
            let new = installed.items(key, None);
            writer.put(&name, &steps(old, &new))?;
            report_gone(report, key, &slots(old), &installed.slots);
        }
        for (key, old) in &found.frontends {
            if !wanted.contains_key(key) {
                writer.put(&name, &steps(old, &nothing))?;
                report_gone(report, key, &slots(old), &[]);
            }
        }
        writer.put(&name, &last)?;
        writer.put(&name, &steps(&found.strays, &nothing))?;
        writer.finish(report)?;

        self.nat = nat;
        self.addresses = count_addresses(wanted.keys());
        self.installed = wanted;
        Ok(())
    }

    /// The flags the table has now: a new one in its place gets the same.
    fn flags(&self, connection: &mut Connection) -> Result<TableFlags, Error> {
        let tables = connection.tables(self.name.family)?;
        let found = tables.into_iter().find(|table| table.name == self.name);
        Ok(found.map_or(TableFlags::default(), |table| table.flags))
    }

    /// The frontends there must be. Endpoints that stand keep their slots.
    fn wanted(
        &self,
        frontends: &Table<FrontendKey, Frontend>,
        found: &Found,
    ) -> BTreeMap<FrontendKey, Installed> {
        frontends
            .iter()
            .filter(|(key, _)| self.family.has(key.address))
            .map(|(key, entry)| {
                let actual = found.frontends.get(key).map(slots).unwrap_or_default();
                (*key, self.installed(&entry.value, &actual))
            })
            .collect()
    }

    /// A frontend as it will stand, where these slots are filled now.
    fn installed(&self, frontend: &Frontend, actual: &BTreeMap<u32, Backend>) -> Installed {
        let desired: BTreeSet<Backend> = frontend
            .backends
            .iter()
            .copied()
            .filter(|backend| self.family.has(backend.address))
            .collect();
        Installed {
            label: frontend.label.clone(),
            slots: place(actual, &desired),
            otherwise: frontend.otherwise,
        }
    }

    /// Makes frontends what is given.
    pub(super) fn apply(
        &mut self,
        changes: &BTreeMap<FrontendKey, Option<&Frontend>>,
        writer: &mut Writer<'_>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut unused = Vec::new();
        for (key, frontend) in changes {
            if !self.family.has(key.address) {
                continue;
            }
            let old = self.installed.get(key);
            let actual: BTreeMap<u32, Backend> = old
                .map(|old| (0..).zip(old.slots.iter().copied()).collect())
                .unwrap_or_default();
            let new = frontend.map(|frontend| self.installed(frontend, &actual));
            let before = old.map(|old| old.items(key, new.as_ref()));
            let mut after = new.as_ref().map(|new| new.items(key, old));
            match (old, &mut after) {
                (None, Some(after)) => {
                    let count = self.addresses.entry(key.address).or_default();
                    *count += 1;
                    if *count == 1 {
                        after.extend([service_address(key.address)]);
                    }
                }
                (Some(_), None) => unused.push(key.address),
                (Some(_), Some(_)) | (None, None) => {}
            }
            let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
            writer.put(&self.name, &steps(&before, &after))?;
            let slots = new.as_ref().map_or(&[][..], |new| &new.slots);
            report_gone(report, key, &actual, slots);
            match new {
                Some(new) => self.installed.insert(*key, new),
                None => self.installed.remove(key),
            };
        }
        for address in unused {
            let Some(count) = self.addresses.get_mut(&address) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
                let items = Items::from([service_address(address)]);
                writer.put(&self.name, &steps(&items, &Items::new()))?;
            }
        }
        Ok(())
    }

    /// Makes what address translation knows besides frontends what is given.
    pub(super) fn apply_nat(
        &mut self,
        nat: &NodeNat,
        writer: &mut Writer<'_>,
    ) -> Result<(), Error> {
        let nat = nat_items(nat, self.family);
        writer.put(&self.name, &steps(&self.nat, &nat))?;
        self.nat = nat;
        Ok(())
    }

    /// Reads every element.
    fn read(&self, connection: &mut Connection) -> Result<Found, Error> {
        let mut found = Found::default();
        for set in SetId::all() {
            let mut elements = connection.elements(&self.name, &set.name())?;
            if set.is_ranges() {
                // Start and end of each range stand next to each other, and where one
                // range ends and the next begins the end comes first.
                elements.sort_by(|a, b| (&a.key, !a.interval_end).cmp(&(&b.key, !b.interval_end)));
                found.take_ranges(set, &elements);
                continue;
            }
            for element in elements {
                let (Some(key), Some(data)) = (Bytes::new(&element.key), Bytes::new(&element.data))
                else {
                    continue;
                };
                let key = ItemKey { set, key };
                let comment = element.comment.map(Into::into);
                let value = ItemValue { data, comment };
                found.take(self.family, key, value);
            }
        }
        Ok(found)
    }
}

/// What our tables are where the kernel can.
const OWNED: TableFlags = TableFlags {
    dormant: false,
    owner: true,
    persist: true,
};

impl Found {
    fn take(&mut self, family: IpFamily, key: ItemKey, value: ItemValue) {
        match key.set {
            SetId::Pods | SetId::Nodes | SetId::Hairpin | SetId::ServiceRanges => {
                self.nat.insert(key, value);
            }
            SetId::ServiceAddresses => {
                self.addresses.insert(key, value);
            }
            SetId::Endpoints
            | SetId::MasqueradeOutside
            | SetId::Size(_)
            | SetId::Large
            | SetId::Frontends
            | SetId::Refused
            | SetId::Dropped => match frontend_of(&key, family) {
                Some(frontend) => {
                    self.frontends
                        .entry(frontend)
                        .or_default()
                        .insert(key, value);
                }
                None => {
                    self.strays.insert(key, value);
                }
            },
        }
    }

    /// Elements of a set of ranges, sorted.
    fn take_ranges(&mut self, set: SetId, elements: &[nft::Element]) {
        let mut start = None;
        for element in elements {
            let Some(key) = Bytes::new(&element.key) else {
                continue;
            };
            if element.interval_end {
                if let Some(value) = start.take().and_then(|start| self.nat.get_mut(&start)) {
                    value.data = key;
                }
            } else {
                let key = ItemKey { set, key };
                let value = ItemValue {
                    data: Bytes::default(),
                    comment: element.comment.as_deref().map(Into::into),
                };
                self.nat.insert(key, value);
                start = Some(key);
            }
        }
    }
}

fn service_addresses<'a>(keys: impl Iterator<Item = &'a FrontendKey>) -> Items {
    keys.map(|key| service_address(key.address)).collect()
}

fn count_addresses<'a>(keys: impl Iterator<Item = &'a FrontendKey>) -> BTreeMap<IpAddr, usize> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key.address).or_default() += 1;
    }
    counts
}

fn report_gone(
    report: &mut Report,
    key: &FrontendKey,
    before: &BTreeMap<u32, Backend>,
    after: &[Backend],
) {
    let after: BTreeSet<&Backend> = after.iter().collect();
    let gone = before.values().filter(|backend| !after.contains(backend));
    report.gone.extend(gone.map(|backend| (*key, *backend)));
}

fn has_errno(error: &netlink::Error, number: i32) -> bool {
    error
        .errno()
        .is_some_and(|errno| errno.raw_os_error() == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_fit_into_one_transaction_of_an_unprivileged_socket() {
        for family in IpFamily::BOTH {
            let mut batch = Batch::new();
            FamilyTable::new(family).put_layout(&mut batch);
            // net.core.wmem_max as Linux sets it.
            assert!(batch.length() < 212_992 / 2, "{}", batch.length());
        }
    }

    #[test]
    fn what_is_missing_or_more_is_a_difference_with_a_name() {
        let ours = Layout::of(IpFamily::V4);
        assert_eq!(ours.difference(&ours), None);

        let mut found = ours.clone();
        found.sets.remove("hairpin");
        assert_eq!(
            ours.difference(&found).as_deref(),
            Some("set hairpin is missing")
        );
        assert_eq!(
            found.difference(&ours).as_deref(),
            Some("set hairpin is not of this layout")
        );

        let mut found = ours.clone();
        found.chains.remove("pick");
        found.rules.remove("pick");
        assert_eq!(
            ours.difference(&found).as_deref(),
            Some("chain pick is missing")
        );

        let mut found = ours.clone();
        found.rules.insert("pick".to_owned(), Vec::new());
        assert_eq!(
            ours.difference(&found).as_deref(),
            Some("the rules of chain pick differs")
        );
    }
}
