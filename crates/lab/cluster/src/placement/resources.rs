//! What pods ask for, and what nodes have of it (kube-scheduler's NodeResourcesFit).

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weft_kinds::Quantity;
use weft_kube::k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};
use weft_kube::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::NodeView;
use super::refusal::Objection;

/// Which nodes are filled first (`scoringStrategy` of kube-scheduler's NodeResourcesFitArgs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scoring {
    /// The emptiest: pods are spread.
    #[default]
    LeastAllocated,
    /// The fullest that has room: pods are packed, and nodes stay free.
    MostAllocated,
}

impl Scoring {
    /// As it is written on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Scoring::LeastAllocated => "least-allocated",
            Scoring::MostAllocated => "most-allocated",
        }
    }
}

impl FromStr for Scoring {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Scoring::LeastAllocated, Scoring::MostAllocated];
        let found = all.into_iter().find(|scoring| scoring.name() == text);
        found.ok_or_else(|| format!("{text:?} is neither least-allocated nor most-allocated"))
    }
}

/// What a container that asks for nothing is thought to need when nodes are compared, in
/// thousandths of a unit (kube-scheduler's `DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const UNSAID: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 * 1024 * 1024 * 1000)];

/// What of the node's resources is too little. Every one is named.
pub(super) fn objection(pod: &Pod, view: &NodeView<'_>) -> Option<Objection> {
    let mut scarce = Vec::new();
    let mut lasting = false;
    let pods = allocatable(view.node, "pods") / 1000;
    if pods > 0 && view.pods.len() as i64 >= pods {
        scarce.push("Too many pods".to_owned());
    }
    for name in requested_names(pod) {
        let asked = request(pod, &name, 0);
        let used = sum(view.pods.iter().map(|pod| request(pod, &name, 0)));
        let has = allocatable(view.node, &name);
        if asked > 0 && used.saturating_add(asked) > has {
            scarce.push(format!("Insufficient {name}"));
            lasting |= asked > has;
        }
    }
    Objection::all(scarce, lasting)
}

/// How full the node would be with the pod, in thousandths: the mean of processors and memory.
pub(super) fn fullness(pod: &Pod, view: &NodeView<'_>) -> i64 {
    let shares = UNSAID.map(|(name, unsaid)| {
        let pods = view.pods.iter().copied().chain([pod]);
        let asked = sum(pods.map(|pod| request(pod, name, unsaid)));
        let share = asked.saturating_mul(1000) / allocatable(view.node, name).max(1);
        share.min(1000)
    });
    shares.iter().sum::<i64>() / 2
}

fn requested_names(pod: &Pod) -> BTreeSet<String> {
    let spec = pod.spec.iter();
    let overhead = spec.clone().flat_map(|spec| spec.overhead.iter().flatten());
    spec.flat_map(|spec| {
        let initial = spec.init_containers.iter().flatten();
        spec.containers.iter().chain(initial)
    })
    .filter_map(|container| container.resources.as_ref()?.requests.as_ref())
    .flatten()
    .chain(overhead)
    .map(|(name, _)| name.clone())
    .collect()
}

/// What a pod asks for of a resource, in thousandths of its unit: its containers and sidecars
/// run side by side, its init containers before them, one by one, each beside the sidecars that
/// were started before it (Kubernetes' "Resource sharing within containers"). `unsaid` is what a
/// container needs that says nothing.
fn request(pod: &Pod, name: &str, unsaid: i64) -> i64 {
    let Some(spec) = &pod.spec else {
        return 0;
    };
    let of = |container: &Container| {
        let resources = container.resources.as_ref();
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let said = requests.and_then(|requests| requests.get(name));
        said.map_or(unsaid, millis)
    };
    let mut sidecars = 0_i64;
    let mut starting = 0_i64;
    for container in spec.init_containers.iter().flatten() {
        let asked = of(container).saturating_add(sidecars);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = asked;
        }
        starting = starting.max(asked);
    }
    let containers = sum(spec.containers.iter().map(of));
    let running = containers.saturating_add(sidecars);
    running.max(starting).saturating_add(overhead(spec, name))
}

/// As much as a number can hold is more than any node has, so that a sum may end there.
fn sum(requests: impl Iterator<Item = i64>) -> i64 {
    requests.fold(0, i64::saturating_add)
}

fn overhead(spec: &PodSpec, name: &str) -> i64 {
    let overhead: Option<&BTreeMap<String, ApiQuantity>> = spec.overhead.as_ref();
    overhead
        .and_then(|overhead| overhead.get(name))
        .map_or(0, millis)
}

fn allocatable(node: &Node, name: &str) -> i64 {
    node.status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref())
        .and_then(|resources| resources.get(name))
        .map_or(0, millis)
}

/// The API has validated the quantity; one that is not understood asks for nothing.
fn millis(quantity: &ApiQuantity) -> i64 {
    Quantity::parse(&quantity.0).map_or(0, Quantity::millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(cpu: &str, sidecar: bool) -> Value {
        let policy = sidecar.then_some("Always");
        json!({"name": "c", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}})
    }

    fn pod(initial: &[(&str, bool)], containers: &[&str], overhead: &Value) -> Pod {
        let initial: Vec<_> = initial
            .iter()
            .map(|(cpu, side)| container(cpu, *side))
            .collect();
        let containers: Vec<_> = containers.iter().map(|cpu| container(cpu, false)).collect();
        serde_json::from_value(json!({"spec": {
            "initContainers": initial, "containers": containers, "overhead": overhead,
        }}))
        .unwrap()
    }

    #[test]
    fn init_containers_and_sidecars_count_when_they_run() {
        let none = Value::Null;
        let cases: [(Pod, i64); 6] = [
            (pod(&[], &["1", "500m"], &none), 1500),
            // An init container runs alone.
            (pod(&[("2", false)], &["1", "500m"], &none), 2000),
            (pod(&[("1", false), ("1", false)], &["1"], &none), 1000),
            // A sidecar runs beside the containers.
            (pod(&[("300m", true)], &["1"], &none), 1300),
            // And beside the init containers after it, not those before it.
            (
                pod(
                    &[("2", false), ("300m", true), ("1900m", false)],
                    &["1"],
                    &none,
                ),
                2200,
            ),
            (pod(&[], &["1"], &json!({"cpu": "50m"})), 1050),
        ];
        for (pod, expected) in cases {
            assert_eq!(request(&pod, "cpu", 0), expected, "{:?}", pod.spec);
        }
    }

    #[test]
    fn requests_beyond_any_number_fit_nowhere() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "a"}, "status": {"allocatable": {"cpu": "2", "pods": "110"}},
        }))
        .unwrap();
        let huge = pod(&[], &["8Ei", "8Ei"], &Value::Null);
        assert_eq!(request(&huge, "cpu", 0), i64::MAX);
        let view = NodeView {
            node: &node,
            pods: vec![&huge, &huge],
        };
        let refusal = Objection::all(vec!["Insufficient cpu".to_owned()], true).unwrap();
        assert_eq!(objection(&huge, &view), Some(refusal));
        assert_eq!(fullness(&huge, &view), 1000);
    }

    #[test]
    fn every_scarce_resource_is_named_and_what_never_fits_is_lasting() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "1"}},
        }))
        .unwrap();
        let other = pod(&[], &["1500m"], &Value::Null);
        let asking = |cpu: &str, memory: &str| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [{
                "name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}},
            }]}}))
            .unwrap()
        };
        let view = NodeView {
            node: &node,
            pods: vec![&other],
        };
        let said = |pod: &Pod| objection(pod, &view).unwrap();
        let all = ["Too many pods", "Insufficient cpu", "Insufficient memory"].map(str::to_owned);
        assert_eq!(
            said(&asking("1", "2Gi")),
            Objection::all(all.to_vec(), true).unwrap()
        );
        assert_eq!(
            said(&asking("1", "1Gi")),
            Objection::all(all[..2].to_vec(), false).unwrap()
        );
        assert_eq!(said(&asking("0", "0")), Objection::passing("Too many pods"));
    }

    #[test]
    fn a_scoring_has_the_name_it_is_read_by() {
        for scoring in [Scoring::LeastAllocated, Scoring::MostAllocated] {
            assert_eq!(scoring.name().parse(), Ok(scoring));
        }
        assert!("fullest".parse::<Scoring>().is_err());
    }
}
