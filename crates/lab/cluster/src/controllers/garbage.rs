//! Garbage collection by owner: what nobody owns any more goes, and what waits for its
//! dependents goes after them (Kubernetes documentation, "Garbage Collection").

use std::time::Duration;

use serde_json::json;
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use weft_kube::kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use weft_kube::kube::{Api, core::GroupVersionKind};

use super::world::{AnyKey, Kind, Meta, World};
use super::{Context, During, Error};

/// Its presence keeps an object until its dependents are gone.
const FOREGROUND: &str = "foregroundDeletion";
/// Its presence keeps an object until its dependents have forgotten it.
const ORPHAN: &str = "orphan";

pub(super) struct Collector {
    context: Context,
}

/// What to do with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    /// Nobody owns it any more.
    Delete,
    /// These are gone while other owners are not.
    Disown(Vec<String>),
    /// Terminating in the foreground: delete these first, or finish if there are none.
    After(Vec<AnyKey>),
    /// Terminating as orphaning: these forget it first.
    Orphan(Vec<AnyKey>),
}

impl Collector {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    pub(super) async fn reconcile(&self, any: AnyKey) -> Result<Option<Duration>, Error> {
        let (meta, fate) = {
            let world = self.context.world.borrow();
            let Some(meta) = world.meta(&any) else {
                return Ok(None);
            };
            let fate = fate(&world, &meta);
            (meta, fate)
        };
        match fate {
            Fate::Keep => {}
            Fate::Delete => {
                if self.owners_really_gone(&any, &meta.owners).await? {
                    self.delete(&any, &meta.uid, &DeleteParams::background())
                        .await?;
                }
            }
            Fate::Disown(gone) => {
                let owners: Vec<OwnerReference> = meta
                    .owners
                    .iter()
                    .filter(|owner| gone.contains(&owner.uid))
                    .cloned()
                    .collect();
                if self.owners_really_gone(&any, &owners).await? {
                    self.disown(&any, &meta, &gone).await?;
                }
            }
            Fate::After(dependents) if dependents.is_empty() => {
                self.drop_finalizer(&any, &meta, FOREGROUND).await?;
            }
            Fate::After(dependents) => {
                for dependent in dependents {
                    let child = self.context.world.borrow().meta(&dependent);
                    if let Some(child) = child.filter(|child| !child.terminating) {
                        // Foreground all the way down, or the owner would be gone before
                        // what its dependents own.
                        let how = DeleteParams::foreground();
                        self.delete(&dependent, &child.uid, &how).await?;
                    }
                }
            }
            Fate::Orphan(dependents) => {
                for dependent in dependents {
                    let child = self.context.world.borrow().meta(&dependent);
                    if let Some(child) = child {
                        self.disown(&dependent, &child, std::slice::from_ref(&meta.uid))
                            .await?;
                    }
                }
                self.drop_finalizer(&any, &meta, ORPHAN).await?;
            }
        }
        Ok(None)
    }

    /// The cache may lag behind: an owner that it does not have is asked for once more.
    async fn owners_really_gone(
        &self,
        any: &AnyKey,
        owners: &[OwnerReference],
    ) -> Result<bool, Error> {
        for owner in owners {
            let found = self
                .dynamic_of(&owner.api_version, &owner.kind, &any.key.namespace)
                .get_metadata_opt(&owner.name)
                .await
                .during(|| format!("looking for owner {} {}", owner.kind, owner.name))?;
            if found.is_some_and(|owner_now| owner_now.metadata.uid.as_deref() == Some(&*owner.uid))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn delete(&self, any: &AnyKey, uid: &str, how: &DeleteParams) -> Result<(), Error> {
        let parameters = how
            .clone()
            .preconditions(weft_kube::kube::api::Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            });
        self.dynamic(any)
            .delete(&any.key.name, &parameters)
            .await
            .settled(404, || format!("deleting {any}, which nobody owns"))?;
        Ok(())
    }

    async fn disown(&self, any: &AnyKey, meta: &Meta, gone: &[String]) -> Result<(), Error> {
        let owners: Vec<&OwnerReference> = meta
            .owners
            .iter()
            .filter(|owner| !gone.contains(&owner.uid))
            .collect();
        let patch = json!({"metadata": {"ownerReferences": owners, "uid": meta.uid}});
        self.merge(any, &patch).await
    }

    async fn drop_finalizer(
        &self,
        any: &AnyKey,
        meta: &Meta,
        finalizer: &str,
    ) -> Result<(), Error> {
        let left: Vec<&String> = meta
            .finalizers
            .iter()
            .filter(|name| *name != finalizer)
            .collect();
        let patch = json!({"metadata": {"finalizers": left, "uid": meta.uid}});
        self.merge(any, &patch).await
    }

    async fn merge(&self, any: &AnyKey, patch: &serde_json::Value) -> Result<(), Error> {
        self.dynamic(any)
            .patch(&any.key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .settled(404, || format!("changing the owners of {any}"))?;
        Ok(())
    }

    fn dynamic(&self, any: &AnyKey) -> Api<DynamicObject> {
        let (resource, namespaced) = place(&any.kind);
        self.api(&resource, if namespaced { &any.key.namespace } else { "" })
    }

    /// The objects of an owner's kind. An owner is in the namespace of what it owns, or in none.
    fn dynamic_of(&self, api_version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let foreign = self.context.world.borrow().foreign_kind(api_version, kind);
        if let Some(foreign) = foreign {
            let namespace = if foreign.namespaced { namespace } else { "" };
            return self.api(&foreign.resource(), namespace);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let cluster_wide = matches!(kind, "Node" | "Namespace" | "PersistentVolume");
        self.api(&resource, if cluster_wide { "" } else { namespace })
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

/// Where the objects of a kind are, and whether it has namespaces.
fn place(kind: &Kind) -> (ApiResource, bool) {
    let (group, version, namespaced) = match kind {
        Kind::Namespace | Kind::Node | Kind::PersistentVolume => ("", "v1", false),
        Kind::StorageClass => ("storage.k8s.io", "v1", false),
        Kind::Pod
        | Kind::Service
        | Kind::Endpoints
        | Kind::PersistentVolumeClaim
        | Kind::ServiceAccount
        | Kind::ConfigMap => ("", "v1", true),
        Kind::EndpointSlice => ("discovery.k8s.io", "v1", true),
        Kind::Deployment
        | Kind::ReplicaSet
        | Kind::DaemonSet
        | Kind::StatefulSet
        | Kind::ControllerRevision => ("apps", "v1", true),
        Kind::Lease => ("coordination.k8s.io", "v1", true),
        Kind::Foreign(foreign) => return (foreign.resource(), foreign.namespaced),
    };
    let kind = GroupVersionKind::gvk(group, version, &kind.to_string());
    (ApiResource::from_gvk(&kind), namespaced)
}

fn fate(world: &World, meta: &Meta) -> Fate {
    if meta.terminating {
        let dependents = || {
            world
                .dependents(&meta.uid)
                .into_iter()
                .filter(|any| any.kind != Kind::Lease)
                .collect()
        };
        if meta.finalizers.iter().any(|name| name == ORPHAN) {
            return Fate::Orphan(dependents());
        }
        if meta.finalizers.iter().any(|name| name == FOREGROUND) {
            return Fate::After(dependents());
        }
        return Fate::Keep;
    }
    let (there, gone): (Vec<_>, Vec<_>) = meta
        .owners
        .iter()
        .partition(|owner| world.has_uid(&owner.uid) || !keeps(world, owner));
    match (there.is_empty(), gone.is_empty()) {
        (_, true) => Fate::Keep,
        (true, false) => Fate::Delete,
        (false, false) => Fate::Disown(gone.into_iter().map(|owner| owner.uid.clone()).collect()),
    }
}

/// Whether all objects of an owner's kind are watched: of others nothing can be said.
fn keeps(world: &World, owner: &OwnerReference) -> bool {
    let foreign = world.foreign_kind(&owner.api_version, &owner.kind);
    let read_here = [
        Kind::Namespace,
        Kind::Node,
        Kind::Pod,
        Kind::Service,
        Kind::Endpoints,
        Kind::EndpointSlice,
        Kind::Deployment,
        Kind::ReplicaSet,
        Kind::DaemonSet,
        Kind::StatefulSet,
        Kind::ControllerRevision,
        Kind::PersistentVolumeClaim,
        Kind::ServiceAccount,
    ]
    .iter()
    .any(|kept| place(kept).0.api_version == owner.api_version && kept.to_string() == owner.kind);
    foreign.is_some() || read_here
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use weft_model::ObjectKey;

    use super::super::world::Foreign;
    use super::*;

    #[test]
    fn an_owner_of_a_kind_that_is_not_watched_is_not_taken_for_gone() {
        let owned_by = |api_version: &str, kind: &str| Meta {
            uid: "dependent".to_owned(),
            owners: vec![OwnerReference {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                name: "owner".to_owned(),
                uid: "gone".to_owned(),
                ..OwnerReference::default()
            }],
            finalizers: Vec::new(),
            terminating: false,
        };
        let world = World::default();
        assert_eq!(fate(&world, &owned_by("v1", "Service")), Fate::Delete);
        let foreign = owned_by("serving.knative.dev/v1", "Service");
        assert_eq!(fate(&world, &foreign), Fate::Keep);
        assert_eq!(fate(&world, &owned_by("v1", "ConfigMap")), Fate::Keep);
    }

    #[test]
    fn an_owner_of_any_kind_is_missed_once_its_kind_was_listed() {
        let kind = GroupVersionKind::gvk("example.com", "v2", "Site");
        let resource = ApiResource::from_gvk(&kind);
        let sites = Rc::new(Foreign::new(&resource, true));
        let owned = |uid: &str| Meta {
            uid: "dependent".to_owned(),
            owners: vec![OwnerReference {
                api_version: "example.com/v1".to_owned(),
                kind: "Site".to_owned(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            }],
            finalizers: Vec::new(),
            terminating: false,
        };
        let site = Meta {
            uid: "there".to_owned(),
            owners: Vec::new(),
            ..owned("")
        };
        let (name, mut world) = (ObjectKey::new("a", "site"), World::default());
        world.put_foreign(&sites, &name, Some(site));
        assert_eq!(fate(&world, &owned("gone")), Fate::Keep);
        world.listed(&sites, &[name.clone()].into());
        assert_eq!(fate(&world, &owned("gone")), Fate::Delete);
        assert_eq!(fate(&world, &owned("there")), Fate::Keep);

        let dependent = ObjectKey::new("a", "dependent");
        world.put_foreign(&sites, &dependent, Some(owned("there")));
        world.take_garbage();
        world.put_foreign(&sites, &name, None);
        let garbage: Vec<_> = world
            .take_garbage()
            .into_iter()
            .map(|any| any.key)
            .collect();
        assert_eq!(garbage, [dependent]);
    }
}
