//! The columns of `kubectl get`, as a Kubernetes API server sends them.

mod cluster;
mod duration;
mod network;
mod pod;
mod rbac;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Column;
use crate::read::{at, text};

pub use duration::human_duration;

pub(crate) use cluster::*;
pub(crate) use network::*;
pub(crate) use pod::*;
pub(crate) use rbac::*;
pub(crate) use workload::*;

const NAME: Column = Column {
    name: "Name",
    column_type: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};

const AGE: Column = text_column("Age", "Time since the object was created.");

const fn text_column(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        column_type: "string",
        format: "",
        description,
        priority: 0,
    }
}

const fn number_column(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        column_type: "integer",
        format: "",
        description,
        priority: 0,
    }
}

/// A column of `-o wide`.
const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        column_type: "string",
        format: "",
        description,
        priority: 1,
    }
}

/// The columns of a kind that has no others.
pub(crate) const NAME_AND_AGE: &[Column] = &[NAME, AGE];

pub(crate) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

fn name(object: &Value) -> Value {
    text(object, &["metadata", "name"]).into()
}

fn age(object: &Value, now: Timestamp) -> Value {
    since(at(object, &["metadata", "creationTimestamp"]), now).into()
}

/// How long ago a time of the API was.
fn since(time: Option<&Value>, now: Timestamp) -> String {
    match time.and_then(Value::as_str).map(str::parse::<Timestamp>) {
        Some(Ok(time)) => human_duration(now.as_second() - time.as_second()),
        Some(Err(_)) => "<invalid>".to_owned(),
        None => "<unknown>".to_owned(),
    }
}

fn count(object: &Value, path: &[&str]) -> Value {
    json!(crate::read::int(object, path).unwrap_or(0))
}

/// `k=v,k2=v2`, or `<none>`.
fn labels(object: &Value, path: &[&str]) -> String {
    let pairs: Vec<String> = crate::read::map(object, path)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    or_none(pairs.join(","))
}

/// The text, or `<none>` for an empty one.
fn or_none(text: String) -> String {
    if text.is_empty() {
        "<none>".to_owned()
    } else {
        text
    }
}
