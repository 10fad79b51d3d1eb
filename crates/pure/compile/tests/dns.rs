//! Names and records of small clusters, and their independence of history.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use weft_compile::{DnsCompiler, DnsSettings};
use weft_desired::{DnsTable, DomainName, NameRecords};
use weft_model::{
    Change, Details, Endpoint, EndpointPort, EndpointSlice, IpFamily, Key, Object, ObjectKey,
    PodNames, Port, PortName, Protocol, Rejection, Service, ServiceAddress, ServicePort,
    ServiceType, TrafficPolicy, Uid,
};

fn settings(own: &[&str]) -> DnsSettings {
    DnsSettings {
        zone: DomainName::parse("cluster.local").unwrap(),
        ttl: 5,
        own_addresses: own.iter().map(|text| ip(text)).collect(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn namespace(name: &str) -> Change {
    Change::Put(Object::Namespace(name.into()))
}

fn service(name: &str, address: ServiceAddress, ports: &[(&str, Protocol, u16)]) -> Service {
    Service {
        key: ObjectKey::new("default", name),
        uid: Uid::from(name),
        generation: 1,
        created: 0,
        service_type: ServiceType::ClusterIP,
        address,
        ports: ports
            .iter()
            .map(|(name, protocol, number)| ServicePort {
                name: PortName::from(*name),
                protocol: *protocol,
                port: port(*number),
                node_port: None,
            })
            .collect(),
        publish_not_ready: false,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external: Default::default(),
        affinity: None,
        topology_keys: Vec::new(),
        sharing: Default::default(),
        not_proxied: false,
    }
}

fn virtual_service(name: &str, addresses: &[&str], ports: &[(&str, Protocol, u16)]) -> Service {
    let addresses = addresses.iter().map(|text| ip(text)).collect();
    service(name, ServiceAddress::Virtual(addresses), ports)
}

fn put(service: Service) -> Change {
    Change::Put(Object::Service(service))
}

fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip(address)].into(),
        ready,
        serving: ready,
        terminating: false,
        node: None,
        details: Details {
            hostname: hostname.map(Into::into),
            ..Details::default()
        }
        .into(),
    }
}

fn slice(
    name: &str,
    service: &str,
    ports: &[(&str, Protocol, u16)],
    endpoints: Vec<Endpoint>,
) -> Change {
    let family = endpoints
        .first()
        .and_then(Endpoint::address)
        .map_or(IpFamily::V4, IpFamily::of);
    Change::Put(Object::EndpointSlice(EndpointSlice {
        key: ObjectKey::new("default", name),
        generation: 1,
        service: ObjectKey::new("default", service),
        family,
        ports: ports
            .iter()
            .map(|(name, protocol, number)| EndpointPort {
                name: PortName::from(*name),
                protocol: *protocol,
                port: port(*number),
            })
            .collect(),
        endpoints,
        not_proxied: false,
        pods: PodNames::default(),
    }))
}

fn compiled(own: &[&str], changes: Vec<Change>) -> DnsCompiler {
    let mut compiler = DnsCompiler::new(settings(own));
    for change in changes {
        compiler.apply(change);
    }
    compiler
}

/// As a zone file would write it; names without records have a line too.
fn zone_file(table: &DnsTable) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, entry) in table {
        let before = lines.len();
        let NameRecords {
            ttl,
            addresses,
            alias,
            pointers,
            services,
            name_servers,
            texts,
            additional: _,
        } = &entry.value;
        let mut line = |record: String| lines.push(format!("{} {ttl} {record}", name.as_str()));
        for address in addresses {
            line(match address {
                IpAddr::V4(address) => format!("A {address}"),
                IpAddr::V6(address) => format!("AAAA {address}"),
            });
        }
        alias.iter().for_each(|name| line(format!("CNAME {name}")));
        pointers.iter().for_each(|name| line(format!("PTR {name}")));
        for record in services {
            line(format!(
                "SRV {} {} {} {}",
                record.priority, record.weight, record.port, record.target
            ));
        }
        name_servers
            .iter()
            .for_each(|name| line(format!("NS {name}")));
        texts.iter().for_each(|text| line(format!("TXT {text:?}")));
        if lines.len() == before {
            lines.push(format!("{} exists", name.as_str()));
        }
    }
    lines
}

/// The lines that the changes add to those of an empty cluster.
fn added(own: &[&str], changes: Vec<Change>) -> Vec<String> {
    let empty: BTreeSet<String> = zone_file(&compiled(own, vec![]).table())
        .into_iter()
        .collect();
    zone_file(&compiled(own, changes).table())
        .into_iter()
        .filter(|line| !empty.contains(line))
        .collect()
}

#[test]
fn every_cluster_has_these_names() {
    assert_eq!(
        zone_file(&compiled(&["10.244.1.2"], vec![namespace("default")]).table()),
        [
            "cluster.local 5 NS ns.dns.cluster.local.",
            "default.svc.cluster.local exists",
            "dns-version.cluster.local 28800 TXT \"1.1.0\"",
            "dns.cluster.local exists",
            "ns.dns.cluster.local 5 A 10.244.1.2",
            "pod.cluster.local exists",
            "svc.cluster.local exists",
        ]
    );
}

#[test]
fn a_dual_stack_service() {
    let ports = [("http", Protocol::Tcp, 80), ("", Protocol::Udp, 53)];
    let changes = vec![
        put(virtual_service(
            "hello",
            &["10.96.0.7", "fd00:10:96::7"],
            &ports,
        )),
        slice(
            "hello-4",
            "hello",
            &[("http", Protocol::Tcp, 8080)],
            vec![
                endpoint("10.244.1.5", None, true),
                endpoint("10.244.1.6", None, false),
            ],
        ),
        slice(
            "hello-6",
            "hello",
            &[("http", Protocol::Tcp, 8080)],
            vec![endpoint("fd00:10:244:1::", None, true)],
        ),
    ];
    assert_eq!(
        added(&[], changes),
        [
            "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa 5 PTR fd00-10-244-1--0.hello.default.svc.cluster.local.",
            "10-244-1-5.hello.default.svc.cluster.local 5 A 10.244.1.5",
            "10-244-1-5.hello.default.svc.cluster.local 5 SRV 0 100 8080 10-244-1-5.hello.default.svc.cluster.local.",
            "5.1.244.10.in-addr.arpa 5 PTR 10-244-1-5.hello.default.svc.cluster.local.",
            "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa 5 PTR hello.default.svc.cluster.local.",
            "7.0.96.10.in-addr.arpa 5 PTR hello.default.svc.cluster.local.",
            "_http._tcp.hello.default.svc.cluster.local 5 SRV 0 50 80 hello.default.svc.cluster.local.",
            "fd00-10-244-1--0.hello.default.svc.cluster.local 5 AAAA fd00:10:244:1::",
            "fd00-10-244-1--0.hello.default.svc.cluster.local 5 SRV 0 100 8080 fd00-10-244-1--0.hello.default.svc.cluster.local.",
            "hello.default.svc.cluster.local 5 A 10.96.0.7",
            "hello.default.svc.cluster.local 5 AAAA fd00:10:96::7",
            "hello.default.svc.cluster.local 5 SRV 0 25 53 hello.default.svc.cluster.local.",
            "hello.default.svc.cluster.local 5 SRV 0 25 80 hello.default.svc.cluster.local.",
        ]
    );
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    let ports = [("mysql", Protocol::Tcp, 3306)];
    let changes = vec![
        put(service("db", ServiceAddress::Headless, &ports)),
        slice(
            "db-1",
            "db",
            &ports,
            vec![
                endpoint("10.244.1.5", Some("db-0"), true),
                endpoint("10.244.2.5", Some("db-1"), true),
                endpoint("10.244.2.6", Some("db-2"), false),
            ],
        ),
    ];
    assert_eq!(
        added(&[], changes),
        [
            "5.1.244.10.in-addr.arpa 5 PTR db-0.db.default.svc.cluster.local.",
            "5.2.244.10.in-addr.arpa 5 PTR db-1.db.default.svc.cluster.local.",
            "_mysql._tcp.db.default.svc.cluster.local 5 SRV 0 50 3306 db-0.db.default.svc.cluster.local.",
            "_mysql._tcp.db.default.svc.cluster.local 5 SRV 0 50 3306 db-1.db.default.svc.cluster.local.",
            "db-0.db.default.svc.cluster.local 5 A 10.244.1.5",
            "db-0.db.default.svc.cluster.local 5 SRV 0 100 3306 db-0.db.default.svc.cluster.local.",
            "db-1.db.default.svc.cluster.local 5 A 10.244.2.5",
            "db-1.db.default.svc.cluster.local 5 SRV 0 100 3306 db-1.db.default.svc.cluster.local.",
            "db.default.svc.cluster.local 5 A 10.244.1.5",
            "db.default.svc.cluster.local 5 A 10.244.2.5",
            "db.default.svc.cluster.local 5 SRV 0 50 3306 db-0.db.default.svc.cluster.local.",
            "db.default.svc.cluster.local 5 SRV 0 50 3306 db-1.db.default.svc.cluster.local.",
        ]
    );
}

#[test]
fn a_headless_service_without_ready_endpoints_does_not_exist() {
    let changes = vec![
        put(service("db", ServiceAddress::Headless, &[])),
        slice("db-1", "db", &[], vec![endpoint("10.244.1.5", None, false)]),
    ];
    assert_eq!(added(&[], changes), Vec::<String>::new());
}

#[test]
fn a_service_without_ports_has_an_address_and_no_srv() {
    let changes = vec![put(virtual_service("bare", &["10.96.0.9"], &[]))];
    assert_eq!(
        added(&[], changes),
        [
            "9.0.96.10.in-addr.arpa 5 PTR bare.default.svc.cluster.local.",
            "bare.default.svc.cluster.local 5 A 10.96.0.9",
        ]
    );
}

#[test]
fn an_external_name_is_an_alias_unless_it_is_an_address() {
    let alias = |target: &str| {
        vec![put(service(
            "out",
            ServiceAddress::Alias(target.into()),
            &[],
        ))]
    };
    assert_eq!(
        added(&[], alias("WWW.example.org")),
        ["out.default.svc.cluster.local 5 CNAME www.example.org."]
    );
    let compiler = compiled(&[], alias("192.0.2.1"));
    assert_eq!(
        compiler.records(&DomainName::parse("out.default.svc.cluster.local").unwrap()),
        None
    );
    assert_eq!(
        compiler.problems()[0].object,
        Key::Service(ObjectKey::new("default", "out"))
    );
    assert!(!compiled(&[], alias("a..b")).problems().is_empty());
}

#[test]
fn what_could_not_be_read_is_a_problem_as_long_as_it_stands() {
    let web = virtual_service("web", &["10.96.0.20"], &[]);
    let key = Key::Service(web.key.clone());
    let rejection = Rejection {
        field: "spec.clusterIPs[0]".to_owned(),
        reason: "\"x\" is no address".to_owned(),
    };
    let mut compiler = compiled(&[], vec![Change::Reject(key.clone(), rejection.clone())]);
    let said = "Service default/web: spec.clusterIPs[0]: \"x\" is no address";
    // Once, however often it is listed.
    for _ in 0..2 {
        let problems: Vec<String> = compiler
            .problems()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(problems, [said]);
        compiler.apply(Change::Reject(key.clone(), rejection.clone()));
    }
    compiler.apply(put(web));
    assert!(compiler.problems().is_empty());
}

#[test]
fn the_service_of_this_server_is_the_zones_name_server() {
    let ports = [("dns", Protocol::Udp, 53)];
    let changes = |ready| {
        vec![
            put(virtual_service("kube-dns", &["10.96.0.10"], &[])),
            slice(
                "kube-dns-1",
                "kube-dns",
                &ports,
                vec![endpoint("10.244.1.2", None, ready)],
            ),
        ]
    };
    let lines = zone_file(&compiled(&["10.244.1.2"], changes(true)).table());
    assert!(
        lines.contains(&"cluster.local 5 NS kube-dns.default.svc.cluster.local.".to_owned())
            && lines.contains(&"ns.dns.cluster.local 5 A 10.96.0.10".to_owned())
            && !lines.contains(&"cluster.local 5 NS ns.dns.cluster.local.".to_owned()),
        "{lines:#?}"
    );
    let lines = zone_file(&compiled(&["10.244.1.2"], changes(false)).table());
    assert!(
        lines.contains(&"cluster.local 5 NS ns.dns.cluster.local.".to_owned())
            && lines.contains(&"ns.dns.cluster.local 5 A 10.244.1.2".to_owned()),
        "{lines:#?}"
    );
}

#[test]
fn an_address_has_one_name_as_a_services_and_all_names_as_an_endpoints() {
    let pointers = |changes| {
        let name = DomainName::reverse(ip("10.244.1.5"));
        compiled(&[], changes)
            .records(&name)
            .map(|entry| {
                entry
                    .value
                    .pointers
                    .iter()
                    .map(|name| name.as_str().to_owned())
                    .collect::<Vec<_>>()
            })
            .unwrap_or_default()
    };
    let endpoints = |name: &str| {
        slice(
            &format!("{name}-1"),
            name,
            &[],
            vec![endpoint("10.244.1.5", None, true)],
        )
    };
    let mut changes = vec![
        put(virtual_service("a", &["10.96.0.1"], &[])),
        endpoints("a"),
        put(service("b", ServiceAddress::Headless, &[])),
        endpoints("b"),
    ];
    assert_eq!(
        pointers(changes.clone()),
        [
            "10-244-1-5.a.default.svc.cluster.local",
            "10-244-1-5.b.default.svc.cluster.local"
        ]
    );
    // A Service's own address is stronger, and of two such the older Service wins.
    let mut young = virtual_service("young", &["10.244.1.5"], &[]);
    young.created = 10;
    let old = virtual_service("z-old", &["10.244.1.5"], &[]);
    changes.push(put(young));
    changes.push(put(old));
    assert_eq!(pointers(changes), ["z-old.default.svc.cluster.local"]);
}

#[test]
fn one_services_change_touches_its_own_names_only() {
    let mut compiler = compiled(
        &[],
        vec![
            namespace("default"),
            put(virtual_service("a", &["10.96.0.1"], &[])),
            put(virtual_service("b", &["10.96.0.2"], &[])),
        ],
    );
    let touched = compiler.apply(put(virtual_service("a", &["10.96.0.3"], &[])));
    let touched: Vec<&str> = touched.iter().map(DomainName::as_str).collect();
    assert_eq!(
        touched,
        [
            "1.0.96.10.in-addr.arpa",
            "3.0.96.10.in-addr.arpa",
            "a.default.svc.cluster.local"
        ]
    );
    let mut relabelled = virtual_service("a", &["10.96.0.3"], &[]);
    relabelled.generation = 2;
    assert!(compiler.apply(put(relabelled)).is_empty());
}

fn any_change() -> impl Strategy<Value = Change> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    let address = prop_oneof![
        vec(0u8..4, 0..3).prop_map(|last| ServiceAddress::Virtual(
            last.iter()
                .map(|last| IpAddr::from([10, 96, 0, *last]))
                .collect()
        )),
        Just(ServiceAddress::Headless),
        Just(ServiceAddress::Alias("example.org".into())),
        Just(ServiceAddress::Alias("10.0.0.1".into())),
    ];
    let ports = prop_oneof![
        Just(vec![]),
        Just(vec![("http", Protocol::Tcp, 80)]),
        Just(vec![("", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]),
    ];
    let endpoints = vec((0u8..4, any::<bool>(), any::<bool>()), 0..4).prop_map(|all| {
        all.into_iter()
            .map(|(last, ready, named)| {
                let hostname = named.then(|| format!("host-{}", last % 2));
                endpoint(&format!("10.244.1.{last}"), hostname.as_deref(), ready)
            })
            .collect::<Vec<_>>()
    });
    prop_oneof![
        (name.clone(), address, ports.clone(), 0i64..3).prop_map(
            |(name, address, ports, created)| {
                let mut service = service(name, address, &ports);
                service.created = created;
                put(service)
            }
        ),
        (name.clone(), name.clone(), ports, endpoints).prop_map(
            |(slice_name, of, ports, endpoints)| slice(slice_name, of, &ports, endpoints)
        ),
        name.clone()
            .prop_map(|name| Change::Delete(Key::Service(ObjectKey::new("default", name)))),
        name.clone()
            .prop_map(|name| Change::Delete(Key::EndpointSlice(ObjectKey::new("default", name)))),
        name.clone().prop_map(namespace),
        name.prop_map(|name| Change::Delete(Key::Namespace(name.into()))),
    ]
}

proptest! {
    /// The table is a function of the cluster's state: whatever led there, compiling
    /// that state afresh gives the same; and what changed was told.
    #[test]
    fn history_leaves_no_trace(batches in vec(vec(any_change(), 0..10), 0..10)) {
        let own = ["10.244.1.1"];
        let mut compiler = compiled(&own, vec![]);
        let mut followed = compiler.table();
        for batch in &batches {
            for name in compiler.apply_all(batch.clone()) {
                match compiler.records(&name) {
                    Some(entry) => followed.insert(name, entry),
                    None => followed.remove(&name),
                };
            }
        }
        prop_assert_eq!(&followed, &compiler.table());

        let mut last: BTreeMap<Key, Change> = BTreeMap::new();
        for change in batches.into_iter().flatten() {
            last.insert(change.key(), change);
        }
        let fresh = compiled(&own, last.values().rev().cloned().collect());
        prop_assert_eq!(zone_file(&fresh.table()), zone_file(&compiler.table()));
        prop_assert_eq!(fresh.table(), compiler.table());
        prop_assert_eq!(fresh.problems(), compiler.problems());
    }
}
