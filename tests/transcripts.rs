//! Terminal sessions that people have published, replayed in labs with the addresses of their
//! clusters: `make transcripts`.
//!
//! Each folder of `tests/transcripts` is a session or a part of one. It passes when real kubectl,
//! curl and nginx say what the session shows. What waits for a part of weft that does not exist
//! yet says so in the session (`@waits`); when it passes all the same, that is a failure, so that
//! the declaration goes. CONTRIBUTING.md says how one is added.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[expect(dead_code, reason = "the end-to-end tests use the rest")]
mod lab;
mod replay;
#[path = "replay/terminal.rs"]
mod terminal;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, Running, repository};
use replay::compare::{Names, same};
use replay::masks::{Masks, Side};
use replay::session::{Act, Match, Place, Step, Transcript};
use terminal::Terminal;

/// How long it may take until a command shows what it has to.
const PATIENCE: Duration = Duration::from_secs(240);
/// The same where nobody expects it.
const PATIENCE_WAITING: Duration = Duration::from_secs(4);
/// How long one command may run.
const RUN: Duration = Duration::from_secs(120);
/// The same where nobody expects it to succeed.
const RUN_WAITING: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What became of a transcript.
enum Outcome {
    Passes,
    /// For what, and after how many steps.
    Waits(String, usize),
    Fails(String),
}

fn main() -> ExitCode {
    let folder = repository("tests/transcripts");
    let transcripts = read_all(&folder);
    let masks = Masks::read(&folder.join("MASKS")).unwrap();
    let asked = Asked::from_arguments();
    if asked.list {
        for transcript in &transcripts {
            say(&format!("{}: test", transcript.name));
        }
        return ExitCode::SUCCESS;
    }
    let mut wrong = misnamed_masks(&transcripts, &masks);
    let chains = chains(&transcripts, &asked);
    let width = transcripts.iter().map(|one| one.name.len()).max();
    let report = Report {
        width: width.unwrap_or_default(),
        counts: Mutex::default(),
    };
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(2, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(chain) = chains.get(next.fetch_add(1, Ordering::Relaxed)) {
                    replay_chain(chain, &masks, &report);
                }
            });
        }
    });
    let counts = report.counts.into_inner().unwrap();
    let count = |kind: &str| counts.get(kind).copied().unwrap_or_default();
    say(&format!(
        "transcripts: {} pass, {} wait, {} fail",
        count("pass"),
        count("waits"),
        count("FAIL")
    ));
    wrong.dedup();
    for wrong in &wrong {
        say(wrong);
    }
    if count("FAIL") == 0 && wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A line for whoever runs this; one that nobody can be told is lost.
fn say(line: &str) {
    let mut output = std::io::stdout();
    let _unseen = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// What the command line asks for: names, or parts of them, and what other test programs know.
struct Asked {
    names: Vec<String>,
    list: bool,
    none: bool,
}

impl Asked {
    fn from_arguments() -> Self {
        let mut asked = Asked {
            names: Vec::new(),
            list: false,
            none: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => asked.list = true,
                // No transcript is ignored, and none is a benchmark.
                "--ignored" | "--bench" => asked.none = true,
                "--skip" | "--test-threads" | "--format" | "--color" => {
                    arguments.next();
                }
                flag if flag.starts_with('-') => {}
                name => asked.names.push(name.to_owned()),
            }
        }
        asked
    }

    fn wants(&self, name: &str) -> bool {
        !self.none && (self.names.is_empty() || self.names.iter().any(|asked| name.contains(asked)))
    }
}

fn read_all(folder: &Path) -> Vec<Transcript> {
    let mut transcripts: Vec<Transcript> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| Transcript::read(&path).unwrap())
        .collect();
    transcripts.sort_by(|left, right| left.name.cmp(&right.name));
    transcripts
}

/// Masks that sessions name and nobody has given a reason for, and the other way round.
fn misnamed_masks(transcripts: &[Transcript], masks: &Masks) -> Vec<String> {
    let named: BTreeSet<&str> = transcripts
        .iter()
        .flat_map(|transcript| &transcript.steps)
        .flat_map(|step| &step.masks)
        .map(String::as_str)
        .collect();
    let known: BTreeSet<&str> = masks.named().collect();
    let unknown = named.difference(&known);
    let unused = known.difference(&named);
    unknown
        .map(|name| format!("the mask {name} is not in MASKS"))
        .chain(unused.map(|name| format!("the mask {name} in MASKS is used nowhere")))
        .collect()
}

/// The transcripts of a lab in their order, of those that are asked for and what they come after.
fn chains<'a>(transcripts: &'a [Transcript], asked: &Asked) -> Vec<Vec<&'a Transcript>> {
    let find = |name: &str| transcripts.iter().find(|one| one.name == name);
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    let mut heads: BTreeMap<&str, &str> = BTreeMap::new();
    for transcript in transcripts {
        let mut path = vec![transcript];
        while let Some(Transcript {
            place: Place::After(before),
            ..
        }) = path.last()
        {
            let before = find(before)
                .unwrap_or_else(|| panic!("{}: there is no transcript {before}", transcript.name));
            path.push(before);
        }
        let head = path.last().unwrap();
        heads.insert(&transcript.name, &head.name);
        if asked.wants(&transcript.name) {
            wanted.extend(path.iter().map(|one| one.name.as_str()));
        }
    }
    let mut chains: BTreeMap<&str, Vec<&Transcript>> = BTreeMap::new();
    for transcript in transcripts {
        if wanted.contains(&*transcript.name) {
            let chain = chains.entry(heads[&*transcript.name]).or_default();
            chain.push(transcript);
        }
    }
    let mut chains: Vec<_> = chains.into_values().collect();
    // The long ones first.
    chains.sort_by_key(|chain| {
        std::cmp::Reverse(chain.iter().map(|one| one.steps.len()).sum::<usize>())
    });
    chains
}

/// Prints a line for each transcript as it ends.
struct Report {
    width: usize,
    counts: Mutex<BTreeMap<&'static str, usize>>,
}

impl Report {
    fn tell(&self, transcript: &Transcript, outcome: &Outcome) {
        let name = format!("{:width$}", transcript.name, width = self.width);
        let of = transcript.steps.len();
        let (kind, text) = match outcome {
            Outcome::Passes => ("pass", format!("{name}  {of} steps")),
            Outcome::Waits(part, passed) => (
                "waits",
                format!("{name}  for {part}, after {passed} of {of} steps"),
            ),
            Outcome::Fails(why) => ("FAIL", format!("{name}  {why}")),
        };
        let mut counts = self.counts.lock().unwrap();
        *counts.entry(kind).or_default() += 1;
        say(&format!("{kind:5}  {text}"));
    }
}

/// Replays the transcripts of one lab.
fn replay_chain(chain: &[&Transcript], masks: &Masks, report: &Report) {
    let Some(Place::Lab(flags)) = chain.first().map(|head| &head.place) else {
        return;
    };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let purpose = chain[0].name.split('-').next().unwrap_or_default();
    let up = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::up(purpose, &flags);
        // Sessions show which addresses pods get: those of the lab have theirs by then.
        lab.pods_ready("kube-system", "");
        lab
    }));
    let Ok(lab) = up else {
        for transcript in chain {
            let outcome = Outcome::Fails("its lab did not come up".to_owned());
            report.tell(transcript, &outcome);
        }
        return;
    };
    let mut stage = Stage {
        lab,
        masks,
        names: Names::new().unwrap(),
        running: Vec::new(),
    };
    let mut failed: BTreeSet<&str> = BTreeSet::new();
    for transcript in chain {
        let outcome = match &transcript.place {
            Place::After(before) if failed.contains(&**before) => {
                Outcome::Fails(format!("not replayed: it comes after {before}"))
            }
            Place::After(_) | Place::Lab(_) => {
                catch_unwind(AssertUnwindSafe(|| stage.replay(transcript)))
                    .unwrap_or_else(|_| Outcome::Fails("panicked, see above".to_owned()))
            }
        };
        if matches!(outcome, Outcome::Fails(_)) {
            failed.insert(&transcript.name);
        }
        report.tell(transcript, &outcome);
    }
}

/// A lab, and what is known of it.
struct Stage<'a> {
    lab: Lab,
    masks: &'a Masks,
    names: Names,
    running: Vec<Running>,
}

/// Where a transcript's commands are given: a copy of its folder, into which they may write.
fn work_folder(transcript: &Transcript) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("transcripts")
        .join(&transcript.name)
}

fn make_work_folder(transcript: &Transcript) -> std::io::Result<()> {
    let folder = work_folder(transcript);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    for entry in std::fs::read_dir(&transcript.folder)? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    Ok(())
}

impl Stage<'_> {
    fn replay(&mut self, transcript: &Transcript) -> Outcome {
        make_work_folder(transcript).unwrap();
        for (passed, step) in transcript.steps.iter().enumerate() {
            let outcome = self
                .names
                .declare(&step.generated)
                .and_then(|()| self.step(transcript, step));
            match (outcome, &step.waits) {
                (Ok(()), _) => {}
                (Err(_), Some(part)) => return Outcome::Waits(part.clone(), passed),
                (Err(why), None) => {
                    return Outcome::Fails(format!(
                        "at tests/transcripts/{}/session:{}\n{why}",
                        transcript.name, step.line
                    ));
                }
            }
        }
        let waits = transcript.steps.iter().find_map(|step| step.waits.as_ref());
        match waits {
            Some(part) => Outcome::Fails(format!(
                "waits for {part}, and passes: remove `@waits {part}` from its session"
            )),
            None => Outcome::Passes,
        }
    }

    /// Runs a command until it shows what it has to, or time is up.
    fn step(&mut self, transcript: &Transcript, step: &Step) -> Result<(), String> {
        let patience = match step.waits {
            Some(_) => PATIENCE_WAITING,
            None => PATIENCE,
        };
        let deadline = Instant::now() + patience;
        loop {
            let outcome = self.once(transcript, step);
            if outcome.is_ok() || !step.only_looks() || Instant::now() >= deadline {
                return outcome;
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn once(&mut self, transcript: &Transcript, step: &Step) -> Result<(), String> {
        let command = self.masks.command(&step.command, &step.masks);
        let command = with_texts(&self.names.told(&command), &transcript.folder);
        let terminal = Terminal {
            lab: &self.lab,
            folder: &work_folder(transcript),
            on: step.on.as_deref(),
            command: &command,
            limit: match step.waits {
                Some(_) => RUN_WAITING,
                None => RUN,
            },
        };
        match &step.act {
            Act::Starts => {
                let place = step.on.as_deref().unwrap_or(&transcript.at);
                let command = ["sh", "-c", &command];
                self.running.push(self.lab.start(place, &command));
                Ok(())
            }
            Act::Succeeds => match terminal.run() {
                (Some(0), _) => Ok(()),
                (code, said) => Err(format!("$ {command}\nended with {code:?}:\n{said}")),
            },
            Act::Shows { expected, match_of } => {
                let (_, found) = terminal.run();
                self.compare(step, &command, expected, &found, *match_of)
            }
            Act::Dialogue { prompt, expected } => {
                let typed = replay::session::typed(prompt, expected);
                let found = terminal.talk(&typed, |text| self.masks.plain(text))?;
                let end = prompt.trim_end();
                let bare = |text: &str| text.trim_end().trim_end_matches(end).to_owned();
                let found = self.masks.apply(&found, Side::Here, &step.masks);
                self.compare(step, &command, &bare(expected), &bare(&found), Match::Lines)
            }
        }
    }

    fn compare(
        &mut self,
        step: &Step,
        command: &str,
        expected: &str,
        found: &str,
        match_of: Match,
    ) -> Result<(), String> {
        let expected = self.masks.apply(expected, Side::Text, &step.masks);
        let found = self.masks.apply(found, Side::Here, &step.masks);
        if same(&expected, &found, match_of, &mut self.names) {
            return Ok(());
        }
        let expected = self.names.told(&expected);
        Err(format!(
            "$ {command}\n--- expected ({match_of:?})\n{expected}\n--- found\n{found}\n---"
        ))
    }
}

/// The command with the text of a file of the transcript's folder, quoted, for each
/// `$TEXT(file)`: places of the lab have a `/tmp` of their own, and may not see the folder.
fn with_texts(command: &str, folder: &Path) -> String {
    let mut parts = command.split("$TEXT(");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (file, rest) = part.split_once(')').unwrap();
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        whole.push_str(&format!("'{}'{rest}", text.replace('\'', r"'\''")));
    }
    whole
}
