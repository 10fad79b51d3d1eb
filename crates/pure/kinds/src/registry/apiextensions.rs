//! The kinds of apiextensions.k8s.io: the form of definitions. Their rules are the server's
//! own, as it makes kinds of them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::{BASE, schema_of, status};
use crate::{Kind, Scope, print};

pub(super) const KINDS: &[Kind] = &[Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    list_kind: "CustomResourceDefinitionList",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    subresources: &[status(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
    )],
    columns: print::ROLE,
    cells: print::role,
    schema: schema_of::<CustomResourceDefinition>,
    definition: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    counts_generation: true,
    ..BASE
}];

/// Stand for kinds that are not in the table, of which only `metadata` is known.
pub(crate) static CUSTOM_NAMESPACED: Kind = BASE;
/// The same without namespaces.
pub(crate) static CUSTOM_CLUSTER: Kind = Kind {
    scope: Scope::Cluster,
    ..BASE
};
