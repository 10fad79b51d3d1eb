//! The differences that are meant, each with its reason.

use std::path::Path;

use serde::Deserialize;

use crate::compare::Difference;

/// `differences.json`.
pub(crate) struct Kept {
    rules: Vec<Rule>,
}

/// In all patterns `*` stands for any text.
#[derive(Deserialize)]
struct Rule {
    /// `scene/label`.
    exchange: String,
    /// JSON pointer into the answer.
    at: String,
    /// What Kubernetes answers there, as JSON.
    #[serde(default = "anything")]
    kubernetes: String,
    /// What we answer there, as JSON.
    #[serde(default = "anything")]
    ours: String,
    reason: String,
    /// Whether it covered a difference.
    #[serde(skip)]
    used: bool,
}

fn anything() -> String {
    "*".to_owned()
}

impl Rule {
    fn covers(&self, difference: &Difference) -> bool {
        matches(&self.exchange, &difference.exchange)
            && matches(&self.at, &difference.at)
            && matches(&self.kubernetes, &difference.expected())
            && matches(&self.ours, &difference.found())
    }
}

impl Kept {
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let rules: Vec<Rule> = serde_json::from_str(&text).unwrap();
        for rule in &rules {
            assert!(!rule.reason.is_empty(), "{} has no reason", rule.exchange);
        }
        Self { rules }
    }

    pub(crate) fn covers(&mut self, difference: &Difference) -> bool {
        let mut covered = false;
        for rule in &mut self.rules {
            if rule.covers(difference) {
                rule.used = true;
                covered = true;
            }
        }
        covered
    }

    /// Rules that covered nothing: the difference is gone, and the rule should go too.
    pub(crate) fn stale(&self) -> Vec<String> {
        let unused = self.rules.iter().filter(|rule| !rule.used);
        unused
            .map(|rule| format!("{} {}: no such difference any more", rule.exchange, rule.at))
            .collect()
    }
}

/// Whether `text` has the form of `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.into_iter().any(|at| matches(rest, &text[at..]))
        }),
    }
}
