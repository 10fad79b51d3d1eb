//! Limits of what a pod sends and receives.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_netlab::Namespace;

use crate::node::{DUAL, Node, address, end, ip, path, pod};

/// 10 Mbit/s, and what passes at once.
const RATE: u64 = 10_000_000;
const BURST: u64 = 800_000;
/// Bytes of one transfer.
const LENGTH: usize = 1_250_000;

fn limited(node: &Node) -> Value {
    let mut config = node.config();
    config["runtimeConfig"] = json!({"bandwidth": {
        "ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE, "egressBurst": BURST,
    }});
    config
}

/// How long a transfer takes.
fn transfer(from: &Namespace, to: &Namespace, at: IpAddr) -> Duration {
    let listener = to.run(|| TcpListener::bind((at, 0))).unwrap().unwrap();
    let server = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), LENGTH);
        });
        let started = Instant::now();
        let mut stream = from.run(|| TcpStream::connect(server)).unwrap().unwrap();
        stream.write_all(&vec![7; LENGTH]).unwrap();
        drop(stream);
        started
    })
    .elapsed()
}

#[test]
fn limits_hold_in_both_directions_and_both_families() {
    limits_hold(&Node::new(DUAL), 0);
}

#[test]
fn limits_hold_on_a_bridge() {
    let node = Node::bridged(DUAL);
    limits_hold(&node, 1);
}

/// `link`: which of a result's interfaces is the node's end of the pod's link.
fn limits_hold(node: &Node, link: usize) {
    let (slow, fast) = (pod("slow"), pod("fast"));
    let slow_result = node.call("ADD", "slow", &path(&slow), &limited(node)).ok();
    let fast_result = node.add("fast", &fast).ok();
    // What a second would carry, without the burst and what waits at the end.
    let least = Duration::from_secs_f64((LENGTH as f64 * 8.0 - BURST as f64) / RATE as f64 * 0.9);
    for family in 0..2 {
        let own: IpAddr = ["172.30.0.11", "fd00:172:30::11"][family].parse().unwrap();
        let received = transfer(&node.namespace, &slow, address(&slow_result, family));
        let sent = transfer(&slow, &node.namespace, own);
        let unlimited = transfer(&node.namespace, &fast, address(&fast_result, family));
        assert!(received > least, "{received:?} for what takes {least:?}");
        assert!(sent > least, "{sent:?} for what takes {least:?}");
        assert!(
            unlimited < received,
            "{unlimited:?}, {received:?} with a limit"
        );
    }
    let link = slow_result["interfaces"][link]["name"].as_str().unwrap();
    let device = link.replacen("weft", "wefti", 1);
    let shown = ip(&node.namespace, &["link", "show", &device]);
    assert_eq!(shown[0]["linkinfo"]["info_kind"], "ifb");
    assert_eq!(shown[0]["ifalias"], "weft:default/pod-slow");
    node.del("slow").ok();
    node.del("fast").ok();
    if slow_result["interfaces"][0]["name"] == "cni0" {
        node.remove_bridge("cni0");
    }
    node.assert_clean();
}

#[test]
fn check_misses_what_somebody_took_away_and_add_puts_it_back() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    let config = limited(&node);
    let result = node.call("ADD", "c1", &path(&pod), &config).ok();
    let link = result["interfaces"][0]["name"].as_str().unwrap();
    let device = link.replacen("weft", "wefti", 1);
    let mut check = config.clone();
    check["prevResult"] = result.clone();
    node.call("CHECK", "c1", &path(&pod), &check).ok();
    let damages: [(&[&str], String); 5] = [
        (
            &["tc", "qdisc", "del", "dev", link, "root"],
            "what the pod receives is not limited".to_owned(),
        ),
        (
            &[
                "tc", "qdisc", "replace", "dev", link, "root", "tbf", "rate", "1gbit", "burst",
                "100000", "limit", "200000",
            ],
            "what the pod receives is limited to 125000000 bytes/s".to_owned(),
        ),
        (
            &["tc", "qdisc", "del", "dev", link, "ingress"],
            format!("what the pod sends does not go through {device}"),
        ),
        (
            &["tc", "qdisc", "del", "dev", &device, "root"],
            "what the pod sends is not limited".to_owned(),
        ),
        (
            &["ip", "link", "del", &device],
            format!("device {device} is missing"),
        ),
    ];
    for (damage, words) in damages {
        node.namespace.output(damage[0], &damage[1..]).unwrap();
        let (code, message) = node.call("CHECK", "c1", &path(&pod), &check).error();
        assert_eq!(code, 101);
        assert!(message.contains(&words), "{damage:?}: {message}");
        assert_eq!(node.call("ADD", "c1", &path(&pod), &config).ok(), result);
        node.call("CHECK", "c1", &path(&pod), &check).ok();
    }
    // Asked for again without limits, there are none.
    node.add("c1", &pod).ok();
    let queues = node.namespace.output("tc", ["qdisc", "show"]).unwrap();
    assert!(
        !queues.contains("tbf") && !queues.contains("ingress"),
        "{queues}"
    );
    node.del("c1").ok();
    node.assert_clean();
}

#[test]
fn the_device_goes_when_the_container_went_without_del() {
    // GC looks into every namespace of the machine: addresses that no other test has.
    let node = Node::new(&["10.198.1.0/24", "fd00:10:198:1::/64"]);
    let config = limited(&node);
    let devices = || {
        let links = ip(&node.namespace, &["link", "show", "type", "ifb"]);
        links.as_array().unwrap().len()
    };
    let mut gc = node.config();
    gc["cni.dev/valid-attachments"] = json!([]);
    let dead = pod("dead");
    node.call("ADD", "c1", &path(&dead), &config).ok();
    let _gone = end(dead);
    node.wait_for_links(0);
    assert_eq!(devices(), 1);
    node.call("GC", "", "", &gc).ok();
    node.assert_clean();
    // Even where the record is lost.
    let dead = pod("dead");
    node.call("ADD", "c1", &path(&dead), &config).ok();
    let living = pod("living");
    let result = node.call("ADD", "c2", &path(&living), &config).ok();
    let _gone = end(dead);
    node.wait_for_links(1);
    std::fs::remove_file(node.record("c1")).unwrap();
    node.call("GC", "", "", &gc).ok();
    assert_eq!(devices(), 1);
    let mut check = config.clone();
    check["prevResult"] = result;
    node.call("CHECK", "c2", &path(&living), &check).ok();
    node.del("c2").ok();
    node.assert_clean();
}

/// The n-th send that has these words, as strace counts.
fn nth_send(trace: &str, words: &str, occurrence: usize) -> usize {
    let sends = trace.lines().filter(|line| line.starts_with("sendto("));
    let mut found = sends
        .enumerate()
        .filter(|(_, line)| line.contains(words))
        .map(|(index, _)| index + 1);
    found
        .nth(occurrence)
        .unwrap_or_else(|| panic!("{words}: {trace}"))
}

#[test]
fn a_kernel_that_lacks_a_part_is_named_and_the_pod_does_not_start() {
    let node = Node::new(DUAL);
    let pod = pod("dying");
    let netns = path(&pod);
    let file = node.root.path().join("trace");
    // The second run goes as all after it.
    for _ in 0..2 {
        node.traced("ADD", "dying", &netns, &["-o", file.to_str().unwrap()])
            .ok();
        node.del("dying").ok();
    }
    let trace = std::fs::read_to_string(file).unwrap();
    for (request, occurrence, errno, part) in [
        ("RTM_NEWQDISC", 0, "ENOENT", "sch_tbf"),
        ("RTM_NEWLINK", 1, "EOPNOTSUPP", "ifb"),
        ("RTM_NEWQDISC", 2, "ENOENT", "sch_ingress"),
        ("RTM_NEWTFILTER", 0, "ENOENT", "act_mirred"),
    ] {
        let nth = nth_send(&trace, request, occurrence);
        let inject = format!("inject=sendto:error={errno}:when={nth}");
        // In the process's first thread alone: another helps to undo it, and strace counts for each.
        let answer = node.traced("ADD", "dying", &netns, &["-o", "/dev/null", "-e", &inject]);
        let (code, message) = answer.error();
        assert_eq!(code, 2, "{request}: {message}");
        assert!(
            message.contains(part) && message.contains("runtimeConfig.bandwidth: ingressRate 10"),
            "{request}: {message}"
        );
        node.assert_clean();
    }
}
