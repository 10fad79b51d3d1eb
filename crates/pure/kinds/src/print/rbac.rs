//! Columns of the RBAC kinds.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, NAME, age, name, text_column, wide};
use crate::Column;
use crate::read::{list, text};

pub(crate) const ROLE: &[Column] = &[
    NAME,
    Column {
        column_type: "date",
        ..text_column("Created At", "When the object was created.")
    },
];

pub(crate) fn role(object: &Value, _: Timestamp) -> Vec<Value> {
    let created = text(object, &["metadata", "creationTimestamp"]);
    vec![name(object), created.into()]
}

pub(crate) const ROLE_BINDING: &[Column] = &[
    NAME,
    text_column("Role", "The role that is granted."),
    AGE,
    wide("Users", "Users in the binding."),
    wide("Groups", "Groups in the binding."),
    wide(
        "ServiceAccounts",
        "Service accounts in the binding, with their namespaces.",
    ),
];

pub(crate) fn role_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        text(object, &["roleRef", "kind"]),
        text(object, &["roleRef", "name"])
    );
    let subjects = |kind: &str| -> Value {
        let names: Vec<String> = list(object, &["subjects"])
            .iter()
            .filter(|subject| text(subject, &["kind"]) == kind)
            .map(|subject| {
                let name = text(subject, &["name"]);
                match kind {
                    "ServiceAccount" => format!("{}/{name}", text(subject, &["namespace"])),
                    _ => name.to_owned(),
                }
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        name(object),
        role.into(),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
