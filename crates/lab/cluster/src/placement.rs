//! Where a pod can run, and where it runs best: the scheduler's decision, without its
//! loop. Filters and texts are Kubernetes' own (kube-scheduler's plugins).

mod spread;

use std::collections::{BTreeMap, BTreeSet};

use weft_kinds::Quantity;
use weft_kube::k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, Pod,
    PodAffinityTerm, Taint, Toleration,
};
use weft_kube::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use weft_kube::kube::ResourceExt;

/// A node and the pods that are bound to it.
#[derive(Clone, Debug)]
pub struct NodeView<'a> {
    /// The node.
    pub node: &'a Node,
    /// Its pods, those that are finished left out.
    pub pods: Vec<&'a Pod>,
}

/// No node can take a pod: how many nodes there are, and how many said no for which reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
}

impl std::fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let reasons: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        write!(
            f,
            "0/{} nodes are available: {}.",
            self.nodes,
            reasons.join(", ")
        )
    }
}

/// The node to bind the pod to. `storage` tells what of the pod's volumes speaks against a node.
pub fn place<'a>(
    pod: &Pod,
    nodes: &[NodeView<'a>],
    storage: &dyn Fn(&Node) -> Option<String>,
) -> Result<&'a Node, Unschedulable> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(Score, &NodeView<'a>)> = None;
    for view in nodes {
        let mut against = objections(pod, view, nodes);
        if against.is_empty() {
            against.extend(storage(view.node));
        }
        if against.is_empty() {
            let score = Score::of(pod, view, nodes);
            if best.as_ref().is_none_or(|(other, _)| score < *other) {
                best = Some((score, view));
            }
        }
        for reason in against {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    match best {
        Some((_, view)) => Ok(view.node),
        None => Err(Unschedulable {
            nodes: nodes.len(),
            reasons,
        }),
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
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let unbearable = |effects: &[&str]| {
        node.spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten())
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

/// What speaks for a node; the smallest wins. What the pod would like comes first, then
/// replicas of one owner are spread,
/// then the node with the smallest share of its processors asked for is taken, then the
/// one with fewer pods, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    aversion: i64,
    siblings: usize,
    requested_permille: i64,
    pods: usize,
    name: String,
}

impl Score {
    fn of(pod: &Pod, view: &NodeView<'_>, nodes: &[NodeView<'_>]) -> Self {
        let owner = controller(pod);
        let siblings = match owner {
            Some(_) => view
                .pods
                .iter()
                .filter(|other| controller(other) == owner)
                .count(),
            None => 0,
        };
        let capacity = allocatable(view.node, "cpu").max(1);
        let requested: i64 = view.pods.iter().map(|pod| request(pod, "cpu")).sum();
        Self {
            aversion: spread::aversion(pod, view, nodes),
            siblings,
            requested_permille: requested.saturating_mul(1000) / capacity,
            pods: view.pods.len(),
            name: view.node.name_any(),
        }
    }
}

fn controller(pod: &Pod) -> Option<&str> {
    pod.owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.as_str())
}

/// Why the node can't take the pod; empty if it can. As in kube-scheduler the first
/// filter that says no speaks alone, except that every scarce resource is named.
fn objections(pod: &Pod, view: &NodeView<'_>, nodes: &[NodeView<'_>]) -> Vec<String> {
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let spec = view.node.spec.as_ref();
    let unschedulable = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if spec.and_then(|spec| spec.unschedulable) == Some(true)
        && !tolerated(&unschedulable, tolerations)
    {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    let intolerable = spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .filter(|taint| taint.effect != "PreferNoSchedule")
        .find(|taint| !tolerated(taint, tolerations));
    if let Some(taint) = intolerable {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![format!(
            "node(s) had untolerated taint {{{}: {value}}}",
            taint.key
        )];
    }
    if !selected(pod, view.node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    let scarce = scarce_resources(pod, view);
    if !scarce.is_empty() {
        return scarce;
    }
    let against = spread::forbids(pod, view, nodes);
    if let Some(reason) = against.or_else(|| neighbours_object(pod, view, nodes)) {
        return vec![reason.to_owned()];
    }
    Vec::new()
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
    if expressions.is_empty() && fields.is_empty() {
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

fn scarce_resources(pod: &Pod, view: &NodeView<'_>) -> Vec<String> {
    let mut scarce = Vec::new();
    let pods = allocatable(view.node, "pods") / 1000;
    if pods > 0 && view.pods.len() as i64 >= pods {
        scarce.push("Too many pods".to_owned());
    }
    for name in requested_names(pod) {
        let asked = request(pod, &name);
        let used: i64 = view.pods.iter().map(|pod| request(pod, &name)).sum();
        if asked > 0 && used.saturating_add(asked) > allocatable(view.node, &name) {
            scarce.push(format!("Insufficient {name}"));
        }
    }
    scarce
}

fn requested_names(pod: &Pod) -> BTreeSet<String> {
    pod.spec
        .iter()
        .flat_map(|spec| {
            spec.containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
        })
        .filter_map(|container| container.resources.as_ref()?.requests.as_ref())
        .flat_map(|requests| requests.keys().cloned())
        .collect()
}

/// What a pod asks for of a resource, in thousandths of its unit: the containers run side
/// by side, the init containers before them and one by one.
fn request(pod: &Pod, name: &str) -> i64 {
    let Some(spec) = &pod.spec else {
        return 0;
    };
    let of = |requests: Option<&BTreeMap<String, ApiQuantity>>| {
        requests
            .and_then(|requests| requests.get(name))
            .map_or(0, millis)
    };
    let running: i64 = spec
        .containers
        .iter()
        .map(|container| {
            of(container
                .resources
                .as_ref()
                .and_then(|r| r.requests.as_ref()))
        })
        .sum();
    let starting = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| {
            of(container
                .resources
                .as_ref()
                .and_then(|r| r.requests.as_ref()))
        })
        .max()
        .unwrap_or(0);
    running.max(starting)
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

/// Whether a term of a pod in a namespace is about another pod.
fn concerns(term: &PodAffinityTerm, namespace: &str, other: &Pod) -> bool {
    let same_namespace = match term.namespaces.as_deref() {
        Some(names) if !names.is_empty() => names.contains(&other.namespace().unwrap_or_default()),
        _ => other.namespace().as_deref() == Some(namespace),
    };
    same_namespace
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| selector_matches(selector, other))
}

/// Required affinity and anti-affinity between pods, by topology.
fn neighbours_object(
    pod: &Pod,
    view: &NodeView<'_>,
    nodes: &[NodeView<'_>],
) -> Option<&'static str> {
    let namespace = pod.namespace().unwrap_or_default();
    let domain = |node: &Node, key: &str| node.labels().get(key).cloned();
    let in_domain = |key: &str| -> Vec<&Pod> {
        let Some(here) = domain(view.node, key) else {
            return Vec::new();
        };
        nodes
            .iter()
            .filter(|other| domain(other.node, key).as_ref() == Some(&here))
            .flat_map(|other| other.pods.iter().copied())
            .collect()
    };
    for term in required_affinity(pod) {
        let found = in_domain(&term.topology_key)
            .iter()
            .any(|other| concerns(term, &namespace, other));
        // The first of a group that wants to be together may go anywhere.
        let first = concerns(term, &namespace, pod)
            && !nodes
                .iter()
                .flat_map(|other| &other.pods)
                .any(|other| concerns(term, &namespace, other));
        if !found && !first {
            return Some("node(s) didn't match pod affinity rules");
        }
    }
    for term in required_anti_affinity(pod) {
        if in_domain(&term.topology_key)
            .iter()
            .any(|other| concerns(term, &namespace, other))
        {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
    }
    for other in nodes
        .iter()
        .flat_map(|other| other.pods.iter().copied().map(move |pod| (other.node, pod)))
    {
        let (node, other) = other;
        let other_namespace = other.namespace().unwrap_or_default();
        for term in required_anti_affinity(other) {
            let shared = domain(node, &term.topology_key).is_some()
                && domain(node, &term.topology_key) == domain(view.node, &term.topology_key);
            if shared && concerns(term, &other_namespace, pod) {
                return Some("node(s) didn't satisfy existing pods anti-affinity rules");
            }
        }
    }
    None
}

fn affinity(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref())
}

fn required_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    affinity(pod)
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|terms| {
            terms
                .required_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default()
}

fn required_anti_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    affinity(pod)
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|terms| {
            terms
                .required_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default()
}

/// Whether a label selector (meta/v1) selects the pod. An empty one selects everything.
pub fn selector_matches(selector: &LabelSelector, pod: &Pod) -> bool {
    let labels = pod.labels();
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
        let views: Vec<_> = nodes
            .iter()
            .map(|(node, pods)| NodeView {
                node,
                pods: pods.to_vec(),
            })
            .collect();
        match place(pod, &views, &|_| None) {
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
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."
        );
        assert_eq!(decide(&big, &[]), "no nodes available to schedule pods");
        let mut spec = asking("1");
        spec["nodeSelector"] = json!({"disk": "tape"});
        assert_eq!(
            decide(&pod("x-1", "x", spec), &[(&b, &[])]),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
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
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
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
