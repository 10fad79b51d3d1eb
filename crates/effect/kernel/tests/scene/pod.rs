//! A pod that answers with its name, on a link and a network of its own.

use std::net::{IpAddr, SocketAddr};

use weft_netlab::probe::{TcpEcho, UdpEcho};
use weft_netlab::{Namespace, link};

/// A pod's address in each family.
pub(crate) fn pod_addresses(number: u8) -> [IpAddr; 2] {
    [
        format!("10.244.{number}.2").parse().unwrap(),
        format!("fd00:10:244:{number}::2").parse().unwrap(),
    ]
}

/// A pod on this node, and what listens at its port 8080.
pub(crate) fn pod(node: &Namespace, number: u8) -> (Namespace, Vec<(TcpEcho, UdpEcho)>) {
    let pod = Namespace::new(&format!("pod-{number}")).unwrap();
    let host = format!("pod{number}");
    link::veth(&pod, "eth0", node, &host).unwrap();
    for (network, length, all) in [
        (format!("10.244.{number}."), 24, "0.0.0.0/0"),
        (format!("fd00:10:244:{number}::"), 64, "::/0"),
    ] {
        link::address(node, &host, &format!("{network}1/{length}")).unwrap();
        link::address(&pod, "eth0", &format!("{network}2/{length}")).unwrap();
        link::route(&pod, all, &format!("{network}1")).unwrap();
    }
    let servers = pod_addresses(number).map(|address| echoes(&pod, address));
    (pod, servers.into())
}

/// What answers TCP and UDP at port 8080 of an address.
pub(crate) fn echoes(at: &Namespace, address: IpAddr) -> (TcpEcho, UdpEcho) {
    let socket = SocketAddr::new(address, 8080).to_string();
    (
        TcpEcho::start(at, &socket).unwrap(),
        UdpEcho::start(at, &socket).unwrap(),
    )
}
