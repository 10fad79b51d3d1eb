//! What fields a kind has and of what type: unknown fields, wrong types, paths to types.
//!
//! The schemas come from `k8s-openapi` and carry megabytes of text. What is kept of
//! them here is a small graph of types, built at first use; the texts are produced
//! again when somebody asks for an OpenAPI document.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use jiff::Timestamp;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::protobuf::written;
use crate::{Kind, Quantity, base64, quantity, registry};

/// What decoding a document found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Paths of fields the kind does not have: `spec.replcas`.
    pub unknown_fields: Vec<String>,
    /// Values that are not of their field's type.
    pub mismatches: Vec<TypeMismatch>,
}

impl Decoded {
    /// The complaints of strict decoding: `unknown field "spec.replcas"`.
    pub fn unknown_field_messages(&self) -> Vec<String> {
        self.unknown_fields
            .iter()
            .map(|path| format!("unknown field \"{path}\""))
            .collect()
    }
}

/// A value that is not of its field's type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("json: cannot unmarshal {found} {value} into field {path} of type {expected}{hint}")]
pub struct TypeMismatch {
    /// Where: `spec.ports[0].port`.
    pub path: String,
    /// JSON type of the value found.
    pub found: &'static str,
    /// The value, shortened.
    pub value: String,
    /// The type the field has.
    pub expected: &'static str,
    /// More about the expected form; empty or starting with `: `.
    pub hint: &'static str,
}

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Any,
    Bool,
    Int32,
    Int64,
    Number,
    Text,
    Time,
    /// A time to the microsecond, in that form only.
    MicroTime,
    Bytes,
    IntOrString,
    Quantity,
    List(Box<Type>),
    Map(Box<Type>),
    Object(u32),
    /// An object, or else something simpler: a schema or a boolean.
    ObjectOrElse(u32),
}

/// A named object type.
pub(crate) struct Definition {
    /// Its name in OpenAPI: `io.k8s.api.core.v1.ServicePort`.
    pub(crate) name: Box<str>,
    fields: BTreeMap<Box<str>, Type>,
}

impl Definition {
    /// The Go name: `ServicePort`.
    pub(crate) fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or("")
    }

    #[cfg(test)]
    pub(crate) fn field_names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(|name| &**name)
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Type> {
        self.fields.get(name)
    }

    #[cfg(test)]
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.fields
            .iter()
            .map(|(name, expected)| (&**name, expected))
    }
}

/// All object types of all kinds.
pub(crate) struct Types {
    definitions: Vec<Definition>,
    index: BTreeMap<Box<str>, u32>,
}

static TYPES: LazyLock<Types> = LazyLock::new(Types::build);

/// The graph of types, built at first use.
pub(crate) fn types() -> &'static Types {
    &TYPES
}

/// A generator whose references point where OpenAPI v3 keeps its schemas.
pub(crate) fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
        .into_generator()
}

impl Types {
    fn build() -> Self {
        let mut generator = generator();
        for kind in registry() {
            let _ = (kind.schema)(&mut generator);
        }
        let schemas = generator.take_definitions(false);
        let index: BTreeMap<Box<str>, u32> = schemas
            .keys()
            .zip(0u32..)
            .map(|(name, at)| (name.as_str().into(), at))
            .collect();
        let definitions = schemas
            .iter()
            .map(|(name, schema)| Definition {
                name: name.as_str().into(),
                fields: schema
                    .get("properties")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .map(|(field, schema)| (field.as_str().into(), read(schema, &schemas, &index)))
                    .collect(),
            })
            .collect();
        Self { definitions, index }
    }

    pub(crate) fn definition(&self, at: u32) -> &Definition {
        &self.definitions[at as usize]
    }

    pub(crate) fn root(&self, kind: &Kind) -> Type {
        self.index
            .get(kind.definition)
            .map_or(Type::Any, |&at| Type::Object(at))
    }
}

fn read(schema: &Value, schemas: &Map<String, Value>, index: &BTreeMap<Box<str>, u32>) -> Type {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or("");
        let Some(target) = schemas.get(name) else {
            return Type::Any;
        };
        if name.ends_with(".Quantity") {
            return Type::Quantity;
        }
        if name.ends_with(".MicroTime") {
            return Type::MicroTime;
        }
        if target.get("properties").is_some() {
            return index.get(name).map_or(Type::Any, |&at| Type::Object(at));
        }
        return read(target, schemas, index);
    }
    if let Some(first) = schema.get("oneOf").and_then(|all| all.get(0))
        && let Type::Object(at) = read(first, schemas, index)
    {
        return Type::ObjectOrElse(at);
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return Type::IntOrString;
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or("");
    match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => Type::Bool,
        Some("integer") if format == "int32" => Type::Int32,
        Some("integer") => Type::Int64,
        Some("number") => Type::Number,
        Some("string") => match format {
            "date-time" => Type::Time,
            "byte" => Type::Bytes,
            _ => Type::Text,
        },
        Some("array") => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            Type::List(Box::new(read(items, schemas, index)))
        }
        Some("object") => match schema.get("additionalProperties") {
            Some(values) if values.is_object() => Type::Map(Box::new(read(values, schemas, index))),
            _ => Type::Any,
        },
        _ => Type::Any,
    }
}

impl Kind {
    /// Looks for fields this kind does not have and values that are not of their
    /// field's type.
    pub fn decode(&self, object: &Value) -> Decoded {
        let mut decoded = Decoded::default();
        let types = types();
        check(
            object,
            &types.root(self),
            &mut String::new(),
            types,
            &mut decoded,
        );
        decoded
    }

    /// Drops fields this kind does not have, nulls and zeros that say nothing: what decoding into a struct and
    /// encoding again would drop.
    pub fn prune(&self, object: &mut Value) {
        let types = types();
        prune(object, &types.root(self), types);
        written::drop_zeros(self, object);
    }
}

/// What decoding a value of a named type finds; `path` is where it stands.
pub(crate) fn check_type(value: &Value, name: &str, path: &str) -> Decoded {
    let types = types();
    let mut decoded = Decoded::default();
    if let Some(&at) = types.index.get(name) {
        check(
            value,
            &Type::Object(at),
            &mut path.to_owned(),
            types,
            &mut decoded,
        );
    }
    decoded
}

/// Drops what a named type does not have, and nulls.
pub(crate) fn prune_type(value: &mut Value, name: &str) {
    let types = types();
    if let Some(&at) = types.index.get(name) {
        prune(value, &Type::Object(at), types);
    }
}

fn check(value: &Value, expected: &Type, path: &mut String, types: &Types, out: &mut Decoded) {
    if value.is_null() {
        return;
    }
    let length = path.len();
    match expected {
        Type::Any => {}
        Type::List(items) => {
            let Value::Array(list) = value else {
                return mismatch(value, "array", "", path, out);
            };
            for (at, item) in list.iter().enumerate() {
                path.push_str(&format!("[{at}]"));
                check(item, items, path, types, out);
                path.truncate(length);
            }
        }
        Type::Map(values) => {
            let Value::Object(map) = value else {
                return mismatch(value, "map", "", path, out);
            };
            for (key, item) in map {
                push(path, key);
                check(item, values, path, types, out);
                path.truncate(length);
            }
        }
        Type::ObjectOrElse(at) => {
            if value.is_object() {
                check(value, &Type::Object(*at), path, types, out);
            }
        }
        Type::Object(at) => {
            let Value::Object(map) = value else {
                return mismatch(value, "object", "", path, out);
            };
            let definition = types.definition(*at);
            for (key, item) in map {
                push(path, key);
                match definition.field(key) {
                    Some(field) => check(item, field, path, types, out),
                    None => out.unknown_fields.push(path.clone()),
                }
                path.truncate(length);
            }
        }
        Type::Bool => require(value.is_boolean(), value, "bool", "", path, out),
        Type::Int32 => {
            let fits = value
                .as_i64()
                .is_some_and(|number| i32::try_from(number).is_ok());
            require(fits, value, "int32", "", path, out);
        }
        Type::Int64 => require(value.as_i64().is_some(), value, "int64", "", path, out),
        Type::Number => require(value.is_number(), value, "number", "", path, out),
        Type::Text => require(value.is_string(), value, "string", "", path, out),
        Type::Time => {
            let fits = value
                .as_str()
                .is_some_and(|text| text.parse::<Timestamp>().is_ok());
            let hint = ": RFC 3339, such as 2006-01-02T15:04:05Z";
            require(fits, value, "time", hint, path, out);
        }
        Type::MicroTime => {
            let fits = value
                .as_str()
                .is_some_and(|text| text.parse::<Timestamp>().is_ok() && has_microseconds(text));
            let hint = ": RFC 3339 with microseconds, such as 2006-01-02T15:04:05.000000Z";
            require(fits, value, "time", hint, path, out);
        }
        Type::Bytes => {
            let fits = value.as_str().is_some_and(base64::is_valid);
            require(fits, value, "bytes", ": base64", path, out);
        }
        Type::IntOrString => {
            let number = value
                .as_i64()
                .is_some_and(|number| i32::try_from(number).is_ok());
            require(
                number || value.is_string(),
                value,
                "int32 or string",
                "",
                path,
                out,
            );
        }
        Type::Quantity => {
            let fits = match value {
                Value::String(text) => Quantity::parse(text).is_ok(),
                Value::Number(number) => Quantity::parse(&number.to_string()).is_ok(),
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
            };
            let hint = ": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
            require(fits, value, "quantity", hint, path, out);
        }
    }
}

/// Whether the seconds of an RFC 3339 time have six digits behind the point, as
/// `metav1.MicroTime` has them.
fn has_microseconds(text: &str) -> bool {
    text.split_once('.').is_some_and(|(_, rest)| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        digits == 6
    })
}

fn push(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

fn require(
    fits: bool,
    value: &Value,
    expected: &'static str,
    hint: &'static str,
    path: &str,
    out: &mut Decoded,
) {
    if !fits {
        mismatch(value, expected, hint, path, out);
    }
}

fn mismatch(
    value: &Value,
    expected: &'static str,
    hint: &'static str,
    path: &str,
    out: &mut Decoded,
) {
    const SHOWN: usize = 60;
    let mut text = value.to_string();
    if text.len() > SHOWN {
        let end = (0..=SHOWN)
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    out.mismatches.push(TypeMismatch {
        path: path.to_owned(),
        found: json_type(value),
        value: text,
        expected,
        hint,
    });
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn prune(value: &mut Value, expected: &Type, types: &Types) {
    match (value, expected) {
        (Value::Array(list), Type::List(items)) => {
            for item in list {
                prune(item, items, types);
            }
        }
        (Value::Object(map), Type::Map(values)) => {
            if **values == Type::Text {
                for item in map.values_mut().filter(|item| item.is_null()) {
                    *item = "".into();
                }
            }
            map.retain(|_, item| !item.is_null());
            for item in map.values_mut() {
                prune(item, values, types);
            }
        }
        (value, Type::Quantity) => {
            let text = match &*value {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
            };
            if let Some(canonical) = text.as_deref().and_then(quantity::canonical) {
                *value = canonical.into();
            }
        }
        (Value::Object(map), Type::Object(at) | Type::ObjectOrElse(at)) => {
            let definition = types.definition(*at);
            // Kubernetes stores no difference between an empty list or map and none.
            map.retain(|key, item| match definition.field(key) {
                Some(Type::List(_) | Type::Map(_)) => !item.is_null() && !is_empty(item),
                Some(_) => !item.is_null(),
                None => false,
            });
            for (key, item) in map.iter_mut() {
                if let Some(field) = definition.field(key) {
                    prune(item, field, types);
                }
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.unknown_field_messages();
        all.extend(self.mismatches.iter().map(TypeMismatch::to_string));
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;
    use serde_json::json;

    fn decode(group: &str, kind: &str, object: Value) -> Decoded {
        find_kind(group, "v1", kind).unwrap().decode(&object)
    }

    #[test]
    fn names_unknown_fields_by_path() {
        let decoded = decode(
            "apps",
            "Deployment",
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"labels": {"a": "b"}}, "spec": {"replcas": 3,
                "template": {"spec": {"containers": [{"name": "a", "imag": "x"}]}}}}),
        );
        assert_eq!(
            decoded.unknown_field_messages(),
            [
                r#"unknown field "spec.replcas""#,
                r#"unknown field "spec.template.spec.containers[0].imag""#
            ]
        );
        assert_eq!(decoded.mismatches, []);
    }

    #[test]
    fn names_path_value_and_type_of_a_mismatch() {
        let decoded = decode(
            "",
            "Service",
            json!({"spec": {"ports": [{"port": "http", "targetPort": "http"}], "selector": {"a": 1}}}),
        );
        let lines: Vec<String> = decoded
            .mismatches
            .iter()
            .map(TypeMismatch::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                r#"json: cannot unmarshal string "http" into field spec.ports[0].port of type int32"#,
                "json: cannot unmarshal number 1 into field spec.selector.a of type string"
            ]
        );
    }

    #[test]
    fn reads_quantities_times_and_bytes() {
        let pod = |resources: Value| {
            decode(
                "",
                "Pod",
                json!({"spec": {"containers": [{"resources": resources}]}}),
            )
        };
        assert_eq!(
            pod(json!({"limits": {"cpu": 1, "memory": "1Gi"}})),
            Decoded::default()
        );
        assert_eq!(pod(json!({"limits": {"cpu": "one"}})).mismatches.len(), 1);
        assert_eq!(
            decode("", "Secret", json!({"data": {"a": "YQ=="}})),
            Decoded::default()
        );
        assert_eq!(
            decode("", "Secret", json!({"data": {"a": "Y"}}))
                .mismatches
                .len(),
            1
        );
        let lease = json!({"spec": {"renewTime": "2024-01-01T00:00:00.123456Z"}});
        assert_eq!(
            decode("coordination.k8s.io", "Lease", lease),
            Decoded::default()
        );
        for odd in [
            "2024-01-01T00:00:00Z",
            "2024-01-01T00:00:00.123Z",
            "2024-01-01T00:00:00.123456789Z",
        ] {
            let lease = json!({"spec": {"renewTime": odd}});
            let decoded = decode("coordination.k8s.io", "Lease", lease);
            assert_eq!(decoded.mismatches.len(), 1, "{odd}");
        }
    }

    #[test]
    fn prunes_what_is_unknown_or_null() {
        let mut object =
            json!({"metadata": {"creationTimestamp": null, "x": 1}, "data": {"a": "b"}});
        find_kind("", "v1", "ConfigMap").unwrap().prune(&mut object);
        assert_eq!(object, json!({"metadata": {}, "data": {"a": "b"}}));
    }

    #[test]
    fn empty_lists_and_maps_are_none_and_empty_objects_are_something() {
        let mut object = json!({
            "metadata": {"annotations": {}, "finalizers": []},
            "spec": {"nodeSelector": {}, "volumes": [{"name": "a", "emptyDir": {}}]},
        });
        find_kind("", "v1", "Pod").unwrap().prune(&mut object);
        let left = json!({"metadata": {}, "spec": {"volumes": [{"name": "a", "emptyDir": {}}]}});
        assert_eq!(object, left);
    }
}
