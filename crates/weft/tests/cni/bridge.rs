//! Pods on a bridge.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use weft_netlab::{Namespace, probe};

use crate::node::{DUAL, Node, PATIENCE, address, end, ip, path, pod, reaches, run};

/// Long enough for a packet to come, if any does.
const GLANCE: std::time::Duration = std::time::Duration::from_millis(300);

fn link(result: &Value, index: usize) -> &str {
    result["interfaces"][index]["name"].as_str().unwrap()
}

#[test]
fn a_pod_on_a_bridge_is_attached_checked_and_detached() {
    let node = Node::bridged(DUAL);
    let first = pod("first");
    let result = node.add("c1", &first).ok();
    assert_eq!(link(&result, 0), "cni0");
    assert_eq!(link(&result, 2), "eth0");
    assert_eq!(result["interfaces"][2]["sandbox"], path(&first));
    assert_eq!(
        result["ips"],
        json!([
            {"address": "10.244.1.2/24", "gateway": "10.244.1.1", "interface": 2},
            {"address": "fd00:10:244:1::2/64", "gateway": "fd00:10:244:1::1", "interface": 2},
        ])
    );
    assert_eq!(
        result["routes"],
        json!([
            {"dst": "0.0.0.0/0", "gw": "10.244.1.1"},
            {"dst": "::/0", "gw": "fd00:10:244:1::1"},
        ])
    );
    let port = &ip(&node.namespace, &["link", "show", link(&result, 1)])[0];
    assert_eq!(port["master"], "cni0");
    assert_eq!(port["linkinfo"]["info_slave_data"]["hairpin"], true);
    assert_eq!(port["ifalias"], "weft:default/pod-c1");
    let bridge = &ip(&node.namespace, &["link", "show", "cni0"])[0];
    assert_eq!(bridge["ifalias"], "weft:bridge/weft");
    assert_eq!(bridge["mtu"], 1450);
    assert_eq!(bridge["promiscuity"], 0);
    assert_eq!(bridge["address"], result["interfaces"][0]["mac"]);
    // Nothing looks for duplicates of these.
    let tentative = first
        .output(
            "ip",
            ["-6", "address", "show", "tentative", "scope", "global"],
        )
        .unwrap();
    assert_eq!(tentative, "");
    let advertisements = first.sysctl("net/ipv6/conf/eth0/accept_ra").unwrap();
    assert_eq!(advertisements.trim(), "0");
    assert_eq!(node.check("c1", &first, &result).ok(), Value::Null);

    let second = pod("second");
    let other = node.add("c2", &second).ok();
    for index in 0..2 {
        let (here, there) = (address(&result, index), address(&other, index));
        let v4 = here.is_ipv4();
        let of = |v4_text: &str, v6_text: &str| -> IpAddr {
            if v4 { v4_text } else { v6_text }.parse().unwrap()
        };
        let own = of("172.30.0.11", "fd00:172:30::11");
        let router = of("10.244.1.1", "fd00:10:244:1::1");
        let far = of("172.30.0.2", "fd00:172:30::2");
        reaches(&first, &second, there, here);
        reaches(&second, &first, here, there);
        reaches(&node.namespace, &first, here, router);
        reaches(&first, &node.namespace, own, here);
        reaches(&first, &node.namespace, router, here);
        reaches(&first, &node.outside, far, here);
        reaches(&node.outside, &first, here, far);
    }
    node.del("c1").ok();
    node.check("c2", &second, &other).ok();
    node.del("c2").ok();
    node.del("c2").ok();
    node.remove_bridge("cni0");
    node.assert_clean();
}

#[test]
fn a_pod_of_one_family_and_the_gateway_that_was_asked_for() {
    let range = json!({"subnet": "10.244.1.0/24", "gateway": "10.244.1.254"});
    for (range, gateway) in [
        (json!(["10.244.1.0/24"]), "10.244.1.1/24"),
        (json!([range]), "10.244.1.254/24"),
        (json!(["fd00:10:244:1::/64"]), "fd00:10:244:1::1/64"),
    ] {
        let mut node = Node::bridged(&[]);
        node.fields = json!({
            "link": "bridge", "bridge": "pods0", "mtu": 1400,
            "ipam": {
                "type": "weft", "ranges": range,
                "dataDir": node.root.path().join("networks"),
            },
        });
        let one = pod("one");
        let result = node.add("c1", &one).ok();
        assert_eq!(link(&result, 0), "pods0");
        let router: ipnet::IpNet = gateway.parse().unwrap();
        assert_eq!(result["ips"][0]["gateway"], router.addr().to_string());
        reaches(&one, &node.namespace, router.addr(), address(&result, 0));
        let addresses = node
            .namespace
            .output("ip", ["address", "show", "pods0"])
            .unwrap();
        assert!(addresses.contains(gateway), "{addresses}");
        assert_eq!(ip(&one, &["link", "show", "eth0"])[0]["mtu"], 1400);
        node.check("c1", &one, &result).ok();
        node.del("c1").ok();
        node.remove_bridge("pods0");
        node.assert_clean();
    }
}

#[test]
fn check_names_what_is_not_as_it_was_and_add_repairs_it() {
    let mut node = Node::bridged(DUAL);
    node.fields["ingressPolicy"] = json!("same-bridge");
    let pod = pod("pod");
    let result = node.add("c1", &pod).ok();
    let host = link(&result, 1).to_owned();
    for (place, program, change, words) in [
        (
            &node.namespace,
            "ip",
            "link set HOST nomaster",
            "not a port of cni0",
        ),
        (
            &node.namespace,
            "ip",
            "link set HOST type bridge_slave hairpin off",
            "hairpin mode on cni0 is off",
        ),
        (
            &node.namespace,
            "ip",
            "address del 10.244.1.1/24 dev cni0",
            "bridge: cni0 address 10.244.1.1/24 is missing",
        ),
        (
            &node.namespace,
            "ip",
            "address del fd00:10:244:1::1/64 dev cni0",
            "fd00:10:244:1::1/64",
        ),
        (
            &node.namespace,
            "ip",
            "link set cni0 down",
            "cni0 it is down",
        ),
        (&node.namespace, "ip", "link del cni0", "cni0 it is missing"),
        (
            &node.namespace,
            "nft",
            "delete table inet weft-bridges",
            "rules of bridge cni0",
        ),
        (
            &node.namespace,
            "nft",
            "flush set inet weft-bridges isolated",
            "rules of bridge cni0",
        ),
        (
            &node.namespace,
            "nft",
            "flush chain inet weft-bridges forward",
            "rules of bridge cni0",
        ),
        (
            &pod,
            "ip",
            "address del 10.244.1.2/24 dev eth0",
            "10.244.1.2/24",
        ),
        (&pod, "ip", "-6 route del default", "::/0 via"),
    ] {
        let change = change.replace("HOST", &host);
        place.output(program, change.split(' ')).unwrap();
        let (code, message) = node.check("c1", &pod, &result).error();
        assert_eq!(code, 101);
        assert!(message.contains(words), "{change}: {words} | {message}");
        assert_eq!(node.add("c1", &pod).ok(), result, "{change}");
        node.check("c1", &pod, &result).ok();
    }
    node.namespace
        .output("ip", ["link", "set", "cni0", "promisc", "on"])
        .unwrap();
    let (_, message) = node.check("c1", &pod, &result).error();
    assert!(message.contains("cni0 it is promiscuous"), "{message}");
    // ADD repairs the bridge, and leaves the link alone: it has the number that it had.
    let number = || ip(&node.namespace, &["link", "show", &host])[0]["ifindex"].clone();
    let before = number();
    assert_eq!(node.add("c1", &pod).ok(), result);
    node.check("c1", &pod, &result).ok();
    assert_eq!(number(), before);
    node.call("STATUS", "", "", &node.config()).ok();
    // GC: the pod is gone, and nobody called DEL.
    let _gone = end(pod);
    let mut config = node.config();
    config["cni.dev/valid-attachments"] = json!([]);
    node.collect(&config, 0);
    node.remove_bridge("cni0");
    node.assert_clean();
}

#[test]
fn pods_that_come_at_once_make_one_bridge() {
    let node = Node::bridged(DUAL);
    let pods: Vec<Namespace> = (0..8).map(|number| pod(&format!("p{number}"))).collect();
    let results: Vec<Value> = std::thread::scope(|scope| {
        let adding: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(number, pod)| {
                let node = &node;
                scope.spawn(move || node.add(&format!("c{number}"), pod).ok())
            })
            .collect();
        let done = adding.into_iter().map(|one| one.join().unwrap());
        done.collect()
    });
    for (number, (pod, result)) in pods.iter().zip(&results).enumerate() {
        node.check(&format!("c{number}"), pod, result).ok();
    }
    reaches(
        &pods[0],
        &pods[7],
        address(&results[7], 0),
        address(&results[0], 0),
    );
    for number in 0..pods.len() {
        node.del(&format!("c{number}")).ok();
    }
    node.remove_bridge("cni0");
    node.assert_clean();
}

/// Whether a connection between two pods comes about: as long is waited as what is expected takes.
fn meet(from: &Namespace, to: &Namespace, at: IpAddr, expected: bool) -> bool {
    let server = probe::TcpEcho::start(to, &SocketAddr::new(at, 0).to_string()).unwrap();
    let patience = if expected { PATIENCE } else { GLANCE };
    probe::tcp(from, server.address(), patience)
        .unwrap()
        .is_answered()
}

#[test]
fn isolation_keeps_other_pods_of_the_node_out_and_nobody_else() {
    let node = Node::new(DUAL);
    let routed = pod("routed");
    let routed_at = address(&node.add("routed", &routed).ok(), 0);
    let network = |bridge: &str, subnet: &str, policy: &str| {
        let mut config = node.config();
        config["name"] = json!(bridge);
        config["link"] = json!("bridge");
        config["bridge"] = json!(bridge);
        config["ingressPolicy"] = json!(policy);
        config["ipam"]["ranges"] = json!([subnet]);
        config
    };
    let (open, shut) = ("open", "same-bridge");
    let red = pod("red");
    let blue = pod("blue");
    let blue_too = pod("blue-too");
    let add = |config: &Value, name: &str, pod: &Namespace| {
        address(&node.call("ADD", name, &path(pod), config).ok(), 0)
    };
    for policies in [[open, open], [shut, open], [open, shut], [shut, shut]] {
        let red_network = network("red", "10.245.1.0/24", policies[0]);
        let blue_network = network("blue", "10.245.2.0/24", policies[1]);
        let red_at = add(&red_network, "r", &red);
        let blue_at = add(&blue_network, "b", &blue);
        let blue_too_at = add(&blue_network, "b2", &blue_too);
        let between = policies == [open, open];
        let is_open = policies[0] == open;
        for (from, to, at, expected) in [
            (&red, &blue, blue_at, between),
            (&blue, &red, red_at, between),
            (&routed, &red, red_at, is_open),
            (&red, &routed, routed_at, is_open),
        ] {
            assert_eq!(meet(from, to, at, expected), expected, "{policies:?}");
        }
        // Neighbours on the bridge, the node, and the world go on.
        reaches(&blue, &blue_too, blue_too_at, blue_at);
        node.outside
            .output(
                "ip",
                ["route", "replace", "10.245.0.0/16", "via", "172.30.0.11"],
            )
            .unwrap();
        reaches(&red, &node.outside, "172.30.0.2".parse().unwrap(), red_at);
        reaches(&node.outside, &red, red_at, "172.30.0.2".parse().unwrap());
        for (name, config) in [
            ("r", &red_network),
            ("b", &blue_network),
            ("b2", &blue_network),
        ] {
            node.call("DEL", name, "", config).ok();
        }
    }
    let listed = node
        .namespace
        .output("nft", ["list", "table", "inet", "weft-bridges"])
        .unwrap();
    for rule in [
        "iifname . oifname @within accept",
        "iifname @isolated oifname @bridges drop",
        "iifname @isolated oifname \"weft*\" drop",
        "oifname @isolated iifname @bridges drop",
        "oifname @isolated iifname \"weft*\" drop",
        "elements = { \"red\" . \"red\"",
    ] {
        assert!(listed.contains(rule), "{rule} | {listed}");
    }
    node.del("routed").ok();
    node.remove_bridge("red");
    node.remove_bridge("blue");
    node.assert_clean();
}

#[test]
fn a_port_of_the_node_leads_to_a_pod_from_its_own_bridge_too() {
    // With netfilter on the bridge and without: this is what a connection to a Service is.
    for filtered in ["0", "1"] {
        let node = Node::bridged(&["10.244.1.0/24"]);
        let setting = "net/bridge/bridge-nf-call-iptables";
        if node.namespace.set_sysctl(setting, filtered).is_err() {
            // Without br_netfilter there is only one way.
            assert_eq!(filtered, "0");
            continue;
        }
        let server = pod("server");
        let mut config = node.config();
        config["runtimeConfig"] = json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        ]});
        let result = node.call("ADD", "c1", &path(&server), &config).ok();
        let client = pod("client");
        let client_at = address(&node.add("c2", &client).ok(), 0);
        let echo = probe::TcpEcho::start(&server, "0.0.0.0:80").unwrap();
        let port = "172.30.0.11:8080".parse().unwrap();
        for (from, source) in [
            (
                &client,
                if filtered == "1" {
                    client_at
                } else {
                    "10.244.1.1".parse().unwrap()
                },
            ),
            (&server, "10.244.1.1".parse().unwrap()),
            (&node.outside, "172.30.0.2".parse().unwrap()),
        ] {
            let outcome = probe::tcp(from, port, PATIENCE).unwrap();
            let answer = outcome
                .answer()
                .unwrap_or_else(|| panic!("{} {filtered}: {outcome:?}", from.name()));
            assert_eq!(answer.from.ip(), source, "{} {filtered}", from.name());
        }
        let outcome = probe::tcp(&node.namespace, "127.0.0.1:8080".parse().unwrap(), PATIENCE);
        assert!(outcome.unwrap().is_answered());
        let mut check = config.clone();
        check["prevResult"] = result;
        node.call("CHECK", "c1", &path(&server), &check).ok();
        drop(echo);
        node.call("DEL", "c1", "", &config).ok();
        node.del("c2").ok();
        node.remove_bridge("cni0");
        node.assert_clean();
    }
}

#[test]
fn addresses_are_given_as_asked_on_a_bridge() {
    let node = Node::bridged(DUAL);
    let pod = pod("pod");
    let mut config = node.config();
    config["runtimeConfig"] = json!({
        "ips": ["10.244.1.70/24", "fd00:10:244:1::70"],
        "mac": "02:00:5e:10:00:07",
    });
    let result = node.call("ADD", "c1", &path(&pod), &config).ok();
    assert_eq!(result["ips"][0]["address"], "10.244.1.70/24");
    assert_eq!(result["ips"][1]["address"], "fd00:10:244:1::70/64");
    assert_eq!(result["interfaces"][2]["mac"], "02:00:5e:10:00:07");
    let inside = ip(&pod, &["link", "show", "eth0"]);
    assert_eq!(inside[0]["address"], "02:00:5e:10:00:07");
    // The router's is nobody's.
    config["runtimeConfig"]["ips"] = json!(["10.244.1.1"]);
    let (code, message) = node.call("ADD", "c2", &path(&pod), &config).error();
    assert_eq!(code, 7);
    assert!(
        message.starts_with("runtimeConfig.ips[0]: 10.244.1.1 is excluded"),
        "{message}"
    );
    node.del("c1").ok();
    node.remove_bridge("cni0");
    node.assert_clean();
}

#[test]
fn a_pod_has_a_routed_and_a_bridged_interface() {
    let node = Node::new(&["10.244.1.0/24"]);
    let both = pod("both");
    let first = node.add("c1", &both).ok();
    let mut config = node.config();
    config["name"] = json!("second");
    config["link"] = json!("bridge");
    config["ipam"]["ranges"] = json!(["10.245.1.0/24"]);
    config["ipam"]["routes"] = json!([]);
    let second = |config: &Value, verb: &str| {
        let mut process = node.command(verb, "c1", &path(&both));
        process.env("CNI_IFNAME", "net1");
        run(process, config)
    };
    let result = second(&config, "ADD").ok();
    assert_eq!(result["routes"], json!([]));
    let mut check = config.clone();
    check["prevResult"] = result.clone();
    second(&check, "CHECK").ok();
    node.check("c1", &both, &first).ok();
    let defaults = ip(&both, &["route", "show", "default"]);
    assert_eq!(defaults.as_array().unwrap().len(), 1);
    assert_eq!(defaults[0]["dev"], "eth0");
    let far: IpAddr = "172.30.0.2".parse().unwrap();
    reaches(&both, &node.outside, far, address(&first, 0));
    let router: IpAddr = "10.245.1.1".parse().unwrap();
    reaches(&both, &node.namespace, router, address(&result, 0));
    // Each goes by itself.
    second(&config, "DEL").ok();
    node.check("c1", &both, &first).ok();
    node.del("c1").ok();
    node.remove_bridge("cni0");
    node.assert_clean();
}
