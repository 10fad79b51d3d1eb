//! Address pools on a real file system.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;
use weft_nodestate::{Attachment, Attachments, Held, Pool, PoolError, digest};
use weft_proto::cni::{AttachmentKey, Ipam, NetworkName, Range, RangeSet};

fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        container: container.try_into().unwrap(),
        interface: "eth0".try_into().unwrap(),
    }
}

fn ipam(sets: &[&[&str]]) -> Ipam {
    Ipam {
        sets: sets
            .iter()
            .map(|ranges| RangeSet {
                ranges: ranges
                    .iter()
                    .map(|range| Range::of(range.parse().unwrap()))
                    .collect(),
            })
            .collect(),
        reserved: BTreeSet::new(),
        excluded: BTreeSet::new(),
        asked: Vec::new(),
        routes: None,
    }
}

fn records(data_dir: &Path) -> Attachments {
    Attachments::under(&data_dir.join("state"))
}

fn pool(data_dir: &Path) -> Pool {
    let network = NetworkName::try_from("weft").unwrap();
    Pool::under(data_dir, &network, &records(data_dir))
}

/// For an owner whose record is of no matter here.
fn allocate(
    pool: &Pool,
    owner: &AttachmentKey,
    ipam: &Ipam,
    held: Held<'_>,
) -> Result<Vec<IpAddr>, PoolError> {
    pool.allocate(owner, ipam, held, |given| Ok(given.to_vec()))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_reservation_without_content_is_gone_after_a_power_cut() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let ipam = ipam(&[&["10.244.1.0/29"]]);
    let given = allocate(&pool, &key("a"), &ipam, Held::Nothing).unwrap();
    let file = pool.directory().join(given[0].to_string());
    fs::write(&file, "").unwrap();
    // The runtime's DEL comes first, and finds nothing that it could give back.
    let rebooted = pool.in_boot("after");
    rebooted.release(&key("a"), Held::These(&given)).unwrap();
    assert!(file.exists());
    allocate(&rebooted, &key("b"), &ipam, Held::Nothing).unwrap();
    let left = rebooted.list().unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].owner, Ok(key("b")));
}

#[test]
fn the_layout_is_host_locals() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let ipam = ipam(&[&["10.244.1.0/24"], &["fd00:10:244:1::/64"]]);
    let given = allocate(&pool, &key("c1"), &ipam, Held::Nothing).unwrap();
    assert_eq!(given, [ip("10.244.1.1"), ip("fd00:10:244:1::1")]);

    let directory = root.path().join("weft");
    let mut names: Vec<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "10.244.1.1",
            "boot_id",
            "fd00:10:244:1::1",
            "index.0",
            "last_reserved_ip.0",
            "last_reserved_ip.1",
            "lock",
        ]
    );
    for name in ["10.244.1.1", "fd00:10:244:1::1"] {
        let path = directory.join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), "c1\r\neth0");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    let last = fs::read_to_string(directory.join("last_reserved_ip.1")).unwrap();
    assert_eq!(last, "fd00:10:244:1::1");
}

#[test]
fn the_same_owner_keeps_its_addresses() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let ipam = ipam(&[&["10.0.0.0/24"], &["fd00::/64"]]);
    let first = allocate(&pool, &key("c1"), &ipam, Held::Nothing).unwrap();
    for held in [Held::Unknown, Held::These(&first)] {
        assert_eq!(allocate(&pool, &key("c1"), &ipam, held).unwrap(), first);
    }
    // A record may name an address that is somebody else's by now.
    let second = allocate(&pool, &key("c2"), &ipam, Held::These(&first)).unwrap();
    assert!(second.iter().all(|address| !first.contains(address)));
    assert!(
        pool.release(&key("c2"), Held::These(&first))
            .unwrap()
            .is_empty()
    );
    assert_eq!(pool.release(&key("c1"), Held::Unknown).unwrap(), first);
    assert!(pool.release(&key("c1"), Held::Unknown).unwrap().is_empty());
    assert_eq!(pool.list().unwrap().len(), 2);
}

#[test]
fn what_is_held_outside_of_the_ranges_goes_back() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let old = allocate(&pool, &key("c1"), &ipam(&[&["10.0.0.0/24"]]), Held::Nothing).unwrap();
    let new = allocate(
        &pool,
        &key("c1"),
        &ipam(&[&["10.9.0.0/24"]]),
        Held::These(&old),
    )
    .unwrap();
    assert_eq!(new, [ip("10.9.0.1")]);
    assert_eq!(pool.list().unwrap().len(), 1);
}

#[test]
fn exhaustion_says_the_numbers_and_keeps_nothing() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let mut ipam = ipam(&[&["fd00::/64"], &["10.0.0.0/29"]]);
    ipam.reserved.insert(ip("10.0.0.1"));
    for number in 0..5 {
        allocate(&pool, &key(&format!("c{number}")), &ipam, Held::Nothing).unwrap();
    }
    let error = allocate(&pool, &key("late"), &ipam, Held::Nothing).unwrap_err();
    assert!(error.is_exhausted());
    assert_eq!(
        error.to_string(),
        "network weft: no address left in 10.0.0.0/29 (10.0.0.1-10.0.0.6): \
         5 of 6 are taken by pods, 1 are reserved"
    );
    // The IPv6 address it got first went back.
    assert_eq!(pool.list().unwrap().len(), 10);
    pool.release(&key("c3"), Held::Unknown).unwrap();
    let given = allocate(&pool, &key("late"), &ipam, Held::Nothing).unwrap();
    assert_eq!(given[1], ip("10.0.0.5"));
}

#[test]
fn several_ranges_are_one_round() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let ipam = ipam(&[&["10.0.0.0/30", "10.0.1.0/31"]]);
    let given: Vec<IpAddr> = (0..4)
        .map(|number| {
            let owner = key(&format!("c{number}"));
            allocate(&pool, &owner, &ipam, Held::Nothing).unwrap()[0]
        })
        .collect();
    assert_eq!(
        given,
        [
            ip("10.0.0.1"),
            ip("10.0.0.2"),
            ip("10.0.1.0"),
            ip("10.0.1.1")
        ]
    );
    assert!(allocate(&pool, &key("c9"), &ipam, Held::Nothing).is_err());
}

#[test]
fn reservations_of_host_local_are_respected() {
    let root = TempDir::new().unwrap();
    let directory = root.path().join("weft");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("10.0.0.2"), "theirs\r\neth0").unwrap();
    fs::write(directory.join("10.0.0.3"), "old-format").unwrap();
    fs::write(directory.join("10.0.0.4"), "").unwrap();
    fs::write(directory.join("last_reserved_ip.0"), "10.0.0.1").unwrap();
    fs::write(directory.join("lock"), "").unwrap();
    let pool = pool(root.path());
    let ipam = ipam(&[&["10.0.0.0/24"]]);
    // host-local names the owner while it holds the lock: nobody lives at 10.0.0.4.
    let given = allocate(&pool, &key("c1"), &ipam, Held::Nothing).unwrap();
    assert_eq!(given, [ip("10.0.0.4")]);
    let kept = allocate(&pool, &key("old-format"), &ipam, Held::Unknown).unwrap();
    assert_eq!(kept, [ip("10.0.0.3")]);
    let owners: Vec<Result<String, ()>> = pool
        .list()
        .unwrap()
        .into_iter()
        .map(|reservation| {
            reservation
                .owner
                .map(|owner| owner.to_string())
                .map_err(drop)
        })
        .collect();
    assert_eq!(
        owners,
        [
            Ok("theirs/eth0".to_owned()),
            Err(()),
            Ok("c1/eth0".to_owned())
        ]
    );
}

#[test]
fn damaged_hints_cost_only_the_order() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let ipam = ipam(&[&["10.0.0.0/24"]]);
    allocate(&pool, &key("c1"), &ipam, Held::Nothing).unwrap();
    let directory = root.path().join("weft");
    fs::write(directory.join("last_reserved_ip.0"), [0xff, 0xfe]).unwrap();
    fs::write(
        directory.join("released_ip.4"),
        b"10.0.0.2\n\xff\nfd00::1\n10.0",
    )
    .unwrap();
    // Left by a process that died, under our own process id.
    let stale = format!(".{}.c2.eth0", std::process::id());
    fs::write(directory.join(stale), "half").unwrap();
    let given = allocate(&pool, &key("c2"), &ipam, Held::Nothing).unwrap();
    assert_eq!(given, [ip("10.0.0.3")]);
    let text = fs::read_to_string(directory.join("10.0.0.3")).unwrap();
    assert_eq!(text, "c2\r\neth0");
}

#[test]
fn a_directory_that_is_none_is_an_error_with_its_path() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("weft"), "").unwrap();
    let ipam = ipam(&[&["10.0.0.0/24"]]);
    let error = allocate(&pool(root.path()), &key("c1"), &ipam, Held::Nothing).unwrap_err();
    assert!(matches!(error, PoolError::Io { .. }), "{error}");
    assert!(error.to_string().contains("/weft"), "{error}");
}

#[test]
fn parallel_owners_never_share() {
    let root = TempDir::new().unwrap();
    let ipam = ipam(&[&["10.0.0.0/24"], &["fd00::/64"]]);
    let given: Vec<Vec<IpAddr>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (root, ipam) = (root.path(), &ipam);
                scope.spawn(move || {
                    let pool = pool(root);
                    let mut given = Vec::new();
                    for number in 0..20 {
                        let owner = key(&format!("c{thread}-{number}"));
                        let addresses = allocate(&pool, &owner, ipam, Held::Nothing).unwrap();
                        if number % 3 == 0 {
                            pool.release(&owner, Held::These(&addresses)).unwrap();
                        } else {
                            given.push(addresses);
                        }
                    }
                    given
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let distinct: BTreeSet<IpAddr> = given.iter().flatten().copied().collect();
    assert_eq!(distinct.len(), 2 * given.len());
    assert_eq!(pool(root.path()).list().unwrap().len(), distinct.len());
}

fn write_record(data_dir: &Path, container: &str, addresses: &[IpAddr]) {
    records(data_dir)
        .write(&record(data_dir, container, addresses))
        .unwrap();
}

fn record(data_dir: &Path, container: &str, addresses: &[IpAddr]) -> Attachment {
    let key = key(container);
    Attachment {
        network: NetworkName::try_from("weft").unwrap(),
        data_dir: data_dir.to_owned(),
        netns: "/run/netns/x".into(),
        netns_inode: None,
        host_link: format!("weft{:02x}", digest(&key)[0]),
        mtu: 1500,
        addresses: addresses.to_vec(),
        node_addresses: Vec::new(),
        mac: None,
        routes: None,
        bridge: None,
        anti_spoofing: true,
        other_addresses: Vec::new(),
        masquerade_beyond: None,
        pod: None,
        key,
    }
}

#[test]
fn after_a_start_of_the_machine_only_names_with_content_count() {
    let root = TempDir::new().unwrap();
    let ipam = ipam(&[&["10.0.0.0/29"], &["fd00::/64"]]);
    let before = pool(root.path()).in_boot("one");
    for name in ["a", "b", "c"] {
        allocate(&before, &key(name), &ipam, Held::Nothing).unwrap();
    }
    let directory = root.path().join("weft");
    // What a power cut may do to what was not synced: content is lost (the two reservations of an
    // owner are one file), and the index is of no time at all.
    fs::write(directory.join("10.0.0.2"), "").unwrap();
    fs::remove_file(directory.join("last_reserved_ip.0")).unwrap();
    let length = fs::metadata(directory.join("index.0")).unwrap().len() as usize;
    let mut index = fs::read(directory.join("index.0")).unwrap();
    index[length - 1] = 0xff;
    fs::write(directory.join("index.0"), index).unwrap();

    let after = pool(root.path()).in_boot("two");
    let given = allocate(&after, &key("d"), &ipam, Held::Nothing).unwrap();
    assert_eq!(given, [ip("10.0.0.2"), ip("fd00::4")]);
    assert_eq!(
        owners(&after),
        [
            "10.0.0.1 a/eth0",
            "10.0.0.2 d/eth0",
            "10.0.0.3 c/eth0",
            "fd00::1 a/eth0",
            "fd00::3 c/eth0",
            "fd00::4 d/eth0",
        ]
    );
    // Who is started again keeps what is still its own, for as long as there is no record.
    fs::remove_file(directory.join("fd00::3")).unwrap();
    fs::write(directory.join("fd00::3"), "other\r\neth0").unwrap();
    let again = allocate(&after, &key("c"), &ipam, Held::Nothing).unwrap();
    assert_eq!(again, [ip("10.0.0.3"), ip("fd00::5")]);
    let others = records(&root.path().join("others"));
    let network = NetworkName::try_from("weft").unwrap();
    let wiped = Pool::under(root.path(), &network, &others).in_boot("two");
    let again = allocate(&wiped, &key("d"), &ipam, Held::Nothing).unwrap();
    assert_eq!(again, given);
    // Once a start is enough.
    fs::write(directory.join("10.0.0.6"), "").unwrap();
    allocate(&wiped, &key("e"), &ipam, Held::Nothing).unwrap();
    assert!(directory.join("10.0.0.6").exists());
}

fn owners(pool: &Pool) -> Vec<String> {
    let reservations = pool.list().unwrap().into_iter();
    reservations
        .map(|one| format!("{} {}", one.address, one.owner.unwrap()))
        .collect()
}

#[test]
fn what_an_allocation_left_that_died_is_taken_back() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path()).in_boot("one");
    let ipam = ipam(&[&["10.0.0.0/28"], &["fd00::/64"]]);
    let directory = root.path().join("weft");
    let recorded = allocate(&pool, &key("a"), &ipam, Held::Nothing).unwrap();
    write_record(root.path(), "a", &recorded);
    allocate(&pool, &key("b"), &ipam, Held::Nothing).unwrap();
    let lock = || fs::read_to_string(directory.join("lock")).unwrap();
    assert!(lock().starts_with('\n'), "{:?}", lock());
    // Died before its record, and before a reservation had its content.
    let life = fs::read_to_string(records(root.path()).directory().join("life")).unwrap();
    let died = |owner: &str, boot: &str| {
        fs::write(directory.join("lock"), format!("{owner} {boot} {life}")).unwrap();
    };
    died("b/eth0", "one");
    fs::write(directory.join("10.0.0.9"), "").unwrap();
    allocate(&pool, &key("c"), &ipam, Held::Nothing).unwrap();
    let whole = [
        "10.0.0.1 a/eth0",
        "10.0.0.3 c/eth0",
        "fd00::1 a/eth0",
        "fd00::3 c/eth0",
    ];
    assert_eq!(owners(&pool), whole);
    assert!(lock().starts_with('\n'), "{:?}", lock());
    // Died after its record; while it was about to have others instead; and an owner's DEL.
    fs::write(directory.join("10.0.0.12"), "a\r\neth0").unwrap();
    for verb in ["ADD", "DEL"] {
        died("a/eth0", "one");
        match verb {
            "ADD" => drop(allocate(&pool, &key("c"), &ipam, Held::Unknown).unwrap()),
            _ => drop(pool.release(&key("none"), Held::Nothing).unwrap()),
        }
        assert_eq!(owners(&pool), whole);
    }
    // Of a boot before this one: the record is gone, and the address is on disk.
    records(root.path()).remove(&key("a")).unwrap();
    died("a/eth0", "none");
    allocate(&pool, &key("c"), &ipam, Held::Unknown).unwrap();
    assert_eq!(owners(&pool).len(), 4);
}

#[test]
fn what_can_not_be_recorded_is_not_taken() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let (narrow, wide) = (
        ipam(&[&["10.0.0.0/28"]]),
        ipam(&[&["10.0.0.0/28"], &["fd00::/64"]]),
    );
    let given = allocate(&pool, &key("a"), &narrow, Held::Nothing).unwrap();
    let names = ["a", "b"].map(|owner| {
        let name = format!("{owner}-eth0.json");
        records(root.path()).directory().join(name)
    });
    for name in &names {
        fs::create_dir(name).unwrap();
    }
    for (owner, held) in [("a", Held::These(&given)), ("b", Held::Nothing)] {
        let mut tried = Vec::new();
        let error = pool.allocate(&key(owner), &wide, held, |addresses| {
            tried = addresses.to_vec();
            records(root.path()).write(&record(root.path(), owner, addresses))
        });
        let error = error.unwrap_err();
        assert!(matches!(error, PoolError::Unrecorded(_)), "{error}");
        assert_eq!(tried.len(), 2);
        assert_eq!(owners(&pool), ["10.0.0.1 a/eth0"]);
    }
    // So is what something fails for after it was reserved.
    let hint = pool.directory().join("last_reserved_ip.1");
    fs::remove_file(&hint).unwrap();
    fs::create_dir(&hint).unwrap();
    allocate(&pool, &key("b"), &wide, Held::Nothing).unwrap_err();
    assert_eq!(owners(&pool), ["10.0.0.1 a/eth0"]);
    fs::remove_dir(&hint).unwrap();
    for name in &names {
        fs::remove_dir(name).unwrap();
    }
    let whole = allocate(&pool, &key("a"), &wide, Held::These(&given)).unwrap();
    assert_eq!(whole[0], given[0]);
}

#[test]
fn a_reservation_that_is_recorded_is_not_reclaimed() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let ipam = ipam(&[&["10.0.0.0/28"]]);
    let given = allocate(&pool, &key("a"), &ipam, Held::Nothing).unwrap();
    let looked_at = pool.list().unwrap().remove(0);
    write_record(root.path(), "a", &given);
    assert!(!pool.reclaim(&looked_at).unwrap());
    records(root.path()).remove(&key("a")).unwrap();
    assert!(pool.reclaim(&looked_at).unwrap());
    assert_eq!(owners(&pool), [] as [String; 0]);
}

#[test]
fn the_last_free_address_of_a_large_pool_is_found() {
    let root = TempDir::new().unwrap();
    let pool = pool(root.path());
    let ipam = ipam(&[&["10.0.0.0/20"]]);
    let directory = root.path().join("weft");
    fs::create_dir_all(&directory).unwrap();
    let content = directory.join("content");
    fs::write(&content, "theirs\r\neth0").unwrap();
    for number in 1..4095_u32 {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
        fs::hard_link(&content, directory.join(address.to_string())).unwrap();
    }
    fs::remove_file(directory.join("10.0.7.77")).unwrap();
    let taken = allocate(&pool, &key("c1"), &ipam, Held::Nothing).unwrap();
    assert_eq!(taken, [ip("10.0.7.77")]);
    let full = allocate(&pool, &key("c2"), &ipam, Held::Nothing);
    assert!(full.unwrap_err().to_string().contains("4094 of 4094"));
    // What others take back is found once nothing else is left.
    fs::remove_file(directory.join("10.0.3.3")).unwrap();
    let taken = allocate(&pool, &key("c2"), &ipam, Held::Nothing).unwrap();
    assert_eq!(taken, [ip("10.0.3.3")]);
    // And what they take is met.
    fs::remove_file(directory.join("10.0.1.1")).unwrap();
    fs::remove_file(directory.join("10.0.1.2")).unwrap();
    let taken = allocate(&pool, &key("c3"), &ipam, Held::Nothing).unwrap();
    assert_eq!(taken, [ip("10.0.1.1")]);
    fs::hard_link(&content, directory.join("10.0.1.2")).unwrap();
    assert!(allocate(&pool, &key("c4"), &ipam, Held::Nothing).is_err());
}

/// What may happen to a pool of 14 addresses with 20 owners.
fn steps() -> impl Strategy<Value = Vec<(usize, bool, u8)>> {
    prop::collection::vec((0_usize..20, prop::bool::weighted(0.6), 0_u8..3), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_address_twice_and_the_oldest_first(steps in steps()) {
        let root = TempDir::new().unwrap();
        let pool = pool(root.path());
        let ipam = ipam(&[&["10.0.0.0/28"]]);
        let mut holders: BTreeMap<usize, IpAddr> = BTreeMap::new();
        // When a free address was released; never: it was not given out yet.
        let mut released: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (time, (owner, add, held)) in steps.into_iter().enumerate() {
            let owner_key = key(&format!("c{owner}"));
            let known: Vec<IpAddr> = holders.get(&owner).copied().into_iter().collect();
            let held = match held {
                0 if known.is_empty() => Held::Nothing,
                1 => Held::Unknown,
                _ => Held::These(&known),
            };
            if !add {
                let back = pool.release(&owner_key, held).unwrap();
                prop_assert_eq!(back, known);
                if let Some(address) = holders.remove(&owner) {
                    released.insert(address, time);
                }
                continue;
            }
            let given = allocate(&pool, &owner_key, &ipam, held);
            match (holders.get(&owner), holders.len()) {
                (Some(address), _) => prop_assert_eq!(given.unwrap(), vec![*address]),
                (None, 14) => prop_assert!(given.unwrap_err().is_exhausted()),
                (None, _) => {
                    let address = given.unwrap()[0];
                    prop_assert!(!holders.values().any(|taken| *taken == address));
                    match released.get(&address) {
                        None => {}
                        Some(when) => {
                            prop_assert_eq!(released.len() + holders.len(), 14);
                            prop_assert!(released.values().all(|other| other >= when));
                        }
                    }
                    released.remove(&address);
                    holders.insert(owner, address);
                }
            }
        }
        let listed: BTreeSet<IpAddr> =
            pool.list().unwrap().into_iter().map(|reservation| reservation.address).collect();
        prop_assert_eq!(listed, holders.values().copied().collect::<BTreeSet<_>>());
    }
}
