//! The versions of a DaemonSet's template, each a ControllerRevision: what `kubectl rollout
//! history` and `undo` read.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use weft_kube::k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use weft_kube::kube::ResourceExt;
use weft_kube::kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use weft_model::ObjectKey;

use super::daemons::REVISION_HASH;
use super::graph::controller_ref;
use super::kind::Kind;
use super::world::{api, controller_of};
use super::{Context, During, Error};

/// Versions that are kept beside those that pods have (Kubernetes' default).
const LIMIT: i32 = 10;

/// A DaemonSet and the hash of its template now.
#[derive(Clone, Copy)]
pub(super) struct History<'a> {
    pub(super) context: &'a Context,
    pub(super) key: &'a ObjectKey,
    pub(super) daemon_set: &'a DaemonSet,
    pub(super) spec: &'a DaemonSetSpec,
    pub(super) hash: &'a str,
}

impl History<'_> {
    /// The template's version is the newest one; `live` are the hashes that pods have.
    pub(super) async fn keep(&self, live: &BTreeSet<String>) -> Result<(), Error> {
        let revisions = self.revisions();
        let highest = revisions.last().map_or(0, |newest| newest.revision);
        let current = revisions.iter().find(|one| hash_of(one) == Some(self.hash));
        match current {
            None => self.create(highest + 1).await?,
            Some(current) if current.revision < highest => {
                self.renumber(current, highest + 1).await?;
            }
            Some(_) => {}
        }
        let limit = self.spec.revision_history_limit.unwrap_or(LIMIT);
        let limit = usize::try_from(limit).unwrap_or(0);
        let old: Vec<_> = revisions
            .iter()
            .filter(|one| hash_of(one).is_none_or(|hash| hash != self.hash && !live.contains(hash)))
            .collect();
        for revision in old.iter().take(old.len().saturating_sub(limit)) {
            let name = revision.name_any();
            api::<ControllerRevision>(&self.context.client, self.key)
                .delete(&name, &DeleteParams::default())
                .await
                .settled(404, || format!("deleting old ControllerRevision {name}"))?;
        }
        Ok(())
    }

    /// The DaemonSet's own, oldest first.
    fn revisions(&self) -> Vec<Arc<ControllerRevision>> {
        let world = self.context.world.borrow();
        let uid = self.daemon_set.uid().unwrap_or_default();
        let mut revisions: Vec<_> = world
            .dependents(&uid)
            .into_iter()
            .filter(|any| any.kind == Kind::ControllerRevision)
            .filter_map(|any| world.revisions.get(&any.key).cloned())
            .collect();
        revisions.sort_by_key(|revision| revision.revision);
        revisions
    }

    async fn create(&self, number: i64) -> Result<(), Error> {
        let Some(owner) = controller_ref(self.daemon_set) else {
            return Ok(());
        };
        let name = format!("{}-{}", self.key.name, self.hash);
        let meta = self.spec.template.metadata.as_ref();
        let mut labels = meta
            .and_then(|meta| meta.labels.clone())
            .unwrap_or_default();
        labels.insert(REVISION_HASH.to_owned(), self.hash.to_owned());
        let mut annotations = self.daemon_set.annotations().clone();
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        // A strategic merge patch of the DaemonSet, which replaces the template as a whole.
        let mut template = json!(self.spec.template);
        template["$patch"] = "replace".into();
        let revision = json!({
            "metadata": {
                "name": name,
                "namespace": self.key.namespace,
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [owner],
            },
            "data": {"spec": {"template": template}},
            "revision": number,
        });
        let revision: ControllerRevision = serde_json::from_value(revision)
            .map_err(|error| Error::Impossible(format!("ControllerRevision {name}: {error}")))?;
        let created = api::<ControllerRevision>(&self.context.client, self.key)
            .create(&PostParams::default(), &revision)
            .await
            .settled(409, || format!("creating ControllerRevision {name}"))?;
        match created {
            Some(created) => self.remember(created),
            None => self.adopt(&name, &owner).await?,
        }
        Ok(())
    }

    /// One that a DaemonSet of this name left behind when it was deleted without it.
    async fn adopt(&self, name: &str, owner: &OwnerReference) -> Result<(), Error> {
        let revisions = api::<ControllerRevision>(&self.context.client, self.key);
        let found = revisions
            .get_opt(name)
            .await
            .during(|| format!("reading ControllerRevision {name}"))?;
        let Some(found) = found.filter(|found| controller_of(found).is_none()) else {
            return Ok(());
        };
        let patch = json!({"metadata": {
            "resourceVersion": found.resource_version(),
            "ownerReferences": [owner],
        }});
        let adopted = revisions
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .during(|| format!("adopting ControllerRevision {name}"))?;
        self.remember(adopted);
        Ok(())
    }

    /// A version that is rolled back to becomes the newest.
    async fn renumber(&self, revision: &ControllerRevision, number: i64) -> Result<(), Error> {
        let name = revision.name_any();
        let patch = json!({
            "metadata": {"resourceVersion": revision.resource_version()},
            "revision": number,
        });
        let renumbered = api::<ControllerRevision>(&self.context.client, self.key)
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .during(|| format!("numbering ControllerRevision {name}"))?;
        self.remember(renumbered);
        Ok(())
    }

    fn remember(&self, revision: ControllerRevision) {
        let key = ObjectKey::new(&self.key.namespace, &revision.name_any());
        self.context.world.borrow_mut().put(Some(revision), &key);
    }
}

fn hash_of(revision: &ControllerRevision) -> Option<&str> {
    revision.labels().get(REVISION_HASH).map(String::as_str)
}
