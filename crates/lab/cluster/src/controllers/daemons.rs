//! DaemonSets: one pod on every node that wants one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use weft_kube::k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use weft_kube::k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration,
};
use weft_kube::kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::ObjectKey;

use super::adoption;
use super::daemon_plan::{Plan, Verdicts, is_of, plan, wanted};
use super::deployment::template_hash;
use super::echoes::Echoes;
use super::graph::controller_ref;
use super::history::History;
use super::replicas::{available_in, is_active, is_ready, pod_from, says_the_same};
use super::world::api;
use super::{Context, During, Error};
use crate::events::Severity;
use crate::placement::daemon_on;

const COMPONENT: &str = "daemonset-controller";
/// Tells the pods of one version of the template from those of another.
pub(super) const REVISION_HASH: &str = "controller-revision-hash";

pub(super) struct DaemonSets {
    context: Context,
    echoes: Echoes,
}

impl DaemonSets {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            echoes: Echoes::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let (daemon_set, pods, nodes) = {
            let world = self.context.world.borrow();
            let Some(daemon_set) = world.daemon_sets.get(&key).cloned() else {
                self.echoes.forget(&key);
                return Ok(None);
            };
            let pods = world.pods_of(&daemon_set.uid().unwrap_or_default());
            let nodes: Vec<Arc<Node>> = world.nodes.values().cloned().collect();
            (daemon_set, pods, nodes)
        };
        let Some(spec) = daemon_set.spec.as_ref() else {
            return Ok(None);
        };
        let selector = Some(&spec.selector);
        if adoption::settle(&self.context, &*daemon_set, selector, |_| true).await? {
            return Ok(None);
        }
        let hash = template_hash(&spec.template, &json!(null));
        let verdicts: Verdicts = nodes
            .iter()
            .map(|node| {
                let name = node.name_any();
                let pod = daemon_pod(spec, &key.name, &name, &hash, None);
                (name, daemon_on(&pod, node))
            })
            .collect();
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in pods {
            if let Some(node) = node_of(&pod) {
                by_node.entry(node).or_default().push(pod);
            }
        }
        let active = |uid: &str| {
            let mut pods = by_node.values().flatten();
            pods.any(|pod| is_active(pod) && pod.uid().as_deref() == Some(uid))
        };
        let has_uid = |uid: &str| self.context.world.borrow().has_uid(uid);
        let echo = self.echoes.wait(&key, has_uid, active);
        if echo.is_none() && daemon_set.meta().deletion_timestamp.is_none() {
            let history = History {
                context: &self.context,
                key: &key,
                daemon_set: &daemon_set,
                spec,
                hash: &hash,
            };
            let live = by_node.values().flatten();
            let live = live.filter_map(|pod| pod.labels().get(REVISION_HASH).cloned());
            history.keep(&live.collect()).await?;
            let plan = plan(spec, &hash, &verdicts, &by_node, jiff::Timestamp::now());
            self.carry_out(&key, &daemon_set, spec, &hash, plan).await?;
        }
        let again = self
            .write_status(&key, &daemon_set, spec, &hash, &verdicts, &by_node)
            .await?;
        Ok([again, echo].into_iter().flatten().min())
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        daemon_set: &DaemonSet,
        spec: &DaemonSetSpec,
        hash: &str,
        plan: Plan,
    ) -> Result<(), Error> {
        if plan.create_on.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        let pods = api::<Pod>(&self.context.client, key);
        let say = |reason, message| {
            self.context
                .recorder
                .say(daemon_set, COMPONENT, Severity::Normal, reason, message);
        };
        let mut deleted = BTreeSet::new();
        for pod in &plan.delete {
            let name = pod.name_any();
            pods.delete(&name, &DeleteParams::default())
                .await
                .settled(404, || format!("deleting pod {name} of DaemonSet {key}"))?;
            deleted.extend(pod.uid());
            say("SuccessfulDelete", format!("Deleted pod: {name}"));
        }
        let mut created = BTreeSet::new();
        let mut failure = None;
        for node in &plan.create_on {
            let owner = controller_ref(daemon_set);
            let pod = daemon_pod(spec, &key.name, node, hash, owner);
            let made = pods
                .create(&PostParams::default(), &pod)
                .await
                .during(|| format!("creating a pod of DaemonSet {key} for node {node}"));
            match made {
                Ok(made) => {
                    say(
                        "SuccessfulCreate",
                        format!("Created pod: {}", made.name_any()),
                    );
                    created.extend(made.uid());
                }
                Err(error) => failure = Some(error),
            }
        }
        self.echoes.expect(key, created, deleted);
        failure.map_or(Ok(()), Err)
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        daemon_set: &DaemonSet,
        spec: &DaemonSetSpec,
        hash: &str,
        verdicts: &Verdicts,
        by_node: &BTreeMap<String, Vec<Arc<Pod>>>,
    ) -> Result<Option<Duration>, Error> {
        let wanted = wanted(verdicts);
        let now = jiff::Timestamp::now();
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let placed: Vec<&Arc<Pod>> = wanted
            .iter()
            .filter_map(|node| {
                let active = by_node.get(*node)?.iter().filter(|pod| is_active(pod));
                // While one takes the place of another, the other is the node's daemon.
                active.min_by_key(|pod| pod.creation_timestamp())
            })
            .collect();
        let count = |test: &dyn Fn(&Pod) -> bool| placed.iter().filter(|pod| test(pod)).count();
        let available =
            count(&|pod| available_in(pod, min_ready, now).is_some_and(|left| left.is_zero()));
        let misplaced = by_node
            .keys()
            .filter(|node| !wanted.contains(&node.as_str()))
            .count();
        let status = json!({"status": {
            "observedGeneration": daemon_set.metadata.generation,
            "currentNumberScheduled": placed.len(),
            "desiredNumberScheduled": wanted.len(),
            "numberMisscheduled": misplaced,
            "numberReady": count(&is_ready),
            "numberAvailable": available,
            "numberUnavailable": wanted.len() - available,
            "updatedNumberScheduled": count(&|pod| is_of(pod, hash)),
        }});
        if !says_the_same(daemon_set.status.as_ref(), &status["status"]) {
            api::<DaemonSet>(&self.context.client, key)
                .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&status))
                .await
                .settled(404, || format!("writing the status of DaemonSet {key}"))?;
        }
        let soonest = placed
            .iter()
            .filter_map(|pod| available_in(pod, min_ready, now))
            .filter(|left| !left.is_zero())
            .min();
        Ok(soonest)
    }
}

/// The node a daemon is on, or is meant for.
fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    spec.node_name.clone().or_else(|| {
        let terms = &spec
            .affinity
            .as_ref()?
            .node_affinity
            .as_ref()?
            .required_during_scheduling_ignored_during_execution
            .as_ref()?
            .node_selector_terms;
        let field = terms.first()?.match_fields.as_ref()?.first()?;
        field.values.as_ref()?.first().cloned()
    })
}

/// A daemon's pod for one node: pinned to it by affinity, and tolerating what befalls
/// nodes, as Kubernetes' DaemonSet controller makes it.
fn daemon_pod(
    spec: &DaemonSetSpec,
    name: &str,
    node: &str,
    hash: &str,
    owner: Option<weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>,
) -> Pod {
    let mut pod = pod_from(&spec.template, name, owner.clone().unwrap_or_default());
    if owner.is_none() {
        pod.metadata.owner_references = None;
    }
    pod.labels_mut()
        .insert(REVISION_HASH.to_owned(), hash.to_owned());
    let pod_spec = pod.spec.get_or_insert_default();
    let required = pod_spec
        .affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default()
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_default();
    *required = pinned(std::mem::take(required), node);
    let host_network = pod_spec.host_network == Some(true);
    pod_spec
        .tolerations
        .get_or_insert_default()
        .extend(daemon_tolerations(host_network));
    pod
}

fn pinned(selector: NodeSelector, node: &str) -> NodeSelector {
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let mut terms = selector.node_selector_terms;
    if terms.is_empty() {
        terms.push(NodeSelectorTerm::default());
    }
    for term in &mut terms {
        term.match_fields = Some(vec![field.clone()]);
    }
    NodeSelector {
        node_selector_terms: terms,
    }
}

fn daemon_tolerations(host_network: bool) -> Vec<Toleration> {
    let toleration = |name: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{name}")),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    };
    let mut all = vec![
        toleration("not-ready", "NoExecute"),
        toleration("unreachable", "NoExecute"),
        toleration("disk-pressure", "NoSchedule"),
        toleration("memory-pressure", "NoSchedule"),
        toleration("pid-pressure", "NoSchedule"),
        toleration("unschedulable", "NoSchedule"),
    ];
    if host_network {
        all.push(toleration("network-unavailable", "NoSchedule"));
    }
    all
}
