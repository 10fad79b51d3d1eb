//! Events as events.k8s.io names their fields.

use k8s_openapi::api::events::v1::Event;

use super::{BASE, schema_of};
use crate::kind::View;
use crate::{Kind, print, validate, view};

pub(super) const KINDS: &[Kind] = &[Kind {
    group: "events.k8s.io",
    kind: "Event",
    list_kind: "EventList",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    columns: print::EVENT,
    cells: print::regarding_event,
    schema: schema_of::<Event>,
    definition: "io.k8s.api.events.v1.Event",
    validate: validate::regarding_event,
    validate_new: validate::regarding_event_new,
    validate_update: validate::regarding_event_update,
    selectable: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    view: Some(View {
        group: "",
        read: view::read_event,
        store: view::store_event,
    }),
    ..BASE
}];
