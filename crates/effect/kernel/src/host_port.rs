//! Ports of the node that lead to pods on it (`hostPort`): a table of their own in each family.
//!
//! Rules are constant, a port is one element of a map. The CNI plugin writes elements, several
//! processes at a time; whoever finds the rules wanting writes all of them anew in one
//! transaction, which gives the same table however often it is done.
//!
//! ```text
//! -110 prerouting           127.0.0.0/8, from another device, new        dropped
//!  -99 prerouting, output   daddr . l4proto . th dport @ports            dnat
//!   99 postrouting          translated, saddr . daddr @hairpin           masquerade
//!                           translated, from 127.0.0.0/8                 masquerade
//! ```
//!
//! The translation comes after that of Services: a connection is translated once.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use weft_desired::{HostPort, IpFamily, Protocol, SocketKey, mark};
use weft_sys::conntrack::Conntrack;
use weft_sys::netlink;
use weft_sys::nft::{
    Batch, BitOperation, ChainKind, Connection, CtKey, DataType, ElementRef, Expression, Hook,
    MetaKey, NatKind, PayloadBase, Register, Verdict,
};

use crate::expression::{
    DESTINATION_V4, SOURCE_V4, any_bit, destination_port, device_name, lookup, octets, translated,
};
use crate::flow;
use crate::plugin_table::{PluginTable, name_of};
use crate::sysctl::{self, Scope, Setting};

/// Ports of the node to addresses and ports of pods.
const PORTS: &str = "ports";
/// Pods with ports, each with itself.
const HAIRPIN: &str = "hairpin";
/// LOOPBACK_IFNAME; what comes in through it was sent by the node itself.
const LOOPBACK: &str = "lo";

/// What can go wrong with ports of the node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// nf_tables.
    #[error("nf_tables: {0}")]
    Kernel(#[from] netlink::Error),
    /// A setting of the node.
    #[error(transparent)]
    Setting(#[from] sysctl::Error),
}

/// Makes the ports of one pod exactly these. `link` is its link's end on the node. A client that
/// talked to a port by UDP is translated anew when that leads elsewhere.
///
/// # Errors
/// [`Error`]; a family has all of its ports or those from before.
pub fn set(
    connection: &mut Connection,
    ports: &[HostPort],
    pods: &[IpAddr],
    link: &str,
) -> Result<(), Error> {
    let mut changed = Vec::new();
    for family in IpFamily::BOTH {
        let wanted: Vec<&HostPort> = ports.iter().filter(|port| family.has(port.pod)).collect();
        let pods: Vec<IpAddr> = pods
            .iter()
            .copied()
            .filter(|pod| family.has(*pod))
            .collect();
        let layout = layout(family);
        let there = layout.exists(connection)?;
        if wanted.is_empty() && !there {
            continue;
        }
        let mut batch = Batch::new();
        if !wanted.is_empty() && !layout.holds(connection)? {
            layout.write(&mut batch);
        }
        let keys = replace(connection, &mut batch, &layout, there, &wanted, &pods)?;
        if !batch.is_empty() {
            connection.commit(batch)?;
        }
        changed.extend(keys.iter().filter_map(|key| port_of(key)));
    }
    end_stale(&changed, ports)?;
    if ports
        .iter()
        .any(|port| port.node.address.is_loopback() && port.pod.is_ipv4())
    {
        // The answers of a pod to the node's own loopback address come in by its link.
        sysctl::set(Setting::RouteLocalnet(Scope::Link(link), true))?;
    }
    Ok(())
}

/// Whether a port leads to one of these pods, without a look at those of others.
///
/// # Errors
/// [`Error::Kernel`].
pub fn any_leads_to(connection: &mut Connection, pods: &[IpAddr]) -> Result<bool, Error> {
    let mut found = Vec::new();
    for family in IpFamily::BOTH {
        let table = name_of(family, mark::HOST_PORTS);
        let pods = pods.iter().filter(|pod| family.has(**pod));
        found.extend(pods.map(|pod| (table.clone(), itself(&octets(*pod)))));
    }
    let elements: Vec<_> = found
        .iter()
        .map(|(table, key)| (table, HAIRPIN, key.as_slice()))
        .collect();
    Ok(connection.any_stands(&elements)?)
}

/// Ends connections by UDP to ports that led elsewhere: their packets would go on to there.
fn end_stale(changed: &[SocketKey], ports: &[HostPort]) -> Result<(), Error> {
    let mut datagrams = changed.iter().filter(|key| key.protocol == Protocol::Udp);
    let Some(first) = datagrams.next() else {
        return Ok(());
    };
    let mut conntrack = Conntrack::open()?;
    for key in [first].into_iter().chain(datagrams) {
        let leads = ports.iter().find(|port| port.node == *key);
        let leads = leads.map(|port| SocketAddr::new(port.pod, port.port));
        flow::end_others(&mut conntrack, *key, leads)?;
    }
    Ok(())
}

/// Which of the ports do not lead where they should.
///
/// # Errors
/// [`Error`].
pub fn missing(ports: &[HostPort]) -> Result<Vec<HostPort>, Error> {
    let mut connection = Connection::open()?;
    let mut missing = Vec::new();
    for family in IpFamily::BOTH {
        let wanted: Vec<&HostPort> = ports.iter().filter(|port| family.has(port.pod)).collect();
        if wanted.is_empty() {
            continue;
        }
        let layout = layout(family);
        let whole = layout.exists(&mut connection)? && layout.holds(&mut connection)?;
        let elements = if whole {
            connection.elements(&layout.name, PORTS)?
        } else {
            Vec::new()
        };
        let held = |port: &HostPort| {
            let mut elements = elements.iter();
            elements.any(|one| one.key == key(port) && one.data == data(port))
        };
        missing.extend(wanted.into_iter().filter(|port| !held(port)));
    }
    Ok(missing)
}

/// Removes what leads to these pods and is not wanted, and whatever else stands in the way of
/// what is; adds the rest. Returns the keys of both.
fn replace(
    connection: &mut Connection,
    batch: &mut Batch,
    layout: &PluginTable,
    there: bool,
    wanted: &[&HostPort],
    pods: &[IpAddr],
) -> Result<BTreeSet<Vec<u8>>, Error> {
    let table = &layout.name;
    let (ports, hairpin) = if there {
        let sets = connection.sets(table)?;
        let has = |name: &str| sets.iter().flatten().any(|set| set.name == name);
        let (has_ports, has_hairpin) = (has(PORTS), has(HAIRPIN));
        let mut read = |has: bool, name| match has {
            true => connection.elements(table, name),
            false => Ok(Vec::new()),
        };
        (read(has_ports, PORTS)?, read(has_hairpin, HAIRPIN)?)
    } else {
        (Vec::new(), Vec::new())
    };
    let own: BTreeSet<Vec<u8>> = pods.iter().map(|pod| octets(*pod)).collect();
    let stands: Vec<Vec<u8>> = wanted.iter().map(|port| key(port)).collect();
    let mut kept = BTreeSet::new();
    let mut changed = BTreeSet::new();
    for element in &ports {
        let leads_here = own.iter().any(|pod| element.data.starts_with(pod));
        let right = wanted
            .iter()
            .any(|port| element.key == key(port) && element.data == data(port));
        if right {
            kept.insert(element.key.clone());
        } else if leads_here || stands.contains(&element.key) {
            batch.delete_element(table, PORTS, of_key(&element.key));
            changed.insert(element.key.clone());
        }
    }
    for port in wanted.iter().filter(|port| !kept.contains(&key(port))) {
        let (key, data) = (key(port), data(port));
        let element = ElementRef {
            key: &key,
            data: &data,
            ..ElementRef::default()
        };
        batch.add_element(table, PORTS, element);
        changed.insert(key);
    }
    for pod in &own {
        let itself = itself(pod);
        let known = hairpin.iter().any(|element| element.key == itself);
        match (known, wanted.is_empty()) {
            (false, false) => batch.add_element(table, HAIRPIN, of_key(&itself)),
            (true, true) => batch.delete_element(table, HAIRPIN, of_key(&itself)),
            (true, false) | (false, true) => {}
        }
    }
    Ok(changed)
}

/// The key of a pod in the set of those with ports.
fn itself(pod: &[u8]) -> Vec<u8> {
    [pod, pod].concat()
}

fn of_key(key: &[u8]) -> ElementRef<'_> {
    ElementRef {
        key,
        ..ElementRef::default()
    }
}

/// A port, filled up to a word.
fn word(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn key(port: &HostPort) -> Vec<u8> {
    let mut key = octets(port.node.address);
    key.extend([port.node.protocol.number(), 0, 0, 0]);
    key.extend(word(port.node.port));
    key
}

/// What [`key`] was made of.
fn port_of(key: &[u8]) -> Option<SocketKey> {
    let (address, rest) = match key.len() {
        12 => (IpAddr::from(*key.first_chunk::<4>()?), key.get(4..)?),
        24 => (IpAddr::from(*key.first_chunk::<16>()?), key.get(16..)?),
        _ => return None,
    };
    let [protocol, _, _, _, high, low, ..] = *rest else {
        return None;
    };
    Some(SocketKey {
        address,
        protocol: Protocol::from_number(protocol)?,
        port: u16::from_be_bytes([high, low]),
    })
}

fn data(port: &HostPort) -> Vec<u8> {
    let mut data = octets(port.pod);
    data.extend(word(port.port));
    data
}

/// A family's table.
fn layout(family: IpFamily) -> PluginTable {
    let mut table = PluginTable::new(name_of(family, mark::HOST_PORTS));
    let address = table.address_type();
    table.set(
        PORTS,
        &[address, DataType::Protocol, DataType::Port],
        &[address, DataType::Port],
    );
    table.set(HAIRPIN, &[address, address], &[]);
    if family == IpFamily::V4 {
        guard(&mut table);
    }
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        table.chain(name, ChainKind::Nat, hook, -99);
        table.rule(name, translate(&table));
    }
    table.chain("postrouting", ChainKind::Nat, Hook::Postrouting, 99);
    let masquerade = Expression::Masquerade { random: true };
    let hairpin = [translated(), hairpin(&table), vec![masquerade.clone()]];
    table.rule("postrouting", hairpin.concat());
    if family == IpFamily::V4 {
        let own = [translated(), loopback(SOURCE_V4), vec![masquerade]];
        table.rule("postrouting", own.concat());
    }
    table
}

/// Nobody but the node itself reaches its loopback addresses, though pods' links may carry
/// answers from them.
fn guard(table: &mut PluginTable) {
    table.chain("guard", ChainKind::Filter, Hook::Prerouting, -110);
    let elsewhere = vec![
        Expression::Meta {
            key: MetaKey::InputName,
            into: Register::word(0),
        },
        Expression::Compare {
            from: Register::word(0),
            operation: BitOperation::NotEqual,
            value: device_name(LOOPBACK),
        },
    ];
    let drop = vec![Expression::Verdict(Verdict::Drop)];
    let new = any_bit(CtKey::State, CtKey::NEW | CtKey::INVALID | CtKey::UNTRACKED);
    let guard = [elsewhere, loopback(DESTINATION_V4), new, drop];
    table.rule("guard", guard.concat());
}

fn translate(table: &PluginTable) -> Vec<Expression> {
    let words = table.words();
    vec![
        table.destination(0),
        Expression::Meta {
            key: MetaKey::Protocol,
            into: Register::word(words),
        },
        destination_port(words + 1),
        Expression::Lookup {
            set: PORTS.to_owned(),
            from: Register::word(0),
            into: Some(Register::word(0)),
            invert: false,
        },
        Expression::Nat {
            kind: NatKind::Destination,
            family: table.name.family,
            address: Register::word(0),
            port: Some(Register::word(words)),
        },
    ]
}

fn hairpin(table: &PluginTable) -> Vec<Expression> {
    vec![
        table.source(0),
        table.destination(table.words()),
        lookup(HAIRPIN, false),
    ]
}

/// Goes on if the first byte of the address is 127 (RFC 1122, section 3.2.1.3).
fn loopback(offset: u32) -> Vec<Expression> {
    vec![
        Expression::Payload {
            base: PayloadBase::Network,
            offset,
            length: 1,
            into: Register::word(0),
        },
        Expression::Compare {
            from: Register::word(0),
            operation: BitOperation::Equal,
            value: vec![127],
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_port() {
        for (address, pod) in [("172.30.0.11", "10.244.1.5"), ("fd00::11", "fd00:1::5")] {
            let port = HostPort {
                node: SocketKey {
                    address: address.parse().unwrap(),
                    protocol: Protocol::Udp,
                    port: 5353,
                },
                pod: pod.parse().unwrap(),
                port: 53,
            };
            assert_eq!(port_of(&key(&port)), Some(port.node));
        }
        assert_eq!(port_of(&[1, 2, 3]), None);
    }
}
