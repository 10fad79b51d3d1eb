//! Required affinity and anti-affinity between pods, by topology (kube-scheduler's
//! InterPodAffinity).

use weft_kube::k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm};
use weft_kube::kube::ResourceExt;

use super::refusal::Objection;
use super::{NodeView, Surroundings, affinity, selects};

/// What other pods, or the pod itself, have against it on this node.
pub(super) fn objection(
    pod: &Pod,
    view: &NodeView<'_>,
    around: Surroundings<'_, '_>,
) -> Option<Objection> {
    if !affinity_holds(pod, view, around) {
        return Some(Objection::lasting(
            "node(s) didn't match pod affinity rules",
        ));
    }
    let mut own = required_anti_affinity(pod).iter();
    if own.any(|term| pods_near(view, around, term).any(|other| concerns(term, pod, other, around)))
    {
        return Some(Objection::passing(
            "node(s) didn't match pod anti-affinity rules",
        ));
    }
    let others = around.nodes.iter();
    let mut others = others.flat_map(|view| view.pods.iter().map(move |pod| (view.node, *pod)));
    let shunned = others.any(|(node, other)| {
        required_anti_affinity(other)
            .iter()
            .any(|term| is_near(view.node, node, term) && concerns(term, other, pod, around))
    });
    shunned.then(|| Objection::passing("node(s) didn't satisfy existing pods anti-affinity rules"))
}

fn affinity_holds(pod: &Pod, view: &NodeView<'_>, around: Surroundings<'_, '_>) -> bool {
    let terms = required_affinity(pod);
    // Without the label there is no neighbourhood to be in.
    let labels = view.node.labels();
    if !terms
        .iter()
        .all(|term| labels.contains_key(&term.topology_key))
    {
        return false;
    }
    let all = |other: &Pod| terms.iter().all(|term| concerns(term, pod, other, around));
    let found = terms
        .iter()
        .all(|term| pods_near(view, around, term).any(&all));
    // The first of a group that wants to be together may go anywhere.
    let is_first = || {
        let mut others = around.nodes.iter().flat_map(|other| &other.pods);
        all(pod) && !others.any(|other| all(other))
    };
    found || is_first()
}

/// Whether a term of a pod is about another pod.
pub(super) fn concerns(
    term: &PodAffinityTerm,
    owner: &Pod,
    other: &Pod,
    around: Surroundings<'_, '_>,
) -> bool {
    let namespace = other.namespace().unwrap_or_default();
    let names = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match &term.namespace_selector {
        None if names.is_empty() => owner.namespace().unwrap_or_default() == namespace,
        None => names.contains(&namespace),
        Some(selector) => {
            names.contains(&namespace)
                || selects(selector, &(around.labels_of_namespace)(&namespace))
        }
    };
    in_namespace
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| selects(selector, other.labels()))
        && keys_agree(term, owner, other)
}

/// `matchLabelKeys` and `mismatchLabelKeys`: keys that the pod does not have say nothing.
fn keys_agree(term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
    let same = |key: &String| {
        let own = owner.labels().get(key);
        own.map(|own| other.labels().get(key) == Some(own))
    };
    let matching = term.match_label_keys.iter().flatten();
    let differing = term.mismatch_label_keys.iter().flatten();
    matching.filter_map(same).all(|same| same) && !differing.filter_map(same).any(|same| same)
}

fn is_near(one: &Node, other: &Node, term: &PodAffinityTerm) -> bool {
    let domain = one.labels().get(&term.topology_key);
    domain.is_some() && other.labels().get(&term.topology_key) == domain
}

fn pods_near<'a>(
    view: &'a NodeView<'_>,
    around: Surroundings<'a, '_>,
    term: &'a PodAffinityTerm,
) -> impl Iterator<Item = &'a Pod> {
    let near = around.nodes.iter();
    let near = near.filter(move |other| is_near(view.node, other.node, term));
    near.flat_map(|other| other.pods.iter().copied())
}

fn required_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    let terms = affinity(pod).and_then(|affinity| affinity.pod_affinity.as_ref());
    let required = terms.and_then(|terms| {
        terms
            .required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    required.unwrap_or_default()
}

fn required_anti_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    let terms = affinity(pod).and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let required = terms.and_then(|terms| {
        terms
            .required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    required.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Scoring;
    use serde_json::{Value, json};

    fn pod(namespace: &str, labels: &Value, kind: &str, terms: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": namespace, "labels": labels},
            "spec": {"containers": [], "affinity": {kind: {
                "requiredDuringSchedulingIgnoredDuringExecution": terms,
            }}},
        }))
        .unwrap()
    }

    fn term(more: &Value) -> Value {
        let mut term = json!({
            "topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}},
        });
        for (field, value) in more.as_object().unwrap() {
            term[field] = value.clone();
        }
        json!([term])
    }

    /// Whether the pod may go to zones x and y; `others` are in zone x.
    fn verdicts(pod: &Pod, others: &[&Pod]) -> [bool; 2] {
        let node = |zone: &str| -> Node {
            let labels = json!({"zone": zone});
            serde_json::from_value(json!({"metadata": {"name": zone, "labels": labels}})).unwrap()
        };
        let (x, y) = (node("x"), node("y"));
        let views = [
            NodeView {
                node: &x,
                pods: others.to_vec(),
            },
            NodeView {
                node: &y,
                pods: Vec::new(),
            },
        ];
        let around = Surroundings {
            nodes: &views,
            storage: &|_| None,
            labels_of_namespace: &|name| [("team".to_owned(), name.to_owned())].into(),
            scoring: Scoring::default(),
        };
        [&views[0], &views[1]].map(|view| objection(pod, view, around).is_none())
    }

    #[test]
    fn affinity_is_about_the_namespaces_it_names() {
        let web = json!({"app": "web"});
        let near = |namespace: &str, more: &Value| {
            let other = pod("shop", &web, "podAffinity", &json!([]));
            let seeker = pod(namespace, &json!({}), "podAffinity", &term(more));
            verdicts(&seeker, &[&other])
        };
        let cases = [
            ("shop", json!({}), [true, false]),
            ("default", json!({}), [false, false]),
            ("default", json!({"namespaces": ["shop"]}), [true, false]),
            ("shop", json!({"namespaces": ["default"]}), [false, false]),
            // An empty selector is about all of them.
            ("default", json!({"namespaceSelector": {}}), [true, false]),
            (
                "default",
                json!({"namespaceSelector": {"matchLabels": {"team": "shop"}}}),
                [true, false],
            ),
            (
                "default",
                json!({"namespaceSelector": {"matchLabels": {"team": "other"}}}),
                [false, false],
            ),
            (
                "default",
                json!({"namespaces": ["shop"], "namespaceSelector": {"matchLabels": {"team": "other"}}}),
                [true, false],
            ),
        ];
        for (namespace, more, expected) in cases {
            assert_eq!(near(namespace, &more), expected, "{namespace} {more}");
        }
    }

    #[test]
    fn label_keys_compare_with_the_pods_own_labels() {
        let labels = |version: &str| json!({"app": "web", "version": version});
        let other = pod("default", &labels("1"), "podAffinity", &json!([]));
        let shy = |version: &str, more: &Value| {
            let pod = pod("default", &labels(version), "podAntiAffinity", &term(more));
            verdicts(&pod, &[&other])
        };
        let same = json!({"matchLabelKeys": ["version"]});
        assert_eq!(shy("1", &same), [false, true]);
        assert_eq!(shy("2", &same), [true, true]);
        let differing = json!({"mismatchLabelKeys": ["version"]});
        assert_eq!(shy("1", &differing), [true, true]);
        assert_eq!(shy("2", &differing), [false, true]);
        // A key that the pod does not have says nothing.
        assert_eq!(
            shy("1", &json!({"matchLabelKeys": ["colour"]})),
            [false, true]
        );
    }

    #[test]
    fn the_first_of_a_group_may_go_anywhere() {
        let web = json!({"app": "web"});
        let first = pod("default", &web, "podAffinity", &term(&json!({})));
        assert_eq!(verdicts(&first, &[]), [true, true]);
        assert_eq!(verdicts(&first, &[&first]), [true, false]);
        let stranger = pod(
            "default",
            &json!({"app": "db"}),
            "podAffinity",
            &term(&json!({})),
        );
        assert_eq!(verdicts(&stranger, &[]), [false, false]);
        // Nowhere without the label.
        let rack = term(&json!({"topologyKey": "rack"}));
        let lost = pod("default", &web, "podAffinity", &rack);
        assert_eq!(verdicts(&lost, &[]), [false, false]);
    }
}
