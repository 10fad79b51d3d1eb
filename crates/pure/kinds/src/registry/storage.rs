//! The kinds of storage: volumes, claims and classes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{BASE, schema_of, status};
use crate::{Kind, Scope, defaults, prepare, print, validate};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        kind: "PersistentVolume",
        list_kind: "PersistentVolumeList",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: &["pv"],
        scope: Scope::Cluster,
        subresources: &[status("v1", "PersistentVolume")],
        columns: print::PERSISTENT_VOLUME,
        cells: print::persistent_volume,
        schema: schema_of::<PersistentVolume>,
        definition: "io.k8s.api.core.v1.PersistentVolume",
        defaults: defaults::persistent_volume,
        create: prepare::pending_create,
        update: prepare::keep_status,
        validate: validate::persistent_volume,
        validate_update: validate::persistent_volume_update,
        ..BASE
    },
    Kind {
        kind: "PersistentVolumeClaim",
        list_kind: "PersistentVolumeClaimList",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        subresources: &[status("v1", "PersistentVolumeClaim")],
        columns: print::PERSISTENT_VOLUME_CLAIM,
        cells: print::persistent_volume_claim,
        schema: schema_of::<PersistentVolumeClaim>,
        definition: "io.k8s.api.core.v1.PersistentVolumeClaim",
        defaults: defaults::persistent_volume_claim,
        create: prepare::claim_create,
        update: prepare::claim_update,
        validate: validate::persistent_volume_claim,
        validate_update: validate::persistent_volume_claim_update,
        ..BASE
    },
    Kind {
        group: "storage.k8s.io",
        kind: "StorageClass",
        list_kind: "StorageClassList",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        scope: Scope::Cluster,
        columns: print::STORAGE_CLASS,
        cells: print::storage_class,
        schema: schema_of::<StorageClass>,
        definition: "io.k8s.api.storage.v1.StorageClass",
        defaults: defaults::storage_class,
        validate: validate::storage_class,
        validate_update: validate::storage_class_update,
        ..BASE
    },
];
