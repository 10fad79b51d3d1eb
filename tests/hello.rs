//! `examples/hello.yaml`, with kubectl as people use it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect, repository};

/// Each test has a namespace of its own in it.
static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("hello", &[]));

/// Applies the example to a namespace of its own, and waits until it is up.
#[track_caller]
fn hello(namespace: &str) -> &'static Lab {
    let lab = &*LAB;
    lab.namespace(namespace);
    let example = repository("examples/hello.yaml");
    let said = lab
        .kubectl(&["-n", namespace, "apply", "-f", &example.to_string_lossy()])
        .ok();
    assert_eq!(
        said,
        "deployment.apps/hello created\nservice/hello created\npod/client created\n"
    );
    let said = lab
        .kubectl(&[
            "-n",
            namespace,
            "rollout",
            "status",
            "deployment/hello",
            "--timeout=90s",
        ])
        .ok();
    assert!(
        said.ends_with("deployment \"hello\" successfully rolled out\n"),
        "{said}"
    );
    lab.pods_ready(namespace, "app=client");
    lab
}

/// The names of the pods of `hello`.
#[track_caller]
fn replicas(lab: &Lab, namespace: &str) -> BTreeSet<String> {
    let names = lab
        .field(
            &["-n", namespace, "pods", "-l", "app=hello"],
            "{.items[*].metadata.name}",
        )
        .unwrap();
    names.split_whitespace().map(str::to_owned).collect()
}

/// Has the client ask `hello` so many times, until it is answered by each of these and by nobody
/// else.
#[track_caller]
fn answer(lab: &Lab, namespace: &str, times: usize, pods: &BTreeSet<String>) {
    let script = format!("for i in $(seq {times}); do curl -fsS -m 5 http://hello || exit; done");
    eventually("all of them answer, and nobody else", || {
        let said = lab.sh(&format!("{namespace}/client"), &script).result()?;
        let named = said.lines().filter_map(|line| line.strip_prefix("pod: "));
        let named: BTreeSet<String> = named.map(str::to_owned).collect();
        expect(named, |named| named == pods)
    });
}

#[test]
fn every_replica_on_both_nodes_answers_by_name() {
    let lab = hello("by-name");
    let pods = replicas(lab, "by-name");
    assert_eq!(pods.len(), 3);
    let nodes = lab
        .field(
            &["-n", "by-name", "pods", "-l", "app=hello"],
            "{.items[*].spec.nodeName}",
        )
        .unwrap();
    let nodes: BTreeSet<_> = nodes.split(' ').collect();
    assert_eq!(nodes, BTreeSet::from(["node-1", "node-2"]));
    answer(lab, "by-name", 100, &pods);
}

#[test]
fn applied_again_nothing_changes() {
    let lab = hello("again");
    let before = lab.get(&["-n", "again", "deployment,service,pods"]);
    let example = repository("examples/hello.yaml");
    let said = lab
        .kubectl(&["-n", "again", "apply", "-f", &example.to_string_lossy()])
        .ok();
    assert_eq!(
        said,
        "deployment.apps/hello unchanged\nservice/hello unchanged\npod/client unchanged\n"
    );
    let versions = |list: &Value| -> Vec<(String, String)> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                let about = &item["metadata"];
                (about["uid"].to_string(), about["generation"].to_string())
            })
            .collect()
    };
    let after = lab.get(&["-n", "again", "deployment,service,pods"]);
    assert_eq!(versions(&before), versions(&after));
    let difference = lab.kubectl(&["-n", "again", "diff", "-f", &example.to_string_lossy()]);
    assert_eq!(difference.ok(), "");
}

#[test]
fn kubectl_lists_every_kind() {
    let lab = hello("kinds");
    for (arguments, expected) in [
        ("get nodes", "node-1 Ready"),
        ("get nodes -o wide", "node-2 Ready"),
        ("get namespaces", "kinds Active"),
        ("get pods -n kinds", "client 1/1 Running 0"),
        ("get pods -A -o wide", "kinds client 1/1 Running 0"),
        (
            "get pods -n kinds --field-selector spec.nodeName=node-1",
            "1/1 Running",
        ),
        ("get deployments -n kinds", "hello 3/3 3 3"),
        ("get replicasets -n kinds", "hello-"),
        (
            "get daemonsets -n kube-system",
            "weft-agent 2 2 2 2 2 kubernetes.io/os=linux",
        ),
        ("get svc -n kinds", "hello ClusterIP 10."),
        (
            "get svc -n kube-system",
            "kube-dns ClusterIP 10.96.0.10 <none> 53/UDP,53/TCP",
        ),
        ("get svc", "kubernetes ClusterIP 10.96.0.1 <none> 443/TCP"),
        ("get endpointslices -n kinds", "IPv4 8080 10.244."),
        ("get configmaps -n kube-system", "weft 1"),
        ("get events -n kinds", "Normal Scheduled pod/client"),
        ("get leases -n kube-node-lease", "node-1 node-1"),
        ("get all -n kinds", "deployment.apps/hello 3/3"),
        ("get po,svc -n kinds -o name", "service/hello"),
        (
            "get pods -n kinds -l app=client --show-labels",
            "app=client",
        ),
        ("get pod client -n kinds -o yaml", "image: busybox"),
        (
            "api-resources",
            "endpointslices discovery.k8s.io/v1 true EndpointSlice",
        ),
        ("explain pod.spec.containers", "KIND: Pod"),
        ("version", "Server Version: v1."),
        ("cluster-info", "is running at"),
    ] {
        let words: Vec<_> = arguments.split(' ').collect();
        eventually(&format!("kubectl {arguments} says {expected}"), || {
            let said = lab.kubectl(&words).result()?;
            let has = said.lines().any(|line| {
                let line: Vec<_> = line.split_whitespace().collect();
                line.join(" ").contains(expected)
            });
            expect(said, |_| has)
        });
    }
}

#[test]
fn kubectl_describes() {
    let lab = hello("described");
    for (what, expected) in [
        (
            "pod client",
            &["Status: Running", "Image: busybox", "Scheduled", "Started"][..],
        ),
        (
            "deployment hello",
            &[
                "3 desired | 3 updated | 3 total | 3 available",
                "ScalingReplicaSet",
            ],
        ),
        (
            "replicaset hello",
            &["3 current / 3 desired", "Created pod: hello-"],
        ),
        (
            "service hello",
            &[
                "Type: ClusterIP",
                "TargetPort: http/TCP",
                "Endpoints: 10.244.",
            ],
        ),
        ("endpointslice hello", &["AddressType: IPv4", "Ready: true"]),
        ("namespace described", &["Status: Active"]),
    ] {
        let words: Vec<_> = ["-n", "described", "describe"]
            .into_iter()
            .chain(what.split(' '))
            .collect();
        described(lab, &words, expected);
    }
    described(
        lab,
        &["describe", "node", "node-1"],
        &[
            "PodCIDR: 10.244.",
            "InternalIP: 172.30.0.11",
            "Ready True",
            "kube-system weft-agent-",
        ],
    );
    described(
        lab,
        &["describe", "daemonset", "weft-agent", "-n", "kube-system"],
        &["Desired Number of Nodes Scheduled: 2", "Image: weft:latest"],
    );
    described(
        lab,
        &["describe", "configmap", "weft", "-n", "kube-system"],
        &["podCIDRs"],
    );
}

/// What is described comes from several who write it, events among them.
#[track_caller]
fn described(lab: &Lab, command: &[&str], expected: &[&str]) {
    eventually(&format!("{command:?} says {expected:?}"), || {
        let said = lab.kubectl(command).result()?;
        let words: Vec<_> = said.split_whitespace().collect();
        let flat = words.join(" ");
        let lacks = expected.iter().find(|part| !flat.contains(**part));
        match lacks {
            None => Ok(()),
            Some(part) => Err(format!("it lacks {part:?}:\n{said}")),
        }
    });
}

#[test]
fn a_watch_sees_a_pod_come_and_go() {
    let lab = &*LAB;
    lab.namespace("watched");
    let pod = |name: &str, node: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 5, "nodeSelector": {"kubernetes.io/os": node},
                "containers": [{"name": "c", "image": "pause"}],
            },
        })
        .to_string()
    };
    // The watch tells of this one when it has begun.
    lab.apply("watched", &pod("waits", "none"));
    let watch = lab.kubectl_start(&["-n", "watched", "get", "pods", "-w", "--no-headers"]);
    watch.line("what is there", |line| line.starts_with("waits "));
    lab.apply("watched", &pod("brief", "linux"));
    let line = |state: &'static str| {
        watch.line(state, |line| {
            line.starts_with("brief ") && line.contains(state)
        })
    };
    line("Pending");
    line("Running");
    lab.kubectl(&["-n", "watched", "delete", "pod", "brief"])
        .ok();
    line("Terminating");
    lab.kubectl(&["-n", "watched", "delete", "pod", "waits"])
        .ok();
    let left = lab.kubectl(&["-n", "watched", "get", "pods"]);
    assert_eq!(left.err, "No resources found in watched namespace.\n");
}

#[test]
fn what_is_scaled_is_served_by_as_many() {
    let lab = hello("scaled");
    for count in [5, 1, 4] {
        let replicas_flag = format!("--replicas={count}");
        lab.kubectl(&["-n", "scaled", "scale", "deployment/hello", &replicas_flag])
            .ok();
        lab.kubectl(&[
            "-n",
            "scaled",
            "rollout",
            "status",
            "deployment/hello",
            "--timeout=90s",
        ])
        .ok();
        let pods = eventually(&format!("there are {count} replicas"), || {
            expect(replicas(lab, "scaled"), |pods| pods.len() == count)
        });
        answer(lab, "scaled", 60, &pods);
    }
}

#[test]
fn a_rollout_replaces_every_pod() {
    let lab = hello("rolled");
    let before = replicas(lab, "rolled");
    lab.kubectl(&[
        "-n",
        "rolled",
        "set",
        "env",
        "deployment/hello",
        "COLOUR=blue",
    ])
    .ok();
    lab.kubectl(&[
        "-n",
        "rolled",
        "rollout",
        "status",
        "deployment/hello",
        "--timeout=90s",
    ])
    .ok();
    let after = eventually("the old pods are gone", || {
        expect(replicas(lab, "rolled"), |pods| pods.len() == 3)
    });
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    for pod in &after {
        let said = lab.sh(&format!("rolled/{pod}"), "echo $COLOUR").ok();
        assert_eq!(said, "blue\n");
    }
    lab.kubectl(&["-n", "rolled", "rollout", "restart", "deployment/hello"])
        .ok();
    lab.kubectl(&[
        "-n",
        "rolled",
        "rollout",
        "status",
        "deployment/hello",
        "--timeout=90s",
    ])
    .ok();
    eventually("those are gone too", || {
        expect(replicas(lab, "rolled"), |pods| {
            pods.len() == 3 && pods.is_disjoint(&after)
        })
    });
}

#[test]
fn what_is_deleted_is_gone() {
    let lab = hello("deleted");
    let pods = replicas(lab, "deleted");
    let address = lab
        .field(&["-n", "deleted", "service", "hello"], "{.spec.clusterIP}")
        .unwrap();
    let gone = &pods.first().unwrap()[..];
    lab.kubectl(&["-n", "deleted", "delete", "pod", gone]).ok();
    eventually("another one replaces it", || {
        expect(replicas(lab, "deleted"), |pods| {
            pods.len() == 3 && !pods.contains(gone)
        })
    });

    let example = repository("examples/hello.yaml");
    let said = lab
        .kubectl(&[
            "-n",
            "deleted",
            "delete",
            "--wait=false",
            "-f",
            &example.to_string_lossy(),
        ])
        .ok();
    assert!(said.contains("service \"hello\" deleted"), "{said}");
    eventually("every object is gone", || {
        let all = "deployments,replicasets,pods,services,endpointslices";
        let left = lab
            .kubectl(&["-n", "deleted", "get", all, "-o", "name"])
            .result()?;
        expect(left, |left| left.is_empty())
    });
    eventually("the nodes have forgotten the Service", || {
        for node in ["node-1", "node-2"] {
            let rules = lab.exec(node, &["nft", "list", "ruleset"]).result()?;
            expect(rules, |rules| !rules.contains(&address))?;
        }
        Ok(())
    });
    eventually("no process of its pods is left", || {
        for node in ["node-1", "node-2"] {
            let commands = lab
                .sh(node, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
                .result()?;
            expect(commands, |commands| !commands.contains("deleted_hello"))?;
        }
        Ok(())
    });
    lab.kubectl(&["delete", "namespace", "deleted"]).ok();
    let missing = lab.kubectl(&["get", "namespace", "deleted"]).refused();
    assert_eq!(
        missing,
        "Error from server (NotFound): namespaces \"deleted\" not found\n"
    );
}
