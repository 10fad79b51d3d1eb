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
            "spec": {
                "type": "NodePort",
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            },
        })
    };
    (0..=SERVICES).map(service).collect()
}

/// The families, as slices call them, and where addresses of pods begin.
const FAMILIES: [(&str, &str); 2] = [("IPv4", "10.244."), ("IPv6", "fd00:10:244:")];

/// An endpoint's address in a family: the same two numbers in each.
fn address(family: usize, network: usize, host: usize) -> String {
    let (name, start) = FAMILIES[family];
    match name {
        "IPv4" => format!("{start}{network}.{host}"),
        _ => format!("{start}{network}::{host}"),
    }
}

/// The address of the endpoint that is changed last, in each family.
fn last_addresses(rage: usize) -> [String; 2] {
    [0, 1].map(|family| address(family, 99, rage + 1))
}

/// Their slices in a round: each has others, now and then none.
fn slices(round: usize) -> Vec<Value> {
    let addresses = |family: usize, number: usize| {
        let endpoints = 0..(round + number + family) % 12;
        let last = move |endpoint| 1 + (round * 7 + endpoint * 3) % 250;
        endpoints.map(move |endpoint| address(family, 100 + number, last(endpoint)))
    };
    let of = |number| [0, 1].map(|family| slice(number, family, addresses(family, number)));
    (0..SERVICES).flat_map(of).collect()
}

fn slice(number: usize, family: usize, addresses: impl IntoIterator<Item = String>) -> Value {
    let name = format!("storm-{number}");
    let (family, _) = FAMILIES[family];
    let endpoints: Vec<Value> = addresses
        .into_iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}],
    })
}

/// What a node's rules for Services say of both families, in the words of the mode, each with its
/// table and chain or set; without counters, and without the slots that endpoints stand in.
/// Nothing, if the mode is another one.
fn rules(lab: &Lab, mode: &str) -> Result<BTreeSet<String>, String> {
    let listed = |command: &[&str]| lab.exec("node-1", command).result();
    let saved = [&["iptables-save"], &["ip6tables-save"]].map(|it| listed(it));
    let [v4, v6] = saved;
    let saved = [v4?, v6?];
    let is_iptables = saved.iter().all(|text| text.contains("KUBE-SVC-"));
    let mut rules = BTreeSet::new();
    match mode {
        "iptables" if is_iptables => {
            for (family, text) in ["iptables", "ip6tables"].iter().zip(&saved) {
                rules.extend(saved_rules(text).map(|rule| format!("{family} {rule}")));
            }
        }
        "nftables" if !is_iptables => {
            for family in ["ip", "ip6"] {
                let list = ["nft", "--stateless", "list", "table", family, "weft"];
                let text = listed(&list)?;
                rules.extend(nft_rules(&text).map(|rule| format!("{family} {rule}")));
            }
        }
        _ => {}
    }
    Ok(rules)
}

/// Each rule behind its table; a rule says its chain itself.
fn saved_rules(text: &str) -> impl Iterator<Item = String> {
    let mut table = String::new();
    text.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
        }
        let words = line
            .split_whitespace()
            .filter(|word| !word.starts_with('['));
        let line = words.collect::<Vec<_>>().join(" ");
        (!line.starts_with('#')).then(|| format!("{table}: {line}"))
    })
}

/// Each element, and each rule, behind its set or chain.
fn nft_rules(text: &str) -> impl Iterator<Item = String> {
    let mut place = String::new();
    text.lines()
        .flat_map(|line| line.split(", "))
        .map(move |line| {
            let words = line.split_whitespace();
            let words = words.map(|word| word.trim_end_matches(','));
            let kept = words.filter(|word| !matches!(*word, "elements" | "=" | "{" | "}"));
            let mut words: Vec<&str> = kept.collect();
            if let ["chain" | "set" | "map" | "table", name, ..] = words[..] {
                place = name.to_owned();
            }
            // Address, protocol, port and slot, with a dot before each but the first.
            let has_slot = words.get(1) == Some(&".") && words.get(5) == Some(&".");
            if place.ends_with("endpoints") && has_slot {
                words.drain(5..7);
            }
            format!("{place}: {}", words.join(" "))
        })
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
        let lab = Lab::up(purpose, &["--nodes", "1", "--ip-family", "dual"]);
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
        let marks = last_addresses(rage);
        let of = |family: usize| slice(SERVICES, family, [marks[family].clone()]);
        self.lab.apply("default", &probe::manifest(&[0, 1].map(of)));
        eventually("the last change is in the kernel", || {
            expect(rules(&self.lab, mode)?, |rules| {
                let there = |mark: &String| rules.iter().any(|line| line.contains(mark));
                marks.iter().all(there)
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
        false => Err(format!(
            "rules that a storm left, beside those that are made at once:\n\
             missing: {missing:#?}\ntoo many: {more:#?}"
        )),
    }
}
