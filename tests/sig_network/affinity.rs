//! `sessionAffinity: ClientIP`.

use std::collections::BTreeSet;
use std::slice;

use serde_json::{Value, json};

use super::{Cluster, FAR, NEAR, SERVICE_PORT, STEADY, external, service, with_each_back_end};
use crate::lab::probe;
use crate::lab::{eventually, expect};

with_each_back_end![
    should_have_session_affinity_work_for_service_with_type_cluster_ip,
    should_be_able_to_switch_session_affinity_for_service_with_type_cluster_ip,
    should_have_session_affinity_timeout_work_for_service_with_type_cluster_ip,
    should_have_session_affinity_work_for_nodeport_service,
    should_be_able_to_switch_session_affinity_for_nodeport_service,
    should_have_session_affinity_timeout_work_for_nodeport_service,
    should_have_session_affinity_work_for_loadbalancer_service,
    clients_should_be_given_another_server_when_theirs_is_gone,
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
fn forgets(cluster: &Cluster, from: &str, service: &str, to: &str, port: u16) {
    let mut met = BTreeSet::new();
    eventually(
        &format!("{from} meets another server at {to} when its time is over"),
        || {
            expect(remembered(cluster, service, to, port)?, Vec::is_empty)?;
            let asks = super::asks(&["tcp"], &[to.to_owned()], port, 1);
            let answers = probe::ask(&cluster.lab, from, &asks).concat();
            met.extend(
                super::names(&answers)
                    .into_iter()
                    .flatten()
                    .map(str::to_owned),
            );
            expect(&met, |met| met.len() == 2).map(drop)
        },
    );
}

/// Whom node-1 would send to the server they had, with an affinity of a second.
fn remembered(
    cluster: &Cluster,
    service: &str,
    to: &str,
    port: u16,
) -> Result<Vec<String>, String> {
    let (ip, iptables) = match to.contains(':') {
        true => ("ip6", "ip6tables-save"),
        false => ("ip", "iptables-save"),
    };
    let on_node = |command: &[&str]| cluster.lab.exec("node-1", command).result();
    if !std::ptr::eq(cluster, &*super::IPTABLES) {
        let listed = on_node(&["nft", "list", "map", ip, "weft", "affinity"])?;
        let key = format!(" . {to} . tcp . {port} ");
        let clients = listed.split(',').filter(|it| it.contains(&key));
        return Ok(clients.map(str::to_owned).collect());
    }
    let label = format!("{STEADY}/{service}:web");
    let rules = on_node(&[iptables, "-t", "nat"])?;
    let lists: BTreeSet<&str> = rules
        .lines()
        .filter(|rule| rule.contains(&label))
        .filter_map(|rule| rule.split_once("--name ")?.1.split(' ').next())
        .collect();
    expect(&lists, |lists| lists.len() == 2)?;
    let clock = on_node(&["grep", "-m1", "^jiffies:", "/proc/timer_list"])?;
    let now = ticks(&clock).ok_or(clock.clone())?;
    let files = lists
        .iter()
        .map(|list| format!("/proc/net/xt_recent/{list}"));
    let files: Vec<String> = files.collect();
    let clients = on_node(
        &["cat"]
            .into_iter()
            .chain(files.iter().map(String::as_str))
            .collect::<Vec<_>>(),
    )?;
    let clients = clients.lines().filter(|client| {
        let seen = client
            .split_once("last_seen:")
            .and_then(|(_, it)| ticks(it));
        // No kernel's clock has more than a thousand ticks a second.
        seen.is_none_or(|seen| now <= seen + 1000)
    });
    Ok(clients.map(str::to_owned).collect())
}

/// The first number of a text.
fn ticks(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    words.find_map(|word| word.parse().ok())
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
        forgets(cluster, NEAR, "affinity-timeout", to, SERVICE_PORT);
    }
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
    let name = "affinity-nodeport-timeout";
    cluster.apply(STEADY, &[service(name, &spec)]);
    let number = cluster.node_port(STEADY, name, "web");
    let node = cluster.lab.node_ips("node-1");
    forgets(cluster, "outside", name, &node[0], number);
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

fn clients_should_be_given_another_server_when_theirs_is_gone(cluster: &Cluster) {
    let (namespace, name) = ("affinity-gone", "sticky");
    let servers = [("one", "node-1"), ("two", "node-2")];
    cluster.namespace(namespace, &servers);
    let spec = super::merged(sticky(600), &json!({"type": "NodePort"}));
    cluster.apply(namespace, &[service(name, &spec)]);
    let number = cluster.node_port(namespace, name, "web");
    let inside = cluster.ips(namespace, name).into_iter();
    let outside = cluster.lab.node_ips("node-1").into_iter();
    let inside = inside.map(|to| (NEAR, to, SERVICE_PORT));
    for (from, to, port) in inside.chain(outside.map(|to| ("outside", to, number))) {
        stays(cluster, from, slice::from_ref(&to), port, true);
        let had = cluster.row(from, &to, port).unwrap().remove(0);
        cluster.delete(namespace, &["pod", &had]);
        eventually(&format!("{from} meets another at {to}"), || {
            let met = cluster.row(from, &to, port)?;
            let same = met.iter().all(|name| *name == met[0]);
            expect((same, met), |(same, met)| *same && met[0] != had)
        });
        cluster.servers(namespace, &servers);
    }
}
