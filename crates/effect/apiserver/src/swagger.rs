//! OpenAPI version 2: made of version 3, as JSON and as the protobuf that older clients in Go ask
//! for. kubectl before 1.27 reads in it what `explain` tells, how lists of a kind are merged, which
//! kinds know dry runs, and what to refuse before it asks.
//!
//! Source: OpenAPI 2.0; gnostic's `OpenAPIv2.proto` for the tags; Kubernetes' own document for what
//! of a schema stands in version 2.

use serde_json::{Map, Value, json};

const DEFINITIONS: &str = "#/definitions/";
const SCHEMAS: &str = "#/components/schemas/";

/// Collects what the documents of version 3 say.
#[derive(Default)]
pub(crate) struct Swagger {
    definitions: Map<String, Value>,
    paths: Map<String, Value>,
}

impl Swagger {
    /// Takes a document of version 3.
    pub(crate) fn add(&mut self, mut document: Value) {
        if let Value::Object(schemas) = document["components"]["schemas"].take() {
            let converted = schemas
                .into_iter()
                .map(|(name, schema)| (name, converted(schema)));
            self.definitions.extend(converted);
        }
        if let Value::Object(paths) = document["paths"].take() {
            let converted = paths.into_iter().map(|(path, item)| (path, item_of(item)));
            self.paths.extend(converted);
        }
    }

    pub(crate) fn document(self) -> Value {
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1"},
            "paths": self.paths,
            "definitions": self.definitions,
        })
    }
}

/// A schema of version 3 as one of version 2, which knows no alternatives.
fn converted(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return json!({});
    };
    for unknown in ["oneOf", "anyOf", "not", "nullable"] {
        schema.remove(unknown);
    }
    let mut reference = schema.remove("$ref");
    if let Some(Value::Array(mut all)) = schema.remove("allOf")
        && let [Value::Object(only)] = all.as_mut_slice()
    {
        // Version 3 allows nothing beside a reference, and wraps it; version 2 ignores it.
        reference = reference.or_else(|| only.remove("$ref"));
    }
    if let Some(target) = reference.as_ref().and_then(Value::as_str) {
        let name = target.strip_prefix(SCHEMAS).unwrap_or(target);
        schema.retain(|field, _| field == "description" || field.starts_with("x-"));
        schema.insert("$ref".to_owned(), format!("{DEFINITIONS}{name}").into());
        return schema.into();
    }
    if schema.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        schema.insert("type".to_owned(), "string".into());
        schema.insert("format".to_owned(), "int-or-string".into());
    }
    if schema.get("type") == Some(&json!("array")) {
        schema.entry("items").or_insert_with(|| json!({}));
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for property in properties.values_mut() {
            *property = converted(property.take());
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner)
            && inner.is_object()
        {
            *inner = converted(inner.take());
        }
    }
    schema.into()
}

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

fn item_of(item: Value) -> Value {
    let operations = METHODS.iter().filter_map(|method| {
        let operation = item.get(method)?;
        Some(((*method).to_owned(), operation_of(operation)))
    });
    Value::Object(operations.collect())
}

fn operation_of(operation: &Value) -> Value {
    let mut made: Map<String, Value> = operation
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(field, _)| field.starts_with("x-") || *field == "operationId")
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect();
    let parameters = operation["parameters"].as_array();
    let parameters: Vec<Value> = parameters.into_iter().flatten().map(parameter_of).collect();
    made.insert("parameters".to_owned(), parameters.into());
    made.insert(
        "responses".to_owned(),
        json!({"200": {"description": "OK"}}),
    );
    made.into()
}

/// What version 3 says in a parameter's schema version 2 says in the parameter.
fn parameter_of(parameter: &Value) -> Value {
    let mut made = parameter.clone();
    let schema = made["schema"].take();
    if let (Value::Object(made), Value::Object(schema)) = (&mut made, schema) {
        made.remove("schema");
        made.extend(schema);
    }
    made
}

/// A document as a protobuf message `openapi.v2.Document`.
pub(crate) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    out.message(2, info);
    let mut paths = Message::default();
    paths.named(2, &document["paths"], path_item);
    out.message(8, paths);
    let mut definitions = Message::default();
    definitions.named(1, &document["definitions"], schema_message);
    out.message(9, definitions);
    out.0
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (tag, method) in (2..).zip(METHODS) {
        if let Some(operation) = item.get(method) {
            out.message(tag, operation_message(operation));
        }
    }
    out
}

fn operation_message(operation: &Value) -> Message {
    let mut out = Message::default();
    out.text(5, &operation["operationId"]);
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        // `NonBodyParameter` has one message for each place, and they differ by one tag.
        let (place, named, typed) = match parameter["in"].as_str() {
            Some("query") => (3, 4, 6),
            Some("path") => (4, 4, 5),
            _ => continue,
        };
        let mut inner = Message::default();
        inner.flag(1, &parameter["required"]);
        inner.text(2, &parameter["in"]);
        inner.text(3, &parameter["description"]);
        inner.text(named, &parameter["name"]);
        inner.text(typed, &parameter["type"]);
        let wrapped = [place, 2, 1].into_iter().fold(inner, Message::within);
        out.message(8, wrapped);
    }
    out.extensions(13, operation);
    out
}

fn schema_message(schema: &Value) -> Message {
    let mut out = Message::default();
    for (tag, field) in [
        (1, "$ref"),
        (2, "format"),
        (3, "title"),
        (4, "description"),
        (13, "pattern"),
    ] {
        out.text(tag, &schema[field]);
    }
    if let Some(default) = schema.get("default") {
        out.message(5, any(default));
    }
    for (tag, field) in [(7, "maximum"), (9, "minimum")] {
        if let Some(number) = schema[field].as_f64() {
            out.double(tag, number);
        }
    }
    for (tag, field) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
    ] {
        if let Some(number) = schema[field].as_u64() {
            out.number(tag, number);
        }
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        out.text(19, required);
    }
    for value in schema["enum"].as_array().into_iter().flatten() {
        out.message(20, any(value));
    }
    match &schema["additionalProperties"] {
        Value::Bool(allowed) => {
            let mut inner = Message::default();
            inner.number(2, u64::from(*allowed));
            out.message(21, inner);
        }
        inner @ Value::Object(_) => out.message(21, schema_message(inner).within(1)),
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {}
    }
    if schema["type"].is_string() {
        let mut inner = Message::default();
        inner.text(1, &schema["type"]);
        out.message(22, inner);
    }
    if schema["items"].is_object() {
        out.message(23, schema_message(&schema["items"]).within(1));
    }
    if schema["properties"].is_object() {
        let mut inner = Message::default();
        inner.named(1, &schema["properties"], schema_message);
        out.message(25, inner);
    }
    out.extensions(31, schema);
    out
}

/// `openapi.v2.Any`: a value as YAML, which JSON is.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, value.to_string().as_bytes());
    out
}

/// A message that is being written (Protocol Buffers' encoding, wire types 0, 1 and 2).
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, tag: u64, value: u64) {
        self.varint(tag << 3);
        self.varint(value);
    }

    fn double(&mut self, tag: u64, value: f64) {
        self.varint(tag << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, tag: u64, bytes: &[u8]) {
        self.varint(tag << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message that is there even when it is empty.
    fn message(&mut self, tag: u64, inner: Message) {
        self.bytes(tag, &inner.0);
    }

    /// A message of which this is the only field.
    fn within(self, tag: u64) -> Message {
        let mut outer = Message::default();
        outer.message(tag, self);
        outer
    }

    fn text(&mut self, tag: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn flag(&mut self, tag: u64, value: &Value) {
        if value == &Value::Bool(true) {
            self.number(tag, 1);
        }
    }

    /// A map: messages of a name (1) and a value (2).
    fn named(&mut self, tag: u64, map: &Value, value: impl Fn(&Value) -> Message) {
        for (name, one) in map.as_object().into_iter().flatten() {
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes());
            entry.message(2, value(one));
            self.message(tag, entry);
        }
    }

    fn extensions(&mut self, tag: u64, of: &Value) {
        let own = of.as_object().into_iter().flatten();
        for (name, value) in own.filter(|(name, _)| name.starts_with("x-")) {
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes());
            entry.message(2, any(value));
            self.message(tag, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_3() -> Value {
        json!({
            "components": {"schemas": {"a.Widget": {
                "type": "object",
                "x-kubernetes-group-version-kind": [{"group": "a", "kind": "Widget", "version": "v1"}],
                "properties": {
                    "metadata": {
                        "description": "Standard.",
                        "allOf": [{"$ref": "#/components/schemas/b.Meta"}],
                        "default": {},
                    },
                    "size": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "list": {"type": "array", "nullable": true},
                },
            }}},
            "paths": {"/apis/a/v1/widgets/{name}": {"patch": {
                "x-kubernetes-group-version-kind": {"group": "a", "kind": "Widget", "version": "v1"},
                "parameters": [{"in": "query", "name": "dryRun", "schema": {"type": "string"}}],
                "requestBody": {},
            }}},
        })
    }

    #[test]
    fn version_3_becomes_version_2() {
        let mut swagger = Swagger::default();
        swagger.add(version_3());
        let document = swagger.document();
        assert_eq!(
            document["definitions"]["a.Widget"]["properties"],
            json!({
                "metadata": {"description": "Standard.", "$ref": "#/definitions/b.Meta"},
                "size": {"type": "string", "format": "int-or-string", "x-kubernetes-int-or-string": true},
                "list": {"type": "array", "items": {}},
            })
        );
        assert_eq!(
            document["paths"]["/apis/a/v1/widgets/{name}"]["patch"]["parameters"],
            json!([{"in": "query", "name": "dryRun", "type": "string"}])
        );
    }

    /// The bytes are those of the message definitions, by hand.
    #[test]
    fn a_message_is_what_its_definition_says() {
        let document = json!({
            "swagger": "2.0",
            "info": {"title": "K", "version": "v1"},
            "paths": {"/w": {"patch": {
                "x-k": {"a": 1},
                "parameters": [{"in": "query", "name": "dryRun", "type": "string"}],
            }}},
            "definitions": {"W": {
                "type": "object",
                "description": "d".repeat(200),
                "properties": {"p": {"$ref": "#/definitions/W"}, "l": {"type": "array", "items": {}}},
            }},
        });
        let within = |tag: u8, inner: &[u8]| [&[tag << 3 | 2, inner.len() as u8], inner].concat();
        let query = [
            within(2, b"query"),
            within(4, b"dryRun"),
            within(6, b"string"),
        ]
        .concat();
        let parameter = within(8, &within(1, &within(2, &within(3, &query))));
        let extension = [within(1, b"x-k"), within(2, &within(2, b"{\"a\":1}"))].concat();
        let patch = within(8, &[parameter, within(13, &extension)].concat());
        let path = [within(1, b"/w"), within(2, &patch)].concat();
        let encoded = encode(&document);
        let start = [
            within(1, b"2.0"),
            within(2, &[within(1, b"K"), within(2, b"v1")].concat()),
            within(8, &within(2, &path)),
        ]
        .concat();
        assert!(encoded.starts_with(&start), "{encoded:?}\n{start:?}");
        // Tags from 16 on take two bytes, and so do lengths from 128 on.
        let array = b"\xb2\x01\x07\x0a\x05array\xba\x01\x02\x0a\x00";
        let named =
            |name: u8, schema: &[u8]| within(1, &[within(1, &[name]), within(2, schema)].concat());
        let properties = [
            named(b'l', array),
            named(b'p', &within(1, b"#/definitions/W")),
        ]
        .concat();
        let schema = [
            b"\x22\xc8\x01".as_slice(),
            "d".repeat(200).as_bytes(),
            b"\xb2\x01\x08\x0a\x06object",
            b"\xca\x01",
            &[properties.len() as u8],
            &properties,
        ]
        .concat();
        assert!(encoded.ends_with(&schema), "{encoded:?}\n{schema:?}");
    }
}
