//! Where two answers differ.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

/// Longer values are cut in reports.
const SHOWN: usize = 600;

/// One place where our answer is another than Kubernetes'.
pub(crate) struct Difference {
    /// `scene/label` of the request.
    pub(crate) exchange: String,
    /// JSON pointer into the answer.
    pub(crate) at: String,
    expected: Option<Value>,
    found: Option<Value>,
}

impl Difference {
    /// What Kubernetes answers there, as JSON.
    pub(crate) fn expected(&self) -> String {
        text(self.expected.as_ref())
    }

    /// What we answer there, as JSON.
    pub(crate) fn found(&self) -> String {
        text(self.found.as_ref())
    }
}

fn text(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: String| value.chars().take(SHOWN).collect::<String>();
        write!(
            f,
            "{} {}\n    Kubernetes: {}\n    ours:       {}",
            self.exchange,
            self.at,
            shown(self.expected()),
            shown(self.found())
        )
    }
}

/// All places where `found` is not `expected`. Where one is a refusal and the other is
/// not, or they refuse otherwise, that is the difference, and the rest follows from it.
pub(crate) fn differences(exchange: &str, expected: &Value, found: &Value) -> Vec<Difference> {
    if expected["status"] != found["status"] {
        let brief = |answer: &Value| Some(json!([answer["status"], answer["body"]["message"]]));
        return vec![Difference {
            exchange: exchange.to_owned(),
            at: "/status".to_owned(),
            expected: brief(expected),
            found: brief(found),
        }];
    }
    let mut all = Vec::new();
    walk(exchange, "", Some(expected), Some(found), &mut all);
    all
}

/// Clients read null and absence alike.
fn given(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

fn walk(
    exchange: &str,
    at: &str,
    expected: Option<&Value>,
    found: Option<&Value>,
    all: &mut Vec<Difference>,
) {
    if let (Some(Value::Object(left)), Some(Value::Object(right))) = (expected, found) {
        let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        for key in keys {
            let escaped = key.replace('~', "~0").replace('/', "~1");
            let at = format!("{at}/{escaped}");
            walk(exchange, &at, left.get(key), right.get(key), all);
        }
        return;
    }
    if let (Some(Value::Array(left)), Some(Value::Array(right))) = (expected, found)
        && left.len() == right.len()
    {
        for (index, (left, right)) in left.iter().zip(right).enumerate() {
            walk(
                exchange,
                &format!("{at}/{index}"),
                Some(left),
                Some(right),
                all,
            );
        }
        return;
    }
    if given(expected) != given(found) {
        all.push(Difference {
            exchange: exchange.to_owned(),
            at: at.to_owned(),
            expected: expected.cloned(),
            found: found.cloned(),
        });
    }
}
