//! What is wrong with a node is said of that node, and keeps no other from the network.

use std::process::Command;

use crate::fabric::{client, lab};
use crate::lab::{Lab, Running, eventually, expect};

/// Nodes of which only the object is there: each with something that can't be right.
const STRANGERS: [&str; 4] = [
    // Half of it is node-2's.
    r#"{"name": "z-overlaps", "range": "10.244.1.128/25", "address": "172.30.0.91"}"#,
    // All of it is node-1's.
    r#"{"name": "z-claims", "range": "10.244.0.0/24", "address": "172.30.0.92"}"#,
    // Not the address of one device, but of many.
    r#"{"name": "z-many", "range": "10.244.7.0/24", "address": "172.30.0.93",
        "mac": "03:00:00:00:00:01"}"#,
    r#"{"name": "z-nowhere", "range": "10.244.8.0/24"}"#,
];

/// The Node object and its status.
fn stranger(about: &str) -> (String, String, String) {
    let about: serde_json::Value = serde_json::from_str(about).unwrap();
    let mut node = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": about["name"]},
        "spec": {"podCIDR": about["range"], "podCIDRs": [about["range"]]},
    });
    if let Some(mac) = about["mac"].as_str() {
        let data = format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#);
        node["metadata"]["annotations"] = serde_json::json!({
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/backend-data": data,
        });
    }
    let addresses: Vec<_> = about["address"]
        .as_str()
        .map(|address| serde_json::json!({"type": "InternalIP", "address": address}))
        .into_iter()
        .collect();
    let status = serde_json::json!({"status": {"addresses": addresses}});
    let name = about["name"].as_str().unwrap().to_owned();
    (name, node.to_string(), status.to_string())
}

/// Has a UDP port of a node, until its input ends.
fn holding(lab: &Lab, node: &str, port: u16) -> Running {
    let script = format!(
        "import socket, sys\n\
         held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         held.bind(('0.0.0.0', {port}))\n\
         print('held', flush=True)\n\
         sys.stdin.read()"
    );
    let holding = lab.start(node, &["python3", "-c", &script]);
    holding.line("that it has the port", |line| line == "held");
    holding
}

/// An event about the node that says all of this is shown with it.
fn told(lab: &Lab, node: &str, words: &[&str]) {
    eventually(&format!("an event of {node} says {words:?}"), || {
        let shown = lab.kubectl(&["describe", "node", node]).result()?;
        let says = |line: &str| words.iter().all(|word| line.contains(word));
        expect(shown, |shown| shown.lines().any(says))
    });
}

/// What the node says of its network: the condition's status and its reason.
fn network(lab: &Lab, node: &str, said: &str) {
    eventually(&format!("{node} says {said} of its network"), || {
        let path = r#"{range .status.conditions[?(@.type=="NetworkUnavailable")]}{.status} {.reason}{end}"#;
        let now = lab.field(&["node", node], path)?;
        expect(now, |now| now == said)
    });
}

/// Every link takes 1340 bytes: enough for IPv4's tunnels, too little for IPv6's.
fn narrow(lab: &Lab) {
    let narrow = "for link in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do \
                  [ $link = lo ] || ip link set $link mtu 1340 || exit 1; done";
    // First who sends: what nobody takes any more would be sent again and again.
    let between = Command::new("nsenter")
        .arg(format!("--net=/proc/{}/ns/net", lab.init()))
        .args(["sh", "-c", narrow])
        .output()
        .unwrap();
    assert!(between.status.success(), "{between:?}");
    for node in ["node-1", "node-2", "outside"] {
        lab.sh(node, "ip link set eth0 mtu 1340").ok();
    }
}

fn works(lab: &Lab, to: &[String]) {
    for to in to {
        eventually(&format!("{to} is reached"), || {
            client(lab, "one", to).map(drop)
        });
    }
}

#[test]
fn what_is_wrong_is_said_of_its_node_and_left_out_and_the_rest_works() {
    let lab = lab("fabfault");
    let two = lab.pod_ips("default", "two");
    works(&lab, &two);
    let answers = holding(&lab, "node-1", 10999);
    let tunnel = holding(&lab, "node-2", 8472);
    narrow(&lab);
    lab.configure("fabric", "{type: vxlan, selfTest: {port: 10999}}");
    for about in STRANGERS {
        let (name, node, status) = stranger(about);
        lab.apply("default", &node);
        let patch = ["--subresource", "status", "--type", "merge", "-p", &status];
        let patch = [&["patch", "node", &name][..], &patch].concat();
        lab.kubectl(&patch).ok();
    }

    for (node, words) in [
        (
            "z-overlaps",
            ["PodRangeNotRouted", "overlaps 10.244.1.0/24 of node node-2"],
        ),
        (
            "z-claims",
            ["PodRangeNotRouted", "overlaps 10.244.0.0/24 of node node-1"],
        ),
        ("z-many", ["PodRangeNotRouted", "03:00:00:00:00:01"]),
        ("z-nowhere", ["PodRangeNotRouted", "InternalIP"]),
        ("node-1", ["FabricNotApplied", "1280 are the least"]),
        ("node-1", ["SelfTestPortTaken", "fabric.selfTest.port"]),
        ("node-2", ["FabricNotApplied", "UDP port 8472"]),
    ] {
        told(&lab, node, &words);
    }
    network(&lab, "node-1", "False WeftIsUp");
    network(&lab, "node-2", "True FabricNotApplied");
    let routes = lab.sh("node-1", "ip route").ok();
    for left_out in ["10.244.1.128/25", "10.244.7.0/24", "10.244.8.0/24"] {
        assert!(!routes.contains(left_out), "{routes}");
    }
    works(&lab, &two);

    // What was in the way goes, and what was not possible is done.
    for held in [answers, tunnel] {
        held.finish();
    }
    network(&lab, "node-2", "False WeftIsUp");
    eventually("the tunnel is used", || {
        let shown = lab.sh("node-1", "ip route show 10.244.1.0/24").result()?;
        expect(shown, |shown| shown.contains("dev flannel.1"))
    });
    works(&lab, &two);
}
