//! What leaves the cluster has the node's address, on a node with no agent.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::node::{DUAL, Node, address, path, pod, reaches, seen};

const OWN: [&str; 2] = ["172.30.0.11", "fd00:172:30::11"];
const FAR: [&str; 2] = ["172.30.0.2", "fd00:172:30::2"];

fn masquerading(node: &Node) -> Value {
    let mut config = node.config();
    config["ipMasq"] = json!(true);
    config["clusterCIDRs"] = json!(["10.244.0.0/16", "10.96.0.0/12", "fd00:10:244::/56"]);
    config
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn beyond_the_cluster_pods_have_the_nodes_address_and_inside_their_own() {
    let node = Node::new(DUAL);
    // No agent made the node a router.
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        node.namespace.set_sysctl(key, "0").unwrap();
    }
    // A machine of the cluster, beyond the node.
    for inside in ["10.244.2.9/32", "fd00:10:244:2::9/128"] {
        node.outside
            .output("ip", ["address", "add", inside, "dev", "lo"])
            .unwrap();
    }
    for (inside, via) in [("10.244.2.0/24", FAR[0]), ("fd00:10:244:2::/64", FAR[1])] {
        node.namespace
            .output("ip", ["route", "add", inside, "via", via])
            .unwrap();
    }
    let config = masquerading(&node);
    let (first, second, plain) = (pod("first"), pod("second"), pod("plain"));
    let one = node.call("ADD", "c1", &path(&first), &config).ok();
    let two = node.call("ADD", "c2", &path(&second), &config).ok();
    let three = node.add("c3", &plain).ok();
    for family in 0..2 {
        let own = address(&one, family);
        let far = ip(FAR[family]);
        assert!(seen(&first, &node.outside, far, ip(OWN[family])).is_masqueraded());
        let inside = ip(["10.244.2.9", "fd00:10:244:2::9"][family]);
        reaches(&first, &node.outside, inside, own);
        reaches(&first, &second, address(&two, family), own);
        reaches(&first, &node.namespace, ip(OWN[family]), own);
        reaches(&node.outside, &first, own, far);
        // Who did not ask for it keeps its own address.
        reaches(&plain, &node.outside, far, address(&three, family));
    }
    let mut check = config.clone();
    check["prevResult"] = one.clone();
    node.call("CHECK", "c1", &path(&first), &check).ok();
    let own = address(&one, 0);
    node.namespace
        .output(
            "nft",
            [
                "delete",
                "element",
                "ip",
                "weft-pods",
                "leaving",
                &format!("{{ {own} }}"),
            ],
        )
        .unwrap();
    let (code, message) = node.call("CHECK", "c1", &path(&first), &check).error();
    assert_eq!(code, 101);
    assert!(
        message.contains(&format!("in set leaving {own} is missing")),
        "{message}"
    );
    // Asked for again without, and the rest goes too.
    node.add("c1", &first).ok();
    reaches(&first, &node.outside, ip(FAR[1]), address(&one, 1));
    for container in ["c1", "c2", "c3"] {
        node.del(container).ok();
    }
    node.assert_clean();
}

#[test]
fn where_somebody_else_masquerades_too_it_is_done_once() {
    let node = Node::new(DUAL);
    node.namespace
        .output("ip", ["address", "add", "172.30.0.12/24", "dev", "uplink"])
        .unwrap();
    // As an agent does it, at its priority; with another address, to tell the two apart.
    let rules = "add table ip agent; add chain ip agent c { type nat hook postrouting priority \
                 100; }; add rule ip agent c ip saddr 10.244.1.0/24 snat to 172.30.0.12";
    node.namespace.output("nft", [rules]).unwrap();
    let pod = pod("pod");
    let config = masquerading(&node);
    node.call("ADD", "c1", &path(&pod), &config).ok();
    assert!(seen(&pod, &node.outside, ip(FAR[0]), ip("172.30.0.12")).is_masqueraded());
}

#[test]
fn without_ranges_the_networks_own_are_left_out_and_what_is_no_range_is_refused() {
    let node = Node::new(DUAL);
    let pods = [pod("first"), pod("second")];
    let mut config = node.config();
    config["ipMasq"] = json!(true);
    let results = [0, 1].map(|index: usize| {
        node.call("ADD", &format!("c{index}"), &path(&pods[index]), &config)
            .ok()
    });
    for family in 0..2 {
        let own = address(&results[0], family);
        assert!(seen(&pods[0], &node.outside, ip(FAR[family]), ip(OWN[family])).is_masqueraded());
        reaches(&pods[0], &pods[1], address(&results[1], family), own);
    }
    for (field, value, words) in [
        (
            "clusterCIDRs",
            json!(["10.0.0.0/33"]),
            "clusterCIDRs[0]: \"10.0.0.0/33\" is not a range",
        ),
        (
            "ipMasq",
            json!("yes"),
            "ipMasq: must be true or false, not \"yes\"",
        ),
        (
            "antiSpoofing",
            json!(1),
            "antiSpoofing: must be true or false, not 1",
        ),
    ] {
        let mut config = config.clone();
        config[field] = value;
        let (_, message) = node.call("ADD", "c9", &path(&pods[0]), &config).error();
        assert!(message.starts_with(words), "{message}");
    }
    for of in [json!(false), json!(null)] {
        let mut config = masquerading(&node);
        config["ipMasq"] = of;
        let (_, message) = node.call("ADD", "c9", &path(&pods[0]), &config).error();
        let words = "clusterCIDRs: says where ipMasq ends";
        assert!(message.starts_with(words), "{message}");
    }
}

#[test]
fn a_pod_on_a_bridge_leaves_as_the_node_too() {
    let node = Node::bridged(DUAL);
    let pods = [pod("first"), pod("second")];
    let config = masquerading(&node);
    let results = [0, 1].map(|index: usize| {
        node.call("ADD", &format!("c{index}"), &path(&pods[index]), &config)
            .ok()
    });
    for family in 0..2 {
        let own = address(&results[0], family);
        assert!(seen(&pods[0], &node.outside, ip(FAR[family]), ip(OWN[family])).is_masqueraded());
        reaches(&pods[0], &pods[1], address(&results[1], family), own);
    }
}

#[test]
fn what_was_left_about_an_address_is_not_its_next_owners() {
    let node = Node::new(DUAL);
    let mut open = masquerading(&node);
    open["runtimeConfig"] =
        json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]});
    let first = pod("first");
    node.call("ADD", "c1", &path(&first), &open).ok();
    let nft = |arguments: &[&str]| node.namespace.output("nft", arguments).unwrap();
    for (container, own, config) in [
        ("c2", "10.244.1.2", node.config()),
        ("c3", "10.244.1.3", masquerading(&node)),
    ] {
        // As if the address's last owner had gone without a DEL.
        for (table, set, element) in [
            ("weft-pods", "leaving", own.to_owned()),
            ("weft-pods", "inside", format!("{own} . 10.244.7.0/24")),
            ("weft-host-ports", "hairpin", format!("{own} . {own}")),
            (
                "weft-host-ports",
                "ports",
                format!("172.30.0.11 . tcp . 9090 : {own} . 80"),
            ),
        ] {
            let element = format!("{{ {element} }}");
            nft(&["add", "element", "ip", table, set, &element]);
        }
        let pod = pod(container);
        let result = node.call("ADD", container, &path(&pod), &config).ok();
        assert_eq!(address(&result, 0), ip(own));
        let mut check = config.clone();
        check["prevResult"] = result;
        node.call("CHECK", container, &path(&pod), &check).ok();
        let ports = nft(&["list", "table", "ip", "weft-host-ports"]);
        assert!(!ports.contains("9090") && !ports.contains(own), "{ports}");
        let rules = nft(&["list", "table", "ip", "weft-pods"]);
        assert!(!rules.contains("10.244.7.0"), "{rules}");
        node.del(container).ok();
    }
    node.del("c1").ok();
    node.assert_clean();
}
