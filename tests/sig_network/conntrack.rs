//! Datagrams that go on while servers come and go (upstream's "Conntrack").

use serde_json::json;

use super::{Cluster, FAR, SERVICE_PORT, service, with_each_back_end};
use crate::lab::probe::PORT;

with_each_back_end![
    should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_cluster_ip_service,
    should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_nodeport_service,
    should_be_able_to_preserve_udp_traffic_when_initial_unready_endpoints_get_ready,
    datagrams_to_a_port_of_the_node_should_find_the_service_that_gets_it,
];

/// Sends from one socket without a pause, and says whenever somebody else answers.
const TALK: &str = include_str!("talk.py");

/// One client talks on; who answers is ready, goes, and is replaced.
#[track_caller]
fn cycles(cluster: &Cluster, namespace: &str, kind: &str) {
    // Beyond the node that the client asks: that forgets by itself what it has masqueraded to a
    // link of its own that went.
    let [first, second] = match kind {
        "NodePort" => ["node-2", "node-1"],
        _ => ["node-1", "node-2"],
    };
    cluster.namespace(namespace, &[("first", first)]);
    cluster.apply(namespace, &[service("udp", &json!({"type": kind}))]);
    let (from, to, port) = match kind {
        "NodePort" => {
            let number = cluster.node_port(namespace, "udp", "talk");
            ("outside", cluster.lab.node_ips("node-1"), number)
        }
        _ => (FAR, cluster.ips(namespace, "udp"), SERVICE_PORT),
    };
    let talks: Vec<_> = to
        .iter()
        .map(|to| {
            let port = port.to_string();
            cluster.lab.start(from, &["python3", "-c", TALK, to, &port])
        })
        .collect();
    for talk in &talks {
        talk.line("the first answers", |line| line == "first");
    }
    cluster.servers(namespace, &[("second", second)]);
    cluster.delete(namespace, &["pod", "first"]);
    for talk in &talks {
        talk.line("the second answers", |line| line == "second");
    }
}

fn should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_cluster_ip_service(
    cluster: &Cluster,
) {
    cycles(cluster, "udp-cluster-ip", "ClusterIP");
}

fn should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_nodeport_service(
    cluster: &Cluster,
) {
    cycles(cluster, "udp-nodeport", "NodePort");
}

/// The client talks before anybody listens.
fn should_be_able_to_preserve_udp_traffic_when_initial_unready_endpoints_get_ready(
    cluster: &Cluster,
) {
    let namespace = "udp-unready";
    cluster.lab.namespace(namespace);
    cluster.apply(namespace, &[service("udp", &json!({"type": "NodePort"}))]);
    let number = cluster.node_port(namespace, "udp", "talk").to_string();
    let node = cluster.lab.node_ips("node-1");
    let talks: Vec<_> = node
        .iter()
        .map(|to| {
            cluster
                .lab
                .start("outside", &["python3", "-c", TALK, to, &number])
        })
        .collect();
    for talk in &talks {
        talk.line("nobody answers", |line| line == "nobody");
    }
    cluster.servers(namespace, &[("late", "node-2")]);
    for talk in &talks {
        talk.line("it answers", |line| line == "late");
    }
}

/// From the part of the range that nobody is given who does not ask for it.
const LATER: u16 = 30018;

/// The node itself knows the connection, to a port where nobody listens.
fn datagrams_to_a_port_of_the_node_should_find_the_service_that_gets_it(cluster: &Cluster) {
    let namespace = "udp-later";
    cluster.namespace(namespace, &[("late", "node-2")]);
    let talks: Vec<_> = (cluster.lab.node_ips("node-1").iter())
        .map(|to| {
            let talk = ["python3", "-c", TALK, to, &LATER.to_string()];
            cluster.lab.start("outside", &talk)
        })
        .collect();
    for talk in &talks {
        talk.line("nobody answers", |line| line == "nobody");
    }
    let port = json!({
        "name": "talk", "port": SERVICE_PORT, "targetPort": PORT, "protocol": "UDP",
        "nodePort": LATER,
    });
    let spec = json!({"type": "NodePort", "ports": [port]});
    cluster.apply(namespace, &[service("udp", &spec)]);
    for talk in &talks {
        talk.line("it answers", |line| line == "late");
    }
}
