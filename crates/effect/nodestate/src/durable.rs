//! Writing files so that after a kill they hold the old content or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Only root reads and writes what is written here.
const FILE_MODE: u32 = 0o600;
/// What host-local gives its directories.
const DIRECTORY_MODE: u32 = 0o755;

/// Writes a file that must not exist.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    let written = file.write_all(content);
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
    }
    written
}

/// Writes a new file; an old one of the same name (left by a process that died) is
/// replaced.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    match create(path, content) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create(path, content)
        }
        done => done,
    }
}

/// Replaces the content of `path`, by way of `temporary` in the same directory.
pub(crate) fn replace(path: &Path, temporary: &Path, content: &[u8]) -> io::Result<()> {
    write_new(temporary, content)?;
    let renamed = fs::rename(temporary, path);
    if renamed.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(temporary);
    }
    renamed
}

/// Makes the names in a directory survive a power cut.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes a directory and those above it, each of them durably.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        create_directory(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Ok(()) => match directory.parent() {
            Some(parent) => sync_directory(parent),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what writers that died left: names with a dot, a process id and a dot in front, and
/// no such process.
pub(crate) fn sweep(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let writer = name
            .to_str()
            .and_then(|name| name.strip_prefix('.')?.split_once('.'))
            .and_then(|(id, _)| id.parse::<u32>().ok());
        let is_dead = writer.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists());
        if is_dead {
            // Somebody else may have removed it; nothing depends on it.
            let _ = fs::remove_file(directory.join(&name));
        }
    }
    Ok(())
}
