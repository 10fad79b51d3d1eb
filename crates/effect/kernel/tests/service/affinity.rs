//! `sessionAffinity: ClientIP`.

use std::collections::BTreeSet;

use crate::frontends::{answer, at, frontends, lab, nat, service};

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
