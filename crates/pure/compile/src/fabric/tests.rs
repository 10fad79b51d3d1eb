use weft_model::{Announced, Change, Key, Object, Rejection};

const MADE_UP: [u8; 6] = [0x0a, 0x6d, 0x14, 0xd2, 0xfa, 0xc9];

use super::*;

fn node(name: &str, addresses: &[&str], ranges: &[&str]) -> Node {
    Node {
        name: name.into(),
        generation: 0,
        labels: Default::default(),
        internal_ips: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        pod_cidrs: ranges.iter().map(|r| r.parse().unwrap()).collect(),
        announced: Default::default(),
        leaving: false,
    }
}

/// Without tunnels, and on a network with all others.
fn compile(cluster: &Cluster, me: &NodeName) -> Fabric {
    super::compile(cluster, me, &FabricSettings::default(), &Uplinks::default())
}

fn cluster(nodes: impl IntoIterator<Item = Node>) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.apply(Change::Put(Object::Node(node)));
    }
    cluster
}

fn lines(fabric: &Fabric) -> Vec<String> {
    let routes = fabric.routes.iter().map(|(key, entry)| {
        format!(
            "{} {} # {}",
            key.destination, entry.value.next_hop, entry.origin
        )
    });
    routes
        .chain(fabric.problems.iter().map(ToString::to_string))
        .collect()
}

fn dual() -> Vec<Node> {
    (1..=3)
        .map(|n| {
            node(
                &format!("node-{n}"),
                &[&format!("172.30.0.1{n}"), &format!("fd00:172:30::1{n}")],
                &[
                    &format!("10.244.{n}.0/24"),
                    &format!("fd00:10:244:{n}::/64"),
                ],
            )
        })
        .collect()
}

#[test]
fn other_nodes_are_reached_in_their_own_family_and_unused_addresses_nowhere() {
    let fabric = compile(&cluster(dual()), &"node-1".into());
    assert_eq!(
        lines(&fabric),
        [
            "10.244.1.0/24 unreachable # Node node-1",
            "10.244.2.0/24 via 172.30.0.12 # Node node-2",
            "10.244.3.0/24 via 172.30.0.13 # Node node-3",
            "fd00:10:244:1::/64 unreachable # Node node-1",
            "fd00:10:244:2::/64 via fd00:172:30::12 # Node node-2",
            "fd00:10:244:3::/64 via fd00:172:30::13 # Node node-3",
        ]
    );
}

#[test]
fn a_node_that_is_not_known_yet_still_reaches_the_others() {
    let fabric = compile(&cluster(dual().into_iter().skip(1)), &"node-1".into());
    assert_eq!(fabric.routes.len(), 4);
    assert!(fabric.problems.is_empty());
}

#[test]
fn a_node_without_an_address_of_the_family_is_reported_and_the_rest_routed() {
    let nodes = [
        node("a", &["172.30.0.11"], &["10.244.1.0/24"]),
        node(
            "b",
            &["172.30.0.12"],
            &["10.244.2.0/24", "fd00:10:244:2::/64"],
        ),
        node("c", &[], &["10.244.3.0/24"]),
        node("d", &["172.30.0.14"], &[]),
    ];
    let fabric = compile(&cluster(nodes), &"a".into());
    // Addresses of pods, whether or not a route leads there.
    assert_eq!(
        fabric
            .ranges
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            "10.244.1.0/24",
            "10.244.2.0/24",
            "10.244.3.0/24",
            "fd00:10:244:2::/64"
        ]
    );
    assert_eq!(
        lines(&fabric),
        [
            "10.244.1.0/24 unreachable # Node a",
            "10.244.2.0/24 via 172.30.0.12 # Node b",
            "Node b: pod range fd00:10:244:2::/64 can't be reached: the node has no IPv6 \
             address (status.addresses of type InternalIP)",
            "Node c: pod range 10.244.3.0/24 can't be reached: the node has no IPv4 \
             address (status.addresses of type InternalIP)",
        ]
    );
}

#[test]
fn a_range_has_one_holder_this_node_first_and_then_by_name() {
    let nodes = [
        node("a", &["172.30.0.1"], &["10.244.0.0/22"]),
        node("b", &["172.30.0.2"], &["10.244.1.0/24"]),
        node("c", &["172.30.0.3"], &["10.244.1.128/25", "10.244.9.0/24"]),
        node("d", &["172.30.0.4"], &["10.244.9.0/24"]),
    ];
    let at_b = compile(&cluster(nodes.clone()), &"b".into());
    assert_eq!(
        lines(&at_b),
        [
            "10.244.1.0/24 unreachable # Node b",
            "10.244.9.0/24 via 172.30.0.3 # Node c",
            "Node a: pod range 10.244.0.0/22 is not routed: it overlaps 10.244.1.0/24 of \
             node b; delete one of the two nodes and let it be made again with a free range",
            "Node c: pod range 10.244.1.128/25 is not routed: it overlaps 10.244.1.0/24 of \
             node b; delete one of the two nodes and let it be made again with a free range",
            "Node d: pod range 10.244.9.0/24 is not routed: it overlaps 10.244.9.0/24 of \
             node c; delete one of the two nodes and let it be made again with a free range",
        ]
    );
    let at_d = compile(&cluster(nodes.clone()), &"d".into());
    let of_others: Vec<_> = at_d
        .routes
        .keys()
        .map(|k| k.destination.to_string())
        .collect();
    assert_eq!(of_others, ["10.244.0.0/22", "10.244.9.0/24"]);
    assert!(
        at_d.ranges
            .iter()
            .eq(at_d.routes.keys().map(|k| &k.destination))
    );

    let mut reversed = nodes.to_vec();
    reversed.reverse();
    assert_eq!(compile(&cluster(reversed), &"b".into()), at_b);
}

#[test]
fn an_address_that_would_route_in_a_circle_is_refused() {
    let nodes = [
        node("a", &["172.30.0.1"], &["10.244.1.0/24"]),
        node("b", &["172.30.0.1"], &["10.244.2.0/24"]),
        node("c", &["10.244.3.7"], &["10.244.3.0/24"]),
    ];
    let fabric = compile(&cluster(nodes), &"a".into());
    assert_eq!(fabric.routes.len(), 1);
    assert_eq!(
        fabric
            .problems
            .iter()
            .map(|p| p.object.to_string())
            .collect::<Vec<_>>(),
        ["Node b", "Node c"]
    );
}

#[test]
fn ranges_are_taken_by_their_network_whatever_host_bits_they_carry() {
    let nodes = [
        node("a", &["172.30.0.1"], &[]),
        node("b", &["172.30.0.2"], &["10.244.2.9/24"]),
    ];
    let fabric = compile(&cluster(nodes), &"a".into());
    assert_eq!(lines(&fabric), ["10.244.2.0/24 via 172.30.0.2 # Node b"]);
}

fn settings(backend: FabricBackend) -> FabricSettings {
    FabricSettings {
        backend,
        datagrams: true,
        ..FabricSettings::default()
    }
}

fn uplinks(all: &[(&str, u32)]) -> Uplinks {
    let all: Vec<(IpNet, u32)> = all
        .iter()
        .map(|(network, mtu)| (network.parse().unwrap(), *mtu))
        .collect();
    Uplinks {
        addresses: all.iter().map(|(net, mtu)| (net.addr(), *mtu)).collect(),
        networks: all.iter().map(|(net, _)| net.trunc()).collect(),
        reached_at: ReachedAt::Object,
        narrow: BTreeMap::new(),
    }
}

/// The three nodes, each with what its own tunnel is, as it would announce it.
fn announcing(backend: &str) -> Vec<Node> {
    let mut nodes = dual();
    for (node, number) in nodes.iter_mut().zip(1..) {
        let vtep = |family| Vtep {
            vni: 1,
            mac: [2, 0, 0, 0, family, number],
        };
        node.announced = Announced {
            backend: Some(backend.into()),
            vtep_v4: Some(vtep(4)),
            vtep_v6: Some(vtep(6)),
            ..Announced::default()
        };
    }
    nodes
}

fn tunnels(fabric: &Fabric) -> Vec<String> {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let devices = fabric.tunnels.values().map(|entry| {
        let tunnel = &entry.value;
        format!(
            "{} id {} port {} local {} {} {} mtu {}",
            tunnel.name,
            tunnel.vni,
            tunnel.port,
            tunnel.local,
            mac(tunnel.mac),
            tunnel.address,
            tunnel.mtu
        )
    });
    let peers = fabric.tunnel_peers.iter().map(|(address, entry)| {
        let peer = &entry.value;
        format!("{address} is {} at {}", mac(peer.mac), peer.remote)
    });
    let udp = fabric.udp_tunnel.iter().map(|entry| {
        let tunnel = &entry.value;
        format!(
            "{} port {} local {} for {} mtu {}",
            tunnel.name, tunnel.port, tunnel.local, tunnel.range, tunnel.mtu
        )
    });
    let takers = fabric.udp_peers.iter();
    let takers = takers.map(|(range, entry)| format!("{range} at {}", entry.value.remote));
    devices.chain(peers).chain(udp).chain(takers).collect()
}

const BOTH: [(&str, u32); 2] = [("172.30.0.11/24", 1500), ("fd00:172:30::11/64", 1500)];

#[test]
fn tunnels_have_the_names_and_addresses_that_flannel_gives_them() {
    let all = cluster(announcing("vxlan"));
    let vxlan = settings(FabricBackend::Vxlan);
    let fabric = super::compile(&all, &"node-1".into(), &vxlan, &uplinks(&BOTH));
    assert_eq!(
        tunnels(&fabric),
        [
            "flannel.1 id 1 port 8472 local 172.30.0.11 02:00:00:00:04:01 10.244.1.0 mtu 1450",
            "flannel-v6.1 id 1 port 8472 local fd00:172:30::11 02:00:00:00:06:01 \
             fd00:10:244:1:: mtu 1430",
            "10.244.2.0 is 02:00:00:00:04:02 at 172.30.0.12",
            "10.244.3.0 is 02:00:00:00:04:03 at 172.30.0.13",
            "fd00:10:244:2:: is 02:00:00:00:06:02 at fd00:172:30::12",
            "fd00:10:244:3:: is 02:00:00:00:06:03 at fd00:172:30::13",
        ]
    );
    assert_eq!(
        lines(&fabric),
        [
            "10.244.1.0/24 unreachable # Node node-1",
            "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink # Node node-2",
            "10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink # Node node-3",
            "fd00:10:244:1::/64 unreachable # Node node-1",
            "fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 onlink # Node node-2",
            "fd00:10:244:2::/128 dev flannel-v6.1 # Node node-2",
            "fd00:10:244:3::/64 via fd00:10:244:3:: dev flannel-v6.1 onlink # Node node-3",
            "fd00:10:244:3::/128 dev flannel-v6.1 # Node node-3",
        ]
    );
}

#[test]
fn nodes_on_the_same_network_are_reached_directly_where_that_is_asked_for() {
    let mut nodes = announcing("vxlan");
    nodes[2].internal_ips = vec!["192.0.2.13".parse().unwrap()];
    nodes[2].pod_cidrs.truncate(1);
    let auto = FabricSettings {
        direct_routing: true,
        ..settings(FabricBackend::Vxlan)
    };
    let fabric = super::compile(&cluster(nodes), &"node-1".into(), &auto, &uplinks(&BOTH));
    assert_eq!(
        lines(&fabric),
        [
            "10.244.1.0/24 unreachable # Node node-1",
            "10.244.2.0/24 via 172.30.0.12 # Node node-2",
            "10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink # Node node-3",
            "fd00:10:244:1::/64 unreachable # Node node-1",
            "fd00:10:244:2::/64 via fd00:172:30::12 # Node node-2",
        ]
    );
    assert_eq!(
        tunnels(&fabric)[2..],
        ["10.244.3.0 is 02:00:00:00:04:03 at 192.0.2.13"]
    );
}

#[test]
fn a_cluster_changes_its_back_end_node_by_node() {
    let me = "node-1".into();
    let direct = "10.244.2.0/24 via 172.30.0.12 # Node node-2";
    let compiled = |backend, nodes: Vec<Node>| {
        super::compile(&cluster(nodes), &me, &settings(backend), &uplinks(&BOTH))
    };
    // To vxlan: the first one has its tunnel, and reaches who has none as before.
    let first = compiled(FabricBackend::Vxlan, dual());
    assert_eq!(lines(&first)[1], direct);
    assert_eq!(first.tunnels.len(), 2);
    // Back: the first one sends directly, and takes what the others send through theirs,
    // by the address that they know.
    let back = compiled(FabricBackend::HostGw, announcing("vxlan"));
    assert_eq!(lines(&back)[1], direct);
    assert_eq!(tunnels(&back).len(), 2);
    assert!(tunnels(&back)[0].contains("02:00:00:00:04:01"));
    let mut own = announcing("vxlan");
    own[0].announced.backend = Some("host-gw".into());
    assert_eq!(
        tunnels(&compiled(FabricBackend::HostGw, own)),
        tunnels(&back)
    );
    // The last one has none any more.
    let last = compiled(FabricBackend::HostGw, announcing("host-gw"));
    assert_eq!(lines(&last)[1], direct);
    assert_eq!(last.tunnels.len(), 0);
}

#[test]
fn an_ethernet_address_never_announced_is_the_nodes_own_and_stays() {
    let mac_of = |name: &str| {
        let nodes = [node(name, &["172.30.0.11"], &["10.244.1.0/24"])];
        let vxlan = settings(FabricBackend::Vxlan);
        let at = uplinks(&BOTH);
        let fabric = super::compile(&cluster(nodes), &name.into(), &vxlan, &at);
        fabric.tunnels[&IpFamily::V4].value.mac
    };
    // Written down, for a later weft must not make up another.
    assert_eq!(mac_of("node-1"), MADE_UP);
    assert_ne!(mac_of("node-2"), MADE_UP);
    assert_eq!(MADE_UP[0] & 3, 2, "locally administered, unicast");
}

#[test]
fn what_cannot_be_reached_is_named_and_the_rest_is() {
    let mut nodes = announcing("vxlan");
    for node in &mut nodes {
        node.pod_cidrs.truncate(1);
    }
    let named = |settings: &FabricSettings, at: &[(&str, u32)], nodes: &[Node]| {
        let nodes = cluster(nodes.to_vec());
        let fabric = super::compile(&nodes, &"node-1".into(), settings, &uplinks(at));
        let problems = fabric.problems.iter().map(ToString::to_string);
        (fabric.routes.len(), problems.collect::<Vec<_>>().join("; "))
    };
    let vxlan = settings(FabricBackend::Vxlan);
    let expect = |(routes, told): (usize, String), known: usize, words: &str| {
        assert!(told.contains(words) && routes == known, "{routes} {told}");
    };
    let with = |change: &dyn Fn(&mut Node)| {
        let mut nodes = nodes.clone();
        change(&mut nodes[2]);
        nodes
    };
    let vtep =
        |change: &dyn Fn(&mut Vtep)| with(&|node| change(node.announced.vtep_v4.as_mut().unwrap()));
    let other = vtep(&|vtep| vtep.vni = 9);
    expect(
        named(&vxlan, &BOTH, &other),
        2,
        "identifier 9, this node's 1",
    );
    let many = vtep(&|vtep| vtep.mac[0] = 3);
    expect(
        named(&vxlan, &BOTH, &many),
        2,
        "03:00:00:00:04:03 is no address",
    );
    let same = vtep(&|vtep| vtep.mac[5] = 2);
    expect(named(&vxlan, &BOTH, &same), 2, "and so does node node-2");
    let ours = vtep(&|vtep| vtep.mac[5] = 1);
    expect(named(&vxlan, &BOTH, &ours), 2, "and so does node node-1");
    let silent = with(&|node| {
        node.announced = Announced::default();
        node.internal_ips = vec!["192.0.2.13".parse().unwrap()];
    });
    expect(
        named(&vxlan, &BOTH, &silent),
        2,
        "has not announced its end",
    );
    let host_gw = settings(FabricBackend::HostGw);
    expect(
        named(&host_gw, &BOTH, &silent),
        2,
        "set fabric: auto or vxlan",
    );
    let small = [("172.30.0.11/24", 100)];
    expect(
        named(&vxlan, &small, &nodes),
        1,
        "packets of 50 bytes would be the largest",
    );
    let elsewhere = [("192.0.2.1/24", 1500)];
    expect(
        named(&vxlan, &elsewhere, &nodes),
        1,
        "no link of the node has its address",
    );
    let fault = Rejection {
        field: "metadata.annotations[x]".to_owned(),
        reason: "not JSON".to_owned(),
    };
    let garbled = with(&|node| node.announced.faults.push(fault.clone()));
    expect(
        named(&vxlan, &BOTH, &garbled),
        3,
        "metadata.annotations[x]: not JSON",
    );
}

#[test]
fn datagrams_have_flannels_device_and_port_and_carry_ipv4() {
    let mut nodes = announcing("udp");
    for node in &mut nodes {
        // As flannel's back end udp has it.
        (node.announced.vtep_v4, node.announced.vtep_v6) = (None, None);
    }
    let udp = settings(FabricBackend::Udp);
    let me = "node-1".into();
    let fabric = super::compile(&cluster(nodes.clone()), &me, &udp, &uplinks(&BOTH));
    assert_eq!(
        tunnels(&fabric),
        [
            "flannel0 port 8285 local 172.30.0.11 for 10.244.1.0/24 mtu 1472",
            "10.244.2.0/24 at 172.30.0.12",
            "10.244.3.0/24 at 172.30.0.13",
        ]
    );
    // Nobody else is believed, nor this node itself.
    let senders = ["172.30.0.12", "172.30.0.13"].map(|ip| ip.parse().unwrap());
    assert_eq!(fabric.udp_senders, senders.into());
    let routes = [
        "10.244.1.0/24 unreachable # Node node-1",
        "10.244.2.0/24 dev flannel0 # Node node-2",
        "10.244.3.0/24 dev flannel0 # Node node-3",
        "fd00:10:244:1::/64 unreachable # Node node-1",
        "fd00:10:244:2::/64 via fd00:172:30::12 # Node node-2",
        "fd00:10:244:3::/64 via fd00:172:30::13 # Node node-3",
    ];
    assert_eq!(lines(&fabric), routes);
    // Behind a router: IPv6 has no way.
    nodes[2].internal_ips = ["192.0.2.13", "2001:db8::13"]
        .map(|ip| ip.parse().unwrap())
        .into();
    let fabric = super::compile(&cluster(nodes.clone()), &me, &udp, &uplinks(&BOTH));
    assert_eq!(lines(&fabric)[..5], routes[..5]);
    assert!(lines(&fabric)[5].contains("udp carries IPv4 alone"));
    // Directly where that is asked for and possible.
    let direct = FabricSettings {
        direct_routing: true,
        ..udp
    };
    let fabric = super::compile(&cluster(nodes), &me, &direct, &uplinks(&BOTH));
    assert_eq!(
        lines(&fabric)[1..3],
        [
            "10.244.2.0/24 via 172.30.0.12 # Node node-2",
            "10.244.3.0/24 dev flannel0 # Node node-3",
        ]
    );
}

#[test]
fn nodes_of_different_back_ends_take_from_each_other_what_each_says_it_takes() {
    let mut nodes = announcing("udp");
    nodes[0].announced = Announced::default();
    nodes[2].announced.backend = Some("vxlan".into());
    let me = "node-1".into();
    let compiled = |backend, nodes: &[Node]| {
        let at = uplinks(&BOTH);
        super::compile(&cluster(nodes.to_vec()), &me, &settings(backend), &at)
    };
    let v4 = |fabric: &Fabric| lines(fabric)[1..3].to_vec();
    let directly = "10.244.2.0/24 via 172.30.0.12 # Node node-2";
    let vxlan = "10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink # Node node-3";
    // On one network nodes that don't agree are reached directly, and have what they take by.
    for (backend, [second, third]) in [
        (
            FabricBackend::HostGw,
            [directly, "10.244.3.0/24 via 172.30.0.13 # Node node-3"],
        ),
        (FabricBackend::Vxlan, [directly, vxlan]),
        (
            FabricBackend::Udp,
            [
                "10.244.2.0/24 dev flannel0 # Node node-2",
                "10.244.3.0/24 via 172.30.0.13 # Node node-3",
            ],
        ),
    ] {
        let fabric = compiled(backend, &nodes);
        assert_eq!(v4(&fabric), [second, third], "{backend:?}");
        assert!(fabric.udp_tunnel.is_some(), "{backend:?}");
        assert_eq!(fabric.tunnels.len(), 2, "{backend:?}");
    }
    // Behind a router they are sent what they take.
    for node in &mut nodes[1..] {
        node.pod_cidrs.truncate(1);
        node.announced.overwrites = vec!["192.0.2.7".parse().unwrap()];
    }
    for backend in [FabricBackend::Vxlan, FabricBackend::Udp] {
        let fabric = compiled(backend, &nodes);
        let expected = ["10.244.2.0/24 dev flannel0 # Node node-2", vxlan];
        assert_eq!(v4(&fabric), expected, "{backend:?}");
    }
    // Who has nothing to send datagrams with leaves them out, and says so.
    let without = FabricSettings {
        datagrams: false,
        ..settings(FabricBackend::Vxlan)
    };
    let fabric = super::compile(&cluster(nodes), &me, &without, &uplinks(&BOTH));
    assert!(!lines(&fabric).join("; ").contains("flannel0"));
    assert_eq!(fabric.udp_tunnel, None);
    let named = fabric.problems.iter().map(|problem| &problem.object);
    assert!(named.eq([&Key::Node("node-2".into())]));
}

#[test]
fn a_link_too_small_for_datagrams_is_named() {
    let nodes = announcing("udp");
    let udp = settings(FabricBackend::Udp);
    let small = uplinks(&[("172.30.0.11/24", 90)]);
    let fabric = super::compile(&cluster(nodes), &"node-1".into(), &udp, &small);
    let told = lines(&fabric).join("; ");
    assert!(
        told.contains("packets of 62 bytes would be the largest"),
        "{told}"
    );
    assert_eq!(fabric.udp_tunnel, None);
}

#[test]
fn tunnels_begin_at_the_link_that_a_person_chose() {
    let nodes = cluster(announcing("vxlan"));
    let me: NodeName = "node-1".into();
    let all = [("172.30.0.11/24", 1500), ("192.168.9.11/24", 9000)];
    let compiled = |reached_at| {
        let uplinks = Uplinks {
            reached_at,
            ..uplinks(&all)
        };
        super::compile(&nodes, &me, &settings(FabricBackend::Vxlan), &uplinks)
    };
    let chosen = ReachedAt::Chosen(vec!["192.168.9.11".parse().unwrap()]);
    let fabric = compiled(chosen);
    assert_eq!(
        tunnels(&fabric)[0],
        "flannel.1 id 1 port 8472 local 192.168.9.11 02:00:00:00:04:01 10.244.1.0 mtu 8950"
    );
    // Of the other family there is no address there.
    let said = fabric.problems.iter().map(|it| it.reason.as_str());
    let own: Vec<&str> = said
        .filter(|reason| reason.contains("it has no IPv6 address there"))
        .collect();
    assert!(!own.is_empty(), "{:?}", fabric.problems);

    let fabric = compiled(ReachedAt::Missing("there is no eth7".to_owned()));
    assert!(fabric.tunnels.is_empty());
    let named = fabric.problems.iter();
    let named = named.filter(|problem| problem.reason.contains("there is no eth7"));
    assert_eq!(named.count(), 1, "{:?}", fabric.problems);
    // What leads there without a tunnel would lead back.
    let claims = Node {
        internal_ips: vec!["192.168.9.11".parse().unwrap()],
        ..nodes.node(&"node-2".into()).unwrap().clone()
    };
    let taken = Uplinks {
        reached_at: ReachedAt::Chosen(vec!["192.168.9.11".parse().unwrap()]),
        ..uplinks(&all)
    };
    let claiming = cluster([vec![nodes.node(&me).unwrap().clone(), claims]].concat());
    let fabric = super::compile(&claiming, &me, &settings(FabricBackend::HostGw), &taken);
    let lines = lines(&fabric);
    let all = lines.iter().filter(|line| line.contains("10.244.2.0/24"));
    let all: Vec<&String> = all.collect();
    assert!(
        all.len() == 1 && all[0].contains("is this node's own"),
        "{lines:?}"
    );
}

#[test]
fn where_large_packets_vanish_routes_say_what_gets_through() {
    let mut narrow = uplinks(&BOTH);
    narrow.narrow = [("172.30.0.12", 1400), ("fd00:172:30::12", 1300)]
        .map(|(address, size)| (address.parse().unwrap(), size))
        .into();
    let mtus = |announced, backend| -> Vec<String> {
        let nodes = cluster(announcing(announced));
        let me = "node-1".into();
        let fabric = super::compile(&nodes, &me, &settings(backend), &narrow);
        let routes = fabric.routes.iter();
        let narrowed = routes.filter_map(|(key, entry)| Some((key, entry.value.mtu?)));
        narrowed
            .map(|(key, mtu)| format!("{} {mtu}", key.destination))
            .collect()
    };
    // A tunnel takes 50 bytes; of what IPv6 takes at least it can't leave less.
    assert_eq!(
        mtus("vxlan", FabricBackend::Vxlan),
        ["10.244.2.0/24 1350", "fd00:10:244:2::/64 1280"]
    );
    assert_eq!(
        mtus("vxlan", FabricBackend::HostGw),
        ["10.244.2.0/24 1400", "fd00:10:244:2::/64 1300"]
    );
    // A datagram takes 28, and carries IPv4 alone.
    assert_eq!(
        mtus("udp", FabricBackend::Udp),
        ["10.244.2.0/24 1372", "fd00:10:244:2::/64 1300"]
    );
}
