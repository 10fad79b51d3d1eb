//! Services in nf_tables, driven with real packets.
//!
//! A `node` with three pods, each on a link and a network of its own, and an `outside`
//! host on the node network that is the node's default route.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weft_desired::{
    Backend, Entry, Frontend, FrontendKey, LocalDetection, Masquerade, NodeNat, Origin, Otherwise,
    Outside, Protocol, SocketKey, Table, mark,
};
use weft_kernel::flow;
use weft_kernel::service::{Error, IpFamily, Report, ServiceTable};
use weft_netlab::probe::{self, Answer, Outcome, TcpEcho, UdpEcho};
use weft_netlab::{Namespace, link};
use weft_sys::conntrack::Conntrack;
use weft_sys::nft::{Batch, Connection, ElementRef, Expression, Family, Rule, TableName, Verdict};

const PATIENCE: Duration = Duration::from_secs(3);
/// Long enough for an answer within one machine, short enough to wait for none.
const SILENCE: Duration = Duration::from_millis(300);

struct Lab {
    node: Namespace,
    pods: Vec<Namespace>,
    outside: Namespace,
    servers: Vec<(TcpEcho, UdpEcho)>,
}

impl Lab {
    fn new() -> Self {
        let node = Namespace::new("node").unwrap();
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            node.set_sysctl(key, "1").unwrap();
        }
        let mut servers = Vec::new();
        let pods = (1..=3)
            .map(|number| {
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
                for address in pod_addresses(number) {
                    let at = SocketAddr::new(address, 8080).to_string();
                    servers.push((
                        TcpEcho::start(&pod, &at).unwrap(),
                        UdpEcho::start(&pod, &at).unwrap(),
                    ));
                }
                pod
            })
            .collect();
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
        // A client that sends what is for Services to the node, as one in the node
        // network might.
        link::route(&outside, "10.96.0.0/12", "172.30.0.11").unwrap();
        link::route(&outside, "fd00:10:96::/112", "fd00:172:30::11").unwrap();
        for address in ["172.30.0.2:8080", "[fd00:172:30::2]:8080"] {
            servers.push((
                TcpEcho::start(&outside, address).unwrap(),
                UdpEcho::start(&outside, address).unwrap(),
            ));
        }
        Self {
            node,
            pods,
            outside,
            servers,
        }
    }

    fn adopt(&self) -> ServiceTable {
        ServiceTable::adopt(self.nft(), &IpFamily::BOTH).unwrap()
    }

    fn nft(&self) -> Connection {
        Connection::in_namespace(self.node.as_fd()).unwrap()
    }

    /// A table with these frontends.
    fn table(&self, frontends: &Table<FrontendKey, Frontend>) -> ServiceTable {
        let mut table = self.adopt();
        table.reconcile(frontends, &nat()).unwrap();
        table
    }

    fn list(&self) -> String {
        self.node.output("nft", ["-a", "list", "ruleset"]).unwrap()
    }

    /// The `node`, a pod, or `outside`.
    fn tcp(&self, from: &Namespace, to: SocketAddr) -> Outcome {
        probe::tcp(from, to, PATIENCE).unwrap()
    }
}

fn pod_addresses(number: u8) -> [IpAddr; 2] {
    [
        format!("10.244.{number}.2").parse().unwrap(),
        format!("fd00:10:244:{number}::2").parse().unwrap(),
    ]
}

fn nat() -> NodeNat {
    NodeNat {
        pod_ranges: nets(&["10.244.0.0/16", "fd00:10:244::/56"]),
        service_ranges: nets(&["10.96.0.0/12", "fd00:10:96::/112"]),
        node_addresses: own_addresses(),
        own_addresses: own_addresses(),
        local: LocalDetection::Ranges(nets(&["10.244.0.0/16", "fd00:10:244::/56"])),
        local_pods: (1..=3)
            .flat_map(|number| {
                pod_addresses(number).map(|a| (a, format!("default/pod-{number}").into()))
            })
            .collect(),
        ..NodeNat::default()
    }
}

fn own_addresses() -> BTreeSet<IpAddr> {
    ["172.30.0.11", "fd00:172:30::11"]
        .map(|address| address.parse().unwrap())
        .into()
}

fn nets<T: std::str::FromStr<Err: std::fmt::Debug> + Ord>(texts: &[&str]) -> BTreeSet<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The Service's address in each family.
fn service(number: u8) -> [IpAddr; 2] {
    [
        format!("10.96.0.{number}").parse().unwrap(),
        format!("fd00:10:96::{number}").parse().unwrap(),
    ]
}

fn key(address: IpAddr, protocol: Protocol) -> FrontendKey {
    SocketKey {
        address,
        protocol,
        port: 80,
    }
}

fn frontend(label: &str, family: usize, pods: &[u8]) -> Frontend {
    Frontend::new(
        label.into(),
        pods.iter()
            .map(|number| Backend {
                address: pod_addresses(*number)[family],
                port: 8080,
            })
            .collect(),
    )
}

fn entry(value: Frontend) -> Entry<Frontend> {
    Entry {
        value,
        origin: Origin {
            kind: "Service",
            namespace: "default".into(),
            name: "web".into(),
            generation: 1,
        },
    }
}

/// A Service with TCP and UDP at port 80 of both families.
fn frontends(services: &[(u8, &str, &[u8])]) -> Table<FrontendKey, Frontend> {
    let mut table = Table::new();
    for (number, label, pods) in services {
        for (family, address) in service(*number).into_iter().enumerate() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let value = entry(frontend(label, family, pods));
                table.insert(key(address, protocol), value);
            }
        }
    }
    table
}

fn at(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 80)
}

fn answer(outcome: Outcome) -> Answer {
    outcome
        .answer()
        .unwrap_or_else(|| panic!("no answer: {outcome:?}"))
        .clone()
}

#[test]
fn services_are_reached_from_pods_the_node_and_outside() {
    let lab = Lab::new();
    let _table = lab.table(&frontends(&[(10, "default/web:http", &[2, 3])]));
    for address in service(10) {
        for (client, masqueraded) in [
            (&lab.pods[0], false),
            (&lab.node, true),
            (&lab.outside, true),
        ] {
            let mut reached = BTreeMap::<String, usize>::new();
            for _ in 0..40 {
                let answer = answer(lab.tcp(client, at(address)));
                // A pod sees another pod's own address, and the node's for all others.
                assert_eq!(answer.is_masqueraded(), masqueraded, "{answer:?}");
                *reached.entry(answer.name).or_default() += 1;
                let outcome = probe::udp(client, at(address), PATIENCE).unwrap();
                self::answer(outcome);
            }
            // 40 draws of 2: fewer than 6 of one kind once in two million runs.
            assert_eq!(reached.len(), 2, "{reached:?}");
            assert!(reached.values().all(|count| *count >= 6), "{reached:?}");
        }
    }
    let listing = lab.list();
    for expected in [
        "default/web:http",
        "10.96.0.10 . tcp . 80 . 0x00000001",
        "goto pick-2",
        "fd00:10:96::10 . udp . 80",
    ] {
        assert!(listing.contains(expected), "{expected} in\n{listing}");
    }
    let [v4, _] = service(10);
    let counted = listing
        .lines()
        .find(|line| line.contains(&format!("{v4} . tcp . 80 counter packets 120")));
    assert!(counted.is_some(), "{listing}");
    drop(lab.servers);
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let lab = Lab::new();
    let _table = lab.table(&frontends(&[(10, "default/web", &[1])]));
    for address in service(10) {
        let tcp = answer(lab.tcp(&lab.pods[0], at(address)));
        let udp = answer(probe::udp(&lab.pods[0], at(address), PATIENCE).unwrap());
        for answer in [tcp, udp] {
            assert!(
                answer.is_masqueraded() && answer.name == "pod-1",
                "{answer:?}"
            );
        }
    }
}

#[test]
fn what_a_pod_sends_out_of_the_cluster_has_the_nodes_address() {
    let lab = Lab::new();
    let _table = lab.table(&Table::new());
    for (outside, node) in [
        ("172.30.0.2", "172.30.0.11"),
        ("fd00:172:30::2", "fd00:172:30::11"),
    ] {
        let to = SocketAddr::new(outside.parse().unwrap(), 8080);
        let answer = self::answer(lab.tcp(&lab.pods[0], to));
        assert_eq!(answer.from.ip(), node.parse::<IpAddr>().unwrap());
    }
    for address in pod_addresses(2) {
        let to = SocketAddr::new(address, 8080);
        for client in [&lab.pods[0], &lab.node, &lab.outside] {
            if client.name() == "outside" {
                let gateway = if address.is_ipv4() {
                    "172.30.0.11"
                } else {
                    "fd00:172:30::11"
                };
                let host = if address.is_ipv4() { 32 } else { 128 };
                link::route(client, &format!("{address}/{host}"), gateway).unwrap();
            }
            let answer = self::answer(lab.tcp(client, to));
            assert!(!answer.is_masqueraded(), "{answer:?}");
        }
    }
}

#[test]
fn what_is_no_service_is_refused_or_dropped() {
    let lab = Lab::new();
    let _table = lab.table(&frontends(&[
        (10, "default/web", &[2]),
        (11, "default/empty", &[]),
    ]));
    for client in [&lab.pods[0], &lab.node, &lab.outside] {
        let [v4, v6] = service(11);
        for address in [v4, v6] {
            // No endpoints.
            for _ in 0..20 {
                assert_eq!(
                    lab.tcp(client, at(address)),
                    Outcome::Refused,
                    "{}",
                    client.name()
                );
            }
            // The kernel limits how many ICMP errors it sends.
            let refused = probe::until(
                Duration::from_secs(10),
                || probe::udp(client, at(address), SILENCE),
                |outcome| *outcome != Outcome::TimedOut,
            );
            match refused.unwrap() {
                Outcome::Refused => {}
                // The node's own datagram is refused before it is sent.
                Outcome::Unreachable(_) if client.name() == "node" => {}
                Outcome::Unreachable(_)
                | Outcome::TimedOut
                | Outcome::Answered(_)
                | Outcome::Strange(_) => panic!("{}: not refused", client.name()),
            }
        }
        for address in service(10) {
            // No such port.
            let port = SocketAddr::new(address, 81);
            assert_eq!(lab.tcp(client, port), Outcome::Refused, "{}", client.name());
        }
        for address in service(12) {
            // No such Service.
            let outcome = probe::tcp(client, at(address), SILENCE).unwrap();
            assert_eq!(outcome, Outcome::TimedOut, "{}", client.name());
        }
    }
}

/// `internalTrafficPolicy: Local` on a node without an endpoint.
#[test]
fn what_has_endpoints_only_elsewhere_is_dropped() {
    let lab = Lab::new();
    let elsewhere = |pods: &[u8]| -> Table<FrontendKey, Frontend> {
        let mut table = frontends(&[(10, "default/near", pods)]);
        for entry in table.values_mut() {
            entry.value.otherwise = Otherwise::Drop;
        }
        table
    };
    let mut table = lab.table(&elsewhere(&[]));
    let silent = |client: &Namespace| {
        for address in service(10) {
            let outcome = probe::tcp(client, at(address), SILENCE).unwrap();
            assert_eq!(outcome, Outcome::TimedOut, "{}", client.name());
        }
    };
    for client in [&lab.pods[0], &lab.node, &lab.outside] {
        silent(client);
    }
    for pods in [&[2][..], &[]] {
        let now = elsewhere(pods);
        let changes = now.iter().map(|(key, entry)| (*key, Some(&entry.value)));
        table.apply(changes).unwrap();
        if pods.is_empty() {
            silent(&lab.pods[0]);
        } else {
            for address in service(10) {
                answer(lab.tcp(&lab.pods[0], at(address)));
            }
        }
        let report = table.reconcile(&now, &nat()).unwrap();
        assert_eq!(report, Report::default());
    }
}

#[test]
fn many_endpoints_share_the_connections() {
    let lab = Lab::new();
    let backends: BTreeSet<Backend> = (0..11_u16)
        .map(|n| Backend {
            address: pod_addresses(2)[0],
            port: 9000 + n,
        })
        .collect();
    let _servers: Vec<TcpEcho> = backends
        .iter()
        .map(|backend| TcpEcho::start(&lab.pods[1], &backend.to_string()).unwrap())
        .collect();
    let [v4, _] = service(10);
    let value = entry(Frontend::new("default/many".into(), backends));
    let _table = lab.table(&Table::from([(key(v4, Protocol::Tcp), value)]));
    let mut reached = BTreeMap::<u16, usize>::new();
    for _ in 0..400 {
        let answer = answer(lab.tcp(&lab.pods[0], at(v4)));
        *reached.entry(answer.to.port()).or_default() += 1;
    }
    assert_eq!(reached.len(), 11, "{reached:?}");
    // 36 expected each.
    assert!(
        reached.values().all(|count| (8..100).contains(count)),
        "{reached:?}"
    );
    assert!(lab.list().contains("goto pick-12"));
}

#[test]
fn endpoints_change_under_load_and_no_connection_fails() {
    let lab = Lab::new();
    let [v4, v6] = service(10);
    let mut table = lab.table(&frontends(&[(10, "default/web", &[1, 2, 3])]));
    let done = AtomicBool::new(false);
    let count = AtomicUsize::new(0);
    let (done, count, lab) = (&done, &count, &lab);
    let mut changes = 0;
    std::thread::scope(|scope| {
        let clients: Vec<_> = [(&lab.outside, v4), (&lab.outside, v6), (&lab.node, v4)]
            .into_iter()
            .map(|(client, address)| {
                scope.spawn(move || {
                    client
                        .run(|| {
                            while !done.load(Ordering::Relaxed) {
                                let outcome = probe::tcp_here(at(address), PATIENCE);
                                assert!(outcome.is_answered(), "{outcome:?}");
                                count.fetch_add(1, Ordering::Relaxed);
                            }
                        })
                        .unwrap();
                })
            })
            .collect();
        let sets: [&[u8]; 6] = [&[1], &[1, 2, 3], &[3], &[2, 3], &[2], &[1, 3]];
        let deadline = Instant::now() + Duration::from_secs(30);
        while count.load(Ordering::Relaxed) < 3000
            && Instant::now() < deadline
            && clients.iter().all(|client| !client.is_finished())
        {
            let pods = sets[changes % sets.len()];
            let new = [
                frontend("default/web", 0, pods),
                frontend("default/web", 1, pods),
            ];
            table
                .apply([
                    (key(v4, Protocol::Tcp), Some(&new[0])),
                    (key(v6, Protocol::Tcp), Some(&new[1])),
                ])
                .unwrap();
            changes += 1;
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    println!(
        "{changes} changes, {} connections",
        count.load(Ordering::Relaxed)
    );
    assert!(changes > 100);
}

#[test]
fn a_new_agent_takes_over_without_touching_anything() {
    let lab = Lab::new();
    let [v4, _] = service(10);
    // Longer than a comment in the kernel can be.
    let web = format!("default/{}", "w".repeat(150));
    let desired = frontends(&[(10, &web, &[1, 2]), (11, "default/old", &[3])]);
    let table = lab.table(&desired);
    let stream = lab.pods[2]
        .run(|| TcpStream::connect(at(v4)))
        .unwrap()
        .unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let before = without_counters(&lab.list());

    // Two at once: the second refuses.
    let second = ServiceTable::adopt(lab.nft(), &IpFamily::BOTH);
    assert!(matches!(second, Err(Error::Owned { .. })), "{second:?}");
    drop(table);

    let mut table = lab.adopt();
    let unsettled = table.apply([]);
    assert!(matches!(unsettled, Err(Error::Unsettled)), "{unsettled:?}");
    answer(lab.tcp(&lab.pods[2], at(v4)));

    let report = table.reconcile(&desired, &nat()).unwrap();
    assert_eq!(report, Report::default());
    assert_eq!(table.frontends().count(), 8);
    assert_same(&lab, &before);

    // Then what is not desired goes, and only that.
    let desired = frontends(&[(10, &web, &[1, 2])]);
    let report = table.reconcile(&desired, &nat()).unwrap();
    assert_eq!(report.gone.len(), 4);
    assert_eq!(table.frontends().count(), 4);
    assert!(!lab.list().contains("default/old"));

    let mut stream = stream;
    stream.write_all(b"still here\n").unwrap();
    line.clear();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "still here\n");
}

/// The listing without what packets change in it, and without handles and order.
fn without_counters(listing: &str) -> BTreeSet<String> {
    let mut chain = "";
    let mut found = BTreeSet::new();
    for line in listing.lines().flat_map(|line| line.split(", ")) {
        let line = line.split(" # ").next().unwrap_or_default();
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if let Some(start) = words.iter().position(|word| *word == "packets") {
            words.drain(start..start + 4);
        }
        words.retain(|word| !matches!(*word, "elements" | "=" | "{" | "}"));
        if let ["chain" | "set" | "map" | "table", name, ..] = words[..] {
            chain = name;
        }
        let line = words.join(" ");
        found.insert(format!("{chain}: {}", line.trim_end_matches(',')));
    }
    found
}

#[track_caller]
fn assert_same(lab: &Lab, before: &BTreeSet<String>) {
    let after = without_counters(&lab.list());
    let gone: Vec<_> = before.difference(&after).collect();
    let new: Vec<_> = after.difference(before).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "gone: {gone:#?}\nnew: {new:#?}"
    );
}

#[test]
fn what_others_changed_is_repaired() {
    let lab = Lab::new();
    let desired = frontends(&[(10, "default/web", &[1, 2, 3]), (11, "default/other", &[1])]);
    let nat = nat();
    let mut table = lab.table(&desired);
    let before = without_counters(&lab.list());
    let name = TableName::new(Family::V4, mark::TABLE);
    let mut slot = [10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0];
    let key = slot[..12].to_vec();

    // Without the owner, whose table it is.
    drop(table);
    let mut other = lab.nft();
    let mut batch = Batch::new();
    fn element(key: &[u8]) -> ElementRef<'_> {
        ElementRef {
            key,
            ..ElementRef::default()
        }
    }
    batch.delete_element(&name, "endpoints", element(&slot));
    batch.delete_element(&name, "size-3", element(&key));
    batch.add_element(&name, "size-7", element(&key));
    batch.add_element(&name, "refused", element(&key));
    slot[12..].copy_from_slice(&9_u32.to_ne_bytes());
    let data = [10, 244, 9, 9, 0, 80, 0, 0];
    let foreign = ElementRef {
        key: &slot,
        data: &data,
        ..ElementRef::default()
    };
    batch.add_element(&name, "endpoints", foreign);
    batch.delete_element(&name, "node-addresses", element(&[172, 30, 0, 11]));
    batch.flush_set(&name, "pod-ranges");
    other.commit(batch).unwrap();
    table = lab.adopt();
    let report = table.reconcile(&desired, &nat).unwrap();
    assert!(report.rebuilt.is_empty(), "{report:?}");
    assert!(report.elements >= 8, "{report:?}");
    assert_same(&lab, &before);
    drop(table);

    // Rules of another layout stay in force until all is desired is known.
    let mut batch = Batch::new();
    batch.add_rule(
        &name,
        &Rule {
            chain: "pick".into(),
            expressions: vec![Expression::Verdict(Verdict::Return)],
            comment: None,
        },
    );
    other.commit(batch).unwrap();
    table = lab.adopt();
    assert!(table.needs_reconcile());
    answer(lab.tcp(&lab.pods[0], at(service(10)[0])));
    let report = table.reconcile(&desired, &nat).unwrap();
    assert_eq!(report.rebuilt, ["ip weft: the rules of chain pick differs"]);
    assert_eq!(report.transactions, 1);
    assert_same(&lab, &before);
    drop(table);

    // A table that is gone.
    let mut batch = Batch::new();
    batch.delete_table(&name);
    other.commit(batch).unwrap();
    table = lab.adopt();
    table.reconcile(&desired, &nat).unwrap();
    assert_same(&lab, &before);
    answer(lab.tcp(&lab.pods[0], at(service(10)[0])));
}

#[test]
fn nobody_else_can_change_the_table_of_a_running_agent() {
    let lab = Lab::new();
    let desired = frontends(&[(10, "default/web", &[1])]);
    let mut table = lab.table(&desired);
    let mut batch = Batch::new();
    batch.delete_table(&TableName::new(Family::V4, mark::TABLE));
    let error = lab.nft().commit(batch).unwrap_err();
    assert_eq!(
        error.errno().map(|errno| errno.raw_os_error()),
        Some(1),
        "{error}"
    );
    lab.node.output("nft", ["flush", "ruleset"]).unwrap();
    let report = table.reconcile(&desired, &nat()).unwrap();
    assert_eq!(report, Report::default());
}

#[test]
fn changes_one_by_one_end_where_a_full_pass_ends() {
    let lab = Lab::new();
    let end = frontends(&[(10, "default/web", &[1, 3]), (12, "default/new", &[])]);
    let start = frontends(&[(10, "default/web", &[1, 2, 3]), (11, "default/old", &[2])]);
    let mut table = lab.table(&start);
    for (key, entry) in &end {
        table.apply([(*key, Some(&entry.value))]).unwrap();
    }
    for key in start.keys().filter(|key| !end.contains_key(*key)) {
        table.apply([(*key, None)]).unwrap();
    }
    let mut other = nat();
    other.node_addresses.insert("172.30.0.12".parse().unwrap());
    other.pod_ranges = nets(&["10.244.0.0/15", "fd00:10:244::/56"]);
    other.local_pods.pop_first();
    table.apply_nat(&other).unwrap();
    let report = table.reconcile(&end, &other).unwrap();
    assert_eq!(report, Report::default());
    assert!(lab.list().contains("10.244.0.0/15"));
}

#[test]
fn an_agent_restarts_under_load_and_no_connection_fails() {
    let lab = Lab::new();
    let [v4, v6] = service(10);
    let desired = frontends(&[(10, "default/web", &[1, 2])]);
    let mut table = lab.table(&desired);
    let done = AtomicBool::new(false);
    let count = AtomicUsize::new(0);
    let (done, count, lab) = (&done, &count, &lab);
    std::thread::scope(|scope| {
        for (client, address) in [(&lab.pods[2], v4), (&lab.node, v6)] {
            scope.spawn(move || {
                client
                    .run(|| {
                        while !done.load(Ordering::Relaxed) {
                            let outcome = probe::tcp_here(at(address), PATIENCE);
                            assert!(outcome.is_answered(), "{outcome:?}");
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                    .unwrap();
            });
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        for round in 1..=20 {
            drop(table);
            table = lab.adopt();
            let report = table.reconcile(&desired, &nat()).unwrap();
            assert_eq!(report, Report::default());
            while count.load(Ordering::Relaxed) < round * 40 && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(count.load(Ordering::Relaxed) >= 800);
}

#[test]
fn a_frontend_may_be_longer_than_a_transaction() {
    let node = Namespace::new("node").unwrap();
    let connection = Connection::in_namespace(node.as_fd()).unwrap();
    let mut table = ServiceTable::adopt(connection, &IpFamily::BOTH).unwrap();
    let [_, v6] = service(10);
    let key = key(v6, Protocol::Tcp);
    let of = |count: u32| {
        Frontend::new(
            "default/everywhere:http".into(),
            (0..count)
                .map(|number| Backend {
                    address: IpAddr::from((0xfd00_u128 << 112 | u128::from(number)).to_be_bytes()),
                    port: 8080,
                })
                .collect(),
        )
    };
    let desired = |count| Table::from([(key, entry(of(count)))]);
    table.reconcile(&desired(6000), &nat()).unwrap();
    for count in [3000, 7000, 0] {
        table.apply([(key, Some(&of(count)))]).unwrap();
        let report = table.reconcile(&desired(count), &nat());
        assert_eq!(report.unwrap(), Report::default());
    }
}

/// What a change costs among many Services. `cargo test … -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn the_cost_of_a_change() {
    for services in [100_u32, 10_000] {
        let node = Namespace::new("node").unwrap();
        let connection = Connection::in_namespace(node.as_fd()).unwrap();
        let mut table = ServiceTable::adopt(connection, &[IpFamily::V4]).unwrap();
        let backend = |service: u32, number: u32| Backend {
            address: IpAddr::from((0x0af4_0000 + service * 3 + number).to_be_bytes()),
            port: 8080,
        };
        let of = |service: u32, count: u32| {
            Frontend::new(
                format!("default/service-{service}:http").into(),
                (0..count).map(|number| backend(service, number)).collect(),
            )
        };
        let key = |service: u32| SocketKey {
            address: IpAddr::from((0x0a60_0000 + service).to_be_bytes()),
            protocol: Protocol::Tcp,
            port: 80,
        };
        let desired: Table<FrontendKey, Frontend> =
            (0..services).map(|s| (key(s), entry(of(s, 3)))).collect();
        let start = Instant::now();
        let report = table.reconcile(&desired, &nat()).unwrap();
        println!(
            "{services} Services: cold start {:?}, {report:?}",
            start.elapsed()
        );
        let start = Instant::now();
        table.reconcile(&desired, &nat()).unwrap();
        println!("  full pass without a difference {:?}", start.elapsed());
        for (what, count) in [("an endpoint less", 2), ("an endpoint more", 3)] {
            let mut times: Vec<Duration> = (0..1000)
                .map(|n| {
                    let service = (n * 7919) % services;
                    let new = of(service, count);
                    let start = Instant::now();
                    table.apply([(key(service), Some(&new))]).unwrap();
                    start.elapsed()
                })
                .collect();
            times.sort();
            println!("  {what}: p50 {:?}, p99 {:?}", times[500], times[990]);
        }
    }
}

/// What a node more costs among many. `cargo test … -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn the_cost_of_a_node() {
    let node = Namespace::new("node").unwrap();
    let connection = Connection::in_namespace(node.as_fd()).unwrap();
    let mut table = ServiceTable::adopt(connection, &IpFamily::BOTH).unwrap();
    // Neighbouring ranges become one; a gap keeps each for itself.
    let of = |nodes: u32| NodeNat {
        pod_ranges: (0..nodes)
            .flat_map(|n| {
                [
                    format!("10.{}.{}.0/24", n / 128, n % 128 * 2),
                    format!("fd00:10:244:{:x}::/64", n * 2),
                ]
            })
            .map(|range| range.parse().unwrap())
            .collect(),
        node_addresses: (0..nodes)
            .map(|n| IpAddr::from((0xac1e_0000 + n).to_be_bytes()))
            .collect(),
        ..nat()
    };
    table.reconcile(&Table::new(), &of(1000)).unwrap();
    let mut times: Vec<Duration> = (0..100)
        .map(|n| {
            let nat = of(1000 + (n + 1) % 2);
            let start = Instant::now();
            table.apply_nat(&nat).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("1000 nodes: p50 {:?}, p99 {:?}", times[50], times[99]);
}

/// Nodes come and go, and with them their pod ranges, next to each other or not. What
/// stands after each step is what a fresh table would have.
#[test]
fn pod_ranges_come_and_go_one_by_one() {
    let node = Namespace::new("node").unwrap();
    let connection = || Connection::in_namespace(node.as_fd()).unwrap();
    let mut table = ServiceTable::adopt(connection(), &IpFamily::BOTH).unwrap();
    let nothing = Table::new();
    table.reconcile(&nothing, &NodeNat::default()).unwrap();
    let mut present = BTreeSet::new();
    // A walk over all pairs of neighbours: each step adds or removes one of eight ranges.
    for step in 0..200_u32 {
        let number = (step * 5 + step / 8) % 8;
        if !present.insert(number) {
            present.remove(&number);
        }
        let pod_ranges = present.iter().flat_map(|number| {
            [
                format!("10.244.{number}.0/24").parse().unwrap(),
                format!("fd00:10:244:{number:x}::/64").parse().unwrap(),
            ]
        });
        let nat = NodeNat {
            pod_ranges: pod_ranges.collect(),
            ..NodeNat::default()
        };
        table.apply_nat(&nat).unwrap();
        let found = table.reconcile(&nothing, &nat).unwrap();
        assert_eq!(found.elements, 0, "step {step}: {present:?}");
    }
}

/// Both families' node addresses at a node port.
fn node_port() -> [FrontendKey; 2] {
    ["172.30.0.11", "fd00:172:30::11"].map(|address| SocketKey {
        address: address.parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 30080,
    })
}

fn socket_of(key: &FrontendKey) -> SocketAddr {
    SocketAddr::new(key.address, key.port)
}

/// Frontends at the node's addresses, changed in some way for each family.
fn at_node_ports(
    pods: &[u8],
    change: impl Fn(usize, &mut Frontend),
) -> Table<FrontendKey, Frontend> {
    let keys = node_port().into_iter().enumerate();
    keys.map(|(family, key)| {
        let mut value = Frontend {
            exclusive: false,
            masquerade: Masquerade::All,
            ..frontend("default/web:http", family, pods)
        };
        change(family, &mut value);
        (key, entry(value))
    })
    .collect()
}

fn local(family: usize, pods: &[u8]) -> Outside {
    Outside {
        backends: frontend("", family, pods).backends,
        otherwise: Otherwise::Drop,
    }
}

#[test]
fn a_node_port_answers_everybody_with_the_nodes_address() {
    let lab = Lab::new();
    let _table = lab.table(&at_node_ports(&[2, 3], |_, _| {}));
    for key in node_port() {
        for client in [&lab.pods[0], &lab.node, &lab.outside] {
            let answer = answer(lab.tcp(client, socket_of(&key)));
            assert!(answer.is_masqueraded(), "{answer:?}");
        }
        // Its other ports are the node's own affair.
        let other = SocketAddr::new(key.address, 30081);
        let server = TcpEcho::start(&lab.node, &other.to_string()).unwrap();
        answer(lab.tcp(&lab.pods[0], other));
        answer(lab.tcp(&lab.outside, other));
        drop(server);
    }
}

#[test]
fn clients_outside_get_this_nodes_endpoints_and_keep_their_address() {
    let lab = Lab::new();
    let desired = |pods: &'static [u8]| {
        at_node_ports(&[1, 2, 3], move |family, frontend| {
            frontend.outside = Some(local(family, pods));
            frontend.masquerade = Masquerade::Node;
        })
    };
    let mut table = lab.table(&desired(&[2]));
    for key in node_port() {
        for _ in 0..10 {
            let answer = answer(lab.tcp(&lab.outside, socket_of(&key)));
            assert!(
                !answer.is_masqueraded() && answer.name == "pod-2",
                "{answer:?}"
            );
        }
        for client in [&lab.pods[2], &lab.node] {
            let reached: BTreeSet<String> = (0..40)
                .map(|_| answer(lab.tcp(client, socket_of(&key))).name)
                .collect();
            assert_eq!(reached.len(), 3, "{reached:?}");
        }
    }
    // Many of them, and then none: for the others nothing changes.
    for count in [12_u8, 0] {
        let many = at_node_ports(&[1, 2, 3], |family, frontend| {
            let of = |n| Backend {
                address: pod_addresses(2)[family],
                port: 8080 + u16::from(n),
            };
            frontend.outside = Some(Outside {
                backends: std::sync::Arc::new((0..count).map(of).collect()),
                otherwise: Otherwise::Drop,
            });
            frontend.masquerade = Masquerade::Node;
        });
        let changes = many.iter().map(|(key, entry)| (*key, Some(&entry.value)));
        table.apply(changes).unwrap();
        let report = table.reconcile(&many, &nat()).unwrap();
        assert_eq!(report.elements, 0, "{report:?}");
        for key in node_port() {
            answer(lab.tcp(&lab.pods[2], socket_of(&key)));
            if count == 0 {
                let outcome = probe::tcp(&lab.outside, socket_of(&key), SILENCE).unwrap();
                assert_eq!(outcome, Outcome::TimedOut);
            }
        }
    }
}

#[test]
fn only_sources_in_the_ranges_are_admitted() {
    let lab = Lab::new();
    let desired = |admitted: [&'static str; 2]| {
        at_node_ports(&[2], move |family, frontend| {
            let nested = ["192.0.2.0/24", "2001:db8::/32"][family];
            let ranges = [admitted[family], nested].map(|range| range.parse().unwrap());
            frontend.sources = Some(std::sync::Arc::new(ranges.into()));
        })
    };
    let pods = desired(["10.244.1.0/24", "fd00:10:244:1::/64"]);
    let mut table = lab.table(&pods);
    for key in node_port() {
        answer(lab.tcp(&lab.pods[0], socket_of(&key)));
        for client in [&lab.pods[1], &lab.outside] {
            let outcome = probe::tcp(client, socket_of(&key), SILENCE).unwrap();
            assert_eq!(outcome, Outcome::TimedOut, "{}", client.name());
        }
    }
    let outside = desired(["172.30.0.0/29", "fd00:172:30::/120"]);
    let changes = outside
        .iter()
        .map(|(key, entry)| (*key, Some(&entry.value)));
    table.apply(changes).unwrap();
    for key in node_port() {
        answer(lab.tcp(&lab.outside, socket_of(&key)));
        let outcome = probe::tcp(&lab.pods[0], socket_of(&key), SILENCE).unwrap();
        assert_eq!(outcome, Outcome::TimedOut);
    }
    assert_eq!(table.reconcile(&outside, &nat()).unwrap().elements, 0);
    let listing = lab.list();
    assert!(
        listing.contains("172.30.0.11 . tcp . 30080 . 172.30.0.0/29"),
        "{listing}"
    );
}

/// The kernel takes no range that overlaps one that is there.
#[test]
fn ranges_of_sources_are_narrowed_widened_and_merged() {
    let lab = Lab::new();
    let desired = |ranges: [&'static [&'static str]; 2]| {
        at_node_ports(&[2], move |family, frontend| {
            frontend.sources = Some(std::sync::Arc::new(nets(ranges[family])));
        })
    };
    let wide: [&[&str]; 2] = [&["10.0.0.0/8"], &["fd00:10::/32"]];
    let narrow: [&[&str]; 2] = [&["10.244.1.0/24"], &["fd00:10:244:1::/64"]];
    let apart: [&[&str]; 2] = [
        &["10.0.0.0/10", "10.128.0.0/9"],
        &["fd00:10::/34", "fd00:10:8000::/33"],
    ];
    let halves: [&[&str]; 2] = [
        &["10.0.0.0/9", "10.128.0.0/9"],
        &["fd00:10::/33", "fd00:10:8000::/33"],
    ];
    let mut table = lab.table(&desired(wide));
    for (ranges, admitted) in [
        (narrow, false),
        (wide, true),
        (apart, true),
        (halves, true),
        (narrow, false),
    ] {
        let desired = desired(ranges);
        let changes = desired
            .iter()
            .map(|(key, entry)| (*key, Some(&entry.value)));
        table.apply(changes).unwrap();
        assert_eq!(table.reconcile(&desired, &nat()).unwrap().elements, 0);
        for key in node_port() {
            answer(lab.tcp(&lab.pods[0], socket_of(&key)));
            let outcome = probe::tcp(&lab.pods[2], socket_of(&key), SILENCE).unwrap();
            assert_eq!(outcome != Outcome::TimedOut, admitted, "{ranges:?}");
        }
    }
}

#[test]
fn sources_are_there_as_soon_as_there_are_endpoints() {
    let lab = Lab::new();
    let desired = |pods: &'static [u8]| {
        at_node_ports(pods, |family, frontend| {
            let range = ["10.244.1.0/24", "fd00:10:244:1::/64"][family];
            frontend.sources = Some(std::sync::Arc::new(nets(&[range])));
            frontend.affinity = Some(10_800);
        })
    };
    let mut table = lab.table(&desired(&[]));
    for pods in [&[2][..], &[], &[2]] {
        let desired = desired(pods);
        let changes = desired
            .iter()
            .map(|(key, entry)| (*key, Some(&entry.value)));
        table.apply(changes).unwrap();
        let report = table.reconcile(&desired, &nat()).unwrap();
        assert_eq!(report.elements, 0, "{pods:?}: {report:?}");
    }
    for key in node_port() {
        answer(lab.tcp(&lab.pods[0], socket_of(&key)));
    }
}

#[test]
fn a_client_keeps_its_endpoint_as_long_as_it_is_there() {
    let lab = Lab::new();
    let sticky = |pods: &[u8], seconds| {
        let mut table = frontends(&[(10, "default/web:http", pods)]);
        for entry in table.values_mut() {
            entry.value.affinity = Some(seconds);
        }
        table
    };
    let mut table = lab.table(&sticky(&[1, 2, 3], 10_800));
    let ask = |address| -> BTreeSet<String> {
        let ask = |_| answer(lab.tcp(&lab.outside, at(address))).name;
        (0..12).map(ask).collect()
    };
    let mut had = Vec::new();
    for address in service(10) {
        let reached = ask(address);
        assert_eq!(reached.len(), 1, "{reached:?}");
        had.extend(reached);
    }
    // Another agent takes over, another time comes: clients keep theirs.
    drop(table);
    table = lab.adopt();
    table
        .reconcile(&sticky(&[1, 2, 3], 10_800), &nat())
        .unwrap();
    let changed = sticky(&[1, 2, 3], 60);
    table
        .apply(
            changed
                .iter()
                .map(|(key, entry)| (*key, Some(&entry.value))),
        )
        .unwrap();
    assert_eq!(table.reconcile(&changed, &nat()).unwrap().elements, 0);
    assert_eq!(table.forget_clients().unwrap(), 0);
    for (address, had) in service(10).into_iter().zip(&had) {
        assert_eq!(ask(address), BTreeSet::from([had.clone()]));
    }
    // The endpoint goes: another takes its place, and is kept.
    let gone: u8 = had[0].trim_start_matches("pod-").parse().unwrap();
    let left: Vec<u8> = (1..=3).filter(|number| *number != gone).collect();
    let fewer = sticky(&left, 60);
    table
        .apply(fewer.iter().map(|(key, entry)| (*key, Some(&entry.value))))
        .unwrap();
    assert!(table.forget_clients().unwrap() > 0);
    for address in service(10) {
        let reached = ask(address);
        assert_eq!(reached.len(), 1, "{reached:?}");
        assert!(!reached.contains(&had[0]), "{reached:?}");
    }
}

#[test]
fn datagrams_to_an_endpoint_that_is_gone_find_another() {
    let lab = Lab::new();
    let mut table = lab.table(&frontends(&[(10, "default/web:http", &[1])]));
    let mut conntrack = Conntrack::in_namespace(lab.node.as_fd()).unwrap();
    for (family, address) in service(10).into_iter().enumerate() {
        let key = key(address, Protocol::Udp);
        let from = [
            SocketAddr::new(
                ["10.244.3.2", "fd00:10:244:3::2"][family].parse().unwrap(),
                7777,
            ),
            SocketAddr::new(
                ["172.30.0.2", "fd00:172:30::2"][family].parse().unwrap(),
                7777,
            ),
        ];
        let clients = [&lab.pods[2], &lab.outside];
        let ask = |who: usize| probe::udp_from(clients[who], from[who], at(address), PATIENCE);
        for who in [0, 1] {
            assert_eq!(answer(ask(who).unwrap()).name, "pod-1");
        }
        let report = table
            .apply([(key, Some(&frontend("default/web:http", family, &[2])))])
            .unwrap();
        assert_eq!(report.gone.len(), 1, "{report:?}");
        // The same client from the same port still goes to the old one, until it is told.
        assert_eq!(answer(ask(0).unwrap()).name, "pod-1");
        assert_eq!(flow::end_stale(&mut conntrack, &report.gone).unwrap(), 2);
        for who in [0, 1] {
            assert_eq!(answer(ask(who).unwrap()).name, "pod-2");
        }
        assert_eq!(flow::end_stale(&mut conntrack, &report.gone).unwrap(), 0);
    }
}

/// What a person copies from `nft list ruleset` can be loaded elsewhere, but for two things
/// that the kernel has and nft 1.0.6 lists and has no input for: a drawn number in a key, and
/// the protocol and port that a connection had before translation in one.
#[test]
fn nft_reads_back_what_it_lists() {
    let lab = Lab::new();
    let mut desired = at_node_ports(&[1, 2, 3], |family, frontend| {
        frontend.outside = Some(local(family, &[2]));
        frontend.affinity = Some(10_800);
        let range = ["172.30.0.0/24", "fd00:172:30::/64"][family];
        frontend.sources = Some(std::sync::Arc::new([range.parse().unwrap()].into()));
    });
    desired.extend(frontends(&[
        (10, "default/web", &[1]),
        (11, "default/no", &[]),
    ]));
    let _table = lab.table(&desired);
    let listing = lab.node.output("nft", ["list", "ruleset"]).unwrap();
    let elsewhere = Namespace::new("elsewhere").unwrap();
    let mut command = elsewhere.command("nft").unwrap();
    let mut child = command
        .args(["-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Whose the table is says nothing about what is in it.
    let mut text = listing
        .replace("flags owner,persist", "")
        .replace("flags owner", "");
    let readable = |line: &&str| !line.contains("numgen") && !line.contains("ct original");
    let lines: Vec<&str> = text.lines().filter(readable).collect();
    assert!(lines.len() > 500, "{listing}");
    text = lines.join("\n");
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{text}").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{listing}");
}
