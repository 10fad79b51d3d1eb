//! A Service's own address: ports, refusals, and whom a server sees.

use std::net::SocketAddr;

use serde_json::json;
use weft_compile::ProxySettings;
use weft_desired::IpFamily;
use weft_netlab::probe::{self, TcpEcho, UdpEcho};

use crate::node::{BackEnd, each};
use crate::objects::{at, cluster_ip, pod, pod_address, served, service, slices_with};
use crate::row::{From, Meets, Seen, check, client};
use crate::scene::PATIENCE;

fn web(number: u8) -> impl Fn(IpFamily) -> SocketAddr {
    move |family| at(cluster_ip(family, number), 80)
}

#[test]
fn every_client_meets_every_endpoint() {
    let both = &["pod-1", "pod-2"];
    each(
        &ProxySettings::default(),
        &served(1, json!({}), &[1, 2]),
        |node| {
            check(
                node,
                &[
                    (From::Pod(3), &web(1), Meets::Each(both, Seen::Itself)),
                    (From::Node, &web(1), Meets::Each(both, Seen::AsNode)),
                    (From::Outside, &web(1), Meets::Each(both, Seen::AsNode)),
                ],
            );
        },
    );
}

#[test]
fn a_pod_meets_itself_as_its_node() {
    each(
        &ProxySettings::default(),
        &served(1, json!({}), &[1]),
        |node| {
            check(
                node,
                &[
                    (From::Pod(1), &web(1), Meets::Each(&["pod-1"], Seen::AsNode)),
                    (From::Pod(2), &web(1), Meets::Each(&["pod-1"], Seen::Itself)),
                ],
            );
        },
    );
}

/// Several ports, one of them by two protocols, and a name that is another port at other
/// endpoints.
#[test]
fn each_port_leads_to_the_endpoints_port_of_its_name() {
    let ports = json!({"ports": [
        {"name": "web", "protocol": "TCP", "port": 80},
        {"name": "talk", "protocol": "UDP", "port": 80},
        {"name": "more", "protocol": "TCP", "port": 81},
        {"name": "nowhere", "protocol": "TCP", "port": 82},
    ]});
    let mut objects = vec![service(1, ports)];
    let old = json!({"web": 8080, "talk": 8080, "more": 8081});
    objects.extend(slices_with(1, "old", &old, &[&pod(1, json!({}))]));
    let new = json!({"web": 8082, "talk": 8082, "more": 8081});
    objects.extend(slices_with(1, "new", &new, &[&pod(2, json!({}))]));
    each(&ProxySettings::default(), &objects, |node| {
        let mut servers = Vec::new();
        for family in IpFamily::BOTH {
            for (number, port) in [(1, 8081), (2, 8081), (2, 8082)] {
                let pod = &node.lab.pods[usize::from(number - 1_u8)];
                let here = at(pod_address(family, number), port).to_string();
                servers.push((
                    TcpEcho::start(pod, &here).unwrap(),
                    UdpEcho::start(pod, &here).unwrap(),
                ));
            }
        }
        check(
            node,
            &[(
                From::Pod(3),
                &web(1),
                Meets::Each(&["pod-1", "pod-2"], Seen::Itself),
            )],
        );
        for family in IpFamily::BOTH {
            let client = client(node, From::Pod(3));
            for (protocol, port, expected) in [
                ("tcp", 80, [8080, 8082]),
                ("udp", 80, [8080, 8082]),
                ("tcp", 81, [8081, 8081]),
            ] {
                let to = at(cluster_ip(family, 1), port);
                for _ in 0..10 {
                    let outcome = match protocol {
                        "tcp" => probe::tcp(client, to, PATIENCE).unwrap(),
                        _ => probe::udp(client, to, PATIENCE).unwrap(),
                    };
                    let answer = outcome.answer().unwrap();
                    let own = if answer.name == "pod-1" { 0 } else { 1 };
                    assert_eq!(
                        answer.to.port(),
                        expected[own],
                        "{protocol} {to}: {answer:?}"
                    );
                }
            }
            // No endpoint has a port of that name.
            let to = at(cluster_ip(family, 1), 82);
            assert_eq!(
                probe::tcp(client, to, PATIENCE).unwrap(),
                probe::Outcome::Refused
            );
        }
    });
}

#[test]
fn where_nobody_is_clients_are_told() {
    let mut objects = served(1, json!({}), &[]);
    objects.extend(served(2, json!({}), &[1]));
    let unknown = |family| at(cluster_ip(family, 2), 81);
    let refused = [From::Pod(1), From::Node, From::Outside];
    each(&ProxySettings::default(), &objects, |node| {
        for from in refused {
            check(
                node,
                &[
                    (from, &web(1), Meets::Refusal),
                    (from, &unknown, Meets::RefusalOrNoAnswer),
                ],
            );
        }
        if node.back_end == BackEnd::Nftables {
            // A free address of the Services' range leads nowhere.
            check(node, &[(From::Pod(1), &web(9), Meets::Silence)]);
        }
    });
}

#[test]
fn an_address_does_not_answer_ping() {
    each(
        &ProxySettings::default(),
        &served(1, json!({}), &[1]),
        |node| {
            for family in IpFamily::BOTH {
                for from in [From::Pod(2), From::Outside] {
                    let client = client(node, from);
                    let address = cluster_ip(family, 1).to_string();
                    // Of several, in case the first is lost to a neighbour's discovery.
                    let mut ping = client.command("ping").unwrap();
                    let ping = ping.args(["-n", "-q", "-c", "3", "-i", "0.1", "-W", "1", &address]);
                    let said = ping.output().unwrap();
                    let text = String::from_utf8_lossy(&said.stdout).into_owned();
                    assert!(text.contains(" 0 received"), "{:?}: {text}", node.back_end);
                }
                // The pod itself does.
                let address = pod_address(family, 1).to_string();
                client(node, From::Pod(2))
                    .output("ping", ["-n", "-c", "1", &address])
                    .unwrap();
            }
        },
    );
}
