//! Whatever schema a definition has, and whatever a client sends: nothing panics, pruning and
//! defaulting are idempotent, and what did not change is not complained about more.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use weft_apiserver::exercise_schema;

/// Names that schemas and objects share, so that they meet.
const NAMES: [&str; 4] = ["a", "b", "name", "metadata"];

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3..3_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c:/.0-9]{0,4}".prop_map(Value::from),
        select(vec!["v1", "Pod", "10Mi", "2024-01-01T00:00:00Z"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(select(&NAMES[..]), inner, 0..4).prop_map(object),
        ]
    })
}

fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let fields = fields.into_iter();
    Value::Object(
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

/// One keyword with a value that may fit it.
fn keyword() -> impl Strategy<Value = (&'static str, Value)> {
    let flags = select(vec![
        "nullable",
        "uniqueItems",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "x-kubernetes-int-or-string",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-preserve-unknown-fields",
    ]);
    let numbers = select(vec![
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    ]);
    let formats = select(vec![
        "int32",
        "int64",
        "double",
        "date-time",
        "ipv4",
        "cidr",
        "byte",
        "uuid",
        "none",
    ]);
    let patterns = select(vec!["^a*$", "(", "[a-c]{2}", "\\d+", "^(\\d+):(\\d+)$"]);
    let list_types = select(vec!["atomic", "set", "map", "other"]);
    prop_oneof![
        (flags, any::<bool>()).prop_map(|(name, value)| (name, json!(value))),
        (numbers, -2..4_i64).prop_map(|(name, value)| (name, json!(value))),
        formats.prop_map(|value| ("format", json!(value))),
        patterns.prop_map(|value| ("pattern", json!(value))),
        list_types.prop_map(|value| ("x-kubernetes-list-type", json!(value))),
        vec(select(&NAMES[..]), 0..3)
            .prop_map(|value| ("x-kubernetes-list-map-keys", json!(value))),
        vec(select(&NAMES[..]), 0..3).prop_map(|value| ("required", json!(value))),
        vec(document(), 0..3).prop_map(|value| ("enum", json!(value))),
        document().prop_map(|value| ("default", value)),
        // What is said in the wrong form.
        (
            select(vec!["type", "properties", "items", "required", "enum"]),
            document()
        ),
    ]
}

fn schema() -> impl Strategy<Value = Value> {
    let types = || {
        select(vec![
            "object", "array", "string", "integer", "number", "boolean",
        ])
    };
    let plain = (types(), vec(keyword(), 0..4)).prop_map(|(kind, keywords)| {
        let mut schema = object(keywords);
        schema["type"] = json!(kind);
        schema
    });
    plain.prop_recursive(4, 24, 4, move |inner| {
        let properties = btree_map(select(&NAMES[..]), inner.clone(), 0..4).prop_map(object);
        let parts = (
            properties,
            inner.clone(),
            vec(inner, 0..3),
            select(vec!["allOf", "anyOf", "oneOf"]),
            vec(keyword(), 0..3),
        );
        (types(), parts).prop_map(|(kind, (properties, part, parts, junctor, keywords))| {
            let mut schema = object(keywords);
            schema["type"] = json!(kind);
            match kind {
                "object" if parts.len() == 2 => schema["additionalProperties"] = part,
                "object" => schema["properties"] = properties,
                "array" => schema["items"] = part,
                _ => schema["not"] = part,
            }
            if !parts.is_empty() {
                schema[junctor] = json!(parts);
            }
            schema
        })
    })
}

/// A document that a schema describes, as far as it does so.
fn example(schema: &Value, depth: usize) -> Value {
    if let Some(default) = schema.get("default") {
        return default.clone();
    }
    match schema["type"].as_str() {
        Some("object") if depth < 6 => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            let fields = properties.map(|(name, part)| (name.clone(), example(part, depth + 1)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Some("array") if depth < 6 => json!([example(&schema["items"], depth + 1)]),
        Some("string") => json!("a"),
        Some("integer") => json!(1),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        _ => Value::Null,
    }
}

fn exercise(schema: &Value, object: &Value) {
    let mut data = schema.to_string().into_bytes();
    data.push(0);
    data.extend(object.to_string().into_bytes());
    exercise_schema(&data);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn no_schema_and_no_object_is_too_strange(schema in schema(), object in document()) {
        exercise(&schema, &object);
        exercise(&schema, &example(&schema, 0));
        // A document in the place of a schema.
        exercise(&object, &schema);
    }
}
