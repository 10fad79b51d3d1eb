//! Kubernetes' rules, one table a rule.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use weft_model::{
    Change, Cluster, Endpoint, EndpointPort, EndpointSlice, External, Hints, IpFamily, Node,
    Object, ObjectKey, Pod, PodNames, Port, Protocol, Service, ServiceAddress, ServicePort,
    ServiceType, TrafficPolicy, Weight,
};
use weft_oracle::{
    Flow, Last, Loss, NoRoute, Ranges, Receiver, Refusal, Sender, SourceSeen, Verdict, verdict,
    verdict_again,
};

/// Two nodes, both families: pods `a` and `b` on node 1, `c` on node 2, a host-network
/// pod `h` on node 2, a finished pod `f` whose address is `b`'s now.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    let mut put = |object| assert!(cluster.apply(Change::Put(object)));
    for n in 1..=2 {
        put(Object::Node(Node {
            name: format!("node-{n}").into(),
            generation: 0,
            labels: Default::default(),
            internal_ips: ips(&[&format!("172.30.0.1{n}"), &format!("fd00:172:30::1{n}")]),
            pod_cidrs: [format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")]
                .iter()
                .map(|range| range.parse().unwrap())
                .collect(),
            announced: Default::default(),
            leaving: false,
        }));
    }
    for (name, node, address) in [
        ("a", "node-1", ["10.244.1.5", "fd00:10:244:1::5"]),
        ("b", "node-1", ["10.244.1.6", "fd00:10:244:1::6"]),
        ("c", "node-2", ["10.244.2.5", "fd00:10:244:2::5"]),
        ("f", "node-1", ["10.244.1.6", "fd00:10:244:1::6"]),
        ("h", "node-2", ["172.30.0.12", "fd00:172:30::12"]),
    ] {
        put(Object::Pod(Pod {
            key: ObjectKey::new("default", name),
            uid: name.into(),
            labels: Default::default(),
            node: Some(node.into()),
            ips: ips(&address),
            host_network: name == "h",
            finished: name == "f",
            ready: true,
            terminating: false,
            hostname: None,
            subdomain: None,
        }));
    }
    cluster
}

fn ranges() -> Ranges {
    let parse = |all: [&str; 2]| all.iter().map(|range| range.parse().unwrap()).collect();
    Ranges {
        pods: parse(["10.244.0.0/16", "fd00:10:244::/56"]),
        services: parse(["10.96.0.0/12", "fd00:10:96::/112"]),
    }
}

fn ips(all: &[&str]) -> Vec<std::net::IpAddr> {
    all.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn service(name: &str, address: &[&str]) -> Service {
    Service {
        key: ObjectKey::new("default", name),
        uid: name.into(),
        generation: 0,
        created: 0,
        service_type: ServiceType::ClusterIP,
        address: ServiceAddress::Virtual(ips(address)),
        ports: vec![
            ServicePort {
                name: "web".into(),
                protocol: Protocol::Tcp,
                port: Port::new(80).unwrap(),
                node_port: None,
            },
            ServicePort {
                name: "dns".into(),
                protocol: Protocol::Udp,
                port: Port::new(53).unwrap(),
                node_port: None,
            },
        ],
        publish_not_ready: false,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external: Default::default(),
        affinity: None,
        topology_keys: Vec::new(),
        sharing: Default::default(),
        not_proxied: false,
    }
}

/// `address state [@node]`, with the state `ready`, `down`, `closing` (terminating and
/// serving) or `closed` (terminating).
fn slice(service: &str, name: &str, family: IpFamily, endpoints: &[&str]) -> EndpointSlice {
    let endpoint = |text: &&str| {
        let mut words = text.split(' ');
        let addresses = ips(&[words.next().unwrap()]);
        let state = words.next().unwrap();
        Endpoint {
            addresses: addresses.into(),
            ready: state == "ready",
            serving: state == "ready" || state == "closing",
            terminating: state == "closing" || state == "closed",
            node: words.next().map(|name| name.trim_start_matches('@').into()),
            details: Default::default(),
        }
    };
    let port = |name: &str, protocol, number| EndpointPort {
        name: name.into(),
        protocol,
        port: Port::new(number).unwrap(),
    };
    EndpointSlice {
        key: ObjectKey::new("default", name),
        generation: 0,
        service: ObjectKey::new("default", service),
        family,
        ports: vec![
            port("web", Protocol::Tcp, 8080),
            port("dns", Protocol::Udp, 5353),
        ],
        endpoints: endpoints.iter().map(endpoint).collect(),
        not_proxied: false,
        pods: PodNames::default(),
    }
}

fn with(objects: impl IntoIterator<Item = Object>) -> Cluster {
    let mut cluster = cluster();
    for object in objects {
        cluster.apply(Change::Put(object));
    }
    cluster
}

/// `pod a`, `node 1` or `outside`.
fn sender(text: &str, cluster: &Cluster, like: std::net::IpAddr) -> (Sender, std::net::IpAddr) {
    let same = |ip: &&std::net::IpAddr| ip.is_ipv4() == like.is_ipv4();
    match text.split_once(' ') {
        Some(("pod", name)) => {
            let key = ObjectKey::new("default", name);
            let pod = cluster.pod(&key).unwrap();
            let source = *pod.ips.iter().find(same).unwrap();
            (Sender::Pod(key), source)
        }
        Some(("node", number)) => {
            let name = format!("node-{number}").into();
            let node = cluster.node(&name).unwrap();
            let source = *node.internal_ips.iter().find(same).unwrap();
            (Sender::Node(name), source)
        }
        _ => {
            let source = if like.is_ipv4() {
                "172.30.0.2"
            } else {
                "fd00:172:30::2"
            };
            (Sender::Outside, source.parse().unwrap())
        }
    }
}

/// The verdict in a line: arrivals as `address:port receiver source`, or the reason.
fn judge(cluster: &Cluster, from: &str, to: &str, protocol: Protocol) -> String {
    let to: std::net::SocketAddr = to.parse().unwrap();
    let (from, via) = match from.split_once(" via ") {
        Some((from, node)) => (from, Some(format!("node-{node}").into())),
        None => (from, None),
    };
    let (from, source) = sender(from, cluster, to.ip());
    let flow = Flow {
        from,
        source,
        destination: to.ip(),
        protocol,
        port: Port::new(to.port()).unwrap(),
        via,
    };
    match verdict(cluster, &ranges(), &flow) {
        Verdict::Delivered(arrivals) => {
            assert!(!arrivals.is_empty());
            let line = |arrival: &weft_oracle::Arrival| {
                let at = std::net::SocketAddr::new(arrival.address, arrival.port.number());
                let to = match &arrival.to {
                    Receiver::Pod(key) => key.name.to_string(),
                    Receiver::Node(name) => name.to_string(),
                    Receiver::Outside => "outside".to_owned(),
                    Receiver::Nobody => "nobody".to_owned(),
                };
                match arrival.source_seen {
                    SourceSeen::Unchanged => format!("{at} {to} as itself"),
                    SourceSeen::NodeAddress(seen) => format!("{at} {to} as {seen}"),
                }
            };
            arrivals.iter().map(line).collect::<Vec<_>>().join(", ")
        }
        Verdict::Refused(reason) => format!("refused {reason:?}"),
        Verdict::Dropped(reason) => format!("dropped {reason:?}"),
        Verdict::NotRouted(reason) => format!("not routed {reason:?}"),
    }
}

fn check(cluster: &Cluster, table: &[(&str, &str, &str)]) {
    for (from, to, expected) in table {
        let (to, protocol) = match to.strip_prefix("udp ") {
            Some(to) => (to, Protocol::Udp),
            None => (*to, Protocol::Tcp),
        };
        assert_eq!(
            judge(cluster, from, to, protocol),
            *expected,
            "{from} -> {to}"
        );
    }
}

#[test]
fn pods_and_nodes_reach_each_other_without_translation() {
    check(
        &cluster(),
        &[
            ("pod a", "10.244.1.6:80", "10.244.1.6:80 b as itself"),
            ("pod a", "10.244.2.5:80", "10.244.2.5:80 c as itself"),
            (
                "pod a",
                "[fd00:10:244:2::5]:80",
                "[fd00:10:244:2::5]:80 c as itself",
            ),
            ("pod c", "udp 10.244.1.5:53", "10.244.1.5:53 a as itself"),
            ("node 1", "10.244.1.5:80", "10.244.1.5:80 a as itself"),
            ("node 1", "10.244.2.5:80", "10.244.2.5:80 c as itself"),
            (
                "node 2",
                "[fd00:10:244:1::5]:80",
                "[fd00:10:244:1::5]:80 a as itself",
            ),
            ("pod a", "172.30.0.11:22", "172.30.0.11:22 node-1 as itself"),
            ("pod a", "172.30.0.12:22", "172.30.0.12:22 node-2 as itself"),
            (
                "pod a",
                "[fd00:172:30::12]:22",
                "[fd00:172:30::12]:22 node-2 as itself",
            ),
            (
                "node 1",
                "172.30.0.12:22",
                "172.30.0.12:22 node-2 as itself",
            ),
            (
                "outside",
                "172.30.0.12:22",
                "172.30.0.12:22 node-2 as itself",
            ),
            ("pod h", "10.244.1.5:80", "10.244.1.5:80 a as itself"),
        ],
    );
}

#[test]
fn a_pod_reaches_itself_by_its_address_and_by_localhost() {
    check(
        &cluster(),
        &[
            ("pod a", "10.244.1.5:80", "10.244.1.5:80 a as itself"),
            ("pod a", "127.0.0.1:80", "127.0.0.1:80 a as itself"),
            ("pod a", "[::1]:80", "[::1]:80 a as itself"),
            ("node 1", "127.0.0.1:80", "127.0.0.1:80 node-1 as itself"),
            ("pod h", "127.0.0.1:80", "127.0.0.1:80 node-2 as itself"),
        ],
    );
}

#[test]
fn beyond_the_cluster_a_pod_is_seen_as_its_node() {
    check(
        &cluster(),
        &[
            (
                "pod a",
                "172.30.0.2:80",
                "172.30.0.2:80 outside as 172.30.0.11",
            ),
            (
                "pod c",
                "192.0.2.1:80",
                "192.0.2.1:80 outside as 172.30.0.12",
            ),
            (
                "pod a",
                "[2001:db8::1]:80",
                "[2001:db8::1]:80 outside as fd00:172:30::11",
            ),
            ("node 1", "192.0.2.1:80", "192.0.2.1:80 outside as itself"),
            ("pod h", "192.0.2.1:80", "192.0.2.1:80 outside as itself"),
        ],
    );
}

#[test]
fn the_outside_has_no_route_into_the_cluster() {
    let cluster = with([Object::Service(service("web", &["10.96.0.20"]))]);
    check(
        &cluster,
        &[
            ("outside", "10.244.1.5:80", "not routed FromOutside"),
            ("outside", "[fd00:10:244:1::5]:80", "not routed FromOutside"),
            ("outside", "10.244.1.77:80", "not routed FromOutside"),
            ("outside", "10.96.0.20:80", "not routed FromOutside"),
            ("outside", "10.96.0.21:80", "not routed FromOutside"),
            ("outside", "127.0.0.1:80", "not routed FromOutside"),
        ],
    );
}

#[test]
fn what_has_no_receiver_ends_at_once_and_never_circles() {
    check(
        &cluster(),
        &[
            ("pod a", "10.244.1.77:80", "refused UnusedPodAddress"),
            ("pod a", "10.244.2.77:80", "refused UnusedPodAddress"),
            (
                "node 1",
                "[fd00:10:244:2::77]:80",
                "refused UnusedPodAddress",
            ),
            ("pod a", "10.244.9.1:80", "not routed NoNodesRange"),
            ("pod a", "169.254.169.254:80", "not routed NotForwarded"),
            ("pod a", "224.0.0.1:80", "not routed NotForwarded"),
            ("pod a", "[fe80::1]:80", "not routed NotForwarded"),
            ("pod a", "0.0.0.0:80", "not routed NotForwarded"),
        ],
    );
}

#[test]
fn a_service_address_leads_to_any_ready_endpoint_of_every_slice() {
    let cluster = with([
        Object::Service(service("web", &["10.96.0.20", "fd00:10:96::20"])),
        Object::EndpointSlice(slice("web", "web-1", IpFamily::V4, &["10.244.1.6 ready"])),
        Object::EndpointSlice(slice(
            "web",
            "web-2",
            IpFamily::V4,
            &[
                "10.244.2.5 ready",
                "10.244.1.6 ready",
                "10.244.1.99 down",
                "10.244.1.5 closing",
            ],
        )),
        Object::EndpointSlice(slice(
            "web",
            "web-6",
            IpFamily::V6,
            &["fd00:10:244:2::5 ready"],
        )),
    ]);
    let v4 = "10.244.1.6:8080 b as itself, 10.244.2.5:8080 c as itself";
    check(
        &cluster,
        &[
            ("pod a", "10.96.0.20:80", v4),
            ("pod h", "10.96.0.20:80", v4),
            ("node 1", "10.96.0.20:80", v4),
            ("node 2", "10.96.0.20:80", v4),
            (
                "pod a",
                "udp 10.96.0.20:53",
                "10.244.1.6:5353 b as itself, 10.244.2.5:5353 c as itself",
            ),
            (
                "pod a",
                "[fd00:10:96::20]:80",
                "[fd00:10:244:2::5]:8080 c as itself",
            ),
        ],
    );
}

#[test]
fn a_pod_that_reaches_itself_through_a_service_sees_its_node() {
    let cluster = with([
        Object::Service(service("web", &["10.96.0.20", "fd00:10:96::20"])),
        Object::EndpointSlice(slice(
            "web",
            "web-4",
            IpFamily::V4,
            &["10.244.1.5 ready", "10.244.1.6 ready"],
        )),
        Object::EndpointSlice(slice(
            "web",
            "web-6",
            IpFamily::V6,
            &["fd00:10:244:1::5 ready"],
        )),
    ]);
    check(
        &cluster,
        &[
            (
                "pod a",
                "10.96.0.20:80",
                "10.244.1.5:8080 a as 172.30.0.11, 10.244.1.6:8080 b as itself",
            ),
            (
                "pod a",
                "[fd00:10:96::20]:80",
                "[fd00:10:244:1::5]:8080 a as fd00:172:30::11",
            ),
            (
                "pod c",
                "10.96.0.20:80",
                "10.244.1.5:8080 a as itself, 10.244.1.6:8080 b as itself",
            ),
        ],
    );
}

#[test]
fn endpoints_on_nodes_and_beyond_the_cluster() {
    let cluster = with([
        Object::Service(service("api", &["10.96.0.1"])),
        Object::EndpointSlice(slice(
            "api",
            "api-4",
            IpFamily::V4,
            &["172.30.0.1 ready", "172.30.0.12 ready"],
        )),
    ]);
    check(
        &cluster,
        &[
            (
                "pod a",
                "10.96.0.1:80",
                "172.30.0.1:8080 outside as 172.30.0.11, 172.30.0.12:8080 node-2 as itself",
            ),
            (
                "node 2",
                "10.96.0.1:80",
                "172.30.0.1:8080 outside as itself, 172.30.0.12:8080 node-2 as itself",
            ),
        ],
    );
}

#[test]
fn without_a_ready_endpoint_those_that_terminate_and_serve_take_over() {
    let states = |endpoints: &[&str]| {
        with([
            Object::Service(service("web", &["10.96.0.20", "fd00:10:96::20"])),
            Object::EndpointSlice(slice("web", "web-4", IpFamily::V4, endpoints)),
        ])
    };
    let to = "10.96.0.20:80";
    let closing = ["10.244.2.5 closing", "10.244.1.6 down"];
    check(
        &states(&closing),
        &[("pod a", to, "10.244.2.5:8080 c as itself")],
    );
    for nobody in [
        vec!["10.244.2.5 closed", "10.244.1.6 down"],
        vec!["10.244.2.5 down"],
        vec![],
    ] {
        check(
            &states(&nobody),
            &[
                ("pod a", to, "refused NoEndpoints"),
                ("node 1", to, "refused NoEndpoints"),
                ("pod a", "udp 10.96.0.20:53", "refused NoEndpoints"),
                // The other family has no slice at all.
                ("pod a", "[fd00:10:96::20]:80", "refused NoEndpoints"),
            ],
        );
    }
}

#[test]
fn addresses_and_ports_that_are_no_services() {
    let mut headless = service("db", &[]);
    headless.address = ServiceAddress::Headless;
    let cluster = with([
        Object::Service(service("web", &["10.96.0.20"])),
        Object::Service(headless),
        Object::EndpointSlice(slice("web", "web-4", IpFamily::V4, &["10.244.2.5 ready"])),
    ]);
    check(
        &cluster,
        &[
            ("pod a", "10.96.0.20:81", "refused NoSuchServicePort"),
            ("pod a", "udp 10.96.0.20:80", "refused NoSuchServicePort"),
            ("node 1", "10.96.0.20:81", "refused NoSuchServicePort"),
            (
                "pod a",
                "10.96.0.21:80",
                "dropped UnallocatedServiceAddress",
            ),
            (
                "node 1",
                "10.111.255.254:80",
                "dropped UnallocatedServiceAddress",
            ),
            (
                "pod a",
                "[fd00:10:96::99]:80",
                "dropped UnallocatedServiceAddress",
            ),
            (
                "pod a",
                "10.112.0.1:80",
                "10.112.0.1:80 outside as 172.30.0.11",
            ),
        ],
    );
}

#[test]
fn with_the_local_policy_only_the_senders_node_counts() {
    let mut local = service("web", &["10.96.0.20"]);
    local.internal_traffic_policy = TrafficPolicy::Local;
    let cluster = with([
        Object::Service(local),
        Object::EndpointSlice(slice(
            "web",
            "web-4",
            IpFamily::V4,
            &[
                "10.244.1.6 closing @node-1",
                "10.244.1.5 down @node-1",
                "10.244.2.5 down @node-2",
            ],
        )),
    ]);
    check(
        &cluster,
        &[
            ("pod a", "10.96.0.20:80", "10.244.1.6:8080 b as itself"),
            ("node 1", "10.96.0.20:80", "10.244.1.6:8080 b as itself"),
            ("pod c", "10.96.0.20:80", "dropped NoLocalEndpoints"),
            ("pod c", "udp 10.96.0.20:53", "dropped NoLocalEndpoints"),
            ("pod c", "10.96.0.20:81", "refused NoSuchServicePort"),
        ],
    );
    let mut gone = cluster.clone();
    let none = slice("web", "web-4", IpFamily::V4, &[]);
    gone.apply(Change::Put(Object::EndpointSlice(none)));
    check(&gone, &[("pod c", "10.96.0.20:80", "refused NoEndpoints")]);
}

#[test]
fn of_two_services_with_one_address_the_older_has_each_port_both_want() {
    let mut old = service("old", &["10.96.0.20"]);
    old.ports.truncate(1);
    let mut new = service("new", &["10.96.0.20"]);
    new.created = 5;
    let cluster = with([
        Object::Service(old),
        Object::Service(new),
        Object::EndpointSlice(slice("old", "old-4", IpFamily::V4, &["10.244.1.6 ready"])),
        Object::EndpointSlice(slice("new", "new-4", IpFamily::V4, &["10.244.2.5 ready"])),
    ]);
    check(
        &cluster,
        &[
            ("pod a", "10.96.0.20:80", "10.244.1.6:8080 b as itself"),
            ("pod a", "udp 10.96.0.20:53", "10.244.2.5:5353 c as itself"),
        ],
    );
}

#[test]
fn an_endpoint_that_nobody_has_is_named_as_such() {
    let cluster = with([
        Object::Service(service("web", &["10.96.0.20"])),
        Object::EndpointSlice(slice(
            "web",
            "web-4",
            IpFamily::V4,
            &["10.244.1.200 ready", "10.244.2.5 ready"],
        )),
    ]);
    check(
        &cluster,
        &[(
            "pod a",
            "10.96.0.20:80",
            "10.244.1.200:8080 nobody as itself, 10.244.2.5:8080 c as itself",
        )],
    );
}

#[test]
fn a_node_of_one_family_has_no_part_in_the_other() {
    let mut one = cluster().node(&"node-2".into()).unwrap().clone();
    one.internal_ips.truncate(1);
    let cluster = with([Object::Node(one)]);
    check(
        &cluster,
        &[
            (
                "pod a",
                "[fd00:10:244:2::5]:80",
                "not routed ReceiverHasNoRoute",
            ),
            (
                "pod a",
                "[fd00:10:244:2::77]:80",
                "not routed ReceiverHasNoRoute",
            ),
            ("pod a", "10.244.2.5:80", "10.244.2.5:80 c as itself"),
            (
                "pod c",
                "[fd00:10:244:1::5]:80",
                "not routed SenderHasNoFamily",
            ),
            ("pod c", "[2001:db8::1]:80", "not routed SenderHasNoFamily"),
            (
                "pod c",
                "[fd00:172:30::11]:80",
                "not routed SenderHasNoFamily",
            ),
        ],
    );
}

#[test]
fn flows_that_no_sender_can_send() {
    let cluster = cluster();
    let flow = |from, source: &str, destination: &str| Flow {
        from,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: Protocol::Tcp,
        port: Port::new(80).unwrap(),
        via: None,
    };
    let pod = |name| Sender::Pod(ObjectKey::new("default", name));
    for (flow, reason) in [
        (
            flow(pod("x"), "10.244.1.5", "10.244.2.5"),
            NoRoute::NoSuchSender,
        ),
        (
            flow(pod("f"), "10.244.1.6", "10.244.2.5"),
            NoRoute::NoSuchSender,
        ),
        (
            flow(pod("a"), "10.244.1.6", "10.244.2.5"),
            NoRoute::NotTheSenders,
        ),
        (
            flow(pod("a"), "10.244.1.5", "fd00:10:244:2::5"),
            NoRoute::OtherFamily,
        ),
        (
            flow(Sender::Node("node-9".into()), "172.30.0.19", "10.244.2.5"),
            NoRoute::NoSuchSender,
        ),
    ] {
        assert_eq!(
            verdict(&cluster, &ranges(), &flow),
            Verdict::NotRouted(reason)
        );
    }
}

#[test]
fn reasons_that_need_no_table_are_reachable() {
    // A pod on a node without an address that reaches itself through a Service has no
    // address to be seen as.
    let mut bare = cluster().node(&"node-1".into()).unwrap().clone();
    bare.internal_ips.clear();
    let cluster = with([
        Object::Node(bare),
        Object::Service(service("web", &["10.96.0.20"])),
        Object::EndpointSlice(slice("web", "web-4", IpFamily::V4, &["10.244.1.5 ready"])),
    ]);
    let flow = Flow {
        from: Sender::Pod(ObjectKey::new("default", "a")),
        source: "10.244.1.5".parse().unwrap(),
        destination: "10.96.0.20".parse().unwrap(),
        protocol: Protocol::Tcp,
        port: Port::new(80).unwrap(),
        via: None,
    };
    assert_eq!(
        verdict(&cluster, &ranges(), &flow),
        Verdict::Dropped(Loss::NoNodeAddress)
    );
    let flow = Flow {
        port: Port::new(81).unwrap(),
        ..flow
    };
    assert_eq!(
        verdict(&cluster, &ranges(), &flow),
        Verdict::Refused(Refusal::NoSuchServicePort)
    );
}

/// A Service at every address it can have, with one endpoint on each node.
fn everywhere(policy: TrafficPolicy) -> Service {
    let mut service = service("web", &["10.96.0.20"]);
    service.ports[0].node_port = Port::new(30080);
    service.external = External {
        addresses: ips(&["192.0.2.20"]),
        load_balancer: ips(&["192.0.2.21"]),
        policy,
        ..External::default()
    };
    service
}

fn endpoints(all: &[&str]) -> Object {
    Object::EndpointSlice(slice("web", "web-4", IpFamily::V4, all))
}

#[test]
fn external_addresses_lead_to_every_endpoint_by_way_of_the_node() {
    let both = ["10.244.1.5 ready @node-1", "10.244.2.5 ready @node-2"];
    let service = everywhere(TrafficPolicy::Cluster);
    let cluster = with([Object::Service(service), endpoints(&both)]);
    let by = |node: &str| {
        format!("10.244.1.5:8080 a as 172.30.0.{node}, 10.244.2.5:8080 c as 172.30.0.{node}")
    };
    for (from, to, expected) in [
        ("outside", "172.30.0.11:30080", by("11")),
        ("outside", "172.30.0.12:30080", by("12")),
        ("pod a", "172.30.0.12:30080", by("12")),
        ("node 1", "172.30.0.12:30080", by("12")),
        ("outside via 1", "192.0.2.20:80", by("11")),
        ("outside via 2", "192.0.2.21:80", by("12")),
        ("pod a", "192.0.2.21:80", by("11")),
        ("outside via 1", "10.96.0.20:80", by("11")),
        (
            "outside",
            "192.0.2.20:80",
            "not routed FromOutside".to_owned(),
        ),
    ] {
        check(&cluster, &[(from, to, &expected)]);
    }
}

#[test]
fn what_stays_on_the_node_that_translates_keeps_its_address() {
    let both = ["172.30.0.11 ready @node-1", "172.30.0.12 ready @node-2"];
    let service = everywhere(TrafficPolicy::Cluster);
    let cluster = with([Object::Service(service), endpoints(&both)]);
    let by = "172.30.0.11:8080 node-1 as itself, 172.30.0.12:8080 node-2 as 172.30.0.11";
    for (from, to) in [
        ("outside", "172.30.0.11:30080"),
        ("outside via 1", "192.0.2.20:80"),
        ("pod a", "192.0.2.21:80"),
        ("node 2", "172.30.0.11:30080"),
    ] {
        check(&cluster, &[(from, to, by)]);
    }
}

#[test]
fn with_the_local_policy_clients_outside_keep_their_address() {
    let own = "10.244.1.5:8080 a as itself";
    let dropped = "dropped NoLocalEndpoints";
    let all = "10.244.1.5:8080 a as itself, 10.244.2.5:8080 c as itself";
    let both = ["10.244.1.5 ready @node-1", "10.244.2.5 ready @node-2"];
    let service = everywhere(TrafficPolicy::Local);
    let cluster = with([Object::Service(service.clone()), endpoints(&both)]);
    check(
        &cluster,
        &[
            ("outside", "172.30.0.11:30080", own),
            ("outside via 1", "192.0.2.20:80", own),
            ("pod c", "172.30.0.11:30080", own),
            ("node 2", "172.30.0.11:30080", own),
            ("pod b", "172.30.0.11:30080", all),
            ("pod b", "192.0.2.21:80", all),
            ("node 1", "172.30.0.11:30080", all),
        ],
    );
    let one = with([Object::Service(service.clone()), endpoints(&both[..1])]);
    check(
        &one,
        &[
            ("outside", "172.30.0.12:30080", dropped),
            ("outside via 2", "192.0.2.21:80", dropped),
            ("pod c", "192.0.2.21:80", own),
        ],
    );
    let none = with([
        Object::Service(service),
        endpoints(&["10.244.1.5 down @node-1"]),
    ]);
    check(
        &none,
        &[("outside", "172.30.0.12:30080", "refused NoEndpoints")],
    );
}

#[test]
fn only_the_balancers_addresses_have_source_ranges() {
    let mut service = everywhere(TrafficPolicy::Cluster);
    service.external.source_ranges = vec!["10.244.1.0/24".parse().unwrap()];
    let cluster = with([
        Object::Service(service.clone()),
        endpoints(&["10.244.2.5 ready @node-2"]),
    ]);
    let not = "dropped SourceNotAdmitted";
    check(
        &cluster,
        &[
            ("pod a", "192.0.2.21:80", "10.244.2.5:8080 c as 172.30.0.11"),
            ("pod c", "192.0.2.21:80", not),
            ("outside via 1", "192.0.2.21:80", not),
            (
                "outside via 1",
                "192.0.2.20:80",
                "10.244.2.5:8080 c as 172.30.0.11",
            ),
            (
                "outside",
                "172.30.0.11:30080",
                "10.244.2.5:8080 c as 172.30.0.11",
            ),
        ],
    );
    let none = with([Object::Service(service)]);
    check(
        &none,
        &[("outside via 1", "192.0.2.21:80", "refused NoEndpoints")],
    );
}

#[test]
fn hints_and_topology_keys_choose_the_near_ones() {
    let mut nodes = Vec::new();
    for (name, zone) in [("node-1", "east"), ("node-2", "west")] {
        let mut node = cluster().node(&name.into()).unwrap().clone();
        node.labels = [("topology.kubernetes.io/zone".into(), zone.into())].into();
        nodes.push(Object::Node(node));
    }
    let mut hinted = slice(
        "web",
        "web-4",
        IpFamily::V4,
        &["10.244.1.5 ready @node-1", "10.244.2.5 ready @node-2"],
    );
    let plain = hinted.clone();
    let zone = |name: &str| {
        let zones = [name.into()].into();
        Hints {
            zones,
            ..Hints::default()
        }
    };
    hinted.endpoints[0].details = zone("west").into();
    let one_hint = hinted.clone();
    hinted.endpoints[1].details = zone("east").into();
    let keyed = |keys: &[&str]| Service {
        topology_keys: keys.iter().map(|key| (*key).into()).collect(),
        ..service("web", &["10.96.0.20"])
    };
    let a = "10.244.1.5:8080 a as itself";
    let c = "10.244.2.5:8080 c as itself";
    let both = "10.244.1.5:8080 a as itself, 10.244.2.5:8080 c as itself";
    for (service, slice, expected) in [
        (keyed(&[]), &plain, both),
        (keyed(&[]), &one_hint, both),
        (keyed(&[]), &hinted, c),
        (keyed(&["topology.kubernetes.io/zone"]), &hinted, a),
        (keyed(&["rack"]), &plain, "refused NoEndpoints"),
        (keyed(&["rack", "*"]), &plain, both),
    ] {
        let mut objects = nodes.clone();
        objects.extend([
            Object::Service(service),
            Object::EndpointSlice(slice.clone()),
        ]);
        check(&with(objects), &[("node 1", "10.96.0.20:80", expected)]);
    }
}

#[test]
fn what_weighs_nothing_is_for_when_there_is_nothing_else() {
    let weighing = |weights: &[(&str, u16)]| {
        let weights = weights.iter().map(|(endpoints, weight)| Weight {
            endpoints: (*endpoints).into(),
            weight: *weight,
        });
        let mut service = service("web", &["10.96.0.20"]);
        service.sharing.weights = weights.collect();
        Object::Service(service)
    };
    let both = ["10.244.1.5 ready @node-1", "10.244.2.5 ready @node-2"];
    let a = "10.244.1.5:8080 a as itself";
    let c = "10.244.2.5:8080 c as itself";
    let all = "10.244.1.5:8080 a as itself, 10.244.2.5:8080 c as itself";
    for (weights, endpoints_there, expected) in [
        (&[("10.244.2.5", 0)][..], &both[..], a),
        (&[("10.244.1.*", 0)], &both, c),
        (&[("10.244.1.*", 5)], &both, all),
        (&[("10.244.2.5", 7), ("*", 0)], &both, c),
        (&[("*", 0)], &both, all),
        (&[("10.244.2.5", 0)], &both[1..], c),
    ] {
        let cluster = with([weighing(weights), endpoints(endpoints_there)]);
        check(&cluster, &[("node 1", "10.96.0.20:80", expected)]);
    }
}

#[test]
fn a_client_keeps_its_endpoint_for_as_long_as_the_service_says() {
    let both = ["10.244.1.5 ready @node-1", "10.244.2.5 ready @node-2"];
    let mut service = everywhere(TrafficPolicy::Local);
    service.affinity = Some(60);
    let lasting = service.clone();
    service.affinity = None;
    let again = |service: &Service, last: &str, seconds, from: &str, to: &str| -> usize {
        let cluster = with([Object::Service(service.clone()), endpoints(&both)]);
        let to: std::net::SocketAddr = to.parse().unwrap();
        let (from, source) = sender(from, &cluster, to.ip());
        let flow = Flow {
            from,
            source,
            destination: to.ip(),
            protocol: Protocol::Tcp,
            port: Port::new(to.port()).unwrap(),
            via: None,
        };
        let last = Last {
            address: last.parse().unwrap(),
            port: Port::new(8080).unwrap(),
            seconds,
        };
        match verdict_again(&cluster, &ranges(), &flow, &last) {
            Verdict::Delivered(arrivals) => {
                assert!(
                    arrivals.len() > 1
                        || arrivals.iter().all(|it| {
                            it.address == last.address || flow.from == Sender::Outside
                        })
                );
                arrivals.len()
            }
            other @ (Verdict::Refused(_) | Verdict::Dropped(_) | Verdict::NotRouted(_)) => {
                panic!("{other:?}")
            }
        }
    };
    let (vip, port) = ("10.96.0.20:80", "172.30.0.11:30080");
    assert_eq!(again(&lasting, "10.244.2.5", 59, "pod b", vip), 1);
    assert_eq!(again(&lasting, "10.244.2.5", 60, "pod b", vip), 2);
    assert_eq!(again(&service, "10.244.2.5", 0, "pod b", vip), 2);
    // One that is gone, and one that this client may not have.
    assert_eq!(again(&lasting, "10.244.9.9", 0, "pod b", vip), 2);
    assert_eq!(again(&lasting, "10.244.2.5", 0, "outside", port), 1);
}
