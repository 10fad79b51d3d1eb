//! One proxy of Services takes another's place while connections are open: weft's back ends
//! each other's, and either of them kube-proxy's, in both of its modes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Stdio;

use serde_json::json;
use weft_compile::ProxySettings;
use weft_desired::IpFamily;
use weft_iptables::{Options, Ruleset};
use weft_kernel::iptables::{self, Whose};
use weft_netlab::Namespace;

use crate::node::{BackEnd, Node};
use crate::objects::{at, cluster_ip, node_address, pod_address, served};
use crate::row::{From, Meets, Seen, check, client};
use crate::scene::PATIENCE;

/// A connection that is open, and answers.
struct Open {
    stream: TcpStream,
    to: SocketAddr,
}

impl Open {
    fn new(from: &Namespace, to: SocketAddr) -> Self {
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let stream = from.run(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = String::new();
        BufReader::new(&stream).read_line(&mut greeting).unwrap();
        let mut open = Self { stream, to };
        open.answers("first");
        open
    }

    #[track_caller]
    fn answers(&mut self, when: &str) {
        let mut echo = [0; 5];
        self.stream.write_all(b"there").unwrap();
        let heard = self.stream.read_exact(&mut echo);
        assert!(heard.is_ok(), "{}: {when}: {heard:?}", self.to);
        assert_eq!(&echo, b"there", "{}: {when}", self.to);
    }
}

fn web(family: IpFamily) -> SocketAddr {
    at(cluster_ip(family, 1), 80)
}

fn node_port(family: IpFamily) -> SocketAddr {
    at(node_address(family), 30080)
}

fn objects() -> Vec<weft_model::Object> {
    served(1, json!({"node_port": 30080}), &[1, 2])
}

/// Everybody who had a connection has it, and everybody gets new ones.
#[track_caller]
fn goes_on(node: &Node, open: &mut [Open], when: &str) {
    open.iter_mut().for_each(|open| open.answers(when));
    let both = &["pod-1", "pod-2"];
    check(
        node,
        &[
            (From::Pod(3), &web, Meets::Each(both, Seen::Itself)),
            (From::Outside, &node_port, Meets::Each(both, Seen::AsNode)),
            (From::Node, &web, Meets::Each(both, Seen::AsNode)),
        ],
    );
}

fn opened(node: &Node) -> Vec<Open> {
    let mut open = Vec::new();
    for family in IpFamily::BOTH {
        for (from, to) in [
            (From::Pod(3), web(family)),
            (From::Outside, node_port(family)),
            (From::Node, web(family)),
        ] {
            open.push(Open::new(client(node, from), to));
        }
    }
    open
}

#[test]
fn back_ends_take_each_others_place() {
    for first in BackEnd::BOTH {
        let mut node = Node::new(first, ProxySettings::default(), objects());
        let mut open = opened(&node);
        for _ in 0..2 {
            // What is new is in place before what was goes.
            let left = node.take_over();
            goes_on(&node, &mut open, "both are there");
            left.remove(&node.lab);
            goes_on(&node, &mut open, "one is there");
        }
    }
}

#[test]
fn kube_proxys_iptables_rules_are_taken_over() {
    for back_end in BackEnd::BOTH {
        let mut node = Node::bare(back_end, ProxySettings::default(), objects());
        for family in IpFamily::BOTH {
            let desired = node.desired();
            let rules = Ruleset::new(family, &desired.services, &desired.nat, &Options::default());
            let restore = match family {
                IpFamily::V4 => "iptables-nft-restore",
                IpFamily::V6 => "ip6tables-nft-restore",
            };
            fed(&node, restore, &["--noflush"], &rules.saved());
        }
        let mut open = opened(&node);
        goes_on(&node, &mut open, "kube-proxy's alone");
        let whose = || iptables::present(&IpFamily::BOTH);
        assert_eq!(
            node.lab.node.run(whose).unwrap().unwrap(),
            Some(Whose::Anybodys)
        );
        node.reconcile();
        goes_on(&node, &mut open, "taken over");
        if back_end == BackEnd::Nftables {
            let remove = || iptables::remove(&IpFamily::BOTH, Whose::Anybodys);
            node.lab.node.run(remove).unwrap().unwrap();
            goes_on(&node, &mut open, "kube-proxy's are gone");
            let saved = node
                .lab
                .node
                .output::<&str>("iptables-nft-save", [])
                .unwrap();
            assert!(!saved.contains("KUBE-"), "{saved}");
        } else {
            assert_eq!(
                node.lab.node.run(whose).unwrap().unwrap(),
                Some(Whose::Ours)
            );
        }
    }
}

#[test]
fn kube_proxys_nftables_rules_are_taken_over() {
    for back_end in BackEnd::BOTH {
        let mut node = Node::bare(back_end, ProxySettings::default(), objects());
        for family in IpFamily::BOTH {
            fed(&node, "nft", &["-f", "-"], &kube_proxy(family));
        }
        let mut open = opened(&node);
        goes_on(&node, &mut open, "kube-proxy's alone");
        node.reconcile();
        goes_on(&node, &mut open, "both are there");
        for family in ["ip", "ip6"] {
            let delete = ["delete", "table", family, "kube-proxy"];
            node.lab.node.output("nft", delete).unwrap();
        }
        goes_on(&node, &mut open, "kube-proxy's are gone");
    }
}

fn fed(node: &Node, program: &str, arguments: &[&str], text: &str) {
    let mut command = node.lab.node.command(program).unwrap();
    let command = command.args(arguments).stdin(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let status = running.wait().unwrap();
    assert!(status.success(), "{program}: {status}\n{text}");
}

/// The table that kube-proxy's nftables mode has for the Service: its chains, hooks, maps and
/// mark (Kubernetes, `pkg/proxy/nftables`, "kube-proxy's nftables mode").
fn kube_proxy(family: IpFamily) -> String {
    let (ip, kind, pods) = match family {
        IpFamily::V4 => ("ip", "ipv4_addr", "10.244.0.0/16"),
        IpFamily::V6 => ("ip6", "ipv6_addr", "fd00:10:244::/48"),
    };
    let (own, host) = (cluster_ip(family, 1), node_address(family));
    let mut text = format!("table {ip} kube-proxy {{\n");
    for (name, address) in [("cluster-ips", own), ("nodeport-ips", host)] {
        text += &format!("set {name} {{ type {kind}; elements = {{ {address} }} }}\n");
    }
    text += "chain mark-for-masquerade { meta mark set meta mark | 0x4000; }\n\
        chain masquerading { meta mark & 0x4000 == 0 return; \
        meta mark set meta mark ^ 0x4000; masquerade fully-random; }\n";
    let (mut services, mut node_ports) = (Vec::new(), Vec::new());
    for protocol in ["tcp", "udp"] {
        let endpoint = |number: u8| -> (String, IpAddr) {
            let address = pod_address(family, number);
            (format!("endpoint-{number}-{protocol}"), address)
        };
        for number in [1, 2] {
            let (name, address) = endpoint(number);
            let to = at(address, 8080);
            text += &format!(
                "chain {name} {{ {ip} saddr {address} jump mark-for-masquerade; \
                 meta l4proto {protocol} dnat to {to}; }}\n"
            );
        }
        text += &format!(
            "chain service-{protocol} {{ {ip} daddr {own} {protocol} dport 80 \
             {ip} saddr != {pods} jump mark-for-masquerade; \
             numgen random mod 2 vmap {{ 0 : goto {}, 1 : goto {} }}; }}\n\
             chain external-{protocol} {{ jump mark-for-masquerade; goto service-{protocol}; }}\n",
            endpoint(1).0,
            endpoint(2).0,
        );
        services.push(format!("{own} . {protocol} . 80 : goto service-{protocol}"));
        node_ports.push(format!("{protocol} . 30080 : goto external-{protocol}"));
    }
    text += &format!(
        "map service-ips {{ type {kind} . inet_proto . inet_service : verdict; \
         elements = {{ {} }} }}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict; \
         elements = {{ {} }} }}\n\
         chain services {{ {ip} daddr . meta l4proto . th dport vmap @service-ips; \
         {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports; }}\n\
         chain cluster-ips-check {{ {ip} daddr @cluster-ips reject; }}\n",
        services.join(", "),
        node_ports.join(", "),
    );
    for (name, base, rule) in [
        (
            "nat-prerouting",
            "nat hook prerouting priority -100",
            "jump services",
        ),
        (
            "nat-output",
            "nat hook output priority -100",
            "jump services",
        ),
        (
            "nat-postrouting",
            "nat hook postrouting priority 100",
            "jump masquerading",
        ),
        (
            "filter-forward",
            "filter hook forward priority -110",
            "ct state new jump cluster-ips-check",
        ),
        (
            "filter-output-post-dnat",
            "filter hook output priority -90",
            "ct state new jump cluster-ips-check",
        ),
    ] {
        text += &format!("chain {name} {{ type {base}; {rule}; }}\n");
    }
    text + "}\n"
}
