//! Agents that are killed while everything changes: in the end the rules are those that an agent
//! makes that has seen nothing of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::lab::probe::{self, PORT};
use crate::lab::{Lab, Running, eventually, expect};

const TRAFFIC: &str = include_str!("lab/traffic.py");
/// Services that change; one more changes last.
const SERVICES: usize = 20;

fn services() -> Vec<Value> {
    let service = |number: usize| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("storm-{number}")},
            "spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        })
    };
    (0..=SERVICES).map(service).collect()
}

/// The address of the endpoint that is changed last.
fn last_address(rage: usize) -> String {
    format!("10.244.99.{rage}")
}

/// Their slices in a round: each has others, now and then none.
fn slices(round: usize) -> Vec<Value> {
    let addresses = |number: usize| {
        let endpoints = 0..(round + number) % 12;
        let last = move |endpoint| 1 + (round * 7 + endpoint * 3) % 250;
        endpoints.map(move |endpoint| format!("10.244.{}.{}", 100 + number, last(endpoint)))
    };
    (0..SERVICES)
        .map(|number| slice(number, addresses(number)))
        .collect()
}

fn slice(number: usize, addresses: impl IntoIterator<Item = String>) -> Value {
    let name = format!("storm-{number}");
    let endpoints: Vec<Value> = addresses
        .into_iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-abcde"),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}],
    })
}

/// What a node's rules for Services say, in the words of the mode; without counters, and without
/// the slots that endpoints stand in. Nothing, if the mode is another one.
fn rules(lab: &Lab, mode: &str) -> Result<BTreeSet<String>, String> {
    let saved = lab.exec("node-1", &["iptables-save"]).result()?;
    let elements = lab
        .exec(
            "node-1",
            &["nft", "--stateless", "list", "table", "ip", "weft"],
        )
        .result()?;
    let text = match mode {
        "iptables" if saved.contains("KUBE-SVC-") => saved,
        "nftables" if !saved.contains("KUBE-SVC-") => elements,
        _ => return Ok(BTreeSet::new()),
    };
    Ok(text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| line.split(", "))
        .map(|line| {
            let words = line
                .split_whitespace()
                .map(|word| word.trim_end_matches(','));
            let counted = |word: &str| word.starts_with('[') || word.starts_with("0x0");
            let kept = words
                .filter(|word| !counted(word) && !matches!(*word, "elements" | "=" | "{" | "}"));
            kept.collect::<Vec<_>>().join(" ")
        })
        .collect())
}

/// Dropped, it is true: a storm ends, however those end who are in it.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Storm {
    lab: Lab,
    traffic: Running,
}

impl Storm {
    fn new(purpose: &str) -> Self {
        let lab = Lab::up(purpose, &["--nodes", "1"]);
        let mut objects = services();
        objects.extend(slices(0));
        let mut client = probe::pod("client", "node-1");
        client["metadata"]["labels"] = json!({});
        objects.extend([probe::pod("server", "node-1"), client]);
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "probes"},
            "spec": {
                "selector": {"serves": "probes"},
                "ports": [
                    {"name": "tcp", "port": PORT, "protocol": "TCP"},
                    {"name": "udp", "port": PORT, "protocol": "UDP"},
                ],
            },
        }));
        lab.apply("default", &probe::manifest(&objects));
        lab.pods_ready("default", "");
        let address = lab
            .field(&["service", "probes"], "{.spec.clusterIP}")
            .unwrap();
        eventually("the server answers, and its name", || {
            let asks: Vec<_> = probe::both(&address).into();
            let met = probe::ask(&lab, "default/client", &asks);
            expect(met, |met| met.iter().all(|met| met[0].failure().is_none()))?;
            lab.exec("default/client", &["getent", "hosts", "probes"])
                .result()
        });
        let port = PORT.to_string();
        let command = ["python3", "-c", TRAFFIC, "probes", &port, &address];
        let traffic = lab.start("default/client", &command);
        Storm { lab, traffic }
    }

    /// Everything changes all the time while agents die, one after the other.
    #[track_caller]
    fn rage(&self, kills: usize) {
        let lab = &self.lab;
        let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(1));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let round = rounds.fetch_add(1, Ordering::Relaxed);
                    let manifest = probe::manifest(&slices(round));
                    lab.kubectl_apply("default", &manifest).ok();
                }
            });
            let _end = End(&done);
            for _ in 0..kills {
                let agents = eventually("an agent runs", || {
                    expect(self.lab.processes("weft agent"), |agents| agents.len() == 1)
                });
                let round = rounds.load(Ordering::Relaxed);
                eventually("a change is on its way", || {
                    expect(rounds.load(Ordering::Relaxed), |now| *now > round)
                });
                agents
                    .into_iter()
                    .for_each(|agent| self.lab.kill_part("weft agent", agent));
            }
        });
    }

    /// The rules when the last change is in the kernel.
    #[track_caller]
    fn calm(&self, mode: &str, rage: usize) -> BTreeSet<String> {
        let mark = last_address(rage);
        let last = slice(SERVICES, [mark.clone()]);
        self.lab.apply("default", &probe::manifest(&[last]));
        eventually("the last change is in the kernel", || {
            expect(rules(&self.lab, mode)?, |rules| {
                rules.iter().any(|line| line.contains(&mark))
            })
        });
        self.agent_is_ready();
        rules(&self.lab, mode).unwrap()
    }

    /// Then it has compared everything.
    #[track_caller]
    fn agent_is_ready(&self) {
        let ask = ["curl", "-sf", "http://127.0.0.1:10256/ready"];
        eventually("the agent is ready", || {
            self.lab.exec("node-1", &ask).result()
        });
    }

    #[track_caller]
    fn nothing_failed(&self) {
        self.traffic.line("counts", |_| true);
        for line in self.traffic.so_far() {
            assert!(line.starts_with('{'), "traffic failed: {line}");
        }
    }

    /// The rules of an agent that comes to a kernel that has none of this mode.
    #[track_caller]
    fn made_at_once(&self, mode: &str, rage: usize) -> BTreeSet<String> {
        self.lab.set_mode(mode);
        self.calm(mode, rage)
    }
}

/// In both modes.
pub(crate) fn agents_die(purpose: &str, kills: usize) {
    let storm = Storm::new(purpose);
    for (rage, (mode, other)) in [("nftables", "iptables"), ("iptables", "nftables")]
        .into_iter()
        .enumerate()
    {
        storm.made_at_once(mode, rage);
        storm.rage(kills);
        let rage = rage + 1;
        let stormy = storm.calm(mode, rage);
        storm.nothing_failed();
        storm.made_at_once(other, rage);
        let made_at_once = storm.made_at_once(mode, rage);
        same(&made_at_once, &stormy).unwrap();
        storm.nothing_failed();
    }
}

fn same(expected: &BTreeSet<String>, found: &BTreeSet<String>) -> Result<(), String> {
    let missing: Vec<_> = expected.difference(found).collect();
    let more: Vec<_> = found.difference(expected).collect();
    match missing.is_empty() && more.is_empty() {
        true => Ok(()),
        false => Err(format!("missing: {missing:#?}\nmore: {more:#?}")),
    }
}
