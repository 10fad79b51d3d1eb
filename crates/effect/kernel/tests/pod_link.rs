//! Pods' links against the kernel, with packets through them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use weft_desired::PodLink;
use weft_kernel::pod_link::{self, End, Error, Standing};
use weft_kernel::sysctl::{self, Scope, Setting};
use weft_sys::namespace;
use weft_sys::rtnl::{
    AddressFlags, Conversation, LinkChange, NextHop, RouteFilter, RouteSpec, VethSpec,
};

const NODE: [&str; 2] = ["172.30.0.11", "fd00:172:30::11"];
const DEADLINE: Duration = Duration::from_secs(30);

struct Node {
    namespace: OwnedFd,
    conversation: Conversation,
}

impl Node {
    /// A pod's link, made from within the node.
    fn set_up(
        &mut self,
        pod: BorrowedFd<'_>,
        interface: &str,
        link: &PodLink,
    ) -> Result<Standing, Error> {
        let host = &mut self.conversation;
        let mut inside = Conversation::in_namespace(pod).unwrap();
        namespace::in_net(self.namespace.as_fd(), || {
            pod_link::set_up(host, &mut inside, pod, interface, link)
        })
        .unwrap()
    }
}

impl Node {
    fn delete_while<T: Send>(
        &mut self,
        index: u32,
        meanwhile: impl FnOnce(&mut Conversation) -> T + Send,
    ) -> T {
        let host = &mut self.conversation;
        let delete = || pod_link::delete_while(host, index, meanwhile);
        namespace::in_net(self.namespace.as_fd(), delete)
            .unwrap()
            .unwrap()
    }
}

/// A node's namespace: a router that has its own addresses on `eth0`.
fn node() -> Node {
    let namespace = namespace::new_net().unwrap();
    let mut conversation = Conversation::in_namespace(namespace.as_fd()).unwrap();
    let index = conversation.add_veth(VethSpec::new("eth0", "far")).unwrap();
    for name in ["lo", "eth0", "far"] {
        let index = conversation.link_by_name(name).unwrap().index;
        // The kernel would give them some time later, in the middle of a comparison.
        let change = LinkChange {
            link_local_address: Some(false),
            ..LinkChange::default()
        };
        conversation.set_link(index, change).unwrap();
        conversation.set_up(index).unwrap();
    }
    let flags = AddressFlags {
        no_duplicate_detection: true,
        ..AddressFlags::default()
    };
    for (address, length) in [(NODE[0], 24), (NODE[1], 64)] {
        let network = IpNet::new(address.parse().unwrap(), length).unwrap();
        conversation.add_address(index, network, flags).unwrap();
    }
    for setting in [
        Setting::Ipv4Forwarding(true),
        Setting::Ipv6Forwarding(Scope::All, true),
    ] {
        sysctl::set_in(namespace.as_fd(), setting).unwrap();
    }
    Node {
        namespace,
        conversation,
    }
}

fn link(number: u8) -> PodLink {
    PodLink {
        host_name: format!("weft{number:010x}").into(),
        alias: format!("weft:default/pod-{number}").into(),
        mtu: 1450,
        host_mac: [2, 0, 0, 0, 1, number],
        pod_mac: [2, 0, 0, 0, 2, number],
        addresses: vec![
            IpAddr::from([10, 244, 1, number]).into(),
            IpAddr::from([0xfd00, 0x10, 0x244, 1, 0, 0, 0, u16::from(number)]).into(),
        ],
        gateways: vec!["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        routes: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        node_addresses: NODE
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        bridge: None,
    }
}

/// A connection from `client` to `address` in `server`: the address the server saw.
fn connect(client: &OwnedFd, server: &OwnedFd, address: IpAddr) -> IpAddr {
    let listener = namespace::in_net(server.as_fd(), || {
        TcpListener::bind(SocketAddr::new(address, 0)).unwrap()
    })
    .unwrap();
    let to = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        from.ip()
    });
    namespace::in_net(client.as_fd(), || {
        let mut stream = TcpStream::connect_timeout(&to, DEADLINE)
            .unwrap_or_else(|error| panic!("connect to {to}: {error}"));
        stream.write_all(b"hello").unwrap();
    })
    .unwrap();
    serving.join().unwrap()
}

#[test]
fn node_and_pods_reach_each_other_at_once_with_their_own_addresses() {
    let mut node = node();
    let pods: Vec<_> = [7, 8]
        .into_iter()
        .map(|number| {
            let namespace = namespace::new_net().unwrap();
            let link = link(number);
            let pod = namespace.as_fd();
            let made = node.set_up(pod, "eth0", &link).unwrap();
            assert_eq!(made.pod_mac.0, link.pod_mac);
            (namespace, link)
        })
        .collect();
    let [(first, first_link), (second, second_link)] = pods.as_slice() else {
        panic!("two pods");
    };
    let pairs = first_link.addresses.iter().zip(&second_link.addresses);
    for ((one, two), node_address) in pairs.zip(&first_link.node_addresses) {
        let (one, two) = (one.addr(), two.addr());
        assert_eq!(connect(first, second, two), one);
        assert_eq!(connect(second, first, one), two);
        assert_eq!(connect(&node.namespace, first, one), *node_address);
        assert_eq!(connect(first, &node.namespace, *node_address), one);
    }
    for (namespace, link) in &pods {
        let pod = namespace.as_fd();
        let deviations = pod_link::check(&mut node.conversation, pod, "eth0", link).unwrap();
        assert_eq!(deviations, vec![]);
        let setting = Setting::AcceptRouterAdvertisements(Scope::Link(&link.host_name), 0);
        let holds = namespace::in_net(node.namespace.as_fd(), || sysctl::holds(setting));
        assert!(holds.unwrap().unwrap());
    }
    assert_eq!(pod_link::list(&mut node.conversation).unwrap().len(), 2);
}

#[test]
fn a_link_of_one_family_has_nothing_of_the_other() {
    let mut node = node();
    for family in 0..2 {
        let namespace = namespace::new_net().unwrap();
        let pod = namespace.as_fd();
        let mut link = link(20 + family as u8);
        link.addresses = vec![link.addresses[family]];
        link.gateways = vec![link.gateways[family]];
        link.node_addresses = vec![link.node_addresses[family]];
        node.set_up(pod, "net1", &link).unwrap();
        assert_eq!(
            connect(&node.namespace, &namespace, link.addresses[0].addr()),
            link.node_addresses[0]
        );
        let mut inside = Conversation::in_namespace(pod).unwrap();
        let index = inside.link_by_name("net1").unwrap().index;
        let addresses = inside.addresses(Some(index)).unwrap();
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        assert_eq!(inside.neighbours(Some(index)).unwrap().len(), 1);
    }
}

#[test]
fn a_namespace_that_starts_without_ipv6_gets_it_on_the_pods_link() {
    let mut node = node();
    let namespace = namespace::new_net().unwrap();
    let pod = namespace.as_fd();
    sysctl::set_in(pod, Setting::Ipv6Disabled(Scope::Default, true)).unwrap();
    let link = link(7);
    node.set_up(pod, "eth0", &link).unwrap();
    connect(&node.namespace, &namespace, link.addresses[1].addr());
}

#[test]
fn tearing_down_leaves_nothing_and_may_be_repeated() {
    let mut node = node();
    let before = snapshot(&mut node.conversation);
    let namespace = namespace::new_net().unwrap();
    let pod = namespace.as_fd();
    let link = link(7);
    node.set_up(pod, "eth0", &link).unwrap();
    assert_ne!(snapshot(&mut node.conversation), before);
    let index = pod_link::find(&mut node.conversation, &link.host_name);
    let index = index.unwrap().unwrap();
    for _ in 0..2 {
        // Nobody sees it any more when the rest is done, on the node or in the pod.
        let mut inside = Conversation::in_namespace(pod).unwrap();
        let seen = node.delete_while(index, |host| {
            let host = host.find_link(&link.host_name).unwrap();
            (host, inside.find_link("eth0").unwrap())
        });
        assert_eq!(seen, (None, None));
    }
    let index = pod_link::find(&mut node.conversation, &link.host_name);
    assert_eq!(index.unwrap(), None);
    assert_eq!(snapshot(&mut node.conversation), before);
    let mut inside = Conversation::in_namespace(pod).unwrap();
    assert!(inside.find_link("eth0").unwrap().is_none());
    // The node still answers to its own addresses: the copies on the link were copies.
    for address in NODE {
        connect(&node.namespace, &node.namespace, address.parse().unwrap());
    }
    // And the same pod can come again.
    node.set_up(pod, "eth0", &link).unwrap();
}

#[test]
fn of_a_link_that_stays_nothing_is_taken_away() {
    let mut node = node();
    // The kernel deletes no loopback.
    let host = &mut node.conversation;
    let delete = || pod_link::delete_while(host, 1, |_| panic!("it is still there"));
    let error = namespace::in_net(node.namespace.as_fd(), delete)
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().starts_with("delete link"), "{error}");
}

#[test]
fn what_fails_half_way_is_undone() {
    let mut node = node();
    let namespace = namespace::new_net().unwrap();
    let pod = namespace.as_fd();
    let link = link(7);

    // The last step on the node: somebody else has a route to the pod's address.
    let eth0 = node.conversation.link_by_name("eth0").unwrap().index;
    let taken = RouteSpec::new(link.addresses[1], NextHop::Link { device: eth0 }, 4);
    node.conversation.add_route(&taken).unwrap();
    let before = snapshot(&mut node.conversation);
    let error = node.set_up(pod, "eth0", &link).unwrap_err();
    let Error::Host { source, .. } = error else {
        panic!("{error}");
    };
    let text = source.to_string();
    assert!(
        text.starts_with("add route fd00:10:244:1::7/128 dev"),
        "{text}"
    );
    assert_eq!(snapshot(&mut node.conversation), before);
    node.conversation.delete_route(&taken).unwrap();

    // A step in the pod: an address that no link takes.
    let mut odd = link.clone();
    odd.addresses[1] = "ff02::7/128".parse().unwrap();
    let before = snapshot(&mut node.conversation);
    let error = node.set_up(pod, "eth0", &odd).unwrap_err();
    assert!(matches!(error, Error::Pod { .. }), "{error}");
    assert_eq!(snapshot(&mut node.conversation), before);

    // The first: the interface's name is taken in the pod.
    let mut inside = Conversation::in_namespace(pod).unwrap();
    inside.add_veth(VethSpec::new("eth0", "other")).unwrap();
    let error = node.set_up(pod, "eth0", &link).unwrap_err();
    assert!(matches!(error, Error::Host { .. }), "{error}");
    assert_eq!(snapshot(&mut node.conversation), before);
    assert!(inside.find_link("eth0").unwrap().is_some());
}

#[test]
fn a_link_that_is_not_ours_is_left_alone() {
    let mut node = node();
    for (name, alias) in [("weft0000000001", None), ("eth7", Some("weft:default/web"))] {
        let index = node.conversation.add_veth(VethSpec::new(name, "p"));
        let change = LinkChange {
            alias,
            ..LinkChange::default()
        };
        node.conversation.set_link(index.unwrap(), change).unwrap();
        let error = pod_link::find(&mut node.conversation, name).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert!(node.conversation.find_link(name).unwrap().is_some());
        node.conversation.delete_link_by_name(name).unwrap();
    }
    assert_eq!(pod_link::list(&mut node.conversation).unwrap(), vec![]);
}

#[test]
fn a_check_names_everything_that_is_not_as_it_was_made() {
    let mut node = node();
    let namespace = namespace::new_net().unwrap();
    let pod = namespace.as_fd();
    let link = link(7);
    let made = node.set_up(pod, "eth0", &link).unwrap();
    let host = &mut node.conversation;
    let mut inside = Conversation::in_namespace(pod).unwrap();

    host.delete_neighbour(made.host_index, link.addresses[0].addr())
        .unwrap();
    host.delete_address(made.host_index, IpNet::from(link.node_addresses[1]))
        .unwrap();
    let change = LinkChange {
        mtu: Some(1400),
        alias: Some("somebody"),
        ..LinkChange::default()
    };
    host.set_link(made.host_index, change).unwrap();
    let default = inside
        .routes(RouteFilter::default())
        .unwrap()
        .into_iter()
        .find(|route| route.destination == "::/0".parse::<IpNet>().unwrap())
        .unwrap();
    inside
        .delete_route(&RouteSpec::new(
            default.destination,
            default.next_hop,
            default.protocol,
        ))
        .unwrap();

    let found: Vec<_> = pod_link::check(host, pod, "eth0", &link)
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    let pod_index = made.pod_index;
    assert_eq!(
        found,
        [
            "node's end: MTU is 1400, not 1450".to_owned(),
            "node's end: alias is Some(\"somebody\"), not Some(\"weft:default/pod-7\")".to_owned(),
            "node's end: address fd00:172:30::11/128 is missing".to_owned(),
            "node's end: permanent neighbour 10.244.1.7 (02:00:00:00:02:07) is missing".to_owned(),
            format!(
                "pod's end: route ::/0 via fe80::1 dev #{pod_index} onlink proto 71 is missing"
            ),
        ]
    );

    host.delete_link(made.host_index).unwrap();
    let found = pod_link::check(host, pod, "eth0", &link).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].end, End::Pod);
}

/// Links by name, addresses, and routes of a namespace.
fn snapshot(conversation: &mut Conversation) -> (Vec<String>, Vec<String>, Vec<String>) {
    let links = conversation.links().unwrap();
    let addresses = conversation.addresses(None).unwrap();
    let routes = conversation.routes(RouteFilter::default()).unwrap();
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    (
        sorted(links.iter().map(|link| link.name.clone()).collect()),
        sorted(
            addresses
                .iter()
                .map(|a| format!("{} {}", a.index, a.network))
                .collect(),
        ),
        sorted(routes.iter().map(|r| format!("{r:?}")).collect()),
    )
}
