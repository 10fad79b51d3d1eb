//! A rolling update under load: endpoints leave before their pods stop serving, and no request
//! fails.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::lab::{Lab, wait_for};
use crate::report::{Report, Unit};
use crate::workloads::Kubectl;

const REPLICAS: u32 = 20;
/// New connections a second.
const RATE: u32 = 1000;
/// The share of the rate at which it counts as kept: some are on their way at the end.
const KEPT: f64 = 0.995;
const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(180);
const SERVE: &str = include_str!("../../../tests/lab/serve.py");
const REQUESTS: &str = include_str!("../../../tests/lab/requests.py");

pub(super) fn measure(weft: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!(
        "a rolling update of {REPLICAS} replicas under {RATE} requests a second, each by a new connection"
    ));
    let lab = Lab::up(weft, 2)?;
    let kubectl = Kubectl::new(weft, &lab)?;
    kubectl.apply(&objects())?;
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=180s"])?;
    wait_for(PATIENCE, "the client runs", || {
        Ok(lab.output("client", ["true"]).is_ok())
    })?;
    let address = kubectl.run(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    let (port, rate) = (PORT.to_string(), RATE.to_string());
    let mut requests = lab
        .exec(
            "client",
            ["python3", "-c", REQUESTS, &address, &port, &rate],
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let began = Instant::now();
    let updated = update(&kubectl);
    drop(requests.stdin.take());
    let took = began.elapsed();
    let Told {
        made,
        seconds,
        failures,
    } = told(&mut requests)?;
    requests.wait()?;
    updated?;
    report.value("the update took", Unit::Seconds, took.as_secs_f64());
    let failed = failures.len() as f64;
    let reached = (made + failed) / seconds;
    report.value("requests made", Unit::Rate("requests"), made + failed);
    report.value("rate asked for", Unit::Rate("a second"), f64::from(RATE));
    report.value("rate reached", Unit::Rate("a second"), reached);
    report.value("requests that failed", Unit::Rate("requests"), failed);
    for failure in failures.iter().take(5) {
        report.note(failure);
    }
    if reached < KEPT * f64::from(RATE) {
        report.note(&format!(
            "the client could not keep the rate: {reached:.0} of {RATE} a second; what is said of \
             failures holds for that rate only"
        ));
    }
    Ok(())
}

fn update(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.run(&["rollout", "restart", "deployment/web"])?;
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=180s"])?;
    wait_for(PATIENCE, "the pods of before are gone", || {
        let pods = kubectl.run(&["get", "pods", "-l", "app=web", "-o", "name"])?;
        Ok(pods.lines().count() == REPLICAS as usize)
    })
}

/// What the client said in the end.
struct Told {
    /// Requests that were answered.
    made: f64,
    /// From its first to its last.
    seconds: f64,
    /// What the others said.
    failures: Vec<String>,
}

fn told(requests: &mut Child) -> anyhow::Result<Told> {
    let output = requests.stdout.take().context("no standard output")?;
    let (mut made, mut seconds, mut failures) = (0.0, 0.0, Vec::new());
    for line in BufReader::new(output).lines() {
        let line = line?;
        match serde_json::from_str::<Value>(&line) {
            Ok(counts) => {
                made = counts["made"].as_f64().context("no count")?;
                seconds = counts["seconds"].as_f64().context("no time")?;
            }
            Err(_) => failures.push(line),
        }
    }
    if made == 0.0 {
        bail!("no request was answered: {failures:?}");
    }
    Ok(Told {
        made,
        seconds,
        failures,
    })
}

fn objects() -> Vec<Value> {
    let server = json!({
        "terminationGracePeriodSeconds": 15,
        "containers": [{
            "name": "c", "image": "debian",
            "command": ["python3", "-c", SERVE, PORT.to_string()],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        }],
    });
    vec![
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {
                "replicas": REPLICAS,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": server},
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": PORT}]},
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"},
            "spec": {"containers": [
                {"name": "c", "image": "debian", "command": ["sleep", "infinity"]},
            ]},
        }),
    ]
}
