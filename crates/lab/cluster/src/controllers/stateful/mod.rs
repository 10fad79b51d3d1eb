//! StatefulSets: pods with names and places of their own, one after the other.

mod members;
mod plan;
mod revisions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use weft_kube::k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec};
use weft_kube::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use weft_kube::kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::ObjectKey;

use self::members::{REVISION, claims, goes_with, ordinal, owners, pod as pod_of};
use self::plan::{Act, Replica, Update, Wanted, plan};
use self::revisions::{Newest, newest, surplus, template};
use super::adoption;
use super::echoes::Echoes;
use super::kind::Kind;
use super::replicas::{available_in, is_ready, says_the_same};
use super::scheduling::is_finished;
use super::world::{World, api, controller_of};
use super::{Context, During, Error};
use crate::events::Severity;

const COMPONENT: &str = "statefulset-controller";

pub(super) struct StatefulSets {
    context: Context,
    echoes: Echoes,
}

/// A set and what belongs to it.
struct View {
    key: ObjectKey,
    set: Arc<StatefulSet>,
    spec: StatefulSetSpec,
    pods: BTreeMap<i32, Arc<Pod>>,
    /// By number.
    history: Vec<Arc<ControllerRevision>>,
}

/// The version that pods have, and the one they are to have.
struct Versions {
    current: Arc<ControllerRevision>,
    updated: Arc<ControllerRevision>,
}

/// The sets of a namespace that may have a claim.
pub(super) fn sets_with_claims(world: &World, namespace: &str) -> Vec<ObjectKey> {
    let has_claims = |set: &StatefulSet| {
        let spec = set.spec.as_ref();
        spec.is_some_and(|spec| spec.volume_claim_templates.is_some())
    };
    world
        .within::<StatefulSet>(namespace)
        .filter(|(_, set)| has_claims(set))
        .map(|(key, _)| key.clone())
        .collect()
}

impl StatefulSets {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            echoes: Echoes::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(view) = self.view(&key) else {
            self.echoes.forget(&key);
            return Ok(None);
        };
        let is_member = |pod: &Pod| ordinal(&key.name, &pod.name_any()).is_some();
        let selector = Some(&view.spec.selector);
        if adoption::settle(&self.context, &*view.set, selector, is_member).await? {
            return Ok(None);
        }
        let versions = self.versions(&view).await?;
        let active = |uid: &str| {
            let mut pods = view.pods.values();
            pods.any(|pod| {
                pod.uid().as_deref() == Some(uid) && pod.meta().deletion_timestamp.is_none()
            })
        };
        let has_uid = |uid: &str| self.context.world.borrow().has_uid(uid);
        let echo = self.echoes.wait(&key, has_uid, active);
        let done = if echo.is_none() && view.set.meta().deletion_timestamp.is_none() {
            self.advance(&view, &versions).await
        } else {
            Ok(())
        };
        let again = self.write_status(&view, &versions).await?;
        done?;
        self.forget_old(&view, &versions).await?;
        Ok([again, echo].into_iter().flatten().min())
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let world = self.context.world.borrow();
        let set = world.stateful_sets.get(key)?.clone();
        let spec = set.spec.clone()?;
        let uid = set.uid().unwrap_or_default();
        let pods = world.pods_of(&uid).into_iter();
        let pods = pods
            .filter_map(|pod| Some((ordinal(&key.name, &pod.name_any())?, pod)))
            .collect();
        let mut history: Vec<_> = world
            .dependents(&uid)
            .into_iter()
            .filter(|any| any.kind == Kind::ControllerRevision)
            .filter_map(|any| world.revisions.get(&any.key).cloned())
            .filter(|revision| controller_of(&**revision).is_some_and(|owner| owner.uid == uid))
            .collect();
        history.sort_by_key(|revision| (revision.revision, revision.name_any()));
        Some(View {
            key: key.clone(),
            set,
            spec,
            pods,
            history,
        })
    }

    async fn versions(&self, view: &View) -> Result<Versions, Error> {
        let revisions = api::<ControllerRevision>(&self.context.client, &view.key);
        let key = &view.key;
        let updated = match newest(&view.set, &view.spec, &view.history) {
            Newest::Is(revision) => revision,
            Newest::Again(revision, number) => {
                let name = revision.name_any();
                let patch = json!({"revision": number});
                let patched = revisions
                    .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .during(|| format!("numbering ControllerRevision {name}"))?;
                self.assume(key, patched)
            }
            Newest::New(revision) => {
                let made = revisions
                    .create(&PostParams::default(), &revision)
                    .await
                    .during(|| format!("keeping the template of StatefulSet {key}"))?;
                self.assume(key, made)
            }
        };
        let named = view
            .set
            .status
            .as_ref()
            .and_then(|status| status.current_revision.clone());
        let mut known = view.history.iter();
        let current = known.find(|revision| Some(revision.name_any()) == named);
        Ok(Versions {
            current: current.unwrap_or(&updated).clone(),
            updated,
        })
    }

    fn assume(&self, key: &ObjectKey, revision: ControllerRevision) -> Arc<ControllerRevision> {
        let key = ObjectKey::new(&key.namespace, &revision.name_any());
        let mut world = self.context.world.borrow_mut();
        world.put(Some(revision.clone()), &key);
        Arc::new(revision)
    }

    async fn advance(&self, view: &View, versions: &Versions) -> Result<(), Error> {
        let min_ready = view.spec.min_ready_seconds.unwrap_or(0);
        let now = jiff::Timestamp::now();
        let replicas: BTreeMap<i32, Replica> = view
            .pods
            .iter()
            .map(|(ordinal, pod)| (*ordinal, replica(pod, min_ready, now)))
            .collect();
        let updated = versions.updated.name_any();
        let wanted = wanted(&view.spec, &updated);
        for (ordinal, pod) in &view.pods {
            let condemned = !wanted.ordinals.contains(ordinal);
            self.keep_claims(view, *ordinal, Some(pod), condemned)
                .await?;
        }
        let (mut created, mut deleted) = (BTreeSet::new(), BTreeSet::new());
        let mut failure = None;
        for act in plan(&wanted, &replicas) {
            let done = match act {
                Act::Create(ordinal) => self.create(view, versions, ordinal).await.map(|uid| {
                    created.extend(uid);
                }),
                Act::Delete(ordinal) => self.delete(view, ordinal).await.map(|uid| {
                    deleted.extend(uid);
                }),
            };
            if let Err(error) = done {
                failure = Some(error);
                break;
            }
        }
        if !created.is_empty() || !deleted.is_empty() {
            self.echoes.expect(&view.key, created, deleted);
        }
        failure.map_or(Ok(()), Err)
    }

    async fn create(
        &self,
        view: &View,
        versions: &Versions,
        ordinal: i32,
    ) -> Result<Option<String>, Error> {
        if !self.keep_claims(view, ordinal, None, false).await? {
            return Ok(None);
        }
        let revision = match partition(&view.spec) {
            Some(partition) if ordinal < start(&view.spec).saturating_add(partition) => {
                &versions.current
            }
            Some(_) | None => &versions.updated,
        };
        let template = template(revision).unwrap_or_else(|| view.spec.template.clone());
        let pod = pod_of(
            &view.set,
            &view.spec,
            &template,
            &revision.name_any(),
            ordinal,
        );
        let name = pod.name_any();
        let set = &view.key.name;
        let made = api::<Pod>(&self.context.client, &view.key)
            .create(&PostParams::default(), &pod)
            .await
            .during(|| format!("creating Pod {name} of StatefulSet {}", view.key));
        match made {
            Ok(made) => {
                let message = format!("create Pod {name} in StatefulSet {set} successful");
                self.say(view, Severity::Normal, "SuccessfulCreate", message);
                Ok(made.uid())
            }
            Err(error) => {
                let message =
                    format!("create Pod {name} in StatefulSet {set} failed error: {error}");
                self.say(view, Severity::Warning, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn delete(&self, view: &View, ordinal: i32) -> Result<Option<String>, Error> {
        let Some(pod) = view.pods.get(&ordinal) else {
            return Ok(None);
        };
        let name = pod.name_any();
        api::<Pod>(&self.context.client, &view.key)
            .delete(&name, &DeleteParams::default())
            .await
            .settled(404, || {
                format!("deleting Pod {name} of StatefulSet {}", view.key)
            })?;
        let message = format!(
            "delete Pod {name} in StatefulSet {} successful",
            view.key.name
        );
        self.say(view, Severity::Normal, "SuccessfulDelete", message);
        Ok(pod.uid())
    }

    /// Makes the claims of a pod that are missing and gives them the owners they should have.
    /// Says whether the pod can be made: a claim on its way out is waited for.
    async fn keep_claims(
        &self,
        view: &View,
        ordinal: i32,
        pod: Option<&Pod>,
        condemned: bool,
    ) -> Result<bool, Error> {
        let api = api::<PersistentVolumeClaim>(&self.context.client, &view.key);
        let with = goes_with(&view.spec, condemned);
        let mut usable = true;
        for mut claim in claims(&view.set, &view.spec, ordinal) {
            let name = claim.name_any();
            let key = ObjectKey::new(&view.key.namespace, &name);
            let present = self.context.world.borrow().claims.get(&key).cloned();
            let Some(present) = present else {
                if condemned {
                    continue;
                }
                claim.metadata.owner_references = owners(&claim, &view.set, pod, with);
                let made = api
                    .create(&PostParams::default(), &claim)
                    .await
                    .settled(409, || format!("creating PersistentVolumeClaim {key}"))?;
                if let Some(made) = made {
                    let message = format!(
                        "create Claim {name} Pod {}-{ordinal} in StatefulSet {} success",
                        view.key.name, view.key.name
                    );
                    self.say(view, Severity::Normal, "SuccessfulCreate", message);
                    self.context.world.borrow_mut().put(Some(made), &key);
                }
                continue;
            };
            if present.meta().deletion_timestamp.is_some() {
                usable = false;
            } else if let Some(owners) = owners(&present, &view.set, pod, with) {
                let patch = json!({"metadata": {
                    "ownerReferences": owners,
                    "resourceVersion": present.resource_version(),
                }});
                let patched = api
                    .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .settled(404, || {
                        format!("changing the owners of PersistentVolumeClaim {key}")
                    })?;
                self.context.world.borrow_mut().put(patched, &key);
            }
        }
        Ok(usable)
    }

    async fn write_status(
        &self,
        view: &View,
        versions: &Versions,
    ) -> Result<Option<Duration>, Error> {
        let min_ready = view.spec.min_ready_seconds.unwrap_or(0);
        let now = jiff::Timestamp::now();
        let pods = || view.pods.values();
        let (current, updated) = (versions.current.name_any(), versions.updated.name_any());
        let of = |revision: &str| {
            let those = pods().filter(|pod| pod.meta().deletion_timestamp.is_none());
            those.filter(|pod| revision_of(pod) == revision).count()
        };
        let ready = pods().filter(|pod| is_ready(pod)).count();
        let left = |pod: &Arc<Pod>| available_in(pod, min_ready, now);
        let available = pods().filter(|pod| left(pod).is_some_and(|left| left.is_zero()));
        let wanted = usize::try_from(replicas(&view.spec)).unwrap_or(0);
        let of_updated = of(&updated);
        // Only a finished update makes its revision the current one.
        let complete =
            partition(&view.spec).is_some() && [of_updated, ready, view.pods.len()] == [wanted; 3];
        let status = json!({"status": {
            "observedGeneration": view.set.metadata.generation,
            "replicas": view.pods.len(),
            "readyReplicas": ready,
            "availableReplicas": available.count(),
            "currentReplicas": if complete { of_updated } else { of(&current) },
            "updatedReplicas": of_updated,
            "currentRevision": if complete { &updated } else { &current },
            "updateRevision": updated,
            "collisionCount": 0,
        }});
        if !says_the_same(view.set.status.as_ref(), &status["status"]) {
            api::<StatefulSet>(&self.context.client, &view.key)
                .patch_status(
                    &view.key.name,
                    &PatchParams::default(),
                    &Patch::Merge(&status),
                )
                .await
                .settled(404, || {
                    format!("writing the status of StatefulSet {}", view.key)
                })?;
        }
        let soonest = pods().filter_map(left).filter(|left| !left.is_zero()).min();
        Ok(soonest)
    }

    async fn forget_old(&self, view: &View, versions: &Versions) -> Result<(), Error> {
        let versions = [&versions.current, &versions.updated].map(|version| version.name_any());
        let in_use = |name: &str| {
            versions.iter().any(|version| version == name)
                || view.pods.values().any(|pod| revision_of(pod) == name)
        };
        for name in surplus(&view.spec, &view.history, in_use) {
            api::<ControllerRevision>(&self.context.client, &view.key)
                .delete(&name, &DeleteParams::default())
                .await
                .settled(404, || {
                    format!("deleting the old ControllerRevision {name}")
                })?;
        }
        Ok(())
    }

    fn say(&self, view: &View, severity: Severity, reason: &'static str, message: String) {
        let recorder = &self.context.recorder;
        recorder.say(&*view.set, COMPONENT, severity, reason, message);
    }
}

fn revision_of(pod: &Pod) -> &str {
    pod.labels().get(REVISION).map_or("", String::as_str)
}

fn replica(pod: &Pod, min_ready: i32, now: jiff::Timestamp) -> Replica {
    Replica {
        revision: revision_of(pod).to_owned(),
        finished: is_finished(pod),
        terminating: pod.meta().deletion_timestamp.is_some(),
        ready: is_ready(pod),
        available: available_in(pod, min_ready, now).is_some_and(|left| left.is_zero()),
    }
}

fn replicas(spec: &StatefulSetSpec) -> i32 {
    spec.replicas.unwrap_or(1).max(0)
}

fn start(spec: &StatefulSetSpec) -> i32 {
    let ordinals = spec.ordinals.as_ref();
    ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// How many of the first keep their revision; none where nothing is updated by itself.
fn partition(spec: &StatefulSetSpec) -> Option<i32> {
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    Some(rolling.and_then(|rolling| rolling.partition).unwrap_or(0))
}

fn wanted<'a>(spec: &StatefulSetSpec, revision: &'a str) -> Wanted<'a> {
    let start = start(spec);
    Wanted {
        ordinals: start..start.saturating_add(replicas(spec)),
        parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
        update: partition(spec).map_or(Update::OnDelete, |partition| Update::Rolling { partition }),
        revision,
    }
}
