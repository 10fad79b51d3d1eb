//! What a node may have in a bridge's place.

use serde_json::{Value, json};

use crate::node::{DUAL, Node, ip, path, pod};

/// The ADD is refused, names the field, and leaves nothing of the pod.
fn refused(node: &Node, words: &str) {
    let pod = pod("pod");
    let (code, message) = node.add("new", &pod).error();
    assert_eq!(code, 7, "{message}");
    assert!(
        message.starts_with("bridge") && message.contains(words),
        "{words} | {message}"
    );
    // STATUS says it before, in the same words.
    if !words.contains("which a pod has") {
        let status = node.call("STATUS", "", "", &node.config()).error();
        assert_eq!(status, (50, message));
    }
    assert!(!node.record("new").exists());
    assert_eq!(ip(&pod, &["link"]).as_array().unwrap().len(), 1);
}

fn on_node(node: &Node, commands: &[&str]) {
    for command in commands {
        node.namespace.output("ip", command.split(' ')).unwrap();
    }
}

#[test]
fn a_device_that_is_no_bridge_is_left_alone() {
    let node = Node::bridged(DUAL);
    on_node(&node, &["link add cni0 type veth peer name other"]);
    refused(&node, "a veth of that name");
    assert_eq!(
        ip(&node.namespace, &["link", "show", "cni0"])[0]["linkinfo"]["info_kind"],
        "veth"
    );
}

#[test]
fn somebody_elses_bridge_is_used_as_it_is_or_not_at_all() {
    let node = Node::bridged(&["10.244.1.0/24"]);
    on_node(&node, &["link add cni0 type bridge"]);
    refused(&node, "lacks the address 10.244.1.1/24");
    on_node(&node, &["address add 10.244.1.1/24 dev cni0"]);
    refused(&node, "down");
    on_node(&node, &["link set cni0 up"]);
    let pod = pod("living");
    let before = ip(&node.namespace, &["address", "show", "cni0"]);
    let result = node.add("c1", &pod).ok();
    node.check("c1", &pod, &result).ok();
    node.del("c1").ok();
    let after = ip(&node.namespace, &["address", "show", "cni0"]);
    assert_eq!(after[0]["ifalias"], Value::Null);
    assert_eq!(after[0]["mtu"], before[0]["mtu"]);
    node.remove_bridge("cni0");
    node.assert_clean();
}

#[test]
fn another_networks_bridge_is_not_shared() {
    let node = Node::bridged(&["10.244.1.0/24"]);
    let pod = pod("living");
    let mut config = node.config();
    config["name"] = json!("other");
    config["ipam"]["ranges"] = json!(["10.245.1.0/24"]);
    node.call("ADD", "c1", &path(&pod), &config).ok();
    refused(&node, "it is the network other's");
    node.call("DEL", "c1", "", &config).ok();
    node.remove_bridge("cni0");
    node.assert_clean();
}

#[test]
fn an_address_from_before_stays_while_pods_know_it() {
    let mut node = Node::bridged(&["10.244.1.0/24"]);
    let pod = pod("living");
    let result = node.add("c1", &pod).ok();
    let gateway = |gateway: &str| {
        let range = json!({"subnet": "10.244.1.0/24", "gateway": gateway});
        let networks = node.root.path().join("networks");
        json!({"type": "weft", "ranges": [range], "dataDir": networks})
    };
    let (new, old) = (gateway("10.244.1.254"), gateway("10.244.1.1"));
    node.fields["ipam"] = new;
    refused(
        &node,
        "it has the address 10.244.1.1/24 of an earlier configuration, and 1 pods",
    );
    node.fields["ipam"] = old;
    node.check("c1", &pod, &result).ok();
    node.del("c1").ok();
    // A bridge without pods takes the new one.
    let new = node.fields["ipam"]
        .to_string()
        .replace("10.244.1.1\"", "10.244.1.254\"");
    node.fields["ipam"] = serde_json::from_str(&new).unwrap();
    let result = node.add("c1", &pod).ok();
    assert_eq!(result["ips"][0]["gateway"], "10.244.1.254");
    let addresses = node
        .namespace
        .output("ip", ["address", "show", "cni0"])
        .unwrap();
    assert!(!addresses.contains("10.244.1.1/24"), "{addresses}");
    node.del("c1").ok();
    node.remove_bridge("cni0");
    node.assert_clean();
}

#[test]
fn a_network_is_on_one_device() {
    let node = Node::bridged(&["10.244.1.0/24"]);
    on_node(
        &node,
        &[
            "link add br-old type bridge",
            "address add 10.244.1.1/24 dev br-old",
        ],
    );
    refused(&node, "the node's device br-old has 10.244.1.1/24 already");
}

#[test]
fn an_address_without_a_network_is_in_the_way_of_itself_alone() {
    let node = Node::bridged(DUAL);
    on_node(
        &node,
        &[
            "link add flannel.1 type veth peer name other",
            "address add 10.244.1.0/32 dev flannel.1",
            "address add fd00:10:244:1::/128 dev flannel.1",
        ],
    );
    let pod = pod("pod");
    node.add("c1", &pod).ok();
    node.del("c1").ok();
    node.remove_bridge("cni0");
    on_node(&node, &["address add 10.244.1.1/32 dev flannel.1"]);
    refused(&node, "device flannel.1 has 10.244.1.1/32 already");
}

#[test]
fn an_address_that_the_kernel_made_goes_by_itself() {
    let node = Node::bridged(DUAL);
    let (first, second) = (pod("first"), pod("second"));
    node.add("c1", &first).ok();
    on_node(
        &node,
        &["address add fd00:77::1/64 dev cni0 valid_lft 600 preferred_lft 600"],
    );
    node.add("c2", &second).ok();
}

#[test]
fn the_routers_address_is_no_pods() {
    let mut node = Node::new(&["10.244.1.0/24"]);
    let pod = pod("first");
    let result = node.add("c1", &pod).ok();
    assert_eq!(result["ips"][0]["address"], "10.244.1.1/32");
    node.fields = json!({"link": "bridge"});
    refused(&node, "10.244.1.1, which a pod has");
    node.del("c1").ok();
    node.add("c1", &pod).ok();
    node.del("c1").ok();
    node.remove_bridge("cni0");
    node.assert_clean();
}

#[test]
fn a_bridge_that_was_begun_is_finished() {
    let node = Node::bridged(DUAL);
    let pod = pod("pod");
    let result = node.add("c1", &pod).ok();
    let mac = result["interfaces"][0]["mac"].as_str().unwrap();
    node.del("c1").ok();
    on_node(
        &node,
        &[
            "link del cni0",
            &format!("link add cni0 address {mac} type bridge"),
        ],
    );
    let result = node.add("c1", &pod).ok();
    node.check("c1", &pod, &result).ok();
    assert_eq!(
        ip(&node.namespace, &["link", "show", "cni0"])[0]["ifalias"],
        "weft:bridge/weft"
    );
    node.del("c1").ok();
    node.remove_bridge("cni0");
    node.assert_clean();
}
