//! Twenty nodes: all reach each other through tunnels, and who leaves and comes changes nothing for
//! the rest.

use std::sync::Mutex;
use std::thread;

use serde_json::Value;

use crate::lab::{Lab, eventually, expect};

const NODES: usize = 20;
/// Programs that run at a time, on a machine of few processors.
const AT_A_TIME: usize = 4;

const PODS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: weft/echo}]
";

struct Pod {
    name: String,
    node: String,
    addresses: Vec<String>,
}

/// The pods, one on each of so many nodes.
fn pods(lab: &Lab, count: usize) -> Vec<Pod> {
    eventually("a pod on every node", || {
        let ready = ["rollout", "status", "daemonset/echo", "--timeout=60s"];
        lab.kubectl(&ready).result()?;
        let list = lab.get(&["pods", "-l", "app=echo"]);
        let all: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
        let pods = all.iter().map(|pod| Pod {
            name: pod["metadata"]["name"].as_str().unwrap().to_owned(),
            node: pod["spec"]["nodeName"].as_str().unwrap().to_owned(),
            addresses: crate::lab::strings(&pod["status"]["podIPs"], "ip"),
        });
        let pods: Vec<Pod> = pods.collect();
        match pods.len() == count && pods.iter().all(|pod| pod.addresses.len() == 2) {
            true => Ok(pods),
            false => Err(list.to_string()),
        }
    })
}

/// Does something for each, a few at a time.
fn each<T: Sync>(all: &[T], deed: impl Fn(&T) + Sync) {
    let rest = Mutex::new(all.iter());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(one) = { rest.lock().unwrap().next() } {
                    deed(one);
                }
            });
        }
    });
}

/// Every one of these pods asks every one of those.
fn reach(lab: &Lab, from: &[&Pod], to: &[&Pod]) {
    let addresses = to.iter().flat_map(|pod| &pod.addresses);
    let urls: Vec<String> = addresses
        .map(|address| match address.contains(':') {
            true => format!("http://[{address}]:8080"),
            false => format!("http://{address}:8080"),
        })
        .collect();
    let mut ask = vec!["curl", "-sS", "--fail-early", "-m", "10"];
    ask.extend(urls.iter().map(String::as_str));
    each(from, |pod| {
        eventually(&format!("{} reaches all", pod.node), || {
            let said = lab.exec(&format!("default/{}", pod.name), &ask).result()?;
            let answers = said.lines().filter(|line| line.starts_with("client: "));
            let mut answers = answers.collect::<Vec<_>>();
            // Nobody's address is translated.
            answers.retain(|line| pod.addresses.iter().any(|own| line.contains(own.as_str())));
            expect(answers.len(), |count| *count == urls.len())
        });
    });
}

/// The ways from each of these nodes to so many others are well: node, tunnel, size, checksum.
fn well(lab: &Lab, nodes: &[&str], others: usize) {
    each(nodes, |node| {
        eventually(&format!("all ways from {node} are well"), || {
            let said = lab
                .exec(node, &["weft", "fabric", "check", "-o", "json"])
                .result()?;
            let answer: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
            let peers = answer["peers"].as_array().ok_or("no list")?;
            let tunnels = peers.iter().filter(|peer| {
                let findings = &peer["findings"];
                let checks = ["node", "tunnel", "mtu", "checksum"];
                peer["way"] == "vxlan" && checks.iter().all(|check| findings[check] == "ok")
            });
            expect(tunnels.count(), |count| *count == 2 * others)
        });
    });
}

#[test]
fn twenty_nodes_reach_each_other_and_come_and_go() {
    let count = NODES.to_string();
    let lab = Lab::up("twenty", &["--nodes", &count, "--ip-family", "dual"]);
    lab.configure("fabric", "vxlan");
    lab.apply("default", PODS);
    let all = pods(&lab, NODES);
    let names: Vec<&str> = all.iter().map(|pod| pod.node.as_str()).collect();
    well(&lab, &names, NODES - 1);
    let every: Vec<&Pod> = all.iter().collect();
    reach(&lab, &every, &every);

    // One is lost, and nobody knows it yet.
    lab.weft(&["node", "cut"], &["node-20"]).ok();
    let (lost, rest): (Vec<&Pod>, Vec<&Pod>) = all.iter().partition(|pod| pod.node == "node-20");
    let from = [rest[0]];
    reach(&lab, &from, &rest);
    lab.weft(&["node", "heal"], &["node-20"]).ok();
    reach(&lab, &from, &lost);
    reach(&lab, &lost, &rest);

    // It leaves, and what led to it with it.
    let range = lab.field(&["node", "node-20"], "{.spec.podCIDR}").unwrap();
    lab.weft(&["node", "remove"], &["node-20"]).ok();
    let address = range.split('/').next().unwrap().to_owned();
    eventually("nothing leads to a node that is gone", || {
        let show = format!(
            "ip route show {range}; ip neigh show {address} dev flannel.1; \
             bridge fdb show dev flannel.1 | grep 'dst 172.30.0.30 ' || true"
        );
        let shown = lab.sh("node-1", &show).result()?;
        expect(shown, |shown| shown.trim().is_empty())
    });
    reach(&lab, &from, &rest);
    // Another comes in its place.
    lab.weft(&["node", "add"], &["node-20"]).ok();
    let all = pods(&lab, NODES);
    let new: Vec<&Pod> = all.iter().filter(|pod| pod.node == "node-20").collect();
    let rest: Vec<&Pod> = all.iter().filter(|pod| pod.node != "node-20").collect();
    reach(&lab, &rest, &new);
    reach(&lab, &new, &rest);
    well(&lab, &["node-20"], NODES - 1);
}
