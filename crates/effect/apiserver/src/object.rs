//! A stored object: its JSON text, and what lists and watches look at.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::resource::{Resource, Strategy};

/// One version of an object. The text is kept, not the document: it is what clients get,
/// and takes a tenth of the memory.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Box<str>,
    pub(crate) version: u64,
    pub(crate) json: Bytes,
    /// What watches tell of the change that made it: all that do send the same bytes.
    line: Option<(&'static str, Bytes)>,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: OnceLock<Box<[Box<str>]>>,
}

/// What of a stored document is looked at; the rest is only checked to be JSON.
#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    metadata: StoredMeta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StoredMeta {
    namespace: Box<str>,
    name: Box<str>,
    uid: Box<str>,
    resource_version: String,
    labels: Option<BTreeMap<String, Option<Box<str>>>>,
}

impl Object {
    /// The object that `value` describes; `metadata.resourceVersion` must be `version`.
    pub(crate) fn new(value: &Value, version: u64) -> Self {
        Self::of(value, version, text_of(value, b"", b""), None)
    }

    /// The object that `value` describes, which a change of this `kind` made.
    pub(crate) fn changed(value: &Value, version: u64, kind: &'static str) -> Self {
        let (before, after) = event_frame(kind);
        let line = text_of(value, &before, after);
        let json = line.slice(before.len()..line.len() - after.len());
        Self::of(value, version, json, Some((kind, line)))
    }

    fn of(value: &Value, version: u64, json: Bytes, line: Option<(&'static str, Bytes)>) -> Self {
        let meta = &value["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default().into();
        let labels = meta["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| {
                let value = value.as_str().unwrap_or_default();
                (key.as_str().into(), value.into())
            })
            .collect();
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            version,
            json,
            line,
            labels,
            fields: OnceLock::new(),
        }
    }

    /// The object as it was stored.
    pub(crate) fn from_json(json: Vec<u8>) -> Result<Self, serde_json::Error> {
        // Reading all of the document takes many times as long, and a start reads all objects.
        let Stored { metadata } = serde_json::from_slice(&json)?;
        let labels = metadata.labels.into_iter().flatten();
        Ok(Self {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            version: metadata.resource_version.parse().unwrap_or_default(),
            labels: labels
                .map(|(key, value)| (key.into_boxed_str(), value.unwrap_or_default()))
                .collect(),
            json: Bytes::from(json),
            line: None,
            fields: OnceLock::new(),
        })
    }

    /// The line of a watch that tells of the object as this `kind` of event, if it was made with
    /// the object.
    pub(crate) fn line(&self, kind: &str) -> Option<&Bytes> {
        let (made, line) = self.line.as_ref()?;
        (*made == kind).then_some(line)
    }

    /// The document.
    pub(crate) fn value(&self) -> Value {
        // The text was made by serialising a document.
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// The document without its managers, which are as long as the rest. A start looks at many.
    pub(crate) fn outline(&self) -> Value {
        serde_json::from_slice(&self.json)
            .map(|Outline(value)| value)
            .unwrap_or_default()
    }

    /// The object as clients of `resource` read it.
    pub(crate) fn seen_as(self: &Arc<Self>, resource: &Resource) -> Arc<Self> {
        if resource.strategy.reads_as_stored(&self.json, self.version) {
            return self.clone();
        }
        let mut value = self.value();
        resource.strategy.read_stored(&mut value);
        Arc::new(Self::new(&value, self.version))
    }

    /// Its place in its collection: `namespace/name`.
    pub(crate) fn key(&self) -> String {
        key(&self.namespace, &self.name)
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(name, _)| &**name == key)
            .map(|(_, value)| &**value)
    }

    /// What a field selector compares; `None` for a field that can't be selected by.
    pub(crate) fn field(&self, strategy: &dyn Strategy, field: &str) -> Option<&str> {
        match field {
            "metadata.name" => return Some(&self.name),
            "metadata.namespace" => return Some(&self.namespace),
            _ => {}
        }
        let names = strategy.field_names();
        let at = names.iter().position(|name| *name == field)?;
        let fields = self.fields.get_or_init(|| {
            let value = self.value();
            names
                .iter()
                .map(|name| strategy.field_value(&value, name).into())
                .collect()
        });
        fields.get(at).map(|text| &**text)
    }
}

/// What stands before and behind an object in the line of a watch.
pub(crate) fn event_frame(kind: &str) -> (Vec<u8>, &'static [u8]) {
    (
        format!("{{\"type\":\"{kind}\",\"object\":").into_bytes(),
        b"}\n",
    )
}

/// The text of a document between two others. It is kept for long, so it takes no more room than
/// it needs.
fn text_of(value: &Value, before: &[u8], after: &[u8]) -> Bytes {
    /// Most objects are shorter.
    const USUAL: usize = 4 << 10;
    let mut text = Vec::with_capacity(USUAL);
    text.extend_from_slice(before);
    // Writing a document into memory can't fail.
    let _ = serde_json::to_writer(&mut text, value);
    text.extend_from_slice(after);
    Bytes::from(text.into_boxed_slice())
}

struct Outline(Value);

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Without {
            left_out: None,
            inside: Some(("metadata", "managedFields")),
        })
        .map(Outline)
    }
}

/// Reads a map without one of its fields, or without a field of one of its fields.
#[derive(Clone, Copy)]
struct Without {
    left_out: Option<&'static str>,
    inside: Option<(&'static str, &'static str)>,
}

impl<'de> Visitor<'de> for Without {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            if self.left_out == Some(key.as_str()) {
                from.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = match self.inside {
                Some((outer, field)) if outer == key => from.next_value_seed(Without {
                    left_out: Some(field),
                    inside: None,
                })?,
                _ => from.next_value()?,
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

impl<'de> DeserializeSeed<'de> for Without {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_map(self)
    }
}

/// The place of an object in its collection: `namespace/name`, `/name` for kinds without
/// namespaces. Their order is the order of lists.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_outline_lacks_only_the_managers() {
        let mut value = json!({
            "kind": "Widget",
            "metadata": {"name": "a", "labels": {"managedFields": "x"}, "managedFields": [{"manager": "m"}]},
            "spec": {"managedFields": [1], "metadata": {"managedFields": 2}},
        });
        let object = Object::new(&value, 1);
        value["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
        assert_eq!(object.outline(), value);
    }
}
