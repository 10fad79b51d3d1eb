//! The rules of each kind, in Kubernetes' words.

mod addresses;
mod container;
mod metadata;
mod network;
mod object;
mod pod;
mod rules;
mod service;
mod workload;

use serde_json::Value;

use crate::{FieldError, Kind};

pub(crate) use addresses::{cluster_ip_fields, service_update};
pub(crate) use network::{endpoint_slice, endpoint_slice_update, endpoints};
pub(crate) use object::{
    config_map, config_map_update, event, lease, node, node_update, role_binding,
    role_binding_update, secret, secret_update,
};
pub(crate) use pod::{pod, pod_update};
pub(crate) use service::service;
pub(crate) use workload::{daemon_set, deployment, replica_set, workload_update};

impl Kind {
    /// The rules an object about to be created breaks, its metadata's first.
    pub fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = metadata::check(self, object);
        errors.extend((self.validate)(object));
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
        if subresource.is_none() {
            errors.extend((self.validate_update)(object, old));
            errors.extend((self.validate)(object));
        }
        errors
    }
}
