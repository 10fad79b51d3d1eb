//! Traffic policies, and endpoints that are about to end.

use serde_json::{Value, json};

use super::{Cluster, FAR, NEAR, SERVICE_PORT, STEADY, service, with_each_back_end};
use crate::lab::probe::{self, Met};
use crate::lab::{eventually, expect};

with_each_back_end![
    should_respect_internal_traffic_policy_local_pod_to_pod,
    should_respect_internal_traffic_policy_local_pod_and_node_to_pod_host_network,
    should_support_external_traffic_policy_local_for_type_nodeport,
    should_work_for_type_loadbalancer_with_external_traffic_policy_local,
    should_handle_updates_to_external_traffic_policy_field,
    should_fallback_to_terminating_endpoints_when_there_are_no_ready_endpoints,
    should_fallback_to_local_terminating_endpoints_when_there_are_no_ready_endpoints,
];

fn should_respect_internal_traffic_policy_local_pod_to_pod(cluster: &Cluster) {
    let spec = json!({"selector": {"app": "a"}, "internalTrafficPolicy": "Local"});
    cluster.apply(STEADY, &[service("internal-local", &spec)]);
    let own = cluster.ips(STEADY, "internal-local");
    // From pods and from the nodes themselves (pods of the host's network are no different).
    for from in [NEAR, "node-1"] {
        cluster.meets(from, &own, SERVICE_PORT, &["a"]);
    }
    for from in [FAR, "node-2"] {
        // What a rule drops before it leaves the node its sender is told of.
        cluster.meets_nobody(from, &own, SERVICE_PORT, None);
    }
    cluster.meets_nobody(FAR, &own, SERVICE_PORT, Some("timeout"));
    cluster.patch(
        STEADY,
        "internal-local",
        &json!({"spec": {"internalTrafficPolicy": "Cluster"}}),
    );
    for from in [FAR, "node-2"] {
        cluster.meets(from, &own, SERVICE_PORT, &["a"]);
    }
}

fn should_respect_internal_traffic_policy_local_pod_and_node_to_pod_host_network(
    cluster: &Cluster,
) {
    let namespace = "on-the-host";
    cluster.lab.namespace(namespace);
    let mut pod = probe::pod("on-host", "node-1");
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["containers"] = json!([probe::container(&[7010])]);
    cluster.apply(namespace, &[pod]);
    let ports = |target: u16| {
        json!([
            {"name": "web", "port": SERVICE_PORT, "targetPort": target, "protocol": "TCP"},
            {"name": "talk", "port": SERVICE_PORT, "targetPort": target, "protocol": "UDP"},
        ])
    };
    let spec = json!({"internalTrafficPolicy": "Local", "ports": ports(7010)});
    cluster.apply(namespace, &[service("host", &spec)]);
    cluster.lab.pods_ready(namespace, "");
    let own = cluster.ips(namespace, "host");
    let host = cluster.lab.exec("node-1", &["uname", "-n"]).ok();
    for from in [NEAR, "node-1"] {
        cluster.meets(from, &own, SERVICE_PORT, &[host.trim()]);
    }
    cluster.meets_nobody(FAR, &own, SERVICE_PORT, Some("timeout"));
}

fn should_support_external_traffic_policy_local_for_type_nodeport(cluster: &Cluster) {
    let spec = json!({
        "type": "NodePort",
        "selector": {"app": "a"},
        "externalTrafficPolicy": "Local",
    });
    cluster.apply(STEADY, &[service("external-local", &spec)]);
    let number = cluster.node_port(STEADY, "external-local", "web");
    let [first, second] = ["node-1", "node-2"].map(|node| cluster.lab.node_ips(node));
    for met in cluster.meets_by(&["tcp"], "outside", &first, number, &["a"]) {
        assert!(keeps_address(&met), "{met:?}");
    }
    eventually("a node without endpoint answers nothing", || {
        let met = probe::ask(
            &cluster.lab,
            "outside",
            &super::asks(&["tcp"], &second, number, 1),
        );
        expect(met, |met| {
            met.iter()
                .flatten()
                .all(|met| met.failure() == Some("timeout"))
        })
    });
    // A node's own pods and the node itself reach it all the same.
    for from in [FAR, "node-2"] {
        cluster.meets_by(&["tcp"], from, &second, number, &["a"]);
    }
}

fn should_work_for_type_loadbalancer_with_external_traffic_policy_local(cluster: &Cluster) {
    let spec = json!({
        "type": "LoadBalancer",
        "selector": {"app": "a"},
        "externalTrafficPolicy": "Local",
    });
    cluster.apply(STEADY, &[service("balanced-local", &spec)]);
    let balanced = cluster.balance(STEADY, "balanced-local", 50);
    for met in cluster.meets("outside", &balanced, SERVICE_PORT, &["a"]) {
        assert!(keeps_address(&met), "{met:?}");
    }
    for from in [NEAR, FAR, "node-1", "node-2"] {
        cluster.meets(from, &balanced, SERVICE_PORT, &["a"]);
    }
    cluster.patch(
        STEADY,
        "balanced-local",
        &json!({"spec": {"selector": {"app": "b"}}}),
    );
    // They come to node-1.
    cluster.meets_nobody("outside", &balanced, SERVICE_PORT, Some("timeout"));
}

fn should_handle_updates_to_external_traffic_policy_field(cluster: &Cluster) {
    let spec = json!({"type": "NodePort", "selector": {"app": "a"}});
    cluster.apply(STEADY, &[service("policy", &spec)]);
    let number = cluster.node_port(STEADY, "policy", "web");
    let node = cluster.lab.node_ips("node-1");
    for (policy, kept) in [("Local", true), ("Cluster", false)] {
        let patch = json!({"spec": {"externalTrafficPolicy": policy}});
        cluster.patch(STEADY, "policy", &patch);
        eventually(&format!("sources are as with {policy}"), || {
            let asks = super::asks(&["tcp"], &node, number, 3);
            let met = probe::ask(&cluster.lab, "outside", &asks).concat();
            expect(met, |met| {
                super::names(met).is_some() && met.iter().all(|met| keeps_address(met) == kept)
            })
        });
    }
}

/// Whether the server sees the client's own address. The port may be another: the kernel gives
/// no two connections the same ends.
fn keeps_address(met: &Met) -> bool {
    let answer = met.answer();
    answer.from == answer.local
}

/// A server that goes on while it ends.
fn lingering(name: &str, node: &str) -> Value {
    let mut pod = probe::pod(name, node);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(600);
    let serve = pod["spec"]["containers"][0]["command"].take();
    let ignoring = ["sh", "-c", "trap '' TERM; exec \"$0\" \"$@\""];
    pod["spec"]["containers"][0]["command"] = ignoring
        .iter()
        .map(|word| json!(word))
        .chain(serve.as_array().unwrap().iter().cloned())
        .collect();
    pod
}

#[track_caller]
pub(super) fn lingers(cluster: &Cluster, namespace: &str) {
    cluster.lab.namespace(namespace);
    cluster.apply(namespace, &[lingering("last", "node-1")]);
    cluster.lab.pods_ready(namespace, "");
}

#[track_caller]
pub(super) fn last_one_ends(cluster: &Cluster, namespace: &str) {
    cluster.delete(namespace, &["pod", "last"]);
    eventually("the slices know that it ends", || {
        let found = cluster.lab.field(
            &["-n", namespace, "endpointslices"],
            "{range .items[*].endpoints[*].conditions}{.ready} {.serving} {.terminating},{end}",
        )?;
        let all = |text: &String| text.split_terminator(',').all(|it| it == "false true true");
        expect(found, |text| !text.is_empty() && all(text))
    });
}

/// With every policy Cluster.
fn should_fallback_to_terminating_endpoints_when_there_are_no_ready_endpoints(cluster: &Cluster) {
    let namespace = "lingering";
    lingers(cluster, namespace);
    cluster.apply(
        namespace,
        &[service("fading", &json!({"type": "NodePort"}))],
    );
    let own = cluster.ips(namespace, "fading");
    let number = cluster.node_port(namespace, "fading", "web");
    let nodes = ["node-1", "node-2"]
        .map(|node| cluster.lab.node_ips(node))
        .concat();
    cluster.meets(FAR, &own, SERVICE_PORT, &["last"]);
    last_one_ends(cluster, namespace);
    for from in [NEAR, FAR, "node-2"] {
        cluster.meets(from, &own, SERVICE_PORT, &["last"]);
    }
    cluster.meets_by(&["tcp"], "outside", &nodes, number, &["last"]);
    // Somebody new takes over at once.
    cluster.servers(namespace, &[("next", "node-2")]);
    for from in [NEAR, FAR] {
        cluster.meets(from, &own, SERVICE_PORT, &["next"]);
    }
    cluster.meets_by(&["tcp"], "outside", &nodes, number, &["next"]);
}

/// With every policy Local.
fn should_fallback_to_local_terminating_endpoints_when_there_are_no_ready_endpoints(
    cluster: &Cluster,
) {
    let namespace = "lingering-here";
    lingers(cluster, namespace);
    let spec = json!({
        "type": "NodePort",
        "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local",
    });
    cluster.apply(namespace, &[service("fading", &spec)]);
    let own = cluster.ips(namespace, "fading");
    let number = cluster.node_port(namespace, "fading", "web");
    let node = cluster.lab.node_ips("node-1");
    cluster.meets(NEAR, &own, SERVICE_PORT, &["last"]);
    last_one_ends(cluster, namespace);
    cluster.meets(NEAR, &own, SERVICE_PORT, &["last"]);
    cluster.meets_by(&["tcp"], "outside", &node, number, &["last"]);
    // Somebody new elsewhere makes no difference here.
    cluster.servers(namespace, &[("next", "node-2")]);
    cluster.meets(FAR, &own, SERVICE_PORT, &["next"]);
    cluster.meets(NEAR, &own, SERVICE_PORT, &["last"]);
    cluster.meets_by(&["tcp"], "outside", &node, number, &["last"]);
}
