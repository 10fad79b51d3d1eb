//! rtnetlink against the kernel, in network namespaces of the tests' own.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use weft_sys::namespace;
use weft_sys::rtnl::{
    AddressFlags, Batch, BridgeSpec, Conversation, Error, Event, Forwarding, Group, LinkChange,
    Mac, NeighbourState, NextHop, Notifications, RouteFilter, RouteSpec, VethSpec, Vxlan,
    VxlanSpec,
};

const OURS: u8 = 71;
const OTHERS: u8 = 99;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A namespace and a conversation about it.
fn namespace() -> (OwnedFd, Conversation) {
    let namespace = namespace::new_net().unwrap();
    let conversation = Conversation::in_namespace(namespace.as_fd()).unwrap();
    (namespace, conversation)
}

/// A namespace with a veth pair in it, both ends up, `10.0.0.1/24` and `fd00::1/64` on one.
fn wired() -> (OwnedFd, Conversation, u32) {
    let (namespace, mut conversation) = namespace();
    let veth = conversation.add_veth(VethSpec::new("a", "b")).unwrap();
    let peer = conversation.link_by_name("b").unwrap().index;
    for index in [veth, peer] {
        conversation.set_up(index).unwrap();
    }
    let flags = AddressFlags {
        no_duplicate_detection: true,
        ..AddressFlags::default()
    };
    for address in ["10.0.0.1/24", "fd00::1/64"] {
        conversation.add_address(veth, net(address), flags).unwrap();
    }
    (namespace, conversation, veth)
}

/// What a program in a namespace prints.
fn printed(namespace: &OwnedFd, program: &str, arguments: &[&str]) -> String {
    let mut command = namespace::command_in(namespace.as_fd(), program).unwrap();
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn via(destination: &str, gateway: &str, protocol: u8) -> RouteSpec {
    RouteSpec::new(
        net(destination),
        NextHop::Gateway {
            address: ip(gateway),
            device: None,
            on_link: false,
        },
        protocol,
    )
}

#[test]
fn a_conversation_about_a_namespace_leaves_the_callers_thread_where_it_is() {
    let before = namespace::identity(namespace::current_net().unwrap().as_fd()).unwrap();
    let (_namespace, mut conversation) = namespace();
    let names: Vec<_> = conversation
        .links()
        .unwrap()
        .into_iter()
        .map(|l| l.name)
        .collect();
    assert!(!names.is_empty() && names.iter().all(|name| name == "lo" || name.ends_with('0')));
    let after = namespace::identity(namespace::current_net().unwrap().as_fd()).unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_thread_comes_back_from_a_visit_whatever_happens_there() {
    let here = || namespace::identity(namespace::current_net().unwrap().as_fd()).unwrap();
    let net = namespace::new_net().unwrap();
    let (before, there) = (here(), namespace::identity(net.as_fd()).unwrap());
    assert_eq!(namespace::visit_net(net.as_fd(), here).unwrap(), there);
    assert_eq!(here(), before);
    let visit = || namespace::visit_net(net.as_fd(), || panic!("in the namespace"));
    assert!(std::panic::catch_unwind(visit).is_err());
    assert_eq!(here(), before);
}

#[test]
fn a_veth_pair_is_made_in_two_namespaces_under_its_final_names() {
    let (host_namespace, mut host) = namespace();
    let (pod_namespace, mut pod) = namespace();
    let mac: Mac = "02:00:00:00:00:01".parse().unwrap();
    let peer_mac: Mac = "02:00:00:00:00:02".parse().unwrap();
    let index = host
        .add_veth(VethSpec {
            name: "weft0123456789",
            peer_name: "eth0",
            peer_namespace: Some(pod_namespace.as_fd()),
            mac: Some(mac),
            peer_mac: Some(peer_mac),
            mtu: Some(1450),
            master: None,
        })
        .unwrap();
    assert_eq!(host.index_of("weft0123456789").unwrap(), index);
    assert!(host.index_of("eth0").unwrap_err().is_absent());
    let made = host.link(index).unwrap();
    assert_eq!(made.kind.as_deref(), Some("veth"));
    assert_eq!(made.mac, Some(mac));
    assert_eq!(made.mtu, 1450);
    assert!(!made.up && !made.loopback);

    let peer = pod.link_by_name("eth0").unwrap();
    assert_eq!((peer.mac, peer.mtu), (Some(peer_mac), 1450));
    assert!(host.find_link("eth0").unwrap().is_none());
    // One a core would be the kernel's choice.
    for (namespace, link) in [
        (&host_namespace, "weft0123456789"),
        (&pod_namespace, "eth0"),
    ] {
        let queues = printed(namespace, "ip", &["-details", "link", "show", link]);
        assert!(queues.contains("numtxqueues 1 numrxqueues 1 "), "{queues}");
    }

    host.set_up(index).unwrap();
    pod.set_up(peer.index).unwrap();
    assert!(host.link(index).unwrap().up);

    // One end takes the other with it.
    host.delete_link(index).unwrap();
    assert!(pod.find_link("eth0").unwrap().is_none());
    assert!(host.delete_link(index).unwrap_err().is_absent());
}

#[test]
fn a_pair_whose_name_is_taken_is_refused_and_leaves_no_half() {
    let (_host, mut host) = namespace();
    let (pod_namespace, mut pod) = namespace();
    host.add_veth(VethSpec::new("one", "two")).unwrap();
    let error = host
        .add_veth(VethSpec {
            peer_namespace: Some(pod_namespace.as_fd()),
            ..VethSpec::new("one", "eth0")
        })
        .unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert!(
        error.to_string().contains("veth one with peer eth0"),
        "{error}"
    );
    assert!(pod.find_link("eth0").unwrap().is_none());

    // An alias longer than the kernel takes undoes the link that was made for it.
    let long = "x".repeat(300);
    let error = host
        .add_bridge(BridgeSpec {
            name: "three",
            mac: None,
            mtu: None,
            alias: Some(&long),
        })
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(host.find_link("three").unwrap().is_none());
}

#[test]
fn links_are_changed_and_ports_join_and_leave_a_bridge() {
    let (_namespace, mut conversation) = namespace();
    let bridge = conversation
        .add_bridge(BridgeSpec {
            name: "br0",
            mac: Some("02:00:00:00:00:aa".parse().unwrap()),
            mtu: None,
            alias: Some("weft:bridge"),
        })
        .unwrap();
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));
    let port = conversation.add_veth(VethSpec::new("port", "far")).unwrap();
    conversation.set_master(port, Some(bridge.index)).unwrap();
    let joined = conversation.link(port).unwrap();
    assert_eq!(joined.master, Some(bridge.index));
    assert_eq!(joined.hairpin, Some(false));
    let mut batch = Batch::new();
    batch.set_hairpin(port, true);
    conversation.run_all(&batch).unwrap();
    assert_eq!(conversation.link(port).unwrap().hairpin, Some(true));
    conversation.set_master(port, None).unwrap();
    let left = conversation.link(port).unwrap();
    assert_eq!((left.master, left.hairpin), (None, None));
    // What is no port has no hairpin mode.
    conversation.run_all(&batch).unwrap_err();
    let born = VethSpec {
        master: Some(bridge.index),
        ..VethSpec::new("born", "there")
    };
    let born = conversation.add_veth(born).unwrap();
    assert_eq!(conversation.link(born).unwrap().master, Some(bridge.index));
    conversation
        .set_link(
            port,
            LinkChange {
                name: Some("renamed"),
                mtu: Some(9000),
                alias: Some("new"),
                mac: Some("02:00:00:00:00:bb".parse().unwrap()),
                ..LinkChange::default()
            },
        )
        .unwrap();
    let changed = conversation.link_by_name("renamed").unwrap();
    assert_eq!((changed.index, changed.mtu), (port, 9000));
    assert_eq!(changed.alias.as_deref(), Some("new"));

    let (other, mut there) = namespace();
    conversation
        .set_link(
            port,
            LinkChange {
                namespace: Some(other.as_fd()),
                ..LinkChange::default()
            },
        )
        .unwrap();
    assert!(there.find_link("renamed").unwrap().is_some());
    assert!(conversation.find_link("renamed").unwrap().is_none());
}

#[test]
fn without_a_link_local_address_a_link_comes_up_with_none() {
    let (_namespace, mut conversation) = namespace();
    let a = conversation.add_veth(VethSpec::new("a", "b")).unwrap();
    let b = conversation.link_by_name("b").unwrap().index;
    let quiet = LinkChange {
        up: Some(true),
        link_local_address: Some(false),
        ..LinkChange::default()
    };
    let mut batch = Batch::new();
    batch.set_link(a, quiet).set_link(b, quiet);
    conversation.run_all(&batch).unwrap();
    assert_eq!(conversation.addresses(Some(a)).unwrap(), vec![]);
}

#[test]
fn addresses_of_both_families_come_back_as_they_were_put() {
    let (_namespace, mut conversation, veth) = wired();
    let flags = AddressFlags {
        no_prefix_route: true,
        no_duplicate_detection: true,
    };
    for address in ["10.9.0.1/32", "fd09::1/128", "10.9.1.1/24"] {
        conversation.add_address(veth, net(address), flags).unwrap();
        let error = conversation
            .add_address(veth, net(address), flags)
            .unwrap_err();
        assert!(error.is_exists(), "{error}");
    }
    let mut found: Vec<_> = conversation
        .addresses(Some(veth))
        .unwrap()
        .into_iter()
        .filter(|a| a.flags.no_prefix_route && !a.link_local)
        .map(|a| {
            assert!(!a.tentative);
            a.network.to_string()
        })
        .collect();
    found.sort();
    assert_eq!(found, ["10.9.0.1/32", "10.9.1.1/24", "fd09::1/128"]);
    let routes = conversation.routes(RouteFilter::default()).unwrap();
    assert!(
        routes
            .iter()
            .all(|route| route.destination != net("10.9.1.0/24"))
    );

    conversation
        .delete_address(veth, net("10.9.0.1/32"))
        .unwrap();
    let error = conversation
        .delete_address(veth, net("10.9.0.1/32"))
        .unwrap_err();
    assert!(error.is_absent(), "{error}");
}

#[test]
fn routes_of_every_form_come_back_as_they_were_put() {
    let (_namespace, mut conversation, veth) = wired();
    let specs = [
        via("10.244.1.0/24", "10.0.0.2", OURS),
        via("fd00:10:244:1::/64", "fd00::2", OURS),
        via("0.0.0.0/0", "10.0.0.3", OURS),
        via("::/0", "fd00::3", OURS),
        RouteSpec::new(net("10.244.2.7/32"), NextHop::Link { device: veth }, OURS),
        RouteSpec::new(net("fd00:2::7/128"), NextHop::Link { device: veth }, OURS),
        RouteSpec::new(
            net("10.244.3.0/24"),
            NextHop::Gateway {
                address: ip("169.254.1.1"),
                device: Some(veth),
                on_link: true,
            },
            OURS,
        ),
        RouteSpec::new(
            net("fd00:3::/64"),
            NextHop::Gateway {
                address: ip("fd99::1"),
                device: Some(veth),
                on_link: true,
            },
            OURS,
        ),
        RouteSpec::new(net("10.244.4.0/24"), NextHop::Blackhole, OURS),
        RouteSpec::new(net("fd00:4::/64"), NextHop::Unreachable, OURS),
        RouteSpec::new(net("10.244.5.0/24"), NextHop::Unreachable, OURS),
        RouteSpec::new(net("fd00:5::/64"), NextHop::Blackhole, OURS),
    ];
    for spec in &specs {
        conversation.add_route(spec).unwrap();
        let error = conversation.add_route(spec).unwrap_err();
        assert!(error.is_exists(), "{error}");
    }
    let filter = RouteFilter {
        protocol: Some(OURS),
        table: None,
    };
    let found = conversation.routes(filter).unwrap();
    assert_eq!(found.len(), specs.len(), "{found:?}");
    for spec in &specs {
        let route = found
            .iter()
            .find(|r| r.destination == spec.destination)
            .unwrap();
        let expected = match &spec.next_hop {
            // The kernel tells the link it found.
            NextHop::Gateway {
                address, on_link, ..
            } => NextHop::Gateway {
                address: *address,
                device: Some(veth),
                on_link: *on_link,
            },
            NextHop::Link { .. } | NextHop::Unreachable | NextHop::Blackhole | NextHop::Other => {
                spec.next_hop.clone()
            }
        };
        assert_eq!(route.next_hop, expected);
    }
    for spec in &specs {
        conversation.delete_route(spec).unwrap();
        assert!(conversation.delete_route(spec).unwrap_err().is_absent());
    }
    assert_eq!(conversation.routes(filter).unwrap(), vec![]);
}

#[test]
fn a_route_is_replaced_in_place_and_removed_only_with_its_owners_number() {
    let (_namespace, mut conversation, _) = wired();
    for (destination, gateways) in [
        ("10.244.1.0/24", ["10.0.0.2", "10.0.0.3"]),
        ("fd00:1::/64", ["fd00::2", "fd00::3"]),
    ] {
        conversation
            .add_route(&via(destination, gateways[0], OURS))
            .unwrap();
        conversation
            .replace_route(&via(destination, gateways[1], OURS))
            .unwrap();
        let found = conversation.routes(RouteFilter::default()).unwrap();
        let found: Vec<_> = found
            .iter()
            .filter(|r| r.destination == net(destination))
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        let error = conversation
            .delete_route(&via(destination, gateways[1], OTHERS))
            .unwrap_err();
        assert!(error.is_absent(), "{error}");
        // And back and forth to no next hop at all.
        let nowhere = RouteSpec::new(net(destination), NextHop::Unreachable, OURS);
        conversation.replace_route(&nowhere).unwrap();
        conversation
            .replace_route(&via(destination, gateways[0], OURS))
            .unwrap();
        conversation
            .delete_route(&via(destination, gateways[0], OURS))
            .unwrap();
    }
}

#[test]
fn a_namespace_without_a_route_has_an_empty_list() {
    let (_namespace, mut conversation) = namespace();
    for table in [None, Some(4711)] {
        let filter = RouteFilter {
            protocol: Some(OURS),
            table,
        };
        assert_eq!(conversation.routes(filter).unwrap(), vec![]);
    }
}

#[test]
fn a_thousand_routes_are_batched_listed_and_removed() {
    let (_namespace, mut conversation, _) = wired();
    let specs: Vec<_> = (0..1000)
        .map(|n| match n % 2 {
            0 => via(
                &format!("10.{}.{}.0/24", 100 + n / 256, n % 256),
                "10.0.0.2",
                OURS,
            ),
            _ => via(&format!("fd00:1:{n:x}::/64"), "fd00::2", OURS),
        })
        .collect();
    let mut batch = Batch::new();
    for spec in &specs {
        batch.add_route(spec);
    }
    assert!(conversation.run(&batch).unwrap().iter().all(Result::is_ok));
    let filter = RouteFilter {
        protocol: Some(OURS),
        table: None,
    };
    let found = conversation.routes(filter).unwrap();
    assert_eq!(found.len(), 1000);
    assert!(found.iter().all(|route| route.protocol == OURS));

    let mut batch = Batch::new();
    for spec in &specs {
        batch.delete_route(spec);
    }
    conversation.run_all(&batch).unwrap();
    assert_eq!(conversation.routes(filter).unwrap(), vec![]);
}

#[test]
fn results_of_a_batch_stand_where_their_requests_stood() {
    let (_namespace, mut conversation, _) = wired();
    let good = via("10.244.1.0/24", "10.0.0.2", OURS);
    let unreachable = via("10.244.2.0/24", "192.0.2.1", OURS);
    let last = via("10.244.3.0/24", "10.0.0.2", OURS);
    let mut batch = Batch::new();
    batch
        .add_route(&good)
        .add_route(&unreachable)
        .add_route(&good)
        .add_route(&last);
    let results = conversation.run(&batch).unwrap();
    assert!(results[0].is_ok() && results[3].is_ok());
    assert_eq!(
        results[1].as_ref().unwrap_err().errno(),
        Some(Errno::NETUNREACH)
    );
    assert!(results[2].as_ref().unwrap_err().is_exists());
    assert_eq!(conversation.run(&Batch::new()).unwrap().len(), 0);
}

#[test]
fn a_refusal_names_the_object_and_carries_the_kernels_own_text() {
    let (_namespace, mut conversation, _) = wired();
    let error = conversation
        .add_route(&via("10.244.2.0/24", "192.0.2.1", OURS))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "add route 10.244.2.0/24 via 192.0.2.1 proto 71: Network is unreachable (os error 101) \
         (kernel: Nexthop has invalid gateway)"
    );
    let error = conversation.link_by_name("absent").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("look up link absent: No such device"),
        "{error}"
    );
}

#[test]
fn neighbours_are_permanent_and_replaced_in_place() {
    let (_namespace, mut conversation, veth) = wired();
    let first: Mac = "02:00:00:00:00:01".parse().unwrap();
    let second: Mac = "02:00:00:00:00:02".parse().unwrap();
    for address in [ip("169.254.1.1"), ip("fe80::1"), ip("10.0.0.9")] {
        conversation.add_neighbour(veth, address, first).unwrap();
        conversation.add_neighbour(veth, address, second).unwrap();
        let found = conversation.neighbours(Some(veth)).unwrap();
        let found: Vec<_> = found.iter().filter(|n| n.address == address).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].mac, Some(second));
        assert_eq!(found[0].state, NeighbourState::Permanent);
        conversation.delete_neighbour(veth, address).unwrap();
        // The kernel keeps a removed neighbour in its table, unresolved, while it is in use.
        let found = conversation.neighbours(Some(veth)).unwrap();
        assert!(
            found
                .iter()
                .all(|n| n.address != address || n.mac.is_none())
        );
    }
}

#[test]
fn changes_are_told() {
    let (namespace, mut conversation, veth) = wired();
    let mut notifications = Notifications::in_namespace(namespace.as_fd(), &Group::ALL).unwrap();
    assert_eq!(notifications.take().unwrap(), None);

    let spec = via("10.244.1.0/24", "10.0.0.2", OURS);
    conversation.add_route(&spec).unwrap();
    conversation.delete_route(&spec).unwrap();
    let mac: Mac = "02:00:00:00:00:01".parse().unwrap();
    conversation
        .add_neighbour(veth, ip("10.0.0.9"), mac)
        .unwrap();
    conversation
        .delete_address(veth, net("10.0.0.1/24"))
        .unwrap();
    conversation.delete_link(veth).unwrap();

    let is = [
        |e: &Event| matches!(e, Event::Route(r) if r.destination == net("10.244.1.0/24")),
        |e: &Event| matches!(e, Event::RouteGone(r) if r.destination == net("10.244.1.0/24")),
        |e: &Event| matches!(e, Event::Neighbour(n) if n.address == ip("10.0.0.9")),
        |e: &Event| matches!(e, Event::AddressGone(a) if a.network == net("10.0.0.1/24")),
        |e: &Event| matches!(e, Event::LinkGone(l) if l.name == "a"),
    ];
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut seen = 0;
    while seen < is.len() {
        assert!(Instant::now() < deadline, "saw {seen} of {}", is.len());
        match notifications.take().unwrap() {
            Some(event) => seen += usize::from(is[seen](&event)),
            None => {
                let mut fds = [PollFd::new(&notifications, PollFlags::IN)];
                let second = rustix::event::Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                };
                poll(&mut fds, Some(&second)).unwrap();
            }
        }
    }
}

#[test]
fn a_list_that_changes_while_it_is_read_is_read_again() {
    let (namespace, mut conversation, _) = wired();
    let mut batch = Batch::new();
    let stable: Vec<_> = (0..1000)
        .map(|n| {
            via(
                &format!("10.{}.{}.0/24", 100 + n / 256, n % 256),
                "10.0.0.2",
                OURS,
            )
        })
        .collect();
    for spec in &stable {
        batch.add_route(spec);
    }
    conversation.run_all(&batch).unwrap();
    let busy = &std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        let writer = scope.spawn({
            let namespace = &namespace;
            move || {
                let mut other = Conversation::in_namespace(namespace.as_fd()).unwrap();
                let extra = via("10.99.0.0/24", "10.0.0.2", OTHERS);
                while busy.load(std::sync::atomic::Ordering::Relaxed) {
                    other.add_route(&extra).unwrap();
                    other.delete_route(&extra).unwrap();
                }
            }
        });
        let filter = RouteFilter {
            protocol: Some(OURS),
            table: None,
        };
        for _ in 0..20 {
            match conversation.routes(filter) {
                Ok(found) => assert_eq!(found.len(), 1000),
                // An honest answer where the writer wins every time.
                Err(error) => assert!(matches!(error, Error::Unsettled { .. }), "{error}"),
            }
        }
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap();
    });
}

#[test]
fn more_changes_than_the_buffer_holds_are_told_as_an_overflow_and_then_it_goes_on() {
    let (namespace, mut conversation, _) = wired();
    let mut notifications =
        Notifications::in_namespace(namespace.as_fd(), &[Group::Routes]).unwrap();
    let mut batch = Batch::new();
    for n in 0..1000 {
        let destination = format!("10.{}.{}.0/24", 100 + n / 256, n % 256);
        let spec = via(&destination, "10.0.0.2", OURS);
        batch.add_route(&spec).delete_route(&spec);
    }
    let mut overflow = false;
    for _ in 0..100 {
        conversation.run_all(&batch).unwrap();
        // The overflow is told before what is still queued.
        if notifications.take().unwrap() == Some(Event::Overflow) {
            overflow = true;
            break;
        }
    }
    assert!(overflow);
    while notifications.take().unwrap().is_some() {}
    let last = via("10.244.1.0/24", "10.0.0.2", OURS);
    conversation.add_route(&last).unwrap();
    let told = notifications.take().unwrap();
    assert!(
        matches!(&told, Some(Event::Route(route)) if route.destination == last.destination),
        "{told:?}"
    );
}

#[test]
fn a_tunnel_is_made_as_described_and_led_to_hosts() {
    for (local, remote) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let (namespace, mut conversation, wire) = wired();
        let wanted = Vxlan {
            vni: 7,
            port: 8472,
            local: Some(ip(local)),
            device: Some(wire),
            learning: false,
        };
        let spec = VxlanSpec {
            name: "flannel.7",
            vxlan: wanted,
            mac: Some("0a:58:00:00:00:01".parse().unwrap()),
            mtu: Some(1430),
            alias: Some("of a test"),
        };
        let link = conversation.add_vxlan(spec).unwrap();
        assert_eq!(link.vxlan, Some(wanted));
        assert_eq!((link.mac, link.mtu), (spec.mac, 1430));
        assert_eq!(link.alias.as_deref(), spec.alias);
        assert!(conversation.add_vxlan(spec).unwrap_err().is_exists());
        let listed = printed(&namespace, "ip", &["-d", "link", "show", "flannel.7"]);
        for part in ["vxlan id 7", "dstport 8472", "nolearning", local] {
            assert!(listed.contains(part), "{part}: {listed}");
        }

        let mut changes =
            Notifications::in_namespace(namespace.as_fd(), &[Group::Neighbours]).unwrap();
        let peer: Mac = "0a:58:00:00:00:02".parse().unwrap();
        let mut batch = Batch::new();
        batch.add_forwarding(link.index, peer, ip("203.0.113.9"));
        batch.add_forwarding(link.index, peer, ip(remote));
        let results = conversation.run(&batch).unwrap();
        results[1].as_ref().unwrap();
        let entry = Forwarding {
            index: link.index,
            mac: peer,
            remote: ip(remote),
            permanent: true,
        };
        assert_eq!(conversation.forwardings(link.index).unwrap(), [entry]);
        let listed = printed(&namespace, "bridge", &["fdb", "show", "dev", "flannel.7"]);
        assert!(
            listed.contains(&format!("{peer} dst {remote} self permanent")),
            "{listed}"
        );

        let mut batch = Batch::new();
        batch.delete_forwarding(link.index, peer, ip(remote));
        conversation.run_all(&batch).unwrap();
        assert_eq!(conversation.forwardings(link.index).unwrap(), []);
        let mut told = std::iter::from_fn(|| changes.take().unwrap());
        assert!(told.any(|event| event == Event::ForwardingGone(entry)));
    }
}
