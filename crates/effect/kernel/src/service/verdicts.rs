//! The table of generated clusters, packet by packet, against the oracle: an answer straight
//! from the model.

#[path = "../../../../../tests/clusters/mod.rs"]
#[expect(dead_code, reason = "kube-proxy's rules need the rest")]
mod clusters;
mod evaluator;

use std::collections::{BTreeMap, BTreeSet};

use weft_compile::{Compiler, LocalMode, NodePortsAt, ProxySettings};
use weft_desired::Protocol;
use weft_oracle::{Flow, Verdict, verdict};

use self::clusters::{Endpoints, Fate, Rest};
use self::evaluator::{Evaluator, Packet, Remembered};
use super::installed::{Installed, Slots};
use super::ip_family::IpFamily;
use super::item::{nat_items, service_address};
use super::layout::{Layout, PodMatch, Shape};

const CLUSTERS: u64 = 24;

/// With all rules that there may be.
const TRAFFIC: bool = true;

/// A family's table, as the kernel is given it.
fn table(compiler: &Compiler, family: IpFamily) -> Evaluator {
    let desired = compiler.desired();
    let mut items = nat_items(&desired.nat, family);
    let mut timeouts = BTreeSet::new();
    for (key, entry) in &desired.frontends {
        if !family.has(key.address) {
            continue;
        }
        let installed = Installed::new(&entry.value, family, &Slots::default());
        let installed = installed.counting_traffic(TRAFFIC);
        items.extend(installed.items(key, None));
        if installed.exclusive {
            items.extend([service_address(key.address)]);
        }
        timeouts.extend(installed.affinity);
    }
    let shape = Shape {
        pods: PodMatch::from(&desired.nat.local),
        timeouts,
        traffic: TRAFFIC,
    };
    let layout = Layout::of(family, &shape);
    Evaluator::new(family, layout, &items, desired.nat.own_addresses.clone())
}

fn packet(flow: &Flow) -> Packet {
    Packet {
        source: flow.source,
        destination: flow.destination,
        protocol: protocol(flow.protocol),
        port: flow.port.number(),
        device: clusters::device(flow),
    }
}

/// What becomes of the first packet of a client that was never here.
fn fates(table: &Evaluator, flow: &Flow) -> BTreeSet<Fate> {
    let passages = table.passages(&packet(flow), &Remembered::new());
    clusters::seen(passages.into_iter().map(|(fate, _)| fate), flow)
}

fn protocol(protocol: weft_model::Protocol) -> Protocol {
    match protocol {
        weft_model::Protocol::Tcp => Protocol::Tcp,
        weft_model::Protocol::Udp => Protocol::Udp,
        weft_model::Protocol::Sctp => Protocol::Sctp,
    }
}

fn desired(family: IpFamily) -> weft_desired::IpFamily {
    match family {
        IpFamily::V4 => weft_desired::IpFamily::V4,
        IpFamily::V6 => weft_desired::IpFamily::V6,
    }
}

fn compiled(seed: u64, proxy: ProxySettings) -> Compiler {
    clusters::compiled(clusters::cluster(seed, Endpoints::Beyond), proxy)
}

/// Every packet of a cluster, with the oracle's verdict.
fn judged(compiler: &Compiler, family: IpFamily) -> Vec<(Flow, Verdict)> {
    let cluster = compiler.cluster();
    let judge = |flow: Flow| {
        let verdict = verdict(cluster, &clusters::ranges(), &flow);
        (flow, verdict)
    };
    let flows = clusters::flows(cluster, desired(family));
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
            let table = table(&compiler, family);
            for (flow, verdict) in judged(&compiler, family) {
                *met.entry(clusters::kind(&verdict)).or_default() += 1;
                let expected = clusters::expected(&verdict, &flow, Rest::Stopped);
                let fates = fates(&table, &flow);
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

/// Who had an endpoint has it again, as long as it is there; who comes by another way too.
#[test]
fn clients_meet_the_endpoint_they_had() {
    let (mut again, mut wrong) = (0, Vec::new());
    for seed in 0..CLUSTERS {
        let compiler = compiled(seed, ProxySettings::default());
        for family in IpFamily::BOTH {
            let table = table(&compiler, family);
            for (flow, verdict) in judged(&compiler, family) {
                let Verdict::Delivered(arrivals) = &verdict else {
                    continue;
                };
                let sticks = clusters::has_affinity(compiler.cluster(), &flow);
                if !sticks && arrivals.len() < 2 {
                    continue;
                }
                for (fate, remembered) in table.passages(&packet(&flow), &Remembered::new()) {
                    let next = table.passages(&packet(&flow), &remembered);
                    let next: BTreeSet<Fate> = next.into_iter().map(|(fate, _)| fate).collect();
                    let is_right = match sticks {
                        true => next == BTreeSet::from([fate.clone()]),
                        false => remembered.is_empty() && next.len() == arrivals.len(),
                    };
                    again += usize::from(sticks);
                    if !is_right {
                        wrong.push(format!("seed {seed}: {flow:?}: after {fate:?} {next:?}"));
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
            let table = table(&compiler, family);
            for (flow, verdict) in judged(&compiler, family) {
                let expected = clusters::expected(&verdict, &flow, Rest::Stopped);
                let expected = clusters::all_masqueraded(expected, &flow);
                let fates = fates(&table, &flow);
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
                let table = table(&compiler, family);
                for (flow, verdict) in judged(&compiler, family) {
                    for (asked, flow, expected) in
                        clusters::at_both_addresses(&flow, &verdict, first, second)
                    {
                        let fates = fates(&table, &flow);
                        if fates != expected {
                            wrong.push(format!("seed {seed}, {asked}: {flow:?}: {fates:?}"));
                        }
                    }
                }
            }
        }
        clusters::assert_none(&wrong);
    }
}
