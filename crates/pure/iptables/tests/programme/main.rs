//! Changes lead to what a fresh rendering would be, and touch nothing of others.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod kernel;
mod refusal;
mod steps;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use weft_desired::{
    Backend, Entry, IpFamily, LocalDetection, NodeNat, NodePortAddresses, Origin, Policy,
    PortEndpoints, Protocol, ServicePort, ServicePortKey, Table,
};
use weft_iptables::Table::{Filter, Nat};
use weft_iptables::{Generation, Listing, Options, Programme, Ruleset, cleanup};

use self::kernel::Kernel;

/// What a machine has of its own.
const FOREIGN: &str = "\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
-A INPUT -p icmp -j ACCEPT
-A FORWARD -j DOCKER
-A DOCKER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-HOSTPORTS - [0:0]
-A PREROUTING -j KUBE-HOSTPORTS
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
";

/// Numbers that look drawn, the same ones at every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's MMIX generator.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

fn port(draw: &mut Draw, number: u8) -> (ServicePortKey, ServicePort) {
    let key = ServicePortKey {
        namespace: "default".into(),
        name: format!("s{number}").into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: IpFamily::V4,
    };
    let backends = |draw: &mut Draw, node: u8| -> BTreeSet<Backend> {
        let count = [0, 1, 2, 12][draw.below(4) as usize];
        (0..count)
            .map(|index| Backend {
                address: IpAddr::from([10, 244, node, index]),
                port: 8080,
            })
            .collect()
    };
    let local = backends(draw, 1);
    let mut cluster = backends(draw, 2);
    cluster.extend(local.iter().copied());
    let policy = |draw: &mut Draw| {
        if draw.one_in(2) {
            Policy::Local
        } else {
            Policy::Cluster
        }
    };
    let value = ServicePort {
        label: format!("default/s{number}:http").into(),
        cluster_address: Some(IpAddr::from([10, 96, 0, number])),
        port: 80,
        node_port: draw.one_in(2).then_some(30000 + u16::from(number)),
        external_addresses: Vec::new(),
        load_balancer_addresses: if draw.one_in(3) {
            vec![IpAddr::from([198, 51, 100, number])]
        } else {
            Vec::new()
        },
        source_ranges: if draw.one_in(2) {
            vec!["203.0.113.0/24".parse().unwrap()]
        } else {
            Vec::new()
        },
        source_ranges_have_node: false,
        health_check: draw.one_in(4).then_some(32000 + u16::from(number)),
        affinity: draw.one_in(3).then_some(10800),
        internal_policy: policy(draw),
        external_policy: policy(draw),
        endpoints: PortEndpoints {
            any: !cluster.is_empty(),
            cluster: Arc::new(cluster),
            local: Arc::new(local),
            ..PortEndpoints::default()
        },
    };
    (key, value)
}

fn entry(key: &ServicePortKey, value: ServicePort) -> Entry<ServicePort> {
    let origin = Origin {
        kind: "Service",
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        generation: 0,
    };
    Entry { value, origin }
}

fn nat() -> NodeNat {
    let pods = "10.244.0.0/16".parse().unwrap();
    NodeNat {
        local: LocalDetection::Ranges(BTreeSet::from([pods])),
        ..NodeNat::default()
    }
}

/// Fails with the first chain that differs.
#[track_caller]
fn assert_same(kernel: &Listing, right: &Listing, what: &str) {
    for (one, other) in [(kernel, right), (right, kernel)] {
        for (table, chain, rules) in one.chains() {
            assert_eq!(Some(rules), other.rules(table, chain), "{what}: {chain}");
        }
    }
}

/// A kernel that holds a fresh rendering, beside what is the machine's own.
fn fresh(services: &Table<ServicePortKey, ServicePort>, options: &Options) -> Listing {
    let mut kernel = Kernel::new(FOREIGN);
    let mut programme = Programme::new(IpFamily::V4, options.clone());
    let restore = programme.reconcile(services, &nat(), &kernel.listing());
    kernel.restore(&restore.text());
    kernel.listing()
}

fn count(listing: &Listing, table: weft_iptables::Table) -> usize {
    let chains = listing.chains().filter(|(of, _, _)| *of == table);
    chains.map(|(_, _, rules)| rules.len()).sum()
}

#[test]
fn changes_end_where_a_fresh_rendering_does() {
    let options = Options::default();
    let foreign = Listing::parse(FOREIGN);
    for seed in 0..8 {
        let mut draw = Draw(seed);
        let mut services = Table::new();
        let mut kernel = Kernel::new(FOREIGN);
        let mut programme = Programme::new(IpFamily::V4, options.clone());
        let restore = programme.reconcile(&services, &nat(), &kernel.listing());
        kernel.restore(&restore.text());
        for _ in 0..30 {
            let mut changes = Vec::new();
            for _ in 0..=draw.below(3) {
                let (key, value) = port(&mut draw, 1 + (seed as u8 % 3) + (seed % 7) as u8);
                let gone = draw.one_in(3);
                changes.push((key, (!gone).then_some(value)));
            }
            let (key, value) = {
                let number = 1 + draw.below(12) as u8;
                port(&mut draw, number)
            };
            changes.push((key, Some(value)));
            for (key, value) in &changes {
                match value {
                    Some(value) => services.insert(key.clone(), entry(key, value.clone())),
                    None => services.remove(key),
                };
            }
            let borrowed = changes.iter().map(|(key, value)| (key, value.as_ref()));
            let restore = programme.apply(borrowed, &services);
            kernel.restore(&restore.text());
            assert_same(
                &kernel.listing(),
                &fresh(&services, &options),
                &format!("seed {seed}"),
            );
            for table in [Filter, Nat] {
                let ours = count(&kernel.listing(), table) - count(&foreign, table);
                assert_eq!(programme.rules(table), ours, "{table:?}, seed {seed}");
            }
        }
        // Nothing is left to do, and nothing is done.
        let again = programme.reconcile(&services, &nat(), &kernel.listing());
        assert!(again.is_empty(), "{}", again.text());
    }
}

#[test]
fn a_node_with_other_addresses_needs_other_rules_and_one_with_other_pods_does_not() {
    let mut programme = Programme::new(IpFamily::V4, Options::default());
    let at = |addresses: &[&str]| NodeNat {
        own_addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
        node_port_addresses: NodePortAddresses::Within(["10.0.0.0/8".parse().unwrap()].into()),
        ..nat()
    };
    let mut kernel = Kernel::new(FOREIGN);
    let before = at(&["10.0.0.1"]);
    let restore = programme.reconcile(&Table::new(), &before, &kernel.listing());
    kernel.restore(&restore.text());
    assert!(programme.fits(&before));
    let mut pods = before.clone();
    pods.local_pods
        .insert("10.244.1.5".parse().unwrap(), "default/a".into());
    assert!(programme.fits(&pods));
    // Not one at which node ports answer.
    assert!(programme.fits(&at(&["10.0.0.1", "192.0.2.1"])));
    let after = at(&["10.0.0.1", "10.0.0.2"]);
    assert!(!programme.fits(&after));
    let restore = programme.reconcile(&Table::new(), &after, &kernel.listing());
    assert!(restore.text().contains("10.0.0.2/32"), "{}", restore.text());
    assert!(programme.fits(&after));
    assert!(!programme.fits(&NodeNat {
        masquerade_all: true,
        ..after
    }));
}

#[test]
fn ranges_of_one_family_restrict_node_ports_in_that_family_only() {
    let nat = NodeNat {
        own_addresses: ["10.0.0.1", "fd00:172:30::11"]
            .map(|it| it.parse().unwrap())
            .into(),
        node_port_addresses: NodePortAddresses::Within(["10.0.0.0/8".parse().unwrap()].into()),
        ..nat()
    };
    for (family, expected) in [
        (IpFamily::V4, "-d 10.0.0.1/32 "),
        (
            IpFamily::V6,
            "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        ),
    ] {
        let mut programme = Programme::new(family, Options::default());
        let restore = programme.reconcile(&Table::new(), &nat, &Listing::parse(FOREIGN));
        let text = restore.text();
        let mut lines = text.lines().filter(|it| it.ends_with("-j KUBE-NODEPORTS"));
        assert!(lines.any(|line| line.contains(expected)), "{text}");
    }
}

#[test]
fn one_endpoint_changes_two_chains_of_one_service() {
    let mut draw = Draw(7);
    let mut services = Table::new();
    for number in 1..40 {
        let (key, mut value) = port(&mut draw, number);
        value.endpoints.cluster = Arc::new(BTreeSet::from([Backend {
            address: IpAddr::from([10, 244, 3, number]),
            port: 8080,
        }]));
        value.endpoints.any = true;
        value.internal_policy = Policy::Cluster;
        services.insert(key.clone(), entry(&key, value));
    }
    let mut programme = Programme::new(IpFamily::V4, Options::default());
    programme.reconcile(&services, &nat(), &Listing::parse(FOREIGN));
    let (key, old) = services.iter().next().unwrap();
    let mut value = old.value.clone();
    Arc::make_mut(&mut value.endpoints.cluster).insert(Backend {
        address: IpAddr::from([10, 244, 4, 4]),
        port: 8080,
    });
    let restore = programme.apply([(key, Some(&value))], &services);
    let text = restore.text();
    assert_eq!((restore.written, restore.removed, restore.jumps), (2, 0, 0));
    assert!(text.contains("--to-destination 10.244.4.4:8080"), "{text}");
    assert!(!text.contains("KUBE-SERVICES"), "{text}");
    let unchanged = programme.apply([(key, Some(&value))], &services);
    assert!(unchanged.is_empty());
}

#[test]
fn comments_go_and_come_back_with_the_size_of_the_cluster() {
    let options = Options::default();
    let mut draw = Draw(3);
    let mut services = Table::new();
    let (small, value) = port(&mut draw, 1);
    services.insert(small.clone(), entry(&small, value));
    let mut kernel = Kernel::new(FOREIGN);
    let mut programme = Programme::new(IpFamily::V4, options.clone());
    let restore = programme.reconcile(&services, &nat(), &kernel.listing());
    kernel.restore(&restore.text());
    let (big, mut value) = port(&mut draw, 2);
    let all = (0..1001_u32).map(|index| Backend {
        address: std::net::Ipv4Addr::from_bits(0x0af4_0500 + index).into(),
        port: 80,
    });
    value.endpoints.cluster = Arc::new(all.collect());
    services.insert(big.clone(), entry(&big, value.clone()));
    let restore = programme.apply([(&big, Some(&value))], &services);
    kernel.restore(&restore.text());
    assert_same(&kernel.listing(), &fresh(&services, &options), "comments");
    services.remove(&big);
    let restore = programme.apply([(&big, None)], &services);
    kernel.restore(&restore.text());
    assert_same(&kernel.listing(), &fresh(&services, &options), "comments");
}

#[test]
fn what_others_broke_is_repaired_and_what_is_theirs_stays() {
    let options = Options::default();
    let mut draw = Draw(11);
    let mut services = Table::new();
    for number in 1..9 {
        let (key, value) = port(&mut draw, number);
        services.insert(key.clone(), entry(&key, value));
    }
    let right = fresh(&services, &options);
    let mut kernel = Kernel::new(FOREIGN);
    let mut programme = Programme::new(IpFamily::V4, options.clone());
    let restore = programme.reconcile(&services, &nat(), &kernel.listing());
    kernel.restore(&restore.text());
    for damage in [
        "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n",
        "*nat\n:KUBE-MARK-MASQ - [0:0]\n-A KUBE-MARK-MASQ -j MARK --set-xmark 0x1/0x1\nCOMMIT\n",
        "*nat\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]\n\
         -A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-AAAAAAAAAAAAAAAA\nCOMMIT\n",
        "*nat\n-D OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n",
        "*filter\n:KUBE-FORWARD - [0:0]\nCOMMIT\n",
    ] {
        kernel.restore(damage);
        assert!(kernel.listing() != right, "{damage}");
        let restore = programme.reconcile(&services, &nat(), &kernel.listing());
        kernel.restore(&restore.text());
        assert_same(&kernel.listing(), &right, damage);
    }
    assert!(weft_iptables::is_ours(&kernel.listing()));
    let restore = cleanup(&kernel.listing());
    kernel.restore(&restore.text());
    assert_same(&kernel.listing(), &Listing::parse(FOREIGN), "cleanup");
}

#[test]
fn a_kubelets_chains_stay_with_the_kubelet() {
    let kubelet = format!(
        "{FOREIGN}*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n*filter\n:KUBE-FIREWALL - [0:0]\n\
         -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\n-A INPUT -j KUBE-FIREWALL\nCOMMIT\n"
    );
    let mut kernel = Kernel::new(&kubelet);
    let before = kernel.listing();
    let mut programme = Programme::new(IpFamily::V4, Options::default());
    let restore = programme.reconcile(&Table::new(), &nat(), &before);
    kernel.restore(&restore.text());
    let firewall = weft_iptables::Chain::FIREWALL;
    let table = weft_iptables::Table::Filter;
    assert_eq!(
        kernel.listing().rules(table, &firewall),
        before.rules(table, &firewall)
    );
    let restore = cleanup(&kernel.listing());
    assert!(!restore.text().contains("-X KUBE-FIREWALL"));
}

#[test]
fn generations_replace_each_other() {
    let mut draw = Draw(5);
    let mut services = Table::new();
    for number in 1..9 {
        let (key, value) = port(&mut draw, number);
        services.insert(key.clone(), entry(&key, value));
    }
    let current = Options::default();
    let old = Options {
        generation: Generation::V1_23,
        ..Options::default()
    };
    let mut kernel = Kernel::new(FOREIGN);
    for options in [&current, &old, &current] {
        let mut programme = Programme::new(IpFamily::V4, options.clone());
        let restore = programme.reconcile(&services, &nat(), &kernel.listing());
        kernel.restore(&restore.text());
        assert_same(&kernel.listing(), &fresh(&services, options), "generation");
    }
}

#[test]
fn a_restored_kernel_prints_what_the_ruleset_says() {
    let mut draw = Draw(5);
    let mut services = Table::new();
    for number in 1..9 {
        let (key, value) = port(&mut draw, number);
        services.insert(key.clone(), entry(&key, value));
    }
    let options = Options::default();
    let mut kernel = Kernel::new("*mangle\n:WEFT-SERVICES - [0:0]\nCOMMIT\n");
    let mut programme = Programme::new(IpFamily::V4, options.clone());
    let restore = programme.reconcile(&services, &nat(), &kernel.listing());
    kernel.restore(&restore.text());
    // Beside the mark that says whose the rest is.
    kernel.restore("*mangle\n-X WEFT-SERVICES\nCOMMIT\n");
    let ruleset = Ruleset::new(IpFamily::V4, &services, &nat(), &options);
    assert_same(
        &kernel.listing(),
        &Listing::parse(&ruleset.saved()),
        "saved",
    );
}

/// What iptables prints for a rule stands for that rule, not for what is desired next.
#[test]
fn a_rule_that_is_printed_in_other_words_is_still_replaced_by_another() {
    let listed = |kernel: &Kernel| {
        kernel.listing_in_other_words(|rule| rule.replace("-m tcp --dport", "--dport"))
    };
    let (key, before) = port(&mut Draw(3), 1);
    let before = ServicePort {
        node_port: Some(30001),
        ..before
    };
    let after = ServicePort {
        port: 81,
        node_port: Some(30002),
        ..before.clone()
    };
    let with = |port: ServicePort| Table::from([(key.clone(), entry(&key, port))]);
    let (before, after) = (with(before), with(after));
    let options = Options::default();
    let mut kernel = Kernel::new(FOREIGN);
    let mut programme = Programme::new(IpFamily::V4, options.clone());
    let restore = programme.reconcile(&before, &nat(), &listed(&kernel));
    kernel.restore(&restore.text());
    programme.settle(&before, &listed(&kernel));
    let again = programme.reconcile(&before, &nat(), &listed(&kernel));
    assert!(again.is_empty(), "{}", again.text());
    // No change told of it: a configuration read anew, or changes that failed before.
    let restore = programme.reconcile(&after, &nat(), &listed(&kernel));
    kernel.restore(&restore.text());
    assert_same(&kernel.listing(), &fresh(&after, &options), "after");
}
