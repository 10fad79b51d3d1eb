//! What a container says about its own end: the file at its `terminationMessagePath`, or the last
//! lines of its log.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use weft_kube::k8s_openapi::api::core::v1::Container;

use super::volumes;

/// How much of the file counts, from its end (Kubernetes' MaxContainerTerminationMessageLength).
const FILE_LIMIT: u64 = 4096;
/// How much of the log counts (its MaxContainerTerminationMessageLogLength and -LogLines).
const LOG_LIMIT: usize = 2048;
const LOG_LINES: usize = 80;
/// A log line has a time and more around it: so much of the file's end has all that counts.
const LOG_TAIL: u64 = 64 * 1024;

/// The file that a run of a container writes to.
pub(super) fn file(uid: &str, container: &str, attempt: u32) -> PathBuf {
    let folder = Path::new(volumes::PODS).join(uid).join("containers");
    folder.join(container).join(attempt.to_string())
}

/// Makes the file, empty; those of earlier runs go.
pub(super) fn prepare(file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(folder)?;
    }
    File::create(file)?;
    // Whoever the container runs as.
    fs::set_permissions(file, Permissions::from_mode(0o666))
}

/// The message of a run that ended with `code`.
pub(super) fn read(container: &Container, code: i32, file: &Path, log: &Path) -> Option<String> {
    let said = tail(file, FILE_LIMIT).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    let policy = container.termination_message_policy.as_deref();
    if said.is_empty() && code != 0 && policy == Some("FallbackToLogsOnError") {
        let text = tail(log, LOG_TAIL).unwrap_or_default();
        return Some(last_lines(&String::from_utf8_lossy(&text))).filter(|text| !text.is_empty());
    }
    Some(said).filter(|said| !said.is_empty())
}

fn tail(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    Ok(text)
}

/// The end of a log in the format of the Container Runtime Interface, without its times.
fn last_lines(log: &str) -> String {
    let texts: Vec<&str> = log
        .lines()
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .collect();
    let lines = &texts[texts.len().saturating_sub(LOG_LINES)..];
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    let start = text.len().saturating_sub(LOG_LIMIT);
    let start = (start..text.len()).find(|at| text.is_char_boundary(*at));
    text.split_off(start.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_before_the_log_and_the_log_after_failures_alone() {
        let folder = std::env::temp_dir().join(format!("weft-words-{}", std::process::id()));
        let (said, log) = (folder.join("c/1"), folder.join("log"));
        prepare(&said).unwrap();
        fs::write(
            &log,
            "2026-01-02T03:04:05Z stdout F one two\n2026-01-02T03:04:05Z stderr F \n",
        )
        .unwrap();
        let container = |policy: &str| Container {
            termination_message_policy: Some(policy.to_owned()),
            ..Container::default()
        };
        let told = |policy, code| read(&container(policy), code, &said, &log);
        assert_eq!(told("File", 1), None);
        assert_eq!(told("FallbackToLogsOnError", 0), None);
        assert_eq!(
            told("FallbackToLogsOnError", 1).as_deref(),
            Some("one two\n\n")
        );
        fs::write(&said, "x".repeat(5000) + "done").unwrap();
        let words = told("FallbackToLogsOnError", 1).unwrap();
        assert!(words.len() == 4096 && words.ends_with("xdone"));
        fs::remove_dir_all(folder).unwrap();
    }
}
