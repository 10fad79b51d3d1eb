//! Changes by others to a table that nobody owns, as every table is before Linux 6.9.

use std::os::fd::AsFd;

use weft_desired::{
    Backend, Entry, Frontend, FrontendKey, NodeNat, Origin, Protocol, Table as Entries,
};
use weft_kernel::service::{IpFamily, ServiceTable};
use weft_netlab::Namespace;
use weft_sys::nft::{Connection, Notifications};

fn web() -> (FrontendKey, Entry<Frontend>) {
    let key = FrontendKey {
        address: [10, 96, 0, 10].into(),
        protocol: Protocol::Tcp,
        port: 80,
    };
    let backend = Backend {
        address: [10, 244, 1, 2].into(),
        port: 8080,
    };
    let value = Frontend::new("default/web".into(), [backend].into());
    let origin = Origin {
        kind: "Service",
        namespace: "default".into(),
        name: "web".into(),
        generation: 1,
    };
    (key, Entry { value, origin })
}

#[test]
fn others_are_noticed_and_own_changes_are_not() {
    let node = Namespace::new("node").unwrap();
    let nft = |arguments: &str| {
        let arguments = arguments.split(' ').collect::<Vec<_>>();
        node.output("nft", arguments).unwrap()
    };
    for family in ["ip", "ip6"] {
        nft(&format!("add table {family} weft"));
    }
    let connection = Connection::in_namespace(node.as_fd()).unwrap();
    let mut table = ServiceTable::adopt(connection, &IpFamily::BOTH).unwrap();
    assert!(!table.is_owned().unwrap());
    let notifications = Notifications::in_namespace(node.as_fd()).unwrap();
    table.watch(notifications).unwrap();
    let (nat, none) = (NodeNat::default(), Entries::new());
    table.reconcile(&none, &nat).unwrap();
    let (key, entry) = web();
    table.apply([(key, Some(&entry.value))]).unwrap();
    let desired = Entries::from([(key, entry)]);
    assert!(!table.disturbed().unwrap());

    // Who has tables of their own disturbs nobody.
    nft("add table ip other");
    nft("add table ip weft-host-ports");
    assert!(!table.disturbed().unwrap());
    for damage in [
        "flush table ip weft",
        "flush chain ip weft pick",
        "flush set ip weft service-addresses",
        "add chain ip weft theirs",
    ] {
        nft(damage);
        assert!(table.disturbed().unwrap(), "{damage}");
        // Until it is repaired.
        assert!(table.disturbed().unwrap(), "{damage}");
        let report = table.reconcile(&desired, &nat).unwrap();
        assert!(report.transactions > 0, "{damage}");
        assert!(!table.disturbed().unwrap(), "{damage}");
        // All that is there was read, and nothing of it differs.
        let again = table.reconcile(&desired, &nat).unwrap();
        assert_eq!(
            (again.transactions, again.rebuilt),
            (0, Vec::new()),
            "{damage}"
        );
    }
    // One made anew is owned, where the kernel can.
    nft("delete table ip weft");
    nft("delete table ip6 weft");
    assert!(table.disturbed().unwrap());
    table.reconcile(&desired, &nat).unwrap();
    assert!(table.is_owned().unwrap());
}
