//! Lists that are sets or maps: no element and no key twice.

use serde_json::{Map, Value};

use super::compile::{Additional, ListType, Schema};
use crate::resource::FieldError;

/// The duplicates in all lists of a document.
pub(crate) fn duplicates(value: &Value, schema: &Schema) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, schema, &mut String::new(), &mut errors);
    errors
}

fn walk(value: &Value, schema: &Schema, path: &mut String, errors: &mut Vec<FieldError>) {
    let length = path.len();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let schema = match (schema.properties.get(name.as_str()), &schema.additional) {
                    (Some(property), _) => {
                        if !path.is_empty() {
                            path.push('.');
                        }
                        path.push_str(name);
                        property
                    }
                    (None, Additional::Each(each)) => {
                        path.push_str(&format!("[{name}]"));
                        each
                    }
                    (None, Additional::Unsaid | Additional::Any | Additional::Forbidden) => {
                        continue;
                    }
                };
                walk(value, schema, path, errors);
                path.truncate(length);
            }
        }
        Value::Array(list) => {
            match &schema.list {
                ListType::Atomic => {}
                ListType::Set => report(list, list.iter().cloned(), path, errors),
                ListType::Map(keys) => map_list(list, keys, path, errors),
            }
            if let Some(items) = &schema.items {
                for (at, value) in list.iter().enumerate() {
                    path.push_str(&format!("[{at}]"));
                    walk(value, items, path, errors);
                    path.truncate(length);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn map_list(list: &[Value], keys: &[String], path: &str, errors: &mut Vec<FieldError>) {
    for (at, one) in list.iter().enumerate() {
        if !one.is_object() && !one.is_null() {
            let detail = "must be an object for an array of list-type map";
            errors.push(FieldError::invalid(format!("{path}[{at}]"), one, detail));
            return;
        }
    }
    let key_of = |one: &Value| {
        let key: Map<String, Value> = keys
            .iter()
            .filter_map(|key| Some((key.clone(), one.get(key)?.clone())))
            .collect();
        Value::Object(key)
    };
    report(list, list.iter().map(key_of), path, errors);
}

/// Names the second occurrence of each identity.
fn report(
    list: &[Value],
    identities: impl Iterator<Item = Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if list.len() <= 1 {
        return;
    }
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for (at, identity) in identities.enumerate() {
        let times = seen.entry(identity.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            errors.push(FieldError::duplicate(format!("{path}[{at}]"), &identity));
        }
    }
}
