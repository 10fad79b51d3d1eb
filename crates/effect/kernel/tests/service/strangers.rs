//! Others who write to nf_tables at the same time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weft_desired::{Frontend, mark};
use weft_kernel::service::{Error, Report};
use weft_sys::nft::{self, Batch, ElementRef, Family, TableFlags, TableName};

use crate::frontends::{frontends, lab, nat};
use crate::takeover::{assert_same, without_counters};

#[test]
fn a_kernel_that_nobody_else_touched_is_not_read_again() {
    let lab = lab();
    let desired = frontends(&[(10, "default/web", &[1, 2]), (11, "default/other", &[1])]);
    let mut table = lab.adopt();
    assert!(!table.is_untouched().unwrap());
    table.reconcile(&desired, &nat()).unwrap();
    assert_eq!(
        table.reconcile(&desired, &nat()).unwrap(),
        Report::default()
    );
    assert!(table.is_untouched().unwrap());
    for (key, _) in desired.iter().take(3) {
        table.apply([(*key, None)]).unwrap();
    }
    let mut other_nat = nat();
    other_nat.local_pods.pop_first();
    table.apply_nat(&other_nat).unwrap();
    table.forget_clients().unwrap();
    assert!(table.is_untouched().unwrap());
    // Any table of the namespace: whose it was is not said.
    let mut batch = Batch::new();
    batch.add_table(&nft::Table {
        name: TableName::new(Family::Inet, "somebody"),
        flags: TableFlags::default(),
        comment: None,
    });
    lab.nft().commit(batch).unwrap();
    assert!(!table.is_untouched().unwrap());
    // It was there before this change, and is still to be looked after.
    table.apply([]).unwrap();
    let (key, entry) = desired.first_key_value().unwrap();
    table.apply([(*key, Some(&entry.value))]).unwrap();
    assert!(!table.is_untouched().unwrap());
    table.reconcile(&desired, &nat()).unwrap();
    assert!(table.is_untouched().unwrap());
}

#[test]
fn a_change_that_meets_somebody_elses_is_made_wholly_or_not_at_all() {
    let lab = lab();
    // Where the kernel knows no owners, anybody can write.
    let name = TableName::new(Family::V4, mark::TABLE);
    let mut other = lab.nft();
    let mut batch = Batch::new();
    batch.add_table(&nft::Table {
        name: name.clone(),
        flags: TableFlags::default(),
        comment: Some("Services, made by weft".to_owned()),
    });
    other.commit(batch).unwrap();
    let start = frontends(&[(10, "default/web", &[1, 2, 3]), (11, "default/old", &[1])]);
    let mut table = lab.table(&start);

    // Slot 2 of the first Service is gone when it is to be removed.
    let slot = [10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0, 2, 0, 0, 0];
    let mut batch = Batch::new();
    let element = ElementRef {
        key: &slot,
        ..ElementRef::default()
    };
    batch.delete_element(&name, "endpoints", element);
    other.commit(batch).unwrap();
    let before = without_counters(&lab.list());
    let end = frontends(&[(10, "default/web", &[1, 2]), (12, "default/new", &[2])]);
    let keys: BTreeSet<_> = start.keys().chain(end.keys()).copied().collect();
    let changes = || {
        keys.iter()
            .map(|key| (*key, end.get(key).map(|entry| &entry.value)))
    };
    let refused = table.apply(changes());
    assert!(matches!(refused, Err(Error::Kernel(_))), "{refused:?}");
    // Nothing of it, and nothing more, until all has been read.
    assert_same(&lab, &before);
    let unsettled = table.apply(changes());
    assert!(matches!(unsettled, Err(Error::Unsettled)), "{unsettled:?}");
    assert!(!table.is_untouched().unwrap());
    table.reconcile(&end, &nat()).unwrap();

    let fresh = crate::frontends::lab();
    let _table = fresh.table(&end);
    let mut made_at_once = without_counters(&fresh.list());
    // The other family's table is owned in both. nft leaves a line empty below the flag.
    made_at_once.retain(|line| !line.starts_with("ip: flags owner") && line != "ip: ");
    assert_same(&lab, &made_at_once);
}

#[test]
fn commits_that_race_are_all_made() {
    let lab = lab();
    let services: Vec<(u8, &str, &[u8])> = vec![(10, "default/web", &[1, 2])];
    let desired = frontends(&services);
    let mut table = lab.table(&desired);
    let done = AtomicBool::new(false);
    let others = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let mut other = lab.nft();
        let (done, others) = (&done, &others);
        scope.spawn(move || {
            let name = TableName::new(Family::Inet, "somebody");
            while !done.load(Ordering::Relaxed) {
                let mut batch = Batch::new();
                batch.add_table(&nft::Table {
                    name: name.clone(),
                    flags: TableFlags::default(),
                    comment: None,
                });
                other.commit(batch).unwrap();
                let mut batch = Batch::new();
                batch.delete_table(&name);
                other.commit(batch).unwrap();
                others.fetch_add(1, Ordering::Relaxed);
            }
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut rounds = 0;
        while (rounds < 200 || others.load(Ordering::Relaxed) < 50) && Instant::now() < deadline {
            for (key, entry) in &desired {
                let fewer = Frontend {
                    backends: Arc::new(entry.value.backends.iter().copied().take(1).collect()),
                    ..entry.value.clone()
                };
                table.apply([(*key, Some(&fewer))]).unwrap();
                table.apply([(*key, Some(&entry.value))]).unwrap();
            }
            rounds += 1;
        }
        // Lists are read anew if somebody changes something meanwhile; so is all of it.
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut read = table.reconcile(&desired, &nat());
        while read.is_err() && Instant::now() < deadline {
            read = table.reconcile(&desired, &nat());
        }
        done.store(true, Ordering::Relaxed);
        assert!(rounds >= 200 && others.load(Ordering::Relaxed) >= 50);
        assert_eq!(read.unwrap(), Report::default());
    });
    let report = table.reconcile(&desired, &nat()).unwrap();
    assert_eq!(report, Report::default());
}
