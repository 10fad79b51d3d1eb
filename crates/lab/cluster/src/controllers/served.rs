//! The kinds that the API serves now, as its discovery tells.

use std::collections::BTreeSet;

use weft_kube::Client;
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use weft_kube::kube::api::ApiResource;
use weft_kube::kube::core::GroupVersionKind;

use super::{During, Error};

/// One kind, in the first version of its group that has it.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) resource: ApiResource,
    pub(super) namespaced: bool,
    verbs: Vec<String>,
}

impl Served {
    fn of(group_version: &str, resource: &APIResource) -> Self {
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        let kind = GroupVersionKind::gvk(group, version, &resource.kind);
        Self {
            resource: ApiResource::from_gvk_with_plural(&kind, &resource.name),
            namespaced: resource.namespaced,
            verbs: resource.verbs.clone(),
        }
    }

    /// Whether its objects can be listed, deleted, and so on.
    pub(super) fn has(&self, verbs: &[&str]) -> bool {
        let mut wanted = verbs.iter();
        wanted.all(|verb| self.verbs.iter().any(|own| own == verb))
    }
}

/// Every kind, without subresources.
pub(super) async fn served(client: &Client) -> Result<Vec<Served>, Error> {
    let core = client
        .list_core_api_resources("v1")
        .await
        .during(|| "listing the kinds of the API".to_owned())?;
    let groups = client
        .list_api_groups()
        .await
        .during(|| "listing the groups of the API".to_owned())?;
    let mut lists = vec![("v1".to_owned(), core)];
    for group in groups.groups {
        // The preferred one comes first; not every kind of a group is in it.
        for version in &group.versions {
            let list = client
                .list_api_group_resources(&version.group_version)
                .await
                .during(|| format!("listing the kinds of {}", version.group_version))?;
            lists.push((version.group_version.clone(), list));
        }
    }
    let mut seen = BTreeSet::new();
    let kinds = lists.iter().flat_map(|(group_version, list)| {
        let whole = list.resources.iter();
        whole
            .filter(|resource| !resource.name.contains('/'))
            .map(|resource| Served::of(group_version, resource))
    });
    Ok(kinds
        .filter(|kind| seen.insert((kind.resource.group.clone(), kind.resource.plural.clone())))
        .collect())
}
