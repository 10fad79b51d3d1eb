//! Changes of rules by others, as the kernel tells of them.
#![expect(clippy::expect_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use weft_sys::namespace;
use weft_sys::nft::{
    Batch, Change, Connection, Event, Family, Notifications, Table, TableFlags, TableName,
};
use weft_sys::xtables;

fn run(net: &OwnedFd, program: &str, arguments: &[&str]) {
    let output = namespace::command_in(net.as_fd(), program)
        .expect("the namespace")
        .args(arguments)
        .output()
        .expect("the program is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

fn table(family: Family, name: &str) -> TableName {
    TableName::new(family, name)
}

#[test]
fn each_change_of_nf_tables_is_told_with_its_author() {
    let net = namespace::new_net().expect("a network namespace");
    let mut notifications = Notifications::in_namespace(net.as_fd()).expect("a socket");
    assert_eq!(notifications.take().expect("nothing"), None);

    let mut connection = Connection::in_namespace(net.as_fd()).expect("a socket");
    let mut batch = Batch::new();
    batch.add_table(&Table {
        name: table(Family::V4, "ours"),
        flags: TableFlags::default(),
        comment: None,
    });
    connection.commit(batch).expect("a table");
    let own = connection.port().expect("a port");
    assert_ne!(own, 0);
    let change = Change {
        by: own,
        table: table(Family::V4, "ours"),
        chain: None,
    };
    assert_eq!(
        notifications.take().expect("a change"),
        Some(Event::Changed(change))
    );
    assert_eq!(notifications.take().expect("nothing"), None);

    let rules = "add table ip6 other; add chain ip6 other c; add rule ip6 other c accept; \
                 add set ip6 other s { type ipv6_addr; }; flush chain ip6 other c";
    run(&net, "nft", &[rules]);
    let mut found = Vec::new();
    while let Some(event) = notifications.take().expect("changes") {
        match event {
            Event::Changed(change) => found.push(change),
            Event::Overflow => found.clear(),
        }
    }
    let author = found.first().map(|change| change.by);
    assert_ne!(author, Some(own));
    assert!(found.iter().all(|change| Some(change.by) == author));
    assert!(
        found
            .iter()
            .all(|change| change.table == table(Family::V6, "other"))
    );
    let chains: BTreeSet<_> = found.iter().map(|change| change.chain.as_deref()).collect();
    // The table and its set; the chain and its rule.
    assert_eq!(chains, [None, Some("c")].into());

    run(&net, "nft", &["delete table ip ours"]);
    let authors = notifications.authors(|change| change.table.name == "other");
    assert_eq!(authors.expect("changes"), Some([].into()));
}

#[test]
fn legacy_tables_have_another_shape_with_other_rules() {
    let net = namespace::new_net().expect("a network namespace");
    let shape = |family| {
        let shape = namespace::in_net(net.as_fd(), move || xtables::shape(family, "nat"));
        shape.expect("the namespace").expect("a shape")
    };
    run(
        &net,
        "iptables-legacy",
        &["-t", "nat", "-N", "KUBE-SERVICES"],
    );
    let before = shape(xtables::Family::V4);
    assert_eq!(shape(xtables::Family::V4), before);
    let six = shape(xtables::Family::V6);
    let jump = ["-t", "nat", "-A", "PREROUTING", "-j", "KUBE-SERVICES"];
    run(&net, "iptables-legacy", &jump);
    let with_jump = shape(xtables::Family::V4);
    assert_ne!(with_jump, before);
    assert_eq!(shape(xtables::Family::V6), six);
    run(&net, "iptables-legacy", &["-t", "nat", "-F"]);
    assert_eq!(shape(xtables::Family::V4), before);
    run(&net, "iptables-legacy", &["-t", "nat", "-X"]);
    assert_ne!(shape(xtables::Family::V4), before);
    let none = namespace::in_net(net.as_fd(), || {
        xtables::shape(xtables::Family::V4, "none such")
    });
    assert!(none.expect("the namespace").is_err());
}
