//! `weft lab up --keep DIR`: a lab that comes back as it was.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect, repository};

/// What has to be the same after a restart: by kind, namespace and name the UID, and what clients
/// depend on; and how often each pod's container was started again.
#[derive(Debug, PartialEq)]
struct Picture {
    objects: BTreeMap<String, Value>,
    restarts: BTreeMap<String, u64>,
}

#[track_caller]
fn picture(lab: &Lab) -> Picture {
    let kinds = "nodes,namespaces,services,configmaps,deployments,replicasets,pods";
    let list = lab.get(&["-A", kinds]);
    let mut picture = Picture {
        objects: BTreeMap::new(),
        restarts: BTreeMap::new(),
    };
    for object in list["items"].as_array().unwrap() {
        let meta = &object["metadata"];
        let key = format!("{} {} {}", object["kind"], meta["namespace"], meta["name"]);
        let spec = &object["spec"];
        let facts = json!([
            meta["uid"],
            spec["clusterIPs"],
            spec["podCIDRs"],
            spec["nodeName"],
            object["data"],
            object["status"]["podIPs"],
        ]);
        if object["kind"] == "Pod" {
            let count = &object["status"]["containerStatuses"][0]["restartCount"];
            picture
                .restarts
                .insert(key.clone(), count.as_u64().unwrap());
        }
        picture.objects.insert(key, facts);
    }
    picture
}

/// Everything runs, and the Service answers.
#[track_caller]
fn works(lab: &Lab) {
    lab.pods_ready("default", "");
    lab.pods_ready("kube-system", "");
    eventually("the Service answers", || {
        let asked = lab.sh("default/client", "curl -fsS -m 5 http://hello");
        expect(asked.result()?, |said| said.contains("pod: hello-"))
    });
}

#[test]
fn a_kept_lab_comes_back_after_down_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("lab");
    let flags = ["--keep", kept.to_str().unwrap()];
    let mut lab = Lab::up("keep", &flags);
    let example = fs::read_to_string(repository("examples/hello.yaml")).unwrap();
    lab.apply("default", &example);
    let settings = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"colour": "green"},
    });
    lab.apply("default", &settings.to_string());
    works(&lab);
    lab.sh("node-1", "echo written > /var/lib/weft/by-hand")
        .ok();
    let copied = folder.path().join("kubeconfig");
    fs::copy(lab.kubeconfig(), &copied).unwrap();

    for end in ["down", "kill -9"] {
        let before = picture(&lab);
        let name = lab.name().to_owned();
        if end == "down" {
            drop(lab);
        } else {
            lab.kill();
        }
        lab = Lab::up_as(name, &flags);
        works(&lab);
        let after = picture(&lab);
        assert_eq!(after.objects, before.objects, "after {end}");
        for (pod, count) in &before.restarts {
            assert_eq!(after.restarts[pod], count + 1, "{pod} after {end}");
        }
        // Credentials that somebody copied are still good.
        let copied = copied.to_str().unwrap();
        lab.kubectl(&["--kubeconfig", copied, "get", "namespaces"])
            .ok();
        assert_eq!(
            lab.sh("node-1", "cat /var/lib/weft/by-hand").ok(),
            "written\n"
        );
        // The end of the container before is told, and what it had logged.
        let pod = "{.items[0].status.containerStatuses[0].lastState.terminated.exitCode}";
        let code = lab.field(&["pods", "-l", "app=hello"], pod).unwrap();
        assert_eq!(code, "255");
    }

    let second = Lab::refused(&["--keep", kept.to_str().unwrap()]);
    assert!(
        second.contains("a lab that is up uses this folder"),
        "{second}"
    );
    drop(lab);
    let other = Lab::refused(&[
        "--keep",
        kept.to_str().unwrap(),
        "--pod-cidr",
        "10.9.0.0/16",
    ]);
    assert!(
        other.contains(
            "--pod-cidr 10.9.0.0/16 contradicts the lab in this folder, which has 10.244.0.0/16"
        ),
        "{other}"
    );
    fs::write(kept.join("store.redb"), "torn").unwrap();
    let torn = Lab::refused(&["--keep", kept.to_str().unwrap()]);
    assert!(
        torn.contains("store.redb") && torn.contains("damaged"),
        "{torn}"
    );
}
