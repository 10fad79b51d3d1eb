//! StatefulSets, the revisions of sets, and what sets have replaced.

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;

use super::{BASE, SCALE, schema_of, status};
use crate::{Kind, defaults, prepare, print, validate};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        group: "apps",
        kind: "StatefulSet",
        list_kind: "StatefulSetList",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        subresources: &[status("apps/v1", "StatefulSet"), SCALE],
        columns: print::STATEFUL_SET,
        cells: print::stateful_set,
        schema: schema_of::<StatefulSet>,
        definition: "io.k8s.api.apps.v1.StatefulSet",
        defaults: defaults::stateful_set,
        create: prepare::stateful_set_create,
        update: prepare::stateful_set_update,
        validate: validate::stateful_set,
        validate_new: validate::stateful_set_create,
        validate_update: validate::stateful_set_update,
        validate_status: validate::stateful_set_status,
        counts_generation: true,
        ..BASE
    },
    Kind {
        group: "apps",
        kind: "ControllerRevision",
        list_kind: "ControllerRevisionList",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        columns: print::CONTROLLER_REVISION,
        cells: print::controller_revision,
        schema: schema_of::<ControllerRevision>,
        definition: "io.k8s.api.apps.v1.ControllerRevision",
        validate: validate::controller_revision,
        validate_update: validate::controller_revision_update,
        ..BASE
    },
    // Nothing would act on one, so none can be made. Programs that ask for them, such as
    // `kubectl cluster-info dump`, are told that there are none.
    Kind {
        kind: "ReplicationController",
        list_kind: "ReplicationControllerList",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        verbs: &["get", "list", "watch"],
        schema: schema_of::<ReplicationController>,
        definition: "io.k8s.api.core.v1.ReplicationController",
        selectable: &["status.replicas"],
        ..BASE
    },
];
