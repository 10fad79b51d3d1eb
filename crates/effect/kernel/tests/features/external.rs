//! External addresses and those of load balancers.

use std::net::SocketAddr;

use serde_json::json;
use weft_compile::ProxySettings;
use weft_desired::IpFamily;
use weft_netlab::probe::{TcpEcho, UdpEcho};

use crate::node::{Node, each};
use crate::objects::{
    at, beyond, cluster_ip, endpoint, in_family, node_address, node_addresses, served, service,
    slices,
};
use crate::row::{From, Meets, Seen, check, client};

const ONE: Meets = Meets::Each(&["pod-1"], Seen::AsNode);

fn external(number: u8) -> impl Fn(IpFamily) -> SocketAddr {
    move |family| at(beyond(family, number), 80)
}

#[test]
fn external_addresses_lead_to_endpoints() {
    let addresses = IpFamily::BOTH.map(|family| beyond(family, 1));
    let objects = served(1, json!({"external": {"addresses": addresses}}), &[1]);
    each(&ProxySettings::default(), &objects, |node| {
        check(
            node,
            &[
                (From::Outside, &external(1), ONE),
                (From::Pod(2), &external(1), ONE),
                (From::Node, &external(1), ONE),
            ],
        );
    });
}

#[test]
fn without_endpoints_external_addresses_refuse() {
    let addresses = IpFamily::BOTH.map(|family| beyond(family, 1));
    let objects = served(1, json!({"external": {"addresses": addresses}}), &[]);
    each(&ProxySettings::default(), &objects, |node| {
        for from in [From::Outside, From::Pod(2)] {
            check(node, &[(from, &external(1), Meets::Refusal)]);
        }
    });
}

/// The ranges hold at the load balancer's address, and nowhere else.
#[test]
fn source_ranges_admit_only_their_own() {
    let balanced = |number, ranges: &[&str]| {
        let addresses = IpFamily::BOTH.map(|family| beyond(family, number));
        let external = json!({"load_balancer": addresses, "source_ranges": ranges});
        let more = json!({"external": external, "node_port": 30000 + u16::from(number)});
        served(number, more, &[1])
    };
    let pods = ["10.244.0.0/16", "fd00:10:244::/48"];
    let mut objects = balanced(1, &["172.30.0.2/32", "fd00:172:30::2/128"]);
    objects.extend(balanced(2, &pods));
    objects.extend(balanced(3, &["192.0.2.0/24", "2001:db8:ff::/64"]));
    // Of one family only: of the other everybody is admitted.
    objects.extend(balanced(4, &["192.0.2.0/24"]));
    let node_port = |family| at(node_address(family), 30003);
    let inside = |family| at(cluster_ip(family, 3), 80);
    each(&ProxySettings::default(), &objects, |node| {
        check(
            node,
            &[
                (From::Outside, &external(1), ONE),
                (From::Pod(2), &external(1), Meets::Silence),
                (From::Outside, &external(2), Meets::Silence),
                (From::Pod(2), &external(2), ONE),
                (From::Outside, &external(3), Meets::Silence),
                (From::Pod(2), &external(3), Meets::Silence),
                (From::Outside, &node_port, ONE),
                (From::Pod(2), &inside, Meets::Each(&["pod-1"], Seen::Itself)),
            ],
        );
        let fourth = |family| at(in_family(family, ["198.51.100.4", "2001:db8:51::4"]), 80);
        for (family, meets) in [(IpFamily::V4, Meets::Silence), (IpFamily::V6, ONE)] {
            let only = move |_| fourth(family);
            check(node, &[(From::Outside, &only, meets)]);
        }
    });
}

/// A balancer's address may be the node's own, and somebody may listen there.
#[test]
fn who_is_not_admitted_does_not_meet_the_node_instead() {
    let addresses = IpFamily::BOTH.map(|family| beyond(family, 1));
    let pods = ["10.244.0.0/16", "fd00:10:244::/48"];
    let balanced = json!({"external": {"load_balancer": addresses, "source_ranges": pods}});
    each(
        &ProxySettings::default(),
        &served(1, balanced, &[1]),
        |node| {
            give_to_node(node);
            let _servers = IpFamily::BOTH.map(|family| {
                let at = external(1)(family).to_string();
                let tcp = TcpEcho::start(&node.lab.node, &at).unwrap();
                (tcp, UdpEcho::start(&node.lab.node, &at).unwrap())
            });
            check(
                node,
                &[
                    (From::Pod(2), &external(1), ONE),
                    (From::Outside, &external(1), Meets::Silence),
                ],
            );
        },
    );
}

/// The node has the balancer's first address.
fn give_to_node(node: &Node) {
    for family in IpFamily::BOTH {
        let length = if family == IpFamily::V4 { 32 } else { 128 };
        let address = format!("{}/{length}", beyond(family, 1));
        weft_netlab::link::address(&node.lab.node, "eth0", &address).unwrap();
    }
}

/// What the node sends to an address that it has comes from there. Other nodes may have it too:
/// no endpoint could answer.
#[test]
fn the_node_does_not_ask_as_the_balancer() {
    let addresses = IpFamily::BOTH.map(|family| beyond(family, 1));
    let balanced = json!({"external": {"load_balancer": addresses, "policy": "Local"}});
    each(
        &ProxySettings::default(),
        &served(1, balanced, &[1]),
        |node| {
            give_to_node(node);
            node.set_addresses(
                node_addresses()
                    .into_iter()
                    .chain(IpFamily::BOTH.map(|family| beyond(family, 1)))
                    .collect(),
            );
            for family in IpFamily::BOTH {
                let to = external(1)(family);
                let met = node.lab.tcp(client(node, From::Node), to);
                let back_end = node.back_end;
                let answer = met
                    .answer()
                    .unwrap_or_else(|| panic!("{back_end:?}: {to}: {met:?}"));
                assert_eq!(answer.local.ip(), to.ip(), "{back_end:?}");
                assert_ne!(answer.from.ip(), to.ip(), "{back_end:?}");
            }
        },
    );
}

/// `externalTrafficPolicy: Local`: the client's address is kept, and other nodes' endpoints are
/// not for clients beyond.
#[test]
fn the_local_policy_keeps_clients_and_stays_here() {
    let local = |number: u8, elsewhere: bool| {
        let addresses = IpFamily::BOTH.map(|family| beyond(family, number));
        let external = json!({"load_balancer": addresses, "policy": "Local"});
        let more = json!({"external": external, "node_port": 30000 + u16::from(number)});
        let node = if elsewhere { "node-2" } else { "node-1" };
        // Some other node's pods are in fact here as well: where they are makes no difference.
        let [one, two] = [(1, "node-2"), (2, node)].map(|(pod, node)| {
            endpoint(crate::scene::pod::pod_addresses(pod), json!({"node": node}))
        });
        let mut objects = vec![service(number, more)];
        objects.extend(slices(number, &[&one, &two]));
        objects
    };
    let mut objects = local(1, false);
    objects.extend(local(2, true));
    let node_port = |number: u16| move |family| at(node_address(family), 30000 + number);
    let kept = Meets::Each(&["pod-2"], Seen::Itself);
    let all = |seen| Meets::Each(&["pod-1", "pod-2"], seen);
    each(&ProxySettings::default(), &objects, |node| {
        check(
            node,
            &[
                (From::Outside, &external(1), kept),
                (From::Outside, &node_port(1), kept),
                (From::Outside, &external(2), Meets::Silence),
                (From::Outside, &node_port(2), Meets::Silence),
                // As if they had gone out to the balancer and come back in.
                (From::Pod(3), &external(1), all(Seen::Itself)),
                (From::Pod(3), &external(2), all(Seen::Itself)),
                (From::Pod(3), &node_port(2), all(Seen::Itself)),
                (From::Node, &external(2), all(Seen::AsNode)),
                (From::Node, &node_port(2), all(Seen::AsNode)),
            ],
        );
    });
}
