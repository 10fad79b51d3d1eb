//! Ways to a Service that work.

use serde_json::json;

use super::{
    Cluster, EXTERNAL_RANGES, FAR, NEAR, SERVICE_PORT, STEADY, external, service,
    with_each_back_end,
};
use crate::lab::{Lab, eventually, expect};

with_each_back_end![
    should_function_for_pod_service,
    should_function_for_node_service,
    should_function_for_endpoint_service,
    should_function_for_multiple_endpoint_services_with_same_selector,
    should_be_able_to_create_a_functioning_nodeport_service,
    should_preserve_source_pod_ip_for_traffic_thru_service_cluster_ip,
    should_allow_pods_to_hairpin_back_to_themselves_through_services,
    should_be_possible_to_connect_to_a_service_via_external_ip_when_the_external_ip_is_not_assigned_to_a_node,
    should_be_able_to_up_and_down_services,
    should_work_after_restarting_kube_proxy,
    should_work_after_the_service_has_been_recreated,
    should_implement_service_proxy_name,
    should_implement_headless,
    should_only_allow_access_from_service_loadbalancer_source_ranges,
    should_provide_secure_master_service,
];

fn should_function_for_pod_service(cluster: &Cluster) {
    cluster.apply(
        STEADY,
        &[service("pod-service", &json!({"type": "NodePort"}))],
    );
    let own = cluster.ips(STEADY, "pod-service");
    assert_eq!(own.len(), 2);
    let number = cluster.node_port(STEADY, "pod-service", "web");
    let talk = cluster.node_port(STEADY, "pod-service", "talk");
    for from in [NEAR, FAR] {
        cluster.meets(from, &own, SERVICE_PORT, &["a", "b"]);
        for node in ["node-1", "node-2"] {
            let node = cluster.lab.node_ips(node);
            cluster.meets_by(&["tcp"], from, &node, number, &["a", "b"]);
            cluster.meets_by(&["udp"], from, &node, talk, &["a", "b"]);
        }
    }
}

fn should_function_for_node_service(cluster: &Cluster) {
    cluster.apply(
        STEADY,
        &[service("node-service", &json!({"type": "NodePort"}))],
    );
    let own = cluster.ips(STEADY, "node-service");
    let number = cluster.node_port(STEADY, "node-service", "web");
    let talk = cluster.node_port(STEADY, "node-service", "talk");
    for from in ["node-1", "node-2"] {
        cluster.meets(from, &own, SERVICE_PORT, &["a", "b"]);
        for node in ["node-1", "node-2"] {
            let node = cluster.lab.node_ips(node);
            cluster.meets_by(&["tcp"], from, &node, number, &["a", "b"]);
            cluster.meets_by(&["udp"], from, &node, talk, &["a", "b"]);
        }
    }
}

/// A client that is itself an endpoint.
fn should_function_for_endpoint_service(cluster: &Cluster) {
    cluster.apply(
        STEADY,
        &[service("endpoint-service", &json!({"type": "NodePort"}))],
    );
    let own = cluster.ips(STEADY, "endpoint-service");
    let number = cluster.node_port(STEADY, "endpoint-service", "web");
    let node = cluster.lab.node_ips("node-1");
    for from in ["steady/a", "steady/b"] {
        cluster.meets(from, &own, SERVICE_PORT, &["a", "b"]);
        cluster.meets_by(&["tcp"], from, &node, number, &["a", "b"]);
    }
}

fn should_function_for_multiple_endpoint_services_with_same_selector(cluster: &Cluster) {
    let two = ["twin-1", "twin-2"].map(|name| service(name, &json!({})));
    cluster.apply(STEADY, &two);
    for name in ["twin-1", "twin-2"] {
        cluster.meets(NEAR, &cluster.ips(STEADY, name), SERVICE_PORT, &["a", "b"]);
    }
    cluster.delete(STEADY, &["service", "twin-2"]);
    cluster.meets(
        NEAR,
        &cluster.ips(STEADY, "twin-1"),
        SERVICE_PORT,
        &["a", "b"],
    );
}

/// From beyond the cluster too, at every node.
fn should_be_able_to_create_a_functioning_nodeport_service(cluster: &Cluster) {
    cluster.apply(
        STEADY,
        &[service("node-port", &json!({"type": "NodePort"}))],
    );
    let number = cluster.node_port(STEADY, "node-port", "web");
    let talk = cluster.node_port(STEADY, "node-port", "talk");
    for node in ["node-1", "node-2"] {
        let node = cluster.lab.node_ips(node);
        cluster.meets_by(&["tcp"], "outside", &node, number, &["a", "b"]);
        cluster.meets_by(&["udp"], "outside", &node, talk, &["a", "b"]);
    }
}

fn should_preserve_source_pod_ip_for_traffic_thru_service_cluster_ip(cluster: &Cluster) {
    cluster.apply(STEADY, &[service("sourceip", &json!({}))]);
    let own = cluster.ips(STEADY, "sourceip");
    for (from, pod) in [(NEAR, "near"), (FAR, "far")] {
        let addresses = cluster.lab.pod_ips("clients", pod);
        for met in cluster.meets(from, &own, SERVICE_PORT, &["a", "b"]) {
            // The port may be another: the kernel gives no two connections the same ends.
            let answer = met.answer();
            assert!(addresses.contains(&answer.from), "{answer:?}");
        }
    }
}

fn should_allow_pods_to_hairpin_back_to_themselves_through_services(cluster: &Cluster) {
    let own = json!({"selector": {"app": "a"}});
    cluster.apply(STEADY, &[service("hairpin", &own)]);
    let node = cluster.lab.node_ips("node-1");
    let to = cluster.ips(STEADY, "hairpin");
    for met in cluster.meets("steady/a", &to, SERVICE_PORT, &["a"]) {
        // It would answer itself past the translation otherwise.
        assert!(node.contains(&met.answer().from), "{met:?}");
    }
}

fn should_be_possible_to_connect_to_a_service_via_external_ip_when_the_external_ip_is_not_assigned_to_a_node(
    cluster: &Cluster,
) {
    let addresses = external(250);
    let spec = json!({"externalIPs": addresses});
    cluster.apply(STEADY, &[service("external-ip", &spec)]);
    for from in [NEAR, FAR, "node-1", "node-2", "outside"] {
        cluster.meets(from, &addresses, SERVICE_PORT, &["a", "b"]);
    }
}

fn should_be_able_to_up_and_down_services(cluster: &Cluster) {
    let namespace = "up-and-down";
    cluster.namespace(namespace, &[("one", "node-1"), ("two", "node-2")]);
    let of = |name: &str| service(name, &json!({"selector": {"app": name}}));
    cluster.apply(namespace, &[of("one"), of("two")]);
    let [one, two] = ["one", "two"].map(|name| cluster.ips(namespace, name));
    for from in [NEAR, "node-2"] {
        cluster.meets(from, &one, SERVICE_PORT, &["one"]);
        cluster.meets(from, &two, SERVICE_PORT, &["two"]);
    }
    cluster.delete(namespace, &["service/one", "pod/one"]);
    for from in [NEAR, "node-2"] {
        cluster.meets_nobody(from, &one, SERVICE_PORT, None);
        cluster.meets(from, &two, SERVICE_PORT, &["two"]);
    }
    cluster.servers(namespace, &[("three", "node-1")]);
    cluster.apply(namespace, &[of("three")]);
    for from in [NEAR, "node-2"] {
        cluster.meets(
            from,
            &cluster.ips(namespace, "three"),
            SERVICE_PORT,
            &["three"],
        );
        cluster.meets(from, &two, SERVICE_PORT, &["two"]);
    }
}

/// What translates here is the agent; it is killed.
fn should_work_after_restarting_kube_proxy(cluster: &Cluster) {
    cluster.apply(STEADY, &[service("before-restart", &json!({}))]);
    let before = cluster.ips(STEADY, "before-restart");
    cluster.meets(FAR, &before, SERVICE_PORT, &["a", "b"]);
    for agent in cluster.lab.processes("weft agent") {
        cluster.lab.kill_part("weft agent", agent);
    }
    cluster.meets(FAR, &before, SERVICE_PORT, &["a", "b"]);
    cluster.apply(STEADY, &[service("after-restart", &json!({}))]);
    let after = cluster.ips(STEADY, "after-restart");
    for from in [NEAR, FAR, "node-1"] {
        cluster.meets(from, &before, SERVICE_PORT, &["a", "b"]);
        cluster.meets(from, &after, SERVICE_PORT, &["a", "b"]);
    }
}

fn should_work_after_the_service_has_been_recreated(cluster: &Cluster) {
    cluster.apply(STEADY, &[service("recreated", &json!({}))]);
    let own = cluster.ips(STEADY, "recreated");
    cluster.meets(FAR, &own, SERVICE_PORT, &["a", "b"]);
    cluster.delete(STEADY, &["service", "recreated"]);
    cluster.meets_nobody(FAR, &own, SERVICE_PORT, None);
    let same = json!({"clusterIP": own[0], "clusterIPs": own, "selector": {"app": "b"}});
    cluster.apply(STEADY, &[service("recreated", &same)]);
    for from in [NEAR, FAR] {
        cluster.meets(from, &own, SERVICE_PORT, &["b"]);
    }
}

fn should_implement_service_proxy_name(cluster: &Cluster) {
    labelled(
        cluster,
        "service.kubernetes.io/service-proxy-name",
        "foo-bar",
    );
}

fn should_implement_headless(cluster: &Cluster) {
    labelled(cluster, "service.kubernetes.io/headless", "");
}

/// A Service with the label is left alone; one without is not; and the label comes and goes.
fn labelled(cluster: &Cluster, label: &str, value: &str) {
    let [left, served, toggled] =
        ["left", "served", "toggled"].map(|name| format!("{name}-{}", label.len()));
    let marked = |name: &str| {
        let mut marked = service(name, &json!({}));
        marked["metadata"]["labels"] = json!({label: value});
        marked
    };
    cluster.apply(
        STEADY,
        &[
            marked(&left),
            service(&served, &json!({})),
            service(&toggled, &json!({})),
        ],
    );
    let nobody = |name: &str| {
        let to = cluster.ips(STEADY, name);
        cluster.meets_nobody(NEAR, &to, SERVICE_PORT, None);
    };
    let somebody = |name: &str| {
        let to = cluster.ips(STEADY, name);
        cluster.meets(NEAR, &to, SERVICE_PORT, &["a", "b"]);
    };
    somebody(&served);
    somebody(&toggled);
    nobody(&left);
    cluster.patch(
        STEADY,
        &toggled,
        &json!({"metadata": {"labels": {label: value}}}),
    );
    nobody(&toggled);
    cluster.patch(
        STEADY,
        &toggled,
        &json!({"metadata": {"labels": {label: null}}}),
    );
    somebody(&toggled);
    nobody(&left);
    somebody(&served);
}

fn should_only_allow_access_from_service_loadbalancer_source_ranges(cluster: &Cluster) {
    let host = |address: &String| {
        let address: std::net::IpAddr = address.parse().unwrap();
        ipnet::IpNet::from(address).to_string()
    };
    let of_pod = |pod: &str| -> Vec<String> {
        cluster
            .lab
            .pod_ips("clients", pod)
            .iter()
            .map(host)
            .collect()
    };
    let spec = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": of_pod("near")});
    cluster.apply(STEADY, &[service("ranges", &spec)]);
    let balanced = cluster.balance(STEADY, "ranges", 20);
    cluster.meets(NEAR, &balanced, SERVICE_PORT, &["a", "b"]);
    for from in [FAR, "outside"] {
        cluster.meets_nobody(from, &balanced, SERVICE_PORT, Some("timeout"));
    }
    cluster.patch(
        STEADY,
        "ranges",
        &json!({"spec": {"loadBalancerSourceRanges": of_pod("far")}}),
    );
    cluster.meets(FAR, &balanced, SERVICE_PORT, &["a", "b"]);
    cluster.meets_nobody(NEAR, &balanced, SERVICE_PORT, Some("timeout"));
    // Without ranges, everybody.
    cluster.patch(
        STEADY,
        "ranges",
        &json!({"spec": {"loadBalancerSourceRanges": null}}),
    );
    for from in [NEAR, FAR, "outside"] {
        cluster.meets(from, &balanced, SERVICE_PORT, &["a", "b"]);
    }
    assert_eq!(EXTERNAL_RANGES.len(), balanced.len());
}

/// The API server's own Service, and it answers.
fn should_provide_secure_master_service(cluster: &Cluster) {
    let ports = cluster
        .lab
        .field(&["service", "kubernetes"], "{.spec.ports[*].port}");
    assert_eq!(ports.unwrap(), "443");
    let look = |lab: &Lab, from: &str| {
        let command = "curl -sk --max-time 5 https://kubernetes.default.svc.cluster.local/version";
        lab.sh(from, command).result()
    };
    eventually("the API answers in a pod", || {
        expect(look(&cluster.lab, NEAR)?, |said| {
            said.contains("gitVersion")
        })
    });
}
