//! Routes against the kernel, in namespaces of the tests' own.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use ipnet::IpNet;
use weft_desired::{Entry, NextHop, Origin, Route, RouteKey, RouteOwner, Table, mark};
use weft_kernel::route::{self, Foreign, Reason};
use weft_sys::namespace;
use weft_sys::rtnl::{self, AddressFlags, Conversation, RouteFilter, RouteSpec, VethSpec};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A namespace with a link `eth0` that has `172.30.0.11/24` and `fd00:172:30::11/64`.
fn node() -> (OwnedFd, Conversation, u32) {
    let namespace = namespace::new_net().unwrap();
    let mut conversation = Conversation::in_namespace(namespace.as_fd()).unwrap();
    let index = conversation.add_veth(VethSpec::new("eth0", "far")).unwrap();
    let far = conversation.link_by_name("far").unwrap().index;
    conversation.set_up(index).unwrap();
    conversation.set_up(far).unwrap();
    let flags = AddressFlags {
        no_duplicate_detection: true,
        ..AddressFlags::default()
    };
    for address in ["172.30.0.11/24", "fd00:172:30::11/64"] {
        conversation
            .add_address(index, net(address), flags)
            .unwrap();
    }
    (namespace, conversation, index)
}

fn table<'a>(
    owner: RouteOwner,
    routes: impl IntoIterator<Item = (&'a str, NextHop)>,
) -> Table<RouteKey, Route> {
    routes
        .into_iter()
        .map(|(destination, next_hop)| {
            let key = RouteKey {
                owner,
                destination: net(destination),
            };
            let entry = Entry {
                value: next_hop.into(),
                origin: Origin {
                    kind: "Node",
                    namespace: "".into(),
                    name: "test".into(),
                    generation: 0,
                },
            };
            (key, entry)
        })
        .collect()
}

fn via(gateway: &str) -> NextHop {
    NextHop::Gateway {
        address: gateway.parse().unwrap(),
    }
}

fn fabric() -> Table<RouteKey, Route> {
    table(
        RouteOwner::Fabric,
        [
            ("10.244.1.0/24", NextHop::Unreachable),
            ("10.244.2.0/24", via("172.30.0.12")),
            ("10.244.3.0/24", via("172.30.0.13")),
            ("fd00:10:244:1::/64", NextHop::Unreachable),
            ("fd00:10:244:2::/64", via("fd00:172:30::12")),
            (
                "10.244.4.0/24",
                NextHop::OnLink {
                    address: "192.0.2.1".parse().unwrap(),
                    device: "eth0".into(),
                },
            ),
            (
                "fd00:10:244:4::/64",
                NextHop::OnLink {
                    address: "2001:db8::1".parse().unwrap(),
                    device: "eth0".into(),
                },
            ),
            (
                "10.244.5.0/24",
                NextHop::Link {
                    device: "eth0".into(),
                },
            ),
            (
                "fd00:10:244:5::/64",
                NextHop::Link {
                    device: "eth0".into(),
                },
            ),
        ],
    )
}

#[test]
fn what_was_written_is_read_back_as_desired_says_it() {
    let (_namespace, mut conversation, _) = node();
    let desired = fabric();
    let report = route::reconcile(&mut conversation, RouteOwner::Fabric, &desired).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(
        (report.added, report.changed, report.removed),
        (desired.len(), 0, 0)
    );

    let ours = route::read(&mut conversation).unwrap().ours;
    assert!(ours.keys().eq(desired.keys()));
    assert!(ours.values().eq(desired.values().map(|entry| &entry.value)));

    let again = route::reconcile(&mut conversation, RouteOwner::Fabric, &desired).unwrap();
    assert!(
        again.is_unchanged() && again.problems.is_empty(),
        "{again:?}"
    );
}

#[test]
fn only_the_difference_is_written() {
    let (_namespace, mut conversation, _) = node();
    let mut desired = fabric();
    route::reconcile(&mut conversation, RouteOwner::Fabric, &desired).unwrap();

    let key = |text| RouteKey {
        owner: RouteOwner::Fabric,
        destination: net(text),
    };
    desired.remove(&key("10.244.2.0/24"));
    desired.remove(&key("fd00:10:244:2::/64"));
    for (text, next_hop) in [
        ("10.244.3.0/24", via("172.30.0.33")),
        ("10.244.1.0/24", via("172.30.0.34")),
        ("fd00:10:244:1::/64", via("fd00:172:30::34")),
        ("10.244.5.0/24", NextHop::Unreachable),
        ("fd00:10:244:5::/64", NextHop::Unreachable),
        ("10.244.9.0/24", via("172.30.0.19")),
    ] {
        desired.extend(table(RouteOwner::Fabric, [(text, next_hop)]));
    }
    let report = route::reconcile(&mut conversation, RouteOwner::Fabric, &desired).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!((report.added, report.changed, report.removed), (1, 5, 2));

    let report =
        route::reconcile(&mut conversation, RouteOwner::Fabric, &Table::default()).unwrap();
    assert_eq!(report.removed, desired.len());
    assert!(route::read(&mut conversation).unwrap().ours.is_empty());
}

#[test]
fn routes_of_others_are_neither_changed_nor_removed() {
    let (_namespace, mut conversation, eth0) = node();
    let gateway = |address: &str| rtnl::NextHop::Gateway {
        address: address.parse().unwrap(),
        device: Some(eth0),
        on_link: false,
    };
    let foreign = [
        RouteSpec::new(net("10.244.2.0/24"), gateway("172.30.0.99"), 4),
        RouteSpec {
            metric: Some(77),
            ..RouteSpec::new(net("10.244.3.0/24"), gateway("172.30.0.99"), 99)
        },
        RouteSpec::new(net("fd00:10:244:2::/64"), gateway("fd00:172:30::99"), 4),
        RouteSpec::new(net("0.0.0.0/0"), gateway("172.30.0.1"), 3),
        RouteSpec::new(net("192.0.2.0/24"), gateway("172.30.0.1"), 17),
    ];
    for spec in &foreign {
        conversation.add_route(spec).unwrap();
    }
    // The pods' routes are ours, but not the fabric's.
    let pods = table(RouteOwner::Pod, [("10.244.1.7/32", via("172.30.0.77"))]);
    route::reconcile(&mut conversation, RouteOwner::Pod, &pods).unwrap();
    let others = |conversation: &mut Conversation| {
        let mut routes = conversation.routes(RouteFilter::default()).unwrap();
        routes.retain(|route| route.protocol != mark::ROUTE_FABRIC);
        routes
    };
    let before = others(&mut conversation);

    let report = route::reconcile(&mut conversation, RouteOwner::Fabric, &fabric()).unwrap();
    let mut conflicts: Vec<_> = report
        .problems
        .iter()
        .map(|problem| match &problem.reason {
            Reason::Conflict(foreign) => (problem.key.destination.to_string(), foreign.clone()),
            Reason::NoDevice(_) | Reason::Refused(_) | Reason::NotThere => panic!("{problem}"),
        })
        .collect();
    conflicts.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        conflicts,
        [
            (
                "10.244.2.0/24".to_owned(),
                Foreign {
                    protocol: 4,
                    metric: 0
                }
            ),
            (
                "10.244.3.0/24".to_owned(),
                Foreign {
                    protocol: 99,
                    metric: 77
                }
            ),
            (
                "fd00:10:244:2::/64".to_owned(),
                Foreign {
                    protocol: 4,
                    metric: 1024
                }
            ),
        ]
    );
    assert!(
        report.problems[0].to_string().contains("not weft's"),
        "{}",
        report.problems[0]
    );
    assert_eq!(report.added, fabric().len() - 3);
    assert_eq!(others(&mut conversation), before);

    route::reconcile(&mut conversation, RouteOwner::Fabric, &Table::default()).unwrap();
    assert_eq!(others(&mut conversation), before);
}

#[test]
fn a_conflict_that_goes_away_is_healed_by_the_next_pass() {
    let (_namespace, mut conversation, eth0) = node();
    let foreign = RouteSpec::new(
        net("10.244.2.0/24"),
        rtnl::NextHop::Link { device: eth0 },
        4,
    );
    conversation.add_route(&foreign).unwrap();
    let desired = table(RouteOwner::Fabric, [("10.244.2.0/24", via("172.30.0.12"))]);
    let report = route::reconcile(&mut conversation, RouteOwner::Fabric, &desired).unwrap();
    assert_eq!((report.added, report.problems.len()), (0, 1));
    conversation.delete_route(&foreign).unwrap();
    let report = route::reconcile(&mut conversation, RouteOwner::Fabric, &desired).unwrap();
    assert_eq!((report.added, report.problems.len()), (1, 0));
}

#[test]
fn what_can_not_be_written_is_reported_and_keeps_nothing_else_back() {
    let (_namespace, mut conversation, _) = node();
    let desired = table(
        RouteOwner::Fabric,
        [
            ("10.244.2.0/24", via("198.51.100.1")),
            (
                "10.244.3.0/24",
                NextHop::Link {
                    device: "absent0".into(),
                },
            ),
            ("10.244.4.0/24", via("172.30.0.14")),
        ],
    );
    let report = route::reconcile(&mut conversation, RouteOwner::Fabric, &desired).unwrap();
    assert_eq!(report.added, 1);
    let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems
            .iter()
            .any(|p| p == "route 10.244.3.0/24: there is no device absent0")
    );
    assert!(
        problems
            .iter()
            .any(|p| p.contains("Network is unreachable")),
        "{problems:?}"
    );
}

#[test]
fn leftovers_in_a_form_that_is_never_written_go() {
    let (namespace, mut conversation, eth0) = node();
    for spec in [
        RouteSpec {
            metric: Some(5),
            ..RouteSpec::new(
                net("10.244.9.0/24"),
                rtnl::NextHop::Link { device: eth0 },
                mark::ROUTE_FABRIC,
            )
        },
        RouteSpec::new(
            net("10.244.8.0/24"),
            rtnl::NextHop::Blackhole,
            mark::ROUTE_FABRIC,
        ),
        RouteSpec::new(
            net("fd00:8::/64"),
            rtnl::NextHop::Blackhole,
            mark::ROUTE_FABRIC,
        ),
    ] {
        conversation.add_route(&spec).unwrap();
    }
    for route in [
        "prohibit 10.244.7.0/24 proto 72",
        "throw fd00:7::/64 proto 72",
        "10.244.6.0/24 proto 72 nexthop via 172.30.0.12 nexthop via 172.30.0.13",
    ] {
        let mut arguments = vec!["route", "add"];
        arguments.extend(route.split(' '));
        let added = namespace::in_net(namespace.as_fd(), || {
            Command::new("ip").args(arguments).status()
        });
        assert!(added.unwrap().unwrap().success(), "{route}");
    }
    let report =
        route::reconcile(&mut conversation, RouteOwner::Fabric, &Table::default()).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(report.removed, 6);
    let left = conversation.routes(RouteFilter::default()).unwrap();
    assert!(
        left.iter()
            .all(|route| route.protocol != mark::ROUTE_FABRIC),
        "{left:?}"
    );
}

#[test]
fn a_destination_goes_from_one_owner_to_the_other() {
    let (_namespace, mut conversation, _) = node();
    let pods = table(RouteOwner::Pod, [("10.244.1.7/32", via("172.30.0.12"))]);
    route::reconcile(&mut conversation, RouteOwner::Pod, &pods).unwrap();
    let actual = route::read(&mut conversation).unwrap();
    let fabric_wants = table(RouteOwner::Fabric, [("10.244.1.7/32", via("172.30.0.13"))]);
    let wanted = fabric_wants
        .into_iter()
        .map(|(key, entry)| (key, entry.value))
        .collect();
    let steps = weft_desired::difference(&actual.ours, &wanted, |a, b| a == b);
    let report = route::apply(&mut conversation, &actual, &steps).unwrap();
    assert_eq!((report.added, report.removed), (1, 1), "{report:?}");
    let routes = conversation.routes(RouteFilter::default()).unwrap();
    assert!(routes.iter().any(|r| r.protocol == mark::ROUTE_FABRIC));
    assert!(routes.iter().all(|r| r.protocol != mark::ROUTE_POD));
}

#[test]
fn a_link_that_went_down_and_took_its_routes_along_gets_them_back() {
    let (_namespace, mut conversation, eth0) = node();
    let desired = fabric();
    route::reconcile(&mut conversation, RouteOwner::Fabric, &desired).unwrap();
    conversation.set_down(eth0).unwrap();
    conversation.set_up(eth0).unwrap();
    let flags = AddressFlags {
        no_duplicate_detection: true,
        ..AddressFlags::default()
    };
    conversation
        .add_address(eth0, net("fd00:172:30::11/64"), flags)
        .unwrap();
    let report = route::reconcile(&mut conversation, RouteOwner::Fabric, &desired).unwrap();
    assert!(
        report.added >= 4 && report.problems.is_empty(),
        "{report:?}"
    );
    assert!(
        route::read(&mut conversation)
            .unwrap()
            .ours
            .keys()
            .eq(desired.keys())
    );
}
