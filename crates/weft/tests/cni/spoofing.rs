//! What a pod may send: from its own addresses alone.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use serde_json::{Value, json};
use weft_netlab::Namespace;

use crate::node::{DUAL, Node, PATIENCE, address, path, pod, run};

const OWN: [&str; 2] = ["172.30.0.11", "fd00:172:30::11"];
const FALSE: [&str; 2] = ["10.244.1.99", "fd00:10:244:1::99"];

/// A node that takes packets from anywhere, if nothing but its rules forbids it.
fn trusting() -> Node {
    trust(Node::new(DUAL))
}

fn trust(node: Node) -> Node {
    for scope in ["all", "default"] {
        let key = format!("net/ipv4/conf/{scope}/rp_filter");
        node.namespace.set_sysctl(&key, "0").unwrap();
    }
    node
}

/// From which of these addresses of a pod the node hears it, in their order.
fn heard(node: &Node, pod: &Namespace, family: usize, from: &[IpAddr]) -> Vec<IpAddr> {
    heard_at(&node.namespace, OWN[family].parse().unwrap(), pod, from)
}

/// From which of these addresses of a pod somebody at an address hears it, in their order.
fn heard_at(place: &Namespace, at: IpAddr, pod: &Namespace, from: &[IpAddr]) -> Vec<IpAddr> {
    let server = place.run(|| UdpSocket::bind((at, 0))).unwrap().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = server.local_addr().unwrap();
    for address in from {
        let client = pod.run(|| UdpSocket::bind((*address, 0))).unwrap().unwrap();
        client.send_to(b"x", to).unwrap();
    }
    // Packets of one link keep their order: after the last one nothing is under way.
    let last = *from.last().unwrap();
    let mut heard = Vec::new();
    while heard.last() != Some(&last) {
        let (_, sender) = server.recv_from(&mut [0; 8]).unwrap();
        heard.push(sender.ip());
    }
    heard
}

fn give(pod: &Namespace, device: &str, address: &str) {
    let nodad: &[&str] = if address.contains(':') {
        &["nodad"]
    } else {
        &[]
    };
    let mut arguments = vec!["address", "add", address, "dev", device];
    arguments.extend(nodad);
    pod.output("ip", &arguments).unwrap();
}

/// How many packets were dropped.
fn dropped(node: &Node) -> u64 {
    let rules = node.namespace.output("nft", ["list", "ruleset"]).unwrap();
    let counts = rules
        .lines()
        .filter(|line| line.contains("drop") && line.contains("@links"));
    counts
        .map(|line| {
            let mut words = line.split_whitespace();
            words.find(|word| *word == "packets").unwrap();
            words.next().unwrap().parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn a_source_that_is_not_the_pods_is_dropped_and_counted() {
    let node = trusting();
    let liar = pod("liar");
    let result = node.add("c1", &liar).ok();
    for (family, lie) in FALSE.into_iter().enumerate() {
        give(&liar, "eth0", lie);
        let own = address(&result, family);
        let false_one: IpAddr = lie.parse().unwrap();
        let before = dropped(&node);
        assert_eq!(heard(&node, &liar, family, &[false_one, own]), [own]);
        assert_eq!(dropped(&node), before + 1);
    }
    node.check("c1", &liar, &result).ok();
    node.del("c1").ok();
    node.assert_clean();

    // Switched off, the same packets come through: it is these rules that drop them.
    let mut config = node.config();
    config["antiSpoofing"] = json!(false);
    let trusted = pod("trusted");
    let result = node.call("ADD", "c2", &path(&trusted), &config).ok();
    for (family, lie) in FALSE.into_iter().enumerate() {
        give(&trusted, "eth0", lie);
        let both = [lie.parse().unwrap(), address(&result, family)];
        assert_eq!(heard(&node, &trusted, family, &both), both);
    }
    node.check("c2", &trusted, &result).ok();
    // Asked for again with it on, the pod is under the rules from then on.
    node.add("c2", &trusted).ok();
    for (family, lie) in FALSE.into_iter().enumerate() {
        let both = [lie.parse().unwrap(), address(&result, family)];
        assert_eq!(heard(&node, &trusted, family, &both), both[1..]);
    }
    node.call("ADD", "c2", &path(&trusted), &config).ok();
    let both = [FALSE[0].parse().unwrap(), address(&result, 0)];
    assert_eq!(heard(&node, &trusted, 0, &both), both);
    node.del("c2").ok();
    node.assert_clean();
}

#[test]
fn a_pod_may_look_for_an_address_and_for_neighbours() {
    let node = trusting();
    let seeker = pod("seeker");
    node.add("c1", &seeker).ok();
    // The search for duplicates, from :: to a group of neighbours; and from a link-local
    // address to the node's own.
    give_with_search(&seeker, "fe80::77/64");
    let link_local = "fe80::77".parse().unwrap();
    let scope = seeker.run(|| index_of("eth0")).unwrap();
    let from = SocketAddr::V6(std::net::SocketAddrV6::new(link_local, 0, 0, scope));
    let own: IpAddr = OWN[1].parse().unwrap();
    let server = node
        .namespace
        .run(|| UdpSocket::bind((own, 0)))
        .unwrap()
        .unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = seeker.run(|| UdpSocket::bind(from)).unwrap().unwrap();
    client.send_to(b"x", server.local_addr().unwrap()).unwrap();
    let (_, heard) = server.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(heard.ip(), IpAddr::V6(link_local));
    assert_eq!(dropped(&node), 0);

    // DHCP: from 0.0.0.0 to everybody, port 67; from the same to another port is a lie.
    let server = node
        .namespace
        .run(|| UdpSocket::bind("0.0.0.0:67"))
        .unwrap()
        .unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    seeker
        .output("ip", ["-4", "address", "flush", "dev", "eth0"])
        .unwrap();
    seeker
        .output("ip", ["route", "add", "255.255.255.255", "dev", "eth0"])
        .unwrap();
    let client = seeker
        .run(|| UdpSocket::bind("0.0.0.0:68"))
        .unwrap()
        .unwrap();
    client.set_broadcast(true).unwrap();
    client.send_to(b"x", "255.255.255.255:68").unwrap();
    client.send_to(b"discover", "255.255.255.255:67").unwrap();
    let (length, heard) = server.recv_from(&mut [0; 16]).unwrap();
    assert_eq!((length, heard.ip().is_unspecified()), (8, true));
    assert_eq!(dropped(&node), 1);
}

/// Waits until the address has been searched for and is the pod's.
fn give_with_search(pod: &Namespace, address: &str) {
    pod.output("ip", ["address", "add", address, "dev", "eth0"])
        .unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let shown = pod
            .output("ip", ["-6", "address", "show", "dev", "eth0"])
            .unwrap();
        assert!(!shown.contains("dadfailed"), "{shown}");
        if shown.contains("fe80::77") && !shown.contains("tentative") {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{shown}");
        std::thread::yield_now();
    }
}

fn index_of(device: &str) -> u32 {
    let mut links = weft_sys::rtnl::Conversation::open().unwrap();
    links.link_by_name(device).unwrap().index
}

#[test]
fn a_pod_sends_from_each_of_its_addresses_by_each_of_its_links() {
    let node = trusting();
    let both = pod("both");
    let first = node.add("c1", &both).ok();
    let mut config = node.config();
    config["name"] = json!("second");
    config["ipam"]["ranges"] = json!(["10.245.1.0/24"]);
    config["ipam"]["routes"] = json!([{"dst": "192.0.2.0/24"}]);
    let second = |verb: &str, config: &Value| {
        let mut process = node.command(verb, "c1", &path(&both));
        process.env("CNI_IFNAME", "net1");
        run(process, config)
    };
    let result = second("ADD", &config).ok();
    let (one, other) = (address(&first, 0), address(&result, 0));
    // By the first link, and by the second.
    assert_eq!(heard(&node, &both, 0, &[other, one]), [other, one]);
    both.output(
        "ip",
        [
            "route",
            "add",
            OWN[0],
            "via",
            "169.254.1.1",
            "dev",
            "net1",
            "onlink",
        ],
    )
    .unwrap();
    assert_eq!(heard(&node, &both, 0, &[one, other]), [one, other]);
    give(&both, "net1", FALSE[0]);
    let lie = FALSE[0].parse().unwrap();
    assert_eq!(heard(&node, &both, 0, &[lie, other]), [other]);

    node.check("c1", &both, &first).ok();
    let mut check = config.clone();
    check["prevResult"] = result;
    second("CHECK", &check).ok();
    second("DEL", &config).ok();
    node.check("c1", &both, &first).ok();
    // Its second address is nobody's now.
    give(&both, "eth0", &other.to_string());
    assert_eq!(heard(&node, &both, 0, &[other, one]), [one]);
    node.del("c1").ok();
    node.assert_clean();
}

#[test]
fn each_interface_of_a_pod_is_guarded_or_not_by_its_own_configuration() {
    for guarded in [[true, false], [false, true]] {
        let node = trusting();
        let both = pod("both");
        let mut configs = [node.config(), node.config()];
        configs[1]["name"] = json!("second");
        configs[1]["ipam"]["ranges"] = json!(["10.245.1.0/24"]);
        configs[1]["ipam"]["routes"] = json!([]);
        let names = ["eth0", "net1"];
        let call = |verb: &str, index: usize, config: &Value| {
            let mut process = node.command(verb, "c1", &path(&both));
            process.env("CNI_IFNAME", names[index]);
            run(process, config)
        };
        let results = [0, 1].map(|index| {
            configs[index]["antiSpoofing"] = json!(guarded[index]);
            call("ADD", index, &configs[index]).ok()
        });
        let check = |index: usize| {
            let mut config = configs[index].clone();
            config["prevResult"] = results[index].clone();
            call("CHECK", index, &config).ok();
        };
        for index in [0, 1] {
            check(index);
        }
        // Called again, in the other order.
        for index in [1, 0] {
            call("ADD", index, &configs[index]).ok();
        }
        for index in [0, 1] {
            check(index);
        }
        let (own, other) = (address(&results[0], 0), address(&results[1], 0));
        let lie = FALSE[0].parse().unwrap();
        give(&both, "eth0", FALSE[0]);
        let expected = match guarded[0] {
            true => vec![other, own],
            false => vec![lie, other, own],
        };
        assert_eq!(heard(&node, &both, 0, &[lie, other, own]), expected);
        // A record from before there was such a setting: no rules stand for it either.
        let free = usize::from(guarded[0]);
        let record = node
            .record("c1")
            .with_file_name(format!("c1-{}.json", names[free]));
        let mut text: Value =
            serde_json::from_str(&std::fs::read_to_string(&record).unwrap()).unwrap();
        text.as_object_mut()
            .unwrap()
            .remove("antiSpoofing")
            .unwrap();
        std::fs::write(&record, text.to_string()).unwrap();
        for index in [0, 1] {
            check(index);
        }
        for index in [0, 1] {
            call("DEL", index, &configs[index]).ok();
        }
        node.assert_clean();
    }
}

#[test]
fn the_addresses_that_plugins_before_gave_are_the_pods() {
    let node = trusting();
    let pod = pod("pod");
    let mut config = node.config();
    config["prevResult"] = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net0", "sandbox": path(&pod)}],
        "ips": [{"address": "192.0.2.5/24", "interface": 0}],
    });
    let result = node.call("ADD", "c1", &path(&pod), &config).ok();
    give(&pod, "lo", "192.0.2.5/32");
    let both = ["192.0.2.5".parse().unwrap(), address(&result, 1)];
    assert_eq!(heard(&node, &pod, 0, &both), both);
    node.check("c1", &pod, &result).ok();
}

#[test]
fn rules_that_somebody_removed_are_missed_and_made_again() {
    let node = trusting();
    let pod = pod("pod");
    let result = node.add("c1", &pod).ok();
    let own = address(&result, 0);
    let link = result["interfaces"][0]["name"].as_str().unwrap();
    let element = format!("{{ {link} . {own} }}");
    let foreign = format!("{{ {link} . 10.9.9.9 }}");
    let damages: [(&[&str], &str); 4] = [
        (&["flush", "ruleset"], "has not weft's rules"),
        (
            &["flush", "chain", "ip6", "weft-pods", "sources-of-pods"],
            "has not weft's rules",
        ),
        (
            &["delete", "element", "ip", "weft-pods", "sources", &element],
            "is missing",
        ),
        (
            &["add", "element", "ip", "weft-pods", "sources", &foreign],
            "should not be there",
        ),
    ];
    for (damage, words) in damages {
        node.namespace.output("nft", damage).unwrap();
        let (code, message) = node.check("c1", &pod, &result).error();
        assert_eq!(code, 101);
        assert!(message.contains(words), "{damage:?}: {message}");
        node.add("c1", &pod).ok();
        node.check("c1", &pod, &result).ok();
    }
    // What nobody can remove any more goes with GC.
    let stray = "{ weft0123456789 . 10.244.1.200 comment \"default/gone\" }";
    for (set, element) in [("sources", stray), ("links", "{ weft0123456789 }")] {
        node.namespace
            .output("nft", ["add", "element", "ip", "weft-pods", set, element])
            .unwrap();
    }
    let mut config = node.config();
    config["cni.dev/valid-attachments"] = json!([]);
    node.call("GC", "", "", &config).ok();
    let rules = node.namespace.output("nft", ["list", "ruleset"]).unwrap();
    assert!(!rules.contains("weft0123456789"), "{rules}");
    node.check("c1", &pod, &result).ok();
    node.del("c1").ok();
    node.assert_clean();
}

#[test]
fn on_a_bridge_the_port_tells_whose_a_packet_is() {
    let node = trust(Node::bridged(DUAL));
    let (liar, other) = (pod("liar"), pod("other"));
    let result = node.add("c1", &liar).ok();
    let there = node.add("c2", &other).ok();
    for (family, lie) in FALSE.into_iter().enumerate() {
        give(&liar, "eth0", lie);
        let own = address(&result, family);
        let both = [lie.parse().unwrap(), own];
        assert_eq!(heard(&node, &liar, family, &both), [own]);
        // What the bridge alone would hand on.
        let at = address(&there, family);
        assert_eq!(heard_at(&other, at, &liar, &both), [own]);
    }
    assert!(dropped(&node) >= 4);
    // Another pod's address is as false as nobody's, in the search for neighbours too.
    let taken = address(&there, 0);
    give(&liar, "lo", &taken.to_string());
    assert_eq!(
        heard(&node, &liar, 0, &[taken, address(&result, 0)]),
        [address(&result, 0)]
    );
    node.check("c1", &liar, &result).ok();
    node.namespace
        .output("nft", ["delete", "table", "bridge", "weft-pods"])
        .unwrap();
    let (code, message) = node.check("c1", &liar, &result).error();
    assert_eq!(code, 101);
    assert!(message.contains("bridge weft-pods"), "{message}");
    node.add("c1", &liar).ok();
    node.check("c1", &liar, &result).ok();
    node.del("c1").ok();
    node.del("c2").ok();
    node.remove_bridge("cni0");
    node.assert_clean();

    let mut config = node.config();
    config["antiSpoofing"] = json!(false);
    let result = node.call("ADD", "c3", &path(&other), &config).ok();
    for (family, lie) in FALSE.into_iter().enumerate() {
        give(&other, "eth0", lie);
        let both = [lie.parse().unwrap(), address(&result, family)];
        assert_eq!(heard(&node, &other, family, &both), both);
    }
}

/// ICMPv6 in an Ethernet frame to all of the link. Nobody looks at its checksum before it is
/// taken.
fn icmpv6(mac: &str, source: &str, kind: u8, target: &str) -> String {
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(
        mac.split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap()),
    );
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
    frame.extend(source.parse::<Ipv6Addr>().unwrap().octets());
    frame.extend("ff02::1".parse::<Ipv6Addr>().unwrap().octets());
    frame.extend([kind, 0, 0, 0, 0x20, 0, 0, 0]);
    frame.extend(target.parse::<Ipv6Addr>().unwrap().octets());
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn send(pod: &Namespace, frame: &str) {
    let program = "import socket, sys\n\
                   s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
                   s.bind(('eth0', 0))\n\
                   s.send(bytes.fromhex(sys.argv[1]))";
    pod.output("python3", ["-c", program, frame]).unwrap();
}

/// How many of these frames are dropped; the last one is.
fn dropped_of(node: &Node, pod: &Namespace, frames: &[String], expected: u64) {
    let before = dropped(node);
    for frame in frames {
        send(pod, frame);
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    while dropped(node) < before + expected && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(dropped(node), before + expected);
}

const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

#[test]
fn no_pod_says_that_it_is_the_router() {
    for node in [trusting(), trust(Node::bridged(DUAL))] {
        let liar = pod("liar");
        let result = node.add("c1", &liar).ok();
        let inside = result["interfaces"].as_array().unwrap().last().unwrap();
        let mac = inside["mac"].as_str().unwrap();
        let own = address(&result, 1).to_string();
        let search = icmpv6(mac, "fe80::77", NEIGHBOUR_SOLICITATION, &own);
        for source in ["fe80::77", &own] {
            let lies =
                [ROUTER_ADVERTISEMENT, REDIRECT].map(|kind| icmpv6(mac, source, kind, "fe80::77"));
            let frames = [std::slice::from_ref(&search), lies.as_slice()].concat();
            dropped_of(&node, &liar, &frames, 2);
        }
        let host = result["interfaces"].as_array().unwrap()[0]["name"].clone();
        let key = format!("net/ipv6/conf/{}/accept_ra", host.as_str().unwrap());
        assert_eq!(node.namespace.sysctl(&key).unwrap().trim(), "0");
    }
}

#[test]
fn on_a_bridge_of_ipv4_too_no_router_is_believed() {
    let node = Node::bridged(&DUAL[..1]);
    let pod = pod("pod");
    node.add("c1", &pod).ok();
    for (place, device) in [(&node.namespace, "cni0"), (&pod, "eth0")] {
        let key = format!("net/ipv6/conf/{device}/accept_ra");
        assert_eq!(place.sysctl(&key).unwrap().trim(), "0", "{device}");
    }
}

#[test]
fn on_a_bridge_a_pod_answers_for_its_own_addresses_alone() {
    let node = trust(Node::bridged(DUAL));
    let (liar, other) = (pod("liar"), pod("other"));
    let result = node.add("c1", &liar).ok();
    let there = address(&node.add("c2", &other).ok(), 1).to_string();
    let mac = result["interfaces"][2]["mac"].as_str().unwrap();
    let own = address(&result, 1).to_string();
    let answer = |source: &str, target: &str| icmpv6(mac, source, NEIGHBOUR_ADVERTISEMENT, target);
    let frames = [
        answer(&own, &own),
        answer("fe80::77", &own),
        answer("fe80::77", "fe80::77"),
        icmpv6(mac, "::", NEIGHBOUR_SOLICITATION, &own),
        answer(&own, &there),
        answer("fe80::77", &there),
        answer("::", &own),
        answer("::", "fe80::77"),
    ];
    dropped_of(&node, &liar, &frames, 4);
}

#[test]
fn on_a_bridge_a_pod_has_one_ethernet_address() {
    let node = trust(Node::bridged(DUAL));
    let (liar, other) = (pod("liar"), pod("other"));
    let result = node.add("c1", &liar).ok();
    let there = node.add("c2", &other).ok();
    let mac = |result: &Value| result["interfaces"][2]["mac"].as_str().unwrap().to_owned();
    let own = address(&result, 1).to_string();
    let frames =
        [&result, &there].map(|whose| icmpv6(&mac(whose), &own, NEIGHBOUR_ADVERTISEMENT, &own));
    dropped_of(&node, &liar, &frames, 1);
    // And it is not learnt: the other's port still has it.
    let listed = node
        .namespace
        .output("bridge", ["fdb", "show", "br", "cni0"])
        .unwrap();
    let liars = result["interfaces"][1]["name"].as_str().unwrap();
    let at_liars = format!("{} dev {liars}", mac(&there));
    assert!(!listed.contains(&at_liars), "{listed}");

    let flush = ["flush", "set", "bridge", "weft-pods", "macs"];
    node.namespace.output("nft", flush).unwrap();
    let (_, message) = node.check("c1", &liar, &result).error();
    assert!(message.contains("in set macs"), "{message}");
    node.add("c1", &liar).ok();
    node.check("c1", &liar, &result).ok();
    assert_eq!(
        heard(&node, &liar, 0, &[address(&result, 0)]),
        [address(&result, 0)]
    );
}
