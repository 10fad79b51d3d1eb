//! A rolling update under load (upstream's e2e test "Services should have no connectivity
//! disruption during rolling update"): endpoints leave before their pods stop serving.

use serde_json::{Value, json};

use crate::lab::probe::{self, PORT};
use crate::lab::{Lab, eventually, expect};

const REQUESTS: &str = include_str!("lab/requests.py");
const REPLICAS: u32 = 6;
/// A second.
const RATE: u32 = 100;

/// Servers that serve on for a while after they are told to end.
fn deployment() -> Value {
    let mut pod = probe::pod("web", "node-1");
    let spec = &mut pod["spec"];
    spec["nodeName"] = Value::Null;
    // Longer than a busy machine takes to tell every node.
    spec["terminationGracePeriodSeconds"] = json!(40);
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["sleep", "10"]}}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": spec},
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": PORT}]},
    })
}

/// How many requests have been made; fails if one has failed.
#[track_caller]
fn made(line: &str) -> u64 {
    let told: Value = serde_json::from_str(line).unwrap_or_default();
    assert_eq!(told["failed"], 0, "{line}");
    told["made"].as_u64().unwrap()
}

#[test]
fn no_request_fails_while_a_deployment_is_updated() {
    let lab = Lab::up("rolling", &[]);
    let mut client = probe::pod("client", "node-1");
    client["metadata"]["labels"] = json!({});
    lab.apply(
        "default",
        &probe::manifest(&[service(), deployment(), client]),
    );
    lab.pods_ready("default", "");
    let address = lab.field(&["service", "web"], "{.spec.clusterIP}").unwrap();
    eventually("the Service answers", || {
        let ask = probe::both(&address)
            .into_iter()
            .filter(|ask| ask.protocol == "tcp");
        let met = probe::ask(&lab, "default/client", &ask.collect::<Vec<_>>());
        expect(met, |met| met.iter().all(|met| met[0].failure().is_none()))
    });
    let (port, rate) = (PORT.to_string(), RATE.to_string());
    let requests = lab.start(
        "default/client",
        &["python3", "-c", REQUESTS, &address, &port, &rate],
    );
    let before = made(&requests.line("counts", |_| true));
    lab.kubectl(&["rollout", "restart", "deployment/web"]).ok();
    lab.kubectl(&["rollout", "status", "deployment/web"]).ok();
    eventually("the pods of before are gone", || {
        let pods = lab.field(&["pods", "-l", "app=web"], "{.items[*].metadata.name}")?;
        expect(pods, |pods| pods.split(' ').count() == REPLICAS as usize)
    });
    let lines = requests.finish();
    let after = lines.iter().map(|line| made(line)).max().unwrap();
    assert!(after > before + u64::from(RATE), "{before} {after}");
}
