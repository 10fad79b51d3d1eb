//! The scheduler's loop: pods that wait are placed and bound.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weft_kube::k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use weft_kube::kube::ResourceExt;
use weft_kube::kube::api::{Patch, PatchParams, PostParams};
use weft_model::ObjectKey;

use super::storage::{self, SELECTED_NODE};
use super::world::{World, api};
use super::{Context, During, Error};
use crate::events::Severity;
use crate::placement::{NodeView, Scoring, Surroundings, Unschedulable, place};

const COMPONENT: &str = "default-scheduler";

pub(super) struct Scheduler {
    context: Context,
    scoring: Scoring,
    /// Bound by us and not yet shown as bound by the watch.
    assumed: RefCell<BTreeMap<ObjectKey, (String, Arc<Pod>)>>,
}

/// A pod that waits for a node.
pub(super) fn is_waiting(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let ours = spec
        .and_then(|spec| spec.scheduler_name.as_deref())
        .is_none_or(|name| name == COMPONENT);
    let gated = spec
        .and_then(|spec| spec.scheduling_gates.as_ref())
        .is_some_and(|gates| !gates.is_empty());
    ours && !gated
        && spec.is_none_or(|spec| spec.node_name.is_none())
        && pod.metadata.deletion_timestamp.is_none()
        && !is_finished(pod)
}

/// Phase Succeeded or Failed: the pod holds nothing any more.
pub(super) fn is_finished(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
}

impl Scheduler {
    pub(super) fn new(context: Context, scoring: Scoring) -> Self {
        Self {
            context,
            scoring,
            assumed: RefCell::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let (pod, decision, unbound) = {
            let world = self.context.world.borrow();
            self.forget_shown(&world.pods);
            let Some(pod) = world.pods.get(&key).filter(|pod| is_waiting(pod)).cloned() else {
                return Ok(None);
            };
            if self.assumed.borrow().contains_key(&key) {
                return Ok(None);
            }
            let decision = self.decide(&pod, &world);
            let unbound = storage::unbound(&world, &pod);
            (pod, decision, unbound)
        };
        match decision {
            Ok(node) if !unbound.is_empty() => self.select_node(&unbound, &node).await?,
            Ok(node) => self.bind(&key, pod, node).await?,
            Err(why) => self.explain(&key, &pod, &why).await?,
        }
        Ok(None)
    }

    fn forget_shown(&self, pods: &BTreeMap<ObjectKey, Arc<Pod>>) {
        self.assumed.borrow_mut().retain(|key, (_, assumed)| {
            pods.get(key)
                .is_some_and(|pod| pod.uid() == assumed.uid() && is_waiting(pod))
        });
    }

    fn decide(&self, pod: &Pod, world: &World) -> Result<String, Unschedulable> {
        let assumed = self.assumed.borrow();
        let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for (key, other) in world.pods.iter().filter(|(_, pod)| !is_finished(pod)) {
            let bound = other
                .spec
                .as_ref()
                .and_then(|spec| spec.node_name.as_deref());
            let node = bound.or_else(|| assumed.get(key).map(|(node, _)| node.as_str()));
            if let Some(node) = node {
                by_node.entry(node).or_default().push(other);
            }
        }
        let views: Vec<NodeView<'_>> = world
            .nodes
            .iter()
            .map(|(key, node)| NodeView {
                node,
                pods: by_node.remove(&*key.name).unwrap_or_default(),
            })
            .collect();
        let storage = |node: &Node| storage::objection(world, pod, node);
        let labels_of_namespace = |name: &str| {
            let namespace = world.namespaces.get(&ObjectKey::new("", name));
            namespace.map_or_else(BTreeMap::new, |namespace| namespace.labels().clone())
        };
        let around = Surroundings {
            nodes: &views,
            storage: &storage,
            labels_of_namespace: &labels_of_namespace,
            scoring: self.scoring,
        };
        place(pod, around).map(ResourceExt::name_any)
    }

    /// The claims of a pod are bound for its node before it is: whoever makes volumes has to
    /// know where. The event of the bound claim brings the pod back here.
    async fn select_node(&self, claims: &[ObjectKey], node: &str) -> Result<(), Error> {
        for key in claims {
            let claim = self.context.world.borrow().claims.get(key).cloned();
            if claim.is_none_or(|claim| claim.annotations().contains_key(SELECTED_NODE)) {
                continue;
            }
            let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
            api::<PersistentVolumeClaim>(&self.context.client, key)
                .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .settled(404, || format!("choosing Node {node} for claim {key}"))?;
        }
        Ok(())
    }

    async fn bind(&self, key: &ObjectKey, pod: Arc<Pod>, node: String) -> Result<(), Error> {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.assumed
            .borrow_mut()
            .insert(key.clone(), (node.clone(), pod.clone()));
        let bound = api::<Pod>(&self.context.client, key)
            .create_subresource::<Value, Value>(
                "binding",
                &key.name,
                &PostParams::default(),
                &binding,
            )
            .await
            .during(|| format!("binding Pod {key} to Node {node}"));
        if let Err(error) = bound {
            self.assumed.borrow_mut().remove(key);
            return Err(error);
        }
        self.context.recorder.say(
            &*pod,
            COMPONENT,
            Severity::Normal,
            "Scheduled",
            format!("Successfully assigned {key} to {node}"),
        );
        Ok(())
    }

    /// Says in the pod's condition and in an event why it waits, once for each reason.
    async fn explain(&self, key: &ObjectKey, pod: &Pod, why: &Unschedulable) -> Result<(), Error> {
        let message = why.to_string();
        let said = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| {
                condition.type_ == "PodScheduled" && condition.message.as_deref() == Some(&message)
            });
        if said {
            return Ok(());
        }
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let patch = json!({"status": {"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": now,
        }]}});
        api::<Pod>(&self.context.client, key)
            .patch_status(
                &key.name,
                &PatchParams::default(),
                &Patch::Strategic(&patch),
            )
            .await
            .settled(404, || format!("saying why Pod {key} waits"))?;
        self.context.recorder.say(
            pod,
            COMPONENT,
            Severity::Warning,
            "FailedScheduling",
            message,
        );
        Ok(())
    }
}
