//! Sets of fields: which parts of an object somebody owns.
//!
//! A set is a tree. Its elements are written as in `FieldsV1`: `f:name` for a field, `k:{…}`
//! for an element of a list with keys, `v:…` for an element of a set, and `.` for the thing
//! itself. Source: structured-merge-diff.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::resource::{ApplyList, Strategy};

/// A set of fields: whether the thing itself is in it, and what is of the parts below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    own: bool,
    below: BTreeMap<String, Fields>,
}

impl Fields {
    /// The thing itself, and nothing below it.
    pub(crate) fn itself() -> Self {
        Self {
            own: true,
            below: BTreeMap::new(),
        }
    }

    /// The fields at these paths of names.
    pub(crate) fn at<'a>(paths: impl IntoIterator<Item = &'a [&'a str]>) -> Self {
        let mut fields = Self::default();
        for path in paths {
            let mut here = &mut fields;
            for name in path {
                here = here.below.entry(format!("f:{name}")).or_default();
            }
            here.own = true;
        }
        fields
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.own && self.below.is_empty()
    }

    /// Puts the thing itself into the set.
    pub(crate) fn take_itself(&mut self) {
        self.own = true;
    }

    /// Adds what is of the part called `element`.
    pub(crate) fn put(&mut self, element: String, fields: Fields) {
        if !fields.is_empty() {
            self.below.entry(element).or_default().unite(&fields);
        }
    }

    /// The fields that `value`, the part of an object at `path`, says something about.
    pub(crate) fn said<'a>(
        value: &'a Value,
        path: &mut Vec<&'a str>,
        strategy: &dyn Strategy,
    ) -> Self {
        let mut fields = Self::default();
        match value {
            Value::Object(map) if !strategy.apply_map_is_atomic(path) => {
                for (key, value) in map {
                    path.push(key);
                    let mut below = Self::said(value, path, strategy);
                    path.pop();
                    below.own |= value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    fields.put(format!("f:{key}"), below);
                }
            }
            Value::Array(list) => match strategy.apply_list(path) {
                ApplyList::Atomic => return Self::itself(),
                rule @ (ApplyList::Set | ApplyList::Map(_)) => {
                    for one in list {
                        let mut below = Self::said(one, path, strategy);
                        below.own = true;
                        fields.put(element(one, &rule), below);
                    }
                }
            },
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => return Self::itself(),
        }
        fields
    }

    /// Adds the fields of `other`.
    pub(crate) fn unite(&mut self, other: &Self) {
        self.own |= other.own;
        for (element, fields) in &other.below {
            self.below.entry(element.clone()).or_default().unite(fields);
        }
    }

    fn combine(&self, other: &Self, with: impl Fn(&Self, Option<&Self>) -> Self) -> Self {
        let below = self.below.iter().filter_map(|(element, fields)| {
            let left = with(fields, other.below.get(element));
            (!left.is_empty()).then(|| (element.clone(), left))
        });
        Self {
            own: false,
            below: below.collect(),
        }
    }

    /// The fields that are not in `other`, each for itself.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let below = self.combine(other, |fields, theirs| match theirs {
            Some(theirs) => fields.minus(theirs),
            None => fields.clone(),
        });
        Self {
            own: self.own && !other.own,
            ..below
        }
    }

    /// The fields that are neither in `other` nor below something that is.
    pub(crate) fn outside(&self, other: &Self) -> Self {
        if other.own {
            return Self::default();
        }
        let below = self.combine(other, |fields, theirs| match theirs {
            Some(theirs) => fields.outside(theirs),
            None => fields.clone(),
        });
        Self {
            own: self.own,
            ..below
        }
    }

    /// The fields that are in both sets.
    pub(crate) fn common(&self, other: &Self) -> Self {
        let below = self.combine(other, |fields, theirs| match theirs {
            Some(theirs) => fields.common(theirs),
            None => Self::default(),
        });
        Self {
            own: self.own && other.own,
            ..below
        }
    }

    /// The set with every field in it that has something below it.
    pub(crate) fn with_holders(&self) -> Self {
        let below = self.below.iter().map(|(element, fields)| {
            let mut fields = fields.with_holders();
            fields.own |= element.starts_with("f:") && !fields.below.is_empty();
            (element.clone(), fields)
        });
        Self {
            own: self.own,
            below: below.collect(),
        }
    }

    /// The paths of all fields, as messages show them: `.spec.replicas`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths(&mut String::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, path: &mut String, out: &mut Vec<String>) {
        let length = path.len();
        for (element, _) in self.below.iter().filter(|(_, fields)| fields.own) {
            out.push(format!("{path}{}", shown(element)));
        }
        for (element, fields) in &self.below {
            path.push_str(&shown(element));
            fields.collect_paths(path, out);
            path.truncate(length);
        }
    }

    /// Takes these fields out of `value`. What holds nothing then becomes null.
    pub(crate) fn remove_from(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, held| match self.below.get(&format!("f:{key}")) {
                    Some(fields) if fields.own => false,
                    Some(fields) => {
                        fields.remove_from(held);
                        true
                    }
                    None => true,
                });
                if map.is_empty() {
                    *value = Value::Null;
                }
            }
            Value::Array(list) => {
                let keys = self.element_keys();
                list.retain_mut(|one| {
                    let by_keys = keys.iter().map(|keys| key_element(one, keys));
                    let mut names = by_keys.chain([format!("v:{one}")]);
                    match names.find_map(|name| self.below.get(&name)) {
                        Some(fields) if fields.own => false,
                        Some(fields) => {
                            fields.without_keys(keys.as_deref()).remove_from(one);
                            true
                        }
                        None => true,
                    }
                });
                if list.is_empty() {
                    *value = Value::Null;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Without the fields by which an element of a list is named: they stay while it does.
    fn without_keys(&self, keys: Option<&[String]>) -> Self {
        let mut fields = self.clone();
        for key in keys.into_iter().flatten() {
            fields.below.remove(&format!("f:{key}"));
        }
        fields
    }

    /// The keys by which elements of this list are named: a list has one set of them.
    fn element_keys(&self) -> Option<Vec<String>> {
        let element = self.below.keys().find_map(|name| name.strip_prefix("k:"))?;
        let keys: Map<String, Value> = serde_json::from_str(element).ok()?;
        Some(keys.into_iter().map(|(key, _)| key).collect())
    }

    /// Whether all of these are in `held`, a set as [`Fields::to_json`] writes it.
    pub(crate) fn is_within(&self, held: &Value) -> bool {
        let Some(map) = held.as_object() else {
            return self.is_empty();
        };
        let below = self.below.iter();
        (!self.own || has_itself(map))
            && below
                .map(|(element, fields)| map.get(element).map(|held| fields.is_within(held)))
                .all(|within| within == Some(true))
    }

    /// Whether any of these is in `held`, a set as [`Fields::to_json`] writes it.
    pub(crate) fn meets(&self, held: &Value) -> bool {
        let Some(map) = held.as_object() else {
            return false;
        };
        let mut below = self.below.iter();
        (self.own && has_itself(map))
            || below
                .any(|(element, fields)| map.get(element).is_some_and(|held| fields.meets(held)))
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
            fields.put(one_form(element), below);
        }
        fields
    }
}

/// Whether a set has the thing itself: what has nothing below it is nothing else.
fn has_itself(map: &Map<String, Value>) -> bool {
    map.is_empty() || map.contains_key(".")
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

/// An element as we write it, however a client wrote its JSON.
fn one_form(element: &str) -> String {
    let parsed = element
        .split_at_checked(2)
        .filter(|(kind, _)| ["k:", "v:"].contains(kind))
        .and_then(|(kind, text)| Some((kind, serde_json::from_str::<Value>(text).ok()?)));
    match parsed {
        Some((kind, value)) => format!("{kind}{value}"),
        None => element.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::from_json(&value)
    }

    #[test]
    fn a_field_is_taken_away_for_itself_or_with_what_is_below() {
        let held = json!({"f:list": {".": {}, "k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}});
        let list = fields(json!({"f:list": {}}));
        let left = json!({"f:list": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}});
        assert_eq!(fields(held.clone()).minus(&list).to_json(), left);
        assert!(fields(held.clone()).outside(&list).is_empty());
        let image = fields(json!({"f:list": {"k:{\"name\":\"c\"}": {"f:image": {}}}}));
        let left = json!({"f:list": {".": {}, "k:{\"name\":\"c\"}": {}}});
        assert_eq!(fields(held.clone()).outside(&image).to_json(), left);
        assert_eq!(fields(held).common(&image), image);
    }

    #[test]
    fn what_loses_all_it_held_becomes_null() {
        let mut value = json!({"a": {"b": 1}, "c": [{"name": "x", "d": 1}, {"name": "y"}]});
        let gone = fields(json!({
            "f:a": {"f:b": {}},
            "f:c": {"k:{\"name\":\"x\"}": {"f:d": {}}, "k:{\"name\":\"y\"}": {}},
        }));
        gone.remove_from(&mut value);
        assert_eq!(value, json!({"a": null, "c": [{"name": "x"}]}));
        assert_eq!(gone.paths(), [".a.b", ".c[name=\"y\"]", ".c[name=\"x\"].d"]);
    }

    #[test]
    fn holders_are_fields_with_something_below() {
        let held = fields(json!({"f:a": {"f:b": {}}, "f:c": {"k:{\"n\":1}": {"f:d": {}}}}));
        let with = json!({
            "f:a": {".": {}, "f:b": {}},
            "f:c": {".": {}, "k:{\"n\":1}": {"f:d": {}}},
        });
        assert_eq!(held.with_holders().to_json(), with);
    }
}
