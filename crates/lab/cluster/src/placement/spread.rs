//! How evenly pods stand over a topology: spread constraints, and preferred affinity between
//! pods (core/v1 TopologySpreadConstraint and WeightedPodAffinityTerm).

use std::collections::BTreeMap;

use weft_kube::k8s_openapi::api::core::v1::{
    Node, Pod, PodSpec, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use weft_kube::kube::{Resource, ResourceExt};

use super::neighbours::concerns;
use super::refusal::Objection;
use super::{NodeView, Surroundings, affinity, selected, selector_matches, tolerated};

const SKEWED: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";
/// What a pod of a soft constraint weighs: as much as the strongest preference.
const SOFT: i64 = 100;

/// Why the pod must not stand on the node, by its constraints that have to hold.
pub(super) fn objection(
    pod: &Pod,
    view: &NodeView<'_>,
    around: Surroundings<'_, '_>,
) -> Option<Objection> {
    let reason = forbids(pod, view, around.nodes)?;
    Some(if reason == NO_LABEL {
        Objection::lasting(reason)
    } else {
        Objection::passing(reason)
    })
}

fn forbids(pod: &Pod, view: &NodeView<'_>, nodes: &[NodeView<'_>]) -> Option<&'static str> {
    constraints(pod, "DoNotSchedule").find_map(|constraint| {
        let Some(here) = view.node.labels().get(&constraint.topology_key) else {
            return Some(NO_LABEL);
        };
        let counts = counts(pod, constraint, nodes);
        let fewest = counts.values().min().copied().unwrap_or(0);
        let domains = i32::try_from(counts.len()).unwrap_or(i32::MAX);
        // With fewer domains than there should be, a new one is thought of, and it is empty.
        let too_few = constraint.min_domains.is_some_and(|least| domains < least);
        let fewest = if too_few { 0 } else { fewest };
        let selects_itself = is_counted(pod, constraint, pod);
        let there = counts.get(here).copied().unwrap_or(0) + i64::from(selects_itself);
        (there - fewest > i64::from(constraint.max_skew)).then_some(SKEWED)
    })
}

/// How much speaks against the node, of what the pod would like: the smaller the better.
pub(super) fn aversion(pod: &Pod, view: &NodeView<'_>, around: Surroundings<'_, '_>) -> i64 {
    let nodes = around.nodes;
    let soft: i64 = constraints(pod, "ScheduleAnyway")
        .map(|constraint| {
            let here = view.node.labels().get(&constraint.topology_key);
            let counts = counts(pod, constraint, nodes);
            here.and_then(|here| counts.get(here).copied()).unwrap_or(0)
        })
        .sum();
    let affinity = affinity(pod);
    let away = affinity
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|terms| {
            terms
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        });
    let together = affinity
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|terms| {
            terms
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        });
    soft * SOFT + weight(pod, away, view, around) - weight(pod, together, view, around)
}

/// The weight of the pods that the terms are about, in the node's parts of the topology.
fn weight(
    pod: &Pod,
    terms: Option<&[WeightedPodAffinityTerm]>,
    view: &NodeView<'_>,
    around: Surroundings<'_, '_>,
) -> i64 {
    let of_term = |weighted: &WeightedPodAffinityTerm| {
        let term = &weighted.pod_affinity_term;
        let here = view.node.labels().get(&term.topology_key);
        let in_domain =
            |node: &Node| here.is_some() && node.labels().get(&term.topology_key) == here;
        let met = around
            .nodes
            .iter()
            .filter(|other| in_domain(other.node))
            .flat_map(|other| &other.pods)
            .filter(|other| concerns(term, pod, other, around))
            .count();
        i64::from(weighted.weight) * i64::try_from(met).unwrap_or(i64::MAX)
    };
    terms.unwrap_or_default().iter().map(of_term).sum()
}

fn constraints<'a>(
    pod: &'a Pod,
    when: &'a str,
) -> impl Iterator<Item = &'a TopologySpreadConstraint> {
    let spec: Option<&PodSpec> = pod.spec.as_ref();
    let all = spec.and_then(|spec| spec.topology_spread_constraints.as_deref());
    all.unwrap_or_default()
        .iter()
        .filter(move |constraint| constraint.when_unsatisfiable == when)
}

/// The pods that count, by domain; domains of nodes that the pod may use.
fn counts<'a>(
    pod: &Pod,
    constraint: &TopologySpreadConstraint,
    nodes: &'a [NodeView<'_>],
) -> BTreeMap<&'a String, i64> {
    let mut counts = BTreeMap::new();
    for view in nodes
        .iter()
        .filter(|view| takes_part(pod, constraint, view.node))
    {
        if let Some(domain) = view.node.labels().get(&constraint.topology_key) {
            let those = view
                .pods
                .iter()
                .filter(|other| is_counted(pod, constraint, other));
            *counts.entry(domain).or_default() += i64::try_from(those.count()).unwrap_or(i64::MAX);
        }
    }
    counts
}

/// `nodeAffinityPolicy` is Honor and `nodeTaintsPolicy` Ignore where nothing is said.
fn takes_part(pod: &Pod, constraint: &TopologySpreadConstraint, node: &Node) -> bool {
    let by_affinity =
        constraint.node_affinity_policy.as_deref() == Some("Ignore") || selected(pod, node);
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref());
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    let unbearable = |honoured: bool| {
        let mut taints = taints.filter(|taint| taint.effect != "PreferNoSchedule");
        honoured && taints.any(|taint| !tolerated(taint, tolerations.unwrap_or_default()))
    };
    by_affinity && !unbearable(constraint.node_taints_policy.as_deref() == Some("Honor"))
}

fn is_counted(pod: &Pod, constraint: &TopologySpreadConstraint, other: &Pod) -> bool {
    let same = |key: &String| pod.labels().get(key) == other.labels().get(key);
    other.namespace() == pod.namespace()
        && other.meta().deletion_timestamp.is_none()
        && constraint
            .label_selector
            .as_ref()
            .is_some_and(|selector| selector_matches(selector, other))
        && constraint.match_label_keys.iter().flatten().all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, zone: Option<&str>) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": zone.unwrap_or("none")}},
        }))
        .unwrap()
    }

    fn pod(app: &str, spec: &Value) -> Pod {
        let mut spec = spec.clone();
        spec["containers"] = json!([]);
        serde_json::from_value(json!({
            "metadata": {"name": app, "namespace": "default", "labels": {"app": app}},
            "spec": spec,
        }))
        .unwrap()
    }

    fn spread(when: &str, more: &Value) -> Value {
        let mut constraint = json!({
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}},
        });
        for (field, value) in more.as_object().unwrap() {
            constraint[field] = value.clone();
        }
        json!({"topologySpreadConstraints": [constraint]})
    }

    fn around<'a, 'n>(nodes: &'a [NodeView<'n>]) -> Surroundings<'a, 'n> {
        Surroundings {
            nodes,
            storage: &|_| None,
            labels_of_namespace: &|_| BTreeMap::new(),
            scoring: crate::placement::Scoring::default(),
        }
    }

    #[test]
    fn no_part_gets_far_ahead_of_another() {
        let (a, b, c) = (
            node("a", Some("x")),
            node("b", Some("x")),
            node("c", Some("y")),
        );
        let other = pod("web", &json!({}));
        let stranger = pod("db", &json!({}));
        let views = [
            NodeView {
                node: &a,
                pods: vec![&other],
            },
            NodeView {
                node: &b,
                pods: vec![&stranger],
            },
            NodeView {
                node: &c,
                pods: vec![&stranger],
            },
        ];
        let web = pod("web", &spread("DoNotSchedule", &json!({})));
        let verdicts = |pod: &Pod| -> Vec<bool> {
            views
                .iter()
                .map(|view| forbids(pod, view, &views).is_none())
                .collect()
        };
        assert_eq!(verdicts(&web), [false, false, true]);
        let lenient = pod("web", &spread("DoNotSchedule", &json!({"maxSkew": 2})));
        assert_eq!(verdicts(&lenient), [true, true, true]);
        // With three zones to be there, one is thought empty.
        let three = pod(
            "web",
            &spread("DoNotSchedule", &json!({"minDomains": 3, "maxSkew": 1})),
        );
        assert_eq!(verdicts(&three), [false, false, true]);
        let unknown = pod(
            "web",
            &spread("DoNotSchedule", &json!({"topologyKey": "rack"})),
        );
        assert_eq!(forbids(&unknown, &views[0], &views), Some(NO_LABEL));
        let soft = pod("web", &spread("ScheduleAnyway", &json!({})));
        assert_eq!(verdicts(&soft), [true, true, true]);
        let aversions: Vec<i64> = views
            .iter()
            .map(|view| aversion(&soft, view, around(&views)))
            .collect();
        assert_eq!(aversions, [100, 100, 0]);
    }

    #[test]
    fn preferences_weigh() {
        let (a, b) = (node("a", None), node("b", None));
        let other = pod("web", &json!({}));
        let views = [
            NodeView {
                node: &a,
                pods: vec![&other],
            },
            NodeView {
                node: &b,
                pods: Vec::new(),
            },
        ];
        let terms = json!({"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 7,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}},
        }]});
        let weigh = |kind: &str| -> Vec<i64> {
            let pod = pod("web", &json!({"affinity": {kind: terms}}));
            views
                .iter()
                .map(|view| aversion(&pod, view, around(&views)))
                .collect()
        };
        assert_eq!(weigh("podAntiAffinity"), [7, 0]);
        assert_eq!(weigh("podAffinity"), [-7, 0]);
    }
}
