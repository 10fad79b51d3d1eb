//! The port where a load balancer asks a node whether it has endpoints.

use serde_json::json;

use super::policies::{last_one_ends, lingers};
use super::{Cluster, NEAR, SERVICE_PORT, service, with_each_back_end};
use crate::lab::{eventually, expect};

with_each_back_end![
    should_fail_health_check_node_port_if_there_are_only_terminating_endpoints,
    events_should_say_that_another_program_has_the_health_check_node_port,
];

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

/// From the part of the range that nobody is given who does not ask for it.
const TAKEN: &str = "30017";

/// Listens at every address of both families until its input ends.
const PROGRAM: &str = "import socket, sys\n\
    taken = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)\n\
    print('listens', flush=True)\n\
    sys.stdin.read()";

fn events_should_say_that_another_program_has_the_health_check_node_port(cluster: &Cluster) {
    let namespace = "health-check-taken";
    cluster.lab.namespace(namespace);
    let program = ["python3", "-c", PROGRAM, TAKEN];
    let other = cluster.lab.start("node-1", &program);
    other.line("it listens", |line| line == "listens");
    let number: u16 = TAKEN.parse().unwrap();
    let spec = json!({
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": number,
    });
    cluster.apply(namespace, &[service("taken", &spec)]);
    let told = format!("node-1 failed to start healthcheck \"{namespace}/taken\" on port {TAKEN}");
    eventually("an event says whose port it is", || {
        let events = cluster.lab.field(
            &[
                "-n",
                namespace,
                "events",
                "--field-selector",
                "involvedObject.kind=Service,involvedObject.name=taken,type=Warning",
            ],
            "{range .items[*]}{.reason}: {.message}{\"\\n\"}{end}",
        )?;
        expect(events, |events| {
            let lines = events.lines();
            let mut said = lines.filter(|line| line.starts_with("FailedToStartServiceHealthcheck"));
            said.any(|line| line.contains(&told))
        })
    });
    // The other node has it.
    answers(cluster, "node-2", TAKEN, "503");
    drop(other);
    answers(cluster, "node-1", TAKEN, "503");
}
