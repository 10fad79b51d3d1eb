//! Listings that people have published of clusters with kube-proxy: our rules for the same
//! Services, with the same names.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_desired::{
    Backend, Entry, IpFamily, LocalDetection, NodeNat, Origin, Policy, PortEndpoints, Protocol,
    ServicePort, ServicePortKey, Table,
};
use weft_iptables::{Generation, Options, Ruleset};

fn rules(port: &str, service: ServicePort, pods: &str) -> Vec<String> {
    let label = service.label.split(['/', ':']).collect::<Vec<_>>();
    let key = ServicePortKey {
        namespace: label[0].into(),
        name: label[1].into(),
        port: port.into(),
        protocol: Protocol::Tcp,
        family: IpFamily::V4,
    };
    let origin = Origin {
        kind: "Service",
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        generation: 0,
    };
    let services = Table::from([(
        key,
        Entry {
            value: service,
            origin,
        },
    )]);
    let nat = NodeNat {
        local: LocalDetection::Ranges(BTreeSet::from([pods.parse().unwrap()])),
        ..NodeNat::default()
    };
    let options = Options {
        generation: Generation::V1_23,
        ..Options::default()
    };
    let saved = Ruleset::new(IpFamily::V4, &services, &nat, &options).saved();
    saved.lines().map(str::to_owned).collect()
}

fn service(label: &str, address: &str, node_port: Option<u16>, endpoints: &[&str]) -> ServicePort {
    let endpoints: BTreeSet<Backend> = endpoints
        .iter()
        .map(|endpoint| {
            let socket: std::net::SocketAddr = endpoint.parse().unwrap();
            Backend {
                address: socket.ip(),
                port: socket.port(),
            }
        })
        .collect();
    ServicePort {
        label: label.into(),
        cluster_address: Some(address.parse().unwrap()),
        port: 80,
        node_port,
        external_addresses: Vec::new(),
        load_balancer_addresses: Vec::new(),
        source_ranges: Vec::new(),
        source_ranges_have_node: false,
        health_check: None,
        affinity: None,
        internal_policy: Policy::Cluster,
        external_policy: Policy::Cluster,
        endpoints: PortEndpoints {
            any: true,
            cluster: Arc::new(endpoints),
            ..PortEndpoints::default()
        },
    }
}

const NGINX: [&str; 3] = [
    "192.168.185.13:80",
    "192.168.185.14:80",
    "192.168.185.15:80",
];

fn chain(rules: &[String], chain: &str) -> Vec<String> {
    let start = format!("-A {chain} ");
    let of_chain = rules.iter().filter(|line| line.starts_with(&start));
    of_chain.cloned().collect()
}

/// kube-proxy 1.23.3: a Service with a cluster address.
#[test]
fn a_cluster_address_is_listed_as_published() {
    let service = service("default/nginx-basic:http", "10.100.49.21", None, &NGINX);
    let rules = rules("http", service, "192.168.0.0/16");
    for line in [
        ":KUBE-SERVICES - [0:0]",
        r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
        r#"-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
        r#"-A KUBE-SERVICES -d 10.100.49.21/32 -p tcp -m comment --comment "default/nginx-basic:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-WWRFY3PZ7W3FGMQW"#,
        ":KUBE-SEP-C6OXGZ6X74U4SWF2 - [0:0]",
        ":KUBE-SEP-D5OXRFJGQH2C25YK - [0:0]",
        ":KUBE-SEP-2W6OV52L6MRXKJPO - [0:0]",
    ] {
        assert!(rules.iter().any(|rule| rule == line), "{line}");
    }
    assert_eq!(
        chain(&rules, "KUBE-SVC-WWRFY3PZ7W3FGMQW"),
        [
            r#"-A KUBE-SVC-WWRFY3PZ7W3FGMQW ! -s 192.168.0.0/16 -d 10.100.49.21/32 -p tcp -m comment --comment "default/nginx-basic:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-SVC-WWRFY3PZ7W3FGMQW -m comment --comment "default/nginx-basic:http" -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-C6OXGZ6X74U4SWF2"#,
            r#"-A KUBE-SVC-WWRFY3PZ7W3FGMQW -m comment --comment "default/nginx-basic:http" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-D5OXRFJGQH2C25YK"#,
            r#"-A KUBE-SVC-WWRFY3PZ7W3FGMQW -m comment --comment "default/nginx-basic:http" -j KUBE-SEP-2W6OV52L6MRXKJPO"#,
        ]
    );
    for (name, address) in [
        ("KUBE-SEP-C6OXGZ6X74U4SWF2", "192.168.185.13"),
        ("KUBE-SEP-D5OXRFJGQH2C25YK", "192.168.185.14"),
        ("KUBE-SEP-2W6OV52L6MRXKJPO", "192.168.185.15"),
    ] {
        let comment = r#"-m comment --comment "default/nginx-basic:http""#;
        assert_eq!(
            chain(&rules, name),
            [
                format!("-A {name} -s {address}/32 {comment} -j KUBE-MARK-MASQ"),
                format!("-A {name} -p tcp {comment} -m tcp -j DNAT --to-destination {address}:80"),
            ]
        );
    }
}

/// The same Service with a node port.
#[test]
fn a_node_port_is_listed_as_published() {
    let service = service(
        "default/nginx-basic:http",
        "10.100.49.21",
        Some(31195),
        &NGINX,
    );
    let rules = rules("http", service, "192.168.0.0/16");
    assert_eq!(
        chain(&rules, "KUBE-NODEPORTS"),
        [
            r#"-A KUBE-NODEPORTS -p tcp -m comment --comment "default/nginx-basic:http" -m tcp --dport 31195 -j KUBE-SVC-WWRFY3PZ7W3FGMQW"#
        ]
    );
    assert_eq!(
        chain(&rules, "KUBE-SVC-WWRFY3PZ7W3FGMQW")[..2],
        [
            r#"-A KUBE-SVC-WWRFY3PZ7W3FGMQW ! -s 192.168.0.0/16 -d 10.100.49.21/32 -p tcp -m comment --comment "default/nginx-basic:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-SVC-WWRFY3PZ7W3FGMQW -p tcp -m comment --comment "default/nginx-basic:http" -m tcp --dport 31195 -j KUBE-MARK-MASQ"#,
        ]
    );
}

/// An older kube-proxy, in structure: one portal, one chain of chances, three translations.
/// A port without a name was hashed with its colon then.
#[test]
fn an_older_listing_has_the_same_structure() {
    let endpoints = ["10.244.1.7:9376", "10.244.2.3:9376", "10.244.3.6:9376"];
    let service = service("default/hostnames:", "10.0.1.175", None, &endpoints);
    let rules = rules("", service, "10.244.0.0/16");
    let portals = chain(&rules, "KUBE-SERVICES");
    assert_eq!(
        portals[0],
        r#"-A KUBE-SERVICES -d 10.0.1.175/32 -p tcp -m comment --comment "default/hostnames: cluster IP" -m tcp --dport 80 -j KUBE-SVC-NWV5X2332I4OT4T3"#
    );
    let spread = &chain(&rules, "KUBE-SVC-NWV5X2332I4OT4T3")[1..];
    let mut leads_to = Vec::new();
    for (line, chance) in spread.iter().zip(["0.333", "0.500", ""]) {
        let start = r#"-A KUBE-SVC-NWV5X2332I4OT4T3 -m comment --comment "default/hostnames:" "#;
        let rest = line.strip_prefix(start).unwrap();
        let target = if chance.is_empty() {
            rest.strip_prefix("-j ").unwrap()
        } else {
            let rest = rest.strip_prefix("-m statistic --mode random --probability ");
            let rest = rest.and_then(|rest| rest.strip_prefix(chance)).unwrap();
            rest.split_once(" -j ").unwrap().1
        };
        leads_to.push(chain(&rules, target));
    }
    for (rules, endpoint) in leads_to.iter().zip(endpoints) {
        let address = endpoint.split(':').next().unwrap();
        assert!(rules[0].contains(&format!("-s {address}/32")), "{rules:?}");
        assert!(
            rules[1].ends_with(&format!("-j DNAT --to-destination {endpoint}")),
            "{rules:?}"
        );
    }
    assert_eq!((spread.len(), leads_to.len()), (3, 3));
}

/// What iptables 1.8.9 prints of eight in ten, then one of the two that are left.
#[test]
fn endpoints_that_weigh_more_get_more() {
    let mut service = service("default/nginx-basic:http", "10.100.49.21", None, &NGINX);
    let heavy = service.endpoints.cluster.first().copied().unwrap();
    service.endpoints.sharing.weights = Arc::new([(heavy, 8)].into());
    let rules = rules("http", service, "192.168.0.0/16");
    let chances: Vec<_> = chain(&rules, "KUBE-SVC-WWRFY3PZ7W3FGMQW")
        .iter()
        .filter_map(|rule| rule.split_once("--probability "))
        .map(|(_, rest)| rest.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(chances, ["0.79999999981", "0.50000000000"]);
}
