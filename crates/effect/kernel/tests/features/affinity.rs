//! `sessionAffinity: ClientIP` and its time.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::json;
use weft_compile::ProxySettings;
use weft_desired::IpFamily;

use crate::node::{BackEnd, Node, each};
use crate::objects::{
    at, beyond, cluster_ip, endpoint, node_address, pod, served, service, slices,
};
use crate::row::{From, client};
use crate::scene::pod::echoes;

fn servers(node: &Node, from: From, to: SocketAddr, times: usize) -> BTreeSet<String> {
    let ask = |_| {
        let outcome = node.lab.tcp(client(node, from), to);
        outcome
            .answer()
            .unwrap_or_else(|| panic!("{to}: {outcome:?}"))
            .name
            .clone()
    };
    (0..times).map(ask).collect()
}

/// Every way to a Service remembers by itself.
#[test]
fn a_client_stays_with_its_server() {
    let addresses = IpFamily::BOTH.map(|family| beyond(family, 1));
    let more = json!({"affinity": 600, "node_port": 30080, "external": {"addresses": addresses}});
    each(
        &ProxySettings::default(),
        &served(1, more, &[1, 2, 3]),
        |node| {
            for family in IpFamily::BOTH {
                for to in [
                    at(cluster_ip(family, 1), 80),
                    at(beyond(family, 1), 80),
                    at(node_address(family), 30080),
                ] {
                    for from in [From::Outside, From::Pod(1), From::Node] {
                        let met = servers(node, from, to, 12);
                        assert_eq!(
                            met.len(),
                            1,
                            "{:?}: {from:?} to {to}: {met:?}",
                            node.back_end
                        );
                    }
                }
            }
        },
    );
}

/// A server of the node itself is one like others: where a packet goes to it leaves no device.
#[test]
fn a_client_stays_with_a_server_on_the_node() {
    let mut objects = vec![service(1, json!({"affinity": 600}))];
    let here = IpFamily::BOTH.map(node_address);
    objects.extend(slices(1, &[&endpoint(here, json!({})), &pod(1, json!({}))]));
    each(&ProxySettings::default(), &objects, |node| {
        let _servers = here.map(|address| echoes(&node.lab.node, address));
        for family in IpFamily::BOTH {
            let to = at(cluster_ip(family, 1), 80);
            let mut met = BTreeSet::new();
            // Clients of which some are given the node's: each by itself stays.
            for from in [From::Pod(2), From::Pod(3), From::Outside, From::Node] {
                let its = servers(node, from, to, 10);
                assert_eq!(
                    its.len(),
                    1,
                    "{:?}: {from:?} to {to}: {its:?}",
                    node.back_end
                );
                met.extend(its);
            }
        }
    });
}

/// After the time without a connection a client is like a new one.
#[test]
fn a_client_is_forgotten_after_its_time() {
    each(
        &ProxySettings::default(),
        &served(1, json!({"affinity": 1}), &[1, 2, 3]),
        |node| {
            for family in IpFamily::BOTH {
                let to = at(cluster_ip(family, 1), 80);
                let mut met = servers(node, From::Pod(1), to, 5);
                let deadline = Instant::now() + Duration::from_secs(120);
                while met.len() < 2 {
                    while remembers(node, family) {
                        assert!(Instant::now() < deadline, "{:?}: {met:?}", node.back_end);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    met.extend(servers(node, From::Pod(1), to, 1));
                }
            }
        },
    );
}

/// Whether the kernel would send some client to the endpoint it had, with an affinity of a
/// second.
fn remembers(node: &Node, family: IpFamily) -> bool {
    match node.back_end {
        BackEnd::Nftables => {
            let table = match family {
                IpFamily::V4 => "ip",
                IpFamily::V6 => "ip6",
            };
            let list = ["list", "map", table, "weft", "affinity"];
            let clients = node.lab.node.output("nft", list).unwrap();
            clients.contains("elements")
        }
        BackEnd::Iptables => {
            let clients = last_seen(node, "KUBE-SEP-*");
            let now = now(node);
            // No kernel's clock has more than a thousand ticks a second.
            clients.into_iter().any(|tick| now <= tick + 1000)
        }
    }
}

/// When clients were seen last, in ticks of the kernel's clock.
fn last_seen(node: &Node, lists: &str) -> Vec<u64> {
    let read = format!("cat /proc/net/xt_recent/{lists}");
    let clients = node.lab.node.output("sh", ["-c", &read]).unwrap();
    let times = clients.lines().map(|line| {
        let (_, rest) = line.split_once("last_seen: ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    });
    times.collect()
}

/// What the kernel's clock says, by a packet that it sees now.
fn now(node: &Node) -> u64 {
    let rule = "OUTPUT -d 127.0.0.1 -p udp --dport 9 -m recent --name now --set";
    let iptables = |verb: &'static str| {
        let arguments = std::iter::once(verb).chain(rule.split(' '));
        node.lab.node.output("iptables-nft", arguments)
    };
    if iptables("-C").is_err() {
        iptables("-A").unwrap();
    }
    let sent = node.lab.node.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.send_to(&[], "127.0.0.1:9")
    });
    sent.unwrap().unwrap();
    last_seen(node, "now")[0]
}

#[test]
fn affinity_can_be_switched_off_and_on() {
    let three = |more| served(1, more, &[1, 2, 3]);
    each(
        &ProxySettings::default(),
        &three(json!({"affinity": 600})),
        |node| {
            for family in IpFamily::BOTH {
                let to = at(cluster_ip(family, 1), 80);
                assert_eq!(servers(node, From::Pod(1), to, 10).len(), 1);
                node.put(three(json!({})));
                assert_eq!(servers(node, From::Pod(1), to, 60).len(), 3);
                node.put(three(json!({"affinity": 600})));
                assert_eq!(servers(node, From::Pod(1), to, 10).len(), 1);
            }
        },
    );
}
