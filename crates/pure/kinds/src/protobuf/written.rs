//! Documents as Go writes them: a field whose zero says nothing is left out, others are there
//! even when nobody set them.
//!
//! Source: the JSON tags of Kubernetes' Go types, and the rules of `encoding/json`.

use serde_json::{Map, Value, json};

use super::is_zero;
use super::messages::{Field, Form, Shape, messages};
use crate::Kind;

/// What is written of a field that nobody set.
enum Unset {
    Nothing,
    Null,
    Zero(Value),
    /// A struct, which is written with what it always has.
    Struct,
}

/// Leaves out what Go's JSON leaves out: zeros, empty texts, empty lists and maps.
pub(crate) fn drop_zeros(kind: &Kind, object: &mut Value) {
    if let (Some(message), Value::Object(map)) = (message_of(kind), object) {
        drop_of(map, message);
    }
}

/// Fills in what Go's JSON always has, but for nulls, which clients read as absence.
pub(crate) fn fill(kind: &Kind, object: &mut Value) {
    if let (Some(message), Value::Object(map)) = (message_of(kind), object) {
        fill_of(map, message, false);
    }
}

/// Fills in what Go's JSON always has, nulls too.
pub(crate) fn fill_with_nulls(kind: &Kind, object: &mut Value) {
    if let (Some(message), Value::Object(map)) = (message_of(kind), object) {
        fill_of(map, message, true);
    }
}

fn message_of(kind: &Kind) -> Option<&'static str> {
    messages().root(&kind.api_version(), kind.kind)
}

fn drop_of(map: &mut Map<String, Value>, message: &str) {
    for field in messages().fields(message) {
        if let (true, Form::Message(inner)) = (field.is_embedded(), field.form) {
            drop_of(map, inner);
            continue;
        }
        let Some(value) = map.get_mut(field.name) else {
            continue;
        };
        if let Form::Message(inner) = field.form {
            each(value, field.shape, |held| drop_of(held, inner));
        }
        if says_nothing(field, value) {
            map.remove(field.name);
        }
    }
}

fn says_nothing(field: &Field, value: &Value) -> bool {
    let is_struct = matches!(
        (field.shape, field.form),
        (
            Shape::One,
            Form::Message(_) | Form::IntOrText | Form::Quantity | Form::Raw
        )
    );
    !field.may_be_zero && !is_struct && is_zero(value)
}

fn fill_of(map: &mut Map<String, Value>, message: &str, nulls: bool) {
    for field in messages().fields(message) {
        if let (true, Form::Message(inner)) = (field.is_embedded(), field.form) {
            fill_of(map, inner, nulls);
            continue;
        }
        let value = match map.get_mut(field.name) {
            Some(value) => value,
            None => match unset(field) {
                Unset::Nothing => continue,
                Unset::Null if !nulls => continue,
                Unset::Null => map.entry(field.name).or_insert(Value::Null),
                Unset::Zero(zero) => map.entry(field.name).or_insert(zero),
                Unset::Struct => map.entry(field.name).or_insert_with(|| json!({})),
            },
        };
        if let Form::Message(inner) = field.form {
            each(value, field.shape, |held| fill_of(held, inner, nulls));
        }
    }
}

fn unset(field: &Field) -> Unset {
    if field.is_pointer || field.shape != Shape::One {
        return if field.is_always_there {
            Unset::Null
        } else {
            Unset::Nothing
        };
    }
    match field.form {
        // Structs are never left out.
        Form::Message(_) => Unset::Struct,
        Form::Time | Form::MicroTime | Form::Raw => Unset::Null,
        Form::Quantity => Unset::Zero(json!("0")),
        Form::IntOrText => Unset::Zero(json!(0)),
        _ if !field.is_always_there => Unset::Nothing,
        Form::Bool => Unset::Zero(json!(false)),
        Form::Int | Form::Double => Unset::Zero(json!(0)),
        Form::Text => Unset::Zero(json!("")),
        Form::Bytes
        | Form::Texts
        | Form::SchemaOrList
        | Form::SchemaOrBool
        | Form::SchemaOrTexts => Unset::Null,
    }
}

/// The documents that a field holds.
fn each(value: &mut Value, shape: Shape, mut with: impl FnMut(&mut Map<String, Value>)) {
    let mut one = |value: &mut Value| {
        if let Value::Object(map) = value {
            with(map);
        }
    };
    match (shape, value) {
        (Shape::One, value) => one(value),
        (Shape::List, Value::Array(list)) => list.iter_mut().for_each(one),
        (Shape::Map, Value::Object(map)) => map.values_mut().for_each(one),
        (
            Shape::List | Shape::Map,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_),
        ) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    #[test]
    fn zeros_that_say_nothing_are_left_out() {
        let mut pod = json!({"spec": {"hostname": "", "hostNetwork": false, "nodeSelector": {},
            "setHostnameAsFQDN": false, "hostAliases": [],
            "containers": [{"name": "", "ports": [{"containerPort": 0, "hostPort": 0}],
                "resources": {"limits": {}}, "env": [{"name": "A", "value": ""}]}]}});
        drop_zeros(find_kind("", "v1", "Pod").unwrap(), &mut pod);
        let left = json!({"spec": {"setHostnameAsFQDN": false,
            "containers": [{"name": "", "ports": [{"containerPort": 0}],
                "resources": {}, "env": [{"name": "A"}]}]}});
        assert_eq!(pod, left);
    }

    #[test]
    fn what_is_always_written_is_filled_in() {
        let kind = find_kind("apps", "v1", "StatefulSet").unwrap();
        let mut set = json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}});
        let mut with_nulls = set.clone();
        fill(kind, &mut set);
        let container = json!({"name": "c", "resources": {}});
        let filled = json!({"metadata": {}, "status": {"replicas": 0, "availableReplicas": 0},
            "spec": {"serviceName": "", "updateStrategy": {},
                "template": {"metadata": {}, "spec": {"containers": [container]}}}});
        assert_eq!(set, filled);
        fill_with_nulls(kind, &mut with_nulls);
        assert_eq!(with_nulls["spec"]["selector"], Value::Null);
        assert!(
            with_nulls["spec"]
                .as_object()
                .unwrap()
                .contains_key("selector")
        );
    }
}
