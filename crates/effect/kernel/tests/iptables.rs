//! Services in iptables, driven with real packets, in both variants of iptables.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod scene;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustix::net::sockopt;
use weft_desired::{
    Backend, Entry, IpFamily, LocalDetection, NodeNat, Origin, Policy, PortEndpoints, Protocol,
    ServicePort, ServicePortKey, Table,
};
use weft_iptables::{Generation, Options};
use weft_kernel::iptables::{self, Report, Rules, Variant, Whose};
use weft_netlab::Namespace;
use weft_netlab::probe::{self, Outcome};

use scene::pod::pod_addresses;
use scene::{Lab, SILENCE};

type Services = Table<ServicePortKey, ServicePort>;

impl Lab {
    /// The scene with two pods, and an ICMP error for each packet that is refused: the
    /// kernel holds them back otherwise, among others for a redirect that it sent before.
    fn eager() -> Self {
        let lab = Self::new(2);
        for key in ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"] {
            lab.node.set_sysctl(key, "0").unwrap();
        }
        lab
    }

    /// The node's rules.
    fn rules(&self, options: &Options) -> Rules {
        self.node
            .run(|| Rules::find(&IpFamily::BOTH, options))
            .unwrap()
            .unwrap()
    }

    fn reconcile(&self, rules: &mut Rules, services: &Services) -> Report {
        self.node
            .run(|| rules.reconcile(services, &nat()))
            .unwrap()
            .unwrap()
    }

    fn save(&self) -> String {
        let programs = ["iptables-nft-save", "ip6tables-nft-save"];
        let saved = programs.map(|program| self.node.output::<&str>(program, []).unwrap());
        let lines = saved.iter().flat_map(|saved| saved.lines());
        // Dates, and what base chains have counted.
        let lines = lines.filter(|line| !line.starts_with('#') && !line.starts_with(':'));
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn pod_address(family: IpFamily, number: u8) -> IpAddr {
    let [v4, v6] = pod_addresses(number);
    match family {
        IpFamily::V4 => v4,
        IpFamily::V6 => v6,
    }
}

fn node_address(family: IpFamily) -> IpAddr {
    let address = match family {
        IpFamily::V4 => "172.30.0.11",
        IpFamily::V6 => "fd00:172:30::11",
    };
    address.parse().unwrap()
}

fn cluster_address(family: IpFamily, number: u8) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::from([10, 96, 0, number]),
        IpFamily::V6 => format!("fd00:10:96::{number:x}").parse().unwrap(),
    }
}

fn load_balancer_address(family: IpFamily, number: u8) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::from([198, 51, 100, number]),
        IpFamily::V6 => format!("2001:db8:51::{number:x}").parse().unwrap(),
    }
}

fn nat() -> NodeNat {
    let ranges = ["10.244.0.0/16", "fd00:10:244::/48"];
    let ranges: BTreeSet<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    NodeNat {
        pod_ranges: ranges.clone(),
        local: LocalDetection::Ranges(ranges),
        own_addresses: IpFamily::BOTH.map(node_address).into(),
        ..NodeNat::default()
    }
}

/// A Service of TCP with these pods, by its number.
fn service(family: IpFamily, number: u8, pods: &[u8]) -> (ServicePortKey, ServicePort) {
    let backends: BTreeSet<Backend> = pods
        .iter()
        .map(|pod| Backend {
            address: pod_address(family, *pod),
            port: 8080,
        })
        .collect();
    let key = ServicePortKey {
        namespace: "default".into(),
        name: format!("s{number}").into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family,
    };
    let port = ServicePort {
        label: format!("default/s{number}:http").into(),
        cluster_address: Some(cluster_address(family, number)),
        port: 80,
        node_port: Some(30000 + u16::from(number)),
        external_addresses: Vec::new(),
        load_balancer_addresses: vec![load_balancer_address(family, number)],
        source_ranges: Vec::new(),
        source_ranges_have_node: false,
        health_check: None,
        affinity: None,
        internal_policy: Policy::Cluster,
        external_policy: Policy::Cluster,
        endpoints: PortEndpoints {
            any: !backends.is_empty(),
            local: Arc::new(backends.clone()),
            cluster: Arc::new(backends),
            ..PortEndpoints::default()
        },
    };
    (key, port)
}

fn entry(key: ServicePortKey, value: ServicePort) -> (ServicePortKey, Entry<ServicePort>) {
    let origin = Origin {
        kind: "Service",
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        generation: 0,
    };
    (key, Entry { value, origin })
}

/// The same Services in both families.
fn services(change: impl Fn(IpFamily, &mut Services)) -> Services {
    let mut services = Services::new();
    for family in IpFamily::BOTH {
        change(family, &mut services);
    }
    services
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

#[test]
fn every_way_to_a_service_leads_to_its_endpoint() {
    let lab = Lab::eager();
    for generation in [Generation::Current, Generation::V1_23] {
        let options = Options {
            generation,
            ..Options::default()
        };
        let mut rules = lab.rules(&options);
        assert_eq!(rules.variant(), Some(Variant::Nft));
        let services = services(|family, services| {
            let (key, port) = service(family, 1, &[1]);
            services.extend([entry(key, port)]);
        });
        lab.reconcile(&mut rules, &services);
        for family in IpFamily::BOTH {
            let cluster = at(cluster_address(family, 1), 80);
            let node_port = at(node_address(family), 30001);
            let balancer = at(load_balancer_address(family, 1), 80);
            for to in [cluster, node_port, balancer] {
                let outcome = lab.tcp(&lab.outside, to);
                assert!(
                    outcome.is_answered(),
                    "{generation:?} outside {to}: {outcome:?}"
                );
                // Their answers have to come back through this node.
                assert!(outcome.answer().unwrap().is_masqueraded(), "{to}");
                let outcome = lab.tcp(&lab.pods[1], to);
                assert!(
                    outcome.is_answered(),
                    "{generation:?} pod {to}: {outcome:?}"
                );
            }
            let from_pod = lab.tcp(&lab.pods[1], cluster);
            assert!(!from_pod.answer().unwrap().is_masqueraded());
            // A pod that reaches itself.
            let itself = lab.tcp(&lab.pods[0], cluster);
            assert!(itself.answer().unwrap().is_masqueraded());
            assert!(lab.tcp(&lab.node, cluster).is_answered());
        }
        // Nothing is left to do.
        let again = lab.reconcile(&mut rules, &services);
        assert_eq!(again, Report::default());
    }
}

#[test]
fn policies_and_refusals_hold() {
    let lab = Lab::eager();
    let mut rules = lab.rules(&Options::default());
    let services = services(|family, services| {
        let (key, local) = service(family, 2, &[1]);
        let local = ServicePort {
            external_policy: Policy::Local,
            ..local
        };
        services.extend([entry(key, local)]);
        let (key, elsewhere) = service(family, 3, &[1]);
        let mut elsewhere = ServicePort {
            external_policy: Policy::Local,
            internal_policy: Policy::Local,
            ..elsewhere
        };
        elsewhere.endpoints.local = Arc::default();
        services.extend([entry(key, elsewhere)]);
        let (key, nobody) = service(family, 4, &[]);
        services.extend([entry(key, nobody)]);
        let (key, guarded) = service(family, 5, &[2]);
        let range = match family {
            IpFamily::V4 => "172.30.0.128/25",
            IpFamily::V6 => "fd00:172:30::8000/113",
        };
        let guarded = ServicePort {
            source_ranges: vec![range.parse().unwrap()],
            ..guarded
        };
        services.extend([entry(key, guarded)]);
    });
    lab.reconcile(&mut rules, &services);
    for family in IpFamily::BOTH {
        // The client's own address is kept where nothing has to come back this way.
        let kept = lab.tcp(&lab.outside, at(node_address(family), 30002));
        assert!(!kept.answer().unwrap().is_masqueraded(), "{family}");

        let silent = |from: &Namespace, to| {
            let outcome = probe::tcp(from, to, SILENCE).unwrap();
            assert!(matches!(outcome, Outcome::TimedOut), "{to}: {outcome:?}");
        };
        silent(&lab.outside, at(node_address(family), 30003));
        silent(&lab.pods[1], at(cluster_address(family, 3), 80));
        // Pods are given the cluster's endpoints at external addresses all the same.
        let balancer = at(load_balancer_address(family, 3), 80);
        assert!(lab.tcp(&lab.pods[1], balancer).is_answered(), "{family}");

        for to in [
            at(cluster_address(family, 4), 80),
            at(node_address(family), 30004),
        ] {
            let outcome = lab.tcp(&lab.outside, to);
            assert!(!outcome.is_answered(), "{to}");
            assert!(!matches!(outcome, Outcome::TimedOut), "{to}: {outcome:?}");
        }
        silent(&lab.outside, at(load_balancer_address(family, 5), 80));
        // Source ranges are the load balancer's alone.
        let node_port = at(node_address(family), 30005);
        assert!(lab.tcp(&lab.outside, node_port).is_answered(), "{family}");
    }
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let lab = Lab::eager();
    let mut rules = lab.rules(&Options::default());
    let services = services(|family, services| {
        let (key, port) = service(family, 6, &[1, 2]);
        let port = ServicePort {
            affinity: Some(600),
            ..port
        };
        services.extend([entry(key, port)]);
    });
    lab.reconcile(&mut rules, &services);
    for family in IpFamily::BOTH {
        let to = at(cluster_address(family, 6), 80);
        let servers: BTreeSet<SocketAddr> = (0..12)
            .map(|_| lab.tcp(&lab.outside, to).answer().unwrap().to)
            .collect();
        assert_eq!(servers.len(), 1, "{family}: {servers:?}");
    }
}

#[test]
fn a_change_writes_what_changed_and_a_restart_adopts() {
    let lab = Lab::eager();
    let mut rules = lab.rules(&Options::default());
    let mut all = services(|family, services| {
        for number in 1..=9 {
            let (key, port) = service(family, number, &[1]);
            services.extend([entry(key, port)]);
        }
    });
    lab.reconcile(&mut rules, &all);
    let (key, port) = service(IpFamily::V4, 3, &[2]);
    all.extend([entry(key.clone(), port.clone())]);
    let report = lab
        .node
        .run(|| rules.apply([(&key, Some(&port))], &all))
        .unwrap()
        .unwrap();
    // The chain that chooses and the new endpoint's; the old endpoint's goes.
    let expected = Report {
        written: 2,
        removed: 1,
        jumps: 0,
        restores: 1,
        filter_rules: 0,
        // Two chains of two.
        nat_rules: 4,
    };
    assert_eq!(report, expected);
    let to = at(cluster_address(IpFamily::V4, 3), 80);
    let server = lab.tcp(&lab.outside, to).answer().unwrap().to;
    assert_eq!(server, at(pod_address(IpFamily::V4, 2), 8080));

    let mut restarted = lab.rules(&Options::default());
    assert_eq!(lab.reconcile(&mut restarted, &all), Report::default());

    all.remove(&key);
    lab.node
        .run(|| restarted.apply([(&key, None)], &all))
        .unwrap()
        .unwrap();
    let fresh = Lab::eager();
    let mut rules = fresh.rules(&Options::default());
    fresh.reconcile(&mut rules, &all);
    assert_eq!(lab.save(), fresh.save());
}

#[test]
fn damage_is_noticed_and_repaired() {
    let lab = Lab::eager();
    let mut rules = lab.rules(&Options::default());
    let all = services(|family, services| {
        let (key, port) = service(family, 1, &[1]);
        services.extend([entry(key, port)]);
    });
    lab.reconcile(&mut rules, &all);
    let right = lab.save();
    let disturbed = |rules: &mut Rules| lab.node.run(|| rules.disturbed()).unwrap().unwrap();
    assert!(!disturbed(&mut rules));
    for damage in [
        &["iptables-nft", "-t", "nat", "-F"][..],
        &["iptables-nft", "-t", "nat", "-F", "KUBE-SERVICES"],
        &["ip6tables-nft", "-t", "nat", "-F"],
        &["iptables-nft", "-t", "filter", "-D", "FORWARD", "1"],
        &["iptables-nft", "-t", "mangle", "-X", "KUBE-PROXY-CANARY"],
    ] {
        lab.node.output(damage[0], &damage[1..]).unwrap();
        assert!(disturbed(&mut rules), "{damage:?}");
        let report = lab.reconcile(&mut rules, &all);
        assert!(report.writes() > 0, "{damage:?}");
        assert_eq!(lab.save(), right, "{damage:?}");
        assert!(!disturbed(&mut rules), "{damage:?}");
    }
    let families = &IpFamily::BOTH;
    let present = || {
        lab.node
            .run(|| iptables::present(families))
            .unwrap()
            .unwrap()
    };
    assert_eq!(present(), Some(Whose::Ours));
    let remove = |whose| lab.node.run(|| iptables::remove(families, whose)).unwrap();
    assert!(remove(Whose::Ours).unwrap().writes() > 0);
    assert!(!lab.save().contains("KUBE-"), "{}", lab.save());
    assert_eq!(present(), None);
    // kube-proxy's go only if somebody says so.
    lab.node
        .output("iptables-nft", ["-t", "nat", "-N", "KUBE-SERVICES"])
        .unwrap();
    assert_eq!(remove(Whose::Ours).unwrap(), Report::default());
    assert_eq!(present(), Some(Whose::Anybodys));
    assert_eq!(remove(Whose::Anybodys).unwrap().removed, 1);
}

#[test]
fn a_change_that_overflows_the_notifications_is_looked_at_once() {
    let lab = Lab::eager();
    let mut rules = lab.rules(&Options::default());
    // As small as the kernel makes it.
    sockopt::set_socket_recv_buffer_size(rules.notifications().unwrap(), 0).unwrap();
    let all = services(|family, services| {
        for number in 1..100 {
            let (key, port) = service(family, number, &[1]);
            services.extend([entry(key, port)]);
        }
    });
    lab.reconcile(&mut rules, &all);
    let right = lab.save();
    let disturbed = |rules: &mut Rules| lab.node.run(|| rules.disturbed()).unwrap().unwrap();
    // What others did meanwhile may be among what was lost.
    assert!(disturbed(&mut rules));
    assert_eq!(lab.reconcile(&mut rules, &all), Report::default());
    assert!(!disturbed(&mut rules));
    let keys: Vec<_> = all.keys().cloned().collect();
    lab.node
        .run(|| rules.apply(keys.iter().map(|key| (key, None)), &Services::new()))
        .unwrap()
        .unwrap();
    assert!(disturbed(&mut rules));
    let report = lab.reconcile(&mut rules, &all);
    assert!(report.writes() > 0);
    assert_eq!(lab.save(), right);
}

#[test]
fn a_refused_change_is_said_and_then_repaired() {
    let lab = Lab::eager();
    let mut rules = lab.rules(&Options::default());
    let mut all = services(|family, services| {
        let (key, port) = service(family, 1, &[1]);
        services.extend([entry(key, port)]);
    });
    lab.reconcile(&mut rules, &all);
    let right = lab.save();
    // The kernel forgets nothing after no time at all (xt_recent), and refuses the table.
    let (key, port) = service(IpFamily::V4, 2, &[2]);
    let bad = ServicePort {
        affinity: Some(0),
        ..port
    };
    all.extend([entry(key.clone(), bad.clone())]);
    let refused = lab
        .node
        .run(|| rules.apply([(&key, Some(&bad))], &all))
        .unwrap();
    assert!(refused.is_err());
    assert!(rules.needs_reconcile());
    assert_eq!(lab.save(), right);
    let unsettled = lab.node.run(|| rules.apply([(&key, None)], &all)).unwrap();
    assert!(unsettled.is_err());
    all.remove(&key);
    lab.reconcile(&mut rules, &all);
    assert_eq!(lab.save(), right);
}

#[test]
fn the_variant_is_the_one_that_is_in_use() {
    let lab = Lab::eager();
    // As a kubelet leaves it.
    lab.node
        .output(
            "iptables-legacy",
            ["-t", "mangle", "-N", "KUBE-KUBELET-CANARY"],
        )
        .unwrap();
    let mut rules = lab.rules(&Options::default());
    assert_eq!(rules.variant(), Some(Variant::Legacy));
    let all = services(|family, services| {
        let (key, port) = service(family, 1, &[1]);
        services.extend([entry(key, port)]);
    });
    lab.reconcile(&mut rules, &all);
    assert_eq!(lab.reconcile(&mut rules, &all), Report::default());
    for family in IpFamily::BOTH {
        let to = at(cluster_address(family, 1), 80);
        assert!(lab.tcp(&lab.outside, to).is_answered(), "{family}");
    }
    let disturbed = |rules: &mut Rules| lab.node.run(|| rules.disturbed()).unwrap().unwrap();
    assert!(!disturbed(&mut rules));
    lab.node
        .output("iptables-legacy", ["-t", "nat", "-F"])
        .unwrap();
    assert!(disturbed(&mut rules));
    lab.reconcile(&mut rules, &all);
    assert!(!disturbed(&mut rules));
}
