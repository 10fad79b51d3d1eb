//! Columns of pods: the status column tells the worst a container has to say.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, NAME, age, name, or_none, text_column, wide};
use crate::Column;
use crate::read::{at, flag, int, list, text};

pub(crate) const POD: &[Column] = &[
    NAME,
    text_column("Ready", "Ready containers of all."),
    text_column("Status", "Phase, or what keeps the pod from running."),
    text_column(
        "Restarts",
        "Restarts of its containers, and when the last was.",
    ),
    AGE,
    wide("IP", "Address of the pod."),
    wide("Node", "Node the pod is bound to."),
    wide("Nominated Node", "Node the pod waits for."),
    wide("Readiness Gates", "True readiness gates of all."),
];

/// A pod that has ended is marked, so that clients may leave its row out.
pub(crate) fn pod_conditions(object: &Value) -> Vec<Value> {
    let (reason, message) = match text(object, &["status", "phase"]) {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

pub(crate) fn pod(object: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(object);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            let ago = super::human_duration(now.as_second() - last.as_second());
            format!("{} ({ago} ago)", summary.restarts)
        }
        _ => summary.restarts.to_string(),
    };
    let first_ip = match list(object, &["status", "podIPs"]).first() {
        Some(first) => text(first, &["ip"]),
        None => text(object, &["status", "podIP"]),
    };
    let or_none_cell = |value: &str| -> Value { or_none(value.to_owned()).into() };
    vec![
        name(object),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(object, now),
        or_none_cell(first_ip),
        or_none_cell(text(object, &["spec", "nodeName"])),
        or_none_cell(text(object, &["status", "nominatedNodeName"])),
        readiness_gates(object).into(),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let is_true = |gate: &&Value| condition_is_true(pod, text(gate, &["conditionType"]));
    format!("{}/{}", gates.iter().filter(is_true).count(), gates.len())
}

fn condition_is_true(pod: &Value, wanted: &str) -> bool {
    list(pod, &["status", "conditions"])
        .iter()
        .any(|condition| {
            text(condition, &["type"]) == wanted && text(condition, &["status"]) == "True"
        })
}

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Restarts of some containers, and when the last one ended.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += int(container, &["restartCount"]).unwrap_or(0);
        let ended = text(container, &["lastState", "terminated", "finishedAt"]);
        self.last = self.last.max(ended.parse().ok());
    }
}

fn summarize(pod: &Value) -> Summary {
    let phase = text(pod, &["status", "phase"]);
    let mut reason = match text(pod, &["status", "reason"]) {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let gated = list(pod, &["status", "conditions"])
        .iter()
        .any(|condition| {
            text(condition, &["type"]) == "PodScheduled"
                && text(condition, &["reason"]) == "SchedulingGated"
        });
    if gated {
        reason = "SchedulingGated".to_owned();
    }
    let init_containers = list(pod, &["spec", "initContainers"]);
    let sidecars: BTreeSet<&str> = init_containers
        .iter()
        .filter(|one| text(one, &["restartPolicy"]) == "Always")
        .map(|one| text(one, &["name"]))
        .collect();
    let total = list(pod, &["spec", "containers"]).len() + sidecars.len();

    let mut ready = 0;
    let mut restarts = Restarts::default();
    let mut sidecar_restarts = Restarts::default();
    let mut initializing = false;
    let statuses = list(pod, &["status", "initContainerStatuses"]);
    for (index, container) in statuses.iter().enumerate() {
        restarts.add(container);
        let sidecar = sidecars.contains(text(container, &["name"]));
        if sidecar {
            sidecar_restarts.add(container);
        }
        if int(container, &["state", "terminated", "exitCode"]) == Some(0) {
            continue;
        }
        if sidecar && flag(container, &["started"]) {
            ready += usize::from(flag(container, &["ready"]));
            continue;
        }
        let waiting = text(container, &["state", "waiting", "reason"]);
        reason = if at(container, &["state", "terminated"]).is_some() {
            format!("Init:{}", terminated_reason(container))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", init_containers.len())
        };
        initializing = true;
        break;
    }

    if !initializing || condition_is_true(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        for container in list(pod, &["status", "containerStatuses"]).iter().rev() {
            restarts.add(container);
            let waiting = text(container, &["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if at(container, &["state", "terminated"]).is_some() {
                reason = terminated_reason(container);
            } else if flag(container, &["ready"]) && at(container, &["state", "running"]).is_some()
            {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let healthy = condition_is_true(pod, "Ready");
            reason = if healthy { "Running" } else { "NotReady" }.to_owned();
        }
    }

    if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        if text(pod, &["status", "reason"]) == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            reason = "Terminating".to_owned();
        }
    }
    Summary {
        reason,
        ready,
        total,
        restarts: restarts.count,
        last_restart: restarts.last,
    }
}

fn terminated_reason(container: &Value) -> String {
    match text(container, &["state", "terminated", "reason"]) {
        "" => match int(container, &["state", "terminated", "signal"]) {
            Some(signal) if signal != 0 => format!("Signal:{signal}"),
            _ => {
                let code = int(container, &["state", "terminated", "exitCode"]).unwrap_or(0);
                format!("ExitCode:{code}")
            }
        },
        reason => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(object: Value) -> Vec<String> {
        pod(&object, "2024-01-01T00:10:00Z".parse().unwrap())
            .into_iter()
            .map(|cell| cell.as_str().unwrap_or("").to_owned())
            .collect()
    }

    #[test]
    fn a_running_pod_that_restarted() {
        let cells = row(json!({
            "metadata": {"name": "p", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"nodeName": "node-1", "containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.244.1.2"}],
                "containerStatuses": [
                    {"name": "a", "ready": true, "state": {"running": {}}, "restartCount": 1,
                        "lastState": {"terminated": {"finishedAt": "2024-01-01T00:09:55Z"}}},
                    {"name": "b", "ready": false, "restartCount": 0,
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}));
        assert_eq!(
            cells,
            [
                "p",
                "1/2",
                "CrashLoopBackOff",
                "1 (5s ago)",
                "10m",
                "10.244.1.2",
                "node-1",
                "<none>",
                "<none>"
            ]
        );
    }

    #[test]
    fn states() {
        let status = |object: Value| row(object)[2].clone();
        let deleted = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"},
            "status": {"phase": "Running"}});
        assert_eq!(status(deleted), "Terminating");
        let init = json!({"spec": {"initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "state": {"running": {}}}]}});
        assert_eq!(status(init), "Init:1/2");
        let done = json!({"status": {"phase": "Succeeded", "containerStatuses": [
            {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}});
        assert_eq!(status(done), "Completed");
        let killed = json!({"status": {"phase": "Failed", "containerStatuses": [
            {"name": "a", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}});
        assert_eq!(status(killed), "Signal:9");
        assert_eq!(status(json!({"status": {"phase": "Pending"}})), "Pending");
    }
}
