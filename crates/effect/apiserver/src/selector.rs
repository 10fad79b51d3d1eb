//! Label and field selectors, as `labels.Parse` and `fields.ParseSelector` read them.

use crate::object::Object;
use crate::resource::{Resource, Strategy};
use crate::status::ApiError;

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LabelTerm {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Above(String, i64),
    Below(String, i64),
}

impl LabelTerm {
    fn matches(&self, object: &Object) -> bool {
        let number = |key: &str| object.label(key).and_then(|text| text.parse::<i64>().ok());
        match self {
            LabelTerm::Exists(key) => object.label(key).is_some(),
            LabelTerm::Absent(key) => object.label(key).is_none(),
            LabelTerm::In(key, values) => object
                .label(key)
                .is_some_and(|value| values.iter().any(|one| one == value)),
            LabelTerm::NotIn(key, values) => !object
                .label(key)
                .is_some_and(|value| values.iter().any(|one| one == value)),
            LabelTerm::Above(key, bound) => number(key).is_some_and(|value| value > *bound),
            LabelTerm::Below(key, bound) => number(key).is_some_and(|value| value < *bound),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldTerm {
    field: String,
    value: String,
    equal: bool,
}

/// What a list or watch asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector` of a request.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = parse_labels(labels).map_err(ApiError::bad_request)?;
        let fields = parse_fields(fields).map_err(ApiError::bad_request)?;
        for term in &fields {
            let known = term.field == "metadata.name"
                || (term.field == "metadata.namespace" && resource.namespaced)
                || resource
                    .strategy
                    .field_names()
                    .contains(&term.field.as_str());
            if !known {
                let field = &term.field;
                let own = resource.strategy.field_names();
                return Err(ApiError::bad_request(if own.is_empty() {
                    format!(
                        "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                } else {
                    format!("field label not supported: {field}")
                }));
            }
        }
        Ok(Self { labels, fields })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Object, strategy: &dyn Strategy) -> bool {
        self.labels.iter().all(|term| term.matches(object))
            && self.fields.iter().all(|term| {
                let value = object.field(strategy, &term.field).unwrap_or_default();
                (value == term.value) == term.equal
            })
    }

    /// Selects only this name.
    pub(crate) fn require_name(&mut self, name: &str) {
        self.fields.push(FieldTerm {
            field: "metadata.name".to_owned(),
            value: name.to_owned(),
            equal: true,
        });
    }

    /// The one name that is selected, if only one can be.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|term| term.equal && term.field == "metadata.name")
            .map(|term| term.value.as_str())
    }
}

fn parse_fields(text: &str) -> Result<Vec<FieldTerm>, String> {
    split_unescaped(text, ',')
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (field, operator, value) = ["!=", "==", "="]
                .iter()
                .filter_map(|operator| part.find(operator).map(|at| (at, *operator)))
                .min_by_key(|(at, operator)| (*at, std::cmp::Reverse(operator.len())))
                .map(|(at, operator)| (&part[..at], operator, &part[at + operator.len()..]))
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            Ok(FieldTerm {
                field: field.to_owned(),
                value: unescape(value)?,
                equal: operator != "!=",
            })
        })
        .collect()
}

fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut from, mut escaped) = (0, false);
    for (at, character) in text.char_indices() {
        if character == separator && !escaped {
            parts.push(&text[from..at]);
            from = at + separator.len_utf8();
        }
        escaped = character == '\\' && !escaped;
    }
    parts.push(&text[from..]);
    parts
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some(next @ ('\\' | ',' | '=')) => out.push(next),
            other => {
                let next = other.map(String::from).unwrap_or_default();
                return Err(format!(
                    "invalid field selector: invalid escape sequence: \\{next}"
                ));
            }
        }
    }
    Ok(out)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.into_iter().find(|one| rest.starts_with(one)) {
            out.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest
                .find(|one: char| one.is_whitespace() || "=!(),><".contains(one))
                .unwrap_or(rest.len());
            out.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(out)
}

fn parse_labels(text: &str) -> Result<Vec<LabelTerm>, String> {
    let tokens = tokens(text)?;
    let mut terms = Vec::new();
    let mut at = tokens.iter().peekable();
    while at.peek().is_some() {
        if let Some(Token::Symbol(symbol)) = at.peek()
            && *symbol != "!"
        {
            return Err(format!(
                "found '{symbol}', expected: !, identifier, or 'end of string'"
            ));
        }
        let term = parse_term(&mut at);
        terms.push(term.map_err(|why| format!("unable to parse requirement: {why}"))?);
        match at.next() {
            None => break,
            Some(Token::Symbol(",")) if at.peek().is_some() => {}
            Some(Token::Symbol(",")) => {
                return Err("found '', expected: identifier after ','".into());
            }
            Some(other) => {
                return Err(format!(
                    "found {}, expected: ',' or 'end of string'",
                    show(other)
                ));
            }
        }
    }
    Ok(terms)
}

type Tokens<'a> = std::iter::Peekable<std::slice::Iter<'a, Token>>;

fn parse_term(at: &mut Tokens<'_>) -> Result<LabelTerm, String> {
    let negated = at.next_if_eq(&&Token::Symbol("!")).is_some();
    let key = word(at)?;
    check_key(&key)?;
    if negated {
        return Ok(LabelTerm::Absent(key));
    }
    match at.peek() {
        None | Some(Token::Symbol(",")) => Ok(LabelTerm::Exists(key)),
        Some(Token::Symbol("=" | "==")) => {
            at.next();
            let value = value(at, &key)?;
            Ok(LabelTerm::In(key, vec![value]))
        }
        Some(Token::Symbol("!=")) => {
            at.next();
            let value = value(at, &key)?;
            Ok(LabelTerm::NotIn(key, vec![value]))
        }
        Some(Token::Symbol(symbol @ (">" | "<"))) => {
            let above = *symbol == ">";
            at.next();
            let bound = word(at)?;
            let bound = bound.parse().map_err(|_| {
                format!("values[0]: Invalid value: {bound:?}: for 'Gt', 'Lt' operators, the value must be an integer")
            })?;
            Ok(if above {
                LabelTerm::Above(key, bound)
            } else {
                LabelTerm::Below(key, bound)
            })
        }
        Some(Token::Word(operator)) if operator == "in" || operator == "notin" => {
            let within = operator == "in";
            at.next();
            let values = list(at)?;
            for (at, value) in values.iter().enumerate() {
                check_value(value, at, &key)?;
            }
            Ok(if within {
                LabelTerm::In(key, values)
            } else {
                LabelTerm::NotIn(key, values)
            })
        }
        Some(other) => Err(format!(
            "found {}, expected: in, notin, =, ==, !=, gt, lt",
            show(other)
        )),
    }
}

fn list(at: &mut Tokens<'_>) -> Result<Vec<String>, String> {
    if at.next_if_eq(&&Token::Symbol("(")).is_none() {
        return Err(format!("found {} expected: '('", shown(at)));
    }
    let mut values = Vec::new();
    loop {
        match at.peek() {
            Some(Token::Symbol(",")) => {
                values.push(String::new());
                at.next();
            }
            Some(Token::Symbol(")")) => {
                values.push(String::new());
                at.next();
                return Ok(values);
            }
            Some(Token::Word(_)) => {
                values.push(word(at)?);
                match at.next() {
                    Some(Token::Symbol(",")) => {}
                    Some(Token::Symbol(")")) => return Ok(values),
                    Some(other) => {
                        return Err(format!("found {}, expected: ',' or ')'", show(other)));
                    }
                    None => return Err("found '', expected: ',' or ')'".into()),
                }
            }
            _ => {
                return Err(format!(
                    "found {}, expected: ',', ')' or identifier",
                    shown(at)
                ));
            }
        }
    }
}

fn word(at: &mut Tokens<'_>) -> Result<String, String> {
    match at.next() {
        Some(Token::Word(word)) => Ok(word.clone()),
        Some(Token::Symbol(symbol)) => Err(format!("found '{symbol}', expected: identifier")),
        None => Err("found '', expected: identifier".into()),
    }
}

/// A value of the label `key`, which may be empty.
fn value(at: &mut Tokens<'_>, key: &str) -> Result<String, String> {
    match at.peek() {
        None | Some(Token::Symbol(",")) => Ok(String::new()),
        Some(_) => {
            let value = word(at)?;
            check_value(&value, 0, key)?;
            Ok(value)
        }
    }
}

/// The longest name part of a key, and the longest value, in bytes.
const LONGEST: usize = 63;
/// What apimachinery says of a value and of a key that are not well formed.
const VALUE_FORM: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const KEY_FORM: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// Alphanumeric at both ends, and `-`, `_`, `.` besides in between.
fn is_name(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.bytes().all(inside) && end(text.bytes().next()) && end(text.bytes().next_back())
}

fn is_subdomain(text: &str) -> bool {
    let inside = |byte: u8| byte != b'_' && !byte.is_ascii_uppercase();
    is_name(text) && text.bytes().all(inside)
}

fn check_value(value: &str, at: usize, key: &str) -> Result<(), String> {
    let why = if value.len() > LONGEST {
        "must be no more than 63 characters"
    } else if value.is_empty() || is_name(value) {
        return Ok(());
    } else {
        VALUE_FORM
    };
    Err(format!(
        "values[{at}][{key}]: Invalid value: {value:?}: {why}"
    ))
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let why = if name.contains('/') {
        "a qualified name must consist of a DNS subdomain, a slash and a name, or of a name"
    } else if name.is_empty() {
        "name part must be non-empty"
    } else if name.len() > LONGEST {
        "name part must be no more than 63 characters"
    } else if !is_name(name) {
        KEY_FORM
    } else if prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
        "prefix part must be a DNS subdomain"
    } else {
        return Ok(());
    };
    Err(format!("<nil>: Invalid value: {key:?}: {why}"))
}

/// The next token, as messages show it.
fn shown(at: &mut Tokens<'_>) -> String {
    at.peek()
        .map_or_else(|| "''".to_owned(), |token| show(token))
}

fn show(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("'{word}'"),
        Token::Symbol(symbol) => format!("'{symbol}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(labels: &[(&str, &str)]) -> Object {
        let labels: serde_json::Map<String, serde_json::Value> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).into()))
            .collect();
        Object::new(&json!({"metadata": {"name": "x", "labels": labels}}), 1)
    }

    fn selects(text: &str, labels: &[(&str, &str)]) -> bool {
        let terms = parse_labels(text).unwrap();
        terms.iter().all(|term| term.matches(&object(labels)))
    }

    #[test]
    fn label_selectors_select() {
        let web = [("app", "web"), ("tier", "front"), ("n", "5")];
        for (text, wanted) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app = web , tier != back", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("app in (web, db)", true),
            ("app notin (web,db)", false),
            ("missing notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!missing,app", true),
            ("n>4", true),
            ("n<5", false),
            ("example.com/x=", false),
            ("app in (,web)", true),
        ] {
            assert_eq!(selects(text, &web), wanted, "{text:?}");
        }
    }

    #[test]
    fn malformed_label_selectors_are_refused() {
        for text in [
            "=a", "a b", "a in b", "a in (b", "a=b,", "a>x", "a in", "!", "a=b c", "(", "a=é",
        ] {
            assert!(parse_labels(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn complaints_are_worded_as_in_kubernetes() {
        let unable = |why: &str| format!("unable to parse requirement: {why}");
        for (text, wanted) in [
            (
                "a=b,",
                "found '', expected: identifier after ','".to_owned(),
            ),
            (
                "=a",
                "found '=', expected: !, identifier, or 'end of string'".to_owned(),
            ),
            ("a in b", unable("found 'b' expected: '('")),
            ("a in (b", unable("found '', expected: ',' or ')'")),
            ("a>=x", unable("found '=', expected: identifier")),
            (
                "a>x",
                unable(
                    "values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
                ),
            ),
            (
                "a b",
                unable("found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ),
            (
                "a=é",
                unable(&format!("values[0][a]: Invalid value: \"é\": {VALUE_FORM}")),
            ),
            (
                "a in (b,c-)",
                unable(&format!(
                    "values[1][a]: Invalid value: \"c-\": {VALUE_FORM}"
                )),
            ),
            (
                "-a-=b",
                unable(&format!("<nil>: Invalid value: \"-a-\": {KEY_FORM}")),
            ),
        ] {
            assert_eq!(parse_labels(text), Err(wanted), "{text:?}");
        }
        for text in ["Example.com/a", "/a", "a/", "a/b/c", &"a".repeat(64)] {
            assert!(parse_labels(text).is_err(), "{text:?}");
        }
        assert!(parse_labels("example.com/a_b.C=,x notin (,1)").is_ok());
    }

    #[test]
    fn field_selectors_are_read() {
        let terms = parse_fields("metadata.name=a,spec.nodeName!=b\\,c,x==y").unwrap();
        let read: Vec<(&str, &str, bool)> = terms
            .iter()
            .map(|term| (term.field.as_str(), term.value.as_str(), term.equal))
            .collect();
        assert_eq!(
            read,
            [
                ("metadata.name", "a", true),
                ("spec.nodeName", "b,c", false),
                ("x", "y", true)
            ]
        );
        assert!(parse_fields("nonsense").is_err());
        assert!(parse_fields("a=\\x").is_err());
    }
}
