//! nf_tables in a network namespace of the test's own, read back by us and by `nft`.
#![expect(clippy::expect_used, reason = "helpers of tests fail the test")]

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use weft_sys::namespace;
use weft_sys::netlink::Error;
use weft_sys::nft::{
    BaseChain, Batch, BitOperation, Chain, ChainKind, Connection, CtKey, DataType, Direction,
    ElementRef, Expression, Family, Hook, MetaKey, NatKind, NumberMode, PayloadBase, Policy,
    Register, Reject, Rule, Set, SetFlags, SetOperation, Table, TableFlags, TableName, Verdict,
};

fn open() -> (OwnedFd, Connection) {
    let net = namespace::new_net().expect("a network namespace");
    let connection = Connection::in_namespace(net.as_fd()).expect("a socket");
    (net, connection)
}

fn nft(net: &OwnedFd, arguments: &[&str]) -> String {
    let output = namespace::command_in(net.as_fd(), "nft")
        .expect("the namespace")
        .args(arguments)
        .output()
        .expect("nft is installed");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn table(family: Family) -> Table {
    Table {
        name: TableName::new(family, "t"),
        flags: TableFlags::default(),
        comment: Some("made by a test".into()),
    }
}

fn set(name: &str, key: &[DataType], data: &[DataType]) -> Set {
    Set {
        name: name.into(),
        key: key.to_vec(),
        data: data.to_vec(),
        flags: SetFlags::default(),
        timeout: None,
        counter: false,
        comment: None,
    }
}

const V4_FRONTEND: [DataType; 3] = [DataType::Ipv4Address, DataType::Protocol, DataType::Port];

/// Address, protocol and port of the packet, from word 0 on.
fn frontend(family: Family) -> Vec<Expression> {
    let (offset, length) = match family {
        Family::V6 => (24, 16),
        Family::V4 | Family::Inet | Family::Bridge => (16, 4),
    };
    let next = (length / 4) as u8;
    vec![
        Expression::Payload {
            base: PayloadBase::Network,
            offset,
            length,
            into: Register::word(0),
        },
        Expression::Meta {
            key: MetaKey::Protocol,
            into: Register::word(next),
        },
        Expression::Payload {
            base: PayloadBase::Transport,
            offset: 2,
            length: 2,
            into: Register::word(next + 1),
        },
    ]
}

/// One rule with each kind of expression, in chains that may hold them.
fn every_rule(family: Family) -> Vec<Rule> {
    let lookup = |set: &str, into| Expression::Lookup {
        set: set.into(),
        from: Register::word(0),
        into,
        invert: false,
    };
    let (port, number, v6) = match family {
        Family::V6 => (4, 6, true),
        Family::V4 | Family::Inet | Family::Bridge => (1, 3, false),
    };
    let rule = |chain: &str, expressions| Rule {
        chain: chain.into(),
        expressions,
        comment: Some(format!("in {chain}")),
    };
    let mut gate = frontend(family);
    gate.extend([
        lookup("frontends", None),
        Expression::Verdict(Verdict::Goto("pick".into())),
    ]);
    let mut pick = frontend(family);
    pick.extend([
        Expression::Number {
            mode: NumberMode::Random,
            modulus: 3,
            into: Register::word(number),
        },
        lookup("eps", Some(Register::word(0))),
        Expression::Nat {
            kind: NatKind::Destination,
            family,
            address: Register::word(0),
            port: Some(Register::word(port)),
        },
    ]);
    let state = |bits: u32| {
        [
            Expression::Ct {
                key: CtKey::State,
                direction: None,
                into: Register::word(0),
            },
            Expression::Bitwise {
                from: Register::word(0),
                into: Register::word(0),
                mask: bits.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
            Expression::Compare {
                from: Register::word(0),
                operation: BitOperation::NotEqual,
                value: vec![0; 4],
            },
        ]
    };
    let mut reset = state(CtKey::NEW).to_vec();
    reset.extend([
        Expression::Meta {
            key: MetaKey::Protocol,
            into: Register::word(0),
        },
        Expression::Compare {
            from: Register::word(0),
            operation: BitOperation::Equal,
            value: vec![6],
        },
        Expression::Counter,
        Expression::Reject(Reject::TcpReset),
    ]);
    let refuse = vec![Expression::Reject(Reject::Unreachable(if v6 {
        4
    } else {
        3
    }))];
    let mut original = vec![
        Expression::Ct {
            key: if v6 {
                CtKey::DestinationV6
            } else {
                CtKey::DestinationV4
            },
            direction: Some(Direction::Original),
            into: Register::word(0),
        },
        Expression::Ct {
            key: CtKey::Protocol,
            // The same in both directions: the kernel keeps none.
            direction: None,
            into: Register::word(port),
        },
        Expression::Ct {
            key: CtKey::DestinationPort,
            direction: Some(Direction::Original),
            into: Register::word(port + 1),
        },
    ];
    original.extend([
        lookup("frontends", None),
        Expression::Masquerade { random: true },
    ]);
    let ranges = vec![
        Expression::Payload {
            base: PayloadBase::Network,
            offset: if v6 { 24 } else { 16 },
            length: if v6 { 16 } else { 4 },
            into: Register::word(0),
        },
        Expression::Lookup {
            set: "ranges".into(),
            from: Register::word(0),
            into: None,
            invert: true,
        },
        Expression::Log {
            prefix: "weft".into(),
            group: None,
        },
        Expression::Verdict(Verdict::Drop),
    ];
    let mut update = frontend(family);
    update.push(Expression::Update {
        set: "seen".into(),
        operation: SetOperation::Update,
        key: Register::word(0),
        data: None,
        timeout: Some(Duration::from_secs(60)),
    });
    vec![
        rule("nat", gate),
        rule("pick", pick),
        rule("post", original),
        rule("filter", reset),
        rule("filter", refuse),
        rule("filter", ranges),
        rule("filter", update),
    ]
}

fn chains() -> Vec<Chain> {
    let base = |name: &str, kind, hook, priority| Chain {
        name: name.into(),
        base: Some(BaseChain {
            kind,
            hook,
            priority,
            policy: Policy::Accept,
        }),
    };
    vec![
        base("nat", ChainKind::Nat, Hook::Prerouting, -100),
        base("post", ChainKind::Nat, Hook::Postrouting, 100),
        base("filter", ChainKind::Filter, Hook::Forward, 0),
        Chain {
            name: "pick".into(),
            base: None,
        },
    ]
}

fn sets(family: Family) -> Vec<Set> {
    let address = match family {
        Family::V6 => DataType::Ipv6Address,
        Family::V4 | Family::Inet | Family::Bridge => DataType::Ipv4Address,
    };
    let key = [address, DataType::Protocol, DataType::Port];
    let mut frontends = set("frontends", &key, &[]);
    frontends.counter = true;
    frontends.comment = Some("Services".into());
    let eps = set(
        "eps",
        &[
            address,
            DataType::Protocol,
            DataType::Port,
            DataType::Number,
        ],
        &[address, DataType::Port],
    );
    let mut ranges = set("ranges", &[address], &[]);
    ranges.flags.interval = true;
    let mut seen = set("seen", &key, &[]);
    seen.flags.timeout = true;
    seen.flags.dynamic = true;
    let target = [DataType::InterfaceName, DataType::NeighbourTarget];
    let targets = set("targets", &target, &[]);
    vec![frontends, eps, ranges, seen, targets]
}

#[test]
fn what_is_written_is_what_is_read_and_what_nft_lists() {
    for family in [Family::V4, Family::V6] {
        let (net, mut connection) = open();
        let table = table(family);
        let mut batch = Batch::new();
        batch.add_table(&table);
        let sets = sets(family);
        for set in &sets {
            batch.add_set(&table.name, set);
        }
        for chain in &chains() {
            batch.add_chain(&table.name, chain);
        }
        let rules = every_rule(family);
        for rule in &rules {
            batch.add_rule(&table.name, rule);
        }
        connection.commit(batch).expect("the transaction");

        assert_eq!(connection.tables(family).unwrap(), vec![table.clone()]);
        assert_eq!(connection.chains(&table.name).unwrap(), chains());
        let mut found: Vec<Set> = connection
            .sets(&table.name)
            .unwrap()
            .into_iter()
            .map(|set| set.expect("a set we wrote"))
            .collect();
        found.sort_by_key(|set| sets.iter().position(|s| s.name == set.name));
        assert_eq!(found, sets);
        let mut found = connection.rules(&table.name).unwrap();
        found.sort_by_key(|rule| rules.iter().position(|r| r.chain == rule.chain));
        assert_eq!(found, rules);
        let listing = nft(&net, &["-a", "list", "ruleset"]);
        for expected in [
            "goto pick",
            "map @eps",
            "typeof iifname . @th,64,128",
            "numgen random mod 65536 : ip",
            "fully-random",
            "comment \"in nat\"",
        ] {
            assert!(listing.contains(expected), "{expected} in {listing}");
        }
        println!("{listing}");
    }
}

/// A frontend's key for 10.96.0.0 + `number`, and its slot 0.
fn keys(number: u32) -> ([u8; 12], [u8; 16]) {
    let mut slot = [0; 16];
    slot[..4].copy_from_slice(&(0x0a60_0000 + number).to_be_bytes());
    slot[4] = 6;
    slot[8..10].copy_from_slice(&80_u16.to_be_bytes());
    let mut key = [0; 12];
    key.copy_from_slice(&slot[..12]);
    (key, slot)
}

#[test]
fn elements_come_back_with_data_and_comments_over_many_messages() {
    let (net, mut connection) = open();
    let table = table(Family::V4);
    let mut batch = Batch::new();
    batch.add_table(&table);
    for set in sets(Family::V4) {
        batch.add_set(&table.name, &set);
    }
    connection.commit(batch).unwrap();

    let data = [10, 244, 1, 7, 0x1f, 0x90, 0, 0];
    let mut batch = Batch::new();
    let count = 3000;
    for number in 0..count {
        let (key, slot) = keys(number);
        let comment = format!("default/service-{number}:http");
        let element = ElementRef {
            key: &slot,
            data: &data,
            comment: &comment,
            ..ElementRef::default()
        };
        batch.add_element(&table.name, "eps", element);
        if number < 2 {
            let element = ElementRef {
                key: &key,
                comment: "default/web:http",
                ..ElementRef::default()
            };
            batch.add_element(&table.name, "frontends", element);
        }
    }
    assert!(batch.length() > 200_000, "{}", batch.length());
    connection.commit(batch).unwrap();

    let mut found = connection.elements(&table.name, "eps").unwrap();
    found.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(found.len(), count as usize);
    assert_eq!(found[7].key, keys(7).1);
    assert_eq!(found[7].data, data);
    assert_eq!(found[7].comment.as_deref(), Some("default/service-7:http"));
    let found = connection.elements(&table.name, "frontends").unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|element| element.counts.is_some()));
    let listing = nft(&net, &["list", "map", "ip", "t", "eps"]);
    let first = "10.96.0.0 . tcp . 80 . 0 comment \"default/service-0:http\" : 10.244.1.7 . 8080";
    assert!(listing.contains(first), "{}", &listing[..600]);
    let listing = nft(&net, &["list", "set", "ip", "t", "frontends"]);
    assert!(listing.contains("counter packets 0 bytes 0"), "{listing}");
}

#[test]
fn a_range_is_listed_as_a_prefix() {
    let (net, mut connection) = open();
    let table = table(Family::V4);
    let mut batch = Batch::new();
    batch.add_table(&table);
    let mut ranges = set("ranges", &[DataType::Ipv4Address], &[]);
    ranges.flags.interval = true;
    batch.add_set(&table.name, &ranges);
    for (key, interval_end) in [([10, 244, 0, 0], false), ([10, 245, 0, 0], true)] {
        let element = ElementRef {
            key: &key,
            interval_end,
            ..ElementRef::default()
        };
        batch.add_element(&table.name, "ranges", element);
    }
    connection.commit(batch).unwrap();
    let listing = nft(&net, &["list", "ruleset"]);
    assert!(listing.contains("10.244.0.0/16"), "{listing}");
}

#[test]
fn a_transaction_is_made_wholly_or_not_at_all() {
    let (_net, mut connection) = open();
    let table = table(Family::V4);
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_set(&table.name, &set("frontends", &V4_FRONTEND, &[]));
    connection.commit(batch).unwrap();
    let before = connection.generation().unwrap();

    let mut batch = Batch::new();
    let (key, _) = keys(1);
    let element = ElementRef {
        key: &key,
        ..ElementRef::default()
    };
    batch.add_element(&table.name, "frontends", element);
    batch.add_element(&table.name, "elsewhere", element);
    batch.add_element(&table.name, "frontends", element);
    let error = connection.commit(batch).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOENT), "{error}");
    assert!(
        error.to_string().starts_with("add element ip t elsewhere:"),
        "{error}"
    );
    assert_eq!(
        connection.elements(&table.name, "frontends").unwrap(),
        vec![]
    );
    assert_eq!(connection.generation().unwrap(), before);

    // The answers to what failed are not taken for answers to what comes next.
    let mut batch = Batch::new();
    batch.add_element(&table.name, "frontends", element);
    connection.commit(batch).unwrap();
    let mut batch = Batch::new();
    batch.add_element(&table.name, "frontends", element);
    let error = connection.commit(batch).unwrap_err();
    assert!(error.is_exists(), "{error}");
    let mut batch = Batch::new();
    batch.delete_element(&table.name, "frontends", element);
    batch.delete_element(&table.name, "frontends", element);
    let error = connection.commit(batch).unwrap_err();
    assert!(error.is_absent(), "{error}");
    assert_eq!(
        connection.elements(&table.name, "frontends").unwrap().len(),
        1
    );
}

#[test]
fn what_is_to_be_empty_is_removed_only_where_it_is() {
    let (net, mut connection) = open();
    let table = table(Family::V4);
    let element = |key: &'static [u8]| ElementRef {
        key,
        ..ElementRef::default()
    };
    let mut batch = Batch::new();
    batch.add_table(&table);
    for name in ["first", "second"] {
        batch.add_set(&table.name, &set(name, &[DataType::Ipv4Address], &[]));
    }
    batch.add_element(&table.name, "second", element(&[10, 0, 0, 1]));
    connection.commit(batch).unwrap();
    let before = nft(&net, &["list", "ruleset"]);
    let mut remove = |sets: &[&str]| {
        let mut batch = Batch::new();
        for name in sets {
            batch.delete_bare_set(&table.name, name);
        }
        batch.delete_bare_table(&table.name);
        connection.commit(batch).map_err(|error| error.errno())
    };
    for sets in [&["first", "second"][..], &["first"], &[]] {
        assert_eq!(remove(sets), Err(Some(Errno::BUSY)), "{sets:?}");
        assert_eq!(nft(&net, &["list", "ruleset"]), before);
    }
    nft(&net, &["flush", "set", "ip", "t", "second"]);
    assert_eq!(remove(&["first", "second"]), Ok(()));
    assert_eq!(nft(&net, &["list", "ruleset"]), "");
}

#[test]
fn a_rehearsal_is_refused_as_the_transaction_would_be_and_leaves_nothing() {
    let (net, mut connection) = open();
    let before = connection.generation().unwrap();
    let table = table(Family::V6);
    let attempt = |set_name: &str| {
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_set(&table.name, &set("frontends", &V4_FRONTEND, &[]));
        let (key, _) = keys(1);
        let element = ElementRef {
            key: &key,
            ..ElementRef::default()
        };
        batch.add_element(&table.name, set_name, element);
        batch
    };
    connection.rehearse(attempt("frontends")).unwrap();
    connection.rehearse(Batch::new()).unwrap();
    let error = connection.rehearse(attempt("elsewhere")).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOENT), "{error}");
    assert_eq!(connection.generation().unwrap(), before);
    assert_eq!(connection.transactions(), 0);
    assert_eq!(nft(&net, &["list", "ruleset"]), "");
    connection.commit(attempt("frontends")).unwrap();
    assert_eq!(connection.transactions(), 1);
    assert!(nft(&net, &["list", "ruleset"]).contains("table ip6 t"));
}

#[test]
fn a_batch_that_is_too_long_is_refused_before_anything_is_done() {
    let (_net, mut connection) = open();
    let table = table(Family::V4);
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_set(&table.name, &set("frontends", &V4_FRONTEND, &[]));
    let mut number = 0;
    while batch.length() <= connection.capacity() * 2 + 4096 {
        let (key, _) = keys(number);
        let element = ElementRef {
            key: &key,
            comment: "a comment that takes a few bytes more than the key alone would take",
            ..ElementRef::default()
        };
        batch.add_element(&table.name, "frontends", element);
        number += 1;
    }
    let error = connection.commit(batch).unwrap_err();
    assert!(matches!(error, Error::Socket { .. }), "{error}");
    assert_eq!(error.errno(), Some(Errno::MSGSIZE));
    assert_eq!(connection.tables(Family::V4).unwrap(), vec![]);
}

#[test]
fn an_owned_table_is_nobody_elses_and_outlives_its_owner() {
    let (net, mut first) = open();
    let mut table = table(Family::V4);
    table.flags.owner = true;
    table.flags.persist = true;
    let make = || {
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch
    };
    match first.commit(make()) {
        Ok(()) => {}
        // A kernel before 6.9.
        Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => return,
        Err(error) => panic!("{error}"),
    }
    let mut second = Connection::in_namespace(net.as_fd()).unwrap();
    let error = second.commit(make()).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::PERM), "{error}");
    nft(&net, &["flush", "ruleset"]);
    assert_eq!(second.tables(Family::V4).unwrap(), vec![table.clone()]);

    drop(first);
    let orphan = &second.tables(Family::V4).unwrap()[0];
    assert!(!orphan.flags.owner && orphan.flags.persist);
    second.commit(make()).unwrap();
    assert_eq!(second.tables(Family::V4).unwrap(), vec![table.clone()]);
    nft(&net, &["list", "ruleset"]);
}
