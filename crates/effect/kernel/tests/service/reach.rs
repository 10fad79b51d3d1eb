//! Who reaches a Service, from where, and with which address.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use ipnet::IpNet;
use weft_desired::{Backend, Frontend, FrontendKey, Otherwise, Protocol, Table};
use weft_kernel::service::Report;
use weft_netlab::probe::{self, Outcome, TcpEcho};
use weft_netlab::{Namespace, link};
use weft_sys::rtnl::Conversation;

use crate::frontends::{answer, at, entry, frontends, key, lab, nat, service};
use crate::scene::pod::pod_addresses;
use crate::scene::{PATIENCE, SILENCE};

#[test]
fn services_are_reached_from_pods_the_node_and_outside() {
    let lab = lab();
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
        "10.96.0.10 . tcp . 80 . 1",
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
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let lab = lab();
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
    let lab = lab();
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

/// Whoever hears it answers to the address it came from.
#[test]
fn what_a_pod_sends_to_a_group_keeps_its_address() {
    const V4: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
    const V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x123);
    let lab = lab();
    let _table = lab.table(&Table::new());
    let index = || Conversation::open().unwrap().index_of("eth0").unwrap();
    for own in ["10.244.1.77/32", "fd00:10:244:1::77/128"] {
        // As a router of groups sends it on, which the kernel is not by itself.
        link::address(&lab.node, "eth0", own).unwrap();
        let own: IpAddr = own.parse::<IpNet>().unwrap().addr();
        let listen = || {
            let any: IpAddr = match own {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            match own {
                IpAddr::V4(_) => socket.join_multicast_v4(&V4, &Ipv4Addr::new(172, 30, 0, 2))?,
                IpAddr::V6(_) => socket.join_multicast_v6(&V6, index())?,
            }
            socket.set_read_timeout(Some(PATIENCE))?;
            io::Result::Ok(socket)
        };
        let socket = lab.outside.run(listen).unwrap().unwrap();
        let port = socket.local_addr().unwrap().port();
        let send = || {
            let to: SocketAddr = match own {
                IpAddr::V4(_) => (V4, port).into(),
                IpAddr::V6(_) => SocketAddrV6::new(V6, port, 0, index()).into(),
            };
            UdpSocket::bind((own, 0))?.send_to(b"?", to)
        };
        lab.node.run(send).unwrap().unwrap();
        let heard = socket.recv_from(&mut [0; 8]);
        assert_eq!(heard.map(|(_, from)| from.ip()).ok(), Some(own), "{own}");
    }
}

#[test]
fn what_is_no_service_is_refused_or_dropped() {
    let lab = lab();
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
    let lab = lab();
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
    let lab = lab();
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
