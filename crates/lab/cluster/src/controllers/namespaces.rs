//! Namespaces: what each is given, and how one that is deleted is emptied.

use std::time::Duration;

use serde_json::json;
use weft_kube::k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use weft_kube::kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use weft_kube::kube::{Api, Resource};
use weft_model::ObjectKey;

use super::served::{Served, served};
use super::world::{ROOT_CA, api};
use super::{Context, During, Error};

/// While something is left in a terminating namespace it is looked at again this often; pods
/// tell themselves when they go.
const SOON: Duration = Duration::from_secs(1);

pub(super) struct Namespaces {
    context: Context,
    root_ca: String,
}

impl Namespaces {
    pub(super) fn new(context: Context, root_ca: String) -> Self {
        Self { context, root_ca }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let namespace = self.context.world.borrow().namespaces.get(&key).cloned();
        match namespace {
            Some(namespace) if namespace.meta().deletion_timestamp.is_some() => {
                self.empty(&key, &namespace).await
            }
            Some(_) => self.furnish(&key).await.map(|()| None),
            None => Ok(None),
        }
    }

    /// The service account `default`, and the CA that pods trust the API by.
    async fn furnish(&self, key: &ObjectKey) -> Result<(), Error> {
        let inside = |name: &str| ObjectKey::new(&key.name, name);
        let (has_account, ca) = {
            let world = self.context.world.borrow();
            let ca = world.config_maps.get(&inside(ROOT_CA)).cloned();
            (world.service_accounts.contains_key(&inside("default")), ca)
        };
        if !has_account {
            let account = ServiceAccount {
                metadata: meta("default", &key.name),
                ..ServiceAccount::default()
            };
            api::<ServiceAccount>(&self.context.client, &inside("default"))
                .create(&PostParams::default(), &account)
                .await
                .settled(409, || {
                    format!("creating ServiceAccount {}/default", key.name)
                })?;
        }
        let data = [("ca.crt".to_owned(), self.root_ca.clone())].into();
        let maps = api::<ConfigMap>(&self.context.client, &inside(ROOT_CA));
        match ca {
            Some(present) if present.data.as_ref() == Some(&data) => {}
            Some(_) => {
                let patch = json!({"data": data});
                maps.patch(ROOT_CA, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .settled(404, || format!("writing ConfigMap {}/{ROOT_CA}", key.name))?;
            }
            None => {
                let map = ConfigMap {
                    metadata: meta(ROOT_CA, &key.name),
                    data: Some(data),
                    ..ConfigMap::default()
                };
                maps.create(&PostParams::default(), &map)
                    .await
                    .settled(409, || format!("creating ConfigMap {}/{ROOT_CA}", key.name))?;
            }
        }
        Ok(())
    }

    /// Deletes everything inside, and lets go of the namespace once nothing is left.
    async fn empty(
        &self,
        key: &ObjectKey,
        namespace: &Namespace,
    ) -> Result<Option<Duration>, Error> {
        let mut left = 0_usize;
        let kinds = served(&self.context.client).await?;
        let inside = |kind: &Served| kind.namespaced && kind.has(&["list", "delete"]);
        for kind in kinds.each().filter(|kind| inside(kind)) {
            let resource = &kind.resource;
            let inside: Api<DynamicObject> =
                Api::namespaced_with(self.context.client.clone(), &key.name, resource);
            let objects = inside
                .list_metadata(&ListParams::default())
                .await
                .settled(404, || {
                    format!("listing {} in Namespace {}", resource.plural, key.name)
                })?;
            let objects = objects.map(|list| list.items).unwrap_or_default();
            for object in objects {
                if object.metadata.deletion_timestamp.is_some() {
                    left += 1;
                    continue;
                }
                let name = object.metadata.name.clone().unwrap_or_default();
                let deleted = inside
                    .delete(&name, &DeleteParams::background())
                    .await
                    .settled(404, || {
                        format!("deleting {} {}/{name}", resource.kind, key.name)
                    })?;
                // The object as an answer: it is marked, and still there.
                left += usize::from(deleted.is_some_and(|answer| answer.is_left()));
            }
        }
        if left > 0 {
            return Ok(Some(SOON));
        }
        let mut finalized = namespace.clone();
        finalized.spec.get_or_insert_default().finalizers = None;
        Api::<Namespace>::all(self.context.client.clone())
            .replace_subresource("finalize", &key.name, &PostParams::default(), &finalized)
            .await
            .settled(404, || format!("finalizing Namespace {}", key.name))?;
        Ok(None)
    }
}

fn meta(name: &str, namespace: &str) -> weft_kube::kube::api::ObjectMeta {
    weft_kube::kube::api::ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..Default::default()
    }
}
