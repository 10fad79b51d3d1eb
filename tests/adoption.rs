//! Whose a pod is, by its labels (upstream's e2e tests "ReplicaSet should adopt matching pods on
//! creation and release no longer matching pods" and "StatefulSet should adopt matching orphans and
//! release non-matching pods").

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect};

fn sleeping() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "infinity"]}],
    })
}

fn set(kind: &str, name: &str) -> String {
    let mut spec = json!({
        "replicas": 1,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": sleeping()},
    });
    if kind == "StatefulSet" {
        spec["serviceName"] = json!(name);
    }
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
        .to_string()
}

/// A pod's UID and its controller's name.
fn whose(lab: &Lab, pod: &str) -> Result<(String, String), String> {
    let said = lab.field(
        &["pod", pod],
        "{.metadata.uid} {.metadata.ownerReferences[?(@.controller==true)].name}",
    )?;
    let (uid, owner) = said.split_once(' ').ok_or("no pod")?;
    Ok((uid.to_owned(), owner.to_owned()))
}

fn names(lab: &Lab, app: &str) -> Result<Vec<String>, String> {
    let selector = format!("app={app}");
    let names = lab.field(&["pods", "-l", &selector], "{.items[*].metadata.name}")?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn pods_are_adopted_and_released_by_their_labels() {
    let lab = Lab::up("adoption", &[]);
    let orphan = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "orphan", "labels": {"app": "web"}}, "spec": sleeping(),
    });
    lab.apply("default", &orphan.to_string());
    // Whoever bound it knows it: the controllers, which would otherwise make another.
    lab.pods_ready("default", "app=web");
    let (uid, owner) = whose(&lab, "orphan").unwrap();
    assert_eq!(owner, "");
    lab.apply("default", &set("ReplicaSet", "web"));
    eventually("the orphan is the replica set's", || {
        expect(whose(&lab, "orphan")?, |(same, owner)| {
            *same == uid && owner == "web"
        })
    });
    eventually("it is all that is wanted", || {
        let ready = lab.field(&["replicaset", "web"], "{.status.readyReplicas}")?;
        expect(ready, |ready| ready == "1")
    });
    assert_eq!(names(&lab, "web").unwrap(), ["orphan"]);
    lab.kubectl(&["label", "pod", "orphan", "app=other", "--overwrite"])
        .ok();
    eventually("it is nobody's, and another is there instead", || {
        expect(whose(&lab, "orphan")?, |(same, owner)| {
            *same == uid && owner.is_empty()
        })?;
        expect(names(&lab, "web")?, |names| names.len() == 1)
    });
    // Back among them it is one too many.
    lab.kubectl(&["label", "pod", "orphan", "app=web", "--overwrite"])
        .ok();
    eventually("one of the two goes", || {
        expect(names(&lab, "web")?, |names| names.len() == 1)
    });

    // What is left behind on purpose finds its way back.
    lab.apply("default", &set("StatefulSet", "db"));
    lab.pods_ready("default", "app=db");
    let (uid, _) = whose(&lab, "db-0").unwrap();
    lab.kubectl(&["delete", "statefulset", "db", "--cascade=orphan"])
        .ok();
    eventually("the pod has been left", || {
        expect(whose(&lab, "db-0")?, |(same, owner)| {
            *same == uid && owner.is_empty()
        })
    });
    lab.apply("default", &set("StatefulSet", "db"));
    eventually("the pod is the new set's", || {
        expect(whose(&lab, "db-0")?, |(same, owner)| {
            *same == uid && owner == "db"
        })
    });
    lab.kubectl(&["label", "pod", "db-0", "app=other", "--overwrite"])
        .ok();
    eventually("it is nobody's", || {
        expect(whose(&lab, "db-0")?, |(_, owner)| owner.is_empty())
    });
}
