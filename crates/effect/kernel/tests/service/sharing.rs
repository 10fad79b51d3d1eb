//! Endpoints that weigh more than others, and those that a hash of the client chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use weft_desired::{Entry, Frontend, FrontendKey, HashOf, Protocol, Sharing, Table};
use weft_netlab::{Namespace, link, probe};
use weft_sys::conntrack::Conntrack;

use crate::frontends::{answer, at, entry, frontend, key, lab, nat, service};
use crate::scene::{Lab, PATIENCE};

const UDP: u8 = 17;

/// A Service in both families whose pods share its connections so.
fn sharing(pods: &[u8], sharing: impl Fn(usize) -> Sharing) -> Table<FrontendKey, Frontend> {
    let mut table = Table::new();
    for (family, address) in service(10).into_iter().enumerate() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let frontend = Frontend {
                sharing: sharing(family),
                ..frontend("default/web:http", family, pods)
            };
            table.insert(key(address, protocol), entry(frontend));
        }
    }
    table
}

fn hashed(pods: &[u8], hash: HashOf) -> Table<FrontendKey, Frontend> {
    sharing(pods, |_| Sharing {
        hash: Some(hash),
        ..Sharing::default()
    })
}

#[test]
fn connections_are_shared_by_weight() {
    let lab = lab();
    let first = |family| frontend("", family, &[1]).backends.first().copied();
    let table = lab.table(&sharing(&[1, 2, 3], |family| Sharing {
        weights: Arc::new(first(family).map(|it| (it, 8)).into_iter().collect()),
        hash: None,
    }));
    for address in service(10) {
        let mut met: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..200 {
            let name = answer(lab.tcp(&lab.outside, at(address))).name;
            *met.entry(name).or_default() += 1;
        }
        // Eight of ten, give or take five standard deviations.
        assert!((132..=188).contains(&met["pod-1"]), "{met:?}");
        assert_eq!(met.len(), 3, "{met:?}");
    }
    drop(table);
}

/// Which pods clients with these addresses and ports meet, each in a connection of its own.
fn met(lab: &Lab, from: &Namespace, sources: &[SocketAddr], to: SocketAddr) -> Vec<String> {
    let mut conntrack = Conntrack::in_namespace(lab.node.as_fd()).unwrap();
    for flow in conntrack.flows_of(UDP, |_| true).unwrap() {
        conntrack.forget(&flow).unwrap();
    }
    let ask = |source: &SocketAddr| probe::udp_from(from, *source, to, PATIENCE).unwrap();
    sources.iter().map(|it| answer(ask(it)).name).collect()
}

/// Clients of `outside`: one address at many ports, or many addresses.
fn clients(hash: HashOf, family: usize) -> Vec<SocketAddr> {
    let own = |number: u16| -> IpAddr {
        let text = match family {
            0 => format!("172.30.0.{number}"),
            _ => format!("fd00:172:30::{number}"),
        };
        text.parse().unwrap()
    };
    let client = |number: u16| match hash {
        HashOf::FiveTuple => SocketAddr::new(own(2), 7000 + number),
        HashOf::Source => SocketAddr::new(own(100 + number), 7000),
    };
    (0..40).map(client).collect()
}

#[test]
fn every_node_chooses_alike_and_only_those_move_whose_endpoint_goes() {
    for hash in HashOf::ALL {
        let labs = [lab(), lab()];
        let mut tables = Vec::new();
        for lab in &labs {
            tables.push(lab.table(&hashed(&[1, 2, 3], hash)));
        }
        for (family, address) in service(10).into_iter().enumerate() {
            let clients = clients(hash, family);
            for lab in labs.iter().filter(|_| hash == HashOf::Source) {
                for client in &clients {
                    let address = format!("{}/{}", client.ip(), [24, 64][family]);
                    link::address(&lab.outside, "eth0", &address).unwrap();
                }
            }
            let ask = |lab: &Lab| met(lab, &lab.outside, &clients, at(address));
            let all: Vec<Vec<String>> = labs.iter().map(ask).collect();
            assert_eq!(all[0], all[1], "{hash:?}");
            let distinct: BTreeSet<&String> = all[0].iter().collect();
            assert_eq!(distinct.len(), 3, "{hash:?}: {all:?}");

            let fewer = hashed(&[1, 3], hash);
            let udp = key(address, Protocol::Udp);
            let Entry { value, .. } = &fewer[&udp];
            tables[0].apply([(udp, Some(value))]).unwrap();
            let left = ask(&labs[0]);
            for (before, after) in all[0].iter().zip(&left) {
                assert_ne!(after, "pod-2");
                assert!(before == after || before == "pod-2", "{hash:?}");
            }
        }
    }
}

#[test]
fn an_agent_takes_hash_tables_over_and_nft_lists_them() {
    let lab = lab();
    let desired = hashed(&[1, 2, 3], HashOf::FiveTuple);
    drop(lab.table(&desired));
    let mut table = lab.adopt();
    let report = table.reconcile(&desired, &nat()).unwrap();
    assert_eq!((report.elements, report.rebuilt), (0, vec![]));
    let listing = lab.list();
    assert!(listing.contains("jhash"), "{listing}");
    // Back to chance: what a hash had is gone.
    let drawn = sharing(&[1, 2, 3], |_| Sharing::default());
    let changes = drawn.iter().map(|(key, entry)| (*key, Some(&entry.value)));
    table.apply(changes).unwrap();
    let report = table.reconcile(&drawn, &nat()).unwrap();
    assert_eq!(report.elements, 0);
    for address in service(10) {
        answer(lab.tcp(&lab.outside, at(address)));
    }
}
