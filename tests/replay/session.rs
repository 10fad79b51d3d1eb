//! The file `session` of a transcript: commands and what they print, with a few directives.

use std::path::{Path, PathBuf};

/// How `@on` calls this machine.
const HERE: &str = "here";

/// One folder of `tests/transcripts`.
#[derive(Debug)]
pub(crate) struct Transcript {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) place: Place,
    /// The node on which the session's user sits.
    pub(crate) at: String,
    pub(crate) steps: Vec<Step>,
}

/// In which lab a transcript is replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one of its own, with these flags of `weft lab up`.
    Lab(Vec<String>),
    /// In that of another transcript, after it.
    After(String),
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Where it stands in the file.
    pub(crate) line: usize,
    pub(crate) command: String,
    /// Where it runs: a node, `outside`, or `None` for this machine, as kubectl always does.
    pub(crate) on: Option<String>,
    pub(crate) act: Act,
    /// The part of weft that it waits for.
    pub(crate) waits: Option<String>,
    /// Names of masks in force.
    pub(crate) masks: Vec<String>,
    /// What the machine makes up: as the session shows it, and a pattern of what may stand for it.
    pub(crate) generated: Vec<(String, String)>,
}

/// What is expected of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// It prints this.
    Shows { expected: String, match_of: Match },
    /// A shell with this prompt, in which the lines behind a prompt are typed.
    Dialogue { prompt: String, expected: String },
    /// It succeeds.
    Succeeds,
    /// It is left running until the lab ends.
    Starts,
}

/// How an output is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// Line by line; `...` stands for any lines.
    Lines,
    /// The first line, then the others in any order: a table whose rows have made-up names.
    Rows,
    /// Every expected line is among the lines, whatever else there is.
    Among,
}

/// Directives that stay in force, or hold for the next command.
#[derive(Default)]
struct Reading {
    waits: Option<String>,
    masks: Vec<String>,
    generated: Vec<(String, String)>,
    on: Option<String>,
    among: bool,
    prompt: Option<String>,
}

impl Transcript {
    /// Reads a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let path = folder.join("session");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&name, folder, &text).map_err(|error| format!("{}:{error}", path.display()))
    }

    pub(crate) fn parse(name: &str, folder: &Path, text: &str) -> Result<Self, String> {
        let mut place = None;
        let mut at = String::new();
        let mut steps: Vec<Step> = Vec::new();
        let mut reading = Reading::default();
        let lines: Vec<&str> = text.lines().collect();
        let mut position = 0;
        while let Some(line) = lines.get(position) {
            let number = position + 1;
            position += 1;
            let wrong = |what: &str| format!("{number}: {what}: {line}");
            if let Some(command) = line.strip_prefix("$ ").or(line.strip_prefix("+ ")) {
                let from = position;
                while lines.get(position).is_some_and(|line| !is_control(line)) {
                    position += 1;
                }
                let expected = lines[from..position].join("\n").trim_end().to_owned();
                steps.push(reading.step(number, command, &at, expected));
                continue;
            }
            let Some(directive) = line.strip_prefix('@') else {
                if line.trim().is_empty() {
                    continue;
                }
                return Err(wrong("neither a command nor a directive"));
            };
            let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            let rest = rest.trim_end();
            match word {
                "note" => {}
                "lab" => {
                    let flags = rest.split_whitespace().map(str::to_owned).collect();
                    place = Some(Place::Lab(flags));
                }
                "after" => place = Some(Place::After(rest.to_owned())),
                "at" => at = rest.to_owned(),
                "waits" => reading.waits = Some(rest.to_owned()),
                "mask" => reading
                    .masks
                    .extend(rest.split_whitespace().map(str::to_owned)),
                "generated" => {
                    let (shown, pattern) = rest
                        .split_once(' ')
                        .ok_or_else(|| wrong("what the session shows, and a pattern"))?;
                    reading
                        .generated
                        .push((shown.to_owned(), pattern.trim().to_owned()));
                }
                "on" => reading.on = Some(rest.to_owned()),
                "among" => reading.among = true,
                // With the blank that follows it.
                "prompt" => reading.prompt = Some(format!("{rest} ")),
                "do" => {
                    let step = reading.step(number, rest, &at, String::new());
                    steps.push(Step {
                        act: Act::Succeeds,
                        ..step
                    });
                }
                "start" => {
                    let step = reading.step(number, rest, &at, String::new());
                    steps.push(Step {
                        act: Act::Starts,
                        ..step
                    });
                }
                _ => return Err(wrong("unknown directive")),
            }
        }
        Ok(Transcript {
            name: name.to_owned(),
            folder: folder.to_owned(),
            place: place.ok_or("1: neither @lab nor @after")?,
            at,
            steps,
        })
    }
}

impl Reading {
    fn step(&mut self, line: usize, command: &str, at: &str, expected: String) -> Step {
        let is_table = is_kubectl(command)
            && command.contains(" get ")
            && !["-oyaml", "-o yaml", "-ojson", "-o json"]
                .iter()
                .any(|other| command.contains(other));
        let among = std::mem::take(&mut self.among);
        let match_of = match (among, is_table) {
            (true, _) => Match::Among,
            (false, true) => Match::Rows,
            (false, false) => Match::Lines,
        };
        let act = match self.prompt.take() {
            Some(prompt) => Act::Dialogue { prompt, expected },
            None => Act::Shows { expected, match_of },
        };
        let on = self.on.take();
        Step {
            line,
            command: command.trim().to_owned(),
            on: on
                .or_else(|| (!is_kubectl(command)).then(|| at.to_owned()))
                .filter(|on| on != HERE),
            act,
            waits: self.waits.clone(),
            masks: self.masks.clone(),
            generated: self.generated.clone(),
        }
    }
}

fn is_control(line: &str) -> bool {
    line.starts_with("$ ") || line.starts_with("+ ") || line.starts_with('@')
}

/// Whether a command is kubectl's; `k` is how people call it.
fn is_kubectl(command: &str) -> bool {
    ["k", "kubectl"].contains(&command.split_whitespace().next().unwrap_or_default())
}

impl Step {
    /// Whether it may be asked again and again, until what it shows is what is expected.
    pub(crate) fn only_looks(&self) -> bool {
        const CHANGING: [&str; 10] = [
            "apply", "create", "delete", "edit", "scale", "run", "patch", "set", "label", "expose",
        ];
        !is_kubectl(&self.command)
            || !self
                .command
                .split_whitespace()
                .nth(1)
                .is_some_and(|verb| CHANGING.contains(&verb))
    }
}

/// What is typed in a dialogue: what stands behind its prompts. A last prompt with nothing behind
/// it is where the session ends.
pub(crate) fn typed<'a>(prompt: &str, expected: &'a str) -> Vec<&'a str> {
    let bare = prompt.trim_end();
    let mut typed: Vec<&str> = expected
        .lines()
        .filter_map(|line| line.strip_prefix(bare))
        .map(str::trim)
        .collect();
    if typed.last().is_some_and(|last| last.is_empty()) {
        typed.pop();
    }
    typed
}
