//! What no two servers can answer alike, as `masks.json` lists it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::directory;

/// Longer runs of one letter are not written out.
const LONG: usize = 1000;
/// A shorter text, a version, may stand for something else outside a sentence.
const TELLING: usize = 6;

/// Masks the answers of one scene.
pub(crate) struct Masker {
    fields: BTreeSet<String>,
    cells: BTreeSet<String>,
    ranges: Vec<(&'static str, IpNet)>,
    ports: (i64, i64),
    /// All that the scene's requests said.
    said: String,
    /// Parts of earlier answers, by name.
    kept: BTreeMap<String, String>,
}

impl Masker {
    pub(crate) fn new() -> Self {
        let text = std::fs::read_to_string(directory().join("masks.json")).unwrap();
        let masks: Value = serde_json::from_str(&text).unwrap();
        let names = |list: &str, field: &str| {
            let all = masks[list].as_array().unwrap().iter();
            all.map(|mask| mask[field].as_str().unwrap().to_owned())
                .collect()
        };
        let allocated = &masks["allocated"];
        let range = |family: &'static str| {
            let range = allocated[family].as_str().unwrap().parse().unwrap();
            (family, range)
        };
        let port = |at: usize| allocated["ports"][at].as_i64().unwrap();
        Self {
            fields: names("fields", "path"),
            cells: names("cells", "column"),
            ranges: vec![range("IPv4"), range("IPv6")],
            ports: (port(0), port(1)),
            said: String::new(),
            kept: BTreeMap::new(),
        }
    }

    pub(crate) fn keep(&mut self, name: &str, value: &str) {
        self.kept.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn says(&mut self, text: &str) {
        self.said.push_str(text);
        self.said.push('\n');
    }

    /// Puts in what was kept of earlier answers, and long texts.
    pub(crate) fn filled(&self, text: &str) -> String {
        let mut parts = text.split("${");
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').unwrap();
            match name.strip_prefix("repeat:") {
                Some(count) => filled.push_str(&"x".repeat(count.parse().unwrap())),
                None => filled.push_str(&self.kept[name]),
            }
            filled.push_str(rest);
        }
        filled
    }

    pub(crate) fn document(&self, mut document: Value) -> Value {
        if document["kind"] == "Table" {
            self.table(&mut document);
        }
        self.value(&mut document, &mut Vec::new());
        document
    }

    fn table(&self, table: &mut Value) {
        let columns = table["columnDefinitions"].as_array();
        let hidden: Vec<bool> = columns
            .into_iter()
            .flatten()
            .map(|column| {
                self.cells
                    .contains(column["name"].as_str().unwrap_or_default())
            })
            .collect();
        for row in table["rows"].as_array_mut().into_iter().flatten() {
            let cells = row["cells"].as_array_mut().into_iter().flatten();
            for (cell, _) in cells.zip(&hidden).filter(|(_, hidden)| **hidden) {
                *cell = "<age>".into();
            }
        }
    }

    fn value(&self, value: &mut Value, path: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::Array(owners)) = map.get_mut("managedFields") {
                    in_one_order(owners);
                }
                for (key, one) in map {
                    path.push(key.clone());
                    self.value(one, path);
                    path.pop();
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|one| self.value(one, path)),
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                if let Some(masked) = self.scalar(value, path) {
                    *value = masked.into();
                }
            }
        }
    }

    fn scalar(&self, value: &Value, path: &[String]) -> Option<String> {
        let last = path.last().map_or("", String::as_str);
        let tail = |count: usize| path[path.len().saturating_sub(count)..].join(".");
        if self.fields.contains(&tail(2)) || self.fields.contains(&tail(3)) {
            return Some(format!("<{last}>"));
        }
        if let Some(number) = value.as_i64() {
            let port = matches!(last, "nodePort" | "healthCheckNodePort");
            let drawn = number >= self.ports.0
                && number <= self.ports.1
                && !self.said.contains(&number.to_string());
            return (port && drawn).then(|| "<port>".to_owned());
        }
        value.as_str().map(|text| self.text(text, last))
    }

    fn text(&self, text: &str, field: &str) -> String {
        let mut text = without_object(&without_pointers(&shortened(first_line(text, field))));
        text = without_current(&text);
        for (name, value) in &self.kept {
            if value.len() >= TELLING || (field == "message" && value.len() > 1) {
                text = replace_words(&text, value, &format!("<{name}>"));
            }
        }
        self.without_drawn(&text)
    }

    /// Addresses that a server chose, alone or in a sentence.
    fn without_drawn(&self, text: &str) -> String {
        let part = |letter: char| letter.is_ascii_hexdigit() || letter == '.' || letter == ':';
        let mut result = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let start = rest.find(part).unwrap_or(rest.len());
            let (before, from) = rest.split_at(start);
            let (word, after) = from.split_at(from.find(|one| !part(one)).unwrap_or(from.len()));
            result.push_str(before);
            match self.family_drawn(word) {
                Some(family) => result.push_str(&format!("<{family}>")),
                None => result.push_str(word),
            }
            rest = after;
        }
        result
    }

    fn family_drawn(&self, word: &str) -> Option<&'static str> {
        let address = word.parse::<IpAddr>().ok()?;
        let mut ranges = self.ranges.iter();
        let (family, _) = ranges.find(|(_, range)| range.contains(&address))?;
        (!self.said.contains(word)).then_some(*family)
    }
}

/// Owners stand in the order of the seconds of their writes.
fn in_one_order(owners: &mut [Value]) {
    owners.sort_by_key(|owner| {
        ["operation", "manager", "subresource"]
            .map(|field| owner[field].as_str().unwrap_or_default().to_owned())
    });
}

/// Replaces a value where it is not part of a longer word.
fn replace_words(text: &str, value: &str, with: &str) -> String {
    let word = |letter: Option<char>| letter.is_some_and(|one| one.is_alphanumeric() || one == '_');
    let mut result = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(value) {
        let end = at + value.len();
        let inside = word(text[..at].chars().next_back()) || word(text[end..].chars().next());
        if !inside && at >= done {
            result.push_str(&text[done..at]);
            result.push_str(with);
            done = end;
        }
    }
    result.push_str(&text[done..]);
    result
}

/// What follows the first line of a complaint is a comparison of Go values, whose form its
/// maker varies on purpose.
fn first_line<'a>(text: &'a str, field: &str) -> &'a str {
    match text.split_once('\n') {
        Some((first, _)) if field == "message" => first,
        _ => text,
    }
}

/// The version a store is at counts its writes.
fn without_current(text: &str) -> String {
    const CURRENT: &str = ", current: ";
    match text.split_once(CURRENT) {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
            format!("{before}{CURRENT}<version>{rest}")
        }
        None => text.to_owned(),
    }
}

/// Sentences of Go programs name addresses of memory.
fn without_pointers(text: &str) -> String {
    let mut parts = text.split("(0x");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|digit: char| digit.is_ascii_hexdigit());
        result.push_str("(<pointer>");
        result.push_str(rest);
    }
    result
}

/// Complaints about patches quote the whole object, with all that is masked elsewhere.
fn without_object(text: &str) -> String {
    const QUOTED: &str = "Invalid value: \"{\\\"";
    match (text.find(QUOTED), text.rfind("}\"")) {
        (Some(from), Some(to)) if from < to => {
            format!(
                "{}Invalid value: <object>{}",
                &text[..from],
                &text[to + 2..]
            )
        }
        _ => text.to_owned(),
    }
}

fn shortened(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('x') {
        let (before, from) = rest.split_at(at);
        let after = from.trim_start_matches('x');
        let run = &from[..from.len() - after.len()];
        result.push_str(before);
        result.push_str(if run.len() >= LONG { "<long>" } else { run });
        rest = after;
    }
    result.push_str(rest);
    result
}
