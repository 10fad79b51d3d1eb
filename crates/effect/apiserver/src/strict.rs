//! Documents as clients write them, in which a field may by mistake occur twice.
//!
//! The last one counts, and what was said twice is kept for a complaint. Source of the
//! wording: `sigs.k8s.io/json`, which Kubernetes decodes with.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How many repeated fields of one document are told, so that an answer stays small.
const TOLD: usize = 100;

/// A document, and what strict decoding complains about already in its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// `duplicate field "spec.replicas"`.
    pub(crate) duplicates: Vec<String>,
}

impl From<Value> for Document {
    fn from(value: Value) -> Self {
        Self {
            value,
            duplicates: Vec::new(),
        }
    }
}

impl Document {
    /// Reads JSON.
    pub(crate) fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        let mut source = serde_json::Deserializer::from_slice(text);
        let document = read(&mut source)?;
        source.end()?;
        Ok(document)
    }

    /// Reads YAML.
    pub(crate) fn from_yaml(text: &[u8]) -> Result<Self, serde_norway::Error> {
        read(serde_norway::Deserializer::from_slice(text))
    }
}

fn read<'de, D: Deserializer<'de>>(source: D) -> Result<Document, D::Error> {
    let duplicates = RefCell::new(Vec::new());
    let place = Place {
        path: Path::Root,
        duplicates: &duplicates,
    };
    let value = place.deserialize(source)?;
    Ok(Document {
        value,
        duplicates: duplicates.into_inner(),
    })
}

/// Where in a document something stands.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Element(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Element(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

/// Reads the value at one place.
struct Place<'a> {
    path: Path<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = elements.next_element_seed(Place {
            path: Path::Element(&self.path, list.len()),
            duplicates: self.duplicates,
        })? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = Path::Field(&self.path, &name);
            let value = fields.next_value_seed(Place {
                path,
                duplicates: self.duplicates,
            })?;
            if map.contains_key(&name) {
                let mut told = self.duplicates.borrow_mut();
                let complaint = format!("duplicate field \"{path}\"");
                if told.len() < TOLD && !told.contains(&complaint) {
                    told.push(complaint);
                }
            }
            map.insert(name, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn repeated_fields_are_told_and_the_last_counts() {
        let text = br#"{"a": 1, "b": {"c": [{"d": 1}, {"d": 2, "d": 3, "d": 4}]}, "a": 2}"#;
        let document = Document::from_json(text).unwrap();
        let wanted = json!({"a": 2, "b": {"c": [{"d": 1}, {"d": 4}]}});
        assert_eq!(document.value, wanted);
        let told = ["duplicate field \"b.c[1].d\"", "duplicate field \"a\""];
        assert_eq!(document.duplicates, told);
        let yaml = b"a: 1\nb:\n  c:\n  - d: 1\n  - d: 2\n    d: 4\na: 2\n";
        assert_eq!(Document::from_yaml(yaml).unwrap(), document);
    }

    #[test]
    fn values_are_read_as_serde_json_reads_them() {
        let text = br#"[null, true, -5, 18446744073709551615, 1.5, "x\u00e9", [], {}]"#;
        let wanted: Value = serde_json::from_slice(text).unwrap();
        assert_eq!(Document::from_json(text).unwrap(), wanted.into());
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let deep = "[".repeat(100_000);
        for text in ["", "{", "{} {}", "nul", "{\"a\": }", deep.as_str()] {
            assert!(Document::from_json(text.as_bytes()).is_err(), "{text:.10}");
        }
    }
}
