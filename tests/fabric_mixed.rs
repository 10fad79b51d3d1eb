//! Nodes that reach each other by different back ends, while a cluster changes from one to the
//! other under traffic.

use crate::faults::Scene;
use crate::lab::{Lab, eventually, expect};

/// Starts a node's agent anew, with the configuration as it is now.
fn restart(lab: &Lab, node: &str) {
    let on = format!("spec.nodeName={node}");
    let agent = [
        "-n",
        "kube-system",
        "-l",
        "k8s-app=weft-agent",
        "--field-selector",
        &on,
    ];
    lab.kubectl(&[&["delete", "pods"][..], &agent].concat())
        .ok();
}

/// What the nodes announce, in the order of their names.
fn announced(lab: &Lab, backends: &str) {
    eventually(&format!("the nodes say {backends}"), || {
        let path = r"{.items[*].metadata.annotations.flannel\.alpha\.coreos\.com/backend-type}";
        expect(lab.field(&["nodes"], path)?, |said| said == backends)
    });
}

/// How each of both nodes reaches the other's IPv4 pods.
fn reached(lab: &Lab, hops: [&str; 2]) {
    let ranges = lab
        .field(&["nodes"], "{range .items[*]}{.spec.podCIDR} {end}")
        .unwrap();
    let ranges: Vec<&str> = ranges.split_whitespace().collect();
    for (node, range, hop) in [
        ("node-1", ranges[1], hops[0]),
        ("node-2", ranges[0], hops[1]),
    ] {
        eventually(&format!("{node} reaches {range} {hop}"), || {
            let shown = lab.sh(node, &format!("ip route show {range}")).result()?;
            expect(shown, |shown| shown.contains(hop))
        });
    }
}

#[test]
fn nodes_change_from_tunnels_to_routes_one_by_one_and_lose_nothing() {
    let scene = Scene::new("mixed");
    let lab = &scene.lab;
    let (direct, tunnel) = ("dev eth0", "dev flannel.1");
    announced(lab, "host-gw host-gw");
    for (backend, mixture, hop) in [
        ("vxlan", "vxlan host-gw", tunnel),
        ("host-gw", "host-gw vxlan", direct),
    ] {
        lab.edit_configuration("fabric", backend);
        restart(lab, "node-1");
        announced(lab, mixture);
        // Who has routes sends by them, and who has tunnels too, to a node that says it has none.
        reached(lab, [direct; 2]);
        scene.traffic_flows();
        restart(lab, "node-2");
        announced(lab, &format!("{backend} {backend}"));
        reached(lab, [hop; 2]);
        scene.traffic_flows();
    }
    scene.nothing_failed();
}
