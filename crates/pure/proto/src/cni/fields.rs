//! Reading a JSON object field by field, so that every complaint names its field and
//! what nobody asked for is noticed.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Code, Error, Remark};

/// An object under its path; every `take_` marks a key as known.
pub(super) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    known: BTreeSet<&'a str>,
    /// Whether a key is the same in other letters of case.
    ignores_case: bool,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which stands at `path` (empty: the document itself).
    pub(super) fn of(path: &str, value: &'a Value) -> Result<Self, Error> {
        let Value::Object(map) = value else {
            let place = if path.is_empty() {
                "the configuration"
            } else {
                path
            };
            return Err(wrong_type(place, "an object", value));
        };
        Ok(Self {
            path: path.to_owned(),
            map,
            known: BTreeSet::new(),
            ignores_case: false,
        })
    }

    /// The fields of what a runtime fills in. containerd writes `HostPort` for `hostPort`, and
    /// whoever reads with Go's `encoding/json` sees no difference.
    pub(super) fn of_runtime(path: &str, value: &'a Value) -> Result<Self, Error> {
        Ok(Self {
            ignores_case: true,
            ..Self::of(path, value)?
        })
    }

    /// The path of a field.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// A field's value; `null` is the same as absent.
    pub(super) fn take(&mut self, key: &'a str) -> Option<&'a Value> {
        let mut found = self.map.get_key_value(key);
        if found.is_none() && self.ignores_case {
            let mut all = self.map.iter();
            found = all.find(|(name, _)| name.eq_ignore_ascii_case(key));
        }
        self.known.insert(found.map_or(key, |(name, _)| name));
        found
            .map(|(_, value)| value)
            .filter(|value| !value.is_null())
    }

    pub(super) fn take_str(&mut self, key: &'a str) -> Result<Option<&'a str>, Error> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(&self.path(key), "a string", other)),
        }
    }

    /// As [`Self::take_str`], and the empty string is the same as absent.
    pub(super) fn take_text(&mut self, key: &'a str) -> Result<Option<&'a str>, Error> {
        Ok(self.take_str(key)?.filter(|text| !text.is_empty()))
    }

    pub(super) fn take_u32(&mut self, key: &'a str) -> Result<Option<u32>, Error> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong_type(
                    &self.path(key),
                    "a whole number from 0 to 4294967295",
                    value,
                )),
            },
        }
    }

    pub(super) fn take_u64(&mut self, key: &'a str) -> Result<Option<u64>, Error> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(wrong_type(&self.path(key), "a whole number", value)),
            },
        }
    }

    pub(super) fn take_bool(&mut self, key: &'a str) -> Result<Option<bool>, Error> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong_type(&self.path(key), "true or false", other)),
        }
    }

    /// The items of a list with their paths; absent is empty.
    pub(super) fn take_list(&mut self, key: &'a str) -> Result<Vec<(String, &'a Value)>, Error> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(value) => items(&self.path(key), value),
        }
    }

    pub(super) fn take_strings(&mut self, key: &'a str) -> Result<Vec<String>, Error> {
        self.take_list(key)?
            .into_iter()
            .map(|(path, value)| Ok(text(&path, value)?.to_owned()))
            .collect()
    }

    /// Marks keys as known that others read, or that mean nothing to a plugin.
    pub(super) fn ignore(&mut self, keys: &[&'a str]) {
        self.known.extend(keys);
    }

    /// Every field nobody asked for, with its path.
    pub(super) fn unknown(&self) -> impl Iterator<Item = (String, &'a Value)> + '_ {
        let unknown = |key: &str| !self.known.contains(key);
        self.map
            .iter()
            .filter(move |(key, _)| unknown(key))
            .map(|(key, value)| (self.path(key), value))
    }

    /// Notes every field nobody asked for.
    pub(super) fn finish(self, remarks: &mut Vec<Remark>) {
        remarks.extend(self.unknown().map(|(field, _)| Remark {
            field,
            text: "is not known and has no effect".to_owned(),
        }));
    }
}

/// The items of a list, each with its path.
pub(super) fn items<'a>(path: &str, value: &'a Value) -> Result<Vec<(String, &'a Value)>, Error> {
    let Value::Array(list) = value else {
        return Err(wrong_type(path, "a list", value));
    };
    Ok(list
        .iter()
        .enumerate()
        .map(|(index, item)| (format!("{path}[{index}]"), item))
        .collect())
}

/// The text at `path`.
pub(super) fn text<'a>(path: &str, value: &'a Value) -> Result<&'a str, Error> {
    value
        .as_str()
        .ok_or_else(|| wrong_type(path, "a string", value))
}

/// Something that is written as text, such as an address.
pub(super) fn parse<T: std::str::FromStr>(path: &str, text: &str, what: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|_| invalid(path, &format!("{text:?} is not {what}")))
}

/// Error 7.
pub(super) fn invalid(path: &str, complaint: &str) -> Error {
    Error::new(Code::InvalidConfig, format!("{path}: {complaint}"))
}

/// Error 7 for a field that must be there.
pub(super) fn missing(path: &str) -> Error {
    invalid(path, "is missing")
}

/// Error 2; the specification wants key and value in it.
pub(super) fn unsupported(path: &str, value: &Value, hint: &str) -> Error {
    Error::new(
        Code::UnsupportedField,
        format!("{path}: {} is not supported; {hint}", shown(value)),
    )
}

/// A value that asks for nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn wrong_type(path: &str, expected: &str, value: &Value) -> Error {
    Error::new(
        Code::Decode,
        format!("{path}: must be {expected}, not {}", shown(value)),
    )
}

/// A value for a message, cut where it gets long.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    let mut text = value.to_string();
    if text.len() > LONGEST {
        let mut end = LONGEST;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}
