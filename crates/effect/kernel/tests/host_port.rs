//! Ports of the node that lead to pods, with packets through them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "scene/pod.rs"]
mod pod;

use std::net::SocketAddr;
use std::time::Duration;

use weft_desired::{HostPort, Protocol, SocketKey};
use weft_kernel::host_port;
use weft_netlab::{Namespace, link, probe};
use weft_sys::nft::Connection;

use pod::{pod, pod_addresses};

const PATIENCE: Duration = Duration::from_secs(30);
/// The node's addresses, and its clients', in both families.
const NODE: [&str; 2] = ["172.30.0.11", "fd00:172:30::11"];
const CLIENT: [&str; 2] = ["172.30.0.2", "fd00:172:30::2"];

/// Makes a port of the node lead to a pod in both families, or nowhere.
fn set(node: &Namespace, number: u8, open: bool) {
    let pods = pod_addresses(number);
    let ports = NODE.iter().zip(pods).map(|(address, pod)| HostPort {
        node: SocketKey {
            address: address.parse().unwrap(),
            protocol: Protocol::Udp,
            port: 5353,
        },
        pod,
        port: 8080,
    });
    let ports: Vec<HostPort> = ports.filter(|_| open).collect();
    let link = format!("pod{number}");
    node.run(|| host_port::set(&mut Connection::open().unwrap(), &ports, &pods, &link))
        .unwrap()
        .unwrap();
}

#[test]
fn a_client_that_keeps_sending_reaches_the_next_pod() {
    let node = Namespace::new("node").unwrap();
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        node.set_sysctl(key, "1").unwrap();
    }
    let outside = Namespace::new("outside").unwrap();
    link::veth(&outside, "eth0", &node, "eth0").unwrap();
    for (end, addresses) in [(&node, NODE), (&outside, CLIENT)] {
        link::address(end, "eth0", &format!("{}/24", addresses[0])).unwrap();
        link::address(end, "eth0", &format!("{}/64", addresses[1])).unwrap();
    }
    let _pods = [pod(&node, 1), pod(&node, 2)];
    let reached = || {
        [0, 1].map(|family: usize| {
            // Always from the same port: one connection in the kernel's eyes.
            let from = SocketAddr::new(CLIENT[family].parse().unwrap(), 7777);
            let to = SocketAddr::new(NODE[family].parse().unwrap(), 5353);
            let outcome = probe::udp_from(&outside, from, to, PATIENCE).unwrap();
            outcome.answer().map(|answer| answer.name.clone())
        })
    };
    let by = |name: &str| [0, 1].map(|_| Some(name.to_owned()));

    set(&node, 1, true);
    assert_eq!(reached(), by("pod-1"));
    // Taken over at once.
    set(&node, 2, true);
    assert_eq!(reached(), by("pod-2"));
    // Closed, and opened again.
    set(&node, 2, false);
    assert_eq!(reached().map(|name| name.is_some()), [false, false]);
    set(&node, 1, true);
    assert_eq!(reached(), by("pod-1"));
}
