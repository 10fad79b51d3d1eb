//! What the section `proxy` of the ConfigMap says of Services, in each mode.

use serde_json::{Value, json};

use crate::lab::probe::{self, Ask, PORT};
use crate::lab::{Lab, Running, eventually, expect};

const MODES: [&str; 2] = ["nftables", "iptables"];
const HOLD: &str = include_str!("lab/hold.py");
const CLIENT: &str = "default/client";

/// A lab of one node of both families with a server and a client.
#[track_caller]
fn lab(purpose: &str) -> Lab {
    let lab = Lab::up(purpose, &["--nodes", "1", "--ip-family", "dual"]);
    let mut client = probe::pod("client", "node-1");
    client["metadata"]["labels"] = json!({});
    let pods = [probe::pod("server", "node-1"), client];
    lab.apply("default", &probe::manifest(&pods));
    lab.pods_ready("default", "");
    lab
}

/// Agents with these settings run, and have written all.
#[track_caller]
fn agents_run(lab: &Lab, mode: &str, proxy: &str) {
    lab.configure("proxy", proxy);
    lab.set_mode(mode);
    eventually(&format!("the agent of mode {mode} is ready"), || {
        let ask = |url| lab.exec("node-1", &["curl", "-sSf", url]).result();
        let runs = ask("http://127.0.0.1:10249/proxyMode")?;
        expect(runs, |runs| runs.trim() == mode)?;
        ask("http://127.0.0.1:10256/ready")
    });
}

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"name": "web", "port": 80, "targetPort": PORT}],
        },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}

/// Waits until every address answers, or none of them does.
#[track_caller]
fn answer(lab: &Lab, from: &str, to: &[String], port: u16, wanted: bool) {
    let ask = |address: &String| Ask {
        protocol: "tcp",
        address: address.clone(),
        port,
        times: 1,
    };
    let asks: Vec<_> = to.iter().map(ask).collect();
    eventually(&format!("{to:?}, port {port}, answers: {wanted}"), || {
        let met = probe::ask(lab, from, &asks).concat();
        expect(met, |met| {
            let failures = met.iter().map(|met| met.failure());
            match wanted {
                true => failures.flatten().next().is_none(),
                false => failures.into_iter().all(|it| it == Some("refused")),
            }
        })
    });
}

/// The slices of a Service without selector: the server's addresses, or nobody's.
fn slices(lab: &Lab, service: &str, led: bool) -> String {
    let slice = |address: String| {
        let family = if address.contains(':') {
            "IPv6"
        } else {
            "IPv4"
        };
        let endpoints = match led {
            true => json!([{"addresses": [address], "conditions": {"ready": true}}]),
            false => json!([]),
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": [{"name": "web", "port": PORT}],
        })
    };
    let addresses = lab.pod_ips("default", "server").into_iter();
    probe::manifest(&addresses.map(slice).collect::<Vec<_>>())
}

/// A connection that stays open.
#[track_caller]
fn hold(lab: &Lab, to: &str) -> Running {
    let held = lab.start(CLIENT, &["python3", "-c", HOLD, to, "80"]);
    held.line("it is connected", |line| line == "connected");
    held
}

#[track_caller]
fn still_answers(held: &mut Running) {
    held.say("still there\n");
    held.line("it answers", |line| line == "still there");
}

/// `resetGoneConnections`: those of endpoints that are gone alone, and only where it is asked for.
#[test]
fn connections_to_endpoints_that_are_gone_are_reset_where_it_is_asked_for() {
    let lab = lab("reset-gone");
    let objects = [
        service("left", json!({})),
        service("kept", json!({"selector": {"app": "server"}})),
    ];
    lab.apply("default", &probe::manifest(&objects));
    let addresses = |service: &str| -> Vec<String> {
        let ips = lab.field(&["service", service], "{.spec.clusterIPs[*]}");
        let ips = ips.unwrap();
        ips.split(' ').map(str::to_owned).collect()
    };
    let (left, kept) = (addresses("left"), addresses("kept"));
    for mode in MODES {
        for (proxy, reset) in [("{}", false), ("{resetGoneConnections: true}", true)] {
            agents_run(&lab, mode, proxy);
            lab.apply("default", &slices(&lab, "left", true));
            answer(
                &lab,
                CLIENT,
                &[left.clone(), kept.clone()].concat(),
                80,
                true,
            );
            let mut gone: Vec<_> = left.iter().map(|to| hold(&lab, to)).collect();
            let mut there: Vec<_> = kept.iter().map(|to| hold(&lab, to)).collect();
            lab.apply("default", &slices(&lab, "left", false));
            answer(&lab, CLIENT, &left, 80, false);
            if reset {
                for held in &gone {
                    held.line("it is reset", |line| line == "reset");
                }
            } else {
                gone.iter_mut().for_each(still_answers);
            }
            there.iter_mut().for_each(still_answers);
        }
    }
}

/// `nodePortAddresses`.
#[test]
fn node_ports_answer_at_the_addresses_that_the_configuration_says() {
    let lab = lab("node-port-addresses");
    let spec = json!({"type": "NodePort", "selector": {"app": "server"}});
    lab.apply("default", &service("web", spec).to_string());
    let port = lab.field(&["service", "web"], "{.spec.ports[0].nodePort}");
    let port: u16 = port.unwrap().parse().unwrap();
    let primary = lab.node_ips("node-1");
    let second = ["203.0.113.77", "2001:db8:113::77"].map(str::to_owned);
    for (address, via) in second.iter().zip(&primary) {
        let length = if address.contains(':') { 128 } else { 32 };
        let more = format!("ip address add {address}/{length} dev eth0");
        lab.sh("node-1", &more).ok();
        lab.exec("outside", &["ip", "route", "add", address, "via", via])
            .ok();
    }
    for mode in MODES {
        for (proxy, at_primary, at_second) in [
            ("{}", true, true),
            ("{nodePortAddresses: [primary]}", true, false),
            (
                "{nodePortAddresses: [203.0.113.0/24, \"2001:db8:113::/64\"]}",
                false,
                true,
            ),
        ] {
            agents_run(&lab, mode, proxy);
            answer(&lab, "outside", &primary, port, at_primary);
            answer(&lab, "outside", &second, port, at_second);
        }
    }
}
