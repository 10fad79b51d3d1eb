//! Claims and volumes: made on demand, made by hand, and what is left of them.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect, strings};

static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("storage", &[]));

fn claim(name: &str, spec: &Value) -> String {
    let mut spec = spec.clone();
    spec["accessModes"] = json!(["ReadWriteOnce"]);
    spec["resources"] = json!({"requests": {"storage": "1Gi"}});
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name}, "spec": spec,
    })
    .to_string()
}

fn user(name: &str, claim: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": "busybox", "command": ["sleep", "infinity"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    })
    .to_string()
}

fn volume(name: &str, policy: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "manual",
            "persistentVolumeReclaimPolicy": policy,
            "hostPath": {"path": format!("/srv/{name}")},
        },
    })
    .to_string()
}

fn phase(namespace: &str, kind: &str, name: &str) -> Result<String, String> {
    LAB.field(&["-n", namespace, kind, name], "{.status.phase}")
}

#[test]
fn a_claim_gets_a_folder_on_the_node_of_its_first_pod_and_keeps_it() {
    LAB.namespace("made");
    LAB.apply("made", &claim("data", &json!({})));
    eventually("it has the default class and waits for a pod", || {
        let class = LAB.field(&["-n", "made", "pvc", "data"], "{.spec.storageClassName}")?;
        expect(class, |class| class == "local-path")?;
        let reasons = strings(&LAB.get(&["-n", "made", "events"])["items"], "reason");
        expect(reasons, |all| {
            all.iter().any(|reason| reason == "WaitForFirstConsumer")
        })
    });
    assert_eq!(phase("made", "pvc", "data").unwrap(), "Pending");
    LAB.apply("made", &user("first", "data"));
    LAB.pods_ready("made", "");
    assert_eq!(phase("made", "pvc", "data").unwrap(), "Bound");
    let node_of = |pod: &str| {
        LAB.field(&["-n", "made", "pod", pod], "{.spec.nodeName}")
            .unwrap()
    };
    let node = node_of("first");
    let name = LAB
        .field(&["-n", "made", "pvc", "data"], "{.spec.volumeName}")
        .unwrap();
    let made = LAB.get(&["pv", &name]);
    let term = &made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
    assert_eq!(term["matchExpressions"][0]["values"], json!([node]));
    LAB.sh("made/first", "echo kept > /data/word").ok();

    // Who uses the claim keeps it, and the next user finds what the first left.
    LAB.kubectl(&["-n", "made", "delete", "pvc", "data", "--wait=false"])
        .ok();
    assert_eq!(phase("made", "pvc", "data").unwrap(), "Bound");
    LAB.namespace("again");
    LAB.apply("again", &claim("data", &json!({})));
    LAB.apply("again", &user("first", "data"));
    LAB.pods_ready("again", "");
    LAB.sh("again/first", "echo kept > /data/word").ok();
    LAB.kubectl(&["-n", "again", "delete", "pod", "first"]).ok();
    LAB.apply("again", &user("second", "data"));
    LAB.pods_ready("again", "");
    assert_eq!(LAB.sh("again/second", "cat /data/word").ok(), "kept\n");

    LAB.kubectl(&["-n", "made", "delete", "pod", "first"]).ok();
    eventually(
        "the claim goes after its last user, and the volume with it",
        || {
            let left = LAB
                .kubectl(&["-n", "made", "get", "pvc", "-o", "name"])
                .result()?;
            expect(left, String::is_empty)?;
            let left = LAB
                .kubectl(&["get", "pv", &name, "--ignore-not-found"])
                .result()?;
            expect(left, String::is_empty)
        },
    );
}

#[test]
fn volumes_made_by_hand_are_bound_and_reclaimed_as_they_say() {
    LAB.namespace("hand");
    LAB.apply("hand", &volume("by-hand", "Retain"));
    eventually("it is there to be taken", || {
        expect(phase("hand", "pv", "by-hand")?, |phase| {
            phase == "Available"
        })
    });
    let manual = json!({"storageClassName": "manual"});
    LAB.apply("hand", &claim("data", &manual));
    eventually("both know each other", || {
        expect(phase("hand", "pvc", "data")?, |phase| phase == "Bound")?;
        expect(phase("hand", "pv", "by-hand")?, |phase| phase == "Bound")
    });
    let bound = LAB.get(&["-n", "hand", "pvc", "data"]);
    assert_eq!(bound["status"]["capacity"]["storage"], "2Gi");
    assert_eq!(bound["spec"]["volumeName"], "by-hand");
    assert_eq!(
        bound["metadata"]["finalizers"],
        json!(["kubernetes.io/pvc-protection"])
    );
    LAB.apply("hand", &user("pod", "data"));
    LAB.pods_ready("hand", "");

    LAB.apply("hand", &claim("second", &manual));
    LAB.kubectl(&["-n", "hand", "delete", "pod", "pod"]).ok();
    LAB.kubectl(&["-n", "hand", "delete", "pvc", "data"]).ok();
    eventually("it is nobody's, and nobody gets it", || {
        expect(phase("hand", "pv", "by-hand")?, |phase| phase == "Released")
    });
    assert_eq!(phase("hand", "pvc", "second").unwrap(), "Pending");
    LAB.apply("hand", &volume("other", "Delete"));
    eventually("the one that waited has the next", || {
        expect(phase("hand", "pvc", "second")?, |phase| phase == "Bound")
    });
    LAB.kubectl(&["-n", "hand", "delete", "pvc", "second"]).ok();
    eventually("nobody can delete what a person made", || {
        expect(phase("hand", "pv", "other")?, |phase| phase == "Failed")
    });
    LAB.kubectl(&["delete", "pv", "by-hand", "other"]).ok();
}
