//! An agent that comes after another, and what strangers changed meanwhile.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weft_desired::mark;
use weft_kernel::service::{Error, IpFamily, Report, ServiceTable};
use weft_netlab::probe;
use weft_sys::nft::{Batch, ElementRef, Expression, Family, Rule, TableName, Verdict};

use crate::frontends::{answer, at, frontends, lab, nat, service};
use crate::scene::{Lab, PATIENCE};

#[test]
fn a_new_agent_takes_over_without_touching_anything() {
    let lab = lab();
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
pub(crate) fn without_counters(listing: &str) -> BTreeSet<String> {
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
pub(crate) fn assert_same(lab: &Lab, before: &BTreeSet<String>) {
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
    let lab = lab();
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
    let lab = lab();
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
fn an_agent_restarts_under_load_and_no_connection_fails() {
    let lab = lab();
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
