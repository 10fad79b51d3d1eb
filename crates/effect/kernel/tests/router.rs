//! A node that becomes a router, in namespaces of the tests' own.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::os::fd::AsFd;

use weft_kernel::router;
use weft_netlab::{Namespace, link};
use weft_sys::rtnl::{Conversation, NextHop, RouteSpec};

/// RTPROT_RA.
const ADVERTISED: u8 = 9;
const ACCEPT: &str = "net/ipv6/conf";

/// A node with a link for each network, and a far end.
fn node(links: &[&str]) -> (Namespace, Namespace) {
    let node = Namespace::new("node").unwrap();
    let far = Namespace::new("far").unwrap();
    for (number, name) in links.iter().enumerate() {
        link::veth(&node, name, &far, name).unwrap();
        link::address(&node, name, &format!("fd00:{number}::2/64")).unwrap();
    }
    (node, far)
}

fn default_route(node: &Namespace, number: usize, name: &str, protocol: u8) {
    let mut conversation = Conversation::in_namespace(node.as_fd()).unwrap();
    let next_hop = NextHop::Gateway {
        address: format!("fd00:{number}::1").parse().unwrap(),
        device: Some(conversation.link_by_name(name).unwrap().index),
        on_link: false,
    };
    let spec = RouteSpec {
        metric: Some(1024 + number as u32),
        ..RouteSpec::new("::/0".parse().unwrap(), next_hop, protocol)
    };
    conversation.add_route(&spec).unwrap();
}

#[test]
fn a_router_still_takes_the_advertisements_its_default_route_comes_from() {
    let links = ["eth0", "eth1", "eth2", "eth3"];
    let (node, _far) = node(&links);
    default_route(&node, 0, "eth0", ADVERTISED);
    // One that an administrator set, and one that another program keeps.
    default_route(&node, 1, "eth1", 4);
    node.set_sysctl(&format!("{ACCEPT}/eth2/accept_ra"), "0")
        .unwrap();
    default_route(&node, 2, "eth2", ADVERTISED);

    for _ in 0..2 {
        node.run(|| {
            let mut conversation = Conversation::open().unwrap();
            router::forward_v4().unwrap();
            router::forward_v6(&mut conversation).unwrap();
        })
        .unwrap();
        let accepts = links.map(|link| {
            let value = node.sysctl(&format!("{ACCEPT}/{link}/accept_ra")).unwrap();
            value.trim().to_owned()
        });
        assert_eq!(accepts, ["2", "1", "0", "1"]);
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            assert_eq!(node.sysctl(key).unwrap().trim(), "1", "{key}");
        }
    }
}
