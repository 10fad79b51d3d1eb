//! What the kernel has, read for a person: no rule is looked at but for what it counted,
//! nothing is changed, and no agent has to run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{
    Backend, Door, FrontendKey, Masquerade, Observed, ObservedOutside, Otherwise, Reason, View,
    Volume,
};
use weft_sys::nft::{Connection, Counts, Element, TableName};

use super::Error;
use super::ip_family::IpFamily;
use super::item::{
    Bytes, ItemKey, address_at_start, backend_of, frontend_bytes, frontend_of, remembered,
    service_address, slot_keys, slot_of,
};
use super::set::{Content, Scope, SetId, Way};

/// How often a table is read that changes meanwhile. Then the last look is taken: each of
/// its elements was there.
const LOOKS: usize = 3;
/// Where fewer than one frontend of so many is wanted, a set's elements are looked up by their keys:
/// a list hands all of them over.
const LISTED: usize = 8;

/// What the tables of these families have; `None` if there is none.
///
/// # Errors
/// [`Error::Kernel`] if the kernel does not answer, or not to this user.
pub fn view(connection: &mut Connection, families: &[IpFamily]) -> Result<Option<View>, Error> {
    view_of(connection, families, &|_, _| true)
}

/// The same of some frontends only, told by their keys and labels.
///
/// # Errors
/// As [`view`].
pub fn view_of(
    connection: &mut Connection,
    families: &[IpFamily],
    wanted: Wanted<'_>,
) -> Result<Option<View>, Error> {
    let mut all = None;
    for family in families {
        let name = family.table();
        let tables = connection.tables(name.family)?;
        if tables.iter().any(|table| table.name == name) {
            let view = steady(connection, *family, &name, wanted)?;
            all.get_or_insert_with(View::default).merge(view);
        }
    }
    Ok(all)
}

/// Whether a frontend is to be seen. A label is cut where the kernel keeps no more of it.
pub type Wanted<'a> = &'a dyn Fn(&FrontendKey, &str) -> bool;

fn steady(
    connection: &mut Connection,
    family: IpFamily,
    name: &TableName,
    wanted: Wanted<'_>,
) -> Result<View, Error> {
    let mut look = 1;
    loop {
        let before = connection.generation()?;
        let view = read(connection, family, name, wanted)?;
        if look == LOOKS || connection.generation()? == before {
            return Ok(view);
        }
        look += 1;
    }
}

fn read(
    connection: &mut Connection,
    family: IpFamily,
    name: &TableName,
    wanted: Wanted<'_>,
) -> Result<View, Error> {
    let there: BTreeSet<String> = connection
        .sets(name)?
        .into_iter()
        .map(|set| set.map_or_else(|name| name, |set| set.name))
        .collect();
    let timeouts = there.iter().filter_map(|name| SetId::timeout_of(name));
    let sets = SetId::all(&timeouts.collect(), true);
    let mut reader = Reader {
        connection,
        name,
        family,
        frontends: BTreeMap::new(),
        rooms: BTreeMap::new(),
        few: false,
        exclusive: BTreeSet::new(),
        own: BTreeSet::new(),
        remembered: BTreeMap::new(),
    };
    // What is looked for in a set depends on those before.
    for stage in Stage::ALL {
        for set in sets.iter().filter(|set| stage.has(**set)) {
            if there.contains(&*set.name()) {
                reader.read(stage, *set, wanted)?;
            }
        }
    }
    let mut view = reader.view();
    for (rule, counts) in connection.counting_rules(name)? {
        if let Some(reason) = rule.comment {
            *view.turned_away.entry(reason).or_default() += counts.packets;
        }
    }
    Ok(view)
}

/// How a set is read, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The set that has every frontend.
    Frontends,
    /// Each element is a frontend, or its address.
    Traits,
    /// Nothing leads to the elements but some have to be looked for.
    Others,
    /// By their slots.
    Endpoints,
}

impl Stage {
    const ALL: [Stage; 4] = [
        Stage::Frontends,
        Stage::Traits,
        Stage::Others,
        Stage::Endpoints,
    ];

    fn has(self, set: SetId) -> bool {
        let stage = match set {
            SetId::Frontends => Stage::Frontends,
            SetId::ServiceAddresses
            | SetId::Sticky(_)
            | SetId::MasqueradeOutside
            | SetId::MasqueradeAll
            | SetId::MasqueradeNode
            | SetId::Restricted
            | SetId::NotAdmitted
            | SetId::Size(..)
            | SetId::Hashed(..)
            | SetId::Split
            | SetId::Traffic(_)
            | SetId::Refused
            | SetId::Dropped
            | SetId::DroppedOutside => Stage::Traits,
            SetId::Own | SetId::Affinity | SetId::Sources => Stage::Others,
            SetId::Endpoints(_) => Stage::Endpoints,
            // They say nothing that others don't.
            SetId::Pods
            | SetId::PodSources
            | SetId::Nodes
            | SetId::Hairpin
            | SetId::ServiceRanges
            | SetId::Remembered
            | SetId::Large(_) => return false,
        };
        self == stage
    }
}

struct Reader<'a> {
    connection: &'a mut Connection,
    name: &'a TableName,
    family: IpFamily,
    frontends: BTreeMap<FrontendKey, Observed>,
    /// How many slots they may have of each scope.
    rooms: BTreeMap<(FrontendKey, Scope), u32>,
    /// Whether they are few among all.
    few: bool,
    exclusive: BTreeSet<IpAddr>,
    own: BTreeSet<IpAddr>,
    remembered: BTreeMap<FrontendKey, usize>,
}

impl Reader<'_> {
    fn read(&mut self, stage: Stage, set: SetId, wanted: Wanted<'_>) -> Result<(), Error> {
        match stage {
            Stage::Frontends => {
                let all = self.connection.elements(self.name, &set.name())?;
                for element in &all {
                    let frontend = item(set, element, self.family);
                    let label = element.comment.as_deref().unwrap_or_default();
                    if let Some((frontend, _)) = frontend.filter(|(key, _)| wanted(key, label)) {
                        self.frontends
                            .insert(frontend, Observed::new(Door::External));
                        self.take(set, element);
                    }
                }
                self.few = self.frontends.len() * LISTED < all.len();
            }
            Stage::Traits if self.few => {
                let keys = self.frontends.keys();
                let runs: Vec<_> = keys.map(|key| vec![key_in(set, key)]).collect();
                self.look_up(set, runs)?;
            }
            Stage::Others if !self.needs(set) => {}
            Stage::Traits | Stage::Others => {
                for element in self.connection.elements(self.name, &set.name())? {
                    self.take(set, &element);
                }
            }
            Stage::Endpoints => {
                let SetId::Endpoints(scope) = set else {
                    return Ok(());
                };
                let rooms = self.rooms.iter().filter(|((_, of), _)| *of == scope);
                let runs = rooms.map(|((key, _), room)| slot_keys(key, *room));
                let runs: Vec<_> = runs.collect();
                self.look_up(set, runs)?;
            }
        }
        Ok(())
    }

    fn look_up(&mut self, set: SetId, runs: Vec<Vec<Bytes>>) -> Result<(), Error> {
        let mut found = Vec::new();
        let take = |element| found.push(element);
        self.connection
            .look_up(self.name, &set.name(), runs, take)?;
        found.iter().for_each(|element| self.take(set, element));
        Ok(())
    }

    /// Whether a set has anything of the frontends.
    fn needs(&self, set: SetId) -> bool {
        let mut frontends = self.frontends.values();
        if set == SetId::Affinity {
            return frontends.any(|it| it.affinity.is_some());
        }
        set != SetId::Sources || frontends.any(|it| it.sources.is_some())
    }

    fn take(&mut self, set: SetId, element: &Element) {
        match set.content() {
            Content::Addresses => {
                self.exclusive
                    .extend(address_at_start(&element.key, self.family));
            }
            // Only of its own is anything read.
            Content::Node => self.own.extend(address_at_start(&element.key, self.family)),
            Content::Kernel => {
                let frontend = remembered(element, self.family).map(|(_, frontend, _)| frontend);
                if let Some(frontend) = frontend {
                    *self.remembered.entry(frontend).or_default() += 1;
                }
            }
            Content::Frontends => {
                let Some((frontend, key)) = item(set, element, self.family) else {
                    return;
                };
                let Some(observed) = self.frontends.get_mut(&frontend) else {
                    return;
                };
                if let Some((scope, room)) = set.room() {
                    let known = self.rooms.entry((frontend, scope)).or_default();
                    *known = room.max(*known);
                }
                if let Some(label) = &element.comment {
                    observed.label = Arc::from(label.as_str());
                }
                describe(observed, set, key, element, self.family);
            }
        }
    }

    fn view(self) -> View {
        let mut frontends = self.frontends;
        for (key, frontend) in &mut frontends {
            frontend.remembered = self.remembered.get(key).copied().unwrap_or_default();
            if self.exclusive.contains(&key.address) {
                frontend.door = Door::ClusterIp;
            } else if self.own.contains(&key.address) {
                frontend.door = Door::NodePort;
            }
        }
        View {
            frontends,
            turned_away: BTreeMap::new(),
        }
    }
}

/// The frontend that an element is of, and its key.
fn item(set: SetId, element: &Element, family: IpFamily) -> Option<(FrontendKey, Bytes)> {
    let key = Bytes::new(&element.key)?;
    Some((frontend_of(&ItemKey { set, key }, family)?, key))
}

/// The key of a frontend's element in a set that has one of it.
fn key_in(set: SetId, frontend: &FrontendKey) -> Bytes {
    match set.content() {
        Content::Addresses => service_address(frontend.address).0.key,
        Content::Frontends | Content::Node | Content::Kernel => frontend_bytes(frontend),
    }
}

/// Takes in what an element says of its frontend.
fn describe(frontend: &mut Observed, set: SetId, key: Bytes, element: &Element, family: IpFamily) {
    let counts = element.counts.unwrap_or_default();
    let outside = |frontend: &mut Observed, slot: Option<(u32, Backend)>| {
        let outside = frontend
            .outside
            .get_or_insert_with(ObservedOutside::default);
        outside.backends.extend(slot);
    };
    let turned_away = |frontend: &mut Observed, reason| {
        let tally = &mut frontend.tally.turned_away;
        *tally.entry(reason).or_default() += counts.packets;
    };
    match set {
        SetId::Frontends => frontend.tally.connections = counts.packets,
        SetId::Traffic(way) => {
            let traffic = frontend.tally.traffic.get_or_insert_default();
            match way {
                Way::In => traffic.0 = volume(counts),
                Way::Out => traffic.1 = volume(counts),
            }
        }
        SetId::Refused => {
            frontend.turned_away = Some(Otherwise::Refuse);
            turned_away(frontend, Reason::NoEndpoints);
        }
        SetId::Dropped => {
            frontend.turned_away = Some(Otherwise::Drop);
            turned_away(frontend, Reason::NoLocalEndpoints);
        }
        SetId::DroppedOutside => {
            outside(frontend, None);
            turned_away(frontend, Reason::NoLocalEndpoints);
        }
        SetId::NotAdmitted => turned_away(frontend, Reason::SourceNotAdmitted),
        SetId::Endpoints(scope) => {
            let data = Bytes::new(&element.data).and_then(backend_of);
            let slot = slot_of(key).zip(data);
            match scope {
                Scope::All => frontend.backends.extend(slot),
                Scope::Local => outside(frontend, slot),
            }
        }
        SetId::Hashed(_, hash) => frontend.hash = Some(hash),
        SetId::Split => outside(frontend, None),
        SetId::Sticky(seconds) => frontend.affinity = Some(seconds),
        SetId::MasqueradeOutside => frontend.masquerade = Some(Masquerade::Outside),
        SetId::MasqueradeAll => frontend.masquerade = Some(Masquerade::All),
        SetId::MasqueradeNode => frontend.masquerade = Some(Masquerade::Node),
        SetId::Restricted => {
            frontend.sources.get_or_insert_default();
        }
        SetId::Sources => {
            let range = source_range(&element.key, &element.key_end, family);
            frontend.sources.get_or_insert_default().extend(range);
        }
        SetId::Remembered
        | SetId::Size(..)
        | SetId::Large(_)
        | SetId::Pods
        | SetId::PodSources
        | SetId::Nodes
        | SetId::Own
        | SetId::Hairpin
        | SetId::ServiceAddresses
        | SetId::ServiceRanges
        | SetId::Affinity => {}
    }
}

fn volume(counts: Counts) -> Volume {
    Volume {
        packets: counts.packets,
        bytes: counts.bytes,
    }
}

/// The range whose first and last address stand at the end of two keys.
fn source_range(first: &[u8], last: &[u8], family: IpFamily) -> Option<IpNet> {
    let length = usize::from(family.words()) * 4;
    let end = |key: &'_ [u8]| key.len().checked_sub(length);
    range(first.get(end(first)?..)?, last.get(end(last)?..)?)
}

/// The range from an address to another. Ranges are written that have a length in bits.
pub(super) fn range(first: &[u8], last: &[u8]) -> Option<IpNet> {
    let (address, bits) = match (first.len(), last.len()) {
        (4, 4) => {
            let number = |bytes: &[u8]| bytes.first_chunk().map(|b| u32::from_be_bytes(*b));
            let (first, last) = (number(first)?, number(last)?);
            let bits = (first ^ last).leading_zeros();
            (IpAddr::from(Ipv4Addr::from(first)), bits)
        }
        (16, 16) => {
            let number = |bytes: &[u8]| bytes.first_chunk().map(|b| u128::from_be_bytes(*b));
            let (first, last) = (number(first)?, number(last)?);
            let bits = (first ^ last).leading_zeros();
            (IpAddr::from(Ipv6Addr::from(first)), bits)
        }
        _ => return None,
    };
    IpNet::new(address, bits as u8).ok()
}
