//! The table of one family: read, compare, change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use weft_desired::{Backend, Frontend, FrontendKey, LocalDetection, NodeNat, Protocol, Table};
use weft_sys::nft::{Batch, Connection, TableName};

use super::installed::{Installed, Slots};
use super::ip_family::IpFamily;
use super::item::{Bytes, ItemKey, Items, Step, nat_items, service_address, steps};
use super::layout::{Layout, PodMatch, Shape};
use super::rules::{REMEMBER, remembering};
use super::set::SetId;
use super::survey::Survey;
use super::writer::{Counted, Writer};
use super::{Error, Report};

/// The table `weft` of one family, and what is remembered of it.
#[derive(Debug)]
pub(super) struct FamilyTable {
    pub(super) family: IpFamily,
    pub(super) name: TableName,
    pub(super) shape: Shape,
    layout: Layout,
    pub(super) installed: BTreeMap<FrontendKey, Installed>,
    /// How many frontends that have it alone an address has.
    addresses: BTreeMap<IpAddr, usize>,
    nat: Items,
    /// Whose sources are pods', as far as they tell.
    pub(super) pod_sources: Vec<IpNet>,
}

/// What the kernel has under our table's name.
enum Standing {
    Absent,
    Ours,
    /// Other rules, and how they differ from ours.
    Other(String),
}

impl FamilyTable {
    pub(super) fn new(family: IpFamily) -> Self {
        Self {
            family,
            name: family.table(),
            layout: Layout::of(family, &Shape::default()),
            shape: Shape::default(),
            installed: BTreeMap::new(),
            addresses: BTreeMap::new(),
            nat: Items::new(),
            pod_sources: Vec::new(),
        }
    }

    /// Whether all packets of translated connections are to be counted, from the next
    /// reconciliation on.
    pub(super) fn count_traffic(&mut self, traffic: bool) {
        self.shape.traffic = traffic;
    }

    pub(super) fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, &[Backend])> {
        self.installed
            .iter()
            .map(|(key, installed)| (key, installed.all.slots.as_slice()))
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

    /// The sets of the table as it should be.
    fn sets(&self) -> Vec<SetId> {
        SetId::all(&self.shape.timeouts, self.shape.traffic)
    }

    /// What elements have counted in a table that is about to be replaced.
    fn counted(&self, connection: &mut Connection) -> Result<Counted, Error> {
        let there: BTreeSet<String> = connection
            .sets(&self.name)?
            .into_iter()
            .map(|set| set.map_or_else(|name| name, |set| set.name))
            .collect();
        let mut counted = Counted::new();
        for set in self.sets().into_iter().filter(|set| set.counts()) {
            if !there.contains(&*set.name()) {
                continue;
            }
            for element in connection.elements(&self.name, &set.name())? {
                let key = Bytes::new(&element.key).map(|key| ItemKey { set, key });
                counted.extend(key.zip(element.counts));
            }
        }
        Ok(counted)
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
        self.set_shape(connection, frontends, nat)?;
        let (mut survey, start) = match self.standing(connection)? {
            Standing::Ours => {
                self.own(connection)?;
                let survey = Survey::of(connection, &name, self.family, &self.sets())?;
                (survey, None)
            }
            Standing::Absent => {
                let mut batch = self.make(connection)?;
                self.put_layout(&mut batch);
                report
                    .rebuilt
                    .push(format!("{name}: the table was missing"));
                (Survey::default(), Some((batch, Counted::new())))
            }
            Standing::Other(reason) => {
                self.own(connection)?;
                let counted = self.counted(connection)?;
                let mut batch = Batch::new();
                batch.delete_table(&name);
                batch.add_table(&self.table(self.flags(connection)?));
                self.put_layout(&mut batch);
                report.rebuilt.push(format!("{name}: {reason}"));
                (Survey::default(), Some((batch, counted)))
            }
        };
        // Before the other state is made: one is enough.
        self.installed.clear();
        let wanted = self.wanted(frontends, &survey);
        let other = survey.other_than(&wanted);
        let found = match other.is_empty() {
            true => BTreeMap::new(),
            false => survey.elements_of(connection, &name, &self.sets(), &other)?,
        };
        let mut writer = match start {
            Some((batch, counted)) => Writer::with_start(connection, batch, counted),
            None => Writer::new(connection),
        };

        let pod_sources = pod_sources(nat);
        let nat = nat_items(nat, self.family);
        writer.put(&name, &steps(&survey.nat, &nat))?;

        let nothing = Items::new();
        let leaving = self.put_addresses(&mut writer, &mut survey, &wanted)?;
        let (changed, gone): (Vec<_>, Vec<_>) =
            other.iter().partition(|key| wanted.contains_key(*key));
        for key in changed.into_iter().chain(gone) {
            let old = found.get(key).unwrap_or(&nothing);
            let new = wanted.get(key).map(|new| new.items(key, None));
            writer.put(&name, &steps(old, new.as_ref().unwrap_or(&nothing)))?;
        }
        writer.put(&name, &steps(&leaving, &nothing))?;
        writer.put(&name, &steps(&survey.strays, &nothing))?;
        writer.finish(report)?;
        for (key, installed) in &wanted {
            report_gone(report, key, &survey.backends(key), Some(installed));
        }
        for key in survey.frontends().filter(|key| !wanted.contains_key(*key)) {
            report_gone(report, key, &survey.backends(key), None);
        }

        // Nobody knows what happened while nobody looked.
        report.stale_clients |= !self.shape.timeouts.is_empty();
        self.nat = nat;
        self.pod_sources = pod_sources;
        self.addresses = count_addresses(&wanted);
        self.installed = wanted;
        Ok(())
    }

    /// Makes addresses those of Services that are not; returns those that have to leave in the
    /// end. What is as it has to be is not kept until then.
    fn put_addresses(
        &self,
        writer: &mut Writer<'_>,
        survey: &mut Survey,
        wanted: &BTreeMap<FrontendKey, Installed>,
    ) -> Result<Items, Error> {
        let mut old = std::mem::take(&mut survey.addresses);
        let mut new = Items::new();
        let addresses: BTreeSet<IpAddr> = exclusive(wanted).collect();
        for (key, value) in addresses.into_iter().map(service_address) {
            if old.get(&key) == Some(&value) {
                old.remove(&key);
            } else {
                new.insert(key, value);
            }
        }
        let mut first = steps(&old, &new);
        first.retain(|step| !matches!(step, Step::Remove(..)));
        writer.put(&self.name, &first)?;
        old.retain(|key, _| !new.contains_key(key));
        Ok(old)
    }

    /// The frontends there must be. Endpoints that stand keep their slots.
    fn wanted(
        &self,
        frontends: &Table<FrontendKey, Frontend>,
        survey: &Survey,
    ) -> BTreeMap<FrontendKey, Installed> {
        frontends
            .iter()
            .filter(|(key, _)| self.family.has(key.address))
            .map(|(key, entry)| (*key, self.installed_as(&entry.value, survey.slots(key))))
            .collect()
    }

    /// A frontend as it will stand, where these slots are filled now.
    fn installed_as(&self, frontend: &Frontend, actual: &Slots) -> Installed {
        Installed::new(frontend, self.family, actual).counting_traffic(self.shape.traffic)
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
            let actual = old.map(Installed::slots).unwrap_or_default();
            let new = frontend.map(|it| self.installed_as(it, &actual));
            if let Some(seconds) = new.as_ref().and_then(|new| new.affinity) {
                remember_for(&self.name, self.family, &mut self.shape, seconds, writer)?;
            }
            let before = old.map(|old| old.items(key, new.as_ref()));
            let mut after = new.as_ref().map(|new| new.items(key, old));
            let had = old.is_some_and(|old| old.exclusive);
            let has = new.as_ref().is_some_and(|new| new.exclusive);
            match &mut after {
                Some(after) if has && !had => {
                    let count = self.addresses.entry(key.address).or_default();
                    *count += 1;
                    if *count == 1 {
                        after.extend([service_address(key.address)]);
                    }
                }
                Some(_) | None => {}
            }
            if had && !has {
                unused.push(key.address);
            }
            let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
            writer.put(&self.name, &steps(&before, &after))?;
            report.stale_clients |= old.is_some_and(|old| old.lets_go(new.as_ref()));
            let kept = old.map(Installed::kept).unwrap_or_default();
            report_gone(report, key, &kept, new.as_ref());
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
        self.pod_sources = pod_sources(nat);
        let nat = nat_items(nat, self.family);
        writer.put(&self.name, &steps(&self.nat, &nat))?;
        self.nat = nat;
        Ok(())
    }

    /// Decides what the rules depend on. Times that clients have been remembered for stay:
    /// a rule that no frontend needs costs nothing.
    fn set_shape(
        &mut self,
        connection: &mut Connection,
        frontends: &Table<FrontendKey, Frontend>,
        nat: &NodeNat,
    ) -> Result<(), Error> {
        let wanted = frontends
            .iter()
            .filter(|(key, _)| self.family.has(key.address))
            .filter_map(|(_, entry)| entry.value.affinity);
        let mut timeouts: BTreeSet<u32> = wanted.collect();
        let sets = match connection.sets(&self.name) {
            // Somebody took the table away.
            Err(error) if error.is_absent() => Vec::new(),
            sets => sets?,
        };
        for set in sets {
            let name = set.map_or_else(|name| name, |set| set.name);
            timeouts.extend(SetId::timeout_of(&name));
        }
        self.shape = Shape {
            pods: PodMatch::from(&nat.local),
            timeouts,
            traffic: self.shape.traffic,
        };
        self.layout = Layout::of(self.family, &self.shape);
        Ok(())
    }
}

/// Makes clients be remembered for so many seconds, if they are not yet.
fn remember_for(
    name: &TableName,
    family: IpFamily,
    shape: &mut Shape,
    seconds: u32,
    writer: &mut Writer<'_>,
) -> Result<(), Error> {
    if !shape.timeouts.insert(seconds) {
        return Ok(());
    }
    writer.rules(|batch| {
        batch.add_set(name, &SetId::Sticky(seconds).definition(family));
        // The rules stand in the order of their times.
        batch.flush_chain(name, REMEMBER);
        for seconds in &shape.timeouts {
            for rule in remembering(family, *seconds) {
                batch.add_rule(name, &rule);
            }
        }
    })
}

fn pod_sources(nat: &NodeNat) -> Vec<IpNet> {
    match &nat.local {
        LocalDetection::Ranges(ranges) => ranges.iter().copied().collect(),
        // The kernel alone can tell.
        LocalDetection::Bridge(_)
        | LocalDetection::InterfacePrefix(_)
        | LocalDetection::Nothing => Vec::new(),
    }
}

fn count_addresses(wanted: &BTreeMap<FrontendKey, Installed>) -> BTreeMap<IpAddr, usize> {
    let mut counts = BTreeMap::new();
    for address in exclusive(wanted) {
        *counts.entry(address).or_default() += 1;
    }
    counts
}

fn exclusive(wanted: &BTreeMap<FrontendKey, Installed>) -> impl Iterator<Item = IpAddr> {
    let exclusive = wanted.iter().filter(|(_, installed)| installed.exclusive);
    exclusive.map(|(key, _)| key.address)
}

fn report_gone(
    report: &mut Report,
    key: &FrontendKey,
    before: &BTreeSet<Backend>,
    after: Option<&Installed>,
) {
    let kept = after.map(Installed::kept).unwrap_or_default();
    let gone = before.difference(&kept);
    report.gone.extend(gone.map(|backend| (*key, *backend)));
    // What is sent to an exclusive address and not translated never gets anywhere.
    let shared = after.is_some_and(|after| !after.exclusive);
    if shared && before.is_empty() && !kept.is_empty() && key.protocol == Protocol::Udp {
        let itself = Backend {
            address: key.address,
            port: key.port,
        };
        report.gone.push((*key, itself));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_fit_into_one_transaction_of_an_unprivileged_socket() {
        for family in IpFamily::BOTH {
            let mut batch = Batch::new();
            FamilyTable::new(family).put_layout(&mut batch);
            // What Linux gives a socket that asks for nothing (net.core.wmem_default); netlink
            // takes no message longer than that less 32 bytes.
            assert!(batch.length() <= 212_992 - 32, "{}", batch.length());
        }
    }

    #[test]
    fn what_is_missing_or_more_is_a_difference_with_a_name() {
        let ours = Layout::of(IpFamily::V4, &Shape::default());
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
