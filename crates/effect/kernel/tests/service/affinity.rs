//! `sessionAffinity: ClientIP`.

use std::collections::BTreeSet;

use weft_desired::mark;
use weft_sys::nft::{self, Batch, ElementRef, Family, TableFlags, TableName};

use crate::frontends::{answer, at, frontends, lab, nat, service};

/// How many clients the kernel remembers of all Services of a family (`nft_dynset.c`: what a set
/// has that rules fill and that says nothing of its size).
const MOST: u32 = 65_535;

#[test]
fn a_client_keeps_its_endpoint_as_long_as_it_is_there() {
    let lab = lab();
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
    let changes = fewer.iter().map(|(key, entry)| (*key, Some(&entry.value)));
    assert!(table.apply(changes).unwrap().stale_clients);
    assert!(table.forget_clients().unwrap() > 0);
    for address in service(10) {
        let reached = ask(address);
        assert_eq!(reached.len(), 1, "{reached:?}");
        assert!(!reached.contains(&had[0]), "{reached:?}");
    }
}

/// Who comes when the kernel remembers as many clients as it can is served all the same, and
/// remembered when there is room again.
#[test]
fn a_client_too_many_is_served_without_being_remembered() {
    let lab = lab();
    // Not owned, so that the test can fill it.
    let name = TableName::new(Family::V4, mark::TABLE);
    let mut other = lab.nft();
    let mut batch = Batch::new();
    batch.add_table(&nft::Table {
        name: name.clone(),
        flags: TableFlags::default(),
        comment: Some("Services, made by weft".to_owned()),
    });
    other.commit(batch).unwrap();
    let mut desired = frontends(&[(10, "default/web", &[1, 2, 3])]);
    for entry in desired.values_mut() {
        entry.value.affinity = Some(10_800);
    }
    let _table = lab.table(&desired);
    // A client of 10.96.0.10:80 by TCP that has 10.244.1.2:8080.
    let client = |number: u32| {
        let [_, high, middle, low] = number.to_be_bytes();
        [
            100, high, middle, low, 10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0,
        ]
    };
    let endpoint = [10, 244, 1, 2, 0x1f, 0x90, 0, 0];
    let mut batch = Batch::new();
    for number in 0..MOST {
        let element = ElementRef {
            key: &client(number),
            data: &endpoint,
            ..ElementRef::default()
        };
        batch.add_element(&name, "affinity", element);
        if batch.length() > other.capacity() / 2 {
            other.commit(std::mem::take(&mut batch)).unwrap();
        }
    }
    other.commit(batch).unwrap();
    let [v4, _] = service(10);
    let ask = || -> BTreeSet<String> {
        let ask = |_| answer(lab.tcp(&lab.outside, at(v4))).name;
        (0..40).map(ask).collect()
    };
    assert_eq!(ask().len(), 3);
    let mut batch = Batch::new();
    let element = ElementRef {
        key: &client(0),
        ..ElementRef::default()
    };
    batch.delete_element(&name, "affinity", element);
    other.commit(batch).unwrap();
    assert_eq!(ask().len(), 1);
}
