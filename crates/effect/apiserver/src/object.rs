//! A stored object: its JSON text, and what lists and watches look at.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

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
            json: Bytes::from(value.to_string()),
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
            fields: OnceLock::new(),
        })
    }

    /// The document.
    pub(crate) fn value(&self) -> Value {
        // The text was made by serialising a document.
        serde_json::from_slice(&self.json).unwrap_or_default()
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

/// The place of an object in its collection: `namespace/name`, `/name` for kinds without
/// namespaces. Their order is the order of lists.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
