//! Reading documents: what is absent reads as its zero value.

use serde_json::{Map, Value};

/// The value at `path`, or `None` when any part is absent or null.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let mut here = value;
    for part in path {
        here = here.get(part)?;
    }
    (!here.is_null()).then_some(here)
}

/// The text at `path`; empty when absent.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or("")
}

/// The integer at `path`.
pub(crate) fn int(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// The truth at `path`; false when absent.
pub(crate) fn flag(value: &Value, path: &[&str]) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at `path`; empty when absent.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or(&[])
}

/// The texts of the list at `path`.
pub(crate) fn texts<'a>(value: &'a Value, path: &[&str]) -> Vec<&'a str> {
    list(value, path).iter().filter_map(Value::as_str).collect()
}

/// The map at `path`.
pub(crate) fn map<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    at(value, path).and_then(Value::as_object)
}

/// The map at `path`, made if absent or null; `None` if something else stands there.
pub(crate) fn map_mut<'a>(
    value: &'a mut Value,
    path: &[&str],
) -> Option<&'a mut Map<String, Value>> {
    let mut here = value;
    for part in path {
        let object = here.as_object_mut()?;
        let next = object.entry(*part).or_insert(Value::Null);
        if next.is_null() {
            *next = Value::Object(Map::new());
        }
        here = next;
    }
    here.as_object_mut()
}

/// The elements of the list at `path`, to change.
pub(crate) fn list_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    let mut here = value;
    for part in path {
        match here.get_mut(part) {
            Some(next) => here = next,
            None => return &mut [],
        }
    }
    here.as_array_mut()
        .map(Vec::as_mut_slice)
        .unwrap_or(&mut [])
}

/// Sets `key` unless it has a value that is not null.
pub(crate) fn default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// Sets `key` unless it has a text that is not empty: strings without a pointer in Go.
pub(crate) fn default_text(map: &mut Map<String, Value>, key: &str, value: &str) {
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() || slot.as_str() == Some("") {
        *slot = value.into();
    }
}

/// Whether two optional values mean the same: absent, null and empty are one.
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    fn empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.values().all(empty),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
    fn equal(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Object(a), Value::Object(b)) => {
                a.iter().all(|(key, value)| match b.get(key) {
                    Some(other) => equal(value, other),
                    None => empty(value),
                }) && b
                    .iter()
                    .all(|(key, value)| a.contains_key(key) || empty(value))
            }
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
            }
            (a, b) => a == b || (empty(a) && empty(b)),
        }
    }
    equal(a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null))
}
