//! Tables: a schema, a document, and what Kubernetes 1.32 makes of them.

use serde_json::{Value, json};

use super::*;

/// An object schema with these properties.
fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

fn lines(schema: &Value, value: &Value) -> Vec<String> {
    lines_of(validate(value, None, &Schema::compile(schema), ""))
}

fn lines_of(errors: Vec<crate::resource::FieldError>) -> Vec<String> {
    errors
        .iter()
        .map(|error| format!("{}: {}", error.path, error.message))
        .collect()
}

#[test]
fn values_are_complained_about_in_kubernetes_words() {
    for (schema, value, complaints) in [
        (
            json!({"type": "integer"}),
            json!("x"),
            vec![r#"a: Invalid value: "string": a in body must be of type integer: "string""#],
        ),
        (
            json!({"type": "integer"}),
            json!(1.5),
            vec![r#"a: Invalid value: "number": a in body must be of type integer: "number""#],
        ),
        (json!({"type": "integer"}), json!(1.0), vec![]),
        (json!({"type": "number"}), json!(1), vec![]),
        (
            json!({"type": "string"}),
            json!(null),
            vec![r#"a: Invalid value: "null": a in body must be of type string: "null""#],
        ),
        (
            json!({"type": "string", "nullable": true}),
            json!(null),
            vec![],
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            vec!["a: Invalid value: 0: a in body should be greater than or equal to 1"],
        ),
        (
            json!({"type": "integer", "maximum": 65535}),
            json!(70000),
            vec!["a: Invalid value: 70000: a in body should be less than or equal to 65535"],
        ),
        (
            json!({"type": "number", "maximum": 1.5, "exclusiveMaximum": true}),
            json!(1.5),
            vec!["a: Invalid value: 1.5: a in body should be less than 1.5"],
        ),
        (
            json!({"type": "integer", "multipleOf": 5}),
            json!(7),
            vec!["a: Invalid value: 7: a in body should be a multiple of 5"],
        ),
        (
            json!({"type": "string", "enum": ["A", "B"]}),
            json!("C"),
            vec![r#"a: Unsupported value: "C": supported values: "A", "B""#],
        ),
        (
            json!({"type": "string", "pattern": "^[a-z]+$"}),
            json!("A"),
            vec![r#"a: Invalid value: "A": a in body should match '^[a-z]+$'"#],
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("ä"),
            vec![r#"a: Invalid value: "ä": a in body should be at least 2 chars long"#],
        ),
        (
            json!({"type": "string", "maxLength": 1}),
            json!("ab"),
            vec!["a: Too long: may not be more than 1 bytes"],
        ),
        (
            json!({"type": "string", "format": "ipv4"}),
            json!("x"),
            vec![r#"a: Invalid value: "x": a in body must be of type ipv4: "x""#],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            vec!["a: Too many: 2: must have at most 1 item"],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
            json!([]),
            vec!["a: Invalid value: 0: a in body should have at least 1 items"],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!(["a", 1]),
            vec![
                r#"a[1]: Invalid value: "integer": a[1] in body must be of type string: "integer""#,
            ],
        ),
        (
            json!({"type": "object", "maxProperties": 0}),
            json!({"b": 1}),
            vec!["a: Too many: 1: must have at most 0 items"],
        ),
        (
            json!({"type": "object", "required": ["b"]}),
            json!({}),
            vec!["a.b: Required value"],
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"b": 1}),
            vec![r#"a.b: Invalid value: "integer": a.b in body must be of type string: "integer""#],
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            vec![
                r#"a: Invalid value: "boolean": a in body must be of type integer,string: "boolean""#,
            ],
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!("50%"),
            vec![],
        ),
        (
            json!({"type": "object", "oneOf": [{"required": ["b"]}, {"required": ["c"]}]}),
            json!({}),
            vec![
                r#"<nil>: Invalid value: "": "a" must validate one and only one schema (oneOf). Found none valid"#,
                "a.b: Required value",
            ],
        ),
        (
            json!({"type": "object", "oneOf": [{"required": ["b"]}, {"required": ["c"]}]}),
            json!({"b": 1, "c": 1}),
            vec![
                r#"<nil>: Invalid value: "": "a" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ],
        ),
        (
            json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
            json!("x"),
            vec![
                r#"<nil>: Invalid value: "": "a" must validate at least one schema (anyOf)"#,
                r#"a: Invalid value: "x": a in body must be of type ipv4: "x""#,
            ],
        ),
        (
            json!({"type": "integer", "allOf": [{"minimum": 3}, {"maximum": 9}]}),
            json!(1),
            vec![
                "a: Invalid value: 1: a in body should be greater than or equal to 3",
                r#"<nil>: Invalid value: "": "a" must validate all the schemas (allOf)"#,
            ],
        ),
        (
            json!({"type": "string", "not": {"enum": ["x"]}}),
            json!("x"),
            vec![r#"<nil>: Invalid value: "": "a" must not validate the schema (not)"#],
        ),
    ] {
        assert_eq!(
            lines(&object(json!({ "a": schema })), &json!({ "a": value })),
            complaints,
            "{schema} {value}"
        );
    }
    let root = json!({"type": "object", "required": ["spec"]});
    assert_eq!(lines(&root, &json!({})), ["spec: Required value"]);
}

#[test]
fn what_did_not_change_is_not_complained_about() {
    let schema = Schema::compile(&object(json!({
        "a": {"type": "integer", "maximum": 3},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 3}}}},
    })));
    let old = json!({"a": 9, "l": [{"k": "x", "v": 9}, {"k": "y", "v": 1}]});
    let new = json!({"a": 9, "l": [{"k": "y", "v": 8}, {"k": "x", "v": 9}]});
    assert_eq!(
        lines_of(validate(&new, Some(&old), &schema, "")),
        ["l[0].v: Invalid value: 8: l[0].v in body should be less than or equal to 3"]
    );
}

#[test]
fn combinations_are_complained_about_changed_or_not() {
    let changed = |combination: &str, parts: Value| {
        let mut part = json!({"type": "object", "properties":
            {"x": {"type": "integer"}, "y": {"type": "integer"}}});
        part[combination] = parts;
        let schema = Schema::compile(&object(json!({ "c": part })));
        let (old, new) = (
            json!({"c": {"x": 1, "y": 1}}),
            json!({"c": {"x": 1, "y": 2}}),
        );
        let same = validate(&new, Some(&new), &schema, "");
        assert!(same.is_empty(), "nothing has changed: {same:?}");
        lines_of(validate(&new, Some(&old), &schema, ""))
    };
    let large = json!({"properties": {"x": {"minimum": 3}}});
    assert_eq!(changed("not", large.clone()), [""; 0]);
    assert_eq!(
        changed("allOf", json!([large])),
        [
            "c.x: Invalid value: 1: c.x in body should be greater than or equal to 3",
            r#"<nil>: Invalid value: "": "c" must validate all the schemas (allOf). None validated"#,
        ]
    );
}

#[test]
fn unknown_fields_are_dropped_and_named() {
    let schema = object(json!({
        "spec": {"type": "object", "properties": {
            "known": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"shaped": {"type": "object", "properties": {"a": {"type": "integer"}}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "integer"}}}},
            "any": {"type": "object", "additionalProperties": true},
            "resource": {"type": "object", "x-kubernetes-embedded-resource": true,
                "properties": {"spec": {"type": "object"}}},
        }},
    }));
    let mut value = json!({
        "apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}, "other": 1,
        "spec": {
            "known": [{"a": 1, "b": 2}],
            "free": {"x": {"y": 1}, "shaped": {"a": 1, "b": 2}},
            "map": {"k": {"a": 1, "b": 2}},
            "any": {"k": {"a": 1}, "l": 2},
            "resource": {"apiVersion": "v1", "kind": "Y", "metadata": {"labels": {}}, "spec": {"z": 1}, "status": {}},
            "unknown": {},
        },
    });
    let dropped = prune(&mut value, &Schema::compile(&schema));
    assert_eq!(
        dropped,
        [
            "other",
            "spec.any.k.a",
            "spec.free.shaped.b",
            "spec.known[0].b",
            "spec.map.k.b",
            "spec.resource.spec.z",
            "spec.resource.status",
            "spec.unknown",
        ]
    );
    assert_eq!(
        value,
        json!({
            "apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"},
            "spec": {
                "known": [{"a": 1}],
                "free": {"x": {"y": 1}, "shaped": {"a": 1}},
                "map": {"k": {"a": 1}},
                "any": {"k": {}, "l": 2},
                "resource": {"apiVersion": "v1", "kind": "Y", "metadata": {"labels": {}}, "spec": {}},
            },
        })
    );
}

#[test]
fn defaults_fill_what_is_not_said() {
    let schema = Schema::compile(&object(json!({
        "a": {"type": "object", "default": {}, "properties": {"b": {"type": "integer", "default": 3}}},
        "c": {"type": "object", "properties": {"d": {"type": "integer", "default": 3}}},
        "n": {"type": "string", "nullable": true, "default": "x"},
        "m": {"type": "string", "default": "x"},
        "o": {"type": "string"},
        "l": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
    })));
    let mut value = json!({"n": null, "m": null, "o": null, "l": [{}, {"p": "UDP"}]});
    drop_nulls(&mut value, &schema);
    default(&mut value, &schema);
    assert_eq!(
        value,
        json!({"a": {"b": 3}, "n": null, "m": "x", "l": [{"p": "TCP"}, {"p": "UDP"}]})
    );
}

#[test]
fn sets_and_maps_have_nothing_twice() {
    let schema = Schema::compile(&object(json!({
        "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
            "items": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}},
    })));
    let value = json!({"s": ["x", "y", "x", "x"], "m": [{"a": "x", "b": 1}, {"a": "x", "b": 2}, {"a": "x", "b": 1}]});
    assert_eq!(
        lines_of(duplicates(&value, &schema)),
        [
            r#"m[2]: Duplicate value: {"a":"x","b":1}"#,
            r#"s[2]: Duplicate value: "x""#
        ]
    );
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    for (schema, complaints) in [
        (
            object(json!({"a": {"type": "string", "default": "x", "pattern": "^x$"}})),
            vec![],
        ),
        (
            json!({}),
            vec!["s.type: Required value: must not be empty at the root"],
        ),
        (
            json!({"type": "string"}),
            vec![r#"s.type: Invalid value: "string": must be object at the root"#],
        ),
        (
            object(json!({"a": {}})),
            vec![
                "s.properties[a].type: Required value: must not be empty for specified object fields",
            ],
        ),
        (
            object(json!({"a": {"type": "array"}})),
            vec!["s.properties[a].items: Required value: must be specified"],
        ),
        (
            object(json!({"a": {"type": "string", "anyOf": [{"type": "string"}]}})),
            vec!["s.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"],
        ),
        (
            object(
                json!({"a": {"type": "object", "anyOf": [{"properties": {"b": {"minLength": 1}}}]}}),
            ),
            vec![
                "s.properties[a].properties[b]: Required value: because it is defined in s.properties[a].anyOf[0].properties[b]",
            ],
        ),
        (
            object(json!({"a": {"type": "string", "pattern": "("}})),
            vec![
                "s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression",
            ],
        ),
        (
            object(json!({"a": {"type": "integer", "default": "x"}})),
            vec![r#"s.properties[a].default: Invalid value: "string":"#],
        ),
        (
            object(json!({"a": {"type": "object", "default": {"b": 1}}})),
            vec![
                r#"s.properties[a].default: Invalid value: {"b":1}: must not have unknown fields"#,
            ],
        ),
        (
            object(
                json!({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}),
            ),
            vec![
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ],
        ),
        (
            object(
                json!({"a": {"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}}),
            ),
            vec![
                "s.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ],
        ),
        (
            object(
                json!({"a": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}}),
            ),
            vec![
                "s.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ],
        ),
        (
            object(
                json!({"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}),
            ),
            vec![
                "s.properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        ),
        (
            object(
                json!({"a": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}}),
            ),
            vec![
                "s.properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
            ],
        ),
        (
            object(json!({"a": {"type": "string", "x-kubernetes-validations": [{"rule": " "}]}})),
            vec![
                "s.properties[a].x-kubernetes-validations[0].rule: Required value: rule is not specified",
            ],
        ),
        (
            object(json!({"a": {"type": "strin"}})),
            vec![
                r#"s.properties[a].type: Unsupported value: "strin": supported values: "array", "boolean", "integer", "number", "object", "string""#,
            ],
        ),
        (
            object(json!({"a": {"type": "string", "$ref": "x"}})),
            vec!["s.properties[a].$ref: Forbidden: $ref is not supported"],
        ),
        (
            object(
                json!({"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}),
            ),
            vec![],
        ),
        (
            object(json!({"a": {"x-kubernetes-int-or-string": true, "allOf": [
            {"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "x"}]}})),
            vec![],
        ),
    ] {
        let found = lines_of(structural::complaints(&schema, "s"));
        assert_eq!(found.len(), complaints.len(), "{schema}: {found:?}");
        for (found, wanted) in found.iter().zip(complaints) {
            assert!(
                found.starts_with(wanted),
                "{schema}: {found} is not {wanted}"
            );
        }
    }
}
