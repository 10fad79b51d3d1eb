//! What clients meet at a port that has no endpoint.

use std::net::IpAddr;

use weft_desired::{IpFamily, Protocol, ServicePort, ServicePortKey, Table};
use weft_iptables::{Generation, Options, Ruleset};

use super::{Draw, entry, nat, port};

/// The cluster's, an external one, a load balancer's.
fn addresses(family: IpFamily) -> [IpAddr; 3] {
    let addresses = match family {
        IpFamily::V4 => ["10.96.0.1", "192.0.2.1", "198.51.100.1"],
        IpFamily::V6 => ["fd00:10:96::1", "2001:db8::1", "2001:db8:51::1"],
    };
    addresses.map(|address| address.parse().unwrap())
}

/// A port without endpoints that has an address of each sort, and a node port.
fn without_endpoints(family: IpFamily, protocol: Protocol) -> (ServicePortKey, ServicePort) {
    let (key, value) = port(&mut Draw(1), 1);
    let key = ServicePortKey {
        protocol,
        family,
        ..key
    };
    let [cluster, external, balancer] = addresses(family);
    let value = ServicePort {
        cluster_address: Some(cluster),
        external_addresses: vec![external],
        load_balancer_addresses: vec![balancer],
        node_port: Some(30080),
        source_ranges: Vec::new(),
        endpoints: Default::default(),
        ..value
    };
    (key, value)
}

/// The rules that refuse clients by TCP, UDP and SCTP.
fn refusals(family: IpFamily, options: &Options) -> [Vec<String>; 3] {
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let services: Table<ServicePortKey, ServicePort> = protocols
        .map(|protocol| without_endpoints(family, protocol))
        .map(|(key, value)| (key.clone(), entry(&key, value)))
        .into();
    let saved = Ruleset::new(family, &services, &nat(), options).saved();
    let refusals = saved.lines().filter(|line| line.contains(" -j REJECT"));
    let refusals: Vec<&str> = refusals.collect();
    let of = |protocol: &str| -> Vec<String> {
        let lines = refusals.iter().filter(|line| line.contains(protocol));
        lines.map(|line| (*line).to_owned()).collect()
    };
    let by_protocol = [" -p tcp ", " -p udp ", " -p sctp "].map(of);
    // Each says which protocol it is of: iptables takes `tcp-reset` only then.
    let told: usize = by_protocol.iter().map(Vec::len).sum();
    assert_eq!(told, refusals.len(), "{refusals:?}");
    by_protocol
}

/// At every address of the port and at its node port.
#[track_caller]
fn assert_all_end_in(lines: &[String], answer: &str) {
    assert_eq!(lines.len(), 4, "{lines:?}");
    let end = format!(" -j REJECT --reject-with {answer}");
    assert!(lines.iter().all(|line| line.ends_with(&end)), "{lines:?}");
}

#[track_caller]
fn assert_only_tcp_is_reset(generation: Generation) {
    for (family, unreachable) in [
        (IpFamily::V4, "icmp-port-unreachable"),
        (IpFamily::V6, "icmp6-port-unreachable"),
    ] {
        for (reset_refused, answer) in [(true, "tcp-reset"), (false, unreachable)] {
            let options = Options {
                generation,
                reset_refused,
                ..Options::default()
            };
            let [tcp, udp, sctp] = refusals(family, &options);
            assert_all_end_in(&tcp, answer);
            assert_all_end_in(&udp, unreachable);
            assert_all_end_in(&sctp, unreachable);
        }
    }
}

#[test]
fn only_clients_by_tcp_are_reset_where_that_is_asked_for() {
    assert_only_tcp_is_reset(Generation::Current);
}

#[test]
fn only_clients_by_tcp_are_reset_by_the_rules_of_1_23() {
    assert_only_tcp_is_reset(Generation::V1_23);
}
