//! Deployments: one replica set per version of the template, and the way from one
//! version to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use weft_kube::k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use weft_kube::k8s_openapi::api::core::v1::PodTemplateSpec;
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use weft_kube::kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::ObjectKey;

use super::graph::controller_ref;
use super::kind::Kind;
use super::progress::{Counts, Rollout};
use super::replicas::says_the_same;
use super::rollout::{Share, Size, grow, proportional};
use super::sets::{Strategy, forgotten, next_sizes, only_one, size, strategy};
use super::world::{api, controller_of};
use super::{Context, During, Error};
use crate::events::Severity;

const COMPONENT: &str = "deployment-controller";
const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers a replica set had before it was rolled back to.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Tells the pods and the replica set of one template from those of another.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

pub(super) struct Deployments {
    context: Context,
}

impl Deployments {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let (deployment, sets) = {
            let world = self.context.world.borrow();
            let Some(deployment) = world.deployments.get(&key).cloned() else {
                return Ok(None);
            };
            let uid = deployment.uid().unwrap_or_default();
            let sets: Vec<Arc<ReplicaSet>> = world
                .dependents(&uid)
                .into_iter()
                .filter(|any| any.kind == Kind::ReplicaSet)
                .filter_map(|any| world.replica_sets.get(&any.key).cloned())
                .filter(|set| controller_of(&**set).is_some_and(|owner| owner.uid == uid))
                .collect();
            (deployment, sets)
        };
        let Some(spec) = deployment.spec.as_ref() else {
            return Ok(None);
        };
        if deployment.meta().deletion_timestamp.is_some() {
            return Ok(None);
        }
        let (new, mut old): (Vec<_>, Vec<_>) = sets
            .into_iter()
            .partition(|set| template_of(set).as_ref() == Some(&plain(&spec.template)));
        old.sort_by_key(|set| revision(&**set));
        let paused = spec.paused == Some(true);
        let step = Step {
            key: &key,
            deployment: &deployment,
            spec,
            replicas: spec.replicas.unwrap_or(1),
            old: &old,
        };
        let found = new.into_iter().min_by_key(|set| set.creation_timestamp());
        let created = found.is_none();
        let new = match found {
            Some(set) => Some(self.followed(step, set).await?),
            None if paused => None,
            None => self.create(step).await?,
        };
        if paused {
            self.scale_paused(step, new.as_ref()).await?;
        } else if let Some(new) = &new {
            self.advance(step, new).await?;
            self.forget_old(&key, spec, &old).await?;
        }
        self.write_status(step, new.as_deref(), created).await
    }

    /// The newest replica set has the highest revision (a rollback makes an old one new), and
    /// the Deployment's annotations, of which `kubectl rollout history` shows one.
    async fn followed(
        &self,
        step: Step<'_>,
        set: Arc<ReplicaSet>,
    ) -> Result<Arc<ReplicaSet>, Error> {
        let mut annotations: BTreeMap<String, String> = inherited(step.deployment)
            .filter(|(key, value)| set.annotations().get(*key) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let (number, highest) = (revision(&*set), highest(step.old));
        if number <= highest {
            annotations.insert(REVISION.to_owned(), (highest + 1).to_string());
            if number > 0 {
                let past = set.annotations().get(REVISION_HISTORY);
                let past = past.map_or_else(String::new, |past| format!("{past},"));
                annotations.insert(REVISION_HISTORY.to_owned(), format!("{past}{number}"));
            }
        }
        let min_ready = |seconds: Option<i32>| seconds.unwrap_or(0);
        let wanted = min_ready(step.spec.min_ready_seconds);
        let waits = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        if annotations.is_empty() && min_ready(waits) == wanted {
            return Ok(set);
        }
        let patch = json!({
            "metadata": {"annotations": annotations},
            "spec": {"minReadySeconds": wanted},
        });
        api::<ReplicaSet>(&self.context.client, step.key)
            .patch(
                &set.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
            .during(|| format!("bringing ReplicaSet {} up to date", set.name_any()))
            .map(Arc::new)
    }

    async fn create(&self, step: Step<'_>) -> Result<Option<Arc<ReplicaSet>>, Error> {
        let Some(owner) = controller_ref(step.deployment) else {
            return Ok(None);
        };
        let hash = template_hash(&step.spec.template, step.deployment);
        let name = format!("{}-{hash}", step.key.name);
        let mut template = step.spec.template.clone();
        let labels = template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default();
        labels.insert(TEMPLATE_HASH.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = step.spec.selector.clone();
        selector
            .match_labels
            .get_or_insert_default()
            .insert(TEMPLATE_HASH.to_owned(), hash);
        let sizes: Vec<Size> = step.old.iter().map(|set| size(set)).collect();
        let size = match strategy(step.spec) {
            Strategy::Rolling(bounds) => grow(step.replicas, bounds, Size::default(), &sizes),
            Strategy::Recreate => 0,
        };
        let mut annotations: BTreeMap<String, String> = inherited(step.deployment)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        annotations.insert(REVISION.to_owned(), (highest(step.old) + 1).to_string());
        annotations.extend(noted(step));
        let set = json!({
            "metadata": {
                "name": name,
                "namespace": step.key.namespace,
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [owner],
            },
            "spec": {
                "replicas": size,
                "minReadySeconds": step.spec.min_ready_seconds,
                "selector": selector,
                "template": template,
            },
        });
        let set: ReplicaSet = serde_json::from_value(set)
            .map_err(|error| Error::Impossible(format!("ReplicaSet {name}: {error}")))?;
        let created = api::<ReplicaSet>(&self.context.client, step.key)
            .create(&PostParams::default(), &set)
            .await
            .settled(409, || format!("creating ReplicaSet {name}"))?;
        if created.is_none() {
            self.adopt(step, &name, &owner).await?;
        } else if size > 0 {
            self.say_scaled(step.deployment, &name, 0, size);
        }
        Ok(created.map(Arc::new))
    }

    /// A replica set of this template that nobody owns (its Deployment was deleted without
    /// it) is taken over; the watch brings it back as ours. One of another template or owner
    /// keeps the name, and the Deployment gets another.
    async fn adopt(&self, step: Step<'_>, name: &str, owner: &OwnerReference) -> Result<(), Error> {
        let sets = api::<ReplicaSet>(&self.context.client, step.key);
        let set = sets
            .get_opt(name)
            .await
            .during(|| format!("reading ReplicaSet {name}"))?;
        // One that is going tells by its end.
        let Some(set) = set.filter(|set| set.meta().deletion_timestamp.is_none()) else {
            return Ok(());
        };
        let holder = controller_of(&set);
        let ours = holder.is_none_or(|holder| holder.uid == owner.uid);
        if !ours || template_of(&set).as_ref() != Some(&plain(&step.spec.template)) {
            return self.avoid_collision(step).await;
        }
        if holder.is_some() {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "resourceVersion": set.resource_version(),
            "ownerReferences": [owner],
        }});
        sets.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .during(|| format!("adopting ReplicaSet {name}"))?;
        Ok(())
    }

    async fn avoid_collision(&self, step: Step<'_>) -> Result<(), Error> {
        let status = step.deployment.status.as_ref();
        let count = status
            .and_then(|status| status.collision_count)
            .unwrap_or(0);
        let patch = json!({
            "metadata": {"resourceVersion": step.deployment.resource_version()},
            "status": {"collisionCount": count.saturating_add(1)},
        });
        let key = step.key;
        api::<Deployment>(&self.context.client, key)
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .settled(404, || {
                format!("counting the name collisions of Deployment {key}")
            })?;
        Ok(())
    }

    /// A paused rollout still follows `spec.replicas`, while one version alone has pods.
    async fn scale_paused(
        &self,
        step: Step<'_>,
        new: Option<&Arc<ReplicaSet>>,
    ) -> Result<(), Error> {
        match only_one(step.old, new) {
            Some(set) => self.scale(&step, set, step.replicas).await,
            None => Ok(()),
        }
    }

    /// One step of the rollout.
    async fn advance(&self, step: Step<'_>, new: &Arc<ReplicaSet>) -> Result<(), Error> {
        if let Some(sizes) = shared_out(step, new) {
            for (set, size) in step.old.iter().chain([new]).zip(sizes) {
                self.scale(&step, set, size).await?;
            }
            // The rollout goes on with the events of these writes.
            return Ok(());
        }
        let (next_new, next_old) = next_sizes(step.spec, new, step.old);
        self.scale(&step, new, next_new).await?;
        for (set, size) in step.old.iter().zip(next_old) {
            self.scale(&step, set, size).await?;
        }
        Ok(())
    }

    async fn scale(
        &self,
        step: &Step<'_>,
        set: &Arc<ReplicaSet>,
        replicas: i32,
    ) -> Result<(), Error> {
        let before = size(set).wanted;
        let noted = noted(*step);
        let is_noted = noted
            .iter()
            .all(|(key, value)| set.annotations().get(key) == Some(value));
        // What has no pods is not told of the others' numbers.
        if before == replicas && (is_noted || replicas == 0) {
            return Ok(());
        }
        let patch = json!({
            "metadata": {
                "resourceVersion": set.resource_version(),
                "annotations": noted,
            },
            "spec": {"replicas": replicas},
        });
        api::<ReplicaSet>(&self.context.client, step.key)
            .patch(
                &set.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
            .during(|| format!("scaling ReplicaSet {} to {replicas}", set.name_any()))?;
        if before != replicas {
            self.say_scaled(step.deployment, &set.name_any(), before, replicas);
        }
        Ok(())
    }

    fn say_scaled(&self, deployment: &Deployment, set: &str, before: i32, after: i32) {
        let direction = if after > before { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {set} from {before} to {after}");
        self.context.recorder.say(
            deployment,
            COMPONENT,
            Severity::Normal,
            "ScalingReplicaSet",
            message,
        );
    }

    /// Beyond `revisionHistoryLimit` empty old replica sets go, oldest first.
    async fn forget_old(
        &self,
        key: &ObjectKey,
        spec: &DeploymentSpec,
        old: &[Arc<ReplicaSet>],
    ) -> Result<(), Error> {
        for set in forgotten(spec, old) {
            api::<ReplicaSet>(&self.context.client, key)
                .delete(&set.name_any(), &DeleteParams::background())
                .await
                .settled(404, || {
                    format!("deleting old ReplicaSet {}", set.name_any())
                })?;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        step: Step<'_>,
        new: Option<&ReplicaSet>,
        created: bool,
    ) -> Result<Option<Duration>, Error> {
        let (key, deployment) = (step.key, step.deployment);
        let name = new.map(ResourceExt::name_any);
        let before = deployment.status.clone().unwrap_or_default();
        let rollout = Rollout {
            before: &before,
            counts: counts(deployment, new, step.old),
            paused: step.spec.paused == Some(true),
            deadline: deadline(step.spec),
            set: name.as_deref(),
            created,
        };
        let (conditions, again) = rollout.conditions(jiff::Timestamp::now());
        let counts = rollout.counts;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation,
            "replicas": counts.total,
            "updatedReplicas": counts.updated,
            "readyReplicas": counts.ready,
            "availableReplicas": counts.available,
            "unavailableReplicas": (counts.total - counts.available).max(counts.wanted - counts.available).max(0),
            "conditions": conditions,
        }});
        let revision = new.map(revision).unwrap_or(0);
        if revision > self::revision(deployment) {
            let patch = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
            api::<Deployment>(&self.context.client, key)
                .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .settled(404, || format!("numbering Deployment {key}"))?;
        }
        if !says_the_same(deployment.status.as_ref(), &status["status"]) {
            api::<Deployment>(&self.context.client, key)
                .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&status))
                .await
                .settled(404, || format!("writing the status of Deployment {key}"))?;
        }
        Ok(again)
    }
}

/// What one step of a rollout looks at.
#[derive(Clone, Copy)]
struct Step<'a> {
    key: &'a ObjectKey,
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    replicas: i32,
    old: &'a [Arc<ReplicaSet>],
}

/// The numbers by which a later change of `spec.replicas` is shared out among the replica sets.
fn noted(step: Step<'_>) -> BTreeMap<String, String> {
    let surge = match strategy(step.spec) {
        Strategy::Rolling(bounds) => bounds.surge,
        Strategy::Recreate => 0,
    };
    let most = step.replicas.saturating_add(surge);
    [
        (DESIRED_REPLICAS.to_owned(), step.replicas.to_string()),
        (MAX_REPLICAS.to_owned(), most.to_string()),
    ]
    .into()
}

/// The next sizes of the old replica sets and of the new one, if `spec.replicas` was changed while
/// several of them have pods.
fn shared_out(step: Step<'_>, new: &Arc<ReplicaSet>) -> Option<Vec<i32>> {
    let Strategy::Rolling(bounds) = strategy(step.spec) else {
        return None;
    };
    let number = |set: &ReplicaSet, key: &str| set.annotations().get(key)?.parse::<i32>().ok();
    let sets: Vec<&Arc<ReplicaSet>> = step.old.iter().chain([new]).collect();
    let active = sets.iter().filter(|set| size(set).wanted > 0);
    let changed = |set: &&&Arc<ReplicaSet>| {
        number(set, DESIRED_REPLICAS).is_some_and(|known| known != step.replicas)
    };
    let new_size = size(new);
    let is_done = new_size.wanted == step.replicas && new_size.available == step.replicas;
    if active.clone().count() < 2 || active.filter(changed).count() == 0 || is_done {
        return None;
    }
    let now = step.deployment.status.as_ref();
    let now = now.and_then(|status| status.replicas).unwrap_or(0);
    let shares: Vec<Share> = sets
        .iter()
        .map(|set| Share {
            wanted: size(set).wanted,
            most_before: number(set, MAX_REPLICAS)
                .filter(|most| *most > 0)
                .unwrap_or(now),
        })
        .collect();
    Some(proportional(step.replicas, bounds, &shares))
}

fn revision(object: &impl ResourceExt) -> i64 {
    object
        .annotations()
        .get(REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn highest(sets: &[Arc<ReplicaSet>]) -> i64 {
    sets.iter().map(|set| revision(&**set)).max().unwrap_or(0)
}

/// The annotations a replica set gets from its Deployment: not those that are about the
/// Deployment itself.
fn inherited(deployment: &Deployment) -> impl Iterator<Item = (&String, &String)> {
    let own = [
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        "kubectl.kubernetes.io/last-applied-configuration",
    ];
    let all = deployment.annotations().iter();
    all.filter(move |(key, _)| !own.contains(&key.as_str()))
}

/// Kubernetes reads the largest number as "none".
fn deadline(spec: &DeploymentSpec) -> Option<Duration> {
    let seconds = spec.progress_deadline_seconds.unwrap_or(600);
    let seconds = (seconds != i32::MAX).then_some(seconds)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// A template without the label that the controller adds.
fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|meta| meta.labels.as_mut())
    {
        labels.remove(TEMPLATE_HASH);
    }
    template
}

fn template_of(set: &ReplicaSet) -> Option<PodTemplateSpec> {
    set.spec
        .as_ref()
        .and_then(|spec| spec.template.as_ref())
        .map(plain)
}

/// Ten characters of Kubernetes' alphabet for generated names, a function of the template.
pub(super) fn template_hash(template: &PodTemplateSpec, salt: &impl serde::Serialize) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let salt = serde_json::to_value(salt).unwrap_or_default();
    let text = serde_json::to_string(template).unwrap_or_default();
    let digest = Sha256::new()
        .chain_update(text)
        .chain_update(salt["status"]["collisionCount"].to_string())
        .finalize();
    digest
        .iter()
        .take(10)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

fn counts(deployment: &Deployment, new: Option<&ReplicaSet>, old: &[Arc<ReplicaSet>]) -> Counts {
    let spec = deployment.spec.as_ref();
    let all = || new.into_iter().chain(old.iter().map(|set| &**set));
    let sum = |read: fn(&ReplicaSet) -> i32| all().map(read).sum();
    let replicas = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    Counts {
        wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        total: all().map(replicas).sum(),
        updated: new.map_or(0, replicas),
        ready: sum(|set| {
            set.status
                .as_ref()
                .and_then(|status| status.ready_replicas)
                .unwrap_or(0)
        }),
        available: sum(|set| size(set).available),
        tolerated: match spec.map(strategy) {
            Some(Strategy::Rolling(bounds)) => bounds.unavailable,
            Some(Strategy::Recreate) | None => 0,
        },
    }
}
