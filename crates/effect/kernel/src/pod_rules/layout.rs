//! The tables: chains, rules, and what sets there are.

use weft_desired::{IpFamily, mark};
use weft_sys::nft::{
    BitOperation, ChainKind, DataType, Expression, Family, Hook, MetaKey, PayloadBase, Register,
    Verdict,
};

use super::item::{INSIDE, LEAVING, LINKS, Place, SOURCES, SOURCES_V6};
use crate::expression::{SOURCE_V4, SOURCE_V6, destination_port, lookup};
use crate::plugin_table::{PluginTable, address_type, source};

/// NF_IP_PRI_RAW (`include/uapi/linux/netfilter_ipv4.h`).
const BEFORE_CONNTRACK: i32 = -300;
/// Right after the agent's.
const AFTER_SERVICES: i32 = 101;

pub(super) fn layout(place: Place) -> PluginTable {
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

fn width(family: IpFamily) -> usize {
    match family {
        IpFamily::V4 => 4,
        IpFamily::V6 => 16,
    }
}
