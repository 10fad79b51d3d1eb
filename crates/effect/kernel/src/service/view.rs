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
use super::item::{Bytes, ItemKey, address_at_start, backend_of, frontend_of, remembered, slot_of};
use super::set::{Scope, SetId, Way};

/// How often a table is read that changes meanwhile. Then the last look is taken: each of
/// its elements was there.
const LOOKS: usize = 3;

/// What the tables of these families have; `None` if there is none.
///
/// # Errors
/// [`Error::Kernel`] if the kernel does not answer, or not to this user.
pub fn view(connection: &mut Connection, families: &[IpFamily]) -> Result<Option<View>, Error> {
    let mut all = None;
    for family in families {
        let name = family.table();
        let tables = connection.tables(name.family)?;
        if tables.iter().any(|table| table.name == name) {
            let view = steady(connection, *family, &name)?;
            all.get_or_insert_with(View::default).merge(view);
        }
    }
    Ok(all)
}

fn steady(connection: &mut Connection, family: IpFamily, name: &TableName) -> Result<View, Error> {
    let mut look = 1;
    loop {
        let before = connection.generation()?;
        let view = read(connection, family, name)?;
        if look == LOOKS || connection.generation()? == before {
            return Ok(view);
        }
        look += 1;
    }
}

fn read(connection: &mut Connection, family: IpFamily, name: &TableName) -> Result<View, Error> {
    let there: BTreeSet<String> = connection
        .sets(name)?
        .into_iter()
        .map(|set| set.map_or_else(|name| name, |set| set.name))
        .collect();
    let timeouts = there.iter().filter_map(|name| SetId::timeout_of(name));
    let mut reader = Reader {
        family,
        frontends: BTreeMap::new(),
        exclusive: BTreeSet::new(),
        own: BTreeSet::new(),
        remembered: BTreeMap::new(),
    };
    for set in SetId::all(&timeouts.collect(), true) {
        if there.contains(&*set.name()) {
            for element in connection.elements(name, &set.name())? {
                reader.take(set, &element);
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

struct Reader {
    family: IpFamily,
    frontends: BTreeMap<FrontendKey, Observed>,
    exclusive: BTreeSet<IpAddr>,
    own: BTreeSet<IpAddr>,
    remembered: BTreeMap<FrontendKey, usize>,
}

impl Reader {
    fn take(&mut self, set: SetId, element: &Element) {
        let Some(key) = Bytes::new(&element.key) else {
            return;
        };
        match set {
            SetId::ServiceAddresses => {
                self.exclusive
                    .extend(address_at_start(&element.key, self.family));
            }
            SetId::Own => self.own.extend(address_at_start(&element.key, self.family)),
            SetId::Affinity => {
                let frontend = remembered(element, self.family).map(|(_, frontend, _)| frontend);
                if let Some(frontend) = frontend {
                    *self.remembered.entry(frontend).or_default() += 1;
                }
            }
            SetId::Pods
            | SetId::PodSources
            | SetId::Nodes
            | SetId::Hairpin
            | SetId::ServiceRanges => {}
            SetId::Endpoints(_)
            | SetId::Remembered
            | SetId::Sticky(_)
            | SetId::MasqueradeOutside
            | SetId::MasqueradeAll
            | SetId::MasqueradeNode
            | SetId::Sources
            | SetId::Restricted
            | SetId::NotAdmitted
            | SetId::Size(..)
            | SetId::Large(_)
            | SetId::Hashed(..)
            | SetId::Split
            | SetId::Frontends
            | SetId::Traffic(_)
            | SetId::Refused
            | SetId::Dropped
            | SetId::DroppedOutside => {
                let Some(frontend) = frontend_of(&ItemKey { set, key }, self.family) else {
                    return;
                };
                let frontend = self
                    .frontends
                    .entry(frontend)
                    .or_insert_with(|| Observed::new(Door::External));
                if let Some(label) = &element.comment {
                    frontend.label = Arc::from(label.as_str());
                }
                describe(frontend, set, key, element, self.family);
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
