//! `sessionAffinity: ClientIP`.

use serde_json::{Value, json};

use super::{Cluster, FAR, NEAR, SERVICE_PORT, STEADY, external, service, with_each_back_end};
use crate::lab::{eventually, expect};

with_each_back_end![
    should_have_session_affinity_work_for_service_with_type_cluster_ip,
    should_be_able_to_switch_session_affinity_for_service_with_type_cluster_ip,
    should_have_session_affinity_timeout_work_for_service_with_type_cluster_ip,
    should_have_session_affinity_work_for_nodeport_service,
    should_be_able_to_switch_session_affinity_for_nodeport_service,
    should_have_session_affinity_timeout_work_for_nodeport_service,
    should_have_session_affinity_work_for_loadbalancer_service,
];

fn sticky(seconds: u32) -> Value {
    json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
    })
}

/// Whether a client meets one server for ever, at each address.
#[track_caller]
fn stays(cluster: &Cluster, from: &str, to: &[String], port: u16, wanted: bool) {
    for to in to {
        eventually(
            &format!("{from} stays with one server at {to}: {wanted}"),
            || {
                let met = cluster.row(from, to, port)?;
                let same = met.iter().all(|name| *name == met[0]);
                expect((same, met), |(same, _)| *same == wanted)
            },
        );
    }
}

/// A client that has been away for longer than its time meets another, once.
#[track_caller]
fn forgets(cluster: &Cluster, from: &str, to: &str, port: u16) {
    let script = format!(
        "import socket, sys, time\n\
         met = set()\n\
         deadline = time.monotonic() + 60\n\
         while len(met) < 2 and time.monotonic() < deadline:\n\
         \x20   with socket.create_connection(({to:?}, {port}), 10) as asking:\n\
         \x20       met.add(asking.recv(512).split()[3])\n\
         \x20   # The time itself is what is looked at: each connection begins it anew.\n\
         \x20   time.sleep(1.5)\n\
         print(len(met))"
    );
    let said = cluster.lab.exec(from, &["python3", "-c", &script]).ok();
    assert_eq!(said, "2\n");
}

fn should_have_session_affinity_work_for_service_with_type_cluster_ip(cluster: &Cluster) {
    cluster.apply(STEADY, &[service("affinity", &sticky(600))]);
    let own = cluster.ips(STEADY, "affinity");
    for from in [NEAR, FAR, "node-1"] {
        stays(cluster, from, &own, SERVICE_PORT, true);
    }
}

fn should_be_able_to_switch_session_affinity_for_service_with_type_cluster_ip(cluster: &Cluster) {
    cluster.apply(STEADY, &[service("affinity-transition", &json!({}))]);
    let own = cluster.ips(STEADY, "affinity-transition");
    stays(cluster, NEAR, &own, SERVICE_PORT, false);
    cluster.patch(STEADY, "affinity-transition", &json!({"spec": sticky(600)}));
    stays(cluster, NEAR, &own, SERVICE_PORT, true);
    let off = json!({"spec": {"sessionAffinity": "None", "sessionAffinityConfig": null}});
    cluster.patch(STEADY, "affinity-transition", &off);
    stays(cluster, NEAR, &own, SERVICE_PORT, false);
}

fn should_have_session_affinity_timeout_work_for_service_with_type_cluster_ip(cluster: &Cluster) {
    cluster.apply(STEADY, &[service("affinity-timeout", &sticky(1))]);
    let own = cluster.ips(STEADY, "affinity-timeout");
    for to in &own {
        first(cluster, NEAR, to, SERVICE_PORT);
        forgets(cluster, NEAR, to, SERVICE_PORT);
    }
}

/// Whom a client meets first.
#[track_caller]
fn first(cluster: &Cluster, from: &str, to: &str, port: u16) -> String {
    eventually("somebody answers", || {
        Ok(cluster.row(from, to, port)?[0].clone())
    })
}

fn should_have_session_affinity_work_for_nodeport_service(cluster: &Cluster) {
    let spec = super::merged(sticky(600), &json!({"type": "NodePort"}));
    cluster.apply(STEADY, &[service("affinity-nodeport", &spec)]);
    let number = cluster.node_port(STEADY, "affinity-nodeport", "web");
    let node = cluster.lab.node_ips("node-1");
    for from in [NEAR, "outside"] {
        stays(cluster, from, &node, number, true);
    }
}

fn should_be_able_to_switch_session_affinity_for_nodeport_service(cluster: &Cluster) {
    let name = "affinity-nodeport-transition";
    cluster.apply(STEADY, &[service(name, &json!({"type": "NodePort"}))]);
    let number = cluster.node_port(STEADY, name, "web");
    let node = cluster.lab.node_ips("node-1");
    stays(cluster, "outside", &node, number, false);
    cluster.patch(STEADY, name, &json!({"spec": sticky(600)}));
    stays(cluster, "outside", &node, number, true);
    let off = json!({"spec": {"sessionAffinity": "None", "sessionAffinityConfig": null}});
    cluster.patch(STEADY, name, &off);
    stays(cluster, "outside", &node, number, false);
}

fn should_have_session_affinity_timeout_work_for_nodeport_service(cluster: &Cluster) {
    let spec = super::merged(sticky(1), &json!({"type": "NodePort"}));
    cluster.apply(STEADY, &[service("affinity-nodeport-timeout", &spec)]);
    let number = cluster.node_port(STEADY, "affinity-nodeport-timeout", "web");
    let node = cluster.lab.node_ips("node-1");
    first(cluster, "outside", &node[0], number);
    forgets(cluster, "outside", &node[0], number);
}

fn should_have_session_affinity_work_for_loadbalancer_service(cluster: &Cluster) {
    let spec = super::merged(sticky(600), &json!({"type": "LoadBalancer"}));
    cluster.apply(STEADY, &[service("affinity-balanced", &spec)]);
    let balanced = cluster.balance(STEADY, "affinity-balanced", 30);
    assert_eq!(balanced, external(30));
    for from in [NEAR, "outside"] {
        stays(cluster, from, &balanced, SERVICE_PORT, true);
    }
}
