//! Deployments on their way from one version to the next: how fast they go, and what a change of
//! their size does in the middle (upstream's e2e tests "RollingUpdateDeployment should delete old
//! pods and create new ones" and "deployment should support proportional scaling").

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect};

/// A Deployment whose pods are ready if `ready` is.
fn deployment(name: &str, version: &str, ready: bool, more: &Value) -> String {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name, "version": version}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "c", "image": "busybox", "command": ["sleep", "infinity"],
                    "readinessProbe": {
                        "exec": {"command": [if ready { "true" } else { "false" }]},
                        "periodSeconds": 1,
                        // On a busy machine even this may take a while.
                        "timeoutSeconds": 60,
                    },
                }],
            },
        },
    });
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec,
    })
    .to_string()
}

/// The sizes of the replica sets by version.
fn sizes(lab: &Lab, app: &str) -> Result<String, String> {
    let path = "{range .items[*]}{.metadata.labels.version}={.spec.replicas} {end}";
    let said = lab.field(&["replicasets", "-l", &format!("app={app}")], path)?;
    let mut sizes: Vec<&str> = said.split_whitespace().collect();
    sizes.sort_unstable();
    Ok(sizes.join(" "))
}

#[test]
fn a_rollout_goes_at_its_rate_and_scales_in_proportion() {
    let lab = Lab::up("rollouts", &[]);

    let careful = json!({
        "replicas": 3, "minReadySeconds": 1,
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    });
    lab.apply("default", &deployment("web", "1", true, &careful));
    lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])
        .ok();
    let available = "jsonpath={.status.availableReplicas}{\"\\n\"}";
    let status = lab.kubectl_start(&["get", "deployment", "web", "--watch", "-o", available]);
    status.line("how many are available before", |line| line == "3");
    let wanted = "jsonpath={.metadata.labels.version} {.spec.replicas}{\"\\n\"}";
    let sets = [
        "get",
        "replicasets",
        "-l",
        "app=web",
        "--watch",
        "-o",
        wanted,
    ];
    let sets = lab.kubectl_start(&sets);
    sets.line("what it is like before", |line| line == "1 3");
    lab.apply("default", &deployment("web", "2", true, &careful));
    lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])
        .ok();
    eventually("the old version is gone", || {
        expect(sizes(&lab, "web")?, |sizes| sizes == "1=0 2=3")
    });
    let seen = status.so_far();
    let numbers = seen.iter().filter_map(|line| line.parse::<i32>().ok());
    assert!(numbers.clone().all(|available| available >= 3), "{seen:?}");
    // Never more than one too many, and there was one.
    let mut now = BTreeMap::from([("1".to_owned(), 3)]);
    let mut most = 0;
    while now["1"] > 0 {
        let line = sets.line("how many are wanted", |_| true);
        let (version, size) = line.split_once(' ').unwrap();
        now.insert(version.to_owned(), size.parse::<i32>().unwrap());
        most = most.max(now.values().sum());
    }
    assert_eq!(most, 4, "{now:?}");

    let broad = |replicas: u32| {
        json!({
            "replicas": replicas,
            "strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}},
        })
    };
    lab.apply("default", &deployment("wide", "1", true, &broad(10)));
    lab.kubectl(&["rollout", "status", "deployment/wide", "--timeout=120s"])
        .ok();
    // The new version never becomes ready: the rollout stands where its bounds have it stand.
    lab.apply("default", &deployment("wide", "2", false, &broad(10)));
    eventually("the rollout has gone as far as it may", || {
        expect(sizes(&lab, "wide")?, |sizes| sizes == "1=8 2=5")
    });
    lab.kubectl(&["scale", "deployment/wide", "--replicas=15"])
        .ok();
    eventually("both versions have grown by their share", || {
        expect(sizes(&lab, "wide")?, |sizes| sizes == "1=11 2=7")
    });
    let annotations = lab.field(
        &["replicasets", "-l", "app=wide"],
        "{.items[*].metadata.annotations.deployment\\.kubernetes\\.io/max-replicas}",
    );
    assert_eq!(annotations.unwrap(), "18 18");
}
