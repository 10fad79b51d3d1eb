//! Which manager owns which fields: `metadata.managedFields`.
//!
//! A set of fields is a tree. Its elements are written as in `FieldsV1`: `f:name` for a
//! field, `k:{…}` for an element of a list with keys, `v:…` for an element of a set, and
//! `.` for the thing itself. Source: structured-merge-diff.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::resource::{ApplyList, Resource, Strategy};

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    own: bool,
    below: BTreeMap<String, Fields>,
}

/// Metadata nobody owns: the server writes it, or it is the object's identity.
const UNOWNED: [&str; 10] = [
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "managedFields",
    "selfLink",
];

impl Fields {
    fn leaf() -> Self {
        Self {
            own: true,
            below: BTreeMap::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.own && self.below.is_empty()
    }

    /// The fields of a whole object that can be owned.
    pub(crate) fn of_object(object: &Value, strategy: &dyn Strategy) -> Self {
        let mut all = Self::of(object, &mut Vec::new(), strategy);
        all.below.remove("f:apiVersion");
        all.below.remove("f:kind");
        if let Some(metadata) = all.below.get_mut("f:metadata") {
            for field in UNOWNED {
                metadata.below.remove(&format!("f:{field}"));
            }
            metadata.own = false;
            if metadata.is_empty() {
                all.below.remove("f:metadata");
            }
        }
        all
    }

    fn of<'a>(value: &'a Value, path: &mut Vec<&'a str>, strategy: &dyn Strategy) -> Self {
        let mut fields = Self::default();
        match value {
            Value::Object(map) if !map.is_empty() && !strategy.apply_map_is_atomic(path) => {
                for (key, value) in map {
                    path.push(key);
                    fields
                        .below
                        .insert(format!("f:{key}"), Self::of(value, path, strategy));
                    path.pop();
                }
            }
            Value::Array(list) if !list.is_empty() => match strategy.apply_list(path) {
                ApplyList::Atomic => return Self::leaf(),
                ApplyList::Set => {
                    let elements = list.iter().map(|one| (format!("v:{one}"), Self::leaf()));
                    fields.below.extend(elements);
                }
                ApplyList::Map(keys) => {
                    for one in list {
                        let mut element = Self::of(one, path, strategy);
                        element.own = true;
                        fields.below.insert(key_element(one, &keys), element);
                    }
                }
            },
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => return Self::leaf(),
        }
        fields
    }

    /// Keeps the fields below `name`, or all others.
    pub(crate) fn restrict(&mut self, name: &str, keep: bool) {
        let element = format!("f:{name}");
        self.below.retain(|one, _| (*one == element) == keep);
    }

    /// Adds the fields of `other`.
    pub(crate) fn unite(&mut self, other: &Self) {
        self.own |= other.own;
        for (element, fields) in &other.below {
            self.below.entry(element.clone()).or_default().unite(fields);
        }
    }

    /// The fields that are not in `other`. What `other` owns whole takes all below with it.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        if other.own && other.below.is_empty() {
            return Self::default();
        }
        let below = self.below.iter().filter_map(|(element, fields)| {
            let left = match other.below.get(element) {
                Some(theirs) => fields.minus(theirs),
                None => fields.clone(),
            };
            (!left.is_empty()).then(|| (element.clone(), left))
        });
        Self {
            own: self.own && !other.own,
            below: below.collect(),
        }
    }

    /// The fields that are not in `other`, and have nothing of `other` below them.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let below = self.below.iter().filter_map(|(element, fields)| {
            let left = match other.below.get(element) {
                Some(theirs) => Self {
                    own: false,
                    ..fields.without(theirs)
                },
                None => fields.clone(),
            };
            (!left.is_empty()).then(|| (element.clone(), left))
        });
        Self {
            own: self.own && other.is_empty(),
            below: below.collect(),
        }
    }

    /// The fields that `value` has.
    pub(crate) fn within(&self, value: &Value) -> Self {
        let below = self.below.iter().filter_map(|(element, fields)| {
            let left = fields.within(child(value, element)?);
            (!left.is_empty()).then(|| (element.clone(), left))
        });
        Self {
            own: self.own,
            below: below.collect(),
        }
    }

    /// The fields whose values differ between two objects.
    pub(crate) fn differing(&self, new: Option<&Value>, old: Option<&Value>) -> Self {
        let below = self.below.iter().filter_map(|(element, fields)| {
            let at = |value: Option<&Value>| value.and_then(|value| child(value, element)).cloned();
            let (new, old) = (at(new), at(old));
            let left = fields.differing(new.as_ref(), old.as_ref());
            (!left.is_empty()).then(|| (element.clone(), left))
        });
        let whole = if self.below.is_empty() {
            new != old
        } else {
            old.is_none()
        };
        Self {
            own: self.own && whole,
            below: below.collect(),
        }
    }

    /// The paths of fields that both sets own, as messages show them: `.spec.replicas`.
    pub(crate) fn shared(&self, other: &Self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_shared(other, &mut String::new(), &mut paths);
        paths
    }

    fn collect_shared(&self, other: &Self, path: &mut String, out: &mut Vec<String>) {
        for (element, fields) in &self.below {
            let Some(theirs) = other.below.get(element) else {
                continue;
            };
            let length = path.len();
            path.push_str(&shown(element));
            // One owns the whole of what the other owns, or owns a part of.
            if (fields.own && fields.below.is_empty()) || (theirs.own && theirs.below.is_empty()) {
                out.push(path.clone());
            } else {
                fields.collect_shared(theirs, path, out);
            }
            path.truncate(length);
        }
    }

    /// Takes these fields out of `value`.
    pub(crate) fn remove_from(&self, value: &mut Value) {
        for (element, fields) in &self.below {
            let gone = fields.own;
            match (element.split_at_checked(2), &mut *value) {
                (Some(("f:", name)), Value::Object(map)) => {
                    let Some(held) = map.get_mut(name) else {
                        continue;
                    };
                    if gone {
                        map.remove(name);
                        continue;
                    }
                    fields.remove_from(held);
                    let emptied = match held {
                        Value::Object(map) => map.is_empty(),
                        Value::Array(list) => list.is_empty(),
                        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
                    };
                    if emptied {
                        map.remove(name);
                    }
                }
                (Some(("k:" | "v:", _)), Value::Array(list)) => {
                    if gone {
                        list.retain(|one| !is_element(one, element));
                    } else if let Some(held) = list.iter_mut().find(|one| is_element(one, element))
                    {
                        fields.remove_from(held);
                    }
                }
                _ => {}
            }
        }
    }

    /// `fieldsV1`.
    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.own && !self.below.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        for (element, fields) in &self.below {
            map.insert(element.clone(), fields.to_json());
        }
        Value::Object(map)
    }

    /// Reads `fieldsV1`.
    pub(crate) fn from_json(value: &Value) -> Self {
        let mut fields = Self::default();
        for (element, value) in value.as_object().into_iter().flatten() {
            if element == "." {
                fields.own = true;
                continue;
            }
            let mut below = Self::from_json(value);
            below.own |= below.below.is_empty();
            fields.below.insert(element.clone(), below);
        }
        fields
    }
}

/// What names an element of a list: `k:{…}` by its keys, or `v:…` by its value.
pub(crate) fn element(one: &Value, rule: &ApplyList) -> String {
    match rule {
        ApplyList::Map(keys) => key_element(one, keys),
        ApplyList::Set | ApplyList::Atomic => format!("v:{one}"),
    }
}

/// `k:{"name":"x"}` of an element of a list with keys.
fn key_element(element: &Value, keys: &[String]) -> String {
    let key: Map<String, Value> = keys
        .iter()
        .filter_map(|key| Some((key.clone(), element.get(key)?.clone())))
        .collect();
    format!("k:{}", Value::Object(key))
}

/// Whether a list's element is the one named.
fn is_element(value: &Value, element: &str) -> bool {
    if let Some(text) = element.strip_prefix("v:") {
        return serde_json::from_str::<Value>(text).is_ok_and(|wanted| wanted == *value);
    }
    let Some(keys) = element.strip_prefix("k:") else {
        return false;
    };
    let Ok(Value::Object(keys)) = serde_json::from_str(keys) else {
        return false;
    };
    keys.iter()
        .all(|(key, wanted)| value.get(key) == Some(wanted))
}

fn child<'a>(value: &'a Value, element: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(element.strip_prefix("f:")?),
        Value::Array(list) => list.iter().find(|one| is_element(one, element)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// An element as a path has it: `.name`, `[key=value]`, `[=value]`.
pub(crate) fn shown(element: &str) -> String {
    if let Some(name) = element.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(value) = element.strip_prefix("v:") {
        return format!("[={value}]");
    }
    let keys: Value = serde_json::from_str(element.trim_start_matches("k:")).unwrap_or_default();
    let keys: Vec<String> = keys
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("[{}]", keys.join(","))
}

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
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
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
    let mut held: Vec<&Entry> = entries
        .iter()
        .filter(|entry| !entry.fields.is_empty())
        .collect();
    // Applies first, then the older ones, as Kubernetes orders them.
    held.sort_by_key(|entry| {
        let time = entry.time.as_str().unwrap_or_default();
        (&entry.operation, time, &entry.manager, &entry.subresource)
    });
    let list: Vec<Value> = held.into_iter().map(Entry::to_json).collect();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if !list.is_empty() {
            metadata.insert("managedFields".to_owned(), list.into());
        }
    }
}

/// The fields of `object` that a request at its main endpoint or at `part` of it can own:
/// the status has an endpoint of its own, and no other.
fn reachable(object: &Value, strategy: &dyn Strategy, part: &str, has_status: bool) -> Fields {
    let mut fields = Fields::of_object(object, strategy);
    if part == "status" {
        fields.restrict("status", true);
    } else if has_status {
        fields.restrict("status", false);
    }
    fields
}

/// What `writer` owns of an object it creates.
pub(crate) fn created(
    object: &Value,
    mut writer: Entry,
    resource: &Resource,
    now: &str,
) -> Vec<Entry> {
    let has_status = resource.subresource("status").is_some();
    let fields = reachable(object, &*resource.strategy, "", has_status);
    writer.set(fields, now);
    vec![writer]
}

/// What a request, other than an apply, makes of an object.
pub(crate) struct Change<'a> {
    /// As it was.
    pub(crate) old: &'a Value,
    /// As the request wants it, defaults filled in.
    pub(crate) wanted: &'a Value,
    /// As it will be.
    pub(crate) new: &'a Value,
}

/// Who owns what after a change by `writer`, when `entries` did before. An object without
/// owners stays without: it was never applied, or its owners were dropped on purpose.
pub(crate) fn follow(
    mut entries: Vec<Entry>,
    change: &Change<'_>,
    writer: Entry,
    resource: &Resource,
    now: &str,
) -> Vec<Entry> {
    if entries.is_empty() {
        return entries;
    }
    let has_status = resource.subresource("status").is_some();
    let strategy = &*resource.strategy;
    let changed = reachable(change.wanted, strategy, &writer.subresource, has_status)
        .differing(Some(change.wanted), Some(change.old))
        .within(change.new);
    for entry in &mut entries {
        entry.fields = entry.fields.within(change.new);
        if !entry.is(&writer) {
            entry.fields = entry.fields.minus(&changed);
        }
    }
    if !changed.is_empty() {
        match entries.iter_mut().find(|entry| entry.is(&writer)) {
            Some(entry) => {
                entry.fields.unite(&changed);
                entry.time = now.into();
            }
            None => {
                let mut writer = writer;
                writer.set(changed, now);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::from_json(&value)
    }

    #[test]
    fn what_is_taken_away_leaves_what_is_around_it() {
        let held =
            json!({"f:list": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}});
        let taken = json!({"f:list": {"k:{\"name\":\"c\"}": {"f:image": {}}}});
        let left = json!({"f:list": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}}}});
        assert_eq!(fields(held.clone()).minus(&fields(taken)).to_json(), left);
        let whole = fields(json!({"f:list": {}}));
        assert!(fields(held).minus(&whole).is_empty());
    }
}
