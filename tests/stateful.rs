//! StatefulSets as their users know them: names, order, versions.

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect, strings};

const NAMES: &str = "{.items[*].metadata.name}";
const LABEL: &str = "{.items[*].metadata.labels.version}";

fn manifest(version: &str, partition: u32) -> String {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "peers"},
        "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 80}]},
    });
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {
            "replicas": 3,
            "serviceName": "peers",
            "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}},
            "template": {
                "metadata": {"labels": {"app": "db", "version": version}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "infinity"]}],
                },
            },
        },
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [service, set]}).to_string()
}

fn pods(lab: &Lab, path: &str) -> Result<String, String> {
    lab.field(&["pods", "-l", "app=db", "--sort-by=.metadata.name"], path)
}

fn rollout(lab: &Lab, verb: &str) -> String {
    lab.kubectl(&["rollout", verb, "statefulset/db"]).ok()
}

#[test]
fn a_set_has_names_order_and_versions() {
    let lab = Lab::up("stateful", &[]);
    lab.apply("default", &manifest("one", 0));
    rollout(&lab, "status");
    assert_eq!(pods(&lab, NAMES).unwrap(), "db-0 db-1 db-2");
    let all = lab.get(&["pods", "-l", "app=db"]);
    let items = all["items"].as_array().unwrap();
    let created = |pod: &Value| pod["metadata"]["creationTimestamp"].to_string();
    for (index, pod) in items.iter().enumerate() {
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels["apps.kubernetes.io/pod-index"], index.to_string());
        assert_eq!(
            labels["statefulset.kubernetes.io/pod-name"],
            pod["metadata"]["name"]
        );
        assert!(index == 0 || created(&items[index - 1]) <= created(pod));
    }
    eventually("a pod is found by its own name", || {
        let found = lab
            .exec("default/db-0", &["getent", "hosts", "db-2.peers"])
            .result()?;
        let address = lab.pod_ips("default", "db-2").remove(0);
        expect(found, |found| found.starts_with(&address))
    });

    // Above the partition only.
    lab.apply("default", &manifest("two", 2));
    eventually("the last is replaced", || {
        expect(pods(&lab, LABEL)?, |labels| labels == "one one two")
    });
    rollout(&lab, "status");
    assert_eq!(pods(&lab, LABEL).unwrap(), "one one two");
    let status = lab.get(&["statefulset", "db"])["status"].clone();
    assert_ne!(status["currentRevision"], status["updateRevision"]);
    assert_eq!(
        (&status["currentReplicas"], &status["updatedReplicas"]),
        (&json!(2), &json!(1))
    );

    // One of the first is made again as it was.
    lab.kubectl(&["delete", "pod", "db-0"]).ok();
    eventually("it comes back in its version", || {
        expect(pods(&lab, LABEL)?, |labels| labels == "one one two")
    });
    lab.apply("default", &manifest("two", 0));
    eventually("all are of the new version", || {
        expect(pods(&lab, LABEL)?, |labels| labels == "two two two")
    });
    rollout(&lab, "status");
    let history = rollout(&lab, "history");
    let numbers = |history: &str| -> Vec<u32> {
        let lines = history.lines().skip(2);
        lines
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect()
    };
    assert_eq!(numbers(&history), [1, 2], "{history}");

    rollout(&lab, "undo");
    eventually("all are of the old version again", || {
        expect(pods(&lab, LABEL)?, |labels| labels == "one one one")
    });
    rollout(&lab, "status");
    assert_eq!(numbers(&rollout(&lab, "history")), [2, 3]);
    eventually("the update is complete", || {
        let status = lab.get(&["statefulset", "db"])["status"].clone();
        expect(status, |status| {
            status["currentRevision"] == status["updateRevision"] && status["currentReplicas"] == 3
        })
    });

    lab.kubectl(&["scale", "statefulset/db", "--replicas=1"])
        .ok();
    eventually("the first is left", || {
        expect(pods(&lab, NAMES)?, |names| names == "db-0")
    });
    lab.kubectl(&["delete", "statefulset/db"]).ok();
    eventually("everything of the set goes with it", || {
        let left = lab.get(&["pods,controllerrevisions", "-l", "app=db"]);
        let names: Vec<_> = left["items"].as_array().into_iter().flatten().collect();
        expect(names.len(), |left| *left == 0)
    });
    let events = lab.get(&[
        "events",
        "--field-selector",
        "involvedObject.kind=StatefulSet",
    ]);
    let said = strings(&events["items"], "message");
    let wanted = "create Pod db-0 in StatefulSet db successful";
    assert!(said.iter().any(|message| message == wanted), "{said:?}");
}
