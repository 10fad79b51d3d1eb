//! The rules of each kind, in Kubernetes' words.

mod addresses;
mod container;
mod event;
mod ingress;
mod metadata;
mod network;
mod network_policy;
mod object;
mod pod;
mod pod_change;
mod role;
mod rules;
mod scheduling;
mod service;
mod service_range;
mod sets;
mod storage;
mod workload;

use serde_json::Value;

use crate::{FieldError, Kind};

pub(crate) use addresses::{cluster_ip_fields, service_update};
pub(crate) use event::{event, regarding_event, regarding_event_new, regarding_event_update};
pub(crate) use ingress::{
    ingress, ingress_class, ingress_class_update, ingress_create, ingress_status,
};
pub(crate) use metadata::{check as metadata, check_update as metadata_update};
pub(crate) use network::{endpoint_slice, endpoint_slice_update, endpoints};
pub(crate) use network_policy::{network_policy, network_policy_update};
pub(crate) use object::{
    config_map, config_map_update, lease, node, node_update, role_binding, role_binding_update,
    secret, secret_update,
};
pub(crate) use pod::{pod, pod_create};
pub(crate) use pod_change::{pod_status, pod_update};
pub(crate) use role::{cluster_role, role};
pub use rules::is_endpoint_address;
pub(crate) use service::{service, service_status};
pub(crate) use service_range::{ip_address, ip_address_update, service_cidr, service_cidr_update};
pub(crate) use sets::{
    controller_revision, controller_revision_update, stateful_set, stateful_set_create,
    stateful_set_status, stateful_set_update,
};
pub(crate) use storage::{
    persistent_volume, persistent_volume_claim, persistent_volume_claim_update,
    persistent_volume_update, storage_class, storage_class_update,
};
pub(crate) use workload::{
    daemon_set, deployment, deployment_status, replica_set, workload_update,
};

impl Kind {
    /// The rules an object about to be created breaks, its metadata's first.
    pub fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = metadata::check(self, object);
        errors.extend((self.validate)(object));
        errors.extend((self.validate_new)(object));
        errors
    }

    /// The rules an object about to replace `old` breaks, through the main endpoint or
    /// through `subresource`.
    pub fn validate_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Vec<FieldError> {
        let mut errors = metadata::check(self, object);
        errors.extend(metadata::check_update(object, old));
        match subresource {
            None => {
                if self.looks_at_metadata_again() {
                    errors.extend(metadata::check(self, object));
                }
                // A pod's change is looked at when what it would be has been.
                if self.kind == "Pod" {
                    errors.extend((self.validate)(object));
                    errors.extend((self.validate_update)(object, old));
                } else {
                    errors.extend((self.validate_update)(object, old));
                    errors.extend((self.validate)(object));
                }
            }
            Some("status") => errors.extend((self.validate_status)(object, old)),
            Some(_) => {}
        }
        errors
    }

    /// Whether Kubernetes' rules of a change are, for this kind, those of a new object too: what
    /// is wrong with the metadata counts once more.
    fn looks_at_metadata_again(&self) -> bool {
        const CHANGES_ONLY: [&str; 12] = [
            "ControllerRevision",
            "DaemonSet",
            "Deployment",
            "IPAddress",
            "Ingress",
            "Lease",
            "Namespace",
            "Node",
            "ReplicaSet",
            "ServiceCIDR",
            "StatefulSet",
            "StorageClass",
        ];
        !CHANGES_ONLY.contains(&self.kind)
    }
}
