//! What a runtime may ask for one pod: address, Ethernet address, settings, a part of the
//! routes.

use serde_json::json;

use crate::node::{DUAL, Node, ip, path, pod};

#[test]
fn an_address_and_an_ethernet_address_are_given_as_asked() {
    let node = Node::new(DUAL);
    let first = pod("first");
    let mut config = node.config();
    config["ipam"]["reserve"] = json!(["10.244.1.64/28"]);
    config["ipam"]["exclude"] = json!(["10.244.1.1"]);
    config["runtimeConfig"] = json!({
        "ips": ["10.244.1.70/24", "fd00:10:244:1::70"],
        "mac": "02:00:5e:10:00:07",
    });
    let result = node.call("ADD", "c1", &path(&first), &config).ok();
    assert_eq!(result["ips"][0]["address"], "10.244.1.70/32");
    assert_eq!(result["ips"][1]["address"], "fd00:10:244:1::70/128");
    assert_eq!(result["interfaces"][1]["mac"], "02:00:5e:10:00:07");
    let inside = ip(&first, &["link", "show", "eth0"]);
    assert_eq!(inside[0]["address"], "02:00:5e:10:00:07");
    // The same pod again keeps what it has.
    assert_eq!(node.call("ADD", "c1", &path(&first), &config).ok(), result);
    let mut check = config.clone();
    check["prevResult"] = result.clone();
    node.call("CHECK", "c1", &path(&first), &check).ok();

    let second = pod("second");
    let (code, message) = node.call("ADD", "c2", &path(&second), &config).error();
    assert_eq!(code, 11);
    assert!(
        message.contains("10.244.1.70") && message.contains("c1/eth0"),
        "{message}"
    );
    assert_eq!(node.reserved().len(), 2);
    for (ips, words) in [
        (
            json!(["10.244.1.1"]),
            "runtimeConfig.ips[0]: 10.244.1.1 is excluded",
        ),
        (
            json!(["10.9.0.1"]),
            "runtimeConfig.ips[0]: 10.9.0.1 is in none",
        ),
        (
            json!(["10.244.1.9", "10.244.1.8"]),
            "runtimeConfig.ips[1]: 10.244.1.8 is a second",
        ),
        (
            json!(["x"]),
            "runtimeConfig.ips[0]: \"x\" is not an IP address",
        ),
    ] {
        let mut config = config.clone();
        config["runtimeConfig"]["ips"] = ips;
        let (code, message) = node.call("ADD", "c2", &path(&second), &config).error();
        assert_eq!(code, 7);
        assert!(message.starts_with(words), "{message}");
    }
    // Who does not ask gets nothing of what is reserved for those who do.
    config["ipam"]["ranges"] = json!([[
        {"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.69", "rangeEnd": "10.244.1.81"},
    ]]);
    config.as_object_mut().unwrap().remove("runtimeConfig");
    let result = node.call("ADD", "c2", &path(&second), &config).ok();
    assert_eq!(result["ips"][0]["address"], "10.244.1.80/32");
    node.del("c1").ok();
    node.del("c2").ok();
    node.assert_clean();
}

#[test]
fn cni_args_ask_as_capabilities_do() {
    for node in [Node::new(DUAL), Node::bridged(DUAL)] {
        let pod = pod("pod");
        let add = |arguments: &str, config: &serde_json::Value| {
            let mut process = node.command("ADD", "c1", &path(&pod));
            process.env("CNI_ARGS", arguments);
            crate::node::run(process, config)
        };
        let address = |result: &serde_json::Value, index: usize| {
            crate::node::address(result, index).to_string()
        };
        let wanted = "IgnoreUnknown=1;IP=10.244.1.9/24,fd00:10:244:1::9;MAC=02:00:00:00:00:09";
        let mut config = node.config();
        let result = add(wanted, &config).ok();
        assert_eq!(
            [address(&result, 0), address(&result, 1)],
            ["10.244.1.9", "fd00:10:244:1::9"]
        );
        let inside = ip(&pod, &["link", "show", "eth0"]);
        assert_eq!(inside[0]["address"], "02:00:00:00:00:09");
        node.del("c1").ok();
        // What is said nearer to the pod counts.
        config["runtimeConfig"] = json!({"ips": ["10.244.1.10"]});
        let result = add(wanted, &config).ok();
        assert_eq!(address(&result, 0), "10.244.1.10");
        node.del("c1").ok();
        for (arguments, code, words) in [
            ("IP=x", 4, "CNI_ARGS: IP: \"x\" is not an IP address"),
            (
                "IP=10.244.1.8,10.244.1.9",
                4,
                "CNI_ARGS: IP: 10.244.1.9 is a second",
            ),
            (
                "MAC=01:00:00:00:00:00",
                4,
                "CNI_ARGS: MAC: \"01:00:00:00:00:00\" is the",
            ),
            (
                "IP=10.9.0.1",
                7,
                "CNI_ARGS: IP: 10.9.0.1 is in none of ipam.ranges",
            ),
        ] {
            let error = add(arguments, &node.config()).error();
            assert_eq!(error.0, code, "{error:?}");
            assert!(error.1.starts_with(words), "{error:?}");
        }
        add("IP=;MAC=", &node.config()).ok();
        node.del("c1").ok();
        if node.fields["link"] == "bridge" {
            node.remove_bridge("cni0");
        }
        node.assert_clean();
    }
}

#[test]
fn a_pod_has_several_interfaces() {
    let node = Node::new(&["10.244.1.0/24"]);
    let both = pod("both");
    let first = node.add("c1", &both).ok();
    let mut config = node.config();
    config["name"] = json!("second");
    config["ipam"]["ranges"] = json!(["10.245.1.0/24"]);
    let second = |config: &serde_json::Value, verb: &str| {
        let mut process = node.command(verb, "c1", &path(&both));
        process.env("CNI_IFNAME", "net1");
        crate::node::run(process, config)
    };
    let (code, message) = second(&config, "ADD").error();
    assert_eq!(code, 100);
    assert!(message.contains("c1/net1"), "{message}");
    config["ipam"]["routes"] = json!([{"dst": "192.0.2.0/24"}]);
    let result = second(&config, "ADD").ok();
    assert_eq!(
        result["routes"],
        json!([{"dst": "192.0.2.0/24", "gw": "169.254.1.1"}])
    );
    let mut check = config.clone();
    check["prevResult"] = result;
    second(&check, "CHECK").ok();
    node.check("c1", &both, &first).ok();
    both.output("ping", ["-c1", "-W5", "-I", "10.244.1.1", "172.30.0.11"])
        .unwrap();
    both.output("ip", ["route", "del", "192.0.2.0/24"]).unwrap();
    let (_, message) = second(&check, "CHECK").error();
    assert!(message.contains("192.0.2.0/24"), "{message}");
    second(&config, "DEL").ok();
    node.check("c1", &both, &first).ok();
    node.del("c1").ok();
    let links = ip(&both, &["link"]);
    assert_eq!(links.as_array().unwrap().len(), 1);
}

#[test]
fn settings_are_the_pods_own() {
    let node = Node::new(&["10.244.1.0/24"]);
    let pod = pod("pod");
    let mut config = node.config();
    config["sysctl"] = json!({
        "net.ipv4.ip_local_port_range": "20000 30000",
        "net.ipv4.conf.IFNAME.arp_filter": "1",
    });
    let result = node.call("ADD", "c1", &path(&pod), &config).ok();
    assert_eq!(
        pod.sysctl("net/ipv4/conf/eth0/arp_filter").unwrap().trim(),
        "1"
    );
    let mut check = config.clone();
    check["prevResult"] = result;
    node.call("CHECK", "c1", &path(&pod), &check).ok();
    pod.set_sysctl("net/ipv4/ip_local_port_range", "1024 2048")
        .unwrap();
    let (code, message) = node.call("CHECK", "c1", &path(&pod), &check).error();
    assert_eq!(code, 101);
    assert!(
        message.contains("net/ipv4/ip_local_port_range"),
        "{message}"
    );
    // Again, and it fails: what stood stays.
    let mut wrong = config.clone();
    wrong["sysctl"] = json!({"net.ipv4.no_such": "1"});
    node.call("ADD", "c1", &path(&pod), &wrong).error();
    pod.set_sysctl("net/ipv4/ip_local_port_range", "20000 30000")
        .unwrap();
    node.call("CHECK", "c1", &path(&pod), &check).ok();
    node.del("c1").ok();
    for (key, words) in [
        (
            "kernel.hostname",
            "sysctl.kernel.hostname: is not a setting",
        ),
        (
            "net/../kernel/hostname",
            "sysctl.net/../kernel/hostname: is not",
        ),
        ("net.ipv4.no_such", "sysctl: net/ipv4/no_such of c1/eth0"),
    ] {
        config["sysctl"] = json!({key: "1"});
        let (code, message) = node.call("ADD", "c1", &path(&pod), &config).error();
        assert_eq!(code, 7, "{message}");
        assert!(message.starts_with(words), "{message}");
        node.assert_clean();
    }
}
