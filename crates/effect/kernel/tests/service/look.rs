//! What is read of some frontends among many: they are looked up by their keys then, where all
//! of them are read from lists.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use weft_desired::{
    Backend, Door, Frontend, FrontendKey, HashOf, Masquerade, Observed, Otherwise, Protocol,
    Reason, Table,
};
use weft_kernel::service::{IpFamily, view, view_of};
use weft_netlab::Namespace;
use weft_netlab::probe::{self, Outcome};
use weft_sys::nft::Connection;

use crate::frontends::{
    answer, at, entry, frontend, frontends, key, lab, local, nat, node_port, service, socket_of,
};
use crate::listing::all_sorts;
use crate::scene::{Lab, PATIENCE, SILENCE};

type Seen = BTreeMap<FrontendKey, Observed>;
/// What it is called, and whether a frontend has it.
type Trait = (&'static str, fn(&Observed) -> bool);

const DROPPED: u8 = 14;
const DROPPED_OUTSIDE: u8 = 15;
const STICKY: u8 = 16;
const LARGE: u8 = 17;

/// Everything a frontend can have, and ten plain ones a family.
fn everything() -> Table<FrontendKey, Frontend> {
    let mut desired = all_sorts();
    for key in node_port() {
        desired.get_mut(&key).unwrap().value.affinity = Some(10_800);
    }
    let mut add = |number: u8, label: &str, change: &dyn Fn(usize, &mut Frontend)| {
        for (family, address) in service(number).into_iter().enumerate() {
            let mut value = frontend(label, family, &[1, 2]);
            change(family, &mut value);
            desired.insert(key(address, Protocol::Tcp), entry(value));
        }
    };
    add(DROPPED, "default/dropped", &|_, it| {
        it.backends = Arc::default();
        it.otherwise = Otherwise::Drop;
    });
    add(DROPPED_OUTSIDE, "default/elsewhere", &|family, it| {
        it.outside = Some(local(family, &[]));
    });
    add(STICKY, "default/sticky", &|_, it| {
        it.masquerade = Masquerade::Node;
        it.affinity = Some(600);
    });
    add(LARGE, "default/large", &|_, it| {
        let address = it.backends.first().unwrap().address;
        let backend = |port| Backend { address, port };
        it.backends = Arc::new((1..=100).map(backend).collect());
    });
    let plain = [20, 21, 22, 23, 24].map(|number| (number, "default/plain", &[1][..]));
    desired.extend(frontends(&plain));
    desired
}

/// Connections to each sort of frontend, so that there is something counted of it.
fn connect_to_all_sorts(lab: &Lab) {
    let pod = &lab.pods[0];
    let silence = |from: &Namespace, to| {
        let outcome = probe::tcp(from, to, SILENCE).unwrap();
        assert_eq!(outcome, Outcome::TimedOut, "{to}");
    };
    for key in node_port() {
        answer(lab.tcp(&lab.outside, socket_of(&key)));
        silence(pod, socket_of(&key));
    }
    for address in service(10) {
        answer(lab.tcp(pod, at(address)));
    }
    for address in service(11) {
        assert_eq!(lab.tcp(pod, at(address)), Outcome::Refused, "{address}");
    }
    for address in service(DROPPED) {
        silence(pod, at(address));
    }
    for address in service(DROPPED_OUTSIDE) {
        silence(&lab.outside, at(address));
    }
    for address in service(STICKY) {
        answer(lab.tcp(pod, at(address)));
    }
}

/// What there is of each frontend in the list of all.
const TRAITS: [Trait; 19] = [
    ("a label", |it| !it.label.is_empty()),
    ("an address of its own", |it| it.door == Door::ClusterIp),
    ("a node port", |it| it.door == Door::NodePort),
    ("many endpoints", |it| it.backends.len() == 100),
    ("a hash of the source", |it| it.hash == Some(HashOf::Source)),
    ("a hash of all", |it| it.hash == Some(HashOf::FiveTuple)),
    ("dropped", |it| it.turned_away == Some(Otherwise::Drop)),
    ("sources", |it| {
        it.sources.as_ref().is_some_and(|all| !all.is_empty())
    }),
    ("outside", |it| {
        let outside = it.outside.as_ref();
        outside.is_some_and(|outside| !outside.backends.is_empty())
    }),
    ("affinity", |it| it.affinity == Some(10_800)),
    ("other affinity", |it| it.affinity == Some(600)),
    ("remembered", |it| it.remembered > 0),
    ("masquerade", |it| {
        it.masquerade == Some(Masquerade::Outside)
    }),
    ("of all", |it| it.masquerade == Some(Masquerade::All)),
    ("of the node", |it| it.masquerade == Some(Masquerade::Node)),
    ("traffic", |it| {
        let traffic = it.tally.traffic;
        traffic.is_some_and(|(there, back)| there.bytes > 0 && back.bytes > 0)
    }),
    ("refused", |it| {
        it.turned_away == Some(Otherwise::Refuse) && counted(it, Reason::NoEndpoints)
    }),
    ("no local ones", |it| counted(it, Reason::NoLocalEndpoints)),
    ("no source of it", |it| {
        counted(it, Reason::SourceNotAdmitted)
    }),
];

fn counted(seen: &Observed, reason: Reason) -> bool {
    seen.tally.turned_away.contains_key(&reason)
}

fn all(nft: &mut Connection) -> Seen {
    view(nft, &IpFamily::BOTH).unwrap().unwrap().frontends
}

fn some(nft: &mut Connection, wanted: impl Fn(&FrontendKey) -> bool) -> Seen {
    let view = view_of(nft, &IpFamily::BOTH, &|key, _| wanted(key));
    view.unwrap().unwrap().frontends
}

/// What was seen while nothing was counted.
struct AtRest {
    all: Seen,
    /// Each alone.
    alone: BTreeMap<FrontendKey, Seen>,
    /// Those at each address.
    at_address: BTreeMap<IpAddr, Seen>,
}

impl AtRest {
    /// Waits for the last packets of connections that were closed.
    fn wait(nft: &mut Connection) -> Self {
        let deadline = Instant::now() + 6 * PATIENCE;
        loop {
            let before = all(nft);
            let keys = before.keys().copied();
            let alone = keys.map(|key| (key, some(nft, |it| *it == key)));
            let alone = alone.collect();
            let addresses = before.keys().map(|key| key.address);
            let at_address =
                addresses.map(|address| (address, some(nft, |it| it.address == address)));
            let at_address = at_address.collect();
            if all(nft) == before {
                return Self {
                    all: before,
                    alone,
                    at_address,
                };
            }
            assert!(Instant::now() < deadline, "there is no end of packets");
        }
    }
}

#[test]
fn some_among_many_are_seen_as_the_list_of_all_has_them() {
    let lab = lab();
    let desired = everything();
    let mut table = lab.adopt();
    table.count_traffic(true);
    table.reconcile(&desired, &nat()).unwrap();
    connect_to_all_sorts(&lab);

    let AtRest {
        all,
        alone,
        at_address,
    } = AtRest::wait(&mut lab.nft());
    assert!(all.keys().eq(desired.keys()), "{all:?}");
    for family in IpFamily::BOTH {
        let of_family = all.iter().filter(|(key, _)| family.has(key.address));
        let seen: Vec<&Observed> = of_family.map(|(_, seen)| seen).collect();
        // Two at an address are few among them still.
        assert!(seen.len() > 16, "{}", seen.len());
        for (what, has) in TRAITS {
            assert!(seen.iter().any(|it| has(it)), "{family:?}: {what}");
        }
    }
    for (key, seen) in &all {
        assert_eq!(alone[key], Seen::from([(*key, seen.clone())]), "{key}");
    }
    for (address, found) in at_address {
        let mut expected = all.clone();
        expected.retain(|key, _| key.address == address);
        assert_eq!(found, expected, "{address}");
    }
}
