//! What depends on the kind, for definitions and for what they define.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::definition::{Definition, Scale, Version, list, text};
use super::{Common, FINALIZER, columns, rules};
use crate::object::Object;
use crate::resource::{
    ApplyList, Decoded, FieldError, PatchList, Resource, Strategy, WriteContext,
};
use crate::schema::{self, ListType};

/// The kind of definitions with the server's rules for them; its form is the table's.
pub(crate) fn definitions(row: &Resource, common: Common) -> Resource {
    Resource {
        strategy: Arc::new(Definitions {
            form: row.strategy.clone(),
            common,
        }),
        ..row.clone()
    }
}

struct Definitions {
    form: Arc<dyn Strategy>,
    common: Common,
}

/// Notes the storage version as one that objects may be stored in.
fn remember_storage(object: &mut Value) {
    let storage = list(&object["spec"], "versions")
        .find(|version| version["storage"] == true)
        .map(|version| version["name"].clone());
    let Some(storage) = storage else { return };
    match object["status"]["storedVersions"].as_array_mut() {
        Some(stored) if stored.contains(&storage) => {}
        Some(stored) => stored.push(storage),
        None => object["status"]["storedVersions"] = json!([storage]),
    }
}

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// Replaces a field, or removes it where `from` does not have it.
fn take(object: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => object[field] = value.clone(),
        None => crate::write::remove(object, field),
    }
}

impl Strategy for Definitions {
    fn decode(&self, object: &mut Value) -> Decoded {
        self.form.decode(object)
    }

    fn default(&self, object: &mut Value) {
        self.form.default(object);
        let spec = &mut object["spec"];
        if !spec.is_object() {
            return;
        }
        if spec["preserveUnknownFields"] == false {
            crate::write::remove(spec, "preserveUnknownFields");
        }
        if spec["conversion"].is_null() {
            spec["conversion"] = json!({"strategy": "None"});
        }
        let kind = text(&spec["names"], "kind").to_owned();
        if kind.is_empty() {
            return;
        }
        for (name, value) in [
            ("singular", kind.to_lowercase()),
            ("listKind", format!("{kind}List")),
        ] {
            if text(&spec["names"], name).is_empty() {
                spec["names"][name] = value.into();
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, _: WriteContext<'_>) {
        object["metadata"]["generation"] = 1.into();
        object["status"] = json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": []});
        remember_storage(object);
    }

    fn prepare_update(
        &self,
        object: &mut Value,
        old: &Value,
        subresource: Option<&str>,
        _: WriteContext<'_>,
    ) {
        if subresource == Some("status") {
            take(object, old, "spec");
            for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                let old = &old["metadata"];
                take(&mut object["metadata"], old, field);
            }
            return;
        }
        take(object, old, "status");
        remember_storage(object);
        if object["spec"] != old["spec"] {
            object["metadata"]["generation"] = (generation(old) + 1).into();
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = self.form.validate(object);
        errors.extend(rules::complaints(object, None, &*self.common));
        errors
    }

    fn validate_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Vec<FieldError> {
        let mut errors = self.form.validate_update(object, old, subresource);
        if subresource.is_none() {
            errors.extend(rules::complaints(object, Some(old), &*self.common));
        }
        errors
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| old["spec"] == object["spec"]) {
            return Vec::new();
        }
        rules::warnings(object)
    }

    fn patch_list(&self, path: &[&str]) -> Option<PatchList> {
        self.form.patch_list(path)
    }

    fn apply_list(&self, path: &[&str]) -> ApplyList {
        self.form.apply_list(path)
    }

    fn apply_map_is_atomic(&self, path: &[&str]) -> bool {
        self.form.apply_map_is_atomic(path)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.form.cells(object, now)
    }

    fn begin_delete(&self, object: &mut Value) {
        let metadata = &mut object["metadata"];
        // Kubernetes says nothing of grace here, of a Namespace neither.
        crate::write::remove(metadata, "deletionGracePeriodSeconds");
        match metadata["finalizers"].as_array_mut() {
            Some(all) if all.iter().any(|one| one == FINALIZER) => {}
            Some(all) => all.push(FINALIZER.into()),
            None => metadata["finalizers"] = json!([FINALIZER]),
        }
        let condition = json!({
            "type": "Terminating",
            "status": "True",
            "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            "lastTransitionTime": metadata["deletionTimestamp"],
        });
        match object["status"]["conditions"].as_array_mut() {
            Some(all) => all.push(condition),
            None => object["status"]["conditions"] = json!([condition]),
        }
    }
}

/// The strategy of one version of a defined kind.
pub(super) struct Custom {
    pub(super) definition: Arc<Definition>,
    /// Which of the definition's versions.
    pub(super) at: usize,
    pub(super) common: Common,
    /// The definition's own text: OpenAPI documents are made of it when somebody asks.
    pub(super) text: Arc<Object>,
    /// The version of the store since which the schemas are what they are.
    pub(super) since: u64,
    /// Turns true when this kind is no longer served like this.
    pub(super) ended: watch::Receiver<bool>,
    /// How the text of an object in this version begins.
    pub(super) beginning: String,
}

impl Custom {
    fn version(&self) -> &Version {
        &self.definition.versions[self.at]
    }

    fn api_version(&self, version: &str) -> String {
        format!("{}/{version}", self.definition.group)
    }

    fn scale_errors(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let Some(scale) = &self.version().scale else {
            return errors;
        };
        for path in [&scale.spec_replicas, &scale.status_replicas] {
            let value = path.iter().fold(object, |value, name| {
                value.get(name).unwrap_or(&Value::Null)
            });
            let complaint = match value.as_i64() {
                None if value.is_null() => continue,
                None => "should be an integer".to_owned(),
                Some(number) if number < 0 => "should be a non-negative integer".to_owned(),
                Some(number) if number > i64::from(i32::MAX) => {
                    format!("should be less than or equal to {}", i32::MAX)
                }
                Some(_) => continue,
            };
            let path = format!(".{}", path.join("."));
            errors.push(FieldError::invalid(path, value, &complaint));
        }
        errors
    }

    /// Resources inside the object: what they are must be said.
    fn embedded_errors(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut copy = object.clone();
        schema::each_embedded(&mut copy, &self.version().schema, &mut |inner, path| {
            for field in ["apiVersion", "kind"] {
                if text(inner, field).is_empty() {
                    let path = format!("{path}.{field}");
                    errors.push(FieldError::required(path, "must not be empty"));
                }
            }
        });
        errors
    }
}

impl Strategy for Custom {
    fn decode(&self, object: &mut Value) -> Decoded {
        let mut decoded = self.common.decode(object);
        let dropped = schema::prune(object, &self.version().schema);
        let unknown = dropped
            .iter()
            .map(|path| format!("unknown field \"{path}\""));
        decoded.unknown.extend(unknown);
        schema::each_embedded(object, &self.version().schema, &mut |inner, path| {
            for field in ["apiVersion", "kind"] {
                if inner.get(field).is_some_and(|value| !value.is_string()) {
                    decoded
                        .mismatches
                        .push(format!("{path}.{field}: must be string"));
                }
            }
            if inner.get("metadata").is_none() {
                return;
            }
            let inside = self.common.decode(inner);
            let within = |text: String| text.replacen("metadata", &format!("{path}.metadata"), 1);
            decoded
                .unknown
                .extend(inside.unknown.into_iter().map(within));
            decoded
                .mismatches
                .extend(inside.mismatches.into_iter().map(within));
        });
        decoded
    }

    fn default(&self, object: &mut Value) {
        schema::drop_nulls(object, &self.version().schema);
        schema::default(object, &self.version().schema);
    }

    fn prepare_create(&self, object: &mut Value, _: WriteContext<'_>) {
        if self.version().has_status {
            crate::write::remove(object, "status");
            // A status may have defaults, which every reader sees from the beginning.
            self.default(object);
        }
        object["metadata"]["generation"] = 1.into();
    }

    fn prepare_update(
        &self,
        object: &mut Value,
        old: &Value,
        subresource: Option<&str>,
        _: WriteContext<'_>,
    ) {
        if subresource == Some("status") {
            let status = object.get("status").cloned();
            *object = old.clone();
            match status {
                Some(status) => object["status"] = status,
                None => crate::write::remove(object, "status"),
            }
            self.default(object);
            return;
        }
        if self.version().has_status {
            take(object, old, "status");
        }
        let content = |value: &Value| {
            let fields = value.as_object().into_iter().flatten();
            fields
                .filter(|(name, _)| *name != "metadata")
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect::<Map<String, Value>>()
        };
        if content(object) != content(old) {
            object["metadata"]["generation"] = (generation(old) + 1).into();
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let schema = &self.version().schema;
        let mut errors = self.common.validate(object, self.definition.namespaced);
        errors.extend(schema::validate(object, None, schema, ""));
        errors.extend(self.scale_errors(object));
        errors.extend(self.embedded_errors(object));
        errors.extend(schema::duplicates(object, schema));
        errors
    }

    fn validate_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Vec<FieldError> {
        let schema = &self.version().schema;
        let namespaced = self.definition.namespaced;
        let mut errors = self.common.validate_update(object, old, namespaced);
        if subresource == Some("status") {
            if let (Some(status), Some(schema)) = (object.get("status"), schema.at(&["status"])) {
                errors.extend(schema::validate(
                    status,
                    old.get("status"),
                    schema,
                    "status",
                ));
            }
        } else {
            errors.extend(schema::validate(object, Some(old), schema, ""));
            errors.extend(self.embedded_errors(object));
        }
        errors.extend(self.scale_errors(object));
        if schema::duplicates(old, schema).is_empty() {
            errors.extend(schema::duplicates(object, schema));
        }
        errors
    }

    fn patch_list(&self, _: &[&str]) -> Option<PatchList> {
        None
    }

    fn apply_list(&self, path: &[&str]) -> ApplyList {
        match path {
            ["metadata", "finalizers"] => return ApplyList::Set,
            ["metadata", "ownerReferences"] => return ApplyList::Map(vec!["uid".to_owned()]),
            _ => {}
        }
        match self.version().schema.at(path).map(|schema| &schema.list) {
            Some(ListType::Set) => ApplyList::Set,
            Some(ListType::Map(keys)) => ApplyList::Map(keys.clone()),
            Some(ListType::Atomic) | None => ApplyList::Atomic,
        }
    }

    fn apply_map_is_atomic(&self, path: &[&str]) -> bool {
        let schema = self.version().schema.at(path);
        schema.is_some_and(|schema| schema.element().atomic_map)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::cells(&self.version().columns, object, now, &*self.common)
    }

    fn field_names(&self) -> Cow<'_, [&str]> {
        let fields = self.version().selectable.iter();
        Cow::Owned(fields.map(|(name, _)| name.as_str()).collect())
    }

    fn field_value(&self, object: &Value, field: &str) -> String {
        let fields = &self.version().selectable;
        let path = fields.iter().find(|(name, _)| name == field);
        match path.and_then(|(_, path)| path.first(object)) {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
            Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => String::new(),
        }
    }

    fn schema(&self) -> Option<Value> {
        let mut definition = self.text.value();
        let version = definition["spec"]["versions"]
            .as_array_mut()?
            .iter_mut()
            .find(|version| version["name"] == self.version().name.as_str())?;
        Some(version["schema"]["openAPIV3Schema"].take())
    }

    fn schema_mark(&self) -> Option<String> {
        Some(format!("{} {}", self.definition.uid, self.since))
    }

    fn definition(&self) -> Option<(&str, &str)> {
        Some((&self.definition.name, &self.definition.uid))
    }

    fn deprecation(&self) -> Option<&str> {
        self.version().deprecation.as_deref()
    }

    fn scale(&self) -> Option<&Scale> {
        self.version().scale.as_ref()
    }

    fn needs_version(&self) -> bool {
        true
    }

    fn ended(&self) -> Option<watch::Receiver<bool>> {
        Some(self.ended.clone())
    }

    fn reads_as_stored(&self, json: &[u8], version: u64) -> bool {
        version > self.since && json.starts_with(self.beginning.as_bytes())
    }

    fn read_stored(&self, object: &mut Value) {
        let versions = &self.definition.versions;
        let stored = text(object, "apiVersion");
        let stored = stored.rsplit('/').next().unwrap_or_default();
        let schema = versions
            .iter()
            .find(|version| version.name == stored)
            .or_else(|| versions.iter().find(|version| version.storage))
            .map(|version| &version.schema);
        if let Some(schema) = schema {
            schema::prune(object, schema);
            schema::drop_nulls(object, schema);
            schema::default(object, schema);
        }
        object["apiVersion"] = self.api_version(&self.version().name).into();
        schema::prune(object, &self.version().schema);
    }

    fn store(&self, object: &mut Value) {
        object["apiVersion"] = self.api_version(self.definition.storage()).into();
    }
}
