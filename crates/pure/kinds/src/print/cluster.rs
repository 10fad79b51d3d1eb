//! Columns of nodes, namespaces, configuration and events.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, NAME, age, name, number_column, or_none, since, text_column, wide};
use crate::Column;
use crate::read::{at, flag, int, list, map, text};

pub(crate) const NODE: &[Column] = &[
    NAME,
    text_column("Status", "Whether the node is ready."),
    text_column("Roles", "Roles, from the labels node-role.kubernetes.io/*."),
    AGE,
    text_column("Version", "Version of the kubelet."),
    wide("Internal-IP", "Address inside the cluster."),
    wide("External-IP", "Address outside the cluster."),
    wide("OS-Image", "Operating system."),
    wide("Kernel-Version", "Version of the kernel."),
    wide("Container-Runtime", "Container runtime."),
];

pub(crate) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = list(object, &["status", "conditions"])
        .iter()
        .find(|condition| text(condition, &["type"]) == "Ready");
    let mut status = match ready {
        Some(condition) if text(condition, &["status"]) == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(object, &["spec", "unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    let info = |field: &str| -> Value {
        match text(object, &["status", "nodeInfo", field]) {
            "" => "<unknown>".into(),
            value => value.into(),
        }
    };
    let address = |wanted: &str| {
        let found = list(object, &["status", "addresses"])
            .iter()
            .find(|address| text(address, &["type"]) == wanted);
        or_none(
            found
                .map_or("", |address| text(address, &["address"]))
                .to_owned(),
        )
    };
    vec![
        name(object),
        status.into(),
        roles(object).into(),
        age(object, now),
        text(object, &["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = map(node, &["metadata", "labels"])
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => Some(role),
                _ if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
                _ => None,
            },
        )
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(roles.join(","))
}

pub(crate) const NAMESPACE: &[Column] =
    &[NAME, text_column("Status", "Active or Terminating."), AGE];

pub(crate) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    let phase = text(object, &["status", "phase"]);
    vec![name(object), phase.into(), age(object, now)]
}

pub(crate) const CONFIG_MAP: &[Column] = &[NAME, text_column("Data", "Number of entries."), AGE];

pub(crate) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let entries = |field| map(object, &[field]).map_or(0, serde_json::Map::len);
    let data = entries("data") + entries("binaryData");
    vec![name(object), data.into(), age(object, now)]
}

pub(crate) const SECRET: &[Column] = &[
    NAME,
    text_column("Type", "What the secret is for."),
    text_column("Data", "Number of entries."),
    AGE,
];

pub(crate) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    let data = map(object, &["data"]).map_or(0, serde_json::Map::len);
    vec![
        name(object),
        text(object, &["type"]).into(),
        data.into(),
        age(object, now),
    ]
}

pub(crate) const SERVICE_ACCOUNT: &[Column] = &[
    NAME,
    text_column("Secrets", "Number of secrets pods of this account may use."),
    AGE,
];

pub(crate) fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    let secrets = list(object, &["secrets"]).len();
    vec![name(object), secrets.into(), age(object, now)]
}

pub(crate) const LEASE: &[Column] = &[NAME, text_column("Holder", "Who holds the lease."), AGE];

pub(crate) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    let holder = text(object, &["spec", "holderIdentity"]);
    vec![name(object), holder.into(), age(object, now)]
}

pub(crate) const EVENT: &[Column] = &[
    text_column("Last Seen", "When the event was last recorded."),
    text_column("Type", "Normal or Warning."),
    text_column("Reason", "Why, in one word."),
    text_column("Object", "The object the event is about."),
    wide("Subobject", "The part of the object the event is about."),
    wide("Source", "Who recorded the event."),
    text_column("Message", "What happened."),
    wide("First Seen", "When the event was first recorded."),
    Column {
        priority: 1,
        column_type: "string",
        ..number_column("Count", "How often the event occurred.")
    },
    Column {
        priority: 1,
        ..NAME
    },
];

pub(crate) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let first = match at(object, &["firstTimestamp"]) {
        Some(time) => since(Some(time), now),
        None => since(at(object, &["eventTime"]), now),
    };
    let mut last = match at(object, &["lastTimestamp"]) {
        Some(time) => since(Some(time), now),
        None => first.clone(),
    };
    let mut count = int(object, &["count"])
        .filter(|&count| count != 0)
        .unwrap_or(1);
    if at(object, &["series"]).is_some() {
        last = since(at(object, &["series", "lastObservedTime"]), now);
        count = int(object, &["series", "count"]).unwrap_or(0);
    }
    let kind = text(object, &["involvedObject", "kind"]).to_lowercase();
    let target = match text(object, &["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        text(object, &["type"]).into(),
        text(object, &["reason"]).into(),
        target.into(),
        text(object, &["involvedObject", "fieldPath"]).into(),
        source(object).into(),
        text(object, &["message"]).trim().into(),
        first.into(),
        count.into(),
        name(object),
    ]
}

/// The row of an Event of events.k8s.io.
pub(crate) fn regarding_event(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut object = object.clone();
    crate::view::store_event(&mut object);
    event(&object, now)
}

fn source(event: &Value) -> String {
    let or = |old: &[&str], new: &str| match text(event, old) {
        "" => text(event, &[new]).to_owned(),
        found => found.to_owned(),
    };
    let component = or(&["source", "component"], "reportingComponent");
    match or(&["source", "host"], "reportingInstance") {
        host if host.is_empty() => component,
        host => format!("{component}, {host}"),
    }
}
