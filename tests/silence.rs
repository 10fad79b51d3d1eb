//! A node falls silent: its pods are taken out of Services and replaced, and it can come back.

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect, strings};

/// Stops or continues what speaks for a node.
fn signal(lab: &Lab, node: &str, signal: &str) {
    let script = format!(
        "for process in /proc/[0-9]*; do
           case $(tr '\\0' ' ' 2>/dev/null < $process/cmdline) in
             'weft internal kubelet'*|'weft agent'*) kill -{signal} ${{process#/proc/}};;
           esac
         done"
    );
    lab.sh(node, &script).ok();
}

/// Three replicas that leave an unreachable node at once, and their Service.
pub(crate) fn web() -> String {
    let patience = json!([{
        "key": "node.kubernetes.io/unreachable", "operator": "Exists",
        "effect": "NoExecute", "tolerationSeconds": 1,
    }]);
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": patience,
                    "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "infinity"]}],
                },
            },
        },
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [deployment, service]}).to_string()
}

pub(crate) fn nodes_of_endpoints(lab: &Lab) -> Result<String, String> {
    lab.field(&["endpoints", "web"], "{.subsets[*].addresses[*].nodeName}")
}

pub(crate) fn ready(lab: &Lab, object: &[&str]) -> Result<String, String> {
    lab.field(object, "{.status.conditions[?(@.type=='Ready')].status}")
}

#[test]
fn a_silent_node_loses_its_pods_and_comes_back() {
    let lab = Lab::up("silence", &["--nodes", "3", "--node-grace", "40"]);
    lab.apply("default", &web());
    lab.pods_ready("default", "app=web");
    eventually("every node has a replica behind the Service", || {
        expect(nodes_of_endpoints(&lab)?, |nodes| {
            ["node-1", "node-2", "node-3"]
                .iter()
                .all(|node| nodes.contains(node))
        })
    });
    let on_node = "spec.nodeName=node-3";
    let agents = ["-n", "kube-system", "pods", "-l", "k8s-app=weft-agent"];
    let agent = [&agents[..], &["--field-selector", on_node]].concat();
    let name = lab.field(&agent, "{.items[0].metadata.name}").unwrap();
    let agent = ["-n", "kube-system", "pod", &name];

    signal(&lab, "node-3", "STOP");
    eventually("nobody knows how the node is", || {
        expect(ready(&lab, &["node", "node-3"])?, |status| {
            status == "Unknown"
        })
    });
    eventually("the pod is out of the Service, and another is in", || {
        expect(nodes_of_endpoints(&lab)?, |nodes| {
            !nodes.contains("node-3") && nodes.split(' ').count() == 3
        })
    });
    let taints = lab.get(&["node", "node-3"])["spec"]["taints"].clone();
    let said: Vec<String> = taints
        .as_array()
        .into_iter()
        .flatten()
        .map(|taint| format!("{}:{}", taint["key"], taint["effect"]).replace('"', ""))
        .collect();
    assert_eq!(
        said,
        [
            "node.kubernetes.io/unreachable:NoSchedule",
            "node.kubernetes.io/unreachable:NoExecute"
        ]
    );
    // A daemon stays: nobody else could do its work.
    eventually("its daemon is not ready", || {
        expect(ready(&lab, &agent)?, |status| status == "False")
    });
    let object: Value = lab.get(&agent);
    assert!(
        object["metadata"]["deletionTimestamp"].is_null(),
        "{object}"
    );
    for reason in ["NodeNotReady", "TaintManagerEviction"] {
        eventually(&format!("an event says {reason}"), || {
            let reasons = strings(&lab.get(&["events"])["items"], "reason");
            expect(reasons, |all| all.iter().any(|said| said == reason))
        });
    }

    signal(&lab, "node-3", "CONT");
    eventually("the node is back", || {
        expect(ready(&lab, &["node", "node-3"])?, |status| status == "True")?;
        let taints = lab.field(&["node", "node-3"], "{.spec.taints}")?;
        expect(taints, String::is_empty)
    });
    eventually(
        "its daemon is ready again, and what had to leave is gone",
        || {
            expect(ready(&lab, &agent)?, |status| status == "True")?;
            let pods = lab.get(&["pods", "-l", "app=web"]);
            expect(pods["items"].as_array().map_or(0, Vec::len), |count| {
                *count == 3
            })
        },
    );
}
