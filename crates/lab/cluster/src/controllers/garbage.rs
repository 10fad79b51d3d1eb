//! Garbage collection by owner: what nobody owns any more goes, and what waits for its
//! dependents goes after them. Here the API is asked and told; what to do is decided in `fate`,
//! and what to look at in `graph`.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tracing::debug;
use weft_kube::k8s_openapi::api::core::v1::ObjectReference;
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use weft_kube::kube;
use weft_kube::kube::Api;
use weft_kube::kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions,
};

use crate::events::Severity;

use super::fate::{Fate, Propagation, Standing, fate};
use super::graph::{FOREGROUND, Graph, Known, Meta, ORPHAN};
use super::kind::AnyKey;
use super::queue::Queue;
use super::served::served;
use super::{Context, During, Error};

/// The name Kubernetes' garbage collector gives itself in events.
const COMPONENT: &str = "garbage-collector-controller";
/// While not every kind has been listed, what depends on all of them is looked at again.
const SOON: Duration = Duration::from_millis(500);
/// What no event will tell of is looked at again this often.
const LATER: Duration = Duration::from_secs(30);

pub(super) struct Collector {
    context: Context,
    queue: Queue<AnyKey>,
    /// Tells that there are kinds which are not watched yet.
    new_kinds: Rc<Notify>,
}

impl Collector {
    pub(super) fn new(context: Context, queue: Queue<AnyKey>, new_kinds: Rc<Notify>) -> Self {
        Self {
            context,
            queue,
            new_kinds,
        }
    }

    pub(super) async fn reconcile(&self, any: AnyKey) -> Result<Option<Duration>, Error> {
        if is_settled(&self.context.world.borrow().graph, &any) {
            return Ok(None);
        }
        // What the caches say may be old: nothing is deleted by them alone.
        let Some(object) = self.now(&any).await? else {
            return Ok(None);
        };
        let mut owners = Vec::new();
        let mut unseen = false;
        if !object.terminating {
            for owner in &object.owners {
                self.complain(&any, &object, owner);
                let standing = self.standing(&any, owner).await?;
                let world = self.context.world.borrow();
                unseen |= standing == Standing::Solid && !world.graph.has_uid(&owner.uid);
                owners.push(standing);
            }
        }
        let dependents = self.context.world.borrow().graph.dependents(&object.uid);
        let fate = fate(&object, &owners, &dependents);
        debug!(object = %any, ?owners, ?fate, "looked at for garbage collection");
        match fate {
            // An owner that no watch shows can go without a word.
            Fate::Keep => Ok(unseen.then_some(LATER)),
            Fate::Undecided => Ok(Some(LATER)),
            Fate::Disown(owners) => {
                let left = object.owners.iter().enumerate();
                let left = left.filter(|(at, _)| !owners.contains(at));
                let left: Vec<_> = left.map(|(_, owner)| owner).collect();
                self.own(&any, &object.version, &left).await?;
                Ok(None)
            }
            Fate::Delete(propagation) => {
                self.delete(&any, &object, propagation).await?;
                Ok(None)
            }
            Fate::Release(finalizer) => self.release_in_sync(&any, &object, finalizer).await,
            Fate::Await(dependents) => {
                dependents.into_iter().for_each(|one| self.queue.push(one));
                Ok(None)
            }
            Fate::Orphan => self.orphan(&any, &object).await,
        }
    }

    /// An object as the API has it, if it is the one the caches have.
    async fn now(&self, any: &AnyKey) -> Result<Option<Meta>, Error> {
        let uid = {
            let world = self.context.world.borrow();
            world.graph.meta(any).map(|meta| meta.uid.clone())
        };
        let found = self
            .api_of(any)
            .get_metadata_opt(&any.key.name)
            .await
            .during(|| format!("reading {any}"))?;
        let found = found.map(|object| Meta::of(&object));
        Ok(found.filter(|meta| uid.as_ref() == Some(&meta.uid)))
    }

    /// How an owner stands: from the caches where they show it to be there, or else from the
    /// API, which is asked for exactly what the reference says.
    async fn standing(&self, any: &AnyKey, owner: &OwnerReference) -> Result<Standing, Error> {
        let kind = {
            let world = self.context.world.borrow();
            match world.graph.known(any, owner) {
                Known::There => return Ok(Standing::Solid),
                Known::Gone => return Ok(Standing::Dangling),
                Known::No => world.graph.kind_of(owner).cloned(),
            }
        };
        let Some(kind) = kind else {
            return Ok(Standing::Unresolved);
        };
        if kind.namespaced && any.key.namespace.is_empty() {
            return Ok(Standing::OutOfReach);
        }
        let namespace = if kind.namespaced {
            &*any.key.namespace
        } else {
            ""
        };
        let found = self.api(&kind.resource, namespace);
        match found.get_metadata(&owner.name).await {
            Ok(found) => Ok(standing_of(owner, &Meta::of(&found))),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(absence(
                status.details.as_ref().map(|about| &*about.name),
                owner,
            )),
            Err(error) => {
                Err(error).during(|| format!("looking for owner {} {}", owner.kind, owner.name))
            }
        }
    }

    /// Tells of an owner in another namespace, where nobody can own this.
    fn complain(&self, any: &AnyKey, object: &Meta, owner: &OwnerReference) {
        if !self.context.world.borrow().graph.is_elsewhere(any, owner) {
            return;
        }
        let resource = any.kind.place().0;
        let namespace = &*any.key.namespace;
        let about = ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            name: Some(any.key.name.to_string()),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            uid: Some(object.uid.clone()),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        let reason = "OwnerRefInvalidNamespace";
        let recorder = &self.context.recorder;
        recorder.note(&about, COMPONENT, Severity::Warning, reason, message);
    }

    async fn delete(
        &self,
        any: &AnyKey,
        object: &Meta,
        propagation: Propagation,
    ) -> Result<(), Error> {
        let mut version = object.version.clone();
        let parameters = match propagation {
            Propagation::Background => DeleteParams::background(),
            Propagation::Orphan => DeleteParams::orphan(),
            Propagation::Foreground { unblock } => {
                if unblock {
                    let mut owners = object.owners.clone();
                    for owner in &mut owners {
                        owner.block_owner_deletion = owner.block_owner_deletion.map(|_| false);
                    }
                    let owners: Vec<_> = owners.iter().collect();
                    match self.own(any, &version, &owners).await? {
                        Some(changed) => version = changed,
                        None => return Ok(()),
                    }
                }
                DeleteParams::foreground()
            }
        };
        // Only what was looked at: somebody may have become its owner meanwhile.
        let parameters = parameters.preconditions(Preconditions {
            uid: Some(object.uid.clone()),
            resource_version: Some(version),
        });
        self.api_of(any)
            .delete(&any.key.name, &parameters)
            .await
            .settled(404, || format!("deleting {any}, which nobody owns"))?;
        Ok(())
    }

    /// Takes an owner that is going from one of its dependents.
    async fn forget_owner(&self, any: &AnyKey, owner: &str) -> Result<(), Error> {
        let Some(object) = self.now(any).await? else {
            return Ok(());
        };
        let left: Vec<_> = object
            .owners
            .iter()
            .filter(|one| one.uid != owner)
            .collect();
        if left.len() < object.owners.len() {
            self.own(any, &object.version, &left).await?;
        }
        Ok(())
    }

    /// Writes an object's owners, if it is still in this version; returns the new one, or
    /// nothing if the object is gone.
    async fn own(
        &self,
        any: &AnyKey,
        version: &str,
        owners: &[&OwnerReference],
    ) -> Result<Option<String>, Error> {
        let patch = json!({"metadata": {"ownerReferences": owners, "resourceVersion": version}});
        self.merge(any, &patch).await
    }

    /// Ends an object's waiting when no dependent is left that has not forgotten it: as long as
    /// there is one that has, its change is waited for, and more may be seen meanwhile.
    async fn orphan(&self, any: &AnyKey, object: &Meta) -> Result<Option<Duration>, Error> {
        if !self.all_listed().await? {
            return Ok(Some(SOON));
        }
        // Some may have been seen while kinds were compared.
        let dependents = self.context.world.borrow().graph.dependents(&object.uid);
        if dependents.is_empty() {
            self.release(any, object, ORPHAN).await?;
            return Ok(None);
        }
        for dependent in &dependents {
            self.forget_owner(&dependent.any, &object.uid).await?;
        }
        Ok(Some(SOON))
    }

    /// Ends an object's waiting, unless there may be dependents that nobody has seen.
    async fn release_in_sync(
        &self,
        any: &AnyKey,
        object: &Meta,
        finalizer: &'static str,
    ) -> Result<Option<Duration>, Error> {
        if !self.all_listed().await? {
            return Ok(Some(SOON));
        }
        // Some may have been seen while kinds were compared.
        let dependents = self.context.world.borrow().graph.dependents(&object.uid);
        if finalizer == FOREGROUND && dependents.iter().any(|one| one.blocks) {
            return Ok(Some(SOON));
        }
        self.release(any, object, finalizer).await?;
        Ok(None)
    }

    async fn release(&self, any: &AnyKey, object: &Meta, finalizer: &str) -> Result<(), Error> {
        let finalizers = object.finalizers.iter();
        let left: Vec<&String> = finalizers.filter(|name| *name != finalizer).collect();
        let patch = json!({
            "metadata": {"finalizers": left, "resourceVersion": object.version},
        });
        self.merge(any, &patch).await?;
        Ok(())
    }

    /// Whether the objects of all kinds that are served now have been listed: who has no
    /// dependents among those may have some of another.
    async fn all_listed(&self) -> Result<bool, Error> {
        let now = served(&self.context.client).await?.foreign();
        let unlisted = self.context.world.borrow().graph.unlisted(&now);
        if let Some(kind) = &unlisted {
            debug!(kind = %kind.kind, group = %kind.group, "dependents may be of a kind that is not listed yet");
            self.new_kinds.notify_one();
        }
        Ok(unlisted.is_none())
    }

    async fn merge(
        &self,
        any: &AnyKey,
        patch: &serde_json::Value,
    ) -> Result<Option<String>, Error> {
        let written = self
            .api_of(any)
            .patch_metadata(&any.key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .settled(404, || {
                format!("changing the owners or finalizers of {any}")
            })?;
        Ok(written.map(|object| Meta::of(&object).version))
    }

    fn api_of(&self, any: &AnyKey) -> Api<DynamicObject> {
        let (resource, namespaced) = any.kind.place();
        self.api(&resource, if namespaced { &any.key.namespace } else { "" })
    }

    fn api(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        let client = self.context.client.clone();
        if namespace.is_empty() {
            Api::all_with(client, resource)
        } else {
            Api::namespaced_with(client, namespace, resource)
        }
    }
}

/// Whether the caches leave no doubt that there is nothing to do.
fn is_settled(graph: &Graph, any: &AnyKey) -> bool {
    let Some(meta) = graph.meta(any) else {
        return true;
    };
    if meta.terminating {
        return !meta.awaits_dependents() && !meta.orphans_dependents();
    }
    let mut owners = meta.owners.iter();
    owners.all(|owner| graph.known(any, owner) == Known::There)
}

/// How an owner stands, of which the API has this.
fn standing_of(owner: &OwnerReference, found: &Meta) -> Standing {
    if found.uid != owner.uid {
        Standing::Dangling
    } else if found.awaits_dependents() {
        Standing::Waiting
    } else {
        Standing::Solid
    }
}

/// What a 404 says of an owner: without the object's name it is about the kind, which is not
/// served any more, and says nothing about the object.
fn absence(about: Option<&str>, owner: &OwnerReference) -> Standing {
    if about == Some(&*owner.name) {
        Standing::Dangling
    } else {
        Standing::Unresolved
    }
}

#[cfg(test)]
mod tests {
    use weft_model::ObjectKey;

    use super::super::kind::Kind;
    use super::*;

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            name: "owner".to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }
    }

    fn meta(uid: &str, owners: &[&str], finalizers: &[&str], terminating: bool) -> Meta {
        Meta {
            uid: uid.to_owned(),
            owners: owners.iter().map(|uid| owner(uid)).collect(),
            finalizers: finalizers.iter().map(|one| (*one).to_owned()).collect(),
            terminating,
            ..Meta::default()
        }
    }

    #[test]
    fn the_object_found_may_be_another_or_wait() {
        let found = |uid: &str, finalizers: &[&str], terminating| {
            standing_of(&owner("o"), &meta(uid, &[], finalizers, terminating))
        };
        assert_eq!(found("o", &[], false), Standing::Solid);
        assert_eq!(found("p", &[], false), Standing::Dangling);
        assert_eq!(found("o", &[FOREGROUND], true), Standing::Waiting);
        assert_eq!(found("o", &[FOREGROUND], false), Standing::Solid);
        // It goes, and does not wait: until then it owns.
        assert_eq!(found("o", &["other"], true), Standing::Solid);
        assert_eq!(found("o", &[ORPHAN], true), Standing::Solid);
    }

    #[test]
    fn only_a_404_about_the_object_means_that_it_is_gone() {
        assert_eq!(absence(Some("owner"), &owner("o")), Standing::Dangling);
        assert_eq!(absence(Some(""), &owner("o")), Standing::Unresolved);
        assert_eq!(absence(None, &owner("o")), Standing::Unresolved);
    }

    #[test]
    fn the_api_is_asked_only_where_the_caches_leave_a_doubt() {
        let mut graph = Graph::default();
        let (o, d) = (
            AnyKey {
                kind: Kind::Service,
                key: ObjectKey::new("a", "owner"),
            },
            AnyKey {
                kind: Kind::EndpointSlice,
                key: ObjectKey::new("a", "dependent"),
            },
        );
        graph.put(&o, Some(meta("o", &[], &[], false)));
        graph.put(&d, Some(meta("d", &["o"], &[], false)));
        assert!(is_settled(&graph, &o) && is_settled(&graph, &d));
        graph.put(&d, Some(meta("d", &["o", "p"], &[], false)));
        assert!(!is_settled(&graph, &d));
        graph.put(&d, Some(meta("d", &["p"], &["other"], true)));
        assert!(is_settled(&graph, &d));
        graph.put(&o, Some(meta("o", &[], &[ORPHAN], true)));
        assert!(!is_settled(&graph, &o));
        graph.put(&o, None);
        assert!(is_settled(&graph, &o));
    }
}
