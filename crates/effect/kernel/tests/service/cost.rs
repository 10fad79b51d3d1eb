//! What changes cost. `cargo test … -- --ignored --nocapture`.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use weft_desired::{Backend, Frontend, FrontendKey, NodeNat, Protocol, SocketKey, Table};
use weft_kernel::service::{IpFamily, ServiceTable, view, view_of};
use weft_netlab::Namespace;
use weft_sys::nft::Connection;

use crate::frontends::{entry, nat};

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

/// What it costs to read of many Services, and of one among many.
/// `cargo test … -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn the_cost_of_a_look() {
    for services in [100_u32, 10_000] {
        let node = Namespace::new("node").unwrap();
        let connection = Connection::in_namespace(node.as_fd()).unwrap();
        let mut table = ServiceTable::adopt(connection, &[IpFamily::V4]).unwrap();
        let desired: Table<FrontendKey, Frontend> = (0..services)
            .map(|service| {
                let backend = |number: u32| Backend {
                    address: IpAddr::from((0x0af4_0000 + service * 10 + number).to_be_bytes()),
                    port: 8080,
                };
                let key = SocketKey {
                    address: IpAddr::from((0x0a60_0000 + service).to_be_bytes()),
                    protocol: Protocol::Tcp,
                    port: 80,
                };
                let label = format!("default/service-{service}:http");
                let frontend = Frontend::new(label.into(), (0..10).map(backend).collect());
                (key, entry(frontend))
            })
            .collect();
        table.reconcile(&desired, &nat()).unwrap();
        let mut looking = Connection::in_namespace(node.as_fd()).unwrap();
        let start = Instant::now();
        let all = view(&mut looking, &[IpFamily::V4]).unwrap();
        println!("{services} Services: all {:?}", start.elapsed());
        let frontends = all.unwrap().frontends;
        let endpoints: usize = frontends.values().map(|it| it.backends.len()).sum();
        let start = Instant::now();
        let one = view_of(&mut looking, &[IpFamily::V4], &|_, label| {
            label == "default/service-7:http"
        });
        println!("{services} Services: one {:?}", start.elapsed());
        assert_eq!(one.unwrap().unwrap().frontends.len(), 1);
        assert_eq!(
            (frontends.len(), endpoints),
            (desired.len(), 10 * desired.len())
        );
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
