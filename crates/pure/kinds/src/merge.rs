//! How lists and maps of built-in kinds merge: strategic merge patch and server-side apply.
//!
//! Source: the `patchStrategy`, `patchMergeKey`, `listType` and `listMapKey` marks of
//! Kubernetes' API types. What is not marked there is replaced whole.

use crate::Kind;
use crate::schema::{Type, types};

/// How a strategic merge patch treats a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeRule {
    /// The patch's list replaces the object's.
    Replace,
    /// Elements with the same value of this field are the same element.
    ByKey(&'static str),
    /// Elements of scalars are united.
    Set,
}

/// How server-side apply owns a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListMerge {
    /// One owner for the whole list.
    Atomic,
    /// An owner for each scalar.
    Set,
    /// An owner for each element, found by these fields.
    Map(&'static [&'static str]),
}

struct Rule {
    owner: &'static str,
    field: &'static str,
    patch: MergeRule,
    apply: ListMerge,
}

const fn rule(
    owner: &'static str,
    field: &'static str,
    patch: MergeRule,
    apply: ListMerge,
) -> Rule {
    Rule {
        owner,
        field,
        patch,
        apply,
    }
}

const fn keyed(owner: &'static str, field: &'static str, keys: &'static [&'static str]) -> Rule {
    rule(
        owner,
        field,
        MergeRule::ByKey(keys[0]),
        ListMerge::Map(keys),
    )
}

/// Lists with a rule of their own, by the type that holds them. A type is named as in
/// Go; where two groups have types of one name, both have the same rule.
const RULES: &[Rule] = &[
    keyed("ObjectMeta", "ownerReferences", &["uid"]),
    rule("ObjectMeta", "finalizers", MergeRule::Set, ListMerge::Set),
    keyed("PodSpec", "containers", &["name"]),
    keyed("PodSpec", "initContainers", &["name"]),
    keyed("PodSpec", "ephemeralContainers", &["name"]),
    keyed("PodSpec", "volumes", &["name"]),
    keyed("PodSpec", "imagePullSecrets", &["name"]),
    keyed("PodSpec", "hostAliases", &["ip"]),
    keyed(
        "PodSpec",
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
    ),
    keyed("PodSpec", "resourceClaims", &["name"]),
    keyed("PodSpec", "schedulingGates", &["name"]),
    keyed("PodStatus", "conditions", &["type"]),
    keyed("PodStatus", "podIPs", &["ip"]),
    rule(
        "PodStatus",
        "hostIPs",
        MergeRule::ByKey("ip"),
        ListMerge::Atomic,
    ),
    keyed("PodStatus", "resourceClaimStatuses", &["name"]),
    keyed("Container", "env", &["name"]),
    keyed("Container", "ports", &["containerPort", "protocol"]),
    keyed("Container", "volumeMounts", &["mountPath"]),
    keyed("Container", "volumeDevices", &["devicePath"]),
    keyed("EphemeralContainer", "env", &["name"]),
    keyed(
        "EphemeralContainer",
        "ports",
        &["containerPort", "protocol"],
    ),
    keyed("EphemeralContainer", "volumeMounts", &["mountPath"]),
    keyed("EphemeralContainer", "volumeDevices", &["devicePath"]),
    rule(
        "ContainerStatus",
        "volumeMounts",
        MergeRule::ByKey("mountPath"),
        ListMerge::Map(&["mountPath"]),
    ),
    rule(
        "ResourceRequirements",
        "claims",
        MergeRule::Replace,
        ListMerge::Map(&["name"]),
    ),
    keyed("ServiceSpec", "ports", &["port", "protocol"]),
    keyed("ServiceStatus", "conditions", &["type"]),
    rule("NodeSpec", "podCIDRs", MergeRule::Set, ListMerge::Set),
    keyed("NodeStatus", "addresses", &["type"]),
    keyed("NodeStatus", "conditions", &["type"]),
    keyed("NamespaceStatus", "conditions", &["type"]),
    keyed("DeploymentStatus", "conditions", &["type"]),
    keyed("ReplicaSetStatus", "conditions", &["type"]),
    keyed("DaemonSetStatus", "conditions", &["type"]),
    keyed("StatefulSetStatus", "conditions", &["type"]),
    keyed("PersistentVolumeClaimStatus", "conditions", &["type"]),
    keyed("ServiceCIDRStatus", "conditions", &["type"]),
    rule(
        "CustomResourceDefinitionStatus",
        "conditions",
        MergeRule::Replace,
        ListMerge::Map(&["type"]),
    ),
    keyed("ServiceAccount", "secrets", &["name"]),
];

/// Maps of which a strategic merge patch keeps only the keys it names in `$retainKeys`.
const RETAIN_KEYS: &[(&str, &str)] = &[
    ("DeploymentSpec", "strategy"),
    ("PodSpec", "volumes"),
    ("PodSpec", "resourceClaims"),
];

fn rule_of(owner: &str, field: &str) -> Option<&'static Rule> {
    RULES
        .iter()
        .find(|rule| rule.owner == owner && rule.field == field)
}

/// What OpenAPI says of a field of the Go type `owner` that a strategic merge patch does
/// not replace whole: `kubectl apply` computes its patches from these marks.
pub(crate) fn patch_marks(owner: &str, field: &str) -> Vec<(&'static str, &'static str)> {
    let retains = RETAIN_KEYS.contains(&(owner, field));
    let patch = rule_of(owner, field).map_or(MergeRule::Replace, |rule| rule.patch);
    let strategy = match (patch, retains) {
        (MergeRule::Replace, false) => return Vec::new(),
        (MergeRule::Replace, true) => "retainKeys",
        (MergeRule::ByKey(_) | MergeRule::Set, false) => "merge",
        (MergeRule::ByKey(_) | MergeRule::Set, true) => "merge,retainKeys",
    };
    let mut marks = vec![("x-kubernetes-patch-strategy", strategy)];
    if let MergeRule::ByKey(key) = patch {
        marks.push(("x-kubernetes-patch-merge-key", key));
    }
    marks
}

impl Kind {
    /// How a strategic merge patch treats the list at `path`: the names of the fields
    /// that lead there, without indices (`["spec", "template", "spec", "containers"]`).
    pub fn merge_rule(&self, path: &[&str]) -> MergeRule {
        self.rule_at(path)
            .map_or(MergeRule::Replace, |rule| rule.patch)
    }

    /// The merge key of the list at `path`, if it has one.
    pub fn merge_key(&self, path: &[&str]) -> Option<&'static str> {
        match self.merge_rule(path) {
            MergeRule::ByKey(key) => Some(key),
            MergeRule::Replace | MergeRule::Set => None,
        }
    }

    /// How server-side apply owns the list at `path`.
    pub fn list_merge(&self, path: &[&str]) -> ListMerge {
        self.rule_at(path)
            .map_or(ListMerge::Atomic, |rule| rule.apply)
    }

    /// Whether the map at `path` is owned whole by server-side apply: selectors and
    /// references are.
    pub fn map_is_atomic(&self, path: &[&str]) -> bool {
        let types = types();
        let owner = self.owner_at(path);
        let listed = |marks: &[(&str, &str)]| owner.is_some_and(|owner| marks.contains(&owner));
        let atomic_type = matches!(self.type_at(path), Some(Type::Object(at)) if
            ATOMIC_TYPES.contains(&types.definition(at).short_name()));
        (atomic_type && !listed(GRANULAR)) || listed(ATOMIC_MAPS)
    }

    fn rule_at(&self, path: &[&str]) -> Option<&'static Rule> {
        let (owner, field) = self.owner_at(path)?;
        rule_of(owner, field)
    }

    /// The Go type that holds the last field of `path`, and that field.
    fn owner_at<'a>(&self, path: &[&'a str]) -> Option<(&'static str, &'a str)> {
        let (field, parents) = path.split_last()?;
        let Type::Object(at) = self.type_at(parents)? else {
            return None;
        };
        Some((types().definition(at).short_name(), *field))
    }

    /// The type at `path`; of a list, that of its elements.
    fn type_at(&self, path: &[&str]) -> Option<Type> {
        let types = types();
        let mut here = types.root(self);
        for part in path {
            here = if let Type::Object(at) = here {
                types.definition(at).field(part)?.clone()
            } else if let Type::Map(values) = here {
                *values
            } else {
                return None;
            };
            while let Type::List(items) = here {
                here = *items;
            }
        }
        Some(here)
    }
}

const ATOMIC_TYPES: &[&str] = &[
    "LabelSelector",
    "ObjectReference",
    "LocalObjectReference",
    "TypedLocalObjectReference",
    "OwnerReference",
    "SecretKeySelector",
    "ConfigMapKeySelector",
    "ObjectFieldSelector",
    "ResourceFieldSelector",
    "NodeSelector",
    "NodeSelectorTerm",
    "RoleRef",
    "Subject",
    "SecretReference",
    "ServiceBackendPort",
    "TopologySelectorTerm",
    "EndpointAddress",
    "EndpointPort",
];

/// Fields whose parts have owners of their own, though their type is atomic elsewhere.
const GRANULAR: &[(&str, &str)] = &[("PersistentVolumeSpec", "claimRef")];

const ATOMIC_MAPS: &[(&str, &str)] = &[
    ("ServiceSpec", "selector"),
    ("PodSpec", "nodeSelector"),
    ("ControllerRevision", "data"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    #[test]
    fn finds_rules_by_type() {
        let deployment = find_kind("apps", "v1", "Deployment").unwrap();
        let template = ["spec", "template", "spec"];
        let key = |tail: &[&str]| deployment.merge_key(&[&template[..], tail].concat());
        assert_eq!(key(&["containers"]), Some("name"));
        assert_eq!(key(&["containers", "ports"]), Some("containerPort"));
        assert_eq!(key(&["initContainers", "env"]), Some("name"));
        assert_eq!(key(&["tolerations"]), None);
        assert_eq!(key(&["containers", "command"]), None);
        assert!(deployment.map_is_atomic(&["spec", "selector"]));
        assert!(!deployment.map_is_atomic(&["metadata", "labels"]));
        let service = find_kind("", "v1", "Service").unwrap();
        assert_eq!(service.merge_key(&["spec", "ports"]), Some("port"));
        assert_eq!(
            service.list_merge(&["spec", "ports"]),
            ListMerge::Map(&["port", "protocol"])
        );
        assert_eq!(
            service.merge_rule(&["metadata", "finalizers"]),
            MergeRule::Set
        );
        let ingress = find_kind("networking.k8s.io", "v1", "Ingress").unwrap();
        let port = ["spec", "defaultBackend", "service", "port"];
        assert!(ingress.map_is_atomic(&port));
        assert!(!ingress.map_is_atomic(&port[..3]));
        assert_eq!(ingress.list_merge(&["spec", "rules"]), ListMerge::Atomic);
        let range = find_kind("networking.k8s.io", "v1", "ServiceCIDR").unwrap();
        assert_eq!(range.merge_key(&["status", "conditions"]), Some("type"));
        assert_eq!(
            service.merge_rule(&["metadata", "nothing"]),
            MergeRule::Replace
        );
    }
}
