//! A table that is too large to be listed: it is read by its keys, and whatever is different in it
//! is found all the same.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_desired::{Backend, Frontend, FrontendKey, Protocol, SocketKey, Table, mark};
use weft_sys::nft::{self, Batch, Connection, ElementRef, Family, TableFlags, TableName};

use crate::frontends::{entry, lab, nat};
use crate::scene::Lab;
use crate::takeover::{assert_same, without_counters};

/// With ten endpoints each more elements than a list is used for.
const SERVICES: u32 = 500;

fn key(service: u32) -> FrontendKey {
    SocketKey {
        address: IpAddr::from((0x0a60_0000 + service).to_be_bytes()),
        protocol: Protocol::Tcp,
        port: 80,
    }
}

fn desired(endpoints: impl Fn(u32) -> u32) -> Table<FrontendKey, Frontend> {
    let backend = |service: u32, number: u32| Backend {
        address: IpAddr::from((0x0af4_0000 + service * 16 + number).to_be_bytes()),
        port: 8080,
    };
    let frontend = |service: u32| {
        let numbers = 0..endpoints(service);
        Frontend::new(
            format!("default/service-{service}:http").into(),
            numbers.map(|number| backend(service, number)).collect(),
        )
    };
    (0..SERVICES)
        .map(|service| (key(service), entry(frontend(service))))
        .collect()
}

/// A slot of a Service: the key of its element.
fn slot(service: u32, slot: u32) -> Vec<u8> {
    let mut key = (0x0a60_0000 + service).to_be_bytes().to_vec();
    key.extend([6, 0, 0, 0, 0, 80, 0, 0]);
    key.extend(slot.to_ne_bytes());
    key
}

/// Makes a change of what is nobody's.
fn meddle(lab: &Lab, fill: impl FnOnce(&mut Batch, &TableName)) {
    let name = TableName::new(Family::V4, mark::TABLE);
    let mut batch = Batch::new();
    batch.add_table(&nft::Table {
        name: name.clone(),
        flags: TableFlags {
            owner: true,
            persist: true,
            dormant: false,
        },
        comment: Some("Services, made by weft".to_owned()),
    });
    fill(&mut batch, &name);
    lab.nft().commit(batch).unwrap();
}

fn count(connection: &mut Connection) -> u32 {
    let name = TableName::new(Family::V4, mark::TABLE);
    let count = connection.element_count(&name, "endpoints").unwrap();
    // Where the kernel does not say it, all is listed.
    count.unwrap_or(SERVICES * 10)
}

#[test]
fn what_is_different_in_a_large_table_is_found() {
    let lab = lab();
    let all = desired(|_| 10);
    let table = lab.table(&all);
    let before = without_counters(&lab.list());
    assert_eq!(count(&mut lab.nft()), SERVICES * 10);
    drop(table);

    // Nothing, to begin with.
    let mut table = lab.adopt();
    let report = table.reconcile(&all, &nat()).unwrap();
    assert_eq!((report.elements, report.gone), (0, Vec::new()));
    drop(table);

    let other = [10, 99, 0, 1, 0x1f, 0x90, 0, 0];
    fn element<'a>(key: &'a [u8], data: &'a [u8]) -> ElementRef<'a> {
        ElementRef {
            key,
            data,
            ..ElementRef::default()
        }
    }
    type Meddling<'a> = &'a dyn Fn(&mut Batch, &TableName);
    let changes: [(&str, Meddling<'_>); 5] = [
        ("one is gone", &|batch, name| {
            batch.delete_element(name, "endpoints", element(&slot(7, 3), &[]));
        }),
        ("the last of one is gone", &|batch, name| {
            batch.delete_element(name, "endpoints", element(&slot(7, 9), &[]));
        }),
        ("one is another", &|batch, name| {
            batch.delete_element(name, "endpoints", element(&slot(8, 3), &[]));
            batch.add_element(name, "endpoints", element(&slot(8, 3), &other));
        }),
        ("one is there that no Service has", &|batch, name| {
            batch.add_element(name, "endpoints", element(&slot(SERVICES, 0), &other));
        }),
        ("one is there and another is gone", &|batch, name| {
            batch.delete_element(name, "endpoints", element(&slot(9, 9), &[]));
            batch.add_element(name, "endpoints", element(&slot(9, 500), &other));
        }),
    ];
    for (what, fill) in changes {
        meddle(&lab, fill);
        let mut table = lab.adopt();
        let report = table.reconcile(&all, &nat()).unwrap();
        assert!(report.elements > 0, "{what}");
        assert_same(&lab, &before);
        drop(table);
    }
}

#[test]
fn a_large_table_follows_what_changed_while_nobody_looked() {
    let lab = lab();
    drop(lab.table(&desired(|_| 10)));
    // Fewer, more, of another size, and none.
    let now = desired(|service| match service {
        3 => 9,
        4 => 12,
        5 => 40,
        6 => 2,
        7 => 0,
        _ => 10,
    });
    let mut table = lab.adopt();
    let report = table.reconcile(&now, &nat()).unwrap();
    let gone: BTreeSet<_> = report.gone.iter().map(|(key, _)| *key).collect();
    assert_eq!(gone, [3, 6, 7].map(key).into());
    let written = without_counters(&lab.list());

    let fresh = crate::frontends::lab();
    let _table = fresh.table(&now);
    assert_same(&fresh, &written);
}
