//! kube-proxy and weft take each other's place on live nodes, and no request fails.
//!
//! kube-proxy's rules are those that `weft service render` prints: compared with recordings of
//! the real one, to the character (`tests/kube-proxy`).

use std::process::Command;

use serde_json::json;

use crate::faults::Scene;
use crate::lab::{Lab, eventually, expect};

const NODES: [&str; 2] = ["node-1", "node-2"];
const FAMILIES: [(&str, &str, &str); 2] = [
    ("ipv4", "iptables", "10.244.0.0/16"),
    ("ipv6", "ip6tables", "fd00:10:244::/56"),
];

/// The rules of a kube-proxy come to each node.
#[track_caller]
fn kube_proxy_comes(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.json");
    let all = lab.get(&["nodes,services,endpointslices", "--all-namespaces"]);
    let documents: Vec<String> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    std::fs::write(&file, documents.join("\n---\n")).unwrap();
    for node in NODES {
        for (family, program, pods) in FAMILIES {
            let rendered = Command::new(env!("CARGO_BIN_EXE_weft"))
                .args(["service", "render", "--from"])
                .arg(&file)
                .args(["--node", node, "--family", family, "--cluster-cidr", pods])
                .output()
                .unwrap();
            assert!(rendered.status.success(), "{rendered:?}");
            let rules = String::from_utf8(rendered.stdout).unwrap();
            assert!(rules.contains("KUBE-SEP-"), "{rules}");
            let restore = format!("{program}-restore --noflush <<'RULES'\n{rules}\nRULES");
            lab.sh(node, &restore).ok();
        }
    }
}

/// They go, as when kube-proxy cleans up behind itself.
#[track_caller]
fn kube_proxy_goes(lab: &Lab) {
    for node in NODES {
        for (_, program, _) in FAMILIES {
            let without = format!("{program}-save | grep -v KUBE- | {program}-restore");
            lab.sh(node, &without).ok();
        }
    }
}

/// Agents run on the nodes that have this label; every node has one of these.
fn only_on(label: &str) -> String {
    let select = json!({"kubernetes.io/os": label});
    json!({"spec": {"template": {"spec": {"nodeSelector": select}}}}).to_string()
}

#[track_caller]
fn agents_run_on(lab: &Lab, os: &str, count: usize) {
    let patch = [
        "-n",
        "kube-system",
        "patch",
        "daemonset",
        "weft-agent",
        "-p",
    ];
    lab.kubectl(&[&patch[..], &[&only_on(os)]].concat()).ok();
    eventually(&format!("{count} agents run"), || {
        expect(lab.processes("weft agent"), |agents| agents.len() == count)
    });
}

/// weft leaves kube-proxy alone with Services, and comes back in a mode.
#[track_caller]
fn takes_its_place(mode: &str) {
    let scene = Scene::new(&format!("takeover-{mode}"));
    let lab = &scene.lab;
    kube_proxy_comes(lab);
    scene.traffic_flows();
    agents_run_on(lab, "none", 0);
    for node in NODES {
        lab.sh(node, "nft delete table ip weft; nft delete table ip6 weft")
            .ok();
    }
    scene.traffic_flows();

    lab.set_mode(mode);
    agents_run_on(lab, "linux", 2);
    for node in NODES {
        eventually("the rules are weft's", || {
            let listed = match mode {
                "nftables" => lab.sh(node, "nft list table ip weft").result()?,
                _ => lab.exec(node, &["iptables-save"]).result()?,
            };
            let own = if mode == "nftables" {
                "default/probes:tcp"
            } else {
                "WEFT-SERVICES"
            };
            expect(listed.contains(own), |there| *there)
        });
    }
    scene.traffic_flows();
    if mode == "nftables" {
        kube_proxy_goes(lab);
        scene.traffic_flows();
    }
    scene.something_new_works("later", "node-2");
    scene.nothing_failed();
}

#[test]
fn nftables_takes_kube_proxys_place_and_no_request_fails() {
    takes_its_place("nftables");
}

#[test]
fn iptables_takes_kube_proxys_place_and_no_request_fails() {
    takes_its_place("iptables");
}
