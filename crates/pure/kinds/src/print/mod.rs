//! The columns of `kubectl get`, as a Kubernetes API server sends them.

mod cluster;
mod duration;
mod network;
mod networking;
mod pod;
mod rbac;
mod storage;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Column;
use crate::read::{at, list, map, text, texts};

pub use duration::human_duration;

pub(crate) use cluster::*;
pub(crate) use network::*;
pub(crate) use networking::*;
pub(crate) use pod::*;
pub(crate) use rbac::*;
pub(crate) use storage::*;
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

/// The first few of a list, and how many more there are.
fn shortened(all: &[String], empty: &str) -> String {
    const SHOWN: usize = 3;
    if all.is_empty() {
        return empty.to_owned();
    }
    let shown = all[..all.len().min(SHOWN)].join(",");
    if all.len() > SHOWN {
        format!("{shown} + {} more...", all.len() - SHOWN)
    } else {
        shown
    }
}

/// A label selector as text: `app=web,tier in (a,b),!old`.
fn label_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return "<none>".to_owned();
    };
    let mut parts: Vec<(String, String)> = map(selector, &["matchLabels"])
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            (
                key.clone(),
                format!("{key}={}", value.as_str().unwrap_or("")),
            )
        })
        .collect();
    for requirement in list(selector, &["matchExpressions"]) {
        let key = text(requirement, &["key"]);
        let mut values = texts(requirement, &["values"]);
        values.sort_unstable();
        let values = values.join(",");
        let shown = match text(requirement, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => format!("{key} {other} ({values})"),
        };
        parts.push((key.to_owned(), shown));
    }
    parts.sort();
    let shown: Vec<String> = parts.into_iter().map(|(_, shown)| shown).collect();
    or_none(shown.join(","))
}
