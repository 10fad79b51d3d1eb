//! The tables: chains, rules, and what sets there are.

use weft_desired::{IpFamily, mark};
use weft_sys::nft::{
    BitOperation, ChainKind, DataType, Expression, Family, Hook, MetaKey, PayloadBase, Register,
    TableName, Verdict,
};

use super::item::{INSIDE, LEAVING, LINKS, MACS, Place, SOURCES, SOURCES_V6, TARGETS};
use crate::expression::{SOURCE_V4, SOURCE_V6, begins_with, destination_port, lookup, to_group};
use crate::plugin_table::{PluginTable, address_type, name_of, source};

/// NF_IP_PRI_RAW (`include/uapi/linux/netfilter_ipv4.h`).
const BEFORE_CONNTRACK: i32 = -300;
/// Right after the agent's.
const AFTER_SERVICES: i32 = 101;

/// What the table of a place is called.
pub(super) fn table_name(place: Place) -> TableName {
    match place {
        Place::Routed(family) => name_of(family, mark::POD_RULES),
        Place::Bridged => TableName::new(Family::Bridge, mark::POD_RULES),
    }
}

pub(super) fn layout(place: Place) -> PluginTable {
    let mut table = PluginTable::new(table_name(place));
    match place {
        Place::Routed(family) => routed(&mut table, family),
        Place::Bridged => bridged(&mut table),
    }
    table
}

/// A chain, and no word of nft's.
const OF_PODS: &str = "sources-of-pods";

/// A family's table.
fn routed(table: &mut PluginTable, family: IpFamily) {
    let address = table.address_type();
    table.set(LINKS, &[DataType::InterfaceName], &[]);
    table.set(SOURCES, &[DataType::InterfaceName, address], &[]);
    table.set(LEAVING, &[address], &[]);
    table.ranges(INSIDE, &[address, address]);

    let hook = Hook::Prerouting;
    table.chain(OF_PODS, ChainKind::Filter, hook, BEFORE_CONNTRACK);
    if family == IpFamily::V6 {
        for speaks in speaks_as_router() {
            table.rule(OF_PODS, [speaks, foreign()].concat());
        }
    }
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
    let mut group = to_group(family, BitOperation::Equal);
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
}

/// The table of what comes in by ports of bridges. What is neither IP nor ARP has no source that
/// could be known.
fn bridged(table: &mut PluginTable) {
    // Where ARP has the sender's address (RFC 826, for Ethernet and IPv4).
    const SENDER: u32 = 14;
    table.set(LINKS, &[DataType::InterfaceName], &[]);
    let ethernet = [DataType::InterfaceName, DataType::EthernetAddress];
    table.set(MACS, &ethernet, &[]);
    for (set, family) in [(SOURCES, IpFamily::V4), (SOURCES_V6, IpFamily::V6)] {
        table.set(set, &[DataType::InterfaceName, address_type(family)], &[]);
    }
    let target = [DataType::InterfaceName, DataType::NeighbourTarget];
    table.set(TARGETS, &target, &[]);
    let hook = Hook::Prerouting;
    table.chain(OF_PODS, ChainKind::Filter, hook, BEFORE_CONNTRACK);
    table.rule(OF_PODS, [is_anothers_frame(), foreign()].concat());
    let lies = speaks_as_router()
        .into_iter()
        .chain([answers_for_another()]);
    for lie in lies {
        table.rule(OF_PODS, [ether_type(ETH_P_IPV6), lie, foreign()].concat());
    }
    let mut accepted = Vec::new();
    for (set, family) in [(SOURCES, IpFamily::V4), (SOURCES_V6, IpFamily::V6)] {
        let known = vec![link(), source(family, ADDRESS), lookup(set, false)];
        let is_family = ether_type(match family {
            IpFamily::V4 => ETH_P_IP,
            IpFamily::V6 => ETH_P_IPV6,
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

// `include/uapi/linux/if_ether.h`.
const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

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

/// Bridges learn from it who is where: a pod with another's address would get what is for it.
fn is_anothers_frame() -> Vec<Expression> {
    let source = Expression::Payload {
        base: PayloadBase::Link,
        offset: 6,
        length: 6,
        into: Register::word(ADDRESS),
    };
    vec![link(), source, lookup(MACS, true)]
}

/// What a pod sends without an address of its own.
fn exceptions(family: IpFamily) -> Vec<Vec<Expression>> {
    match family {
        IpFamily::V4 => vec![asks_for_an_address()],
        IpFamily::V6 => {
            let mut exceptions = speaks_without_an_address();
            exceptions.push(link_local());
            exceptions
        }
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
    is_link_local(source_v6(), BitOperation::Equal)
}

/// Compares the first bits of the address that is loaded into word 0 with fe80::/10.
fn is_link_local(address: Expression, operation: BitOperation) -> Vec<Expression> {
    let [mut mask, mut value] = [[0; 16]; 2];
    mask[..2].copy_from_slice(&[0xff, 0xc0]);
    value[..2].copy_from_slice(&[0xfe, 0x80]);
    begins_with(address, operation, mask, value)
}

/// The search for duplicates, and reports of groups while it is on, come from an address that is
/// none (RFC 4862, section 5.4.2; RFC 3590, section 4).
fn speaks_without_an_address() -> Vec<Vec<Expression>> {
    const NEIGHBOUR_SOLICITATION: u8 = 135;
    // Of both versions (RFC 2710, section 3.1; RFC 3810, section 5.2).
    const REPORTS_OF_GROUPS: [u8; 3] = [131, 132, 143];
    let types = REPORTS_OF_GROUPS
        .into_iter()
        .chain([NEIGHBOUR_SOLICITATION]);
    let rule = |kind| [source_is(SOURCE_V6, vec![0; 16]), icmpv6_is(kind)].concat();
    types.map(rule).collect()
}

/// What only routers say, whatever the address they say it from: advertisements of themselves,
/// and redirects (RFC 4861, sections 4.2 and 4.5). The pods' router is the node.
fn speaks_as_router() -> Vec<Vec<Expression>> {
    const ADVERTISEMENT: u8 = 134;
    const REDIRECT: u8 = 137;
    [ADVERTISEMENT, REDIRECT].map(icmpv6_is).to_vec()
}

/// An answer about an address that is not the port's: what a false sender is in ARP (RFC 4861,
/// section 4.4).
fn answers_for_another() -> Vec<Expression> {
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    let target = |into| Expression::Payload {
        base: PayloadBase::Transport,
        offset: 8,
        length: 16,
        into: Register::word(into),
    };
    let mut rule = icmpv6_is(NEIGHBOUR_ADVERTISEMENT);
    rule.extend(is_link_local(target(0), BitOperation::NotEqual));
    rule.extend([link(), target(ADDRESS), lookup(TARGETS, true)]);
    rule
}

fn icmpv6_is(kind: u8) -> Vec<Expression> {
    const ICMPV6: u8 = 58;
    let mut rule = protocol_is(ICMPV6).to_vec();
    rule.push(Expression::Payload {
        base: PayloadBase::Transport,
        offset: 0,
        length: 1,
        into: Register::word(0),
    });
    rule.push(equals(vec![kind]));
    rule
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
