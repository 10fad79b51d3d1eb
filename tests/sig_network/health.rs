//! The port where a load balancer asks a node whether it has endpoints.

use serde_json::json;

use super::policies::{last_one_ends, lingers};
use super::{Cluster, NEAR, SERVICE_PORT, service, with_each_back_end};
use crate::lab::{eventually, expect};

with_each_back_end![should_fail_health_check_node_port_if_there_are_only_terminating_endpoints];

/// Waits until a node answers a balancer's question with this code, at each of its addresses.
#[track_caller]
fn answers(cluster: &Cluster, node: &str, number: &str, code: &str) {
    for address in cluster.lab.node_ips(node) {
        let host = match address.contains(':') {
            true => format!("[{address}]"),
            false => address,
        };
        eventually(&format!("{node} answers {code} at {host}"), || {
            let ask = format!(
                "curl -gs -o /dev/null -w '%{{http_code}}' --max-time 5 http://{host}:{number}/"
            );
            expect(cluster.lab.sh("outside", &ask).result()?, |found| {
                found == code
            })
        });
    }
}

fn should_fail_health_check_node_port_if_there_are_only_terminating_endpoints(cluster: &Cluster) {
    let namespace = "health-check";
    lingers(cluster, namespace);
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    cluster.apply(namespace, &[service("checked", &spec)]);
    let of = ["-n", namespace, "service", "checked"];
    let number = cluster
        .lab
        .field(&of, "{.spec.healthCheckNodePort}")
        .unwrap();
    let balanced = cluster.balance(namespace, "checked", 70);
    cluster.meets("outside", &balanced, SERVICE_PORT, &["last"]);
    answers(cluster, "node-1", &number, "200");
    answers(cluster, "node-2", &number, "503");
    last_one_ends(cluster, namespace);
    // It still serves, and no balancer should send anybody new.
    answers(cluster, "node-1", &number, "503");
    for from in [NEAR, "outside"] {
        cluster.meets(from, &balanced, SERVICE_PORT, &["last"]);
    }
    cluster.servers(namespace, &[("next", "node-2")]);
    answers(cluster, "node-2", &number, "200");
    answers(cluster, "node-1", &number, "503");
}
