//! Namespaces, links and probes against the real kernel. Needs root, or root of a user namespace.

#![expect(
    clippy::unwrap_used,
    reason = "what a test's helpers cannot do fails the test"
)]

use std::time::Duration;

use weft_netlab::{Namespace, link, probe};

const PATIENCE: Duration = Duration::from_secs(30);

fn pair() -> (Namespace, Namespace) {
    let left = Namespace::new("left").unwrap();
    let right = Namespace::new("right").unwrap();
    link::veth(&left, "eth0", &right, "eth0").unwrap();
    for (namespace, host) in [(&left, 1), (&right, 2)] {
        link::address(namespace, "eth0", &format!("192.0.2.{host}/24")).unwrap();
        link::address(namespace, "eth0", &format!("2001:db8::{host}/64")).unwrap();
    }
    (left, right)
}

#[test]
fn two_namespaces_meet_by_tcp_and_udp_in_both_families() {
    let (left, right) = pair();
    for (server, client) in [("192.0.2.2", "192.0.2.1"), ("[2001:db8::2]", "2001:db8::1")] {
        let tcp = probe::TcpEcho::start(&right, &format!("{server}:0")).unwrap();
        let outcome = probe::tcp(&left, tcp.address(), PATIENCE).unwrap();
        let answer = outcome.answer().unwrap_or_else(|| panic!("{outcome:?}"));
        assert_eq!(answer.name, "right");
        assert_eq!(answer.to, tcp.address());
        assert_eq!(answer.from.ip().to_string(), client);
        assert!(!answer.is_masqueraded());

        let udp = probe::UdpEcho::start(&right, &format!("{server}:0")).unwrap();
        let outcome = probe::udp(&left, udp.address(), PATIENCE).unwrap();
        assert!(outcome.is_answered(), "{outcome:?}");
    }
}

#[test]
fn what_a_probe_meets_is_told_apart() {
    let (left, right) = pair();
    let closed = "192.0.2.2:9".parse().unwrap();
    assert_eq!(
        probe::tcp(&left, closed, PATIENCE).unwrap(),
        probe::Outcome::Refused
    );
    assert_eq!(
        probe::udp(&left, closed, PATIENCE).unwrap(),
        probe::Outcome::Refused
    );
    let nowhere = "198.51.100.1:9".parse().unwrap();
    assert!(matches!(
        probe::tcp(&left, nowhere, PATIENCE).unwrap(),
        probe::Outcome::Unreachable(_)
    ));
    // A neighbour that takes packets and never answers.
    link::route(&left, "198.51.100.0/24", "192.0.2.2").unwrap();
    right.set_sysctl("net/ipv4/ip_forward", "0").unwrap();
    let outcome = probe::tcp(&left, nowhere, Duration::from_millis(200)).unwrap();
    assert_eq!(outcome, probe::Outcome::TimedOut);
}

#[test]
fn a_server_stops_when_dropped() {
    let (left, right) = pair();
    let server = probe::TcpEcho::start(&right, "192.0.2.2:0").unwrap();
    let address = server.address();
    server.stop();
    assert_eq!(
        probe::tcp(&left, address, PATIENCE).unwrap(),
        probe::Outcome::Refused
    );
}

#[test]
fn a_dropped_namespace_takes_its_links_along() {
    let (left, right) = pair();
    drop(right);
    // The kernel removes a namespace in its own time: wait for the peer to go.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while left.sysctl("net/ipv4/conf/eth0/forwarding").is_ok() {
        assert!(std::time::Instant::now() < deadline, "the link stayed");
        std::thread::yield_now();
    }
}

#[test]
fn a_bridge_joins_three() {
    let hub = Namespace::new("hub").unwrap();
    link::bridge(&hub, "br0").unwrap();
    let members: Vec<Namespace> = (1..=3)
        .map(|host| {
            let member = Namespace::new(&format!("member-{host}")).unwrap();
            link::veth(&hub, &format!("port{host}"), &member, "eth0").unwrap();
            link::port(&hub, "br0", &format!("port{host}")).unwrap();
            link::address(&member, "eth0", &format!("192.0.2.{host}/24")).unwrap();
            member
        })
        .collect();
    let server = probe::TcpEcho::start(&members[2], "192.0.2.3:0").unwrap();
    for client in &members {
        let outcome = probe::tcp(client, server.address(), PATIENCE).unwrap();
        assert!(outcome.is_answered(), "{}: {outcome:?}", client.name());
    }
}

#[test]
fn the_callers_thread_does_not_move() {
    let before = Namespace::current("here").unwrap();
    let other = Namespace::new("other").unwrap();
    let inside = other
        .run(|| {
            let here = Namespace::current("inside").unwrap();
            weft_netlab::sys_namespace::identity(std::os::fd::AsFd::as_fd(&here)).unwrap()
        })
        .unwrap();
    let identity = |ns: &Namespace| {
        weft_netlab::sys_namespace::identity(std::os::fd::AsFd::as_fd(ns)).unwrap()
    };
    assert_eq!(inside, identity(&other));
    assert_eq!(
        identity(&Namespace::current("after").unwrap()),
        identity(&before)
    );
}
