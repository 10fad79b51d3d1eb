//! The rules of generated clusters, packet by packet, against the oracle: an answer straight
//! from the model. Where kube-proxy leaves a packet alone that weft's own rules refuse (a port
//! or an address that no Service has), the rules have to leave it alone.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../../../../../tests/clusters/mod.rs"]
mod clusters;
mod evaluator;

use std::collections::{BTreeMap, BTreeSet};

use weft_compile::{Compiler, LocalMode, NodePortsAt, ProxySettings};
use weft_desired::{IpFamily, Protocol};
use weft_iptables::{Generation, Options, Ruleset};
use weft_oracle::{Flow, Verdict, verdict};

use self::clusters::{Endpoints, Fate, Rest};
use self::evaluator::{Evaluator, Packet};

const CLUSTERS: u64 = 40;

fn packet(flow: &Flow) -> Packet {
    Packet {
        source: flow.source,
        destination: flow.destination,
        protocol: protocol(flow.protocol),
        port: flow.port.number(),
        interface: clusters::device(flow).map(str::to_owned),
    }
}

fn protocol(protocol: weft_model::Protocol) -> Protocol {
    match protocol {
        weft_model::Protocol::Tcp => Protocol::Tcp,
        weft_model::Protocol::Udp => Protocol::Udp,
        weft_model::Protocol::Sctp => Protocol::Sctp,
    }
}

fn ruleset(compiler: &Compiler, family: IpFamily, generation: Generation) -> Ruleset {
    let desired = compiler.desired();
    let options = Options {
        generation,
        ..Options::default()
    };
    Ruleset::new(family, &desired.services, &desired.nat, &options)
}

/// What the rules make of a packet.
fn fates(compiler: &Compiler, ruleset: &Ruleset, flow: &Flow) -> BTreeSet<Fate> {
    let own = &compiler.desired().nat.own_addresses;
    let fates = Evaluator { ruleset, own }.fates(&packet(flow));
    clusters::seen(fates, flow)
}

/// The fates by the oracle. kube-proxy looks at what the node itself sends to external
/// addresses only if it translates it: without endpoints it leaves it alone.
fn expected(verdict: &Verdict, flow: &Flow) -> BTreeSet<Fate> {
    let fates = clusters::expected(verdict, flow, Rest::LeftAlone);
    match clusters::device(flow) {
        None if is_external(flow) && fates == BTreeSet::from([Fate::Rejected]) => {
            BTreeSet::from([Fate::Passed {
                endpoint: None,
                masqueraded: false,
            }])
        }
        Some(_) | None => fates,
    }
}

fn is_external(flow: &Flow) -> bool {
    let ranges = clusters::ranges().services;
    let inside = ranges.iter().any(|range| range.contains(&flow.destination));
    let family = IpFamily::of(flow.destination);
    !inside && flow.destination != clusters::node_address(family, clusters::HERE)
}

fn compiled(seed: u64, proxy: ProxySettings) -> Compiler {
    clusters::compiled(clusters::cluster(seed, Endpoints::OfCluster), proxy)
}

/// Every packet of a cluster, with the oracle's verdict.
fn judged(compiler: &Compiler, family: IpFamily) -> Vec<(Flow, Verdict)> {
    let cluster = compiler.cluster();
    let judge = |flow: Flow| {
        let verdict = verdict(cluster, &clusters::ranges(), &flow);
        (flow, verdict)
    };
    let flows = clusters::flows(cluster, family);
    flows.into_iter().map(judge).collect()
}

#[test]
fn packets_meet_what_the_model_says() {
    let mut met = BTreeMap::<String, usize>::new();
    let locals = [
        LocalMode::NodeRanges,
        LocalMode::Bridge("weft0".into()),
        LocalMode::InterfacePrefix("weft".into()),
    ];
    let mut wrong = Vec::new();
    for seed in 0..CLUSTERS {
        let proxy = ProxySettings {
            local: locals[seed as usize % locals.len()].clone(),
            ..ProxySettings::default()
        };
        let compiler = compiled(seed, proxy);
        for family in IpFamily::BOTH {
            let ruleset = ruleset(&compiler, family, Generation::Current);
            for (flow, verdict) in judged(&compiler, family) {
                *met.entry(clusters::kind(&verdict)).or_default() += 1;
                let expected = expected(&verdict, &flow);
                let fates = fates(&compiler, &ruleset, &flow);
                if fates != expected {
                    wrong.push(format!(
                        "seed {seed}: {flow:?}: {fates:?}, not {expected:?}"
                    ));
                }
            }
        }
    }
    clusters::assert_none(&wrong);
    // Some of everything, or nothing is shown.
    assert!(met.len() >= 6, "{met:?}");
}

/// Who had an endpoint has it again, as long as it is there.
#[test]
fn clients_meet_the_endpoint_they_had() {
    let (mut again, mut wrong) = (0, Vec::new());
    for seed in 0..CLUSTERS {
        let compiler = compiled(seed, ProxySettings::default());
        let own = &compiler.desired().nat.own_addresses;
        for family in IpFamily::BOTH {
            for generation in [Generation::Current, Generation::V1_23] {
                let ruleset = ruleset(&compiler, family, generation);
                let evaluator = Evaluator {
                    ruleset: &ruleset,
                    own,
                };
                for (flow, verdict) in judged(&compiler, family) {
                    let sticks = clusters::has_affinity(compiler.cluster(), &flow);
                    if !sticks || !matches!(verdict, Verdict::Delivered(_)) {
                        continue;
                    }
                    let packet = packet(&flow);
                    for (fate, remembered) in evaluator.passages(&packet, &BTreeSet::new()) {
                        let next = evaluator.passages(&packet, &remembered);
                        let next: BTreeSet<Fate> = next.into_iter().map(|(fate, _)| fate).collect();
                        again += 1;
                        if next != BTreeSet::from([fate.clone()]) {
                            wrong.push(format!("seed {seed}: {flow:?}: after {fate:?} {next:?}"));
                        }
                    }
                }
            }
        }
    }
    clusters::assert_none(&wrong);
    assert!(again > 100, "{again}");
}

#[test]
fn everything_to_a_services_own_address_is_masqueraded_if_asked() {
    let proxy = ProxySettings {
        masquerade_all: true,
        ..ProxySettings::default()
    };
    let mut wrong = Vec::new();
    for seed in 0..CLUSTERS / 4 {
        let compiler = compiled(seed, proxy.clone());
        for family in IpFamily::BOTH {
            let ruleset = ruleset(&compiler, family, Generation::Current);
            for (flow, verdict) in judged(&compiler, family) {
                let expected = clusters::all_masqueraded(expected(&verdict, &flow), &flow);
                let fates = fates(&compiler, &ruleset, &flow);
                if fates != expected {
                    wrong.push(format!(
                        "seed {seed}: {flow:?}: {fates:?}, not {expected:?}"
                    ));
                }
            }
        }
    }
    clusters::assert_none(&wrong);
}

#[test]
fn node_ports_answer_where_they_are_asked_to() {
    let within = NodePortsAt::Within(clusters::second_ranges());
    for (node_ports_at, first, second) in [
        (NodePortsAt::All, true, true),
        (NodePortsAt::Primary, true, false),
        (within, false, true),
    ] {
        let mut wrong = Vec::new();
        for seed in 0..CLUSTERS / 4 {
            let proxy = ProxySettings {
                node_ports_at: node_ports_at.clone(),
                ..ProxySettings::default()
            };
            let compiler = compiled(seed, proxy);
            for family in IpFamily::BOTH {
                let ruleset = ruleset(&compiler, family, Generation::Current);
                for (flow, verdict) in judged(&compiler, family) {
                    for (asked, flow, expected) in
                        clusters::at_both_addresses(&flow, &verdict, first, second)
                    {
                        let fates = fates(&compiler, &ruleset, &flow);
                        // What is refused or dropped is so at every address of the node.
                        let translated = |fates: &BTreeSet<Fate>| {
                            fates.iter().any(|fate| fate.endpoint().is_some())
                        };
                        let both = translated(&fates) || translated(&expected);
                        if both && fates != expected {
                            wrong.push(format!("seed {seed}, {asked}: {flow:?}: {fates:?}"));
                        }
                    }
                }
            }
        }
        clusters::assert_none(&wrong);
    }
}

/// As far as endpoints go. kube-proxy 1.23 refuses where today's drops for want of an endpoint of
/// the node, leaves alone what it marked to be dropped and what is then forwarded, and gives pods
/// at external addresses no other source.
#[test]
fn the_old_generation_leads_to_the_same_endpoints() {
    let (mut led, mut wrong) = (0, Vec::new());
    for seed in 0..CLUSTERS {
        let compiler = compiled(seed, ProxySettings::default());
        for family in IpFamily::BOTH {
            let [current, old] = [Generation::Current, Generation::V1_23]
                .map(|generation| ruleset(&compiler, family, generation));
            for (flow, _) in judged(&compiler, family) {
                let [current, old] = [&current, &old].map(|ruleset| {
                    let fates = fates(&compiler, ruleset, &flow);
                    fates
                        .iter()
                        .filter_map(Fate::endpoint)
                        .collect::<BTreeSet<_>>()
                });
                led += usize::from(!current.is_empty());
                if current != old {
                    wrong.push(format!("seed {seed}: {flow:?}: {old:?}, today {current:?}"));
                }
            }
        }
    }
    clusters::assert_none(&wrong);
    assert!(led > 1000, "{led}");
}
