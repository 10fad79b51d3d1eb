//! What a person sees: standard output, complaints, exit codes; and the log.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::EnvFilter;
use weft_cluster::lab::membership::Complaint;
use weft_cluster::lab::{boot, enter, front, keep, plan, publish, requests, state};

/// The codes that `--help` documents.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line cannot be understood, or asks for something that does not fit
  3  this machine or user does not permit it (namespaces, mounts)
  4  a name or port is in use
  5  there is no such lab, node, pod or file
`weft lab exec` and `shell` end with the code of what they ran; 127 when it is not there.";

/// The environment variable with the log's filter (tracing-subscriber's `EnvFilter`).
pub(crate) const LOG_VARIABLE: &str = "WEFT_LOG";

/// Log for a command that a person runs: only what needs attention, unless asked for more.
pub(crate) fn log_for_person() {
    // The client library cries before it tries again; what comes of it, we say.
    log("warn,kube_client=off");
}

/// Log for a process that runs for long: to standard error, with times.
pub(crate) fn log_for_machine() {
    log("info");
}

fn log(default: &str) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE)
        .or_else(|_| EnvFilter::try_new(default))
        .unwrap_or_default();
    // A second subscriber cannot be set; the first one is as good.
    let _already = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

/// Whether something could not be printed.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints a line. A reader that has gone (a closed pipe) is no failure of ours; another
/// failure is the command's ([`ending`]).
pub(crate) fn say(line: impl AsRef<str>) {
    print(format!("{}\n", line.as_ref()));
}

/// Prints text as it is, and else as [`say`].
pub(crate) fn print(text: impl AsRef<str>) {
    if let Err(error) = print_on(text)
        && !LOST.swap(true, Ordering::Relaxed)
    {
        note(format!("weft: standard output: {error}"));
    }
}

/// Prints text. `false`: nobody reads it any more.
///
/// # Errors
/// What standard output said.
pub(crate) fn print_on(text: impl AsRef<str>) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.as_ref().as_bytes());
    match printed.and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Prints a line to standard error.
pub(crate) fn note(line: impl AsRef<str>) {
    let _closed = writeln!(io::stderr().lock(), "{}", line.as_ref());
}

/// Prints an error with its causes.
pub(crate) fn complain(error: &anyhow::Error) {
    note(format!("weft: {}", chain(error)));
}

/// An error with its causes in one line, none of them twice.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
    }
    text
}

/// How a command ends that would end with `code`: not well if it printed half of what it had to.
pub(crate) fn ending(code: ExitCode) -> ExitCode {
    match LOST.load(Ordering::Relaxed) && code == ExitCode::SUCCESS {
        true => ExitCode::FAILURE,
        false => code,
    }
}

/// The exit code for an error, as [`EXIT_CODES`] says.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(code(error))
}

/// The number of [`exit_code`].
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    const FAILED: u8 = 1;
    const USAGE: u8 = 2;
    const NOT_PERMITTED: u8 = 3;
    const IN_USE: u8 = 4;
    const NOT_THERE: u8 = 5;
    const NO_PROGRAM: u8 = 127;
    let of_state = |error: &state::Error| match error {
        state::Error::Taken(_) => IN_USE,
        state::Error::Unknown { .. } | state::Error::None => NOT_THERE,
        state::Error::Several(_) => USAGE,
        state::Error::Starting(_) | state::Error::File { .. } => FAILED,
    };
    let of_keep = |error: &keep::Error| match error {
        keep::Error::InUse(_) => IN_USE,
        keep::Error::Plan(_) | keep::Error::Contradiction { .. } | keep::Error::Foreign(_) => USAGE,
        keep::Error::Version { .. }
        | keep::Error::Damaged { .. }
        | keep::Error::Store { .. }
        | keep::Error::File { .. } => FAILED,
    };
    if error.is::<plan::Error>() || error.is::<Usage>() {
        return USAGE;
    }
    if let Some(error) = error.downcast_ref::<state::Error>() {
        return of_state(error);
    }
    if let Some(error) = error.downcast_ref::<keep::Error>() {
        return of_keep(error);
    }
    if let Some(error) = error.downcast_ref::<front::Error>() {
        return match error {
            front::Error::State(error) => of_state(error),
            front::Error::Port { .. } | front::Error::KeptPort { .. } => IN_USE,
            front::Error::Keep(error) => of_keep(error),
            front::Error::NotPermitted { .. } => NOT_PERMITTED,
            front::Error::Namespace(_)
            | front::Error::Process(_)
            | front::Error::Start(_)
            | front::Error::Prepare { .. } => FAILED,
        };
    }
    if let Some(error) = error.downcast_ref::<enter::Error>() {
        return match error {
            enter::Error::Unknown { .. } | enter::Error::Gone { .. } => NOT_THERE,
            enter::Error::Program { .. } => NO_PROGRAM,
            enter::Error::Namespace(_) => NOT_PERMITTED,
            enter::Error::Process(_) | enter::Error::Wait(_) | enter::Error::Refused { .. } => {
                FAILED
            }
        };
    }
    if error.is::<InUse>() {
        return IN_USE;
    }
    if error.is::<NotPermitted>() {
        return NOT_PERMITTED;
    }
    if let Some(publish::Error::Refused(refusal)) = error.downcast_ref() {
        return match refusal {
            publish::Refusal::Unknown { .. } | publish::Refusal::Port { .. } => NOT_THERE,
            publish::Refusal::Syntax(_)
            | publish::Refusal::Protocol { .. }
            | publish::Refusal::External(_) => USAGE,
        };
    }
    if let Some(requests::Error::Refused { kind, .. }) = error.downcast_ref() {
        return match kind {
            Complaint::DoesNotFit => USAGE,
            Complaint::InUse => IN_USE,
            Complaint::NotThere => NOT_THERE,
            Complaint::Failed => FAILED,
        };
    }
    if let Some(boot::Error::Manifest { .. }) = error.downcast_ref::<boot::Error>() {
        return USAGE;
    }
    match error.downcast_ref::<NotThere>() {
        Some(_) => NOT_THERE,
        None => FAILED,
    }
}

/// A command line that clap accepts and that still makes no sense.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// What this user may not do.
#[derive(Debug)]
pub(crate) struct NotPermitted(pub(crate) String);

impl std::fmt::Display for NotPermitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotPermitted {}

/// A name or port that somebody else has.
#[derive(Debug)]
pub(crate) struct InUse(pub(crate) String);

impl std::fmt::Display for InUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InUse {}

/// Something named on the command line that does not exist.
#[derive(Debug)]
pub(crate) struct NotThere(pub(crate) String);

impl std::fmt::Display for NotThere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotThere {}

/// How a table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// JSON for programs
    Json,
}

/// Lays rows out in columns, two blanks apart.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(cell);
            text.push_str(&" ".repeat(width + 2 - cell.chars().count()));
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(header.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "bb".to_owned()],
            vec!["ccc".to_owned(), "d".to_owned()],
        ];
        assert_eq!(table(&["X", "Y"], &rows), "X    Y\na    bb\nccc  d\n");
    }

    #[test]
    fn causes_are_said_once() {
        let error = anyhow::anyhow!("inner")
            .context("outer: inner")
            .context("top");
        assert_eq!(chain(&error), "top: outer: inner");
    }
}
