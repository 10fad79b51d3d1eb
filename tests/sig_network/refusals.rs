//! Services without endpoints, and endpoints that are not ready.

use serde_json::json;

use super::{Cluster, FAR, NEAR, SERVICE_PORT, external, service, with_each_back_end};
use crate::lab::{eventually, expect, probe};

with_each_back_end![
    should_be_rejected_when_no_endpoints_exist,
    should_be_rejected_for_evicted_pods,
    should_create_endpoints_for_unready_pods,
];

fn should_be_rejected_when_no_endpoints_exist(cluster: &Cluster) {
    let namespace = "no-pods";
    cluster.lab.namespace(namespace);
    let spec = json!({"type": "NodePort", "externalIPs": external(60)});
    cluster.apply(namespace, &[service("no-pods", &spec)]);
    let own = cluster.ips(namespace, "no-pods");
    let (web, talk) = ("web", "talk");
    let [web, talk] = [web, talk].map(|port| cluster.node_port(namespace, "no-pods", port));
    for from in [NEAR, FAR, "node-1", "node-2"] {
        cluster.meets_nobody(from, &own, SERVICE_PORT, Some("refused"));
    }
    let nodes = ["node-1", "node-2"]
        .map(|node| cluster.lab.node_ips(node))
        .concat();
    for from in [NEAR, "node-2", "outside"] {
        for number in [web, talk] {
            cluster.meets_nobody(from, &nodes, number, Some("refused"));
        }
    }
    for from in [NEAR, "outside"] {
        cluster.meets_nobody(from, &external(60), SERVICE_PORT, Some("refused"));
    }
}

/// The pod's phase is Failed: here because its program was ended.
fn should_be_rejected_for_evicted_pods(cluster: &Cluster) {
    let namespace = "evicted";
    cluster.lab.namespace(namespace);
    let mut pod = probe::pod("evicted", "node-1");
    pod["spec"]["restartPolicy"] = json!("Never");
    cluster.apply(namespace, &[pod, service("evicted", &json!({}))]);
    cluster.lab.pods_ready(namespace, "");
    let own = cluster.ips(namespace, "evicted");
    cluster.meets(FAR, &own, SERVICE_PORT, &["evicted"]);
    let end = "import os\n\
        for pid in filter(str.isdigit, os.listdir('/proc')):\n\
        \x20   line = open(f'/proc/{pid}/cmdline', 'rb').read()\n\
        \x20   if int(pid) != os.getpid() and b'python3' in line:\n\
        \x20       os.kill(int(pid), 9)";
    cluster.lab.exec("evicted/evicted", &["python3", "-c", end]);
    for from in [NEAR, FAR, "node-1"] {
        cluster.meets_nobody(from, &own, SERVICE_PORT, Some("refused"));
    }
    // The kernel refuses before the kubelet has told.
    eventually("the pod has failed", || {
        let pod = ["-n", namespace, "pod", "evicted"];
        let phase = cluster.lab.field(&pod, "{.status.phase}")?;
        expect(phase, |phase| phase == "Failed")
    });
}

/// `publishNotReadyAddresses`.
fn should_create_endpoints_for_unready_pods(cluster: &Cluster) {
    let namespace = "unready";
    cluster.lab.namespace(namespace);
    let mut pod = probe::pod("unready", "node-1");
    let container = &mut pod["spec"]["containers"][0];
    container["readinessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    let tolerant = json!({"publishNotReadyAddresses": true});
    let services = [
        service("tolerant", &tolerant),
        service("strict", &json!({})),
    ];
    cluster.apply(namespace, &[&[pod], &services[..]].concat());
    let own = cluster.ips(namespace, "tolerant");
    for from in [NEAR, FAR] {
        cluster.meets(from, &own, SERVICE_PORT, &["unready"]);
        let name = format!("tolerant.{namespace}.svc.cluster.local");
        cluster.meets(from, &[name], SERVICE_PORT, &["unready"]);
    }
    cluster.meets_nobody(
        NEAR,
        &cluster.ips(namespace, "strict"),
        SERVICE_PORT,
        Some("refused"),
    );
    let strict = json!({"spec": {"publishNotReadyAddresses": false}});
    cluster.patch(namespace, "tolerant", &strict);
    cluster.meets_nobody(NEAR, &own, SERVICE_PORT, Some("refused"));
    cluster.patch(namespace, "tolerant", &json!({"spec": tolerant}));
    cluster.meets(NEAR, &own, SERVICE_PORT, &["unready"]);
}
