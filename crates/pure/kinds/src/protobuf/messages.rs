//! How messages are laid out: field numbers, names, types. The table `messages.txt` comes from
//! the tags of Kubernetes' Go types (`scripts/protobuf` writes it).

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Lines `= apiVersion kind message`, then for each message `: message` and a line for each
/// field: number, name in JSON, type. `@` as a name: the fields of that message stand among
/// those of the one that holds it. `!` before a name: JSON has it even when it is zero. `*`
/// before a type: a pointer, of which zero says something; `[]` a list, `{}` a map by text.
const TABLE: &str = include_str!("messages.txt");

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| Messages::parse(TABLE));

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    number: u32,
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) form: Form,
    /// Whether zero, false, empty say something.
    pub(super) may_be_zero: bool,
    /// Whether it can be absent, whatever its zero means.
    pub(super) is_pointer: bool,
    /// Whether JSON has it even when it is zero.
    pub(super) is_always_there: bool,
}

impl Field {
    /// Whether its fields stand among those of the message that holds it.
    pub(super) fn is_embedded(&self) -> bool {
        self.name == "@"
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    List,
    Map,
}

/// What a value looks like on the wire, and in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Bool,
    Int,
    Double,
    Text,
    Bytes,
    /// `metav1.Time`, to the second.
    Time,
    /// `metav1.MicroTime`, to the microsecond.
    MicroTime,
    Quantity,
    IntOrText,
    /// A JSON document in a message of one field.
    Raw,
    /// A list of texts in a message of one field.
    Texts,
    /// The three unions of a JSON schema.
    SchemaOrList,
    SchemaOrBool,
    SchemaOrTexts,
    Message(&'static str),
}

/// All messages.
#[derive(Debug, Default)]
pub(super) struct Messages {
    roots: BTreeMap<(&'static str, &'static str), &'static str>,
    messages: BTreeMap<&'static str, Vec<Field>>,
}

/// The table, read at first use.
pub(super) fn messages() -> &'static Messages {
    &MESSAGES
}

impl Messages {
    fn parse(table: &'static str) -> Self {
        let mut all = Self::default();
        let mut current = "";
        for line in table.lines() {
            let words: Vec<&'static str> = line.split(' ').collect();
            match words[..] {
                ["=", api_version, kind, message] => {
                    all.roots.insert((api_version, kind), message);
                }
                [":", message] => {
                    current = message;
                    all.messages.entry(message).or_default();
                }
                [number, name, kind] => {
                    let field = number
                        .parse()
                        .ok()
                        .and_then(|number| field(number, name, kind));
                    all.messages.entry(current).or_default().extend(field);
                }
                _ => {}
            }
        }
        all
    }

    /// The message of a kind. `DeleteOptions` belong to every group.
    pub(super) fn root(&self, api_version: &str, kind: &str) -> Option<&'static str> {
        let api_version = if kind == "DeleteOptions" {
            "v1"
        } else {
            api_version
        };
        self.roots.get(&(api_version, kind)).copied()
    }

    /// All fields of a message.
    pub(super) fn fields(&self, message: &str) -> &[Field] {
        self.messages.get(message).map_or(&[], Vec::as_slice)
    }

    pub(super) fn field(&self, message: &str, number: u32) -> Option<&Field> {
        let mut fields = self.messages.get(message)?.iter();
        fields.find(|field| field.number == number)
    }
}

fn field(number: u32, name: &'static str, kind: &'static str) -> Option<Field> {
    let always = name.strip_prefix('!');
    let pointer = kind.strip_prefix('*');
    let kind = pointer.unwrap_or(kind);
    let (shape, kind) = if let Some(items) = kind.strip_prefix("[]") {
        (Shape::List, items)
    } else if let Some(values) = kind.strip_prefix("{}") {
        (Shape::Map, values)
    } else {
        (Shape::One, kind)
    };
    let form = match kind {
        "bool" => Form::Bool,
        "int" => Form::Int,
        "double" => Form::Double,
        "text" => Form::Text,
        "bytes" => Form::Bytes,
        "time" => Form::Time,
        "micro" => Form::MicroTime,
        "quantity" => Form::Quantity,
        "int-or-text" => Form::IntOrText,
        "raw" => Form::Raw,
        "texts" => Form::Texts,
        "schema-or-list" => Form::SchemaOrList,
        "schema-or-bool" => Form::SchemaOrBool,
        "schema-or-texts" => Form::SchemaOrTexts,
        message => Form::Message(message.contains('/').then_some(message)?),
    };
    Some(Field {
        number,
        name: always.unwrap_or(name),
        shape,
        form,
        may_be_zero: always.is_some() || pointer.is_some(),
        is_pointer: pointer.is_some(),
        is_always_there: always.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use crate::schema::{Type, types};

    #[test]
    fn every_line_is_understood() {
        let lines = TABLE
            .lines()
            .filter(|line| !line.starts_with(['#', '=', ':']));
        let fields: usize = messages().messages.values().map(Vec::len).sum();
        assert_eq!(fields, lines.count());
        for (message, fields) in &messages().messages {
            for field in fields {
                if let Form::Message(other) = field.form {
                    assert!(
                        messages().messages.contains_key(other),
                        "{message}: {other}"
                    );
                }
            }
        }
    }

    /// The schemas come from another place than the table: what one has, the other has.
    #[test]
    fn every_field_of_every_kind_has_a_number() {
        fn compare(message: &'static str, at: u32, seen: &mut Vec<u32>) {
            if seen.contains(&at) {
                return;
            }
            seen.push(at);
            let definition = types().definition(at);
            for (name, expected) in definition.fields() {
                if ["apiVersion", "kind"].contains(&name) && numbered(message, name).is_none() {
                    continue;
                }
                let Some(field) = numbered(message, name) else {
                    panic!("{message} has no number for {name} of {}", definition.name);
                };
                let expected = if let Type::List(of) | Type::Map(of) = expected {
                    of
                } else {
                    expected
                };
                if let (Form::Message(message), Type::Object(at)) = (field.form, expected) {
                    compare(message, *at, seen);
                }
            }
        }
        fn numbered(message: &str, name: &str) -> Option<&'static Field> {
            let fields = messages().messages.get(message)?;
            fields.iter().find_map(|field| {
                if let (Form::Message(inner), true) = (field.form, field.is_embedded()) {
                    return numbered(inner, name);
                }
                (field.name == name).then_some(field)
            })
        }
        let mut seen = Vec::new();
        for kind in registry() {
            let api_version = match kind.group {
                "" => kind.version.to_owned(),
                group => format!("{group}/{}", kind.version),
            };
            let message = messages().root(&api_version, kind.kind);
            let message = message.unwrap_or_else(|| panic!("{api_version} {}", kind.kind));
            if let Type::Object(at) = types().root(kind) {
                compare(message, at, &mut seen);
            }
        }
    }
}
