//! Where a pod can run, and where it runs best: the scheduler's decision, without its
//! loop. Filters, their order and their texts are kube-scheduler's own.

mod neighbours;
pub(crate) mod ports;
mod refusal;
mod resources;
mod spread;

use std::collections::BTreeMap;

use weft_kube::k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, Pod, Taint,
    Toleration,
};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use weft_kube::kube::ResourceExt;

use self::refusal::Objection;
pub use self::refusal::Unschedulable;
pub use self::resources::Scoring;

/// A node and the pods that are bound to it.
#[derive(Clone, Debug)]
pub struct NodeView<'a> {
    /// The node.
    pub node: &'a Node,
    /// Its pods, those that are finished left out.
    pub pods: Vec<&'a Pod>,
}

/// What a decision looks at beside the pod.
#[derive(Clone, Copy)]
pub struct Surroundings<'a, 'n> {
    /// All nodes.
    pub nodes: &'a [NodeView<'n>],
    /// What of the pod's volumes speaks against a node.
    pub storage: &'a dyn Fn(&Node) -> Option<String>,
    /// The labels of a namespace.
    pub labels_of_namespace: &'a dyn Fn(&str) -> BTreeMap<String, String>,
    /// Whether full or empty nodes are filled first.
    pub scoring: Scoring,
}

/// The node to bind the pod to.
pub fn place<'n>(pod: &Pod, around: Surroundings<'_, 'n>) -> Result<&'n Node, Unschedulable> {
    let mut objections = Vec::new();
    let mut best: Option<(Score, &NodeView<'n>)> = None;
    for view in around.nodes {
        if let Some(objection) = objection(pod, view, around) {
            objections.push(objection);
            continue;
        }
        let score = Score::of(pod, view, around);
        if best.as_ref().is_none_or(|(other, _)| score < *other) {
            best = Some((score, view));
        }
    }
    match best {
        Some((_, view)) => Ok(view.node),
        None => Err(Unschedulable::new(pod, objections)),
    }
}

/// Whether a daemon belongs on a node. Taints and selectors decide, not what the node has
/// left: a daemon waits for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// It should run there.
    Runs,
    /// One that runs there already may stay (a taint NoSchedule came later).
    Stays,
    /// It has no business there.
    Leaves,
}

/// Whether a daemon's pod belongs on a node.
pub fn daemon_on(pod: &Pod, node: &Node) -> Daemon {
    let tolerations = tolerations(pod);
    let unbearable = |effects: &[&str]| {
        taints(node)
            .filter(|taint| effects.contains(&taint.effect.as_str()))
            .any(|taint| !tolerated(taint, tolerations))
    };
    if !selected(pod, node) || unbearable(&["NoExecute"]) {
        Daemon::Leaves
    } else if unbearable(&["NoSchedule"]) {
        Daemon::Stays
    } else {
        Daemon::Runs
    }
}

/// What speaks for a node; the smallest wins. What the pod would like comes first, then, where
/// empty nodes are filled first, replicas of one owner are spread, then the share decides that
/// would be asked for of the node's processors and memory, then the one with fewer pods is taken,
/// then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    aversion: i64,
    siblings: usize,
    fullness: i64,
    pods: usize,
    name: String,
}

impl Score {
    fn of(pod: &Pod, view: &NodeView<'_>, around: Surroundings<'_, '_>) -> Self {
        let owner = controller(pod);
        let mine = |other: &&&Pod| owner.is_some() && controller(other) == owner;
        let siblings = view.pods.iter().filter(mine).count();
        let aversion = taints_aversion(pod, view.node)
            + node_aversion(pod, view.node)
            + spread::aversion(pod, view, around);
        let fullness = resources::fullness(pod, view);
        let (siblings, fullness) = match around.scoring {
            Scoring::LeastAllocated => (siblings, fullness),
            Scoring::MostAllocated => (0, -fullness),
        };
        Self {
            aversion,
            siblings,
            fullness,
            pods: view.pods.len(),
            name: view.node.name_any(),
        }
    }
}

/// What a taint PreferNoSchedule weighs: as much as the strongest preference.
const UNLOVED: i64 = 100;

fn taints_aversion(pod: &Pod, node: &Node) -> i64 {
    let taints = taints(node).filter(|taint| taint.effect == "PreferNoSchedule");
    let unloved = taints.filter(|taint| !tolerated(taint, tolerations(pod)));
    UNLOVED * i64::try_from(unloved.count()).unwrap_or(i64::MAX)
}

/// Preferred node affinity, as far as the node is what the pod would like.
fn node_aversion(pod: &Pod, node: &Node) -> i64 {
    let affinity = affinity(pod).and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.and_then(|affinity| {
        affinity
            .preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    let terms = terms.unwrap_or_default().iter();
    // Here a term without requirements is about every node (PreferredSchedulingTerm).
    let met =
        terms.filter(|term| is_empty(&term.preference) || term_matches(&term.preference, node));
    -met.map(|term| i64::from(term.weight)).sum::<i64>()
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    let spec = node.spec.iter();
    spec.flat_map(|spec| spec.taints.iter().flatten())
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    let spec = pod.spec.as_ref();
    let tolerations = spec.and_then(|spec| spec.tolerations.as_deref());
    tolerations.unwrap_or_default()
}

fn controller(pod: &Pod) -> Option<&str> {
    pod.owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.as_str())
}

/// Why the node can't take the pod. As in kube-scheduler the first filter that says no speaks
/// alone, except that every scarce resource is named.
fn objection(pod: &Pod, view: &NodeView<'_>, around: Surroundings<'_, '_>) -> Option<Objection> {
    let spec = view.node.spec.as_ref();
    let unschedulable = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if spec.and_then(|spec| spec.unschedulable) == Some(true)
        && !tolerated(&unschedulable, tolerations(pod))
    {
        return Some(Objection::lasting("node(s) were unschedulable"));
    }
    let intolerable = taints(view.node)
        .filter(|taint| taint.effect != "PreferNoSchedule")
        .find(|taint| !tolerated(taint, tolerations(pod)));
    if let Some(taint) = intolerable {
        let value = taint.value.as_deref().unwrap_or_default();
        return Some(Objection::lasting(format!(
            "node(s) had untolerated taint {{{}: {value}}}",
            taint.key
        )));
    }
    if !selected(pod, view.node) {
        return Some(Objection::lasting(
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    ports::objection(pod, view)
        .or_else(|| resources::objection(pod, view))
        .or_else(|| (around.storage)(view.node).map(Objection::lasting))
        .or_else(|| spread::objection(pod, view, around))
        .or_else(|| neighbours::objection(pod, view, around))
}

/// Whether one of the tolerations covers the taint (core/v1 Toleration).
pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        (effect.is_empty() || effect == taint.effect)
            && (key == taint.key || (key.is_empty() && exists))
            && (exists
                || toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default())
    })
}

/// `spec.nodeSelector` and required node affinity.
fn selected(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else {
        return true;
    };
    let by_labels = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| node.labels().get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    by_labels
        && required.is_none_or(|selector| {
            selector
                .node_selector_terms
                .iter()
                .any(|term| term_matches(term, node))
        })
}

/// Whether a volume can be reached from a node (`spec.nodeAffinity`).
pub fn reaches(node: &Node, volume: &PersistentVolume) -> bool {
    let affinity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| {
        let mut terms = selector.node_selector_terms.iter();
        terms.any(|term| term_matches(term, node))
    })
}

/// A term without requirements matches nothing (core/v1 NodeSelectorTerm).
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if is_empty(term) {
        return false;
    }
    let name = node.name_any();
    expressions.iter().all(|requirement| {
        requirement_holds(
            requirement,
            node.labels().get(&requirement.key).map(String::as_str),
        )
    }) && fields.iter().all(|requirement| {
        requirement.key == "metadata.name" && requirement_holds(requirement, Some(&name))
    })
}

fn is_empty(term: &NodeSelectorTerm) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    expressions.is_empty() && fields.is_empty()
}

fn requirement_holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|other| other == value));
    let numbers =
        || -> Option<(i64, i64)> { Some((value?.parse().ok()?, values.first()?.parse().ok()?)) };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

fn affinity(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref())
}

/// Whether a label selector (meta/v1) selects the pod. An empty one selects everything.
pub fn selector_matches(selector: &LabelSelector, pod: &Pod) -> bool {
    selects(selector, pod.labels())
}

/// Whether a label selector selects something with these labels.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|expression| {
                let value = labels.get(&expression.key);
                let values = expression.values.as_deref().unwrap_or_default();
                let listed = value.is_some_and(|value| values.contains(value));
                match expression.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, spec: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "disk": if name == "a" { "ssd" } else { "hdd" }}},
            "spec": spec,
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}},
        }))
        .unwrap()
    }

    fn pod(name: &str, owner: &str, spec: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "default", "labels": {"app": owner},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}],
            },
            "spec": spec,
        }))
        .unwrap()
    }

    fn asking(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    fn decide(pod: &Pod, nodes: &[(&Node, &[&Pod])]) -> String {
        decide_by(Scoring::LeastAllocated, pod, nodes)
    }

    fn decide_by(scoring: Scoring, pod: &Pod, nodes: &[(&Node, &[&Pod])]) -> String {
        let views: Vec<_> = nodes
            .iter()
            .map(|(node, pods)| NodeView {
                node,
                pods: pods.to_vec(),
            })
            .collect();
        let around = Surroundings {
            nodes: &views,
            storage: &|_| None,
            labels_of_namespace: &|name| [("team".to_owned(), name.to_owned())].into(),
            scoring,
        };
        match place(pod, around) {
            Ok(node) => node.name_any(),
            Err(why) => why.to_string(),
        }
    }

    #[test]
    fn replicas_of_one_owner_are_spread() {
        let (a, b) = (node("a", json!({})), node("b", json!({})));
        let first = pod("x-1", "x", asking("10m"));
        let second = pod("x-2", "x", asking("10m"));
        let other = pod("y-1", "y", asking("1"));
        assert_eq!(decide(&first, &[(&a, &[]), (&b, &[])]), "a");
        assert_eq!(decide(&second, &[(&a, &[&first]), (&b, &[&other])]), "b");
    }

    #[test]
    fn why_not_is_counted_node_by_node() {
        let taint =
            json!({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]});
        let (a, b) = (node("a", taint), node("b", json!({})));
        let full = pod("y-1", "y", asking("1500m"));
        let big = pod("x-1", "x", asking("1"));
        assert_eq!(
            decide(&big, &[(&a, &[]), (&b, &[&full])]),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }. \
             preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
        );
        assert_eq!(decide(&big, &[]), "no nodes available to schedule pods");
        let mut spec = asking("1");
        spec["nodeSelector"] = json!({"disk": "tape"});
        assert_eq!(
            decide(&pod("x-1", "x", spec), &[(&b, &[])]),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn nodes_are_filled_from_the_empty_or_from_the_full_end() {
        let (a, b, c) = (
            node("a", json!({})),
            node("b", json!({})),
            node("c", json!({})),
        );
        let small = pod("s-1", "s", asking("200m"));
        let large = pod("l-1", "l", asking("1"));
        let wanted = pod("x-1", "x", asking("500m"));
        let nodes: [(&Node, &[&Pod]); 3] = [(&a, &[&small]), (&b, &[&large]), (&c, &[])];
        assert_eq!(decide_by(Scoring::LeastAllocated, &wanted, &nodes), "c");
        assert_eq!(decide_by(Scoring::MostAllocated, &wanted, &nodes), "b");
        // The fullest one that has room.
        let huge = pod("x-2", "x", asking("1500m"));
        assert_eq!(decide_by(Scoring::MostAllocated, &huge, &nodes), "a");
        // Replicas of one owner are packed as well.
        let sibling = pod("x-3", "x", asking("500m"));
        let nodes: [(&Node, &[&Pod]); 2] = [(&a, &[]), (&b, &[&sibling])];
        assert_eq!(decide_by(Scoring::MostAllocated, &wanted, &nodes), "b");
        assert_eq!(decide_by(Scoring::LeastAllocated, &wanted, &nodes), "a");
    }

    #[test]
    fn what_a_pod_would_like_of_nodes_weighs() {
        let taint = json!({"taints": [{"key": "slow", "effect": "PreferNoSchedule"}]});
        let (a, b) = (node("a", taint), node("b", json!({})));
        let nodes: [(&Node, &[&Pod]); 2] = [(&a, &[]), (&b, &[])];
        assert_eq!(decide(&pod("x", "x", asking("0")), &nodes), "b");
        // It is taken when nothing else is left.
        assert_eq!(decide(&pod("x", "x", asking("0")), &nodes[..1]), "a");
        let mut spec = asking("0");
        spec["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}},
        ]}});
        spec["tolerations"] = json!([{"key": "slow", "operator": "Exists"}]);
        let full = pod("y", "y", asking("1500m"));
        assert_eq!(
            decide(&pod("x", "x", spec), &[(&a, &[&full]), (&b, &[])]),
            "a"
        );
    }

    #[test]
    fn tolerations_cover_taints_by_key_value_and_effect() {
        let taint = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        let a = node("a", taint);
        let with = |toleration: Value| {
            let mut spec = asking("0");
            spec["tolerations"] = json!([toleration]);
            decide(&pod("x", "x", spec), &[(&a, &[])]) == "a"
        };
        assert!(with(json!({"operator": "Exists"})));
        assert!(with(
            json!({"key": "k", "value": "v", "effect": "NoSchedule"})
        ));
        assert!(with(json!({"key": "k", "operator": "Exists"})));
        assert!(!with(json!({"key": "k", "value": "w"})));
        assert!(!with(
            json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})
        ));
    }

    #[test]
    fn anti_affinity_holds_both_ways() {
        let (a, b) = (node("a", json!({})), node("b", json!({})));
        let mut spec = asking("0");
        spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}},
        ]}});
        let shy = pod("x-1", "x", spec.clone());
        let plain = pod("x-2", "x", asking("0"));
        assert_eq!(decide(&shy, &[(&a, &[&plain]), (&b, &[])]), "b");
        assert_eq!(decide(&plain, &[(&a, &[&shy]), (&b, &[])]), "b");
        assert_eq!(
            decide(&shy, &[(&a, &[&plain])]),
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. \
             preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        );
    }

    #[test]
    fn a_field_selector_pins_a_daemon_to_its_node() {
        let (a, b) = (node("a", json!({})), node("b", json!({})));
        let mut spec = asking("0");
        spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]},
        ]}}});
        assert_eq!(decide(&pod("d", "d", spec), &[(&a, &[]), (&b, &[])]), "b");
    }
}
