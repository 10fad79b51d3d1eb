//! Pruning: fields that a schema does not name are dropped.

use serde_json::Value;

use super::compile::{Additional, Schema};

/// What the server itself reads in every object.
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops what `schema` does not name from an object of its kind; returns the paths of what was
/// dropped, as strict validation names them: `spec.rules[0].hots`.
pub(crate) fn prune(object: &mut Value, schema: &Schema) -> Vec<String> {
    prune_part(object, schema, true)
}

/// The same for a part of an object; `own` says whether it has `metadata` of its own.
pub(super) fn prune_part(object: &mut Value, schema: &Schema, own: bool) -> Vec<String> {
    let mut pruner = Pruner {
        path: String::new(),
        dropped: Vec::new(),
    };
    pruner.value(object, Some(schema), own, false);
    pruner.dropped.sort();
    pruner.dropped
}

/// Calls `visit` for each embedded resource below the root, with its path.
pub(crate) fn each_embedded(
    value: &mut Value,
    schema: &Schema,
    visit: &mut dyn FnMut(&mut Value, &str),
) {
    embedded(value, schema, &mut String::new(), visit);
}

fn embedded(
    value: &mut Value,
    schema: &Schema,
    path: &mut String,
    visit: &mut dyn FnMut(&mut Value, &str),
) {
    if schema.embedded && value.is_object() {
        visit(value, path);
    }
    let length = path.len();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let schema = match (schema.properties.get(name.as_str()), &schema.additional) {
                    (Some(schema), _) => schema,
                    (None, Additional::Each(each)) => each,
                    (None, Additional::Unsaid | Additional::Any | Additional::Forbidden) => {
                        continue;
                    }
                };
                push(path, name);
                embedded(value, schema, path, visit);
                path.truncate(length);
            }
        }
        Value::Array(list) => {
            let Some(items) = &schema.items else { return };
            for (at, value) in list.iter_mut().enumerate() {
                path.push_str(&format!("[{at}]"));
                embedded(value, items, path, visit);
                path.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn push(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

struct Pruner {
    path: String,
    dropped: Vec<String>,
}

impl Pruner {
    /// `schema` is `None` below a place where every field is unknown.
    /// `kept` says that the list around it preserves unknown fields.
    fn value(&mut self, value: &mut Value, schema: Option<&Schema>, root: bool, kept: bool) {
        let preserves = kept || schema.is_some_and(|schema| schema.preserves_unknown);
        let own = root || schema.is_some_and(|schema| schema.embedded);
        let length = self.path.len();
        match value {
            Value::Object(map) => map.retain(|name, value| {
                if own && OBJECT_FIELDS.contains(&name.as_str()) {
                    return true;
                }
                push(&mut self.path, name);
                let keep = self.field(value, schema, name, preserves);
                if !keep {
                    self.dropped.push(self.path.clone());
                }
                self.path.truncate(length);
                keep
            }),
            Value::Array(list) => {
                let items = schema.and_then(|schema| schema.items.as_deref());
                if preserves && items.is_none() {
                    return;
                }
                for (at, value) in list.iter_mut().enumerate() {
                    self.path.push_str(&format!("[{at}]"));
                    self.value(value, items, false, preserves);
                    self.path.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn field(
        &mut self,
        value: &mut Value,
        schema: Option<&Schema>,
        name: &str,
        preserves: bool,
    ) -> bool {
        let Some(schema) = schema else { return false };
        match (schema.properties.get(name), &schema.additional) {
            (Some(property), _) => self.value(value, Some(property), false, false),
            (None, Additional::Each(each)) => self.value(value, Some(each), false, false),
            // What is forbidden is told by validation.
            (None, Additional::Any | Additional::Forbidden) => {
                self.value(value, None, false, false);
            }
            (None, Additional::Unsaid) => return preserves,
        }
        true
    }
}
