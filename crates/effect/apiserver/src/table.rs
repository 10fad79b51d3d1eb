//! Tables and metadata-only documents (`meta.k8s.io/v1`).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::Resource;

/// What each row of a table carries besides its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    Metadata,
    Object,
}

/// A table without rows. `columns` says whether it names its columns.
pub(crate) fn table(resource: &Resource, metadata: Value, columns: bool) -> Value {
    let columns: Vec<Value> = resource
        .columns
        .iter()
        .filter(|_| columns)
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.column_type,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": [],
    })
}

/// The row of one object.
pub(crate) fn row(
    resource: &Resource,
    object: Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let mut row = json!({ "cells": resource.strategy.cells(&object, now) });
    let conditions = resource.strategy.row_conditions(&object);
    if !conditions.is_empty() {
        row["conditions"] = conditions.into();
    }
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = metadata_only(object),
        IncludeObject::Object => row["object"] = object,
    }
    row
}

/// The PartialObjectMetadata of an object.
pub(crate) fn metadata_only(mut object: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"].take(),
    })
}
