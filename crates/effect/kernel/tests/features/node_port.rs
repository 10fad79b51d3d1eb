//! Node ports: at which addresses, and as these come and go.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use weft_compile::{NodePortsAt, ProxySettings};
use weft_desired::IpFamily;

use crate::node::each;
use crate::objects::{at, in_family, node_address, node_addresses, served};
use crate::row::{From, Meets, Seen, check};

const ONE: Meets = Meets::Each(&["pod-1"], Seen::AsNode);

fn second(family: IpFamily) -> IpAddr {
    in_family(family, ["172.30.0.12", "fd00:172:30::12"])
}

fn port_at(address: fn(IpFamily) -> IpAddr) -> impl Fn(IpFamily) -> SocketAddr {
    move |family| at(address(family), 30080)
}

#[test]
fn node_ports_answer_at_the_addresses_that_are_asked_for() {
    let within = NodePortsAt::Within(IpFamily::BOTH.map(|family| second(family).into()).into());
    // Nobody listens at the node itself: what is not translated is refused there.
    for (node_ports_at, meets) in [
        (NodePortsAt::All, [ONE, ONE]),
        (NodePortsAt::Primary, [ONE, Meets::Refusal]),
        (within, [Meets::Refusal, ONE]),
    ] {
        let proxy = ProxySettings {
            node_ports_at,
            ..ProxySettings::default()
        };
        each(
            &proxy,
            &served(1, json!({"node_port": 30080}), &[1]),
            |node| {
                for family in IpFamily::BOTH {
                    let length = if family == IpFamily::V4 { 24 } else { 64 };
                    let address = format!("{}/{length}", second(family));
                    weft_netlab::link::address(&node.lab.node, "eth0", &address).unwrap();
                }
                let all = node_addresses()
                    .into_iter()
                    .chain(IpFamily::BOTH.map(second));
                node.set_addresses(all.collect());
                for from in [From::Outside, From::Pod(2), From::Node] {
                    check(
                        node,
                        &[
                            (from, &port_at(node_address), meets[0]),
                            (from, &port_at(second), meets[1]),
                        ],
                    );
                }
            },
        );
    }
}

#[test]
fn addresses_come_and_go_while_the_node_runs() {
    let objects = served(1, json!({"node_port": 30080}), &[1]);
    each(&ProxySettings::default(), &objects, |node| {
        for family in IpFamily::BOTH {
            let length = if family == IpFamily::V4 { 24 } else { 64 };
            let address = format!("{}/{length}", second(family));
            weft_netlab::link::address(&node.lab.node, "eth0", &address).unwrap();
        }
        let all = node_addresses()
            .into_iter()
            .chain(IpFamily::BOTH.map(second));
        node.set_addresses(all.collect());
        check(node, &[(From::Outside, &port_at(second), ONE)]);
        for family in IpFamily::BOTH {
            let length = if family == IpFamily::V4 { 24 } else { 64 };
            let address = format!("{}/{length}", second(family));
            let delete = ["address", "delete", &address, "dev", "eth0"];
            node.lab.node.output("ip", delete).unwrap();
        }
        node.set_addresses(node_addresses());
        check(node, &[(From::Outside, &port_at(node_address), ONE)]);
        for family in IpFamily::BOTH {
            let client = crate::row::client(node, From::Outside);
            let to = port_at(second)(family);
            let met = weft_netlab::probe::tcp(client, to, crate::scene::SILENCE).unwrap();
            assert!(!met.is_answered(), "{:?}: {met:?}", node.back_end);
        }
    });
}

#[test]
fn without_endpoints_node_ports_refuse() {
    let objects = served(1, json!({"node_port": 30080}), &[]);
    each(&ProxySettings::default(), &objects, |node| {
        for from in [From::Outside, From::Pod(2), From::Node] {
            check(node, &[(from, &port_at(node_address), Meets::Refusal)]);
        }
    });
}
