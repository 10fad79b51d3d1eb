//! The table of kinds.

mod apiextensions;
mod events;
mod networking;
mod sets;
mod storage;

use std::sync::LazyLock;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use crate::syntax::{NameCheck, name_dns_label, name_dns_subdomain, name_dns1035_label, name_path};
use crate::{FieldError, Kind, Scope, Subresource, defaults, prepare, print, validate};

pub(crate) use apiextensions::{CUSTOM_CLUSTER, CUSTOM_NAMESPACED};

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

const fn status(api_version: &'static str, kind: &'static str) -> Subresource {
    Subresource {
        name: "status",
        api_version,
        kind,
        verbs: STATUS_VERBS,
    }
}

const SCALE: Subresource = Subresource {
    name: "scale",
    api_version: "autoscaling/v1",
    kind: "Scale",
    verbs: STATUS_VERBS,
};

/// HTTP to what runs behind an object; the path below is the target's.
const fn proxy(kind: &'static str) -> Subresource {
    Subresource {
        name: "proxy",
        api_version: "v1",
        kind,
        verbs: &["create", "delete", "get", "patch", "update"],
    }
}

const fn create_only(
    name: &'static str,
    api_version: &'static str,
    kind: &'static str,
) -> Subresource {
    Subresource {
        name,
        api_version,
        kind,
        verbs: &["create"],
    }
}

/// All kinds the embedded API serves, core group first.
pub fn registry() -> &'static [Kind] {
    &REGISTRY
}

/// The kind served under this group, version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    REGISTRY
        .iter()
        .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind of this group, version and kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    REGISTRY
        .iter()
        .find(|row| row.group == group && row.version == version && row.kind == kind)
}

fn schema_of<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What most kinds have in common: the rest of a row is written over it.
const BASE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    list_kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: VERBS,
    subresources: &[],
    columns: print::NAME_AND_AGE,
    cells: print::name_and_age,
    schema: schema_of::<ConfigMap>,
    definition: "",
    defaults: no_defaults,
    create: prepare::nothing_on_create,
    update: prepare::nothing_on_update,
    validate: no_rules,
    validate_new: no_rules,
    validate_update: no_update_rules,
    validate_status: no_update_rules,
    name_syntax: name_dns_subdomain as NameCheck,
    selectable: &[],
    counts_generation: false,
    view: None,
};

fn no_defaults(_: &mut Value) {}

fn no_rules(_: &Value) -> Vec<FieldError> {
    Vec::new()
}

fn no_update_rules(_: &Value, _: &Value) -> Vec<FieldError> {
    Vec::new()
}

static REGISTRY: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    [
        KINDS,
        apiextensions::KINDS,
        storage::KINDS,
        sets::KINDS,
        networking::KINDS,
        events::KINDS,
    ]
    .concat()
});

const KINDS: &[Kind] = &[
    Kind {
        kind: "Namespace",
        list_kind: "NamespaceList",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        verbs: &[
            "create", "delete", "get", "list", "patch", "update", "watch",
        ],
        subresources: &[
            status("v1", "Namespace"),
            Subresource {
                name: "finalize",
                api_version: "v1",
                kind: "Namespace",
                verbs: &["update"],
            },
        ],
        columns: print::NAMESPACE,
        cells: print::namespace,
        schema: schema_of::<Namespace>,
        definition: "io.k8s.api.core.v1.Namespace",
        defaults: defaults::namespace,
        create: prepare::namespace_create,
        update: prepare::namespace_update,
        name_syntax: name_dns_label,
        selectable: &["status.phase"],
        ..BASE
    },
    Kind {
        kind: "Node",
        list_kind: "NodeList",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: &[status("v1", "Node"), proxy("NodeProxyOptions")],
        columns: print::NODE,
        cells: print::node,
        schema: schema_of::<Node>,
        definition: "io.k8s.api.core.v1.Node",
        defaults: defaults::node,
        create: prepare::node_create,
        update: prepare::node_update,
        validate: validate::node,
        validate_update: validate::node_update,
        selectable: &["spec.unschedulable"],
        ..BASE
    },
    Kind {
        kind: "Pod",
        list_kind: "PodList",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            status("v1", "Pod"),
            create_only("binding", "v1", "Binding"),
            create_only("eviction", "policy/v1", "Eviction"),
            Subresource {
                name: "log",
                api_version: "v1",
                kind: "Pod",
                verbs: &["get"],
            },
            Subresource {
                name: "exec",
                api_version: "v1",
                kind: "PodExecOptions",
                verbs: &["create", "get"],
            },
            Subresource {
                name: "attach",
                api_version: "v1",
                kind: "PodAttachOptions",
                verbs: &["create", "get"],
            },
            Subresource {
                name: "portforward",
                api_version: "v1",
                kind: "PodPortForwardOptions",
                verbs: &["create", "get"],
            },
            proxy("PodProxyOptions"),
        ],
        columns: print::POD,
        cells: print::pod,
        schema: schema_of::<Pod>,
        definition: "io.k8s.api.core.v1.Pod",
        defaults: defaults::pod,
        create: prepare::pod_create,
        update: prepare::pod_update,
        validate: validate::pod,
        validate_new: validate::pod_create,
        validate_update: validate::pod_update,
        validate_status: validate::pod_status,
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        counts_generation: true,
        ..BASE
    },
    Kind {
        kind: "Service",
        list_kind: "ServiceList",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[status("v1", "Service"), proxy("ServiceProxyOptions")],
        columns: print::SERVICE,
        cells: print::service,
        schema: schema_of::<Service>,
        definition: "io.k8s.api.core.v1.Service",
        defaults: defaults::service,
        create: prepare::service_create,
        update: prepare::service_update,
        validate: validate::service,
        validate_update: validate::service_update,
        validate_status: validate::service_status,
        name_syntax: name_dns1035_label,
        selectable: &["spec.clusterIP", "spec.type"],
        ..BASE
    },
    Kind {
        kind: "Endpoints",
        list_kind: "EndpointsList",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        columns: print::ENDPOINTS,
        cells: print::endpoints,
        schema: schema_of::<Endpoints>,
        definition: "io.k8s.api.core.v1.Endpoints",
        defaults: defaults::endpoints,
        validate: validate::endpoints,
        ..BASE
    },
    Kind {
        kind: "ConfigMap",
        list_kind: "ConfigMapList",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        columns: print::CONFIG_MAP,
        cells: print::config_map,
        schema: schema_of::<ConfigMap>,
        definition: "io.k8s.api.core.v1.ConfigMap",
        validate: validate::config_map,
        validate_update: validate::config_map_update,
        ..BASE
    },
    Kind {
        kind: "Secret",
        list_kind: "SecretList",
        plural: "secrets",
        singular: "secret",
        columns: print::SECRET,
        cells: print::secret,
        schema: schema_of::<Secret>,
        definition: "io.k8s.api.core.v1.Secret",
        defaults: defaults::secret,
        validate: validate::secret,
        validate_update: validate::secret_update,
        selectable: &["type"],
        ..BASE
    },
    Kind {
        kind: "ServiceAccount",
        list_kind: "ServiceAccountList",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[create_only(
            "token",
            "authentication.k8s.io/v1",
            "TokenRequest",
        )],
        columns: print::SERVICE_ACCOUNT,
        cells: print::service_account,
        schema: schema_of::<ServiceAccount>,
        definition: "io.k8s.api.core.v1.ServiceAccount",
        ..BASE
    },
    Kind {
        kind: "Event",
        list_kind: "EventList",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        columns: print::EVENT,
        cells: print::event,
        schema: schema_of::<Event>,
        definition: "io.k8s.api.core.v1.Event",
        validate: validate::event,
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ..BASE
    },
    Kind {
        group: "apps",
        kind: "DaemonSet",
        list_kind: "DaemonSetList",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[status("apps/v1", "DaemonSet")],
        columns: print::DAEMON_SET,
        cells: print::daemon_set,
        schema: schema_of::<DaemonSet>,
        definition: "io.k8s.api.apps.v1.DaemonSet",
        defaults: defaults::daemon_set,
        create: prepare::daemon_set_create,
        update: prepare::keep_status,
        validate: validate::daemon_set,
        validate_update: validate::workload_update,
        counts_generation: true,
        ..BASE
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        list_kind: "DeploymentList",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[status("apps/v1", "Deployment"), SCALE],
        columns: print::DEPLOYMENT,
        cells: print::deployment,
        schema: schema_of::<Deployment>,
        definition: "io.k8s.api.apps.v1.Deployment",
        defaults: defaults::deployment,
        create: prepare::deployment_create,
        update: prepare::keep_status,
        validate: validate::deployment,
        validate_update: validate::workload_update,
        validate_status: validate::deployment_status,
        counts_generation: true,
        ..BASE
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        list_kind: "ReplicaSetList",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[status("apps/v1", "ReplicaSet"), SCALE],
        columns: print::REPLICA_SET,
        cells: print::replica_set,
        schema: schema_of::<ReplicaSet>,
        definition: "io.k8s.api.apps.v1.ReplicaSet",
        defaults: defaults::replica_set,
        create: prepare::replica_set_create,
        update: prepare::keep_status,
        validate: validate::replica_set,
        validate_update: validate::workload_update,
        selectable: &["status.replicas"],
        counts_generation: true,
        ..BASE
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        list_kind: "LeaseList",
        plural: "leases",
        singular: "lease",
        columns: print::LEASE,
        cells: print::lease,
        schema: schema_of::<Lease>,
        definition: "io.k8s.api.coordination.v1.Lease",
        validate: validate::lease,
        ..BASE
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        list_kind: "EndpointSliceList",
        plural: "endpointslices",
        singular: "endpointslice",
        columns: print::ENDPOINT_SLICE,
        cells: print::endpoint_slice,
        schema: schema_of::<EndpointSlice>,
        definition: "io.k8s.api.discovery.v1.EndpointSlice",
        defaults: defaults::endpoint_slice,
        create: prepare::endpoint_slice_create,
        validate: validate::endpoint_slice,
        validate_update: validate::endpoint_slice_update,
        counts_generation: true,
        ..BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        list_kind: "ClusterRoleList",
        plural: "clusterroles",
        singular: "clusterrole",
        scope: Scope::Cluster,
        columns: print::ROLE,
        cells: print::role,
        schema: schema_of::<ClusterRole>,
        definition: "io.k8s.api.rbac.v1.ClusterRole",
        validate: validate::cluster_role,
        name_syntax: name_path,
        ..BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        list_kind: "ClusterRoleBindingList",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        scope: Scope::Cluster,
        columns: print::ROLE_BINDING,
        cells: print::role_binding,
        schema: schema_of::<ClusterRoleBinding>,
        definition: "io.k8s.api.rbac.v1.ClusterRoleBinding",
        defaults: defaults::role_binding,
        validate: validate::role_binding,
        validate_update: validate::role_binding_update,
        name_syntax: name_path,
        ..BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        list_kind: "RoleList",
        plural: "roles",
        singular: "role",
        columns: print::ROLE,
        cells: print::role,
        schema: schema_of::<Role>,
        definition: "io.k8s.api.rbac.v1.Role",
        validate: validate::role,
        name_syntax: name_path,
        ..BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        list_kind: "RoleBindingList",
        plural: "rolebindings",
        singular: "rolebinding",
        columns: print::ROLE_BINDING,
        cells: print::role_binding,
        schema: schema_of::<RoleBinding>,
        definition: "io.k8s.api.rbac.v1.RoleBinding",
        defaults: defaults::role_binding,
        validate: validate::role_binding,
        validate_update: validate::role_binding_update,
        name_syntax: name_path,
        ..BASE
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Type, types};
    use jiff::Timestamp;
    use serde_json::json;

    #[test]
    fn every_row_has_a_schema_and_a_cell_per_column() {
        for kind in registry() {
            assert!(
                matches!(types().root(kind), Type::Object(_)),
                "{kind:?} has no schema"
            );
            let cells = kind.cells(&json!({"metadata": {"name": "x"}}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), kind.columns.len(), "{kind:?}");
            assert_eq!(kind.list_kind, format!("{}List", kind.kind));
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = registry()
            .iter()
            .filter(|kind| kind.reads_as_stored())
            .flat_map(|kind| kind.short_names.iter().copied().chain([kind.plural]))
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
