//! Changes of frontends, endpoints and nodes, one by one and under load.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use std::os::fd::AsFd;

use weft_desired::{Backend, Frontend, NodeNat, Protocol, Table};
use weft_kernel::flow;
use weft_kernel::service::{IpFamily, Report, ServiceTable};
use weft_netlab::{Namespace, probe};
use weft_sys::conntrack::Conntrack;
use weft_sys::nft::Connection;

use crate::frontends::{answer, at, entry, frontend, frontends, key, lab, nat, nets, service};
use crate::scene::PATIENCE;

#[test]
fn endpoints_change_under_load_and_no_connection_fails() {
    let lab = lab();
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
fn changes_one_by_one_end_where_a_full_pass_ends() {
    let lab = lab();
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

#[test]
fn datagrams_to_an_endpoint_that_is_gone_find_another() {
    let lab = lab();
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
