//! What is not compared, or is called otherwise here: what every run makes up (times, versions),
//! and the entries of `tests/transcripts/MASKS`, each with its reason.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde::Deserialize;

/// An entry of `MASKS`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// In what the session shows.
    text: Option<String>,
    /// In what is shown here.
    here: Option<String>,
    /// In both.
    both: Option<String>,
    /// What stands there instead; nothing, if it is left out.
    #[serde(default, rename = "as")]
    instead: String,
    /// Why it can't be the same.
    why: String,
    /// In force everywhere, not only where a session names it.
    #[serde(default)]
    always: bool,
    /// The session's commands are changed as well.
    #[serde(default)]
    commands: bool,
}

#[derive(Debug)]
struct Mask {
    side: Option<Side>,
    pattern: Regex,
    instead: String,
    always: bool,
    commands: bool,
}

/// Whose text it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The session's.
    Text,
    /// Ours.
    Here,
}

/// All masks.
#[derive(Debug)]
pub(crate) struct Masks {
    by_name: BTreeMap<String, Mask>,
    standard: Vec<(Regex, &'static str)>,
    sequence: Regex,
}

/// What every run makes up anew: pattern and what stands for it.
const STANDARD: [(&str, &str); 9] = [
    // kubectl's ages, and how often something has happened by then.
    (
        r"(?m)(^|[\s(])(?:\d+d)?(?:\d+h)?(?:\d+m)?\d+[smhd]( \(x\d+ over (?:\d+[dhms])+\))?([\s)]|$)",
        "${1}AGE${3}",
    ),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "TIME"),
    (
        r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (?:GMT|[+]0000)",
        "TIME",
    ),
    (
        r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}",
        "TIME",
    ),
    (
        r"(?:[A-Z][a-z]{2}) [ \d]\d \d\d:\d\d:\d\d \d{4} GMT",
        "TIME",
    ),
    (r"(after|time[= ]) ?[\d.]+ ?ms", "$1 TIME"),
    (r"mdev = [\d./]+ ms", "mdev = TIME"),
    (r#"resourceVersion: "\d+""#, "resourceVersion: VERSION"),
    (r"(?m)^(  generation: )\d+$", "${1}GENERATION"),
];

impl Masks {
    /// Reads the file `MASKS`.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let entries: BTreeMap<String, Entry> =
            serde_norway::from_str(text).map_err(|error| error.to_string())?;
        let mut by_name = BTreeMap::new();
        for (name, entry) in entries {
            let (side, pattern) = match (entry.text, entry.here, entry.both) {
                (Some(pattern), None, None) => (Some(Side::Text), pattern),
                (None, Some(pattern), None) => (Some(Side::Here), pattern),
                (None, None, Some(pattern)) => (None, pattern),
                _ => return Err(format!("{name}: give one of text, here and both")),
            };
            if entry.why.trim().is_empty() {
                return Err(format!("{name}: why?"));
            }
            let mask = Mask {
                side,
                pattern: regex(&pattern).map_err(|error| format!("{name}: {error}"))?,
                instead: entry.instead,
                always: entry.always,
                commands: entry.commands,
            };
            by_name.insert(name, mask);
        }
        let standard: Result<Vec<_>, String> = STANDARD
            .iter()
            .map(|(pattern, instead)| Ok((regex(pattern)?, *instead)))
            .collect();
        Ok(Masks {
            by_name,
            standard: standard?,
            // Control sequences (ECMA-48), and what else only a terminal is to see.
            sequence: regex("\x1b\\[[0-9;?]*[A-Za-z]|[\r\0\x08]")?,
        })
    }

    /// The names that are to be named by sessions.
    pub(crate) fn named(&self) -> impl Iterator<Item = &str> {
        let masks = self.by_name.iter();
        masks
            .filter(|(_, mask)| !mask.always)
            .map(|(name, _)| name.as_str())
    }

    /// What of a text is compared. `names` are masks that the session names.
    pub(crate) fn apply(&self, text: &str, side: Side, names: &[String]) -> String {
        let mut text = self.plain(text);
        for (_, mask) in self.in_force(names) {
            if mask.side.is_none_or(|of| of == side) {
                text = replaced(&mask.pattern, &text, &mask.instead);
            }
        }
        for (pattern, instead) in &self.standard {
            text = replaced(pattern, &text, instead);
        }
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines.join("\n").trim_end().to_owned()
    }

    /// A text as a terminal shows it.
    pub(crate) fn plain(&self, text: &str) -> String {
        self.sequence.replace_all(text, "").into_owned()
    }

    /// A command as it is called here.
    pub(crate) fn command(&self, command: &str, names: &[String]) -> String {
        let mut command = command.to_owned();
        for (_, mask) in self.in_force(names) {
            if mask.commands && mask.side == Some(Side::Text) {
                command = mask
                    .pattern
                    .replace_all(&command, &*mask.instead)
                    .into_owned();
            }
        }
        command
    }

    fn in_force<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = (&'a String, &'a Mask)> {
        let masks = self.by_name.iter();
        masks.filter(|(name, mask)| mask.always || names.contains(name))
    }
}

/// Replaces until nothing is left to replace: matches that share a blank are found one by one.
fn replaced(pattern: &Regex, text: &str, instead: &str) -> String {
    const MOST: usize = 3;
    let mut text = text.to_owned();
    for _ in 0..MOST {
        let next = pattern.replace_all(&text, instead).into_owned();
        if next == text {
            break;
        }
        text = next;
    }
    text
}

pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| error.to_string())
}
