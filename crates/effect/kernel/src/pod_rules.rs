//! What pods may send, and as whom they leave the cluster: a table in each family.
//!
//! ```text
//! -300 prerouting    iifname . saddr @sources                            accept
//!                    0.0.0.0 asks for an address (DHCP)                  accept
//!                    fe80::/10, and ICMPv6 from ::                       accept
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
//! -300 prerouting    iifname . saddr @sources, or @sources-v6            accept
//!                    iifname . the sender of ARP @sources, or nobody     accept
//!                    the same exceptions                                 accept
//!                    iifname @links                                      counted, dropped
//! ```
//!
//! What is about a link stands under the link's name, what is about an address under the address;
//! so everything about one link of a pod is found again by the two, whatever is known besides.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_desired::{IpFamily, PodRules, mark};
use weft_sys::netlink::Error;
use weft_sys::nft::{
    Batch, BitOperation, ChainKind, Connection, DataType, Element, ElementRef, Expression, Family,
    Hook, MetaKey, PayloadBase, Register, Verdict,
};

use crate::expression::{SOURCE_V4, SOURCE_V6, destination_port, device_name, lookup, octets};
use crate::plugin_table::{PluginTable, address_type, source, until_undisturbed};

/// Links that only packets with known sources come from.
const LINKS: &str = "links";
/// Those sources.
const SOURCES: &str = "sources";
/// In the family `bridge`, those of IPv6.
const SOURCES_V6: &str = "sources-v6";
/// Addresses of pods that are masqueraded.
const LEAVING: &str = "leaving";
/// Where each of them is not.
const INSIDE: &str = "inside";

/// NF_IP_PRI_RAW (`include/uapi/linux/netfilter_ipv4.h`).
const BEFORE_CONNTRACK: i32 = -300;
/// Right after the agent's.
const AFTER_SERVICES: i32 = 101;

/// IFNAMSIZ.
const NAME_LENGTH: usize = 16;

/// Makes the rules about one link exactly these.
///
/// # Errors
/// See [`Error`]; a family has all of its rules or those from before.
pub fn set(rules: &PodRules) -> Result<(), Error> {
    let mut connection = Connection::open()?;
    for place in PLACES {
        let layout = layout(place);
        let wanted = elements(rules, place);
        if wanted.is_empty() && !layout.exists(&mut connection)? {
            continue;
        }
        until_undisturbed(|| replace(&mut connection, &layout, rules, &wanted))?;
    }
    Ok(())
}

/// Removes everything about a link and the addresses of a pod on it.
///
/// # Errors
/// See [`Error`].
pub fn clear(link: &str, addresses: &[IpAddr]) -> Result<(), Error> {
    set(&PodRules {
        link: link.into(),
        is_port: false,
        addresses: addresses.to_vec(),
        other_links: Vec::new(),
        other_addresses: Vec::new(),
        is_guarded: false,
        masquerade_beyond: None,
        comment: "".into(),
    })
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
        if !exists || !layout.holds(&mut connection)? {
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

/// How many of the tables have their chains and rules. What is in the sets is not looked at.
///
/// # Errors
/// See [`Error`].
pub fn whole() -> Result<usize, Error> {
    let mut connection = Connection::open()?;
    let mut whole = 0;
    for place in PLACES {
        let layout = layout(place);
        if layout.exists(&mut connection)? && layout.holds(&mut connection)? {
            whole += 1;
        }
    }
    Ok(whole)
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

fn replace(
    connection: &mut Connection,
    layout: &PluginTable,
    rules: &PodRules,
    wanted: &BTreeSet<Item>,
) -> Result<(), Error> {
    let mut batch = Batch::new();
    let exists = layout.exists(connection)?;
    if !exists || !layout.holds(connection)? {
        layout.write(&mut batch);
    }
    let there: BTreeSet<Item> = match exists {
        true => own(connection, layout, rules)?.into_iter().collect(),
        false => BTreeSet::new(),
    };
    for item in there.difference(wanted) {
        batch.delete_element(&layout.name, item.set, item.element(""));
    }
    for item in wanted.difference(&there) {
        batch.add_element(&layout.name, item.set, item.element(&rules.comment));
    }
    if batch.is_empty() {
        return Ok(());
    }
    connection.commit(batch)
}

/// An element of one of the sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    set: &'static str,
    key: Vec<u8>,
    key_end: Vec<u8>,
}

impl Item {
    fn of(set: &'static str, key: Vec<u8>) -> Self {
        Self {
            set,
            key,
            key_end: Vec::new(),
        }
    }

    fn element<'a>(&'a self, comment: &'a str) -> ElementRef<'a> {
        ElementRef {
            key: &self.key,
            key_end: &self.key_end,
            comment,
            ..ElementRef::default()
        }
    }

    /// The link whose name its key begins with.
    fn link(&self) -> Option<String> {
        if self.set == LEAVING || self.set == INSIDE {
            return None;
        }
        let name = self.key.get(..NAME_LENGTH)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        String::from_utf8(name[..end].to_vec()).ok()
    }

    /// The pod's address that it is about.
    fn address(&self) -> Option<IpAddr> {
        match self.set {
            LEAVING => address_of(&self.key),
            // Two of one length.
            INSIDE => address_of(self.key.get(..self.key.len() / 2)?),
            _ => address_of(self.key.get(NAME_LENGTH..)?),
        }
    }

    fn is_about(&self, rules: &PodRules) -> bool {
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

fn width(family: IpFamily) -> usize {
    match family {
        IpFamily::V4 => 4,
        IpFamily::V6 => 16,
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
enum Place {
    /// What the node routes.
    Routed(IpFamily),
    /// What comes in by ports of bridges.
    Bridged,
}

const PLACES: [Place; 3] = [
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

    fn sources_of(self, address: IpAddr) -> &'static str {
        match self {
            Place::Bridged if address.is_ipv6() => SOURCES_V6,
            Place::Bridged | Place::Routed(_) => SOURCES,
        }
    }
}

/// What the sets of a table hold for a link.
fn elements(rules: &PodRules, place: Place) -> BTreeSet<Item> {
    let addresses = |all: &[IpAddr]| -> Vec<IpAddr> {
        all.iter()
            .copied()
            .filter(|address| place.has(*address))
            .collect()
    };
    let own = addresses(&rules.addresses);
    let source = |link: &str, address: IpAddr| {
        let key = [device_name(link), octets(address)].concat();
        Item::of(place.sources_of(address), key)
    };
    let mut items = BTreeSet::new();
    if rules.is_guarded && place.tells(rules.is_port) {
        items.insert(Item::of(LINKS, device_name(&rules.link)));
        let others = addresses(&rules.other_addresses);
        let all = own.iter().chain(&others);
        items.extend(all.map(|address| source(&rules.link, *address)));
    }
    if rules.is_guarded {
        let others = rules.other_links.iter();
        for other in others.filter(|other| place.tells(other.is_port)) {
            items.extend(own.iter().map(|address| source(&other.link, *address)));
        }
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
    let sets = connection.sets(&layout.name)?;
    let mut items = Vec::new();
    for set in [LINKS, SOURCES, SOURCES_V6, LEAVING, INSIDE] {
        if !sets.iter().flatten().any(|there| there.name == set) {
            continue;
        }
        let elements = connection.elements(&layout.name, set)?;
        let elements = elements.into_iter();
        items.extend(elements.map(|Element { key, key_end, .. }| Item { set, key, key_end }));
    }
    Ok(items)
}

fn layout(place: Place) -> PluginTable {
    match place {
        Place::Routed(family) => routed(family),
        Place::Bridged => bridged(),
    }
}

/// A chain, and no word of nft's.
const OF_PODS: &str = "sources-of-pods";

/// A family's table.
fn routed(family: IpFamily) -> PluginTable {
    let mut table = PluginTable::of(family, mark::POD_RULES);
    let address = table.address_type();
    table.set(LINKS, &[DataType::InterfaceName], &[]);
    table.set(SOURCES, &[DataType::InterfaceName, address], &[]);
    table.set(LEAVING, &[address], &[]);
    table.ranges(INSIDE, &[address, address]);

    let hook = Hook::Prerouting;
    table.chain(OF_PODS, ChainKind::Filter, hook, BEFORE_CONNTRACK);
    let known = vec![
        link(),
        table.source(ADDRESS),
        lookup(SOURCES, false),
        accept(),
    ];
    table.rule(OF_PODS, known);
    for mut exception in exceptions(family) {
        exception.push(accept());
        table.rule(OF_PODS, exception);
    }
    table.rule(OF_PODS, foreign());

    let leaving = "leaving-the-cluster";
    table.chain(leaving, ChainKind::Nat, Hook::Postrouting, AFTER_SERVICES);
    let mut group = to_group(&table, family);
    group.push(accept());
    table.rule(leaving, group);
    let beyond = vec![
        table.source(0),
        lookup(LEAVING, false),
        table.source(0),
        table.destination(table.words()),
        lookup(INSIDE, true),
        Expression::Masquerade { random: true },
    ];
    table.rule(leaving, beyond);
    table
}

/// The table of what comes in by ports of bridges. What is neither IP nor ARP has no source that
/// could be known.
fn bridged() -> PluginTable {
    // Where ARP has the sender's address (RFC 826, for Ethernet and IPv4).
    const SENDER: u32 = 14;
    const ETH_P_ARP: u16 = 0x0806;
    let mut table = PluginTable::new(Family::Bridge, mark::POD_RULES);
    table.set(LINKS, &[DataType::InterfaceName], &[]);
    for (set, family) in [(SOURCES, IpFamily::V4), (SOURCES_V6, IpFamily::V6)] {
        table.set(set, &[DataType::InterfaceName, address_type(family)], &[]);
    }
    let hook = Hook::Prerouting;
    table.chain(OF_PODS, ChainKind::Filter, hook, BEFORE_CONNTRACK);
    let mut accepted = Vec::new();
    for (set, family) in [(SOURCES, IpFamily::V4), (SOURCES_V6, IpFamily::V6)] {
        let known = vec![link(), source(family, ADDRESS), lookup(set, false)];
        let is_family = ether_type(match family {
            IpFamily::V4 => 0x0800,
            IpFamily::V6 => 0x86dd,
        });
        accepted.push([is_family.clone(), known].concat());
        let exceptions = exceptions(family).into_iter();
        accepted.extend(exceptions.map(|rule| [is_family.clone(), rule].concat()));
    }
    let sender = |into| Expression::Payload {
        base: PayloadBase::Network,
        offset: SENDER,
        length: 4,
        into: Register::word(into),
    };
    let known = vec![link(), sender(ADDRESS), lookup(SOURCES, false)];
    accepted.push([ether_type(ETH_P_ARP), known].concat());
    // Who looks whether an address is somebody's (RFC 5227, section 1.1).
    let nobody = vec![sender(0), equals(vec![0; 4])];
    accepted.push([ether_type(ETH_P_ARP), nobody].concat());
    for mut rule in accepted {
        rule.push(accept());
        table.rule(OF_PODS, rule);
    }
    table.rule(OF_PODS, foreign());
    table
}

/// The word after a device's name.
const ADDRESS: u8 = 4;

fn link() -> Expression {
    Expression::Meta {
        key: MetaKey::InputName,
        into: Register::word(0),
    }
}

fn accept() -> Expression {
    Expression::Verdict(Verdict::Accept)
}

fn foreign() -> Vec<Expression> {
    vec![
        link(),
        lookup(LINKS, false),
        Expression::Counter,
        Expression::Verdict(Verdict::Drop),
    ]
}

fn ether_type(number: u16) -> Vec<Expression> {
    vec![
        Expression::Payload {
            base: PayloadBase::Link,
            offset: 12,
            length: 2,
            into: Register::word(0),
        },
        equals(number.to_be_bytes().to_vec()),
    ]
}

/// What a pod sends without an address of its own.
fn exceptions(family: IpFamily) -> Vec<Vec<Expression>> {
    match family {
        IpFamily::V4 => vec![asks_for_an_address()],
        IpFamily::V6 => vec![link_local(), speaks_to_neighbours()],
    }
}

/// DHCP: a host without an address (RFC 2131, section 4.1).
fn asks_for_an_address() -> Vec<Expression> {
    const UDP: u8 = 17;
    const SERVER: u16 = 67;
    let mut rule = source_is(SOURCE_V4, vec![0; 4]);
    rule.extend(protocol_is(UDP));
    rule.push(destination_port(0));
    rule.push(equals(SERVER.to_be_bytes().to_vec()));
    rule
}

/// The addresses of a link are nobody's beyond it, and a router hands none of them on (RFC 4291,
/// section 2.5.6). A pod that has them needs them to find its neighbours.
fn link_local() -> Vec<Expression> {
    let mut prefix = vec![0; 16];
    prefix[..2].copy_from_slice(&[0xfe, 0x80]);
    let mut mask = vec![0; 16];
    mask[..2].copy_from_slice(&[0xff, 0xc0]);
    vec![
        source_v6(),
        Expression::Bitwise {
            from: Register::word(0),
            into: Register::word(0),
            mask,
            xor: vec![0; 16],
        },
        equals(prefix),
    ]
}

/// The search for duplicates comes from an address that is none (RFC 4862, section 5.4.2).
fn speaks_to_neighbours() -> Vec<Expression> {
    const ICMPV6: u8 = 58;
    let mut rule = source_is(SOURCE_V6, vec![0; 16]);
    rule.extend(protocol_is(ICMPV6));
    rule
}

/// 224.0.0.0/4 and ff00::/8: whoever hears it answers to the address it came from.
fn to_group(table: &PluginTable, family: IpFamily) -> Vec<Expression> {
    let (first, kept) = match family {
        IpFamily::V4 => (0xe0, 0xf0),
        IpFamily::V6 => (0xff, 0xff),
    };
    let length = width(family);
    let mut prefix = vec![0; length];
    prefix[0] = first;
    let mut mask = vec![0; length];
    mask[0] = kept;
    vec![
        table.destination(0),
        Expression::Bitwise {
            from: Register::word(0),
            into: Register::word(0),
            mask,
            xor: vec![0; length],
        },
        equals(prefix),
    ]
}

fn source_v6() -> Expression {
    payload(SOURCE_V6, 16)
}

fn source_is(offset: u32, value: Vec<u8>) -> Vec<Expression> {
    let length = if value.len() == 4 { 4 } else { 16 };
    vec![payload(offset, length), equals(value)]
}

fn payload(offset: u32, length: u32) -> Expression {
    Expression::Payload {
        base: PayloadBase::Network,
        offset,
        length,
        into: Register::word(0),
    }
}

fn protocol_is(number: u8) -> [Expression; 2] {
    [
        Expression::Meta {
            key: MetaKey::Protocol,
            into: Register::word(0),
        },
        equals(vec![number]),
    ]
}

fn equals(value: Vec<u8>) -> Expression {
    Expression::Compare {
        from: Register::word(0),
        operation: BitOperation::Equal,
        value,
    }
}
