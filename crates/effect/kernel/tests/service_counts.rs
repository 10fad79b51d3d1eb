//! What the table counts, and what is read back of it, driven with real packets.
//!
//! A `node` with two pods and an `outside` host that sends what is for Services to it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use weft_desired::{
    Backend, Door, Entry, Frontend, FrontendKey, LocalDetection, Masquerade, NodeNat, Observed,
    Origin, Otherwise, Outside, Protocol, Reason, SocketKey, Table, View, mark,
};
use weft_kernel::service::{IpFamily, ServiceTable, view};
use weft_netlab::probe::{self, Outcome, TcpEcho};
use weft_netlab::{Namespace, link};
use weft_sys::nft::{Batch, Connection, Expression, Family, Rule, TableName, Verdict};

const PATIENCE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_millis(300);

struct Lab {
    node: Namespace,
    pods: Vec<Namespace>,
    outside: Namespace,
    _servers: Vec<TcpEcho>,
}

impl Lab {
    fn new() -> Self {
        let node = Namespace::new("node").unwrap();
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            node.set_sysctl(key, "1").unwrap();
        }
        let mut servers = Vec::new();
        let mut pods = Vec::new();
        for number in 1..=2 {
            let pod = Namespace::new(&format!("pod-{number}")).unwrap();
            let host = format!("pod{number}");
            link::veth(&pod, "eth0", &node, &host).unwrap();
            for (network, length, all) in [
                (format!("10.244.{number}."), 24, "0.0.0.0/0"),
                (format!("fd00:10:244:{number}::"), 64, "::/0"),
            ] {
                link::address(&node, &host, &format!("{network}1/{length}")).unwrap();
                link::address(&pod, "eth0", &format!("{network}2/{length}")).unwrap();
                link::route(&pod, all, &format!("{network}1")).unwrap();
            }
            for family in 0..2 {
                let at = SocketAddr::new(pod_address(family, number), 8080).to_string();
                servers.push(TcpEcho::start(&pod, &at).unwrap());
            }
            pods.push(pod);
        }
        let outside = Namespace::new("outside").unwrap();
        link::veth(&outside, "eth0", &node, "eth0").unwrap();
        for (network, length, all) in [
            ("172.30.0.", 24, "0.0.0.0/0"),
            ("fd00:172:30::", 64, "::/0"),
        ] {
            link::address(&node, "eth0", &format!("{network}11/{length}")).unwrap();
            link::address(&outside, "eth0", &format!("{network}2/{length}")).unwrap();
            link::route(&node, all, &format!("{network}2")).unwrap();
        }
        for (range, via) in [
            ("10.96.0.0/12", "172.30.0.11"),
            ("203.0.113.0/24", "172.30.0.11"),
            ("fd00:10:96::/112", "fd00:172:30::11"),
        ] {
            link::route(&outside, range, via).unwrap();
        }
        Self {
            node,
            pods,
            outside,
            _servers: servers,
        }
    }

    fn nft(&self) -> Connection {
        Connection::in_namespace(self.node.as_fd()).unwrap()
    }

    fn adopt(&self) -> ServiceTable {
        ServiceTable::adopt(self.nft(), &IpFamily::BOTH).unwrap()
    }

    fn view(&self) -> View {
        view(&mut self.nft(), &IpFamily::BOTH).unwrap().unwrap()
    }

    fn seen(&self, key: &FrontendKey) -> Observed {
        self.view().frontends.remove(key).unwrap()
    }

    fn connect(&self, from: &Namespace, to: &FrontendKey, times: usize) {
        for _ in 0..times {
            let outcome = probe::tcp(from, socket(to), PATIENCE).unwrap();
            assert!(outcome.answer().is_some(), "{to}: {outcome:?}");
        }
    }
}

fn pod_address(family: usize, number: u8) -> IpAddr {
    match family {
        0 => IpAddr::from([10, 244, number, 2]),
        _ => format!("fd00:10:244:{number}::2").parse().unwrap(),
    }
}

fn key(address: &str) -> FrontendKey {
    SocketKey {
        address: address.parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 80,
    }
}

fn socket(key: &FrontendKey) -> SocketAddr {
    SocketAddr::new(key.address, key.port)
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn nat() -> NodeNat {
    NodeNat {
        pod_ranges: nets(&["10.244.0.0/16", "fd00:10:244::/56"]),
        service_ranges: nets(&["10.96.0.0/12", "fd00:10:96::/112"]),
        own_addresses: ["172.30.0.11", "fd00:172:30::11"]
            .map(|address| address.parse().unwrap())
            .into(),
        local: LocalDetection::Ranges(nets(&["10.244.0.0/16", "fd00:10:244::/56"])),
        // A pod that reaches itself through a Service is masqueraded.
        local_pods: (1..=2)
            .flat_map(|number| [0, 1].map(|family| pod_address(family, number)))
            .map(|address| (address, "default/pod".into()))
            .collect(),
        ..NodeNat::default()
    }
}

fn backends(family: usize, pods: &[u8]) -> BTreeSet<Backend> {
    let backend = |number: &u8| Backend {
        address: pod_address(family, *number),
        port: 8080,
    };
    pods.iter().map(backend).collect()
}

fn frontend(label: &str, family: usize, pods: &[u8]) -> Frontend {
    Frontend::new(label.into(), backends(family, pods))
}

fn table(frontends: &[(FrontendKey, Frontend)]) -> Table<FrontendKey, Frontend> {
    let entry = |value: &Frontend| Entry {
        value: value.clone(),
        origin: Origin {
            kind: "Service",
            namespace: "default".into(),
            name: "web".into(),
            generation: 1,
        },
    };
    frontends
        .iter()
        .map(|(key, value)| (*key, entry(value)))
        .collect()
}

const V4: &str = "10.96.0.10";
const V6: &str = "fd00:10:96::10";

#[test]
fn connections_stay_counted_whatever_becomes_of_endpoints_and_agents() {
    let lab = Lab::new();
    let both = |pods: &[u8]| {
        table(&[
            (key(V4), frontend("default/web:http", 0, pods)),
            (key(V6), frontend("default/web:http", 1, pods)),
        ])
    };
    let mut desired = both(&[1]);
    let mut services = lab.adopt();
    services.reconcile(&desired, &nat()).unwrap();
    let mut expected = 0;
    let mut count = |lab: &Lab, why: &str| {
        for address in [V4, V6] {
            let seen = lab.seen(&key(address));
            assert_eq!(seen.tally.connections, expected, "{why}, {address}");
            lab.connect(&lab.pods[0], &key(address), 2);
            lab.connect(&lab.outside, &key(address), 1);
            let seen = lab.seen(&key(address));
            assert_eq!(seen.tally.connections, expected + 3, "{why}, {address}");
        }
        expected += 3;
    };
    count(&lab, "at first");
    for pods in [&[1, 2][..], &[2], &[], &[1]] {
        desired = both(pods);
        let changes = desired.iter();
        let changes = changes.map(|(key, entry)| (*key, Some(&entry.value)));
        services.apply(changes).unwrap();
        if pods.is_empty() {
            let refused = probe::tcp(&lab.pods[0], socket(&key(V4)), PATIENCE).unwrap();
            assert_eq!(refused, Outcome::Refused);
        } else {
            count(&lab, "endpoints changed");
        }
    }
    drop(services);
    services = lab.adopt();
    let report = services.reconcile(&desired, &nat()).unwrap();
    assert_eq!(report.elements, 0, "{report:?}");
    count(&lab, "another agent");
    drop(services);

    // Another layout: all of the table is written anew.
    let mut other = lab.nft();
    for family in [Family::V4, Family::V6] {
        let mut batch = Batch::new();
        let rule = Rule {
            chain: "pick".into(),
            expressions: vec![Expression::Verdict(Verdict::Return)],
            comment: None,
        };
        batch.add_rule(&TableName::new(family, mark::TABLE), &rule);
        other.commit(batch).unwrap();
    }
    services = lab.adopt();
    let report = services.reconcile(&desired, &nat()).unwrap();
    assert_eq!(report.rebuilt.len(), 2, "{report:?}");
    count(&lab, "another layout");
}

#[test]
fn who_is_turned_away_is_counted_by_service_and_reason() {
    let lab = Lab::new();
    let restricted = Frontend {
        sources: Some(Arc::new(nets(&["10.244.1.0/24", "192.0.2.0/24"]))),
        exclusive: false,
        ..frontend("shop/balanced", 0, &[1, 2])
    };
    let local = Frontend {
        outside: Some(Outside {
            backends: Arc::default(),
            otherwise: Otherwise::Drop,
        }),
        masquerade: Masquerade::Node,
        affinity: Some(600),
        exclusive: false,
        ..frontend("shop/local:http", 0, &[1, 2])
    };
    let (empty, balanced) = (key("10.96.0.11"), key("203.0.113.7"));
    let node_port = SocketKey {
        port: 30080,
        ..key("172.30.0.11")
    };
    let dropped = key("203.0.113.8");
    let nobody_here = Frontend {
        otherwise: Otherwise::Drop,
        exclusive: false,
        ..frontend("shop/elsewhere", 0, &[])
    };
    let desired = table(&[
        (empty, frontend("shop/empty", 0, &[])),
        (balanced, restricted),
        (node_port, local.clone()),
        (dropped, nobody_here),
    ]);
    let mut services = lab.adopt();
    services.reconcile(&desired, &nat()).unwrap();

    let silence = |from: &Namespace, to: &FrontendKey| {
        let outcome = probe::tcp(from, socket(to), SILENCE).unwrap();
        assert_eq!(outcome, Outcome::TimedOut, "{to}");
    };
    for _ in 0..3 {
        let refused = probe::tcp(&lab.pods[0], socket(&empty), PATIENCE).unwrap();
        assert_eq!(refused, Outcome::Refused);
    }
    silence(&lab.pods[1], &balanced);
    lab.connect(&lab.pods[0], &balanced, 2);
    silence(&lab.outside, &node_port);
    lab.connect(&lab.pods[0], &node_port, 1);
    silence(&lab.pods[0], &dropped);
    let closed = SocketKey { port: 81, ..empty };
    let refused = probe::tcp(&lab.pods[0], socket(&closed), PATIENCE).unwrap();
    assert_eq!(refused, Outcome::Refused);

    let seen = lab.seen(&empty);
    assert_eq!(seen.tally.turned_away, [(Reason::NoEndpoints, 3)].into());
    assert_eq!(seen.turned_away, Some(Otherwise::Refuse));
    assert_eq!((&*seen.label, seen.door), ("shop/empty", Door::ClusterIp));

    let seen = lab.seen(&balanced);
    // A client that hears nothing tries again: once at least.
    assert!(seen.tally.turned_away[&Reason::SourceNotAdmitted] >= 1);
    assert_eq!(seen.tally.turned_away.len(), 1);
    assert_eq!(seen.tally.connections, 2);
    let sources: BTreeSet<IpNet> = seen.sources.clone().unwrap().into_iter().collect();
    assert_eq!(sources, nets(&["10.244.1.0/24", "192.0.2.0/24"]));
    assert_eq!(seen.door, Door::External);
    let slots: BTreeSet<Backend> = seen.backends.values().copied().collect();
    assert_eq!(slots, backends(0, &[1, 2]));
    assert_eq!(seen.backends.keys().copied().collect::<Vec<_>>(), [0, 1]);

    let seen = lab.seen(&node_port);
    assert!(seen.tally.turned_away[&Reason::NoLocalEndpoints] >= 1);
    assert_eq!(seen.tally.connections, 1);
    assert_eq!(seen.door, Door::NodePort);
    assert_eq!((seen.affinity, seen.remembered), (Some(600), 1));
    assert_eq!(seen.masquerade, Some(Masquerade::Node));
    assert!(
        seen.outside
            .is_some_and(|outside| outside.backends.is_empty())
    );

    // What clients beyond the cluster are given apart counts as well, and once.
    let here = Frontend {
        outside: Some(Outside {
            backends: Arc::new(backends(0, &[1])),
            otherwise: Otherwise::Drop,
        }),
        ..local
    };
    services.apply([(node_port, Some(&here))]).unwrap();
    lab.connect(&lab.outside, &node_port, 2);
    lab.connect(&lab.pods[0], &node_port, 1);
    assert_eq!(lab.seen(&node_port).tally.connections, 4);

    let seen = lab.seen(&dropped);
    assert!(seen.tally.turned_away[&Reason::NoLocalEndpoints] >= 1);
    assert_eq!(seen.turned_away, Some(Otherwise::Drop));

    let all = lab.view().turned_away;
    assert_eq!(all["Service without endpoints"], 3, "{all:?}");
    assert_eq!(all["no such port of the Service"], 1, "{all:?}");
    assert!(all["a source that loadBalancerSourceRanges does not admit"] >= 1);
}

#[test]
fn bytes_are_counted_in_both_directions_once_it_is_asked_for() {
    let lab = Lab::new();
    let desired = table(&[
        (key(V4), frontend("default/web:http", 0, &[2])),
        (key(V6), frontend("default/web:http", 1, &[2])),
    ]);
    let mut services = lab.adopt();
    services.reconcile(&desired, &nat()).unwrap();
    lab.connect(&lab.pods[0], &key(V4), 5);
    assert_eq!(lab.seen(&key(V4)).tally.traffic, None);

    services.count_traffic(true);
    let report = services.reconcile(&desired, &nat()).unwrap();
    assert_eq!(report.rebuilt.len(), 2, "{report:?}");
    let before = lab.seen(&key(V4)).tally;
    assert_eq!(before.connections, 5);
    assert_eq!(before.traffic.unwrap().0.packets, 0);
    for address in [V4, V6] {
        for from in [&lab.pods[0], &lab.node, &lab.outside] {
            let before = lab.seen(&key(address)).tally.traffic.unwrap();
            lab.connect(from, &key(address), 1);
            let after = lab.seen(&key(address)).tally.traffic.unwrap();
            // SYN, ACK, the data, its end; and SYN ACK, the answer, its end: each seen once.
            for (before, after) in [(before.0, after.0), (before.1, after.1)] {
                let packets = after.packets - before.packets;
                assert!((2..=8).contains(&packets), "{}: {packets}", from.name());
                assert!(after.bytes - before.bytes >= 40 * packets);
            }
        }
    }
    let listing = lab.node.output("nft", ["list", "table", "ip", "weft"]);
    let listing = listing.unwrap();
    assert!(listing.contains("ct direction original"), "{listing}");
    // An endpoint that changes takes nothing away.
    let more = table(&[(key(V4), frontend("default/web:http", 0, &[1, 2]))]);
    let changes = more.iter().map(|(key, entry)| (*key, Some(&entry.value)));
    let before = lab.seen(&key(V4)).tally;
    services.apply(changes).unwrap();
    assert_eq!(lab.seen(&key(V4)).tally, before);
}

#[test]
fn where_no_table_is_there_is_no_view() {
    let node = Namespace::new("node").unwrap();
    let mut connection = Connection::in_namespace(node.as_fd()).unwrap();
    let seen = view(&mut connection, &IpFamily::BOTH).unwrap();
    assert_eq!(seen, None);
}
