//! The rules of the Kubernetes network model: who reaches whom, and under which address.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::lab::probe::{self, Answer, Ask, Met, PORT};
use crate::lab::{Lab, eventually, strings};

/// Pods of a lab with two nodes: two on the first, one on the second.
const PODS: [(&str, &str); 3] = [("a", "node-1"), ("b", "node-1"), ("c", "node-2")];

#[test]
fn rules_hold_with_ipv4() {
    rules_hold("ipv4", 1);
}

#[test]
fn rules_hold_with_ipv6() {
    rules_hold("ipv6", 1);
}

#[test]
fn rules_hold_with_both_families() {
    rules_hold("dual", 2);
}

fn rules_hold(families: &str, addresses: usize) {
    let lab = Lab::up(families, &["--ip-family", families]);
    let mut objects: Vec<_> = PODS.map(|(name, node)| probe::pod(name, node)).into();
    objects.push(service(addresses));
    lab.apply("default", &probe::manifest(&objects));
    lab.pods_ready("default", "serves=probes");

    let ips: BTreeMap<_, _> = PODS
        .map(|(name, _)| (name, lab.pod_ips("default", name)))
        .into();
    let distinct: BTreeSet<_> = ips.values().flatten().collect();
    assert_eq!(distinct.len(), PODS.len() * addresses, "{ips:?}");

    a_pod_has_the_addresses_of_its_status(&lab, &ips);
    pods_meet_untranslated(&lab, &ips);
    nodes_meet_pods_untranslated(&lab, &ips);
    pods_leave_as_their_node(&lab, addresses);
    outside_reaches_no_service(&lab);
}

fn service(addresses: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "probes"},
        "spec": {
            "selector": {"serves": "probes"},
            "ipFamilyPolicy": if addresses > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [
                {"name": "tcp", "port": PORT, "protocol": "TCP"},
                {"name": "udp", "port": PORT, "protocol": "UDP"},
            ],
        },
    })
}

fn asks<'a>(addresses: impl IntoIterator<Item = &'a String>) -> Vec<Ask> {
    addresses
        .into_iter()
        .flat_map(|address| probe::both(address))
        .collect()
}

/// Addresses of one family with `like`.
fn like<'a>(like: &str, among: &'a [String]) -> &'a String {
    among
        .iter()
        .find(|address| address.contains(':') == like.contains(':'))
        .unwrap()
}

fn a_pod_has_the_addresses_of_its_status(lab: &Lab, ips: &BTreeMap<&str, Vec<String>>) {
    for (pod, ips) in ips {
        let target = format!("default/{pod}");
        let said = lab
            .exec(
                &target,
                &[
                    "ip", "-j", "address", "show", "dev", "eth0", "scope", "global",
                ],
            )
            .ok();
        let links: Value = serde_json::from_str(&said).unwrap();
        let own: BTreeSet<_> = strings(&links[0]["addr_info"], "local")
            .into_iter()
            .collect();
        assert_eq!(own, ips.iter().cloned().collect(), "{pod}: {said}");
        let told = lab.field(&["pod", pod], "{.status.podIP}").unwrap();
        assert_eq!(told, ips[0]);
    }
}

/// What is met when every node has its routes: everybody answers.
#[track_caller]
fn all_answer(lab: &Lab, from: &str, asked: &[Ask]) -> Vec<Answer> {
    eventually(&format!("all that {from} asks answer"), || {
        let met = probe::ask(lab, from, asked);
        let answers = met.into_iter().zip(asked).map(|(met, ask)| match &met[0] {
            Met::Answer(answer) => Ok(answer.clone()),
            Met::Failure(failure) => Err(format!("{ask:?}: {failure}")),
        });
        answers.collect()
    })
}

fn pods_meet_untranslated(lab: &Lab, ips: &BTreeMap<&str, Vec<String>>) {
    for (client, _) in PODS {
        // Itself, too.
        for (server, _) in PODS {
            let asked = asks(&ips[server]);
            let answers = all_answer(lab, &format!("default/{client}"), &asked);
            for (ask, answer) in asked.iter().zip(answers) {
                assert_eq!(answer.name, server, "{ask:?}");
                assert_eq!(answer.to, ask.address, "{ask:?}");
                assert!(answer.is_untranslated(), "{client} to {ask:?}: {answer:?}");
                assert_eq!(&answer.from, like(&ask.address, &ips[client]), "{ask:?}");
            }
        }
    }
}

fn nodes_meet_pods_untranslated(lab: &Lab, ips: &BTreeMap<&str, Vec<String>>) {
    for node in ["node-1", "node-2"] {
        let own = lab.node_ips(node);
        let asked = asks(ips.values().flatten());
        let answers = all_answer(lab, node, &asked);
        for (ask, answer) in asked.iter().zip(answers) {
            assert!(answer.is_untranslated(), "{node} to {ask:?}: {answer:?}");
            assert_eq!(&answer.from, like(&ask.address, &own), "{node} to {ask:?}");
        }
    }
}

fn pods_leave_as_their_node(lab: &Lab, addresses: usize) {
    let (_server, outside) = probe::serve_outside(lab);
    assert_eq!(outside.len(), addresses);
    for (pod, node) in PODS {
        let own = lab.node_ips(node);
        let asked = asks(&outside);
        let answers = all_answer(lab, &format!("default/{pod}"), &asked);
        for (ask, answer) in asked.iter().zip(answers) {
            assert_eq!(answer.name, "outside");
            assert_eq!(&answer.from, like(&ask.address, &own), "{pod} to {ask:?}");
        }
    }
}

/// No router beyond the cluster knows the Service range: who asks is told at once.
fn outside_reaches_no_service(lab: &Lab) {
    let service = lab.get(&["service", "probes"]);
    let addresses: Vec<_> = service["spec"]["clusterIPs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|address| address.as_str().unwrap().to_owned())
        .collect();
    let asked = asks(&addresses);
    // From within, so that what follows is not for want of a server.
    all_answer(lab, "default/a", &asked);
    for (ask, met) in asked.iter().zip(probe::ask(lab, "outside", &asked)) {
        assert_eq!(met, [Met::Failure("unreachable".to_owned())], "{ask:?}");
    }
}

#[test]
fn five_nodes_and_all_pairs_of_their_pods() {
    let lab = Lab::up("five", &["--nodes", "5", "--ip-family", "dual"]);
    let daemons = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "probes"},
        "spec": {
            "selector": {"matchLabels": {"serves": "probes"}},
            "template": {
                "metadata": {"labels": {"serves": "probes"}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [probe::container(&[PORT])],
                },
            },
        },
    });
    lab.apply("default", &daemons.to_string());
    lab.kubectl(&["rollout", "status", "daemonset/probes", "--timeout=90s"])
        .ok();

    let pods = lab.get(&["pods", "-l", "serves=probes"]);
    let pods: BTreeMap<String, Vec<String>> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            (name, strings(&pod["status"]["podIPs"], "ip"))
        })
        .collect();
    let nodes = lab.field(
        &["pods", "-l", "serves=probes"],
        "{.items[*].spec.nodeName}",
    );
    let nodes: BTreeSet<_> = nodes.as_ref().unwrap().split(' ').collect();
    assert_eq!((pods.len(), nodes.len()), (5, 5), "{pods:?}");

    let asked = asks(pods.values().flatten());
    assert_eq!(asked.len(), 5 * 2 * 2);
    for (client, own) in &pods {
        let answers = all_answer(&lab, &format!("default/{client}"), &asked);
        for (ask, answer) in asked.iter().zip(answers) {
            assert!(answer.is_untranslated(), "{client} to {ask:?}: {answer:?}");
            assert_eq!(&answer.from, like(&ask.address, own));
            assert!(pods[&answer.name].contains(&ask.address), "{answer:?}");
        }
    }
}
