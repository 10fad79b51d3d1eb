//! Ports of Services.

use serde_json::{Value, json};

use super::{Cluster, FAR, NEAR, SERVICE_PORT, STEADY, service, with_each_back_end};
use crate::lab::probe::{self, PORT};

with_each_back_end![
    should_serve_endpoints_on_same_port_and_different_protocols,
    should_support_named_target_ports_that_resolve_to_different_ports_on_different_endpoints,
    should_be_updated_after_adding_or_deleting_ports,
    should_allow_creating_a_basic_sctp_service_with_pod_and_endpoints,
];

fn port(name: &str, number: u16, target: Value, protocol: &str) -> Value {
    json!({"name": name, "port": number, "targetPort": target, "protocol": protocol})
}

fn should_serve_endpoints_on_same_port_and_different_protocols(cluster: &Cluster) {
    let name = "multiprotocol";
    cluster.apply(STEADY, &[service(name, &json!({}))]);
    let own = cluster.ips(STEADY, name);
    cluster.meets(NEAR, &own, SERVICE_PORT, &["a", "b"]);
    let only = |protocol| {
        let port = port("only", SERVICE_PORT, json!(PORT), protocol);
        json!({"spec": {"ports": [port]}})
    };
    for (protocol, kept, gone) in [("TCP", "tcp", "udp"), ("UDP", "udp", "tcp")] {
        cluster.patch(STEADY, name, &only(protocol));
        cluster.meets_by(&[kept], FAR, &own, SERVICE_PORT, &["a", "b"]);
        crate::lab::eventually("the other protocol is not served", || {
            let asks = super::asks(&[gone], &own, SERVICE_PORT, 1);
            let met = probe::ask(&cluster.lab, FAR, &asks);
            crate::lab::expect(met, |met| {
                met.iter().flatten().all(|met| met.failure().is_some())
            })
        });
    }
}

fn should_support_named_target_ports_that_resolve_to_different_ports_on_different_endpoints(
    cluster: &Cluster,
) {
    let namespace = "named-ports";
    cluster.lab.namespace(namespace);
    let pods = [("old", "node-1", 7001), ("new", "node-2", 7002)].map(|(name, node, number)| {
        let mut pod = probe::pod(name, node);
        let mut container = probe::container(&[number]);
        container["ports"] = json!([
            {"name": "web", "containerPort": number, "protocol": "TCP"},
            {"name": "talk", "containerPort": number, "protocol": "UDP"},
        ]);
        pod["spec"]["containers"] = json!([container]);
        pod
    });
    cluster.apply(namespace, &pods);
    let ports = json!({"ports": [
        port("web", SERVICE_PORT, json!("web"), "TCP"),
        port("talk", SERVICE_PORT, json!("talk"), "UDP"),
    ]});
    cluster.apply(namespace, &[service("named", &ports)]);
    cluster.lab.pods_ready(namespace, "");
    let own = cluster.ips(namespace, "named");
    for from in [NEAR, "node-2"] {
        cluster.meets(from, &own, SERVICE_PORT, &["old", "new"]);
    }
}

fn should_be_updated_after_adding_or_deleting_ports(cluster: &Cluster) {
    let name = "growing";
    let web = || port("web", SERVICE_PORT, json!(PORT), "TCP");
    let more = || port("more", 8443, json!(PORT), "TCP");
    cluster.apply(STEADY, &[service(name, &json!({"ports": [web()]}))]);
    let own = cluster.ips(STEADY, name);
    cluster.meets_by(&["tcp"], NEAR, &own, SERVICE_PORT, &["a", "b"]);
    cluster.patch(STEADY, name, &json!({"spec": {"ports": [web(), more()]}}));
    for number in [SERVICE_PORT, 8443] {
        cluster.meets_by(&["tcp"], NEAR, &own, number, &["a", "b"]);
    }
    cluster.patch(STEADY, name, &json!({"spec": {"ports": [more()]}}));
    cluster.meets_by(&["tcp"], NEAR, &own, 8443, &["a", "b"]);
    cluster.meets_nobody(NEAR, &own, SERVICE_PORT, None);
}

/// Its rules: the lab's kernel need not have SCTP.
fn should_allow_creating_a_basic_sctp_service_with_pod_and_endpoints(cluster: &Cluster) {
    let sctp = json!({"ports": [port("call", 5060, json!(PORT), "SCTP")]});
    cluster.apply(STEADY, &[service("sctp", &sctp)]);
    let own = cluster.ips(STEADY, "sctp");
    let pods = cluster.lab.pod_ips(STEADY, "a");
    for node in ["node-1", "node-2"] {
        crate::lab::eventually("its rules are there", || {
            let listed = match std::ptr::eq(cluster, &*super::IPTABLES) {
                true => cluster.lab.sh(node, "iptables-save; ip6tables-save"),
                false => cluster.lab.exec(node, &["nft", "list", "ruleset"]),
            };
            crate::lab::expect(listed.result()?, |rules| {
                own.iter().chain(&pods).all(|address| {
                    let mut lines = rules.lines();
                    lines.any(|line| line.contains(address.as_str()) && line.contains("sctp"))
                })
            })
        });
    }
}
