//! What the sets hold.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_desired::{IpFamily, PodRules};
use weft_sys::nft::ElementRef;

use crate::expression::{device_name, octets};

/// Links that only packets with known sources come from.
pub(super) const LINKS: &str = "links";
/// In the family `bridge`, the Ethernet address of each.
pub(super) const MACS: &str = "macs";
/// Those sources.
pub(super) const SOURCES: &str = "sources";
/// In the family `bridge`, those of IPv6.
pub(super) const SOURCES_V6: &str = "sources-v6";
/// In the family `bridge`, whom neighbours may hear from each that they have found: those of IPv6
/// again, because nft has another type for that place in a packet.
pub(super) const TARGETS: &str = "targets";
/// Addresses of pods that are masqueraded.
pub(super) const LEAVING: &str = "leaving";
/// Where each of them is not.
pub(super) const INSIDE: &str = "inside";

pub(super) const SETS: [&str; 7] = [LINKS, MACS, SOURCES, SOURCES_V6, TARGETS, LEAVING, INSIDE];

/// IFNAMSIZ.
const NAME_LENGTH: usize = 16;

/// An element of one of the sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) set: &'static str,
    pub(super) key: Vec<u8>,
    pub(super) key_end: Vec<u8>,
}

impl Item {
    fn of(set: &'static str, key: Vec<u8>) -> Self {
        Self {
            set,
            key,
            key_end: Vec::new(),
        }
    }

    pub(super) fn element<'a>(&'a self, comment: &'a str) -> ElementRef<'a> {
        ElementRef {
            key: &self.key,
            key_end: &self.key_end,
            comment,
            ..ElementRef::default()
        }
    }

    /// The link whose name its key begins with.
    pub(super) fn link(&self) -> Option<String> {
        if self.set == LEAVING || self.set == INSIDE {
            return None;
        }
        let name = self.key.get(..NAME_LENGTH)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        String::from_utf8(name[..end].to_vec()).ok()
    }

    /// The pod's address that it is about.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self.set {
            LEAVING => address_of(&self.key),
            // Two of one length.
            INSIDE => address_of(self.key.get(..self.key.len() / 2)?),
            _ => address_of(self.key.get(NAME_LENGTH..)?),
        }
    }

    pub(super) fn is_about(&self, rules: &PodRules) -> bool {
        let address = self.address();
        self.link().is_some_and(|link| *link == *rules.link)
            || address.is_some_and(|address| rules.addresses.contains(&address))
    }
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "in set {}", self.set)?;
        let half = self.key.len() / 2;
        let range = (self.set == INSIDE).then(|| (self.key.get(half..), self.key_end.get(half..)));
        let (first, last) = range.unwrap_or_default();
        let parts = [
            self.link(),
            self.address().map(|address| address.to_string()),
            first.and_then(address_of).map(|first| {
                let last = last.and_then(address_of);
                last.map_or(first.to_string(), |last| format!("{first}-{last}"))
            }),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        write!(f, " {}", parts.join(" . "))
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}

/// Where a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What the node routes.
    Routed(IpFamily),
    /// What comes in by ports of bridges.
    Bridged,
}

pub(super) const PLACES: [Place; 3] = [
    Place::Routed(IpFamily::V4),
    Place::Routed(IpFamily::V6),
    Place::Bridged,
];

impl Place {
    /// Whether packets of a link are told by it here.
    fn tells(self, is_port: bool) -> bool {
        is_port == (self == Place::Bridged)
    }

    fn has(self, address: IpAddr) -> bool {
        match self {
            Place::Routed(family) => family.has(address),
            Place::Bridged => true,
        }
    }

    /// The sets that say where an address comes from.
    fn sets_of(self, address: IpAddr) -> &'static [&'static str] {
        match self {
            Place::Bridged if address.is_ipv6() => &[SOURCES_V6, TARGETS],
            Place::Bridged | Place::Routed(_) => &[SOURCES],
        }
    }
}

/// Each part of a key takes whole words.
fn ethernet_key(link: &str, mac: [u8; 6]) -> Vec<u8> {
    [device_name(link).as_slice(), &mac, &[0; 2]].concat()
}

/// Of whatever else a table says about a link or about a pod's address, one of these is a part; but
/// for the pod's other links, which may send from the address too: what is said of one of those
/// whose record was lost stays until GC.
pub(super) fn heads(rules: &PodRules, place: Place) -> Vec<Item> {
    let mut heads = vec![Item::of(LINKS, device_name(&rules.link))];
    if let Place::Routed(family) = place {
        let own = rules.addresses.iter().filter(|own| family.has(**own));
        heads.extend(own.map(|own| Item::of(LEAVING, octets(*own))));
    }
    heads
}

/// What the sets of a table hold for a link.
pub(super) fn elements(rules: &PodRules, place: Place) -> BTreeSet<Item> {
    let addresses = |all: &[IpAddr]| -> Vec<IpAddr> {
        all.iter()
            .copied()
            .filter(|address| place.has(*address))
            .collect()
    };
    let own = addresses(&rules.addresses);
    let source = |link: &str, address: IpAddr| {
        let key = [device_name(link), octets(address)].concat();
        let sets = place.sets_of(address).iter();
        sets.map(move |set| Item::of(set, key.clone()))
    };
    let mut items = BTreeSet::new();
    if rules.is_guarded && place.tells(rules.is_port) {
        items.insert(Item::of(LINKS, device_name(&rules.link)));
        if place == Place::Bridged {
            items.insert(Item::of(MACS, ethernet_key(&rules.link, rules.mac)));
        }
        let others = addresses(&rules.other_addresses);
        let all = own.iter().chain(&others);
        items.extend(all.flat_map(|address| source(&rules.link, *address)));
    }
    let others = rules.other_links.iter();
    for other in others.filter(|other| other.is_guarded && place.tells(other.is_port)) {
        items.extend(own.iter().flat_map(|address| source(&other.link, *address)));
    }
    if let (Some(ranges), Place::Routed(family)) = (&rules.masquerade_beyond, place) {
        for address in own {
            items.insert(Item::of(LEAVING, octets(address)));
            let ranges = ranges.iter().filter(|range| family.has(range.addr()));
            items.extend(ranges.map(|range| Item {
                set: INSIDE,
                key: [octets(address), octets(range.network())].concat(),
                key_end: [octets(address), octets(range.broadcast())].concat(),
            }));
        }
    }
    items
}
