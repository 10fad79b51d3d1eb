//! weft in a list with Debian's plugins, in front of them and behind.

use std::path::Path;

use serde_json::{Value, json};
use weft_netlab::Namespace;

use crate::node::{Node, address, path, pod, prepare, reaches, run};

/// Where Debian puts the reference plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A configuration list, called as libcni calls it.
struct List<'a> {
    node: &'a Node,
    plugins: Vec<(String, Value)>,
}

impl List<'_> {
    fn call(&self, verb: &str, number: usize, pod: &Namespace, previous: &Value) -> Value {
        let (kind, config) = &self.plugins[number];
        let binary = match kind.as_str() {
            "weft" => env!("CARGO_BIN_EXE_weft").to_owned(),
            other => format!("{PLUGINS}/{other}"),
        };
        assert!(
            Path::new(&binary).exists(),
            "no {binary}: scripts/prerequisites test"
        );
        let mut process = self.node.namespace.command(&binary).unwrap();
        prepare(&mut process, verb, "c1", &path(pod));
        process
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_PATH", PLUGINS);
        let mut config = config.clone();
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("weft");
        config["type"] = json!(kind);
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let answer = run(process, &config);
        assert_eq!(answer.code, Some(0), "{kind} {verb}: {answer:?}");
        answer.value
    }

    fn add(&self, pod: &Namespace) -> Value {
        (0..self.plugins.len()).fold(Value::Null, |previous, number| {
            self.call("ADD", number, pod, &previous)
        })
    }

    fn check(&self, pod: &Namespace, result: &Value) {
        for number in 0..self.plugins.len() {
            // Debian's portmap 1.1.1 looks for rules of both families, whatever the pod has.
            if self.plugins[number].0 != "portmap" {
                self.call("CHECK", number, pod, result);
            }
        }
    }

    fn del(&self, pod: &Namespace, result: &Value) {
        for number in (0..self.plugins.len()).rev() {
            self.call("DEL", number, pod, result);
        }
    }
}

#[test]
fn debians_plugins_work_behind_weft() {
    let node = Node::new(&["10.244.1.0/24"]);
    let pod = pod("pod");
    let mut weft = node.config();
    weft.as_object_mut().unwrap().remove("cniVersion");
    let list = List {
        node: &node,
        plugins: vec![
            ("weft".to_owned(), weft),
            (
                "portmap".to_owned(),
                json!({"runtimeConfig": {"portMappings": [
                    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                ]}}),
            ),
            (
                "bandwidth".to_owned(),
                json!({"ingressRate": 100_000_000, "ingressBurst": 1_000_000,
                       "egressRate": 100_000_000, "egressBurst": 1_000_000}),
            ),
            (
                "tuning".to_owned(),
                json!({"sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}),
            ),
            ("firewall".to_owned(), json!({"backend": "iptables"})),
        ],
    };
    let result = list.add(&pod);
    assert_eq!(result["ips"][0]["address"], "10.244.1.1/32");
    assert_eq!(
        pod.sysctl("net/ipv4/conf/eth0/arp_filter").unwrap().trim(),
        "1"
    );
    let queues = node.namespace.output("tc", ["qdisc"]).unwrap();
    assert!(queues.contains("tbf"), "{queues}");
    let far: std::net::IpAddr = "172.30.0.2".parse().unwrap();
    reaches(&pod, &node.outside, far, address(&result, 0));
    list.check(&pod, &result);
    list.del(&pod, &result);
    node.assert_clean();
}

#[test]
fn weft_works_behind_another_plugin() {
    let node = Node::new(&["10.244.1.0/24"]);
    let pod = pod("pod");
    let mut weft = node.config();
    weft.as_object_mut().unwrap().remove("cniVersion");
    let list = List {
        node: &node,
        plugins: vec![
            ("loopback".to_owned(), json!({})),
            ("weft".to_owned(), weft),
        ],
    };
    let result = list.add(&pod);
    assert_eq!(result["interfaces"][0]["name"], "lo");
    let own = result["ips"].as_array().unwrap().last().unwrap();
    assert_eq!(own["address"], "10.244.1.1/32");
    assert_eq!(own["interface"], 2);
    list.check(&pod, &result);
    list.del(&pod, &result);
    node.assert_clean();
}
