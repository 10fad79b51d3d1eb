//! weft in a list with Debian's plugins, in front of them and behind.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use weft_netlab::{Namespace, probe};

use crate::node::{Answer, Node, PATIENCE, address, path, plugin, pod, prepare, reaches, run};

/// Where Debian puts the reference plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// What Debian's plugins speak.
const VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];

/// A plugin of a list: its binary, the `type` it is called by, its configuration.
type Plugin = (String, &'static str, Value);

fn debians(kind: &'static str, config: Value) -> Plugin {
    (format!("{PLUGINS}/{kind}"), kind, config)
}

fn weft() -> String {
    plugin().display().to_string()
}

fn wefts(config: Value) -> Plugin {
    (weft(), "weft", config)
}

/// A configuration list, called as libcni calls it.
struct List<'a> {
    node: &'a Node,
    version: &'static str,
    plugins: Vec<Plugin>,
}

impl List<'_> {
    fn call(&self, verb: &str, number: usize, pod: &Namespace, previous: &Value) -> Answer {
        let (binary, kind, config) = &self.plugins[number];
        assert!(
            Path::new(binary).exists(),
            "no {binary}: scripts/prerequisites test"
        );
        let mut process = self.node.namespace.command(binary).unwrap();
        prepare(&mut process, verb, "c1", &path(pod));
        process
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_PATH", PLUGINS);
        if *kind == "loopback" {
            process.env("CNI_IFNAME", "lo");
        }
        let mut config = config.clone();
        config["cniVersion"] = json!(self.version);
        config["name"] = json!("weft");
        config["type"] = json!(kind);
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        run(process, &config)
    }

    fn succeeds(&self, verb: &str, number: usize, pod: &Namespace, previous: &Value) -> Value {
        let answer = self.call(verb, number, pod, previous);
        let kind = self.plugins[number].1;
        assert_eq!(
            answer.code,
            Some(0),
            "{kind} {verb} {}: {answer:?}",
            self.version
        );
        answer.value
    }

    fn add(&self, pod: &Namespace) -> Value {
        (0..self.plugins.len()).fold(Value::Null, |previous, number| {
            self.succeeds("ADD", number, pod, &previous)
        })
    }

    fn check(&self, pod: &Namespace, result: &Value) {
        if self.version < "0.4.0" {
            return;
        }
        for number in 0..self.plugins.len() {
            // Debian's portmap 1.1.1 looks for rules of both families, whatever the pod has.
            if self.plugins[number].1 != "portmap" {
                self.succeeds("CHECK", number, pod, result);
            }
        }
    }

    fn del(&self, pod: &Namespace, result: &Value) {
        for number in (0..self.plugins.len()).rev() {
            self.del_one(number, pod, result);
        }
    }

    fn del_one(&self, number: usize, pod: &Namespace, result: &Value) {
        // DEL was told what ADD answered from 0.4.0 on.
        let previous = if self.version < "0.4.0" {
            &Value::Null
        } else {
            result
        };
        self.succeeds("DEL", number, pod, previous);
    }
}

/// What the plugins of a list get beside `cniVersion`, which is the list's.
fn of(node: &Node) -> Value {
    let mut config = node.config();
    config.as_object_mut().unwrap().remove("cniVersion");
    config
}

fn nodes() -> [Node; 2] {
    [
        Node::new(&["10.244.1.0/24"]),
        Node::bridged(&["10.244.1.0/24"]),
    ]
}

fn forget_bridges(node: &Node) {
    if node
        .namespace
        .output("ip", ["link", "show", "cni0"])
        .is_ok()
    {
        node.remove_bridge("cni0");
    }
}

/// The node's port 8080 leads to the pod.
fn port_leads(node: &Node, pod: &Namespace) {
    let echo = probe::TcpEcho::start(pod, "0.0.0.0:80").unwrap();
    let port: SocketAddr = "172.30.0.11:8080".parse().unwrap();
    let outcome = probe::tcp(&node.outside, port, PATIENCE).unwrap();
    let name = outcome.answer().map(|answer| answer.name.clone());
    assert_eq!(name.as_deref(), Some(pod.name()), "{outcome:?}");
    drop(echo);
}

#[test]
fn debians_plugins_work_behind_weft() {
    for node in nodes() {
        for version in VERSIONS {
            let pod = pod("pod");
            let mut list = List {
                node: &node,
                version,
                plugins: vec![
                    wefts(of(&node)),
                    debians(
                        "portmap",
                        json!({"runtimeConfig": {"portMappings": [
                            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                        ]}}),
                    ),
                    debians(
                        "bandwidth",
                        json!({"ingressRate": 100_000_000, "ingressBurst": 1_000_000,
                               "egressRate": 100_000_000, "egressBurst": 1_000_000}),
                    ),
                    debians(
                        "tuning",
                        json!({"sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}),
                    ),
                ],
            };
            // Debian's firewall speaks nothing older.
            if version >= "0.4.0" {
                let firewall = debians("firewall", json!({"backend": "iptables"}));
                list.plugins.push(firewall);
            }
            let result = list.add(&pod);
            assert_eq!(result["cniVersion"], version);
            let own = &result["ips"][0];
            assert_eq!(own.get("version").is_some(), version < "1.0.0", "{own}");
            assert_eq!(
                pod.sysctl("net/ipv4/conf/eth0/arp_filter").unwrap().trim(),
                "1"
            );
            let interfaces = result["interfaces"].as_array().unwrap();
            let host = interfaces
                .iter()
                .filter_map(|there| there["name"].as_str())
                .find(|name| name.starts_with("weft"))
                .unwrap();
            let queues = node
                .namespace
                .output("tc", ["qdisc", "show", "dev", host])
                .unwrap();
            assert!(queues.contains("tbf"), "{queues}");
            let far: std::net::IpAddr = "172.30.0.2".parse().unwrap();
            reaches(&pod, &node.outside, far, address(&result, 0));
            port_leads(&node, &pod);
            list.check(&pod, &result);
            list.del(&pod, &result);
        }
        forget_bridges(&node);
        node.assert_clean();
    }
}

#[test]
fn weft_works_behind_another_plugin() {
    for node in nodes() {
        for (version, loopback) in [
            ("0.3.1", debians("loopback", json!({}))),
            ("1.0.0", debians("loopback", json!({}))),
            ("1.1.0", (weft(), "loopback", json!({}))),
        ] {
            let pod = pod("pod");
            let list = List {
                node: &node,
                version,
                plugins: vec![loopback, wefts(of(&node))],
            };
            let result = list.add(&pod);
            assert_eq!(result["interfaces"][0]["name"], "lo");
            let own = result["ips"].as_array().unwrap().last().unwrap();
            assert!(own["address"].as_str().unwrap().starts_with("10.244.1."));
            let index = usize::try_from(own["interface"].as_u64().unwrap()).unwrap();
            assert_eq!(result["interfaces"][index]["name"], "eth0");
            list.check(&pod, &result);
            list.del(&pod, &result);
        }
        forget_bridges(&node);
        node.assert_clean();
    }
}

#[test]
fn behind_the_plugin_that_made_the_interface_weft_passes_through() {
    for version in ["0.4.0", "1.0.0"] {
        let node = Node::new(&["10.244.1.0/24"]);
        let pod = pod("pod");
        let passing = json!({
            "link": "none",
            "nodeAddresses": ["172.30.0.11"],
            "stateDir": node.root.path().join("state"),
            "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"},
            "runtimeConfig": {"portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            ]},
        });
        let list = List {
            node: &node,
            version,
            plugins: vec![
                debians(
                    "bridge",
                    json!({
                        "bridge": "cni0", "isGateway": true, "hairpinMode": true,
                        "ipam": {
                            "type": "host-local",
                            "dataDir": node.root.path().join("networks"),
                            "ranges": [[{"subnet": "10.244.1.0/24"}]],
                            "routes": [{"dst": "0.0.0.0/0"}],
                        },
                    }),
                ),
                wefts(passing),
            ],
        };
        let before = list.succeeds("ADD", 0, &pod, &Value::Null);
        let result = list.succeeds("ADD", 1, &pod, &before);
        assert_eq!(result["interfaces"], before["interfaces"]);
        assert_eq!(result["ips"], before["ips"]);
        assert_eq!(result["routes"], before["routes"]);
        assert_eq!(list.succeeds("ADD", 1, &pod, &before), result);
        assert!(!node.record("c1").exists());
        assert_eq!(node.reserved(), [address(&before, 0)]);
        assert_eq!(
            pod.sysctl("net/ipv4/conf/eth0/arp_filter").unwrap().trim(),
            "1"
        );
        port_leads(&node, &pod);
        list.succeeds("CHECK", 1, &pod, &result);
        pod.set_sysctl("net/ipv4/conf/eth0/arp_filter", "0")
            .unwrap();
        let (code, message) = list.call("CHECK", 1, &pod, &result).error();
        assert_eq!(code, 101);
        assert!(message.contains("arp_filter"), "{message}");
        // host-local's reservation is host-local's.
        let mut config = list.plugins[1].2.clone();
        config["cniVersion"] = json!("1.1.0");
        config["name"] = json!("weft");
        config["cni.dev/valid-attachments"] = json!([]);
        node.call("GC", "", "", &config).ok();
        node.call("STATUS", "", "", &config).ok();
        list.del_one(1, &pod, &result);
        let ports = node.namespace.output("nft", ["list", "ruleset"]).unwrap();
        assert!(!ports.contains("8080"), "{ports}");
        assert_eq!(node.reserved().len(), 1);
        list.del_one(0, &pod, &result);
        node.remove_bridge("cni0");
        assert_eq!(node.reserved().len(), 0);
    }
}

#[test]
fn a_second_interface_of_one_name_is_refused_by_its_field() {
    for node in nodes() {
        let pod = pod("pod");
        let stands = json!({
            "interfaces": [{"name": "cni9"}, {"name": "eth0", "sandbox": path(&pod)}],
            "ips": [{"address": "10.9.0.5/24", "interface": 1}],
        });
        let mut list = List {
            node: &node,
            version: "1.0.0",
            plugins: vec![wefts(of(&node))],
        };
        let (code, message) = list.call("ADD", 0, &pod, &stands).error();
        assert_eq!(code, 7);
        assert!(
            message.starts_with("prevResult.interfaces[1]: eth0 is there already"),
            "{message}"
        );
        assert_eq!(node.reserved().len(), 0);
        list.plugins = vec![wefts(json!({"link": "none"}))];
        let (code, message) = list.call("ADD", 0, &pod, &Value::Null).error();
        assert_eq!(code, 7);
        assert!(message.starts_with("link: it is none"), "{message}");
        // Ports need a DEL that is told whose they were.
        list.version = "0.3.1";
        list.plugins[0].2["runtimeConfig"] =
            json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]});
        let mut older = stands.clone();
        older["ips"][0]["version"] = json!("4");
        let (code, message) = list.call("ADD", 0, &pod, &older).error();
        assert_eq!(code, 7);
        assert!(
            message.starts_with("runtimeConfig.portMappings:"),
            "{message}"
        );
        node.assert_clean();
    }
}

#[test]
fn weft_is_the_plugin_loopback() {
    let node = Node::new(&["10.244.1.0/24"]);
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = pod("pod");
        let list = List {
            node: &node,
            version,
            plugins: vec![(weft(), "loopback", json!({}))],
        };
        let result = list.add(&pod);
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][0]["name"], "lo");
        assert_eq!(result["interfaces"][0]["sandbox"], path(&pod));
        assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
        pod.output("ping", ["-c1", "-W5", "127.0.0.1"]).unwrap();
        // Passed through in a chain.
        assert_eq!(list.succeeds("ADD", 0, &pod, &result)["ips"], result["ips"]);
        if version >= "0.4.0" {
            list.succeeds("CHECK", 0, &pod, &result);
            pod.output("ip", ["link", "set", "lo", "down"]).unwrap();
            let (code, message) = list.call("CHECK", 0, &pod, &result).error();
            assert_eq!(
                (code, message.contains("is down")),
                (101, true),
                "{message}"
            );
        }
        list.del(&pod, &result);
        let mut config = list.plugins[0].2.clone();
        config["cniVersion"] = json!(version);
        config["name"] = json!("lo");
        config["type"] = json!("loopback");
        node.call("DEL", "c1", "/run/netns/gone", &config).ok();
        let (code, _) = node.call("ADD", "c1", "/run/netns/gone", &config).error();
        assert_eq!(code, 3);
    }
    node.assert_clean();
}
