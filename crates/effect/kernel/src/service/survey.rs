//! What the kernel has of the table, without all of its elements.
//!
//! A cluster's frontends are hundreds of thousands of elements. Nearly always they are what
//! they should be, and of those that are it is enough to know so: of each frontend's
//! elements a print is kept, and only where that differs from what is wanted are the
//! elements themselves read, in a second pass.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use weft_desired::{Backend, FrontendKey};
use weft_sys::netlink;
use weft_sys::nft::{Connection, Element, TableName};

use super::installed::{Installed, Slots};
use super::ip_family::IpFamily;
use super::item::{Bytes, ItemKey, ItemValue, Items, backend_of, frontend_of, slot_keys, slot_of};
use super::set::{Content, Scope, SetId};

/// Elements that are worth being looked up by their keys: a list of fewer takes the kernel less.
const MANY: u32 = 4096;
/// How often sets are read again that change while they are read.
const ATTEMPTS: u32 = 10;

/// What the kernel has.
#[derive(Debug, Default)]
pub(super) struct Survey {
    family: Option<IpFamily>,
    frontends: BTreeMap<FrontendKey, Standing>,
    /// Addresses that are a Service's alone.
    pub(super) addresses: Items,
    pub(super) nat: Items,
    /// What belongs to nothing that could be desired.
    pub(super) strays: Items,
    printer: RandomState,
    /// The sets whose elements are known to be found by the keys of these frontends.
    by_keys: BTreeSet<SetId>,
}

/// What is known of a frontend's elements.
#[derive(Debug, Default)]
struct Standing {
    print: Print,
    slots: Slots,
    /// How many slots it may have of each scope, by the sets that it is in.
    room: [u32; 2],
}

/// Tells two collections of elements apart, in whatever order they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Print {
    count: usize,
    sum: u64,
}

impl Print {
    fn add(&mut self, printer: &RandomState, key: &ItemKey, value: &ItemValue) {
        let comment = value.comment.as_deref();
        let parts = (key.set, key.key.as_slice(), value.data.as_slice(), comment);
        self.count += 1;
        self.sum = self.sum.wrapping_add(printer.hash_one(parts));
    }

    /// By the same printer.
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl Survey {
    /// Reads the table.
    pub(super) fn of(
        connection: &mut Connection,
        table: &TableName,
        family: IpFamily,
        sets: &[SetId],
    ) -> Result<Self, netlink::Error> {
        let mut survey = Self {
            family: Some(family),
            ..Self::default()
        };
        // Each set by itself: where others commit all the time, all of them are hardly ever
        // read without one between.
        for set in sets {
            if matches!(set, SetId::Endpoints(_)) {
                continue;
            }
            let part = attempts(|| {
                let mut part = survey.part();
                let whole = part.take_set(connection, table, *set)?;
                Ok(whole.then_some(part))
            })?;
            survey.merge(part);
        }
        for scope in Scope::BOTH {
            survey.take_endpoints(connection, table, scope)?;
        }
        Ok(survey)
    }

    /// One that knows nothing yet and prints alike.
    fn part(&self) -> Self {
        Self {
            family: self.family,
            printer: self.printer.clone(),
            ..Self::default()
        }
    }

    /// Takes in the endpoints of a scope: by their keys where there are many, if the kernel then
    /// has no others.
    fn take_endpoints(
        &mut self,
        connection: &mut Connection,
        table: &TableName,
        scope: Scope,
    ) -> Result<(), netlink::Error> {
        let set = SetId::Endpoints(scope);
        if let Some(part) = self.looked_up(connection, table, scope)? {
            self.by_keys.insert(set);
            self.merge(part);
            return Ok(());
        }
        let part = attempts(|| {
            let mut part = self.part();
            let whole = part.take_set(connection, table, set)?;
            Ok(whole.then_some(part))
        })?;
        self.merge(part);
        Ok(())
    }

    /// The endpoints that frontends have in their slots; `None` where there are few, where the
    /// kernel does not say how many there are, and where that is another number than was found.
    fn looked_up(
        &self,
        connection: &mut Connection,
        table: &TableName,
        scope: Scope,
    ) -> Result<Option<Self>, netlink::Error> {
        let set = SetId::Endpoints(scope);
        let owned = is_owned(connection, table)?;
        for _ in 0..ATTEMPTS {
            let before = connection.generation()?;
            let Some(count) = connection.element_count(table, &set.name())? else {
                return Ok(None);
            };
            if count < MANY {
                return Ok(None);
            }
            let mut part = self.part();
            let mut found = 0;
            let runs = self
                .frontends
                .iter()
                .map(|(key, it)| it.slot_keys(key, scope));
            connection.look_up(table, &set.name(), runs, |element| {
                if let Some((key, value)) = item(set, element) {
                    found += 1;
                    part.take(key, value);
                }
            })?;
            // Between two answers another may have written, where another may.
            if owned || connection.generation()? == before {
                return Ok((found == count).then_some(part));
            }
        }
        Ok(None)
    }

    /// Adds what was read of another set.
    fn merge(&mut self, part: Self) {
        for (key, found) in part.frontends {
            self.frontends.entry(key).or_default().merge(found);
        }
        self.addresses.extend(part.addresses);
        self.nat.extend(part.nat);
        self.strays.extend(part.strays);
    }

    /// The frontends that have elements.
    pub(super) fn frontends(&self) -> impl Iterator<Item = &FrontendKey> {
        self.frontends.keys()
    }

    /// The slots of a frontend that are filled.
    pub(super) fn slots(&self, key: &FrontendKey) -> &Slots {
        static NONE: Slots = Slots {
            all: BTreeMap::new(),
            outside: BTreeMap::new(),
        };
        self.frontends.get(key).map_or(&NONE, |it| &it.slots)
    }

    /// The endpoints a frontend has.
    pub(super) fn backends(&self, key: &FrontendKey) -> BTreeSet<Backend> {
        let Slots { all, outside } = self.slots(key);
        all.values().chain(outside.values()).copied().collect()
    }

    /// The frontends whose elements are not those that are wanted.
    pub(super) fn other_than(
        &self,
        wanted: &BTreeMap<FrontendKey, Installed>,
    ) -> BTreeSet<FrontendKey> {
        let changed = wanted.iter().filter(|(key, installed)| {
            let found = self.frontends.get(*key);
            found.is_none_or(|found| found.print != self.print_of(key, installed))
        });
        let gone = self.frontends().filter(|key| !wanted.contains_key(*key));
        changed.map(|(key, _)| key).chain(gone).copied().collect()
    }

    fn print_of(&self, key: &FrontendKey, installed: &Installed) -> Print {
        let mut print = Print::default();
        for (key, value) in &installed.items(key, None) {
            print.add(&self.printer, key, value);
        }
        print
    }

    /// Reads the elements of these frontends, as far as they have any.
    pub(super) fn elements_of(
        &self,
        connection: &mut Connection,
        table: &TableName,
        sets: &[SetId],
        some: &BTreeSet<FrontendKey>,
    ) -> Result<BTreeMap<FrontendKey, Items>, netlink::Error> {
        let Some(family) = self.family else {
            return Ok(BTreeMap::new());
        };
        if !some.iter().any(|key| self.frontends.contains_key(key)) {
            return Ok(BTreeMap::new());
        }
        let mut all: BTreeMap<FrontendKey, Items> = BTreeMap::new();
        for set in sets.iter().filter(|it| it.content() == Content::Frontends) {
            let found = attempts(|| {
                let mut found = Vec::new();
                let each = |element| {
                    let Some((key, value)) = item(*set, element) else {
                        return;
                    };
                    if let Some(frontend) = frontend_of(&key, family).filter(|it| some.contains(it))
                    {
                        found.push((frontend, key, value));
                    }
                };
                if let SetId::Endpoints(scope) = set
                    && self.by_keys.contains(set)
                {
                    let known = some
                        .iter()
                        .filter_map(|key| Some((key, self.frontends.get(key)?)));
                    let runs = known.map(|(key, it)| it.slot_keys(key, *scope));
                    connection.look_up(table, &set.name(), runs, each)?;
                    return Ok(Some(found));
                }
                let whole = connection.each_element(table, &set.name(), each)?;
                Ok(whole.then_some(found))
            })?;
            for (frontend, key, value) in found {
                all.entry(frontend).or_default().insert(key, value);
            }
        }
        Ok(all)
    }

    /// Takes in the elements of one set. `false` if it changed meanwhile.
    fn take_set(
        &mut self,
        connection: &mut Connection,
        table: &TableName,
        set: SetId,
    ) -> Result<bool, netlink::Error> {
        if set.content() == Content::Kernel {
            return Ok(true);
        }
        if set.is_ranges() {
            let mut elements = connection.elements(table, &set.name())?;
            // Start and end of each range stand next to each other, and where one range
            // ends and the next begins the end comes first.
            elements.sort_by(|a, b| (&a.key, !a.interval_end).cmp(&(&b.key, !b.interval_end)));
            self.take_ranges(set, &elements);
            return Ok(true);
        }
        connection.each_element(table, &set.name(), |element| {
            if let Some((key, value)) = item(set, element) {
                self.take(key, value);
            }
        })
    }

    fn take(&mut self, key: ItemKey, value: ItemValue) {
        match key.set.content() {
            Content::Kernel => {}
            Content::Node => {
                self.nat.insert(key, value);
            }
            Content::Addresses => {
                self.addresses.insert(key, value);
            }
            Content::Frontends => match self.family.and_then(|family| frontend_of(&key, family)) {
                Some(frontend) => {
                    let standing = self.frontends.entry(frontend).or_default();
                    standing.take(&self.printer, &key, &value);
                }
                None => {
                    self.strays.insert(key, value);
                }
            },
        }
    }

    /// Elements of a set of ranges, sorted.
    fn take_ranges(&mut self, set: SetId, elements: &[Element]) {
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

impl Standing {
    fn merge(&mut self, mut other: Self) {
        self.print.merge(other.print);
        for (room, other) in self.room.iter_mut().zip(other.room) {
            *room = other.max(*room);
        }
        // Nearly always all of one scope come at once: then the map itself is taken.
        self.slots.all.append(&mut other.slots.all);
        self.slots.outside.append(&mut other.slots.outside);
    }

    /// The keys of the slots that it may have.
    fn slot_keys(&self, key: &FrontendKey, scope: Scope) -> Vec<Bytes> {
        slot_keys(key, self.room[scope as usize])
    }

    fn take(&mut self, printer: &RandomState, key: &ItemKey, value: &ItemValue) {
        self.print.add(printer, key, value);
        let slot = || slot_of(key.key).zip(backend_of(value.data));
        if let Some((scope, room)) = key.set.room() {
            let known = &mut self.room[scope as usize];
            *known = room.max(*known);
        }
        if key.set == SetId::Endpoints(Scope::All) {
            self.slots.all.extend(slot());
        } else if key.set == SetId::Endpoints(Scope::Local) {
            self.slots.outside.extend(slot());
        }
    }
}

/// Whether nobody else can change a table.
fn is_owned(connection: &mut Connection, table: &TableName) -> Result<bool, netlink::Error> {
    let tables = connection.tables(table.family)?;
    let found = tables.iter().find(|found| found.name == *table);
    Ok(found.is_some_and(|found| found.flags.owner))
}

/// Reads until nothing changes meanwhile.
fn attempts<T>(
    mut read: impl FnMut() -> Result<Option<T>, netlink::Error>,
) -> Result<T, netlink::Error> {
    for _ in 0..ATTEMPTS {
        if let Some(found) = read()? {
            return Ok(found);
        }
    }
    Err(netlink::Error::Unsettled {
        operation: "list elements",
        attempts: ATTEMPTS,
    })
}

/// An element of a set without ranges as a whole; `None` if it is longer than any of ours.
fn item(set: SetId, element: Element) -> Option<(ItemKey, ItemValue)> {
    let data = match set.has_key_ends() {
        true => &element.key_end,
        false => &element.data,
    };
    let (key, data) = (Bytes::new(&element.key)?, Bytes::new(data)?);
    let comment = element.comment.map(Into::into);
    Some((ItemKey { set, key }, ItemValue { data, comment }))
}
