//! Which manager owns which fields: `metadata.managedFields`.

use serde_json::{Value, json};

use crate::comparison::Comparison;
use crate::fields::Fields;
use crate::resource::Resource;

/// What nobody owns: the server writes it, or it is the object's identity.
const UNOWNED: [&[&str]; 11] = [
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// One entry of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) operation: String,
    pub(crate) subresource: String,
    api_version: String,
    time: Value,
    pub(crate) fields: Fields,
}

impl Entry {
    pub(crate) fn new(
        manager: &str,
        operation: &str,
        subresource: &str,
        api_version: String,
    ) -> Self {
        Self {
            manager: manager.to_owned(),
            operation: operation.to_owned(),
            subresource: subresource.to_owned(),
            api_version,
            time: Value::Null,
            fields: Fields::default(),
        }
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
    }

    fn rank(&self) -> (&str, &str, &str, &str) {
        let time = self.time.as_str().unwrap_or_default();
        (&self.operation, time, &self.manager, &self.subresource)
    }

    /// Takes what another owns now; that is no change of its own, so its time stays.
    pub(crate) fn leave(&mut self, fields: Fields) {
        self.fields = fields;
    }

    /// Replaces what it owns; the time says when that last changed.
    pub(crate) fn set(&mut self, fields: Fields, now: &str) {
        if self.fields != fields || self.time.is_null() {
            self.time = now.into();
            self.fields = fields;
        }
    }

    /// Who it is, in the words of a conflict.
    pub(crate) fn description(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation != "Apply" {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn from_json(entry: &Value) -> Self {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        Self {
            manager: text("manager"),
            operation: text("operation"),
            subresource: text("subresource"),
            api_version: text("apiVersion"),
            time: entry["time"].clone(),
            fields: Fields::from_json(&entry["fieldsV1"]),
        }
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
        if !self.time.is_null() {
            entry["time"] = self.time.clone();
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
    }
}

/// The owners a request leaves an object that it sends whole: those it names itself, or else
/// those the object has. Kubernetes lets a client write them, so that it can give fields
/// away, and lets nobody forget them by accident.
pub(crate) fn named_or_held(said: &Value, old: &Value) -> Vec<Entry> {
    let readable = |entry: &Value| {
        matches!(entry["operation"].as_str(), Some("Apply" | "Update"))
            && entry["fieldsType"] == "FieldsV1"
            && entry["fieldsV1"].is_object()
    };
    match said.as_array() {
        Some(list) if !list.is_empty() && list.iter().all(readable) => {
            list.iter().map(Entry::from_json).collect()
        }
        _ => entries(old),
    }
}

/// Reads the entries of an object.
pub(crate) fn entries(object: &Value) -> Vec<Entry> {
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter().flatten().map(Entry::from_json).collect()
}

/// Writes the entries that own something into an object.
pub(crate) fn write(object: &mut Value, entries: &[Entry]) {
    let unowned = Fields::at(UNOWNED);
    let mut held: Vec<Entry> = entries
        .iter()
        .map(|entry| Entry {
            fields: entry.fields.minus(&unowned),
            ..entry.clone()
        })
        .filter(|entry| !entry.fields.is_empty())
        .collect();
    // Applies first, then the older ones, as Kubernetes orders them.
    held.sort_by(|one, other| one.rank().cmp(&other.rank()));
    let list: Vec<Value> = held.iter().map(Entry::to_json).collect();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if !list.is_empty() {
            metadata.insert("managedFields".to_owned(), list.into());
        }
    }
}

/// What a request at the main endpoint, or at `part`, does not change, and can't own.
pub(crate) fn ignored(resource: &Resource, part: &str) -> Fields {
    if part == "status" {
        return Fields::at(resource.strategy.outside_status().iter().copied());
    }
    match resource.subresource("status") {
        Some(_) => Fields::at([&["status"][..]]),
        None => Fields::default(),
    }
}

/// What `writer` owns of an object it creates. A kind's empty object has parts already.
pub(crate) fn created(
    object: &Value,
    mut writer: Entry,
    resource: &Resource,
    now: &str,
) -> Vec<Entry> {
    let strategy = &*resource.strategy;
    let (empty, object) = (strategy.written(&json!({})), strategy.written(object));
    let fields = Comparison::of(&empty, &object, strategy)
        .outside(&ignored(resource, ""))
        .set();
    writer.set(fields, now);
    vec![writer]
}

/// Who owns what after `writer` changed `old` to what it `wanted`, defaults filled in, when
/// `entries` did before. An object without owners stays without: it was never applied, or
/// its owners were dropped on purpose.
pub(crate) fn follow(
    mut entries: Vec<Entry>,
    old: &Value,
    wanted: &Value,
    writer: Entry,
    resource: &Resource,
    now: &str,
) -> Vec<Entry> {
    if entries.is_empty() {
        return entries;
    }
    let strategy = &*resource.strategy;
    let change = Comparison::of(&strategy.written(old), &strategy.written(wanted), strategy)
        .outside(&ignored(resource, &writer.subresource));
    let set = change.set();
    for entry in &mut entries {
        entry.fields = entry.fields.minus(&change.removed);
        if !entry.is(&writer) {
            entry.fields = entry.fields.minus(&set);
        }
    }
    if !set.is_empty() {
        match entries.iter_mut().find(|entry| entry.is(&writer)) {
            Some(entry) => {
                entry.fields.unite(&set);
                entry.time = now.into();
            }
            None => {
                let mut writer = writer;
                writer.set(set, now);
                entries.push(writer);
            }
        }
    }
    gather_ancient(entries)
}

/// So many managers that update are told apart, as in Kubernetes; the oldest beyond that
/// become one.
const UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

fn gather_ancient(mut entries: Vec<Entry>) -> Vec<Entry> {
    let updates = |entries: &[Entry]| {
        let all = entries.iter().enumerate();
        all.filter(|(_, entry)| entry.operation == "Update" && !entry.fields.is_empty())
            .map(|(at, entry)| (entry.time.to_string(), entry.manager.clone(), at))
            .collect::<Vec<_>>()
    };
    loop {
        let mut updaters = updates(&entries);
        if updaters.len() <= UPDATERS {
            return entries;
        }
        // Times have one form and sort as texts.
        updaters.sort();
        let [(_, _, oldest), (_, _, next), ..] = updaters.as_slice() else {
            return entries;
        };
        let (oldest, next) = (*oldest, *next);
        let fields = std::mem::take(&mut entries[oldest].fields);
        entries[next].fields.unite(&fields);
        ANCIENT.clone_into(&mut entries[next].manager);
        entries[next].subresource.clear();
        entries.remove(oldest);
    }
}
