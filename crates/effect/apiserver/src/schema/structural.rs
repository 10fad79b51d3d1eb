//! Whether a schema may be used: the rules of structural schemas, over its JSON.

use serde_json::{Map, Value};

use super::{Pattern, Schema};
use crate::resource::FieldError;

/// The types of OpenAPI v3, in the order messages list them.
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What `x-kubernetes-validations[*].reason` may be.
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
/// Keywords that JSON Schema has and Kubernetes does not allow.
const UNSUPPORTED: [&str; 6] = [
    "id",
    "additionalItems",
    "patternProperties",
    "definitions",
    "dependencies",
    "$ref",
];
const OBJECT_FIELDS: [&str; 3] = ["metadata", "kind", "apiVersion"];

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What a place forbids because of what is around it.
#[derive(Clone, Default)]
struct Surroundings {
    /// Why defaults are forbidden.
    no_defaults: Option<String>,
    in_metadata: bool,
}

/// Complaints about `openAPIV3Schema`, which is at `path`.
pub(crate) fn complaints(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Errors(Vec::new());
    errors.structure(schema, Level::Root, path);
    errors.completeness(schema, schema, path, path);
    errors
        .0
        .sort_by(|a, b| (&a.path, &a.message).cmp(&(&b.path, &b.message)));
    if errors.0.is_empty() {
        defaults(schema, path, true, &mut errors.0);
    }
    errors.keywords(schema, path, true, &Surroundings::default());
    errors.0
}

/// Calls `visit` for a schema and every schema inside it.
pub(crate) fn each_schema<'a>(schema: &'a Value, visit: &mut dyn FnMut(&'a Map<String, Value>)) {
    let Some(map) = schema.as_object() else {
        return;
    };
    visit(map);
    for name in ["items", "additionalProperties", "not"] {
        if let Some(inner) = map.get(name) {
            each_schema(inner, visit);
        }
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for inner in list(map, name) {
            each_schema(inner, visit);
        }
    }
    for (_, inner) in object(map, "properties") {
        each_schema(inner, visit);
    }
}

fn list<'a>(map: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a Value> {
    map.get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn object<'a>(
    map: &'a Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    map.get(name)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name) == Some(&Value::Bool(true))
}

/// `anyOf: [{type: integer}, {type: string}]`, which is how an int-or-string may be said.
fn is_int_or_string(list: Option<&Value>) -> bool {
    list.is_some_and(|list| *list == serde_json::json!([{"type": "integer"}, {"type": "string"}]))
}

struct Errors(Vec<FieldError>);

impl Errors {
    fn required(&mut self, path: String, detail: &str) {
        self.0.push(FieldError::required(path, detail));
    }

    fn forbidden(&mut self, path: String, detail: &str) {
        self.0.push(FieldError::forbidden(path, detail));
    }

    fn invalid(&mut self, path: String, value: impl Into<Value>, detail: &str) {
        self.0
            .push(FieldError::invalid(path, &value.into(), detail));
    }

    /// The invariants of the part of a schema that gives documents their shape.
    fn structure(&mut self, schema: &Value, level: Level, path: &str) {
        let Some(map) = schema.as_object() else {
            return;
        };
        let kind = text(map, "type");
        if kind == "array" && map.get("items").is_none_or(Value::is_null) {
            self.required(format!("{path}.items"), "must be specified");
        }
        if let Some(items) = map.get("items") {
            self.structure(items, Level::Item, &format!("{path}.items"));
        }
        for (name, property) in object(map, "properties") {
            self.structure(
                property,
                Level::Field,
                &format!("{path}.properties[{name}]"),
            );
        }
        if let Some(additional) = map.get("additionalProperties") {
            let path = format!("{path}.additionalProperties");
            if level == Level::Root {
                self.forbidden(path.clone(), "must not be used at the root");
            }
            self.structure(additional, Level::Field, &path);
        }
        self.extensions(map, path);
        self.values(map, level, path, is_int_or_string(map.get("anyOf")));
        self.types(map, level, path);
        self.own_fields(map, level, path);
    }

    fn extensions(&mut self, map: &Map<String, Value>, path: &str) {
        if !flag(map, "x-kubernetes-int-or-string") {
            return;
        }
        for name in [
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
        ] {
            if flag(map, name) {
                let detail = "must be false if x-kubernetes-int-or-string is true";
                self.invalid(format!("{path}.{name}"), true, detail);
            }
        }
    }

    fn types(&mut self, map: &Map<String, Value>, level: Level, path: &str) {
        let kind = text(map, "type");
        let embedded = flag(map, "x-kubernetes-embedded-resource");
        let preserves = flag(map, "x-kubernetes-preserve-unknown-fields");
        let at = || format!("{path}.type");
        if embedded && kind != "object" {
            let detail = "must be object if x-kubernetes-embedded-resource is true";
            if kind.is_empty() {
                self.required(at(), detail);
            } else {
                self.invalid(at(), kind, detail);
            }
        } else if kind.is_empty() && !flag(map, "x-kubernetes-int-or-string") && !preserves {
            let detail = match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            };
            self.required(at(), detail);
        }
        if embedded && map.contains_key("additionalProperties") {
            let detail = "must not be used if x-kubernetes-embedded-resource is set";
            self.forbidden(format!("{path}.additionalProperties"), detail);
        }
        if level == Level::Root && !kind.is_empty() && kind != "object" {
            self.invalid(at(), kind, "must be object at the root");
        }
        if embedded && !preserves && object(map, "properties").next().is_none() {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            self.required(format!("{path}.properties"), detail);
        }
    }

    /// `apiVersion`, `kind` and `metadata` of an object are the server's.
    fn own_fields(&mut self, map: &Map<String, Value>, level: Level, path: &str) {
        if level != Level::Root && !flag(map, "x-kubernetes-embedded-resource") {
            return;
        }
        let property = |name: &str| map.get("properties")?.get(name)?.as_object();
        for name in ["kind", "apiVersion"] {
            if let Some(property) = property(name)
                && text(property, "type") != "string"
            {
                let path = format!("{path}.properties[{name}].type");
                self.invalid(path, text(property, "type"), "must be string");
            }
        }
        let Some(metadata) = property("metadata") else {
            return;
        };
        let path = format!("{path}.properties[metadata]");
        if text(metadata, "type") != "object" {
            self.invalid(
                format!("{path}.type"),
                text(metadata, "type"),
                "must be object",
            );
        }
        if level == Level::Root {
            let mut properties = object(metadata, "properties");
            let names_only =
                properties.all(|(name, _)| matches!(name.as_str(), "name" | "generateName"));
            let says_more = metadata
                .keys()
                .any(|key| !matches!(key.as_str(), "type" | "properties" | "default"));
            if says_more || !names_only {
                let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                self.forbidden(path, detail);
            }
        }
    }

    /// The part of a schema that only constrains values.
    fn values(&mut self, map: &Map<String, Value>, level: Level, path: &str, skip_any_of: bool) {
        for (name, skipped) in [("anyOf", skip_any_of), ("oneOf", false)] {
            for (at, one) in list(map, name).enumerate().filter(|_| !skipped) {
                self.nested(one, level, &format!("{path}.{name}[{at}]"), false);
            }
        }
        for (at, one) in list(map, "allOf").enumerate() {
            let first = at == 0 && is_int_or_string(one.get("anyOf"));
            self.nested(one, level, &format!("{path}.allOf[{at}]"), first);
        }
        if let Some(not) = map.get("not") {
            self.nested(not, level, &format!("{path}.not"), false);
        }
        let pattern = text(map, "pattern");
        if !pattern.is_empty()
            && let Some(complaint) = Pattern::new(pattern).complaint()
        {
            let detail = format!("must be a valid regular expression, but isn't: {complaint}");
            self.invalid(format!("{path}.pattern"), pattern, &detail);
        }
    }

    fn nested(&mut self, schema: &Value, level: Level, path: &str, skip_any_of: bool) {
        const EMPTY: [&str; 3] = ["type", "title", "description"];
        const FALSE: [&str; 4] = [
            "nullable",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
        ];
        const UNDEFINED: [&str; 4] = [
            "additionalProperties",
            "default",
            "x-kubernetes-list-type",
            "x-kubernetes-map-type",
        ];
        let Some(map) = schema.as_object() else {
            return;
        };
        self.values(map, level, path, skip_any_of);
        if let Some(items) = map.get("items") {
            self.nested(items, level, &format!("{path}.items"), false);
        }
        for (name, property) in object(map, "properties") {
            let path = format!("{path}.properties[{name}]");
            self.nested(property, Level::Field, &path, false);
        }
        for name in EMPTY.iter().filter(|name| !text(map, name).is_empty()) {
            self.forbidden(format!("{path}.{name}"), "must be empty to be structural");
        }
        for name in FALSE.iter().filter(|name| flag(map, name)) {
            self.forbidden(format!("{path}.{name}"), "must be false to be structural");
        }
        for name in UNDEFINED.iter().filter(|name| map.contains_key(**name)) {
            self.forbidden(
                format!("{path}.{name}"),
                "must be undefined to be structural",
            );
        }
        for name in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
            if list(map, name).next().is_some() {
                self.forbidden(format!("{path}.{name}"), "must be empty to be structural");
            }
        }
        if map
            .get("properties")
            .is_some_and(|all| all.get("metadata").is_some())
        {
            let path = format!("{path}.properties[metadata]");
            self.forbidden(path, "must not be specified in a nested context");
        }
    }

    /// Every field that values are constrained at must have its shape in the structural part.
    fn completeness(&mut self, values: &Value, shape: &Value, path: &str, shape_path: &str) {
        let Some(map) = values.as_object() else {
            return;
        };
        for name in ["allOf", "anyOf", "oneOf"] {
            for (at, one) in list(map, name).enumerate() {
                self.nested_completeness(
                    one,
                    Some(shape),
                    &format!("{path}.{name}[{at}]"),
                    shape_path,
                );
            }
        }
        if let Some(not) = map.get("not") {
            self.nested_completeness(not, Some(shape), &format!("{path}.not"), shape_path);
        }
        if std::ptr::eq(values, shape) {
            for (name, property) in object(map, "properties") {
                let path = format!("{path}.properties[{name}]");
                self.completeness(property, property, &path, &path);
            }
            for name in ["items", "additionalProperties"] {
                if let Some(inner) = map.get(name) {
                    let path = format!("{path}.{name}");
                    self.completeness(inner, inner, &path, &path);
                }
            }
        }
    }

    fn nested_completeness(
        &mut self,
        values: &Value,
        shape: Option<&Value>,
        path: &str,
        shape_path: &str,
    ) {
        let Some(map) = values.as_object() else {
            return;
        };
        let Some(shape) = shape.filter(|shape| shape.is_object()) else {
            let detail = format!("because it is defined in {path}");
            return self.required(shape_path.to_owned(), &detail);
        };
        self.completeness(values, shape, path, shape_path);
        if let Some(items) = map.get("items") {
            let (path, shape_path) = (format!("{path}.items"), format!("{shape_path}.items"));
            self.nested_completeness(items, shape.get("items"), &path, &shape_path);
        }
        for (name, property) in object(map, "properties") {
            let path = format!("{path}.properties[{name}]");
            let shape_path = format!("{shape_path}.properties[{name}]");
            let shape = shape.get("properties").and_then(|all| all.get(name));
            self.nested_completeness(property, shape, &path, &shape_path);
        }
    }

    /// What each keyword may be, whatever the structure.
    fn keywords(&mut self, schema: &Value, path: &str, root: bool, around: &Surroundings) {
        let Some(map) = schema.as_object() else {
            return;
        };
        self.standard(map, path, around);
        if flag(map, "uniqueItems") {
            let detail =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbidden(format!("{path}.uniqueItems"), detail);
        }
        if let Some(additional) = map.get("additionalProperties") {
            let path = format!("{path}.additionalProperties");
            if object(map, "properties").next().is_some() && *additional != Value::Bool(true) {
                let detail = "additionalProperties and properties are mutual exclusive";
                self.forbidden(path.clone(), detail);
            }
            let mut inside = around.clone();
            if around.in_metadata {
                let why = "inside additionalProperties applying to object metadata";
                inside.no_defaults = Some(why.to_owned());
            }
            self.keywords(additional, &path, false, &inside);
        }
        let embedded = flag(map, "x-kubernetes-embedded-resource");
        for (name, property) in object(map, "properties") {
            let mut inside = around.clone();
            if (root || embedded) && OBJECT_FIELDS.contains(&name.as_str()) {
                inside.in_metadata = true;
                if root {
                    inside.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            self.keywords(
                property,
                &format!("{path}.properties[{name}]"),
                false,
                &inside,
            );
        }
        for name in ["not", "items"] {
            if let Some(inner) = map.get(name) {
                self.keywords(inner, &format!("{path}.{name}"), false, around);
            }
        }
        for name in ["allOf", "oneOf", "anyOf"] {
            for (at, inner) in list(map, name).enumerate() {
                self.keywords(inner, &format!("{path}.{name}[{at}]"), false, around);
            }
        }
        if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            let path = format!("{path}.x-kubernetes-preserve-unknown-fields");
            self.invalid(path, false, "must be true or undefined");
        }
        self.map_type(map, path);
        self.list_type(map, path);
        self.rules(map, path);
    }

    fn standard(&mut self, map: &Map<String, Value>, path: &str, around: &Surroundings) {
        let kind = text(map, "type");
        if !kind.is_empty() && !TYPES.contains(&kind) {
            let allowed = TYPES.map(Value::from);
            let error = FieldError::unsupported(format!("{path}.type"), &kind.into(), &allowed);
            self.0.push(error);
        }
        if let Some(why) = &around.no_defaults
            && map.get("default").is_some_and(|value| !value.is_null())
        {
            self.forbidden(format!("{path}.default"), &format!("must not be set {why}"));
        }
        for name in UNSUPPORTED.iter().filter(|name| map.contains_key(**name)) {
            self.forbidden(
                format!("{path}.{name}"),
                &format!("{name} is not supported"),
            );
        }
        if map.get("items").is_some_and(Value::is_array) {
            let detail = "items must be a schema object and not an array";
            self.forbidden(format!("{path}.items"), detail);
        }
        if kind == "null" {
            let detail = "type cannot be set to null, use nullable as an alternative";
            self.forbidden(format!("{path}.type"), detail);
        }
        if around.in_metadata && flag(map, "x-kubernetes-embedded-resource") {
            let detail = "must not be used inside of resource meta";
            self.forbidden(format!("{path}.x-kubernetes-embedded-resource"), detail);
        }
    }

    fn of_type(
        &mut self,
        map: &Map<String, Value>,
        path: &str,
        wanted: &str,
        keyword: &str,
    ) -> bool {
        let kind = text(map, "type");
        let detail = format!("must be {wanted} if {keyword} is specified");
        if kind.is_empty() {
            self.required(format!("{path}.type"), &detail);
        } else if kind != wanted {
            self.invalid(format!("{path}.type"), kind, &detail);
        }
        kind == wanted
    }

    fn map_type(&mut self, map: &Map<String, Value>, path: &str) {
        const NAME: &str = "x-kubernetes-map-type";
        let Some(said) = map.get(NAME) else { return };
        self.of_type(map, path, "object", NAME);
        if said != "atomic" && said != "granular" {
            let allowed = ["atomic", "granular"].map(Value::from);
            let error = FieldError::unsupported(format!("{path}.{NAME}"), said, &allowed);
            self.0.push(error);
        }
    }

    fn list_type(&mut self, map: &Map<String, Value>, path: &str) {
        const NAME: &str = "x-kubernetes-list-type";
        const KEYS: &str = "x-kubernetes-list-map-keys";
        let said = map.get(NAME);
        let kind = text(map, NAME);
        let at = format!("{path}.{NAME}");
        if let Some(said) = said {
            let is_array = self.of_type(map, path, "array", NAME);
            if is_array && kind == "set" {
                self.set_items(map, path);
            }
            if !["atomic", "set", "map"].contains(&kind) {
                let allowed = ["atomic", "set", "map"].map(Value::from);
                self.0
                    .push(FieldError::unsupported(at.clone(), said, &allowed));
            }
        }
        let has_keys = list(map, KEYS).next().is_some();
        if has_keys && kind != "map" {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            match said {
                None => self.required(at, detail),
                Some(said) => self.invalid(at, said.clone(), detail),
            }
        }
        if kind == "map" {
            if !has_keys {
                let detail = "must not be empty if x-kubernetes-list-type is map";
                self.required(format!("{path}.{KEYS}"), detail);
            }
            self.map_items(map, path);
        }
        let items = map.get("items").and_then(Value::as_object);
        if matches!(kind, "set" | "map") && items.is_some_and(|items| flag(items, "nullable")) {
            let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
            self.forbidden(format!("{path}.items.nullable"), &detail);
        }
    }

    /// Elements of a set are compared whole.
    fn set_items(&mut self, map: &Map<String, Value>, path: &str) {
        let Some(items) = map.get("items").and_then(Value::as_object) else {
            return;
        };
        let (name, wrong) = match text(items, "type") {
            "array" => {
                let said = items.get("x-kubernetes-list-type");
                (
                    "x-kubernetes-list-type",
                    said.is_some_and(|said| said != "atomic"),
                )
            }
            "object" => {
                let atomic = text(items, "x-kubernetes-map-type") == "atomic";
                ("x-kubernetes-map-type", !atomic)
            }
            _ => return,
        };
        if wrong {
            let said = items.get(name).cloned().unwrap_or(Value::Null);
            let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
            self.invalid(format!("{path}.items.{name}"), said, detail);
        }
    }

    fn map_items(&mut self, map: &Map<String, Value>, path: &str) {
        const KEYS: &str = "x-kubernetes-list-map-keys";
        let Some(items) = map.get("items").and_then(Value::as_object) else {
            let detail = "must have a schema if x-kubernetes-list-type is map";
            return self.required(format!("{path}.items"), detail);
        };
        if text(items, "type") != "object" {
            let detail = "must be object if parent array's x-kubernetes-list-type is map";
            return self.invalid(format!("{path}.items.type"), text(items, "type"), detail);
        }
        let all = map.get(KEYS).cloned().unwrap_or_default();
        let mut seen = Vec::new();
        for key in list(map, KEYS).filter_map(Value::as_str) {
            if seen.contains(&key) {
                let detail = "must not contain duplicate entries";
                self.invalid(format!("{path}.{KEYS}"), all.clone(), detail);
            }
            seen.push(key);
            let property = items
                .get("properties")
                .and_then(|all| all.get(key)?.as_object());
            let Some(property) = property else {
                let detail = "entries must all be names of item properties";
                self.invalid(format!("{path}.{KEYS}"), all.clone(), detail);
                continue;
            };
            let at = format!("{path}.items.properties[{key}]");
            if matches!(text(property, "type"), "array" | "object") {
                let detail =
                    "must be a scalar type if parent array's x-kubernetes-list-type is map";
                self.invalid(format!("{at}.type"), text(items, "type"), detail);
            }
            let is_required = list(items, "required").any(|one| one == key);
            if !is_required && property.get("default").is_none_or(Value::is_null) {
                let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                self.required(format!("{at}.default"), detail);
            }
            if flag(property, "nullable") {
                let detail =
                    "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                self.forbidden(format!("{at}.nullable"), detail);
            }
        }
    }

    /// `x-kubernetes-validations`: their form; the expressions are not evaluated.
    fn rules(&mut self, map: &Map<String, Value>, path: &str) {
        for (at, rule) in list(map, "x-kubernetes-validations").enumerate() {
            let Some(rule) = rule.as_object() else {
                continue;
            };
            let path = format!("{path}.x-kubernetes-validations[{at}]");
            let has_newlines = |text: &str| text.contains(['\n', '\r']);
            let (expression, message) = (text(rule, "rule").trim(), text(rule, "message"));
            if expression.is_empty() {
                self.required(format!("{path}.rule"), "rule is not specified");
            } else if !message.is_empty() && message.trim().is_empty() {
                let detail = "message must be non-empty if specified";
                self.invalid(format!("{path}.message"), message, detail);
            } else if has_newlines(message.trim()) {
                let detail = "message must not contain line breaks";
                self.invalid(format!("{path}.message"), message, detail);
            } else if has_newlines(expression) && message.trim().is_empty() {
                let detail = "message must be specified if rule contains line breaks";
                self.required(format!("{path}.message"), detail);
            }
            if let Some(reason) = rule.get("reason")
                && !REASONS.iter().any(|one| reason == one)
            {
                let allowed = REASONS.map(Value::from);
                let error = FieldError::unsupported(format!("{path}.reason"), reason, &allowed);
                self.0.push(error);
            }
        }
    }
}

/// Defaults must be what their own schema allows, and nothing that would be pruned.
fn defaults(schema: &Value, path: &str, root: bool, errors: &mut Vec<FieldError>) {
    let Some(map) = schema.as_object() else {
        return;
    };
    if let Some(value) = map.get("default").filter(|value| !value.is_null()) {
        let compiled = Schema::compile(schema);
        let at = format!("{path}.default");
        let mut pruned = value.clone();
        let embedded = root || flag(map, "x-kubernetes-embedded-resource");
        let dropped = super::prune::prune_part(&mut pruned, &compiled, embedded);
        if !dropped.is_empty() {
            errors.push(FieldError::invalid(
                at.clone(),
                value,
                "must not have unknown fields",
            ));
        }
        errors.extend(super::validate(value, None, &compiled, &at));
    }
    for (name, property) in object(map, "properties") {
        defaults(
            property,
            &format!("{path}.properties[{name}]"),
            false,
            errors,
        );
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = map.get(name) {
            defaults(inner, &format!("{path}.{name}"), false, errors);
        }
    }
}
