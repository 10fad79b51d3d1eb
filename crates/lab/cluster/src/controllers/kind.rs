//! The kinds that controllers watch, and what names an object of any kind.

use std::fmt::Debug;
use std::rc::Rc;

use weft_kube::kube::api::ApiResource;
use weft_kube::kube::core::GroupVersionKind;
use weft_model::ObjectKey;

/// A kind the controllers watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
    Deployment,
    ReplicaSet,
    DaemonSet,
    StatefulSet,
    ControllerRevision,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    ServiceAccount,
    ConfigMap,
    Lease,
    Foreign(Rc<Foreign>),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Kind::Foreign(kind) = self {
            f.write_str(&kind.kind)
        } else {
            Debug::fmt(self, f)
        }
    }
}

impl Kind {
    /// Where the objects of a kind are, and whether it has namespaces.
    pub(super) fn place(&self) -> (ApiResource, bool) {
        let (group, version, namespaced) = match self {
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
        let kind = GroupVersionKind::gvk(group, version, &self.to_string());
        (ApiResource::from_gvk(&kind), namespaced)
    }
}

/// A kind that no controller reads: of its objects only the metadata is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Foreign {
    pub(super) group: String,
    version: String,
    pub(super) kind: String,
    plural: String,
    pub(super) namespaced: bool,
}

impl Foreign {
    pub(super) fn new(resource: &ApiResource, namespaced: bool) -> Self {
        Self {
            group: resource.group.clone(),
            version: resource.version.clone(),
            kind: resource.kind.clone(),
            plural: resource.plural.clone(),
            namespaced,
        }
    }

    /// Whether the same objects are served as both.
    pub(super) fn is_another_version_of(&self, other: &Foreign) -> bool {
        self.group == other.group && self.plural == other.plural && self.version != other.version
    }

    pub(super) fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(&self.group, &self.version, &self.kind);
        ApiResource::from_gvk_with_plural(&kind, &self.plural)
    }
}

/// An object, whatever its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AnyKey {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
}

impl std::fmt::Display for AnyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}
