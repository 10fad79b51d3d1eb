//! The kinds that the API serves now, as its discovery tells.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use weft_kube::Client;
use weft_kube::kube::api::ApiResource;
use weft_kube::kube::core::GroupVersionKind;
use weft_kube::kube::core::discovery::v2::{APIGroupDiscovery, APIResourceDiscovery};

use super::kind::Foreign;
use super::{During, Error};

/// The kinds that controllers watch whole, and Events, which own nothing and are many.
const NOT_FOREIGN: &[(&str, &str)] = &[
    ("", "Namespace"),
    ("", "Node"),
    ("", "Pod"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("", "Service"),
    ("", "ServiceAccount"),
    ("", "Endpoints"),
    ("", "Event"),
    ("apps", "ControllerRevision"),
    ("apps", "DaemonSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("events.k8s.io", "Event"),
    ("storage.k8s.io", "StorageClass"),
];

/// One kind in one version.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) resource: ApiResource,
    pub(super) namespaced: bool,
    verbs: Vec<String>,
}

impl Served {
    fn of(group: &str, version: &str, resource: &APIResourceDiscovery) -> Option<Self> {
        let kind = resource.response_kind.as_ref()?.kind.as_deref()?;
        let kind = GroupVersionKind::gvk(group, version, kind);
        Some(Self {
            resource: ApiResource::from_gvk_with_plural(&kind, resource.resource.as_deref()?),
            namespaced: resource.scope.as_deref() == Some("Namespaced"),
            verbs: resource.verbs.clone(),
        })
    }

    /// Whether its objects can be listed, deleted, and so on.
    pub(super) fn has(&self, verbs: &[&str]) -> bool {
        let mut wanted = verbs.iter();
        wanted.all(|verb| self.verbs.iter().any(|own| own == verb))
    }

    /// The kind, if garbage collection has to watch it itself.
    fn foreign(&self) -> Option<Rc<Foreign>> {
        let resource = &self.resource;
        let elsewhere = NOT_FOREIGN.contains(&(&*resource.group, &*resource.kind));
        let usable = self.has(&["list", "watch", "delete", "patch"]);
        (usable && !elsewhere).then(|| Rc::new(Foreign::new(resource, self.namespaced)))
    }
}

/// All kinds, in all versions.
#[derive(Clone, Debug, Default)]
pub(super) struct Kinds {
    /// Of each group its preferred version first.
    all: Vec<Served>,
    /// Where in it a kind is, by `apiVersion` and name.
    by_name: BTreeMap<(String, String), usize>,
}

impl Kinds {
    fn new(all: Vec<Served>) -> Self {
        let names = all.iter().enumerate().map(|(at, kind)| {
            let resource = &kind.resource;
            ((resource.api_version.clone(), resource.kind.clone()), at)
        });
        let by_name = names.collect();
        Self { all, by_name }
    }

    fn of(groups: &[APIGroupDiscovery]) -> Self {
        let all = groups.iter().flat_map(|group| {
            let name = group
                .metadata
                .as_ref()
                .and_then(|meta| meta.name.as_deref());
            let name = name.unwrap_or_default();
            group.versions.iter().flat_map(move |version| {
                let number = version.version.as_deref().unwrap_or_default();
                let kinds = version.resources.iter();
                kinds.filter_map(move |kind| Served::of(name, number, kind))
            })
        });
        Self::new(all.collect())
    }

    /// The kind of this `apiVersion` and name.
    pub(super) fn find(&self, api_version: &str, kind: &str) -> Option<&Served> {
        let name = (api_version.to_owned(), kind.to_owned());
        self.all.get(*self.by_name.get(&name)?)
    }

    /// Each kind once, in the version its group prefers of those that have it.
    pub(super) fn each(&self) -> impl Iterator<Item = &Served> {
        let mut seen = BTreeSet::new();
        self.all
            .iter()
            .filter(move |kind| seen.insert((&kind.resource.group, &kind.resource.plural)))
    }

    /// The kinds that garbage collection has to watch itself.
    pub(super) fn foreign(&self) -> BTreeSet<Rc<Foreign>> {
        self.each().filter_map(Served::foreign).collect()
    }
}

/// Every kind, without subresources.
pub(super) async fn served(client: &Client) -> Result<Kinds, Error> {
    let core = client
        .list_core_api_versions_aggregated()
        .await
        .during(|| "listing the kinds of the API".to_owned())?;
    let groups = client
        .list_api_groups_aggregated()
        .await
        .during(|| "listing the groups of the API".to_owned())?;
    Ok(Kinds::of(&[core.items, groups.items].concat()))
}
