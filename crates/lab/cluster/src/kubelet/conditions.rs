//! A pod's conditions, from what is known of its containers.

use jiff::Timestamp;
use weft_kube::k8s_openapi::api::core::v1::{Container, PodCondition, PodSpec};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::status::{Record, View, initialized};

/// The conditions that the kubelet sets; others belong to others.
const OWN_CONDITIONS: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

/// Whether a condition is the kubelet's own.
#[must_use]
pub fn is_own(condition: &str) -> bool {
    OWN_CONDITIONS.contains(&condition)
}

/// All conditions: the kubelet's own, then those of others as they are.
pub(super) fn of(view: &View<'_>, spec: &PodSpec, phase: &str) -> Vec<PodCondition> {
    let old = view
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let bad = |containers: &[Container], good: &dyn Fn(&Record) -> bool| -> Vec<String> {
        containers
            .iter()
            .filter(|container| !view.records.get(&container.name).is_some_and(good))
            .map(|container| container.name.clone())
            .collect()
    };
    let named =
        |what: &str, names: &[String]| format!("containers with {what}: [{}]", names.join(" "));
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let done = phase == "Succeeded";

    let initialized: Told = if done {
        (true, Some("PodCompleted"), None)
    } else if initialized(spec, view.records) {
        (true, None, None)
    } else {
        let names = bad(inits, &|record: &Record| {
            record.succeeded() || record.started
        });
        (
            false,
            Some("ContainersNotInitialized"),
            Some(named("incomplete status", &names)),
        )
    };
    let unready = bad(&spec.containers, &|record: &Record| {
        record.running() && record.ready
    });
    let containers_ready: Told = if done {
        (false, Some("PodCompleted"), None)
    } else if phase == "Failed" {
        (false, Some("PodFailed"), None)
    } else if unready.is_empty() {
        (true, None, None)
    } else {
        (
            false,
            Some("ContainersNotReady"),
            Some(named("unready status", &unready)),
        )
    };
    let gates: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .map(|gate| gate.condition_type.clone())
        .filter(|gate| {
            !old.iter()
                .any(|condition| condition.type_ == *gate && condition.status == "True")
        })
        .collect();
    let ready: Told = if containers_ready.0 && !gates.is_empty() {
        let message = format!(
            "the status of pod readiness gate {:?} is not \"True\"",
            gates[0]
        );
        (false, Some("ReadinessGatesNotReady"), Some(message))
    } else {
        containers_ready.clone()
    };
    let own: [(&str, Told); 5] = [
        ("PodReadyToStartContainers", (view.sandbox, None, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", (true, None, None)),
    ];
    let mut conditions: Vec<PodCondition> = own
        .into_iter()
        .map(|(kind, told)| condition(kind, told, &old, view.now))
        .collect();
    conditions.extend(
        old.into_iter()
            .filter(|condition| !is_own(&condition.type_)),
    );
    conditions
}

/// Status, reason and message of a condition.
type Told = (bool, Option<&'static str>, Option<String>);

fn condition(
    kind: &str,
    (status, reason, message): Told,
    old: &[PodCondition],
    now: Timestamp,
) -> PodCondition {
    let status = if status { "True" } else { "False" };
    let since = old
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == status)
        .and_then(|condition| condition.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    }
}
