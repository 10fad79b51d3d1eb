//! Generated clusters, and the packets that meet the rules of one of their nodes: what the
//! rules of every back end are tried with, against the oracle.

mod drawn;
mod fate;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_compile::{Compiler, ProxySettings, Settings};
use weft_desired::IpFamily;
use weft_model::{Change, Cluster, NodeName, ObjectKey, Port, Protocol};
use weft_oracle::{Flow, Ranges, Sender, Verdict};

pub(crate) use self::drawn::{Endpoints, cluster};
pub(crate) use self::fate::{Fate, Rest, expected, seen};

pub(crate) const NODES: u8 = 3;
/// The node whose rules are looked at.
pub(crate) const HERE: u8 = 1;
/// Pods of a node.
pub(crate) const PODS: u8 = 4;
const SERVICES: u8 = 5;
/// What is nobody's port anywhere.
const UNKNOWN_PORT: u16 = 81;

/// An address of a family: the last 16 bits are given.
fn address(family: IpFamily, v4: [u8; 2], v6: [u16; 3], third: u8, last: u8) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::new(v4[0], v4[1], third, last).into(),
        IpFamily::V6 => {
            let [first, second, network] = v6;
            let (third, last) = (u16::from(third), u16::from(last));
            Ipv6Addr::new(first, second, network, third, 0, 0, 0, last).into()
        }
    }
}

pub(crate) fn node_name(number: u8) -> NodeName {
    format!("node-{number}").as_str().into()
}

pub(crate) fn node_address(family: IpFamily, number: u8) -> IpAddr {
    address(family, [172, 30], [0xfd00, 0x172, 0x30], 0, 10 + number)
}

/// An address that the node has beside those its object tells.
pub(crate) fn second_address(family: IpFamily) -> IpAddr {
    address(family, [192, 0], [0x2001, 0xdb8, 0x192], 2, 11)
}

fn outside_address(family: IpFamily, number: u8) -> IpAddr {
    address(family, [172, 30], [0xfd00, 0x172, 0x30], 0, 200 + number)
}

pub(crate) fn pod_address(family: IpFamily, node: u8, number: u8) -> IpAddr {
    address(family, [10, 244], [0xfd00, 0x10, 0x244], node, 1 + number)
}

pub(crate) fn pod_key(node: u8, number: u8) -> ObjectKey {
    ObjectKey::new("default", &format!("pod-{node}-{number}"))
}

fn cluster_address(family: IpFamily, number: u8) -> IpAddr {
    address(family, [10, 96], [0xfd00, 0x10, 0x96], 0, number)
}

fn external_address(family: IpFamily, number: u8) -> IpAddr {
    address(family, [198, 51], [0x2001, 0xdb8, 0x51], 100, number)
}

fn balancer_address(family: IpFamily, number: u8) -> IpAddr {
    address(family, [203, 0], [0x2001, 0xdb8, 0x113], 113, number)
}

/// The cluster's ranges.
pub(crate) fn ranges() -> Ranges {
    let nets = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).into();
    Ranges {
        pods: nets(["10.244.0.0/16", "fd00:10:244::/48"]),
        services: nets(["10.96.0.0/12", "fd00:10:96::/112"]),
    }
}

/// What [`HERE`] makes of a cluster.
pub(crate) fn compiled(changes: Vec<Change>, proxy: ProxySettings) -> Compiler {
    let mut compiler = Compiler::new(Settings {
        node: node_name(HERE),
        service_ranges: ranges().services,
        proxy,
        fabric: Default::default(),
    });
    compiler.apply_all(changes);
    let own = IpFamily::BOTH.map(|family| [node_address(family, HERE), second_address(family)]);
    compiler.set_own_addresses(own.concat().into_iter().collect());
    compiler
}

/// Who sends to [`HERE`], and with which address of the family.
fn senders(family: IpFamily) -> Vec<(Sender, IpAddr)> {
    let pod = |node, number| {
        let sender = Sender::Pod(pod_key(node, number));
        (sender, pod_address(family, node, number))
    };
    let node = |number| {
        let sender = Sender::Node(node_name(number));
        (sender, node_address(family, number))
    };
    let outside = |number| (Sender::Outside, outside_address(family, number));
    vec![
        pod(HERE, 0),
        pod(HERE, 1),
        pod(2, 0),
        node(HERE),
        node(2),
        outside(1),
        outside(2),
    ]
}

/// The first packets of connections to everything in the cluster that has to do with a
/// Service, as far as [`HERE`] is the node that translates them.
pub(crate) fn flows(cluster: &Cluster, family: IpFamily) -> Vec<Flow> {
    let mut flows = Vec::new();
    let here = node_address(family, HERE);
    for (destination, port) in destinations(cluster, family) {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            for (from, source) in senders(family) {
                let elsewhere = match &from {
                    Sender::Pod(key) => !key.name.starts_with(&format!("pod-{HERE}-")),
                    Sender::Node(name) => *name != node_name(HERE),
                    Sender::Outside => false,
                };
                if elsewhere && destination != here {
                    continue;
                }
                let comes_by = matches!(from, Sender::Outside) && destination != here;
                flows.push(Flow {
                    from,
                    source,
                    destination,
                    protocol,
                    port,
                    via: comes_by.then(|| node_name(HERE)),
                });
            }
        }
    }
    flows
}

fn destinations(cluster: &Cluster, family: IpFamily) -> BTreeSet<(IpAddr, Port)> {
    let mut found = BTreeSet::new();
    let unknown = Port::new(UNKNOWN_PORT).unwrap();
    // No Service has it.
    found.insert((cluster_address(family, SERVICES + 1), unknown));
    for service in cluster.services() {
        let own = service.cluster_ips().iter();
        let external = &service.external;
        let addresses = own
            .chain(&external.addresses)
            .chain(&external.load_balancer);
        for address in addresses.filter(|address| family.has(**address)) {
            found.insert((*address, unknown));
            found.extend(service.ports.iter().map(|port| (*address, port.port)));
        }
        let node_ports = service.ports.iter().filter_map(|port| port.node_port);
        found.extend(node_ports.map(|port| (node_address(family, HERE), port)));
    }
    found.insert((node_address(family, HERE), unknown));
    found
}

/// The device by which a packet comes to [`HERE`]; none for what it sends itself.
pub(crate) fn device(flow: &Flow) -> Option<&'static str> {
    match &flow.from {
        Sender::Node(name) if *name == node_name(HERE) => None,
        Sender::Pod(key) if key.name.starts_with(&format!("pod-{HERE}-")) => Some("weft0"),
        Sender::Pod(_) | Sender::Node(_) | Sender::Outside => Some("eth0"),
    }
}

/// Ranges that hold [`second_address`].
pub(crate) fn second_ranges() -> BTreeSet<IpNet> {
    let range = |family| match family {
        IpFamily::V4 => IpNet::new(second_address(family), 24),
        IpFamily::V6 => IpNet::new(second_address(family), 64),
    };
    IpFamily::BOTH
        .map(|family| range(family).unwrap().trunc())
        .into()
}

/// Whether the Service that a packet is for remembers its clients.
pub(crate) fn has_affinity(cluster: &Cluster, flow: &Flow) -> bool {
    let here = node_address(IpFamily::of(flow.destination), HERE);
    cluster.services().any(|service| {
        let external = &service.external;
        let own = service.cluster_ips().iter();
        let mut addresses = own
            .chain(&external.addresses)
            .chain(&external.load_balancer);
        let named = addresses.any(|address| *address == flow.destination);
        service.affinity.is_some()
            && service.ports.iter().any(|port| {
                let at_node = port.node_port == Some(flow.port) && flow.destination == here;
                port.protocol == flow.protocol && (named && port.port == flow.port || at_node)
            })
    })
}

/// A packet to the node's own address, and the same to its second one, with what must become of
/// them where node ports answer at the first and at the second.
pub(crate) fn at_both_addresses(
    flow: &Flow,
    verdict: &Verdict,
    first: bool,
    second: bool,
) -> Vec<(&'static str, Flow, BTreeSet<Fate>)> {
    let family = IpFamily::of(flow.destination);
    let is_own = matches!(&flow.from, Sender::Node(name) if *name == node_name(HERE));
    // What a node sends to itself has the address that it is sent to.
    if flow.destination != node_address(family, HERE) || is_own {
        return Vec::new();
    }
    let left_alone = BTreeSet::from([Fate::Passed {
        endpoint: None,
        masqueraded: false,
    }]);
    let expected = |answers: bool| match answers {
        true => expected(verdict, flow, Rest::Stopped),
        false => left_alone.clone(),
    };
    let other = Flow {
        destination: second_address(family),
        ..flow.clone()
    };
    vec![
        ("the first", flow.clone(), expected(first)),
        ("the second", other, expected(second)),
    ]
}

/// The same fates where everything to a Service's own address is masqueraded.
pub(crate) fn all_masqueraded(fates: BTreeSet<Fate>, flow: &Flow) -> BTreeSet<Fate> {
    let ranges = ranges().services;
    let inside = ranges.iter().any(|range| range.contains(&flow.destination));
    let here = node_address(IpFamily::of(flow.destination), HERE);
    let fates = fates.into_iter().map(|fate| match fate {
        // What stays on the node keeps its source.
        Fate::Passed {
            endpoint: Some(endpoint),
            ..
        } if inside && endpoint.address != here => Fate::Passed {
            endpoint: Some(endpoint),
            masqueraded: true,
        },
        Fate::Passed { .. } | Fate::Rejected | Fate::Dropped => fate,
    });
    fates.collect()
}

/// What sort of verdict it is.
pub(crate) fn kind(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Delivered(_) => "delivered".to_owned(),
        Verdict::Refused(_) | Verdict::Dropped(_) | Verdict::NotRouted(_) => format!("{verdict:?}"),
    }
}

/// Fails with the first few of what is wrong.
#[track_caller]
pub(crate) fn assert_none(wrong: &[String]) {
    let first: Vec<&str> = wrong.iter().take(8).map(String::as_str).collect();
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        first.join("\n")
    );
}
