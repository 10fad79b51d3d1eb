//! Validation of a document by its schema, with the texts of Kubernetes.
//!
//! A value that did not change in an update is not complained about (ratcheting).

use serde_json::{Number, Value};

use super::compile::{Additional, ListType, Rules, Schema, ValueType};
use crate::resource::FieldError;

/// The violations in a document, or in the part of it at `root` (empty for a whole object).
pub(crate) fn validate(
    value: &Value,
    old: Option<&Value>,
    schema: &Schema,
    root: &str,
) -> Vec<FieldError> {
    check(value, old, schema, "", root).errors
}

/// What one schema says to one value.
#[derive(Default)]
struct Outcome {
    errors: Vec<FieldError>,
    /// How much of the schema was looked at: of alternatives that all fail, the one that fits
    /// best is told about.
    matches: usize,
}

impl Outcome {
    fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.matches += other.matches;
    }
}

/// One value at its place.
struct Place<'a> {
    value: &'a Value,
    old: Option<&'a Value>,
    /// Where it is, as messages say it: `spec.ports[0]`.
    path: &'a str,
    /// What comes before that in the error's own path.
    root: &'a str,
    out: Outcome,
}

fn check(value: &Value, old: Option<&Value>, schema: &Schema, path: &str, root: &str) -> Outcome {
    if old != Some(value) {
        let mut place = Place {
            value,
            old,
            path,
            root,
            out: Outcome::default(),
        };
        place.check(schema);
        return place.out;
    }
    Outcome {
        errors: Vec::new(),
        matches: 1,
    }
}

/// The type of a value as Kubernetes names it in messages.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|float| float.fract() == 0.0)
}

fn has_type(value: &Value, wanted: ValueType) -> bool {
    match (value, wanted) {
        (Value::Number(number), ValueType::Integer) => is_whole(number),
        (Value::Bool(_), ValueType::Boolean)
        | (Value::Number(_), ValueType::Number)
        | (Value::String(_), ValueType::String)
        | (Value::Array(_), ValueType::Array)
        | (Value::Object(_), ValueType::Object) => true,
        _ => false,
    }
}

/// A limit as Go prints it.
fn shown(limit: f64) -> String {
    if limit.fract() == 0.0 && limit.abs() < 1e21 {
        format!("{limit:.0}")
    } else {
        limit.to_string()
    }
}

impl Place<'_> {
    /// The path of an error here.
    fn field(&self) -> String {
        let path = self.path.trim_start_matches('.');
        match (self.root, path) {
            ("", "") => "<nil>".to_owned(),
            (root, "") => root.to_owned(),
            ("", path) => path.to_owned(),
            (root, path) => format!("{root}.{path}"),
        }
    }

    fn invalid(&mut self, value: &Value, complaint: &str) {
        let detail = format!("{} in body {complaint}", self.path);
        let error = FieldError::invalid(self.field(), value, &detail);
        self.out.errors.push(error);
    }

    /// An error about the combination of schemas; it has no field of its own.
    fn combination(&mut self, complaint: &str) {
        let detail = format!("{:?} {complaint}", self.path);
        let field = if self.root.is_empty() {
            "<nil>"
        } else {
            self.root
        };
        let error = FieldError::invalid(field, &"".into(), &detail);
        self.out.errors.push(error);
    }

    fn wrong_type(&mut self, wanted: &str, found: &str) {
        let detail = format!(
            "{} in body must be of type {wanted}: {}",
            self.path,
            Value::from(found)
        );
        let error = FieldError::type_invalid(self.field(), &found.into(), &detail);
        self.out.errors.push(error);
    }

    fn check(&mut self, schema: &Schema) {
        self.out.matches += 1;
        self.check_type(schema);
        if let Some(rules) = &schema.rules {
            if !self.value.is_null() {
                self.combinations(rules);
            }
            match self.value {
                Value::String(text) => self.text(text, rules),
                Value::Number(number) => self.number(number, rules),
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {}
            }
        }
        match self.value {
            Value::Array(list) => self.list(list, schema),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => {}
        }
        if let Some(rules) = &schema.rules {
            self.enumeration(rules);
        }
        if let Value::Object(map) = self.value {
            self.object(map, schema);
        }
    }

    fn check_type(&mut self, schema: &Schema) {
        if schema.int_or_string {
            let fits = if self.value.is_null() {
                schema.nullable
            } else {
                has_type(self.value, ValueType::Integer) || self.value.is_string()
            };
            if !fits {
                self.wrong_type("integer,string", type_name(self.value));
            }
            return;
        }
        let Some(wanted) = schema.value_type else {
            return;
        };
        let fits = if self.value.is_null() {
            schema.nullable
        } else {
            has_type(self.value, wanted)
        };
        if fits {
            self.out.matches += 1;
        } else {
            self.wrong_type(wanted.as_str(), type_name(self.value));
        }
    }

    /// What one schema of a combination says. Below it everything is complained about, changed
    /// or not: what counts is whether it fits.
    fn below(&self, schema: &Schema) -> Outcome {
        let mut place = Place {
            old: None,
            out: Outcome::default(),
            ..*self
        };
        place.check(schema);
        place.out
    }

    fn combinations(&mut self, rules: &Rules) {
        if !rules.any_of.is_empty() {
            let outcomes: Vec<Outcome> = rules.any_of.iter().map(|one| self.below(one)).collect();
            if outcomes.iter().all(|one| !one.errors.is_empty()) {
                self.combination("must validate at least one schema (anyOf)");
                self.merge_best(outcomes);
            }
        }
        if !rules.one_of.is_empty() {
            let outcomes: Vec<Outcome> = rules.one_of.iter().map(|one| self.below(one)).collect();
            let valid = outcomes.iter().filter(|one| one.errors.is_empty()).count();
            match valid {
                0 => {
                    self.combination(
                        "must validate one and only one schema (oneOf). Found none valid",
                    );
                    self.merge_best(outcomes);
                }
                1 => {}
                many => self.combination(&format!(
                    "must validate one and only one schema (oneOf). Found {many} valid alternatives"
                )),
            }
        }
        if !rules.all_of.is_empty() {
            let outcomes: Vec<Outcome> = rules.all_of.iter().map(|one| self.below(one)).collect();
            let valid = outcomes.iter().filter(|one| one.errors.is_empty()).count();
            let all = outcomes.len();
            for outcome in outcomes {
                self.out.merge(outcome);
            }
            if valid != all {
                let more = if valid == 0 { ". None validated" } else { "" };
                self.combination(&format!("must validate all the schemas (allOf){more}"));
            }
        }
        if let Some(not) = &rules.not
            && self.below(not).errors.is_empty()
        {
            self.combination("must not validate the schema (not)");
        }
    }

    fn merge_best(&mut self, outcomes: Vec<Outcome>) {
        let mut best: Option<Outcome> = None;
        for outcome in outcomes {
            if best
                .as_ref()
                .is_none_or(|best| outcome.matches > best.matches)
            {
                best = Some(outcome);
            }
        }
        if let Some(best) = best {
            self.out.merge(best);
        }
    }

    fn text(&mut self, text: &str, rules: &Rules) {
        let value = self.value;
        let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        if let Some(most) = rules.max_length
            && length > most
        {
            let error =
                FieldError::too_long(self.field(), usize::try_from(most).unwrap_or(usize::MAX));
            self.out.errors.push(error);
        }
        if let Some(least) = rules.min_length
            && length < least
        {
            self.invalid(value, &format!("should be at least {least} chars long"));
        }
        if let Some(pattern) = &rules.pattern
            && !pattern.is_match(text)
        {
            self.invalid(value, &format!("should match '{}'", pattern.text()));
        }
        if let Some(format) = rules.format
            && !format.accepts(text)
        {
            self.wrong_type(format.name(), text);
        }
    }

    fn number(&mut self, number: &Number, rules: &Rules) {
        let value = self.value;
        let Some(number) = number.as_f64() else {
            return;
        };
        if let Some(factor) = rules.multiple_of {
            let times = number / factor;
            if factor > 0.0 && times.fract() != 0.0 {
                self.invalid(value, &format!("should be a multiple of {}", shown(factor)));
            }
        }
        if let Some(most) = rules.maximum
            && (number > most.limit || (most.exclusive && number >= most.limit))
        {
            let than = if most.exclusive {
                "less than"
            } else {
                "less than or equal to"
            };
            self.invalid(value, &format!("should be {than} {}", shown(most.limit)));
        }
        if let Some(least) = rules.minimum
            && (number < least.limit || (least.exclusive && number <= least.limit))
        {
            let than = if least.exclusive {
                "greater than"
            } else {
                "greater than or equal to"
            };
            self.invalid(value, &format!("should be {than} {}", shown(least.limit)));
        }
    }

    fn enumeration(&mut self, rules: &Rules) {
        if rules.allowed.is_empty() || rules.allowed.contains(self.value) {
            return;
        }
        let error = FieldError::unsupported(self.field(), self.value, &rules.allowed);
        self.out.errors.push(error);
    }

    fn list(&mut self, list: &[Value], schema: &Schema) {
        if let Some(items) = &schema.items {
            for (at, one) in list.iter().enumerate() {
                let old = self.old_element(one, &schema.list);
                let path = format!("{}[{at}]", self.path);
                self.out.merge(check(one, old, items, &path, self.root));
            }
        }
        let Some(rules) = &schema.rules else { return };
        let length = u64::try_from(list.len()).unwrap_or(u64::MAX);
        if let Some(least) = rules.min_items
            && length < least
        {
            let value = length.into();
            self.invalid(&value, &format!("should have at least {least} items"));
        }
        if let Some(most) = rules.max_items
            && length > most
        {
            let error = FieldError::too_many(self.field(), length, most);
            self.out.errors.push(error);
        }
    }

    /// The element of the old list that is the same one: only maps have such.
    fn old_element(&self, one: &Value, list: &ListType) -> Option<&Value> {
        let ListType::Map(keys) = list else {
            return None;
        };
        let same = |held: &&Value| keys.iter().all(|key| held.get(key) == one.get(key));
        self.old?.as_array()?.iter().find(same)
    }

    fn object(&mut self, map: &serde_json::Map<String, Value>, schema: &Schema) {
        if let Some(rules) = &schema.rules {
            let length = u64::try_from(map.len()).unwrap_or(u64::MAX);
            if let Some(least) = rules.min_properties
                && length < least
            {
                let value = length.into();
                self.invalid(&value, &format!("should have at least {least} properties"));
            }
            if let Some(most) = rules.max_properties
                && length > most
            {
                let error = FieldError::too_many(self.field(), length, most);
                self.out.errors.push(error);
            }
        }
        for (name, value) in map {
            let schema = match (schema.properties.get(name.as_str()), &schema.additional) {
                (Some(property), _) => property,
                (None, Additional::Each(each)) => each,
                (None, Additional::Forbidden) => {
                    let detail = format!("{}.{name} in body is a forbidden property", self.path);
                    let error = FieldError::invalid(self.field(), &name.as_str().into(), &detail);
                    self.out.errors.push(error);
                    continue;
                }
                (None, Additional::Unsaid | Additional::Any) => continue,
            };
            let old = self.old.and_then(|old| old.get(name));
            let path = if self.path.is_empty() {
                name.clone()
            } else {
                format!("{}.{name}", self.path)
            };
            self.out.merge(check(value, old, schema, &path, self.root));
        }
        for name in schema.rules.iter().flat_map(|rules| &rules.required) {
            if !map.contains_key(&**name) {
                let field = Place {
                    path: &format!("{}.{name}", self.path),
                    out: Outcome::default(),
                    ..*self
                }
                .field();
                self.out.errors.push(FieldError::required(field, ""));
            }
        }
    }
}
