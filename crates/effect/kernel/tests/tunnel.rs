//! Tunnels against the kernel: two nodes on one wire, in namespaces of the tests' own.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use ipnet::IpNet;
use weft_desired::{
    Entry, IpFamily, NextHop, Origin, Route, RouteKey, RouteOwner, Table, Tunnel, TunnelPeer,
    difference, mark,
};
use weft_kernel::route;
use weft_kernel::sysctl::{self, ReversePath, Scope, Setting};
use weft_kernel::tunnel::{self, Problem, Report};
use weft_sys::namespace;
use weft_sys::rtnl::{AddressFlags, Conversation, LinkChange, Mac, VethSpec};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn entry<T>(value: T) -> Entry<T> {
    let origin = Origin {
        kind: "Node",
        namespace: "".into(),
        name: "test".into(),
        generation: 0,
    };
    Entry { value, origin }
}

struct Node {
    number: u8,
    namespace: OwnedFd,
    conversation: Conversation,
}

/// Two nodes, 1 and 2, that reach each other at `172.30.0.N` and `fd00:172:30::N`.
fn nodes() -> [Node; 2] {
    let mut nodes = [1, 2].map(|number| {
        let namespace = namespace::new_net().unwrap();
        let conversation = Conversation::in_namespace(namespace.as_fd()).unwrap();
        Node {
            number,
            namespace,
            conversation,
        }
    });
    let [first, second] = &mut nodes;
    let wire = VethSpec {
        peer_namespace: Some(second.namespace.as_fd()),
        ..VethSpec::new("eth0", "eth0")
    };
    first.conversation.add_veth(wire).unwrap();
    for node in &mut nodes {
        let flags = AddressFlags {
            no_duplicate_detection: true,
            ..AddressFlags::default()
        };
        for (link, addresses) in [
            ("lo", vec![]),
            ("eth0", vec!["172.30.0.N/24", "fd00:172:30::N/64"]),
        ] {
            let index = node.conversation.link_by_name(link).unwrap().index;
            node.conversation.set_up(index).unwrap();
            for address in addresses {
                let address = address.replace('N', &node.number.to_string());
                let address: IpNet = address.parse().unwrap();
                node.conversation
                    .add_address(index, address, flags)
                    .unwrap();
            }
        }
    }
    nodes
}

/// A pod range of a node, by its first address.
fn range(family: IpFamily, node: u8) -> IpAddr {
    ip(&match family {
        IpFamily::V4 => format!("10.244.{node}.0"),
        IpFamily::V6 => format!("fd00:10:244:{node}::"),
    })
}

fn outer(family: IpFamily, node: u8) -> IpAddr {
    ip(&match family {
        IpFamily::V4 => format!("172.30.0.{node}"),
        IpFamily::V6 => format!("fd00:172:30::{node}"),
    })
}

fn mac(family: IpFamily, node: u8) -> [u8; 6] {
    [2, 0, 0, 0, if family == IpFamily::V4 { 4 } else { 6 }, node]
}

fn tunnels(node: u8) -> Table<IpFamily, Tunnel> {
    IpFamily::BOTH
        .map(|family| {
            let (name, mtu) = match family {
                IpFamily::V4 => ("flannel.7", 1450),
                IpFamily::V6 => ("flannel-v6.7", 1430),
            };
            let tunnel = Tunnel {
                name: name.into(),
                vni: 7,
                port: 8472,
                local: outer(family, node),
                mac: mac(family, node),
                address: range(family, node),
                mtu,
            };
            (family, entry(tunnel))
        })
        .into()
}

fn peers(of: u8) -> Table<IpAddr, TunnelPeer> {
    IpFamily::BOTH
        .map(|family| {
            let peer = TunnelPeer {
                mac: mac(family, of),
                remote: outer(family, of),
            };
            (range(family, of), entry(peer))
        })
        .into()
}

fn routes(to: u8) -> Table<RouteKey, Route> {
    tunnels(to)
        .into_iter()
        .map(|(family, tunnel)| {
            let length = if family == IpFamily::V4 { 24 } else { 64 };
            let key = RouteKey {
                owner: RouteOwner::Fabric,
                destination: IpNet::new(range(family, to), length).unwrap(),
            };
            let next_hop = NextHop::OnLink {
                address: range(family, to),
                device: tunnel.value.name,
            };
            (key, entry(Route::from(next_hop)))
        })
        .collect()
}

impl Node {
    fn other(&self) -> u8 {
        3 - self.number
    }

    /// Settings are those of the thread's namespace.
    fn inside<T: Send>(&mut self, work: impl FnOnce(&mut Conversation) -> T + Send) -> T {
        let conversation = &mut self.conversation;
        namespace::in_net(self.namespace.as_fd(), move || work(conversation)).unwrap()
    }

    fn raise(&mut self) -> Report {
        let (tunnels, peers) = (tunnels(self.number), peers(self.other()));
        self.inside(|conversation| tunnel::raise(conversation, &tunnels, &peers).unwrap())
    }

    fn route(&mut self) {
        let routes = routes(self.other());
        let report = route::reconcile(&mut self.conversation, RouteOwner::Fabric, &routes).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }

    /// What a command prints on the node.
    fn printed(&self, command: &[&str]) -> String {
        let mut program = namespace::command_in(self.namespace.as_fd(), command[0]).unwrap();
        let output = program.args(&command[1..]).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether the other node's device answers.
    fn reaches(&self, family: IpFamily) -> bool {
        let to = range(family, self.other()).to_string();
        let mut ping = namespace::command_in(self.namespace.as_fd(), "ping").unwrap();
        let output = ping.args(["-c", "1", "-W", "5", &to]).output().unwrap();
        output.status.success()
    }
}

fn connected() -> [Node; 2] {
    let mut nodes = nodes();
    for node in &mut nodes {
        let report = node.raise();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        node.route();
    }
    nodes
}

#[test]
fn packets_go_in_the_form_that_other_nodes_expect() {
    let [first, second] = connected();
    second.printed(&["nft", "add table inet seen"]);
    second.printed(&[
        "nft",
        "add chain inet seen in { type filter hook input priority -300; }",
    ]);
    // RFC 7348, 5: flags at the 64th bit behind the UDP header's start, the identifier at the
    // 96th, the inner Ethernet header with the destination first at the 128th.
    let said = "udp dport 8472 @th,64,8 0x08 @th,96,24 7";
    for rule in [
        format!("ip saddr 172.30.0.1 ip daddr 172.30.0.2 {said} @th,128,48 0x020000000402 counter"),
        format!(
            "ip6 saddr fd00:172:30::1 ip6 daddr fd00:172:30::2 {said} @th,128,48 0x020000000602 \
             counter"
        ),
    ] {
        second.printed(&["nft", &format!("add rule inet seen in {rule}")]);
    }
    for family in IpFamily::BOTH {
        assert!(first.reaches(family), "{family}");
    }
    let rules = second.printed(&["nft", "list table inet seen"]);
    let counted = rules.matches("counter packets").count();
    assert_eq!(counted, 2, "{rules}");
    assert!(!rules.contains("counter packets 0 "), "{rules}");
}

#[test]
fn what_stands_is_left_alone_and_what_was_damaged_comes_back() {
    let [mut first, _second] = connected();
    assert_eq!(first.raise().writes, 0);
    let damages: [&[&str]; 9] = [
        &["ip", "link", "del", "flannel.7"],
        &["ip", "link", "set", "flannel-v6.7", "down"],
        &[
            "ip",
            "neigh",
            "flush",
            "nud",
            "permanent",
            "dev",
            "flannel.7",
        ],
        &[
            "ip",
            "neigh",
            "del",
            "fd00:10:244:2::",
            "dev",
            "flannel-v6.7",
        ],
        &[
            "bridge",
            "fdb",
            "del",
            "02:00:00:00:04:02",
            "dev",
            "flannel.7",
            "dst",
            "172.30.0.2",
        ],
        &[
            "ip",
            "link",
            "set",
            "flannel.7",
            "address",
            "02:11:11:11:11:11",
        ],
        &["ip", "addr", "del", "10.244.1.0/32", "dev", "flannel.7"],
        &["ip", "link", "set", "flannel.7", "mtu", "1400"],
        &[
            "bridge",
            "fdb",
            "replace",
            "02:00:00:00:04:02",
            "dev",
            "flannel.7",
            "dst",
            "172.30.0.9",
        ],
    ];
    for damage in damages {
        first.printed(damage);
        let report = first.raise();
        assert!(report.writes > 0, "{damage:?}");
        assert!(
            report.problems.is_empty(),
            "{damage:?}: {:?}",
            report.problems
        );
        first.route();
        assert_eq!(first.raise().writes, 0, "{damage:?}");
        for family in IpFamily::BOTH {
            assert!(first.reaches(family), "{damage:?} {family}");
        }
        let shown = first.printed(&["ip", "-o", "link", "show", "flannel.7"]);
        assert!(shown.contains(" mtu 1450 "), "{damage:?}: {shown}");
    }
}

#[test]
fn who_leaves_and_what_is_not_wanted_any_more_goes() {
    let [mut first, _second] = connected();
    let (tunnels, none) = (tunnels(1), Table::new());
    let clear = |node: &mut Node, tunnels: &_, peers: &_| {
        tunnel::clear(&mut node.conversation, tunnels, peers).unwrap()
    };
    let report = clear(&mut first, &tunnels, &none);
    assert_eq!((report.writes, report.problems.len()), (4, 0));
    for device in ["flannel.7", "flannel-v6.7"] {
        let neighbours = first.printed(&["ip", "neigh", "show", "dev", device, "nud", "permanent"]);
        let entries = first.printed(&["bridge", "fdb", "show", "dev", device]);
        assert_eq!((neighbours.as_str(), entries.as_str()), ("", ""));
    }
    // Of somebody else.
    first.printed(&[
        "ip", "link", "add", "vx", "type", "vxlan", "id", "9", "dstport", "8472",
    ]);
    let report = clear(&mut first, &Table::new(), &none);
    assert_eq!((report.writes, report.problems.len()), (2, 0));
    let left = first.printed(&["ip", "-br", "link", "show", "type", "vxlan"]);
    assert!(
        left.starts_with("vx ") && left.lines().count() == 1,
        "{left}"
    );
}

#[test]
fn flannels_own_device_is_taken_over_and_other_devices_are_not() {
    let [mut first, mut second] = nodes();
    // As flannel makes it.
    first.printed(&[
        "ip",
        "link",
        "add",
        "flannel.7",
        "address",
        "b2:6d:b8:0c:ff:0a",
        "type",
        "vxlan",
        "id",
        "7",
        "dev",
        "eth0",
        "local",
        "172.30.0.1",
        "dstport",
        "8472",
        "nolearning",
    ]);
    let index = first.conversation.link_by_name("flannel.7").unwrap().index;
    let report = first.raise();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let link = first.conversation.link_by_name("flannel.7").unwrap();
    assert_eq!(link.index, index);
    assert_eq!(link.mac, Some(Mac(mac(IpFamily::V4, 1))));
    assert_eq!(link.alias.as_deref(), Some(mark::TUNNEL_ALIAS));

    second.printed(&["ip", "link", "add", "flannel.7", "type", "bridge"]);
    second.printed(&[
        "ip",
        "link",
        "add",
        "vx6",
        "type",
        "vxlan",
        "id",
        "7",
        "dev",
        "eth0",
        "local",
        "fd00:172:30::2",
        "dstport",
        "8472",
    ]);
    let report = second.raise();
    let problems = &report.problems;
    assert!(
        matches!(
            &problems[..],
            [
                Problem::NameTaken { .. },
                Problem::IdentifierTaken {
                    vni: 7,
                    port: 8472,
                    ..
                }
            ]
        ),
        "{problems:?}"
    );
    let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(
        words[0].contains("there is a bridge device of this name"),
        "{words:?}"
    );
    let kinds = second.printed(&["ip", "-br", "link", "show", "type", "vxlan"]);
    assert!(kinds.starts_with("vx6"), "{kinds}");
}

#[test]
fn a_node_without_its_address_has_no_tunnel_until_it_has() {
    let [mut first, _second] = nodes();
    let index = first.conversation.link_by_name("eth0").unwrap().index;
    let address: IpNet = "172.30.0.1/24".parse().unwrap();
    first.conversation.delete_address(index, address).unwrap();
    let report = first.raise();
    assert!(matches!(&report.problems[..], [Problem::NoUplink { .. }]));
    assert_eq!(report.devices.len(), 1);
    let flags = AddressFlags::default();
    first
        .conversation
        .add_address(index, address, flags)
        .unwrap();
    assert!(first.raise().problems.is_empty());
    // What the link is named is nothing to it.
    first
        .conversation
        .set_link(
            index,
            LinkChange {
                name: Some("eth1"),
                ..LinkChange::default()
            },
        )
        .unwrap();
    assert_eq!(first.raise().writes, 0);
}

/// As when a cluster changes from routes to tunnels, and back.
#[test]
fn a_route_to_a_node_becomes_one_through_its_tunnel_in_place() {
    let [mut first, _second] = nodes();
    let direct: Table<RouteKey, Route> = routes(2)
        .into_keys()
        .map(|key| {
            let address = outer(IpFamily::of(key.destination.addr()), 2);
            (key, entry(NextHop::Gateway { address }.into()))
        })
        .collect();
    let mut tunnelled = routes(2);
    let destination = IpNet::from(range(IpFamily::V6, 2));
    let key = RouteKey {
        owner: RouteOwner::Fabric,
        destination,
    };
    let device = "flannel-v6.7".into();
    tunnelled.insert(key, entry(NextHop::Link { device }.into()));
    for (desired, counts) in [
        (&direct, (2, 0, 0)),
        (&tunnelled, (1, 2, 0)),
        (&direct, (0, 2, 1)),
    ] {
        first.raise();
        let report =
            route::reconcile(&mut first.conversation, RouteOwner::Fabric, desired).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!((report.added, report.changed, report.removed), counts);
    }
}

#[test]
fn a_strict_filter_lets_pass_what_is_answered_through_the_tunnel() {
    let [mut first, mut second] = nodes();
    for node in [&mut first, &mut second] {
        node.inside(|_| {
            for scope in [Scope::All, Scope::Default, Scope::Link("eth0")] {
                let strict = Setting::ReversePathFilter(scope, ReversePath::Strict);
                sysctl::set(strict).unwrap();
            }
        });
        assert!(node.raise().problems.is_empty());
        node.route();
    }
    // A pod's packet to the other node itself comes directly.
    let pod: IpNet = "10.244.1.7/32".parse().unwrap();
    let index = first.conversation.link_by_name("lo").unwrap().index;
    let flags = AddressFlags::default();
    first.conversation.add_address(index, pod, flags).unwrap();
    first.printed(&[
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        "-I",
        "10.244.1.7",
        "172.30.0.2",
    ]);
    // Somebody makes it strict again.
    second.inside(|_| {
        let strict = Setting::ReversePathFilter(Scope::Link("flannel.7"), ReversePath::Strict);
        assert!(sysctl::set(strict).unwrap());
    });
    assert_eq!(second.raise().writes, 1);
}

#[test]
fn what_flannel_left_in_the_routes_becomes_ours_or_goes() {
    let [mut first, _second] = nodes();
    first.raise();
    for route in [
        "10.244.2.0/24 via 10.244.2.0",
        "10.244.9.0/24 via 10.244.9.0",
    ] {
        let route = [
            &["ip", "route", "add"],
            &route.split(' ').collect::<Vec<_>>()[..],
        ]
        .concat();
        first.printed(&[&route[..], &["dev", "flannel.7", "onlink"]].concat());
    }
    let routes = routes(2);
    let conversation = &mut first.conversation;
    let report = route::reconcile(conversation, RouteOwner::Fabric, &routes).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!((report.added, report.changed, report.removed), (1, 1, 1));
    let shown = first.printed(&["ip", "route", "show", "dev", "flannel.7"]);
    assert_eq!(shown.trim(), "10.244.2.0/24 via 10.244.2.0 proto 72 onlink");
}

#[test]
fn steps_between_two_states_end_where_a_pass_would() {
    let [mut first, _second] = connected();
    let stood = peers(2);
    let devices = first.raise().devices;
    let mut wanted = stood.clone();
    // One has another Ethernet address and moves, one comes; then that one goes.
    let other = range(IpFamily::V4, 2);
    let moved = TunnelPeer {
        mac: [2, 0, 0, 0, 9, 2],
        remote: ip("172.30.0.9"),
    };
    wanted.insert(other, entry(moved));
    let comes = TunnelPeer {
        mac: [2, 0, 0, 0, 9, 3],
        remote: ip("172.30.0.3"),
    };
    wanted.insert(range(IpFamily::V4, 3), entry(comes));
    // It is made anew with another range, and has the Ethernet address and the node's that it had.
    let mut renewed = stood.clone();
    let same = renewed.remove(&other).unwrap();
    renewed.insert(range(IpFamily::V4, 4), same);
    for (from, to, removed) in [
        (&stood, &wanted, 1),
        (&wanted, &stood, 3),
        (&wanted, &stood, 0),
        (&stood, &renewed, 1),
    ] {
        let from = from.iter().map(|(key, peer)| (*key, peer.value.clone()));
        let from: BTreeMap<IpAddr, TunnelPeer> = from.collect();
        let steps = difference(&from, to, |have, want| *have == want.value);
        let writes = first.inside(|conversation| {
            let added = tunnel::add_peers(conversation, &devices, &steps).unwrap();
            assert!(added > 0);
            tunnel::remove_peers(conversation, &devices, &steps, to).unwrap()
        });
        // What is gone already is gone.
        assert_eq!(writes, removed);
        // Nothing is missing, nothing too much.
        let written = first.inside(|conversation| {
            let raised = tunnel::raise(conversation, &tunnels(1), to).unwrap();
            let cleared = tunnel::clear(conversation, &tunnels(1), to).unwrap();
            assert!(raised.problems.is_empty() && cleared.problems.is_empty());
            raised.writes + cleared.writes
        });
        assert_eq!(written, 0);
    }
}
