//! Defaulting: what a document does not say and its schema does.

use serde_json::Value;

use super::compile::{Additional, Schema};

/// Fills in defaults, also where a field that is not nullable is null.
pub(crate) fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else {
                    continue;
                };
                match map.get_mut(&**name) {
                    Some(Value::Null) if !property.nullable => {
                        map.insert(name.to_string(), (**default).clone());
                    }
                    Some(_) => {}
                    None => {
                        map.insert(name.to_string(), (**default).clone());
                    }
                }
            }
            for (name, value) in map.iter_mut() {
                match (schema.properties.get(name.as_str()), &schema.additional) {
                    (Some(property), _) => self::default(value, property),
                    (None, Additional::Each(each)) => element(value, each),
                    (None, Additional::Unsaid | Additional::Any | Additional::Forbidden) => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for value in list {
                    element(value, items);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn element(value: &mut Value, schema: &Schema) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = (**default).clone();
    }
    default(value, schema);
}

/// Drops nulls where the schema says neither `nullable` nor a default: they mean that nothing
/// is said.
pub(crate) fn drop_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| match schema.properties.get(name.as_str()) {
                Some(property) => {
                    !value.is_null() || property.nullable || property.default.is_some()
                }
                None => true,
            });
            for (name, value) in map.iter_mut() {
                match (schema.properties.get(name.as_str()), &schema.additional) {
                    (Some(property), _) => drop_nulls(value, property),
                    (None, Additional::Each(each)) => drop_nulls(value, each),
                    (None, Additional::Unsaid | Additional::Any | Additional::Forbidden) => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for value in list {
                    drop_nulls(value, items);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
