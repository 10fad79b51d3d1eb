//! A Service changes its type.

use serde_json::{Value, json};

use super::{Cluster, FAR, NEAR, SERVICE_PORT, STEADY, service, with_each_back_end};
use crate::lab::{eventually, expect};

with_each_back_end![
    should_be_able_to_change_the_type_from_external_name_to_cluster_ip,
    should_be_able_to_change_the_type_from_external_name_to_nodeport,
    should_be_able_to_change_the_type_from_cluster_ip_to_external_name,
    should_be_able_to_change_the_type_from_nodeport_to_external_name,
    should_be_able_to_update_service_type_to_nodeport_listening_on_same_port_number_but_different_protocols,
    should_be_able_to_change_the_type_and_ports_of_a_service,
];

fn alias(name: &str, to: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "ExternalName", "externalName": to},
    })
}

/// An alias becomes a Service with an address of its own.
#[track_caller]
fn becomes(cluster: &Cluster, name: &str, kind: &str) {
    cluster.apply(STEADY, &[alias(name, "foo.example.com")]);
    assert!(cluster.ips(STEADY, name).is_empty());
    let mut spec = service(name, &json!({"type": kind}))["spec"].take();
    spec["externalName"] = Value::Null;
    cluster.patch(STEADY, name, &json!({"spec": spec}));
    for from in [NEAR, FAR] {
        cluster.meets(from, &cluster.ips(STEADY, name), SERVICE_PORT, &["a", "b"]);
    }
}

fn should_be_able_to_change_the_type_from_external_name_to_cluster_ip(cluster: &Cluster) {
    becomes(cluster, "alias-to-cluster-ip", "ClusterIP");
}

fn should_be_able_to_change_the_type_from_external_name_to_nodeport(cluster: &Cluster) {
    let name = "alias-to-nodeport";
    becomes(cluster, name, "NodePort");
    let number = cluster.node_port(STEADY, name, "web");
    cluster.meets_by(
        &["tcp"],
        "outside",
        &cluster.lab.node_ips("node-2"),
        number,
        &["a", "b"],
    );
}

/// A Service becomes an alias of another one: its name leads there, its address and ports
/// nowhere.
#[track_caller]
fn becomes_alias(cluster: &Cluster, name: &str, kind: &str) {
    let target = format!("{name}-target");
    let both = [
        service(name, &json!({"type": kind})),
        service(&target, &json!({})),
    ];
    cluster.apply(STEADY, &both);
    let own = cluster.ips(STEADY, name);
    cluster.meets(NEAR, &own, SERVICE_PORT, &["a", "b"]);
    let node_port = (kind == "NodePort").then(|| cluster.node_port(STEADY, name, "web"));
    let full = format!("{target}.{STEADY}.svc.cluster.local");
    let spec = json!({
        "type": "ExternalName",
        "externalName": full,
        "clusterIP": null,
        "clusterIPs": null,
        "ipFamilies": null,
        "ipFamilyPolicy": null,
        "ports": null,
        "selector": null,
    });
    cluster.patch(STEADY, name, &json!({"spec": spec}));
    let own_name = format!("{name}.{STEADY}.svc.cluster.local");
    eventually("the name is the other's", || {
        let said = cluster
            .lab
            .exec(NEAR, &["dig", "+short", &own_name, "CNAME"])
            .result()?;
        expect(said, |said| said.trim() == format!("{full}."))
    });
    cluster.meets(NEAR, &[own_name], SERVICE_PORT, &["a", "b"]);
    cluster.meets_nobody(NEAR, &own, SERVICE_PORT, None);
    if let Some(number) = node_port {
        let node = cluster.lab.node_ips("node-1");
        cluster.meets_nobody("outside", &node, number, Some("refused"));
    }
}

fn should_be_able_to_change_the_type_from_cluster_ip_to_external_name(cluster: &Cluster) {
    becomes_alias(cluster, "cluster-ip-to-alias", "ClusterIP");
}

fn should_be_able_to_change_the_type_from_nodeport_to_external_name(cluster: &Cluster) {
    becomes_alias(cluster, "nodeport-to-alias", "NodePort");
}

/// From the part of the range that nobody is given who does not ask for it.
const SAME: u16 = 30019;

fn should_be_able_to_update_service_type_to_nodeport_listening_on_same_port_number_but_different_protocols(
    cluster: &Cluster,
) {
    let name = "to-nodeport";
    let port = json!({"ports": [
        {"name": "web", "port": SERVICE_PORT, "targetPort": super::PORT, "protocol": "TCP"},
    ]});
    cluster.apply(STEADY, &[service(name, &port)]);
    let own = cluster.ips(STEADY, name);
    cluster.meets_by(&["tcp"], NEAR, &own, SERVICE_PORT, &["a", "b"]);
    let mut spec = service(name, &json!({"type": "NodePort"}))["spec"].take();
    for port in spec["ports"].as_array_mut().unwrap() {
        port["nodePort"] = json!(SAME);
    }
    cluster.patch(STEADY, name, &json!({"spec": spec}));
    cluster.meets(FAR, &own, SERVICE_PORT, &["a", "b"]);
    for node in ["node-1", "node-2"] {
        cluster.meets("outside", &cluster.lab.node_ips(node), SAME, &["a", "b"]);
    }
}

/// ClusterIP, NodePort, other node port, LoadBalancer, other port, and back.
fn should_be_able_to_change_the_type_and_ports_of_a_service(cluster: &Cluster) {
    let name = "mutable";
    cluster.apply(STEADY, &[service(name, &json!({}))]);
    let own = cluster.ips(STEADY, name);
    cluster.meets(NEAR, &own, SERVICE_PORT, &["a", "b"]);
    cluster.patch(STEADY, name, &json!({"spec": {"type": "NodePort"}}));
    let node = cluster.lab.node_ips("node-1");
    let first = cluster.node_port(STEADY, name, "web");
    cluster.meets_by(&["tcp"], "outside", &node, first, &["a", "b"]);

    let spec = service(name, &json!({"type": "LoadBalancer"}))["spec"].take();
    cluster.patch(STEADY, name, &json!({"spec": {"type": spec["type"]}}));
    let balanced = cluster.balance(STEADY, name, 40);
    cluster.meets("outside", &balanced, SERVICE_PORT, &["a", "b"]);
    cluster.meets_by(&["tcp"], "outside", &node, first, &["a", "b"]);

    let mut ports = spec["ports"].clone();
    for port in ports.as_array_mut().unwrap() {
        port["port"] = json!(81);
    }
    cluster.patch(STEADY, name, &json!({"spec": {"ports": ports}}));
    cluster.meets("outside", &balanced, 81, &["a", "b"]);
    cluster.meets(NEAR, &own, 81, &["a", "b"]);
    cluster.meets_nobody(NEAR, &own, SERVICE_PORT, None);

    let second = cluster.node_port(STEADY, name, "web");
    let mut bare = ports.clone();
    for port in bare.as_array_mut().unwrap() {
        port["nodePort"] = Value::Null;
    }
    cluster.patch(
        STEADY,
        name,
        &json!({"spec": {"type": "ClusterIP", "ports": bare}}),
    );
    cluster.meets_nobody("outside", &node, second, Some("refused"));
    cluster.meets(NEAR, &own, 81, &["a", "b"]);
}
