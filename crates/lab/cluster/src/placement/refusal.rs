//! Why a pod finds no node, in kube-scheduler's words (its `FitError`).

use std::collections::BTreeMap;

use weft_kube::k8s_openapi::api::core::v1::Pod;

/// What speaks against one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Objection {
    reasons: Vec<String>,
    /// It would stay if pods were taken off the node (status UnschedulableAndUnresolvable).
    lasting: bool,
}

impl Objection {
    /// One that no other pod's end would answer.
    pub(super) fn lasting(reason: impl Into<String>) -> Self {
        Objection {
            reasons: vec![reason.into()],
            lasting: true,
        }
    }

    /// One that goes with other pods.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Objection {
            reasons: vec![reason.into()],
            lasting: false,
        }
    }

    /// Several at once, if there are any.
    pub(super) fn all(reasons: Vec<String>, lasting: bool) -> Option<Self> {
        (!reasons.is_empty()).then_some(Objection { reasons, lasting })
    }
}

/// No node can take a pod: what each has against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    objections: Vec<Objection>,
    /// Its priority is not to be used against others.
    never_preempts: bool,
}

impl Unschedulable {
    pub(super) fn new(pod: &Pod, objections: Vec<Objection>) -> Self {
        let spec = pod.spec.as_ref();
        let policy = spec.and_then(|spec| spec.preemption_policy.as_deref());
        Unschedulable {
            objections,
            never_preempts: policy == Some("Never"),
        }
    }

    /// What became of the thought to end other pods instead. The lab knows no priorities, so
    /// nobody is less important than anybody.
    fn preemption(&self) -> String {
        if self.never_preempts {
            return "preemption: not eligible due to preemptionPolicy=Never.".to_owned();
        }
        let verdicts = self.objections.iter().map(|objection| {
            if objection.lasting {
                "Preemption is not helpful for scheduling"
            } else {
                "No preemption victims found for incoming pod"
            }
        });
        format!("preemption: {}", counted(self.objections.len(), verdicts))
    }
}

impl std::fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.objections.len();
        if nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let reasons = self
            .objections
            .iter()
            .flat_map(|objection| &objection.reasons);
        let reasons = counted(nodes, reasons.map(String::as_str));
        write!(f, "{reasons} {}", self.preemption())
    }
}

/// How many nodes there are, and how many said what, sorted as texts.
fn counted<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let counts = counts.into_iter();
    let mut texts: Vec<String> = counts
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    texts.sort();
    format!("0/{nodes} nodes are available: {}.", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reasons_are_counted_and_sorted_with_their_counts() {
        let pod = Pod::default();
        let mut objections = vec![Objection::lasting("a")];
        objections.extend((0..10).map(|_| Objection::passing("b")));
        objections.extend((0..2).map(|_| Objection::passing("c")));
        assert_eq!(
            Unschedulable::new(&pod, objections).to_string(),
            "0/13 nodes are available: 1 a, 10 b, 2 c. preemption: 0/13 nodes are available: \
             1 Preemption is not helpful for scheduling, 12 No preemption victims found for incoming pod."
        );
    }

    #[test]
    fn a_pod_may_forgo_preemption() {
        let pod = json!({"spec": {"containers": [], "preemptionPolicy": "Never"}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(
            Unschedulable::new(&pod, vec![Objection::passing("a")]).to_string(),
            "0/1 nodes are available: 1 a. preemption: not eligible due to preemptionPolicy=Never."
        );
    }
}
