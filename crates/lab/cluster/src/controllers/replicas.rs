//! ReplicaSets: as many pods as asked for, no more, no fewer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use weft_kube::k8s_openapi::api::apps::v1::ReplicaSet;
use weft_kube::k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use weft_kube::kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::ObjectKey;

use super::adoption;
use super::echoes::Echoes;
use super::graph::controller_ref;
use super::scheduling::is_finished;
use super::world::{api, key_of};
use super::{Context, During, Error};
use crate::events::Severity;

const COMPONENT: &str = "replicaset-controller";
/// Pods that are created in one go (kube-controller-manager's BurstReplicas).
const BURST: usize = 500;

pub(super) struct ReplicaSets {
    context: Context,
    echoes: Echoes,
}

impl ReplicaSets {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            echoes: Echoes::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let (replica_set, pods) = {
            let world = self.context.world.borrow();
            let Some(replica_set) = world.replica_sets.get(&key).cloned() else {
                self.echoes.forget(&key);
                return Ok(None);
            };
            let pods = world.pods_of(&replica_set.uid().unwrap_or_default());
            (replica_set, pods)
        };
        let selector = replica_set.spec.as_ref().map(|spec| &spec.selector);
        if adoption::settle(&self.context, &*replica_set, selector, |_| true).await? {
            return Ok(None);
        }
        let active: Vec<Arc<Pod>> = pods.into_iter().filter(|pod| is_active(pod)).collect();
        let echo = self.echoes.wait(
            &key,
            |uid| self.context.world.borrow().has_uid(uid),
            |uid| active.iter().any(|pod| pod.uid().as_deref() == Some(uid)),
        );
        if echo.is_none() && replica_set.meta().deletion_timestamp.is_none() {
            self.scale(&key, &replica_set, &active).await?;
        }
        let again = self.write_status(&replica_set, &active).await?;
        Ok([again, echo].into_iter().flatten().min())
    }

    async fn scale(
        &self,
        key: &ObjectKey,
        replica_set: &ReplicaSet,
        active: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let wanted = usize::try_from(wanted(replica_set)).unwrap_or(0);
        if active.len() < wanted {
            self.create(key, replica_set, wanted - active.len()).await
        } else {
            let surplus = surplus(active, active.len() - wanted);
            self.delete(key, replica_set, surplus).await
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        replica_set: &ReplicaSet,
        count: usize,
    ) -> Result<(), Error> {
        let Some(template) = replica_set
            .spec
            .as_ref()
            .and_then(|spec| spec.template.as_ref())
        else {
            return Ok(());
        };
        let Some(owner) = controller_ref(replica_set) else {
            return Ok(());
        };
        let pod = pod_from(template, &key.name, owner);
        let pods = api::<Pod>(&self.context.client, key);
        let parameters = PostParams::default();
        let mut created = BTreeSet::new();
        let mut failure = None;
        // One, two, four, …: what is refused is refused once, not hundreds of times.
        let (mut left, mut batch) = (count.min(BURST), 1);
        while left > 0 && failure.is_none() {
            batch = batch.min(left);
            let made = join_all((0..batch).map(|_| pods.create(&parameters, &pod)));
            for result in made.await {
                match result.during(|| format!("creating a pod of ReplicaSet {key}")) {
                    Ok(pod) => {
                        let message = format!("Created pod: {}", pod.name_any());
                        self.say(replica_set, Severity::Normal, "SuccessfulCreate", message);
                        created.extend(pod.uid());
                    }
                    Err(error) => {
                        self.say(
                            replica_set,
                            Severity::Warning,
                            "FailedCreate",
                            format!("Error creating: {error}"),
                        );
                        failure = Some(error);
                    }
                }
            }
            left -= batch;
            batch *= 2;
        }
        self.echoes.expect(key, created, BTreeSet::new());
        failure.map_or(Ok(()), Err)
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        replica_set: &ReplicaSet,
        surplus: Vec<Arc<Pod>>,
    ) -> Result<(), Error> {
        if surplus.is_empty() {
            return Ok(());
        }
        let pods = api::<Pod>(&self.context.client, key);
        let deleted = surplus.iter().filter_map(|pod| pod.uid()).collect();
        self.echoes.expect(key, BTreeSet::new(), deleted);
        for pod in surplus {
            let name = pod.name_any();
            let deleted = pods
                .delete(&name, &DeleteParams::default())
                .await
                .settled(404, || format!("deleting pod {name} of ReplicaSet {key}"));
            if let Err(error) = deleted {
                // What was not deleted must not be waited for.
                self.echoes.forget(key);
                return Err(error);
            }
            self.say(
                replica_set,
                Severity::Normal,
                "SuccessfulDelete",
                format!("Deleted pod: {name}"),
            );
        }
        Ok(())
    }

    fn say(
        &self,
        replica_set: &ReplicaSet,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        self.context
            .recorder
            .say(replica_set, COMPONENT, severity, reason, message);
    }

    async fn write_status(
        &self,
        replica_set: &ReplicaSet,
        active: &[Arc<Pod>],
    ) -> Result<Option<Duration>, Error> {
        let min_ready = min_ready(replica_set);
        let now = jiff::Timestamp::now();
        let labels = replica_set
            .spec
            .as_ref()
            .and_then(|spec| spec.template.as_ref())
            .and_then(|template| template.metadata.as_ref())
            .and_then(|meta| meta.labels.clone())
            .unwrap_or_default();
        let count = |wanted: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| wanted(pod)).count();
        let ready = count(&is_ready);
        let available =
            count(&|pod| available_in(pod, min_ready, now).is_some_and(|left| left.is_zero()));
        let status = json!({"status": {
            "replicas": active.len(),
            "fullyLabeledReplicas": count(&|pod| labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value))),
            "readyReplicas": ready,
            "availableReplicas": available,
            "observedGeneration": replica_set.metadata.generation,
        }});
        let key = key_of(replica_set);
        if !says_the_same(replica_set.status.as_ref(), &status["status"]) {
            api::<ReplicaSet>(&self.context.client, &key)
                .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&status))
                .await
                .settled(404, || format!("writing the status of ReplicaSet {key}"))?;
        }
        // A ready pod becomes available by time alone.
        let soonest = active
            .iter()
            .filter_map(|pod| available_in(pod, min_ready, now))
            .filter(|left| !left.is_zero())
            .min();
        Ok(soonest)
    }
}

/// Whether a status says already what is to be written: absent numbers count as 0.
pub(super) fn says_the_same(
    status: Option<&impl serde::Serialize>,
    new: &serde_json::Value,
) -> bool {
    let old = serde_json::to_value(status).unwrap_or_default();
    new.as_object().is_some_and(|fields| {
        fields.iter().all(|(name, value)| match old.get(name) {
            Some(present) => present == value,
            None => value.is_null() || value == &json!(0),
        })
    })
}

fn wanted(replica_set: &ReplicaSet) -> i32 {
    replica_set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
        .max(0)
}

fn min_ready(replica_set: &ReplicaSet) -> i32 {
    replica_set
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0)
}

/// A pod that counts as a replica: neither finished nor on its way out.
pub(super) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.meta().deletion_timestamp.is_none()
}

/// Condition Ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    condition_since(pod).is_some()
}

/// In how long a ready pod counts as available; zero: it does. None: it is not ready.
pub(super) fn available_in(
    pod: &Pod,
    min_ready_seconds: i32,
    now: jiff::Timestamp,
) -> Option<Duration> {
    let since = condition_since(pod)?;
    let ready_for = now.as_second().saturating_sub(since.as_second());
    let left = i64::from(min_ready_seconds).saturating_sub(ready_for);
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

fn condition_since(pod: &Pod) -> Option<jiff::Timestamp> {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == "Ready" && condition.status == "True")
        .map(|condition| {
            condition
                .last_transition_time
                .as_ref()
                .map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0)
        })
}

/// The pods to delete first: not bound, then not ready, then the youngest.
fn surplus(active: &[Arc<Pod>], count: usize) -> Vec<Arc<Pod>> {
    let mut order: Vec<&Arc<Pod>> = active.iter().collect();
    order.sort_by_key(|pod| {
        let bound = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some());
        let created = pod.meta().creation_timestamp.as_ref().map(|time| time.0);
        (
            bound,
            is_ready(pod),
            std::cmp::Reverse(created),
            pod.name_any(),
        )
    });
    order.into_iter().take(count).cloned().collect()
}

/// A pod of a template, named after its owner.
pub(super) fn pod_from(template: &PodTemplateSpec, owner_name: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{owner_name}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: Option<&str>, ready: bool, created: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "creationTimestamp": created},
                "spec": {"nodeName": node, "containers": []},
                "status": {"conditions": [
                    {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2024-01-01T00:00:10Z"},
                ]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn what_serves_nobody_goes_first_then_the_youngest() {
        let pods = [
            pod("old", Some("a"), true, "2024-01-01T00:00:00Z"),
            pod("young", Some("a"), true, "2024-01-01T00:00:05Z"),
            pod("broken", Some("b"), false, "2024-01-01T00:00:00Z"),
            pod("unbound", None, false, "2024-01-01T00:00:00Z"),
        ];
        let names: Vec<_> = surplus(&pods, 3).iter().map(|pod| pod.name_any()).collect();
        assert_eq!(names, ["unbound", "broken", "young"]);
    }

    #[test]
    fn available_after_min_ready_seconds() {
        let pod = pod("x", Some("a"), true, "2024-01-01T00:00:00Z");
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let left = |now| available_in(&pod, 30, at(now)).unwrap().as_secs();
        assert_eq!(left("2024-01-01T00:00:20Z"), 20);
        assert_eq!(left("2024-01-01T00:00:40Z"), 0);
    }
}
