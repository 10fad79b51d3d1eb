//! Container logs in the format of the Container Runtime Interface:
//! `2026-01-02T03:04:05.000000006Z stdout F text`, `P` for a part of a long line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Longer lines are split (containerd's max_container_log_line_size).
const LINE_LIMIT: usize = 16 * 1024;
/// At this size the file is set aside (kubelet's containerLogMaxSize).
const FILE_LIMIT: u64 = 10 * 1024 * 1024;

/// How many files of a run are kept (kubelet's containerLogMaxFiles).
const FILES: usize = 5;

/// The files of a log that were set aside, the oldest first.
#[must_use]
pub fn set_aside(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.");
    let listed = path.parent().map(std::fs::read_dir);
    let mut files: Vec<PathBuf> = listed
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// One of a container's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Output,
    Errors,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Output => "stdout",
            Stream::Errors => "stderr",
        }
    }
}

/// What has come of a line so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes what was read, and appends the log lines it completes to `out`.
    pub(super) fn take(&mut self, data: &[u8], stream: Stream, now: Timestamp, out: &mut Vec<u8>) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let (text, full) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                Some(_) | None => (piece, false),
            };
            self.pending.extend_from_slice(text);
            while self.pending.len() > LINE_LIMIT {
                let rest = self.pending.split_off(LINE_LIMIT);
                write_line(out, now, stream, 'P', &self.pending);
                self.pending = rest;
            }
            if full {
                write_line(out, now, stream, 'F', &self.pending);
                self.pending.clear();
            }
        }
    }

    /// The stream has ended: what has no newline is a line too.
    pub(super) fn finish(&mut self, stream: Stream, now: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            write_line(out, now, stream, 'F', &self.pending);
            self.pending = Vec::new();
        }
    }
}

fn write_line(out: &mut Vec<u8>, now: Timestamp, stream: Stream, tag: char, text: &[u8]) {
    let name = stream.name();
    out.extend_from_slice(format!("{now:.9} {name} {tag} ").as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// The log file of a container.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(LogFile {
            path: path.to_owned(),
            file,
            size,
        })
    }

    /// Appends lines. A full disk loses lines, never the container.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.size > FILE_LIMIT {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }

    /// Sets the file aside, under a name with the time in it, and lets go of the oldest.
    fn rotate(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        // As the kubelet's, finer: a busy program fills a file in less than a second.
        let now = Timestamp::now().strftime("%Y%m%d-%H%M%S.%9f");
        aside.push(format!(".{now}"));
        std::fs::rename(&self.path, aside)?;
        let files = set_aside(&self.path);
        for old in files.iter().take((files.len() + 1).saturating_sub(FILES)) {
            std::fs::remove_file(old)?;
        }
        *self = LogFile::open(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05.000000006Z".parse().unwrap()
    }

    #[test]
    fn lines_are_stamped_and_joined_over_reads() {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        lines.take(b"one\ntw", Stream::Output, now(), &mut out);
        lines.take(b"o\n\nrest", Stream::Output, now(), &mut out);
        lines.finish(Stream::Output, now(), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "2026-01-02T03:04:05.000000006Z stdout F one\n\
             2026-01-02T03:04:05.000000006Z stdout F two\n\
             2026-01-02T03:04:05.000000006Z stdout F \n\
             2026-01-02T03:04:05.000000006Z stdout F rest\n"
        );
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        let long = vec![b'x'; LINE_LIMIT + 1];
        lines.take(&long, Stream::Errors, now(), &mut out);
        lines.take(b"\n", Stream::Errors, now(), &mut out);
        let text = String::from_utf8(out).unwrap();
        let tags: Vec<_> = text.lines().map(|line| &line[31..39]).collect();
        assert_eq!(tags, ["stderr P", "stderr F"]);
        assert!(text.ends_with(" F x\n"));
    }

    #[test]
    fn a_large_file_is_set_aside() {
        let folder = std::env::temp_dir().join(format!("weft-log-{}", std::process::id()));
        let path = folder.join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        for number in 0..2 * FILES {
            log.size = FILE_LIMIT + 1;
            log.write(format!("{number}\n").as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"9\n");
        let kept: Vec<_> = set_aside(&path)
            .iter()
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        assert_eq!(kept, ["5\n", "6\n", "7\n", "8\n"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
