//! Namespaces: what each is given, and how one that is deleted is emptied.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use weft_kube::k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, NamespaceCondition, ServiceAccount,
};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weft_kube::kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use weft_kube::kube::{Api, Resource, ResourceExt};
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

    /// Says what a namespace is waiting for.
    async fn report(&self, namespace: &Namespace, left: &Left) -> Result<(), Error> {
        let held = namespace.status.as_ref();
        let held = held.and_then(|status| status.conditions.as_deref());
        let held = held.unwrap_or_default();
        let conditions = left.conditions(held, Time(Timestamp::now()));
        if conditions == held {
            return Ok(());
        }
        let name = namespace.name_any();
        let patch = json!({"status": {"conditions": conditions}});
        Api::<Namespace>::all(self.context.client.clone())
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .settled(404, || {
                format!("writing the conditions of Namespace {name}")
            })?;
        Ok(())
    }

    /// Deletes everything inside, and lets go of the namespace once nothing is left.
    async fn empty(
        &self,
        key: &ObjectKey,
        namespace: &Namespace,
    ) -> Result<Option<Duration>, Error> {
        let mut left = Left::default();
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
                    left.count(resource, object.finalizers());
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
                if let Some(object) = deleted.and_then(|answer| answer.left()) {
                    left.count(resource, object.finalizers());
                }
            }
        }
        if !left.objects.is_empty() {
            self.report(namespace, &left).await?;
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

/// What is left in a namespace that is being emptied.
#[derive(Debug, Default)]
struct Left {
    /// How many of each resource.
    objects: BTreeMap<String, usize>,
    /// How many each finalizer holds.
    finalizers: BTreeMap<String, usize>,
}

impl Left {
    fn count(&mut self, resource: &ApiResource, finalizers: &[String]) {
        let name = format!("{}.{}", resource.plural, resource.group);
        *self.objects.entry(name).or_default() += 1;
        for finalizer in finalizers {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    /// The conditions of the namespace, in the order and the words of Kubernetes.
    fn conditions(&self, held: &[NamespaceCondition], now: Time) -> Vec<NamespaceCondition> {
        let several = |all: &BTreeMap<String, usize>, verb: &str| -> Option<String> {
            let all = all
                .iter()
                .map(|(name, count)| format!("{name} {verb} {count} resource instances"));
            let all: Vec<String> = all.collect();
            (!all.is_empty()).then(|| all.join(", "))
        };
        let objects = several(&self.objects, "has").map(|all| {
            (
                "SomeResourcesRemain",
                format!("Some resources are remaining: {all}"),
            )
        });
        let finalizers = several(&self.finalizers, "in").map(|all| {
            (
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {all}"),
            )
        });
        let all = [
            (
                "NamespaceDeletionDiscoveryFailure",
                None,
                (
                    "ResourcesDiscovered",
                    "All resources successfully discovered",
                ),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                None,
                (
                    "ParsedGroupVersions",
                    "All legacy kube types successfully parsed",
                ),
            ),
            (
                "NamespaceDeletionContentFailure",
                None,
                (
                    "ContentDeleted",
                    "All content successfully deleted, may be waiting on finalization",
                ),
            ),
            (
                "NamespaceContentRemaining",
                objects,
                ("ContentRemoved", "All content successfully removed"),
            ),
            (
                "NamespaceFinalizersRemaining",
                finalizers,
                (
                    "ContentHasNoFinalizers",
                    "All content-preserving finalizers finished",
                ),
            ),
        ];
        let conditions = all.into_iter().map(|(name, problem, (reason, message))| {
            let status = if problem.is_some() { "True" } else { "False" };
            let (reason, message) = problem.unwrap_or_else(|| (reason, message.to_owned()));
            let before = held.iter().find(|one| one.type_ == name);
            let since = before.filter(|one| one.status == status);
            NamespaceCondition {
                type_: name.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: since
                    .and_then(|one| one.last_transition_time.clone())
                    .or_else(|| Some(now.clone())),
            }
        });
        conditions.collect()
    }
}

fn meta(name: &str, namespace: &str) -> weft_kube::kube::api::ObjectMeta {
    weft_kube::kube::api::ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use weft_kube::kube::core::GroupVersionKind;

    use super::*;

    #[test]
    fn conditions_say_what_a_namespace_waits_for() {
        let pods = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
        let sites = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Site"));
        let mut left = Left::default();
        left.count(&pods, &[]);
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let first = left.conditions(&[], at(1));
        let problems = |conditions: &[NamespaceCondition]| -> Vec<String> {
            let problems = conditions.iter().filter(|one| one.status == "True");
            problems
                .map(|one| format!("{}: {}", one.type_, one.message.as_deref().unwrap()))
                .collect()
        };
        assert_eq!(first.len(), 5);
        assert_eq!(
            problems(&first),
            [
                "NamespaceContentRemaining: Some resources are remaining: pods. has 1 resource instances"
            ]
        );
        assert_eq!(left.conditions(&first, at(2)), first, "nothing has changed");

        let hold = ["example.com/hold".to_owned()];
        left.count(&sites, &hold);
        left.count(&sites, &hold);
        let next = left.conditions(&first, at(2));
        assert_eq!(
            problems(&next),
            [
                "NamespaceContentRemaining: Some resources are remaining: pods. has 1 resource instances, sites.example.com has 2 resource instances",
                "NamespaceFinalizersRemaining: Some content in the namespace has finalizers remaining: example.com/hold in 2 resource instances",
            ]
        );
        let since = |at: usize| next[at].last_transition_time.clone();
        assert_eq!(since(3), Some(at(1)), "it was so before");
        assert_eq!(since(4), Some(at(2)));
    }
}
