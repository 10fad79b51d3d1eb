//! Pods leave nodes with a NoExecute taint that they do not tolerate, or no longer (Kubernetes'
//! taint eviction controller).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use weft_kube::k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use weft_kube::kube::Resource;
use weft_kube::kube::api::{DeleteParams, Patch, PatchParams};
use weft_model::ObjectKey;

use super::orphans::node_of;
use super::scheduling::is_finished;
use super::world::{World, api};
use super::{Context, During, Error};
use crate::events::Severity;
use crate::placement::tolerated;

const COMPONENT: &str = "taint-eviction-controller";

pub(super) struct Eviction {
    context: Context,
}

/// Whether a pod has to leave its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    /// It is tolerated for so long.
    LeavesIn(Duration),
    Leaves,
}

/// Whether a node has a taint that makes pods leave.
pub(super) fn drives_out(node: &Node) -> bool {
    no_execute(node).next().is_some()
}

/// Whether a pod may have to leave the node it is on.
pub(super) fn is_threatened(world: &World, pod: &Pod) -> bool {
    let node = node_of(pod).and_then(|node| world.nodes.get(&ObjectKey::new("", node)));
    node.is_some_and(|node| drives_out(node))
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute")
}

impl Eviction {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let pod = {
            let world = self.context.world.borrow();
            let Some(pod) = world.pods.get(&key).cloned() else {
                return Ok(None);
            };
            let node = node_of(&pod).and_then(|node| world.nodes.get(&ObjectKey::new("", node)));
            let Some(node) = node else {
                return Ok(None);
            };
            if is_finished(&pod) || pod.meta().deletion_timestamp.is_some() {
                return Ok(None);
            }
            match verdict(node, &pod, Timestamp::now()) {
                Verdict::Stays => return Ok(None),
                Verdict::LeavesIn(left) => return Ok(Some(left)),
                Verdict::Leaves => pod,
            }
        };
        self.evict(&key, &pod).await.map(|()| None)
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Error> {
        self.context.recorder.say(
            pod,
            COMPONENT,
            Severity::Normal,
            "TaintManagerEviction",
            format!("Marking for deletion Pod {key}"),
        );
        let pods = api::<Pod>(&self.context.client, key);
        let condition = json!({"metadata": {"uid": pod.meta().uid}, "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]}});
        pods.patch_status(
            &key.name,
            &PatchParams::default(),
            &Patch::Strategic(&condition),
        )
        .await
        .settled(404, || format!("saying why Pod {key} leaves"))?;
        pods.delete(&key.name, &DeleteParams::default())
            .await
            .settled(404, || format!("evicting Pod {key}"))?;
        Ok(())
    }
}

/// A taint that nothing tolerates drives out at once; tolerations for a time count from when
/// the taint was added, the shortest of them.
fn verdict(node: &Node, pod: &Pod, now: Timestamp) -> Verdict {
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let mut left: Option<Duration> = None;
    for taint in no_execute(node) {
        let those: Vec<&Toleration> = tolerations
            .iter()
            .filter(|one| tolerated(taint, std::slice::from_ref(one)))
            .collect();
        if those.is_empty() {
            return Verdict::Leaves;
        }
        let seconds = those.iter().filter_map(|one| one.toleration_seconds).min();
        let Some(seconds) = seconds else {
            continue;
        };
        let added = taint.time_added.as_ref().map_or(now, |time| time.0);
        let until = added.as_second().saturating_add(seconds.max(0));
        let Ok(more) = u64::try_from(until.saturating_sub(now.as_second())) else {
            return Verdict::Leaves;
        };
        let more = Duration::from_secs(more);
        left = Some(left.map_or(more, |left| left.min(more)));
    }
    match left {
        None => Verdict::Stays,
        Some(left) if left.is_zero() => Verdict::Leaves,
        Some(left) => Verdict::LeavesIn(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn judge(taints: Value, tolerations: Value, second: i64) -> Verdict {
        let node: Node = serde_json::from_value(json!({"spec": {"taints": taints}})).unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [], "tolerations": tolerations}}))
                .unwrap();
        verdict(&node, &pod, at(second))
    }

    fn taint(key: &str, added: i64) -> Value {
        json!({"key": key, "effect": "NoExecute", "timeAdded": at(added).to_string()})
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Value {
        json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
    }

    #[test]
    fn a_pod_leaves_when_it_is_tolerated_no_longer() {
        let gone = || json!([taint("unreachable", 0)]);
        assert_eq!(judge(json!([]), json!([]), 0), Verdict::Stays);
        let other_effect = json!([{"key": "unreachable", "effect": "NoSchedule"}]);
        assert_eq!(judge(other_effect, json!([]), 0), Verdict::Stays);
        assert_eq!(judge(gone(), json!([]), 0), Verdict::Leaves);
        let always = json!([toleration("unreachable", None)]);
        assert_eq!(judge(gone(), always, 1_000_000), Verdict::Stays);
        let for_a_while = || json!([toleration("unreachable", Some(300))]);
        let left = Verdict::LeavesIn(Duration::from_secs(200));
        assert_eq!(judge(gone(), for_a_while(), 100), left);
        assert_eq!(judge(gone(), for_a_while(), 300), Verdict::Leaves);
        assert_eq!(judge(gone(), for_a_while(), 400), Verdict::Leaves);
    }

    #[test]
    fn every_taint_has_to_be_tolerated_and_the_shortest_time_counts() {
        let two = || json!([taint("a", 0), taint("b", 50)]);
        let one = json!([toleration("a", Some(300))]);
        assert_eq!(judge(two(), one, 60), Verdict::Leaves);
        let both = json!([
            toleration("a", Some(300)),
            toleration("b", Some(100)),
            toleration("b", Some(200))
        ]);
        let left = Verdict::LeavesIn(Duration::from_secs(90));
        assert_eq!(judge(two(), both, 60), left);
    }
}
