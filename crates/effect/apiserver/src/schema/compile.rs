//! The compiled form of a schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::format::Format;
use super::pattern::Pattern;

/// The type of a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueType {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl ValueType {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What an object may have besides its properties.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    /// Nothing is said: unknown fields are pruned.
    #[default]
    Unsaid,
    /// `true`: names are free, their values have no schema.
    Any,
    /// `false`: nothing else.
    Forbidden,
    /// Names are free, every value has this schema.
    Each(Box<Schema>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// A schema, or the part of one below `allOf`, `anyOf`, `oneOf` and `not`.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    pub(crate) value_type: Option<ValueType>,
    pub(crate) properties: BTreeMap<Box<str>, Schema>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) default: Option<Box<Value>>,
    pub(crate) nullable: bool,
    pub(crate) preserves_unknown: bool,
    pub(crate) embedded: bool,
    pub(crate) int_or_string: bool,
    pub(crate) list: ListType,
    pub(crate) atomic_map: bool,
    /// Many schemas only say a type.
    pub(crate) rules: Option<Box<Rules>>,
}

/// A bound of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) limit: f64,
    pub(crate) exclusive: bool,
}

/// What a value must fulfil besides its type.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) format: Option<Format>,
    pub(crate) pattern: Option<Arc<Pattern>>,
    pub(crate) allowed: Vec<Value>,
    pub(crate) minimum: Option<Bound>,
    pub(crate) maximum: Option<Bound>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) required: Vec<Box<str>>,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) one_of: Vec<Schema>,
    pub(crate) not: Option<Box<Schema>>,
}

/// Patterns met while compiling, so that equal ones are kept once.
type Patterns = BTreeMap<String, Arc<Pattern>>;

impl Schema {
    /// Compiles `openAPIV3Schema`. What is not a schema constrains nothing: whether it may be
    /// used is [`super::structural`]'s question.
    pub(crate) fn compile(schema: &Value) -> Self {
        Self::read(schema, &mut Patterns::new())
    }

    fn read(schema: &Value, patterns: &mut Patterns) -> Self {
        let Some(map) = schema.as_object() else {
            return Self::default();
        };
        let flag = |name: &str| map.get(name) == Some(&Value::Bool(true));
        let properties = map.get("properties").and_then(Value::as_object);
        let additional = match map.get("additionalProperties") {
            None | Some(Value::Null) => Additional::Unsaid,
            Some(Value::Bool(false)) => Additional::Forbidden,
            Some(each @ Value::Object(_)) => Additional::Each(Box::new(Self::read(each, patterns))),
            Some(_) => Additional::Any,
        };
        let list = match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListType::Set,
            Some("map") => ListType::Map(texts(map, "x-kubernetes-list-map-keys")),
            _ => ListType::Atomic,
        };
        let items = map.get("items").filter(|items| items.is_object());
        Self {
            value_type: map
                .get("type")
                .and_then(Value::as_str)
                .and_then(ValueType::parse),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.as_str().into(), Self::read(schema, patterns)))
                .collect(),
            additional,
            items: items.map(|items| Box::new(Self::read(items, patterns))),
            default: map
                .get("default")
                .filter(|value| !value.is_null())
                .map(|value| Box::new(value.clone())),
            nullable: flag("nullable"),
            preserves_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list,
            atomic_map: map.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic"),
            rules: Rules::read(map, patterns).map(Box::new),
        }
    }

    /// What stands in a list of this schema, or the schema itself.
    pub(crate) fn element(&self) -> &Self {
        let mut here = self;
        while let Some(items) = &here.items {
            here = items;
        }
        here
    }

    /// The schema of a field, by name; lists on the way are passed through.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        let mut here = self;
        for name in path {
            here = here.element();
            here = match (here.properties.get(*name), &here.additional) {
                (Some(property), _) => property,
                (None, Additional::Each(each)) => each,
                (None, Additional::Unsaid | Additional::Any | Additional::Forbidden) => {
                    return None;
                }
            };
        }
        Some(here)
    }
}

impl Rules {
    fn read(map: &Map<String, Value>, patterns: &mut Patterns) -> Option<Self> {
        const KEYWORDS: [&str; 18] = [
            "format",
            "pattern",
            "enum",
            "minimum",
            "maximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "required",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
            "exclusiveMinimum",
        ];
        if !KEYWORDS.iter().any(|keyword| map.contains_key(*keyword)) {
            return None;
        }
        let count = |name: &str| map.get(name).and_then(Value::as_u64);
        let bound = |name: &str, exclusive: &str| {
            Some(Bound {
                limit: map.get(name)?.as_f64()?,
                exclusive: map.get(exclusive) == Some(&Value::Bool(true)),
            })
        };
        let pattern = map
            .get("pattern")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(|text| {
                let known = patterns.entry(text.to_owned());
                known
                    .or_insert_with(|| Arc::new(Pattern::new(text)))
                    .clone()
            });
        let mut list = |name: &str| -> Vec<Schema> {
            let all = map.get(name).and_then(Value::as_array);
            let all = all.into_iter().flatten();
            all.map(|one| Schema::read(one, patterns)).collect()
        };
        let (all_of, any_of, one_of) = (list("allOf"), list("anyOf"), list("oneOf"));
        Some(Self {
            format: map
                .get("format")
                .and_then(Value::as_str)
                .and_then(Format::parse),
            pattern,
            allowed: map
                .get("enum")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: map.get("multipleOf").and_then(Value::as_f64),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            required: texts(map, "required").into_iter().map(Into::into).collect(),
            all_of,
            any_of,
            one_of,
            not: map
                .get("not")
                .filter(|not| not.is_object())
                .map(|not| Box::new(Schema::read(not, patterns))),
        })
    }
}

fn texts(map: &Map<String, Value>, name: &str) -> Vec<String> {
    let list = map.get(name).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
