//! Whether an output is the expected one, but for names that the machine makes up: those stand
//! for the same thing wherever they stand.

use std::collections::BTreeMap;

use regex::Regex;

use super::masks::regex;
use super::session::Match;

/// A line of a session that stands for any lines.
const ELLIPSIS: &str = "...";
/// A UUID is made up wherever it stands.
const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/// What made-up names of a session are called here.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Each with the pattern of what may stand for it; longer ones first.
    patterns: Vec<(String, String)>,
    known: BTreeMap<String, String>,
    uuid: Regex,
}

impl Names {
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Names {
            patterns: Vec::new(),
            known: BTreeMap::new(),
            uuid: regex(UUID)?,
        })
    }

    /// Learns which names are made up.
    pub(crate) fn declare(&mut self, generated: &[(String, String)]) -> Result<(), String> {
        for (shown, pattern) in generated {
            if self.patterns.iter().any(|(known, _)| known == shown) {
                continue;
            }
            regex(pattern).map_err(|error| format!("the pattern of {shown}: {error}"))?;
            self.patterns.push((shown.clone(), pattern.clone()));
        }
        self.patterns
            .sort_by_key(|(shown, _)| std::cmp::Reverse(shown.len()));
        Ok(())
    }

    /// A text with the names that are known by now.
    pub(crate) fn told(&self, text: &str) -> String {
        let mut told = String::new();
        for piece in self.pieces(text) {
            match piece {
                Piece::Text(text) => told.push_str(text),
                Piece::Name(name, _) => {
                    told.push_str(self.known.get(name).map_or(name, String::as_str));
                }
            }
        }
        told
    }

    /// Cuts a text at the names.
    fn pieces<'a>(&'a self, text: &'a str) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let mut rest = text;
        loop {
            let declared = self
                .patterns
                .iter()
                .filter_map(|(shown, pattern)| Some((rest.find(shown)?, shown.len(), &**pattern)));
            let uuid = self
                .uuid
                .find(rest)
                .map(|found| (found.start(), found.len(), UUID));
            // Of those at one place the first declared, which is the longest.
            let Some((at, length, pattern)) = declared.chain(uuid).min_by_key(|found| found.0)
            else {
                pieces.push(Piece::Text(rest));
                return pieces;
            };
            pieces.push(Piece::Text(&rest[..at]));
            pieces.push(Piece::Name(&rest[at..at + length], pattern));
            rest = &rest[at + length..];
        }
    }

    /// Compares a line, and learns from it.
    fn line(&mut self, expected: &str, found: &str) -> bool {
        let mut pattern = String::from("^");
        let mut asked: Vec<&str> = Vec::new();
        for piece in self.pieces(expected) {
            match piece {
                Piece::Text(text) => pattern.push_str(&regex::escape(text)),
                Piece::Name(name, of) => match self.known.get(name) {
                    Some(known) => pattern.push_str(&regex::escape(known)),
                    None => {
                        pattern.push_str(&format!("((?:{of}))"));
                        asked.push(name);
                    }
                },
            }
        }
        pattern.push('$');
        let Ok(pattern) = Regex::new(&pattern) else {
            return false;
        };
        let Some(captures) = pattern.captures(found) else {
            return false;
        };
        let learnt: Vec<(String, String)> = asked
            .into_iter()
            .zip(captures.iter().skip(1).flatten())
            .map(|(name, value)| (name.to_owned(), value.as_str().to_owned()))
            .collect();
        for (name, value) in learnt {
            let other = self.known.iter().find(|(_, known)| **known == value);
            match (self.known.get(&name), other) {
                // Twice on one line.
                (Some(known), _) if *known == value => {}
                // Two names for one thing are no names.
                (Some(_), _) | (None, Some(_)) => return false,
                (None, None) => {
                    self.known.insert(name, value);
                }
            }
        }
        true
    }
}

enum Piece<'a> {
    Text(&'a str),
    /// A name, and the pattern of what may stand for it.
    Name(&'a str, &'a str),
}

/// Compares two outputs that masks have been applied to. Names are learnt only from a match.
pub(crate) fn same(expected: &str, found: &str, match_of: Match, names: &mut Names) -> bool {
    let expected: Vec<&str> = expected.lines().collect();
    let found: Vec<&str> = found.lines().collect();
    let learnt = match match_of {
        Match::Lines => lines(&expected, &found, names.clone()),
        Match::Rows => match (expected.split_first(), found.split_first()) {
            (Some((expected, rows)), Some((header, others))) => {
                let mut names = names.clone();
                (names.line(expected, header) && rows.len() == others.len())
                    .then(|| among(rows, others, names))
                    .flatten()
            }
            (None, None) => Some(names.clone()),
            _ => None,
        },
        Match::Among => {
            let expected: Vec<&str> = expected
                .into_iter()
                .filter(|line| !line.is_empty() && *line != ELLIPSIS)
                .collect();
            among(&expected, &found, names.clone())
        }
    };
    match learnt {
        Some(learnt) => {
            *names = learnt;
            true
        }
        None => false,
    }
}

fn lines(expected: &[&str], found: &[&str], names: Names) -> Option<Names> {
    let Some((first, rest)) = expected.split_first() else {
        return found.is_empty().then_some(names);
    };
    if *first == ELLIPSIS {
        return (0..=found.len()).find_map(|skipped| lines(rest, &found[skipped..], names.clone()));
    }
    let (line, others) = found.split_first()?;
    let mut names = names;
    names.line(first, line).then_some(())?;
    lines(rest, others, names)
}

/// Finds a line of its own for each expected one.
fn among(expected: &[&str], found: &[&str], names: Names) -> Option<Names> {
    let Some((first, rest)) = expected.split_first() else {
        return Some(names);
    };
    found.iter().enumerate().find_map(|(position, line)| {
        let mut names = names.clone();
        names.line(first, line).then_some(())?;
        let mut others = found.to_vec();
        others.remove(position);
        among(rest, &others, names)
    })
}
