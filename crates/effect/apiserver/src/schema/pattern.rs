//! Regular expressions in Go's syntax, which is RE2's, on the `regex` crate.

use std::sync::OnceLock;

use regex::Regex;

/// A `pattern`, compiled when it is first needed: a large set of definitions has hundreds.
pub(crate) struct Pattern {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            compiled: OnceLock::new(),
        }
    }

    /// What is wrong with the expression.
    pub(crate) fn complaint(&self) -> Option<String> {
        Regex::new(&translate(&self.text))
            .err()
            .map(|error| error.to_string().replace('\n', " "))
    }

    /// The expression as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is found in `value`; an expression that can't be compiled constrains nothing.
    pub(crate) fn is_match(&self, value: &str) -> bool {
        let compiled = self
            .compiled
            .get_or_init(|| Regex::new(&translate(&self.text)).ok());
        compiled.as_ref().is_none_or(|regex| regex.is_match(value))
    }
}

/// Go's classes `\d`, `\w` and `\s` are ASCII; inside a class `[`, `&` and `~` mean
/// themselves; a `{` that begins no repetition means itself.
fn translate(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut in_class = false;
    // Right after `[` or `[^`, a `]` means itself.
    let mut class_is_empty = false;
    while let Some(character) = rest.chars().next() {
        let after = &rest[character.len_utf8()..];
        match character {
            '\\' => {
                let Some(escaped) = after.chars().next() else {
                    out.push('\\');
                    break;
                };
                match (escaped, in_class) {
                    ('d', false) => out.push_str("[0-9]"),
                    ('D', false) => out.push_str("[^0-9]"),
                    ('w', false) => out.push_str("[0-9A-Za-z_]"),
                    ('W', false) => out.push_str("[^0-9A-Za-z_]"),
                    ('s', false) => out.push_str(r"[\t\n\x0C\r ]"),
                    ('S', false) => out.push_str(r"[^\t\n\x0C\r ]"),
                    ('d', true) => out.push_str("0-9"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('s', true) => out.push_str(r"\t\n\x0C\r\x20"),
                    (other, _) => {
                        out.push('\\');
                        out.push(other);
                    }
                }
                rest = &after[escaped.len_utf8()..];
                class_is_empty = false;
                continue;
            }
            '[' if !in_class => {
                in_class = true;
                class_is_empty = true;
                out.push('[');
                if let Some(negated) = after.strip_prefix('^') {
                    out.push('^');
                    rest = negated;
                    continue;
                }
            }
            '[' if after.starts_with(':') => match after.find(":]") {
                Some(end) => {
                    out.push('[');
                    out.push_str(&after[..end + 2]);
                    rest = &after[end + 2..];
                    class_is_empty = false;
                    continue;
                }
                None => out.push_str("\\["),
            },
            '[' | '&' | '~' if in_class => {
                out.push('\\');
                out.push(character);
                class_is_empty = false;
            }
            ']' if in_class && class_is_empty => {
                out.push_str("\\]");
                class_is_empty = false;
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '{' if !in_class && !begins_repetition(after) => out.push_str("\\{"),
            other => {
                out.push(other);
                class_is_empty = false;
            }
        }
        rest = after;
    }
    out
}

/// Whether `{` is followed by `n}`, `n,}` or `n,m}`.
fn begins_repetition(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else {
        return false;
    };
    let (from, to) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !from.is_empty() && digits(from) && digits(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_gos_syntax() {
        for (pattern, matching, other) in [
            (r"^\d+$", "42", "٤٢"),
            (r"^[\w-]+$", "a-b_1", "ä"),
            ("^[a[&~]+$", "a[&~", "b"),
            ("^[]a]+$", "]a", "b"),
            ("^[^]a]+$", "b", "]"),
            ("^{a}$", "{a}", "a"),
            ("^a{2}$", "aa", "a"),
            ("^[[:alpha:]]+$", "ab", "1"),
            (r"^\/healthz$", "/healthz", "healthz"),
        ] {
            let compiled = Pattern::new(pattern);
            assert_eq!(compiled.complaint(), None, "{pattern}");
            assert!(compiled.is_match(matching), "{pattern} {matching}");
            assert!(!compiled.is_match(other), "{pattern} {other}");
        }
        assert!(Pattern::new("(").complaint().is_some());
    }
}
