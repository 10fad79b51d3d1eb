//! A pod's status, from what is known of its containers: phase, conditions, container statuses.
//!
//! Pure: time is given. Source: Kubernetes API, PodStatus; kubelet's status/generate.go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use weft_kube::k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodIP, PodSpec, PodStatus,
    ResourceRequirements,
};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    /// Its id.
    pub id: String,
    /// Exit code.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// `Completed`, `Error`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// What is known beyond that.
    pub message: Option<String>,
    /// When it was started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
}

/// How a container is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Not started, and why.
    Waiting {
        /// Such as `ContainerCreating` or `CrashLoopBackOff`.
        reason: String,
        /// For a person.
        message: Option<String>,
    },
    /// Running since.
    Running(Timestamp),
    /// Ended.
    Ended(Termination),
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How it is.
    pub life: Life,
    /// How it ended the time before.
    pub last: Option<Termination>,
    /// How often it was started again.
    pub restarts: u32,
    /// Its id, once started.
    pub id: Option<String>,
    /// Whether its `postStart` hook has not ended yet: it runs, and nobody is told so.
    pub hooked: bool,
    /// Whether its startup probe has passed.
    pub started: bool,
    /// Whether its readiness probe has passed.
    pub ready: bool,
}

impl Record {
    /// A container that was never started.
    #[must_use]
    pub fn new(reason: &str) -> Self {
        Record {
            life: Life::Waiting {
                reason: reason.to_owned(),
                message: None,
            },
            last: None,
            restarts: 0,
            id: None,
            hooked: false,
            started: false,
            ready: false,
        }
    }

    pub(super) fn running(&self) -> bool {
        matches!(self.life, Life::Running(_))
    }

    pub(super) fn succeeded(&self) -> bool {
        matches!(&self.life, Life::Ended(end) if end.code == 0)
    }
}

/// Why a kubelet ends a pod that has not ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Such as `DeadlineExceeded` or `Evicted`.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// Everything a status depends on.
#[derive(Debug)]
pub struct View<'a> {
    /// The pod, with the status it has in the API.
    pub pod: &'a Pod,
    /// Its containers of all sorts by name.
    pub records: &'a BTreeMap<String, Record>,
    /// Whether its sandbox and network are there.
    pub sandbox: bool,
    /// Whether it will not be run any more.
    pub finished: bool,
    /// Its addresses.
    pub pod_ips: &'a [IpAddr],
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// Why the kubelet has ended it, where it has.
    pub verdict: Option<&'a Verdict>,
    /// When the kubelet first saw it.
    pub start: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// Whether an init container goes on running beside the containers.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether every init container has done its part.
#[must_use]
pub fn initialized(spec: &PodSpec, records: &BTreeMap<String, Record>) -> bool {
    spec.init_containers.iter().flatten().all(|container| {
        records.get(&container.name).is_some_and(|record| {
            if is_sidecar(container) {
                record.started
            } else {
                record.succeeded()
            }
        })
    })
}

/// The pod's phase.
#[must_use]
pub fn phase(spec: &PodSpec, records: &BTreeMap<String, Record>, finished: bool) -> &'static str {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let record = |container: &Container| records.get(&container.name);
    let inits = || spec.init_containers.iter().flatten();
    let broken_init = inits()
        .filter(|container| !is_sidecar(container))
        .any(|container| {
            record(container)
                .is_some_and(|record| matches!(&record.life, Life::Ended(end) if end.code != 0))
        });
    if broken_init && (policy == "Never" || finished) {
        return "Failed";
    }
    if !initialized(spec, records) {
        // A sidecar that is down after the containers had started does not take the phase back.
        let begun = spec
            .containers
            .iter()
            .any(|container| record(container).is_some_and(|record| record.id.is_some()));
        if !begun {
            return "Pending";
        }
    }
    let (mut waiting, mut running, mut ended, mut succeeded) = (0, 0, 0, 0);
    for container in &spec.containers {
        match record(container).map(|record| (&record.life, record)) {
            Some((Life::Running(_), record)) if record.hooked && record.last.is_none() => {
                waiting += 1
            }
            Some((Life::Running(_), _)) => running += 1,
            Some((Life::Ended(_), record)) => {
                ended += 1;
                succeeded += usize::from(record.succeeded());
            }
            // Between two starts it counts as ended, so the pod stays Running.
            Some((Life::Waiting { .. }, record)) if record.last.is_some() => ended += 1,
            Some((Life::Waiting { .. }, _)) | None => waiting += 1,
        }
    }
    if waiting > 0 {
        "Pending"
    } else if running > 0 {
        "Running"
    } else if finished || policy != "Always" {
        let restarts = spec.containers.iter().any(|container| {
            record(container).is_some_and(|r| matches!(r.life, Life::Waiting { .. }))
        });
        if succeeded == spec.containers.len() {
            "Succeeded"
        } else if finished || (policy == "Never" && ended > 0 && !restarts) {
            "Failed"
        } else {
            "Running"
        }
    } else {
        "Running"
    }
}

/// The whole status.
#[must_use]
pub fn status(view: &View<'_>) -> PodStatus {
    let empty = PodSpec::default();
    let spec = view.pod.spec.as_ref().unwrap_or(&empty);
    let mut phase = phase(spec, view.records, view.finished);
    // What is done has ended only with its sidecars.
    if view.verdict.is_some() {
        phase = "Failed";
    }
    let ends = matches!(phase, "Succeeded" | "Failed");
    if ends && view.records.values().any(Record::running) {
        phase = "Running";
    }
    let waits_for = creating(spec);
    let statuses = |containers: &[Container]| -> Vec<ContainerStatus> {
        containers
            .iter()
            .filter_map(|container| {
                let record = view.records.get(&container.name)?;
                Some(container_status(container, record, waits_for))
            })
            .collect()
    };
    // Of what was refused before it began there is nothing to tell.
    let refused = view.verdict.is_some() && view.records.values().all(|one| one.id.is_none());
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let old = view.pod.status.clone().unwrap_or_default();
    let ips = view
        .pod_ips
        .iter()
        .map(|ip| PodIP { ip: ip.to_string() })
        .collect::<Vec<_>>();
    let host_ips = view
        .host_ips
        .iter()
        .map(|ip| HostIP { ip: ip.to_string() })
        .collect::<Vec<_>>();
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: view.verdict.map(|verdict| verdict.reason.to_owned()),
        message: view.verdict.map(|verdict| verdict.message.clone()),
        conditions: Some(conditions::of(view, spec, phase)),
        container_statuses: (!refused).then(|| statuses(&spec.containers)),
        init_container_statuses: (!refused && !inits.is_empty()).then(|| statuses(inits)),
        host_ip: view.host_ips.first().map(IpAddr::to_string),
        host_ips: (!host_ips.is_empty()).then_some(host_ips),
        pod_ip: view.pod_ips.first().map(IpAddr::to_string),
        pod_ips: (!ips.is_empty()).then_some(ips),
        start_time: Some(Time(view.start)),
        qos_class: Some(old.qos_class.unwrap_or_else(|| qos_class(spec).to_owned())),
        ..PodStatus::default()
    }
}

/// What a container waits for that was never started.
#[must_use]
pub fn creating(spec: &PodSpec) -> &'static str {
    if spec.init_containers.iter().flatten().next().is_some() {
        "PodInitializing"
    } else {
        "ContainerCreating"
    }
}

fn container_status(
    container: &Container,
    record: &Record,
    waits_for: &'static str,
) -> ContainerStatus {
    let image = container.image.clone().unwrap_or_default();
    let init_done = record.succeeded();
    let shown = if record.hooked && record.running() {
        Record::new(waits_for).life
    } else {
        record.life.clone()
    };
    ContainerStatus {
        name: container.name.clone(),
        state: Some(state(&shown)),
        last_state: Some(
            record
                .last
                .clone()
                .map_or_else(ContainerState::default, |end| state(&Life::Ended(end))),
        ),
        ready: record.ready && (record.running() || init_done),
        started: Some(record.running() && record.started),
        restart_count: i32::try_from(record.restarts).unwrap_or(i32::MAX),
        image_id: record
            .id
            .as_ref()
            .map(|_| format!("weft-lab/{image}"))
            .unwrap_or_default(),
        image,
        container_id: record.id.as_ref().map(|id| format!("weft://{id}")),
        ..ContainerStatus::default()
    }
}

fn state(life: &Life) -> ContainerState {
    let mut state = ContainerState::default();
    match life {
        Life::Waiting { reason, message } => {
            state.waiting = Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            });
        }
        Life::Running(since) => {
            state.running = Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            });
        }
        Life::Ended(end) => {
            state.terminated = Some(ContainerStateTerminated {
                container_id: (!end.id.is_empty()).then(|| format!("weft://{}", end.id)),
                exit_code: end.code,
                // As with other runtimes, the exit code alone tells of a signal.
                signal: None,
                reason: Some(end.reason.clone()),
                message: end.message.clone(),
                started_at: end.started.map(Time),
                finished_at: end.ended.map(Time),
            });
        }
    }
    state
}

/// What a container's status in the API says of its former life: for a kubelet that has just
/// been started.
#[must_use]
pub fn remembered(status: &ContainerStatus) -> Record {
    let end = |state: Option<&ContainerState>| {
        state
            .and_then(|state| state.terminated.as_ref())
            .map(termination)
    };
    let life = match end(status.state.as_ref()) {
        Some(end) => Life::Ended(end),
        None => {
            let waiting = status
                .state
                .as_ref()
                .and_then(|state| state.waiting.as_ref());
            Life::Waiting {
                reason: waiting
                    .and_then(|waiting| waiting.reason.clone())
                    .unwrap_or_else(|| "ContainerCreating".to_owned()),
                message: waiting.and_then(|waiting| waiting.message.clone()),
            }
        }
    };
    Record {
        life,
        last: end(status.last_state.as_ref()),
        restarts: u32::try_from(status.restart_count).unwrap_or(0),
        id: status
            .container_id
            .as_ref()
            .map(|id| id.trim_start_matches("weft://").to_owned()),
        hooked: false,
        started: status.started.unwrap_or(false),
        ready: status.ready,
    }
}

fn termination(state: &ContainerStateTerminated) -> Termination {
    Termination {
        id: state
            .container_id
            .as_deref()
            .unwrap_or_default()
            .trim_start_matches("weft://")
            .to_owned(),
        code: state.exit_code,
        signal: state.signal.unwrap_or(0),
        reason: state.reason.clone().unwrap_or_else(|| "Error".to_owned()),
        message: state.message.clone(),
        started: state.started_at.as_ref().map(|time| time.0),
        ended: state.finished_at.as_ref().map(|time| time.0),
    }
}

/// The quality of service class by requests and limits of CPU and memory.
#[must_use]
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let all = || {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    };
    let get = |resources: Option<&ResourceRequirements>, limit: bool, name: &str| {
        let resources = resources?;
        let list = if limit {
            &resources.limits
        } else {
            &resources.requests
        };
        list.as_ref()?.get(name).map(|quantity| quantity.0.clone())
    };
    let names = ["cpu", "memory"];
    let any = all().any(|container| {
        names.iter().any(|name| {
            let resources = container.resources.as_ref();
            get(resources, true, name)
                .or_else(|| get(resources, false, name))
                .is_some()
        })
    });
    if !any {
        return "BestEffort";
    }
    let guaranteed = all().all(|container| {
        names.iter().all(|name| {
            let resources = container.resources.as_ref();
            let limit = get(resources, true, name);
            let request = get(resources, false, name);
            limit.is_some() && (request.is_none() || request == limit)
        })
    });
    if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_kube::k8s_openapi::api::core::v1::PodCondition;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn ended(code: i32) -> Life {
        Life::Ended(Termination {
            id: "i".to_owned(),
            code,
            signal: 0,
            reason: "x".to_owned(),
            message: None,
            started: None,
            ended: None,
        })
    }

    fn record(life: Life, last: bool) -> Record {
        let previous = match ended(1) {
            Life::Ended(end) => last.then_some(end),
            Life::Waiting { .. } | Life::Running(_) => None,
        };
        Record {
            life,
            last: previous,
            restarts: 0,
            id: Some("i".to_owned()),
            hooked: false,
            started: true,
            ready: true,
        }
    }

    fn waiting() -> Life {
        Record::new("ContainerCreating").life
    }

    fn running() -> Life {
        Life::Running(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_phase_follows_containers_and_restart_policy() {
        for (policy, lives, expected) in [
            (
                "Always",
                vec![(waiting(), false), (running(), false)],
                "Pending",
            ),
            (
                "Always",
                vec![(running(), false), (running(), false)],
                "Running",
            ),
            (
                "Always",
                vec![(waiting(), true), (running(), false)],
                "Running",
            ),
            ("Always", vec![(ended(0), false)], "Running"),
            (
                "Never",
                vec![(ended(0), false), (running(), false)],
                "Running",
            ),
            ("Never", vec![(ended(0), false)], "Succeeded"),
            (
                "Never",
                vec![(ended(0), false), (ended(3), false)],
                "Failed",
            ),
            ("OnFailure", vec![(ended(3), false)], "Running"),
            ("OnFailure", vec![(waiting(), true)], "Running"),
            ("OnFailure", vec![(ended(0), true)], "Succeeded"),
        ] {
            let containers: Vec<_> = (0..lives.len())
                .map(|index| json!({"name": index.to_string()}))
                .collect();
            let pod = pod(json!({"restartPolicy": policy, "containers": containers}));
            let records = lives
                .into_iter()
                .enumerate()
                .map(|(index, (life, last))| (index.to_string(), record(life, last)))
                .collect();
            let spec = pod.spec.unwrap();
            assert_eq!(
                phase(&spec, &records, false),
                expected,
                "{policy} {records:?}"
            );
        }
    }

    #[test]
    fn init_containers_hold_the_pod_pending_or_fail_it() {
        let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c"}],
                          "initContainers": [{"name": "i"}]});
        let spec = pod(spec).spec.unwrap();
        let mut records = BTreeMap::from([("c".to_owned(), Record::new("PodInitializing"))]);
        records.insert("i".to_owned(), record(running(), false));
        assert_eq!(phase(&spec, &records, false), "Pending");
        records.insert("i".to_owned(), record(ended(2), false));
        assert_eq!(phase(&spec, &records, false), "Failed");
    }

    #[test]
    fn conditions_keep_their_time_while_nothing_changes() {
        let mut pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}],
                                 "readinessGates": [{"conditionType": "example.com/gate"}]}));
        let mut records = BTreeMap::from([
            ("a".to_owned(), record(running(), false)),
            (
                "b".to_owned(),
                Record {
                    ready: false,
                    ..record(running(), false)
                },
            ),
        ]);
        let at = |second| Timestamp::from_second(second).unwrap();
        let told = |pod: &Pod, records: &BTreeMap<String, Record>, now| {
            let view = View {
                pod,
                records,
                sandbox: true,
                finished: false,
                verdict: None,
                pod_ips: &[],
                host_ips: &[],
                start: at(0),
                now,
            };
            status(&view)
        };
        let line = |status: &PodStatus, kind: &str| {
            let all = status.conditions.as_ref().unwrap();
            let one = all
                .iter()
                .find(|condition| condition.type_ == kind)
                .unwrap();
            let time = one.last_transition_time.as_ref().unwrap().0.as_second();
            format!(
                "{} {time} {}",
                one.status,
                one.message.clone().unwrap_or_default()
            )
        };
        let first = told(&pod, &records, at(10));
        assert_eq!(
            line(&first, "Ready"),
            "False 10 containers with unready status: [b]"
        );
        pod.status = Some(first);
        records.get_mut("b").unwrap().ready = true;
        let second = told(&pod, &records, at(20));
        assert_eq!(line(&second, "ContainersReady"), "True 20 ");
        assert!(line(&second, "Ready").starts_with("False 10 the status of pod readiness gate"));
        let mut given = second;
        given.conditions.as_mut().unwrap().push(PodCondition {
            type_: "example.com/gate".to_owned(),
            status: "True".to_owned(),
            ..PodCondition::default()
        });
        pod.status = Some(given);
        let third = told(&pod, &records, at(30));
        assert_eq!(line(&third, "Ready"), "True 30 ");
        assert_eq!(line(&third, "ContainersReady"), "True 20 ");
        assert_eq!(third.conditions.unwrap().len(), 6);
    }

    #[test]
    fn quality_of_service() {
        for (resources, expected) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                "Guaranteed",
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
                "Burstable",
            ),
        ] {
            let pod = pod(json!({"containers": [{"name": "c", "resources": resources}]}));
            assert_eq!(qos_class(&pod.spec.unwrap()), expected);
        }
    }
}
