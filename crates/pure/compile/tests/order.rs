//! Output is a function of current state, never of history: whatever happened on the
//! way, the desired state is the one compiled afresh from the cluster as it is.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use weft_compile::fabric::Uplinks;
use weft_compile::{Compiler, FabricBackend, FabricSettings, Settings, Touched};
use weft_desired::{Desired, Difference, difference};
use weft_model::{
    Announced, Change, Endpoint, EndpointPort, EndpointSlice, External, Hints, IpFamily, Key, Node,
    Object, ObjectKey, Pod, PodNames, Port, Protocol, Rejection, Service, ServiceAddress,
    ServicePort, ServiceType, TrafficPolicy, Uid, Vtep,
};

fn settings() -> Settings {
    Settings {
        node: "node-0".into(),
        service_ranges: vec![
            "10.96.0.0/12".parse().unwrap(),
            "fd00:10:96::/112".parse().unwrap(),
        ],
        proxy: Default::default(),
        fabric: FabricSettings {
            backend: FabricBackend::Vxlan,
            datagrams: true,
            ..FabricSettings::default()
        },
    }
}

// A universe small enough that objects collide: the same addresses, ports and ranges.

fn key(prefix: &str, number: u8) -> ObjectKey {
    ObjectKey::new("default", &format!("{prefix}-{number}"))
}

fn pod_address(number: u8) -> IpAddr {
    IpAddr::from([10, 244, number / 2, number])
}

fn node() -> impl Strategy<Value = Node> {
    let about = (0..3u8, 0..4u8, prop::bool::ANY, 0..4u8, 0..3u8, announced());
    about.prop_map(|(name, range, wide, address, zone, announced)| Node {
        name: format!("node-{name}").as_str().into(),
        generation: 0,
        labels: ["zone", "topology.kubernetes.io/zone"]
            .map(|label| (label.into(), zone_name(zone)))
            .into(),
        internal_ips: (address > 0)
            .then(|| IpAddr::from([172, 30, 0, 10 + address]))
            .into_iter()
            .collect(),
        pod_cidrs: vec![
            format!("10.244.{range}.0/{}", if wide { 23 } else { 24 })
                .parse()
                .unwrap(),
        ],
        announced,
        leaving: false,
    })
}

/// Nodes may announce the same Ethernet address, one that none can have, or another network.
fn announced() -> impl Strategy<Value = Announced> {
    let vtep = (0..4u8, 1..=2u32).prop_map(|(mac, vni)| Vtep {
        vni,
        mac: [mac, 0, 0, 0, 0, 1],
    });
    let backend = prop::sample::select(vec!["vxlan", "host-gw", "udp"]);
    (prop::option::of(vtep), backend).prop_map(|(vtep_v4, backend)| Announced {
        backend: Some(backend.into()),
        vtep_v4,
        ..Announced::default()
    })
}

/// A node that is in nobody's way, most of the time: its ranges and its Ethernet address are its
/// own, and what it announces changes.
fn peaceful() -> impl Strategy<Value = Node> {
    let rarely = || prop::bool::weighted(0.05);
    let about = (1..6u8, 1..4u8, any::<bool>(), 1..4u8, 0..9u8, rarely());
    about.prop_map(|(name, address, dual, mac, said, quarrels)| {
        let own = if quarrels { 1 } else { name };
        let ranges = [
            format!("10.244.{own}.0/24"),
            format!("fd00:10:244:{own}::/64"),
        ];
        let vtep = |family| Vtep {
            vni: 1,
            mac: [2, 0, own, mac, family, 1],
        };
        let backend = ["vxlan", "host-gw", "udp"][usize::from(said == 8) + usize::from(said >= 6)];
        let mut node = Node {
            name: format!("node-{name}").as_str().into(),
            generation: i64::from(said),
            labels: Default::default(),
            internal_ips: vec![
                IpAddr::from([172, 30, 0, 10 + address]),
                format!("fd00:172:30::1{address}").parse().unwrap(),
            ],
            pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            announced: Announced {
                backend: Some(backend.into()),
                vtep_v4: (said != 4).then(|| vtep(4)),
                vtep_v6: (said != 5).then(|| vtep(6)),
                faults: (said == 3)
                    .then(|| Rejection {
                        field: "metadata.annotations".to_owned(),
                        reason: "it can't be read".to_owned(),
                    })
                    .into_iter()
                    .collect(),
                ..Announced::default()
            },
            leaving: false,
        };
        node.pod_cidrs.truncate(if dual { 2 } else { 1 });
        node
    })
}

fn zone_name(number: u8) -> Arc<str> {
    format!("zone-{number}").into()
}

fn pod() -> impl Strategy<Value = Pod> {
    (
        0..4u8,
        0..2u8,
        prop::option::of(0..4u8),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(name, node, address, host_network, finished)| Pod {
            key: key("pod", name),
            uid: format!("pod-{name}").as_str().into(),
            labels: Default::default(),
            node: Some(format!("node-{node}").as_str().into()),
            ips: address.map(pod_address).into_iter().collect(),
            host_network,
            finished,
            ready: true,
            terminating: false,
            hostname: None,
            subdomain: None,
        })
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

/// Addresses that Services' own are too, and ports that other Services claim.
fn external() -> impl Strategy<Value = External> {
    let addresses = || prop::collection::vec((0..4u8).prop_map(cluster_address), 0..3);
    (addresses(), addresses(), any::<bool>(), policy()).prop_map(
        |(addresses, load_balancer, ranged, policy)| External {
            addresses,
            load_balancer,
            source_ranges: ranged
                .then(|| "172.30.0.8/29".parse().unwrap())
                .into_iter()
                .collect(),
            policy,
            health_check: Port::new(30080),
        },
    )
}

fn cluster_address(number: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, number])
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        Just(ServiceType::ClusterIP),
        Just(ServiceType::LoadBalancer)
    ];
    let about = (0..3u8, prop::option::of(0..3u8), 79..82u16, 0..2i64);
    let node_port = prop::option::of(30000..30002u16);
    let topology = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![Arc::from("zone")]),
        1 => Just(vec![Arc::from("zone"), Arc::from("*")]),
    ];
    let more = (external(), node_port, topology, 0..10u8);
    (about, kind, policy(), more).prop_map(
        |((name, address, port, created), service_type, internal_traffic_policy, more)| {
            let (external, node_port, topology_keys, proxied) = more;
            Service {
                key: key("service", name),
                uid: format!("service-{name}").as_str().into(),
                generation: 1,
                created,
                service_type,
                address: match address {
                    Some(number) => ServiceAddress::Virtual(vec![cluster_address(number)]),
                    None => ServiceAddress::Headless,
                },
                ports: vec![ServicePort {
                    name: "http".into(),
                    protocol: Protocol::Tcp,
                    port: Port::new(port).unwrap(),
                    node_port: node_port.and_then(Port::new),
                }],
                publish_not_ready: false,
                internal_traffic_policy,
                external,
                affinity: None,
                topology_keys,
                sharing: Default::default(),
                not_proxied: proxied == 0,
            }
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    let hints = (
        prop::option::weighted(0.8, 0..3u8),
        prop::option::of(0..3u8),
    );
    (0..6u8, conditions, prop::option::of(0..3u8), hints).prop_map(
        |(address, (ready, serving, terminating), node, (zone, for_node))| Endpoint {
            addresses: vec![pod_address(address)].into(),
            ready: ready && !terminating,
            serving,
            terminating,
            node: node.map(|node| format!("node-{node}").as_str().into()),
            details: Hints {
                zones: zone.map(zone_name).into_iter().collect(),
                nodes: for_node
                    .map(|node| format!("node-{node}").as_str().into())
                    .into_iter()
                    .collect(),
            }
            .into(),
        },
    )
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    (0..4u8, 0..3u8, prop::collection::vec(endpoint(), 0..4)).prop_map(
        |(name, service, endpoints)| EndpointSlice {
            key: key("slice", name),
            generation: 1,
            service: key("service", service),
            family: IpFamily::V4,
            ports: vec![EndpointPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Port::new(8080).unwrap(),
            }],
            endpoints,
            not_proxied: false,
            pods: PodNames::default(),
        },
    )
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        node().prop_map(Object::Node),
        pod().prop_map(Object::Pod),
        service().prop_map(Object::Service),
        slice().prop_map(Object::EndpointSlice),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    (object(), 0..6u8).prop_map(|(object, what)| match what {
        0 => Change::Delete(object.key()),
        1 => Change::Reject(
            object.key(),
            Rejection {
                field: "spec".to_owned(),
                reason: "\"x\" is not y".to_owned(),
            },
        ),
        _ => Change::Put(object),
    })
}

/// The cluster of `compiler`, object by object.
fn content(compiler: &Compiler) -> Vec<Change> {
    let cluster = compiler.cluster();
    let put = |object| Change::Put(object);
    cluster
        .nodes()
        .cloned()
        .map(Object::Node)
        .map(put)
        .chain(cluster.pods().cloned().map(Object::Pod).map(put))
        .chain(cluster.services().cloned().map(Object::Service).map(put))
        .chain((0..4).filter_map(|number| {
            cluster
                .slice(&key("slice", number))
                .cloned()
                .map(Object::EndpointSlice)
                .map(put)
        }))
        .chain(
            cluster
                .rejected()
                .map(|(key, rejection)| Change::Reject(key.clone(), rejection.clone())),
        )
        .collect()
}

/// With addresses that Services claim too.
fn fresh() -> Compiler {
    let mut compiler = Compiler::new(settings());
    compiler.set_own_addresses([cluster_address(3), [172, 30, 0, 11].into()].into());
    compiler.set_uplinks(uplinks());
    compiler
}

/// Two of the nodes' addresses are on one network, the third is beyond a router.
fn uplinks() -> Uplinks {
    let address = |number, mtu| (IpAddr::from([172, 30, 0, number]), mtu);
    Uplinks {
        addresses: [address(12, 1500), address(11, 90)].into(),
        networks: ["172.30.0.12/31".parse().unwrap()].into(),
        reached_at: Default::default(),
        narrow: Default::default(),
    }
}

fn compiled(changes: Vec<Change>) -> Compiler {
    let mut compiler = fresh();
    for change in changes {
        compiler.apply(change);
    }
    compiler
}

fn assert_same(one: &Compiler, other: &Compiler) {
    assert_eq!(one.desired(), other.desired());
    assert_eq!(one.problems(), other.problems());
}

/// A frontend that goes from one Service to another and back within one batch is as it was.
#[test]
fn a_claim_lost_and_won_back_in_one_batch_is_no_change() {
    let service = |number: u8, created: i64| {
        let key = key("service", number);
        Change::Put(Object::Service(Service {
            uid: Uid::from(&*key.name),
            key,
            generation: 1,
            created,
            service_type: ServiceType::ClusterIP,
            address: ServiceAddress::Virtual(vec!["10.96.0.1".parse().unwrap()]),
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Port::new(80).unwrap(),
                node_port: None,
            }],
            publish_not_ready: false,
            internal_traffic_policy: TrafficPolicy::Cluster,
            external: Default::default(),
            affinity: None,
            topology_keys: Vec::new(),
            sharing: Default::default(),
            not_proxied: false,
        }))
    };
    let mut compiler = compiled(vec![service(1, 0), service(2, 0)]);
    let gone = Change::Delete(Key::Service(key("service", 2)));
    let touched = compiler.apply_all([service(1, 1), gone]);
    // What is gone held nothing.
    let gone = touched.services.iter().map(|key| &*key.name);
    assert_eq!(gone.collect::<Vec<_>>(), ["service-2"]);
    let nothing_else = Touched {
        services: touched.services.clone(),
        ..Touched::default()
    };
    assert_eq!(touched, nothing_else);
}

proptest! {
    #[test]
    fn any_history_ends_in_the_state_compiled_afresh(changes in prop::collection::vec(change(), 0..40)) {
        let lived = compiled(changes);
        let mut objects = content(&lived);
        assert_same(&lived, &compiled(objects.clone()));
        objects.reverse();
        assert_same(&lived, &compiled(objects.clone()));
        let mut merged = fresh();
        merged.apply_all(objects);
        assert_same(&lived, &merged);
        let mut found_late = Compiler::new(settings());
        found_late.apply_all(content(&lived));
        found_late.set_own_addresses(lived.desired().nat.own_addresses.clone());
        found_late.set_uplinks(uplinks());
        assert_same(&lived, &found_late);
    }

    #[test]
    fn changes_taken_together_name_what_they_made_different(
        first in prop::collection::vec(change(), 0..20),
        together in prop::collection::vec(change(), 0..10),
    ) {
        let mut compiler = compiled(first.clone());
        let before = compiler.desired().clone();
        let touched = compiler.apply_all(together.clone());
        let after = compiler.desired();
        prop_assert_eq!(
            touched.frontends,
            keys(&difference(&before.frontends, &after.frontends, |a, b| a == b))
        );
        prop_assert_eq!(
            touched.services,
            keys(&difference(&before.services, &after.services, |a, b| a == b))
        );
        prop_assert_eq!(
            touched.health_checks,
            keys(&difference(&before.health_checks, &after.health_checks, |a, b| a == b))
        );
        prop_assert_eq!(
            touched.routes,
            keys(&difference(&before.routes, &after.routes, |a, b| a == b))
        );
        prop_assert!(
            touched.tunnels || same_tunnels(&before, after)
        );
        prop_assert!(touched.nat || before.nat == after.nat);
        assert_same(&compiler, &compiled([first, together].concat()));
    }

    #[test]
    fn a_change_names_exactly_what_it_made_different(
        changes in prop::collection::vec(change(), 0..30),
        last in change(),
    ) {
        let mut compiler = compiled(changes);
        let before = compiler.desired().clone();
        let touched = compiler.apply(last.clone());
        let after = compiler.desired();
        let expected = Touched {
            frontends: keys(&difference(&before.frontends, &after.frontends, |a, b| a == b)),
            services: keys(&difference(&before.services, &after.services, |a, b| a == b)),
            health_checks: keys(&difference(&before.health_checks, &after.health_checks, |a, b| a == b)),
            routes: keys(&difference(&before.routes, &after.routes, |a, b| a == b)),
            tunnels: !same_tunnels(&before, after),
            nat: touched.nat,
            own_node: touched.own_node,
        };
        prop_assert_eq!(&touched, &expected);
        prop_assert!(touched.nat || before.nat == after.nat);
        prop_assert!(!touched.own_node || last.key() == Key::Node("node-0".into()));
    }
}

proptest! {
    #[test]
    fn a_change_of_one_node_is_what_all_of_them_make(
        backend in prop::sample::select(vec![FabricBackend::Vxlan, FabricBackend::HostGw, FabricBackend::Udp]),
        direct_routing in any::<bool>(),
        nodes in prop::collection::vec(peaceful(), 1..30),
    ) {
        let mut settings = settings();
        settings.fabric = FabricSettings { backend, direct_routing, ..settings.fabric };
        let fresh = || {
            let mut compiler = Compiler::new(settings.clone());
            let address = |text: &str| -> IpAddr { text.parse().unwrap() };
            compiler.set_uplinks(Uplinks {
                addresses: [(address("172.30.0.10"), 1500), (address("fd00:172:30::10"), 1500)].into(),
                networks: ["172.30.0.12/31", "fd00:172:30::12/127"].map(|it| it.parse().unwrap()).into(),
                narrow: [(address("172.30.0.12"), 1400)].into(),
                ..Uplinks::default()
            });
            let own = Node {
                name: "node-0".into(),
                internal_ips: ["172.30.0.10", "fd00:172:30::10"].map(address).into(),
                pod_cidrs: ["10.244.0.0/24", "fd00:10:244::/64"].map(|it| it.parse().unwrap()).into(),
                generation: 0,
                labels: Default::default(),
                announced: Announced::default(),
                leaving: false,
            };
            compiler.apply(Change::Put(Object::Node(own)));
            compiler
        };
        let mut lived = fresh();
        let mut there = std::collections::BTreeMap::new();
        for node in nodes {
            let before = lived.desired().clone();
            let touched = lived.apply(Change::Put(Object::Node(node.clone())));
            there.insert(node.name.clone(), node);
            let mut anew = fresh();
            anew.apply_all(there.values().cloned().map(Object::Node).map(Change::Put));
            assert_same(&lived, &anew);
            let after = lived.desired();
            prop_assert_eq!(
                touched.routes,
                keys(&difference(&before.routes, &after.routes, |a, b| a == b))
            );
            prop_assert_eq!(touched.tunnels, !same_tunnels(&before, after));
        }
    }
}

fn same_tunnels(before: &Desired, after: &Desired) -> bool {
    before.tunnels == after.tunnels
        && before.tunnel_peers == after.tunnel_peers
        && before.udp_tunnel == after.udp_tunnel
        && before.udp_peers == after.udp_peers
        && before.udp_senders == after.udp_senders
}

fn keys<K: Ord + Clone, A, D>(steps: &[Difference<'_, K, A, D>]) -> std::collections::BTreeSet<K> {
    steps
        .iter()
        .map(|step| match step {
            Difference::Add(key, _)
            | Difference::Change(key, _, _)
            | Difference::Remove(key, _) => (*key).clone(),
        })
        .collect()
}
