//! JSONPath, as far as printer columns and selectable fields use it: fields, indices,
//! wildcards, recursive descent, and filters that compare.

use serde_json::Value;

/// A path into a document.
#[derive(Debug, PartialEq)]
pub(super) struct Path(Vec<Step>);

#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Anywhere,
    Filter {
        path: Path,
        comparison: Option<(Comparison, Value)>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Path {
    /// Reads `.spec.ports[0].name`; `None` for what is not such a path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Anywhere);
                rest = after;
                if !rest.starts_with('[') {
                    rest = field(rest, &mut steps)?;
                }
            } else if let Some(after) = rest.strip_prefix('.') {
                if after.is_empty() {
                    break;
                }
                rest = if after.starts_with('[') {
                    after
                } else {
                    field(after, &mut steps)?
                };
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                steps.push(bracket(after.get(..end)?.trim())?);
                rest = after.get(end + 1..)?;
            } else {
                return None;
            }
        }
        Some(Self(steps))
    }

    /// The first value the path leads to.
    pub(super) fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.all(value).into_iter().next()
    }

    fn all<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut here = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in here {
                step.apply(value, &mut next);
            }
            here = next;
        }
        here
    }
}

/// Reads a field's name; a backslash makes a dot a part of it.
fn field<'a>(text: &'a str, steps: &mut Vec<Step>) -> Option<&'a str> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    let mut end = text.len();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => name.push(characters.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            other => name.push(other),
        }
    }
    match name.as_str() {
        "" => return None,
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    text.get(end..)
}

/// Where the bracket that is open closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), one) if one == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Option<Step> {
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(name) = quoted(inside) {
        return Some(Step::Field(name.to_owned()));
    }
    if let Some(filter) = inside.strip_prefix("?(") {
        return filter_step(filter.strip_suffix(')')?.trim());
    }
    inside.parse().ok().map(Step::Index)
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

fn filter_step(text: &str) -> Option<Step> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::Unequal),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let found = SIGNS
        .iter()
        .filter_map(|(sign, comparison)| Some((text.find(sign)?, *sign, *comparison)))
        .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
    let (path, comparison) = match found {
        None => (text, None),
        Some((at, sign, comparison)) => {
            let said = text.get(at + sign.len()..)?.trim();
            let value = match quoted(said) {
                Some(text) => Value::from(text),
                None => serde_json::from_str(said).ok()?,
            };
            (text.get(..at)?.trim(), Some((comparison, value)))
        }
    };
    Some(Step::Filter {
        path: Path::parse(path.strip_prefix('@')?)?,
        comparison,
    })
}

impl Step {
    fn apply<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        match self {
            Self::Field(name) => out.extend(value.get(name)),
            Self::Index(at) => out.extend(value.as_array().and_then(|list| {
                let length = i64::try_from(list.len()).ok()?;
                let at = if *at < 0 { length + at } else { *at };
                list.get(usize::try_from(at).ok()?)
            })),
            Self::All => out.extend(children(value)),
            Self::Anywhere => descend(value, out),
            Self::Filter { path, comparison } => {
                let chosen = children(value).filter(|one| match comparison {
                    None => !path.all(one).is_empty(),
                    Some((comparison, wanted)) => path
                        .first(one)
                        .is_some_and(|held| comparison.holds(held, wanted)),
                });
                out.extend(chosen);
            }
        }
    }
}

fn children(value: &Value) -> impl Iterator<Item = &Value> {
    let list = value.as_array().into_iter().flatten();
    let map = value.as_object().into_iter().flat_map(|map| map.values());
    list.chain(map)
}

fn descend<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    out.push(value);
    for child in children(value) {
        descend(child, out);
    }
}

impl Comparison {
    fn holds(self, held: &Value, wanted: &Value) -> bool {
        let order = match (held, wanted) {
            (Value::String(held), Value::String(wanted)) => held.partial_cmp(wanted),
            _ => held.as_f64().partial_cmp(&wanted.as_f64()),
        };
        match self {
            Self::Equal => held == wanted,
            Self::Unequal => held != wanted,
            Self::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Self::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn leads_to_the_first_value() {
        let object = json!({
            "metadata": {"labels": {"a.b/c": "dotted"}},
            "spec": {"ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "False"}, {"type": "Programmed", "status": "True"}]},
        });
        for (path, wanted) in [
            (".spec.ports[0].name", json!("http")),
            (".spec.ports[-1].name", json!("dns")),
            (".spec.ports[*].port", json!(80)),
            (r".metadata.labels.a\.b/c", json!("dotted")),
            (".metadata.labels['a.b/c']", json!("dotted")),
            (
                r#".status.conditions[?(@.type=="Programmed")].status"#,
                json!("True"),
            ),
            (
                ".status.conditions[?(@.type == 'Ready')].status",
                json!("False"),
            ),
            (".spec.ports[?(@.port<60)].name", json!("dns")),
            ("..port", json!(80)),
        ] {
            let parsed = Path::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(parsed.first(&object), Some(&wanted), "{path}");
        }
        assert_eq!(Path::parse(".spec.nothing").unwrap().first(&object), None);
        for text in ["spec", ".spec[", ".a[?(x)]", ".a..", ".a[b]"] {
            assert_eq!(Path::parse(text), None, "{text}");
        }
    }
}
