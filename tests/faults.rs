//! Every part is killed, one after the other, with traffic running.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::lab::probe::{self, Ask, Met, PORT};
use crate::lab::{Lab, Running, eventually, expect};

const TRAFFIC: &str = include_str!("lab/traffic.py");

/// A lab with two servers behind a Service, and traffic to it from a pod.
pub(crate) struct Scene {
    traffic: Running,
    pub(crate) lab: Lab,
}

impl Scene {
    pub(crate) fn new(purpose: &str) -> Self {
        let lab = Lab::up(purpose, &["--ip-family", "dual"]);
        lab.pods_ready("kube-system", "");
        let mut objects = vec![service()];
        for (name, node) in [("a", "node-1"), ("b", "node-2")] {
            objects.push(probe::pod(name, node));
        }
        let mut client = probe::pod("client", "node-1");
        client["metadata"]["labels"] = json!({});
        objects.push(client);
        lab.apply("default", &probe::manifest(&objects));
        lab.pods_ready("default", "");
        let addresses = lab
            .field(&["service", "probes"], "{.spec.clusterIPs[*]}")
            .unwrap();
        let addresses: Vec<_> = addresses.split(' ').collect();
        let asks: Vec<_> = addresses
            .iter()
            .flat_map(|address| probe::both(address))
            .map(|ask| Ask { times: 20, ..ask })
            .collect();
        eventually(
            "every server answers by address, and the Service by name",
            || {
                for met in probe::ask(&lab, "default/client", &asks) {
                    expect(met, |met| {
                        let answers = met.iter().filter_map(|met| match met {
                            Met::Answer(answer) => Some(&answer.name),
                            Met::Failure(_) => None,
                        });
                        met.iter().all(|met| met.failure().is_none())
                            && answers.collect::<BTreeSet<_>>().len() == 2
                    })?;
                }
                lab.exec("default/client", &["getent", "hosts", "probes"])
                    .result()
            },
        );
        let port = PORT.to_string();
        let command: Vec<_> = ["python3", "-c", TRAFFIC, "probes", &port]
            .into_iter()
            .chain(addresses)
            .collect();
        let traffic = lab.start("default/client", &command);
        let scene = Scene { traffic, lab };
        scene.traffic_flows();
        scene
    }

    /// Waits until every kind of traffic has succeeded some more times; fails if one ever failed.
    #[track_caller]
    pub(crate) fn traffic_flows(&self) {
        let counts = || -> BTreeMap<String, u64> {
            let line = self.traffic.line("counts", |_| true);
            match serde_json::from_str(&line) {
                Ok(counts) => counts,
                Err(_) => panic!("traffic failed: {line}\n{:?}", self.traffic.so_far()),
            }
        };
        // What was printed before the call tells nothing of now.
        for line in self.traffic.so_far() {
            assert!(line.starts_with('{'), "traffic failed: {line}");
        }
        let before = counts();
        loop {
            let now = counts();
            if now.len() == 7
                && now
                    .iter()
                    .all(|(kind, count)| *count >= before.get(kind).unwrap_or(&0) + 50)
            {
                return;
            }
        }
    }

    #[track_caller]
    pub(crate) fn nothing_failed(self) {
        for line in self.traffic.finish() {
            assert!(line.starts_with('{'), "traffic failed: {line}");
        }
    }

    /// What a node's kernel holds, counters aside. With handles: what is the same has not been
    /// made anew.
    fn rules(&self, node: &str) -> String {
        let rules = self
            .lab
            .exec(node, &["nft", "--handle", "--stateless", "list", "ruleset"]);
        let routes = self
            .lab
            .sh(node, "ip route show table all; ip -6 route show table all");
        // Neighbour and cache entries of IPv6 come and go.
        let routes: Vec<_> = routes
            .ok()
            .lines()
            .filter(|line| !line.contains("cache"))
            .map(str::to_owned)
            .collect();
        rules.ok() + &routes.join("\n")
    }

    /// A pod made now becomes ready on a node, and is reached through a Service made now.
    #[track_caller]
    pub(crate) fn something_new_works(&self, name: &str, node: &str) {
        let mut service = service();
        service["metadata"]["name"] = json!(name);
        service["spec"]["selector"] = json!({"app": name});
        let manifest = probe::manifest(&[probe::pod(name, node), service]);
        eventually("the API takes it", || {
            self.lab.kubectl_apply("default", &manifest).result()
        });
        self.lab.pods_ready("default", &format!("app={name}"));
        eventually("the new pod answers by the new name", || {
            let asks: Vec<_> = probe::both(name).into();
            let met = probe::ask(&self.lab, "default/client", &asks);
            expect(met, |met| met.iter().all(|met| met[0].failure().is_none()))
        });
    }

    /// Both DNS replicas are there and ready.
    #[track_caller]
    fn dns_is_whole(&self) {
        eventually("two DNS replicas are available", || {
            let available = self.lab.field(
                &["-n", "kube-system", "deployment", "weft-dns"],
                "{.status.availableReplicas}",
            )?;
            expect(available, |available| available == "2")
        });
    }
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "probes"},
        "spec": {
            "selector": {"serves": "probes"},
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "tcp", "port": PORT, "protocol": "TCP"},
                {"name": "udp", "port": PORT, "protocol": "UDP"},
            ],
        },
    })
}

#[test]
fn agents_are_killed_and_no_request_fails() {
    let scene = Scene::new("agents");
    let agents = scene.lab.processes("weft agent");
    assert_eq!(agents.len(), 2);
    let before = ["node-1", "node-2"].map(|node| scene.rules(node));
    for agent in agents {
        scene.lab.kill_part("weft agent", agent);
        scene.traffic_flows();
        eventually("the agents are ready", || {
            let ready = scene.lab.field(
                &["-n", "kube-system", "daemonset", "weft-agent"],
                "{.status.numberReady}",
            )?;
            expect(ready, |ready| ready == "2")
        });
        let after = ["node-1", "node-2"].map(|node| scene.rules(node));
        assert_eq!(before, after);
    }
    scene.something_new_works("later", "node-2");
    scene.nothing_failed();
}

#[test]
fn back_ends_replace_each_other_and_no_request_fails() {
    let scene = Scene::new("modes");
    let address = scene
        .lab
        .field(&["service", "probes"], "{.spec.clusterIP}")
        .unwrap();
    for (mode, name) in [("iptables", "chained"), ("nftables", "mapped")] {
        scene.lab.set_mode(mode);
        for node in ["node-1", "node-2"] {
            eventually("the rules are the mode's", || {
                let saved = scene.lab.exec(node, &["iptables-save", "-t", "nat"]);
                let chains = scene
                    .lab
                    .exec(node, &["nft", "list", "table", "ip", "weft"]);
                let portal = format!("-A KUBE-SERVICES -d {address}/32 -p tcp ");
                let in_iptables = saved.result()?.contains(&portal);
                let in_nftables = chains.result()?.contains(&address);
                expect((in_iptables, in_nftables), |there| {
                    *there == (mode == "iptables", mode == "nftables")
                })
            });
        }
        scene.traffic_flows();
        scene.something_new_works(name, "node-2");
    }
    eventually("nothing of the other mode is left", || {
        let saved = scene.lab.exec("node-1", &["iptables-save"]).result()?;
        expect(saved, |saved| {
            !saved.contains("KUBE-") && !saved.contains("WEFT-")
        })
    });
    scene.nothing_failed();
}

#[test]
fn dns_servers_are_killed_and_no_look_up_fails() {
    let scene = Scene::new("dns");
    // Two in each of two pods.
    let servers = scene.lab.processes("weft dns");
    assert_eq!(servers.len(), 4);
    for server in servers {
        scene.lab.kill_part("weft dns", server);
        scene.traffic_flows();
        scene.dns_is_whole();
        scene.traffic_flows();
    }
    scene.something_new_works("later", "node-2");
    scene.nothing_failed();
}

#[test]
fn kubelets_and_controllers_are_killed_and_no_request_fails() {
    let scene = Scene::new("kubelets");
    let pods = |scene: &Scene| {
        let found = scene.lab.field(
            &["-A", "pods"],
            "{range .items[*]}{.metadata.uid} {.status.podIPs} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}",
        );
        let found = found.unwrap();
        found.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let before = pods(&scene);
    assert_eq!(before.len(), 7, "{before:?}");
    let kubelets = scene.lab.processes("weft internal kubelet");
    assert_eq!(kubelets.len(), 2);
    for kubelet in kubelets {
        scene.lab.kill_part("weft internal kubelet", kubelet);
        scene.traffic_flows();
    }
    for node in ["node-1", "node-2"] {
        scene.something_new_works(&format!("after-kubelet-{node}"), node);
    }
    for controllers in scene.lab.processes("weft internal controllers") {
        scene
            .lab
            .kill_part("weft internal controllers", controllers);
    }
    scene.something_new_works("after-controllers", "node-1");
    // Whatever ran before runs still.
    let after = pods(&scene);
    assert!(after.is_superset(&before), "{before:?} {after:?}");
    scene.traffic_flows();
    scene.nothing_failed();
}

/// Dropped, it is true.
struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_api_server_is_killed_and_keeps_its_word() {
    let scene = Scene::new("api");
    let stop = AtomicBool::new(false);
    let kept = AtomicUsize::new(0);
    let written = std::thread::scope(|scope| {
        // Also when something below fails: the scope waits for the writer.
        let end = Finally(&stop);
        let writer = scope.spawn(|| {
            let mut written = BTreeSet::new();
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("word-{number}");
                let object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": name, "labels": {"words": "kept"}},
                    "data": {"number": number.to_string()},
                });
                if scene.lab.kubectl_apply("default", &object.to_string()).code == Some(0) {
                    written.insert(name);
                    kept.fetch_add(1, Ordering::Relaxed);
                }
            }
            written
        });
        for round in 1..=3 {
            let server = scene.lab.processes("weft internal apiserver");
            for pid in &server {
                scene.lab.kill_part("weft internal apiserver", *pid);
            }
            eventually("kubectl works again", || {
                scene.lab.kubectl(&["get", "--raw", "/readyz"]).result()
            });
            scene.traffic_flows();
            eventually("some more words are given", || {
                expect(kept.load(Ordering::Relaxed), |kept| *kept >= 5 * round)
            });
        }
        drop(end);
        writer.join().unwrap()
    });
    let there = scene.lab.field(
        &["configmaps", "-l", "words=kept"],
        "{.items[*].metadata.name}",
    );
    let there: BTreeSet<_> = there
        .as_ref()
        .unwrap()
        .split(' ')
        .map(str::to_owned)
        .collect();
    assert!(there.is_superset(&written), "{written:?} {there:?}");

    // Who watches goes on where it was.
    for node in ["node-1", "node-2"] {
        scene.something_new_works(&format!("after-api-{node}"), node);
    }
    scene.nothing_failed();
}
