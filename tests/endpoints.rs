//! Endpoints and EndpointSlices: those that the cluster writes, and those that people write.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect};

static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("endpoints", &["--ip-family", "dual"]));

fn pod(name: &str, app: &str, ready: bool) -> String {
    let probe = json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1,
        "timeoutSeconds": 60});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": "busybox", "command": ["sleep", "infinity"],
                "ports": [{"name": "web", "containerPort": 8080}],
                "readinessProbe": if ready { Value::Null } else { probe },
            }],
        },
    })
    .to_string()
}

fn service(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

/// What `kubectl get endpoints` shows in its column, which is blank while no pod is ready.
fn column(namespace: &str, name: &str) -> Result<String, String> {
    let line = LAB
        .kubectl(&["-n", namespace, "get", "endpoints", name, "--no-headers"])
        .result()?;
    let shown: Vec<&str> = line.split_whitespace().collect();
    match shown[..] {
        [_, column, _] => Ok(column.to_owned()),
        [_, _] => Ok(String::new()),
        _ => Err(format!("not a row of Endpoints: {line:?}")),
    }
}

#[test]
fn endpoints_follow_the_pods_of_a_service() {
    LAB.namespace("follow");
    let spec = json!({
        "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "web"}],
    });
    LAB.apply("follow", &service("web", &spec));
    eventually("a Service without pods has empty Endpoints", || {
        expect(column("follow", "web")?, |shown| shown == "<none>")
    });
    LAB.apply("follow", &pod("a", "web", false));
    let path = "{.subsets[*].notReadyAddresses[*].targetRef.name}";
    eventually("a pod that is not ready is told apart", || {
        let found = LAB.field(&["-n", "follow", "endpoints", "web"], path)?;
        expect(found, |found| found == "a")
    });
    assert_eq!(column("follow", "web").unwrap(), "");

    LAB.sh("follow/a", "touch /tmp/ready").ok();
    let address = LAB.pod_ips("follow", "a").remove(0);
    let shown = format!("{address}:8080");
    eventually("a ready pod is shown by its primary address", || {
        expect(column("follow", "web")?, |found| *found == shown)
    });
    // This it reads in the slices, which are another controller's.
    eventually("the Service is described with it", || {
        let describe = ["-n", "follow", "describe", "service", "web"];
        expect(LAB.kubectl(&describe).result()?, |described| {
            let mut lines = described.lines();
            let line = lines.find(|line| line.starts_with("Endpoints:"));
            line.is_some_and(|line| line.ends_with(&shown))
        })
    });
    let annotation = r"{.metadata.annotations.endpoints\.kubernetes\.io/last-change-trigger-time}";
    let ready_since = LAB
        .field(
            &["-n", "follow", "pod", "a"],
            "{.status.conditions[?(@.type=='Ready')].lastTransitionTime}",
        )
        .unwrap();
    let trigger = LAB.field(&["-n", "follow", "endpoints", "web"], annotation);
    assert_eq!(trigger.unwrap(), ready_since);
    let slices = [
        "-n",
        "follow",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
    ];
    let path =
        r"{.items[0].metadata.annotations.endpoints\.kubernetes\.io/last-change-trigger-time}";
    eventually("the slice says the same", || {
        expect(LAB.field(&slices, path)?, |found| *found == ready_since)
    });

    LAB.kubectl(&["-n", "follow", "delete", "service", "web"])
        .ok();
    eventually("the Endpoints go with the Service", || {
        let there = LAB.kubectl(&["-n", "follow", "get", "endpoints", "-o", "name"]);
        expect(there.result()?, String::is_empty)
    });
}

#[test]
fn the_api_has_endpoints_of_its_own() {
    let slice = LAB.get(&["endpointslice", "kubernetes"]);
    let address = slice["endpoints"][0]["addresses"][0].as_str().unwrap();
    let port = &slice["ports"][0]["port"];
    assert_eq!(
        column("default", "kubernetes").unwrap(),
        format!("{address}:{port}")
    );
    let slices = LAB.get(&[
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=kubernetes",
    ]);
    let mirrored = slices["items"].as_array().unwrap().iter().filter(|slice| {
        !slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"].is_null()
    });
    assert_eq!(mirrored.count(), 0, "{slices}");
}

#[test]
fn endpoints_written_by_hand_become_slices() {
    LAB.namespace("hand");
    let endpoints = |port: u16, labels: Value| {
        json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "db", "labels": labels, "annotations": {"note": "by hand"}},
            "subsets": [{
                "addresses": [{"ip": "192.0.2.10"}, {"ip": "2001:db8::10"}],
                "notReadyAddresses": [{"ip": "192.0.2.11"}],
                "ports": [{"name": "sql", "port": port}],
            }],
        })
        .to_string()
    };
    // They may be there before their Service.
    LAB.apply("hand", &endpoints(5432, json!({"app": "db"})));
    let spec = json!({"ports": [{"name": "sql", "port": 5432}]});
    LAB.apply("hand", &service("db", &spec));
    let mirrored = || -> Vec<Value> {
        let manager =
            "endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io";
        let list = LAB.get(&["-n", "hand", "endpointslices", "-l", manager]);
        let mut items = list["items"].as_array().unwrap().clone();
        items.sort_by_key(|item| item["addressType"].to_string());
        items
    };
    let slices = eventually("there is a slice a family", || {
        expect(mirrored(), |slices| slices.len() == 2)
    });
    assert_eq!(
        slices[0]["endpoints"][0]["addresses"],
        json!(["192.0.2.10"])
    );
    assert_eq!(slices[0]["endpoints"][1]["conditions"]["ready"], false);
    assert_eq!(
        slices[1]["endpoints"][0]["addresses"],
        json!(["2001:db8::10"])
    );
    let metadata = &slices[0]["metadata"];
    assert_eq!(metadata["annotations"], json!({"note": "by hand"}));
    assert_eq!(metadata["labels"]["app"], "db");
    assert_eq!(metadata["labels"]["kubernetes.io/service-name"], "db");

    LAB.apply("hand", &endpoints(5433, json!({"app": "db"})));
    let name = metadata["name"].clone();
    eventually("the same slice has the new port", || {
        expect(mirrored(), |slices| {
            slices.len() == 2
                && slices[0]["ports"][0]["port"] == 5433
                && slices[0]["metadata"]["name"] == name
        })
    });
    let by_hand = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "mine", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.12"]}],
        "ports": [{"name": "sql", "port": 5432}],
    });
    LAB.apply("hand", &by_hand.to_string());
    let skipped = json!({"app": "db", "endpointslice.kubernetes.io/skip-mirror": "true"});
    LAB.apply("hand", &endpoints(5433, skipped));
    eventually("who does not want slices has none", || {
        expect(mirrored(), Vec::is_empty)
    });
    // A slice that a person wrote is nobody's business.
    LAB.get(&["-n", "hand", "endpointslice", "mine"]);
}
