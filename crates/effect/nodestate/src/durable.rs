//! Writing files so that after a crash they hold the old content or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Only root reads and writes what is written here.
const FILE_MODE: u32 = 0o600;
/// What host-local gives its directories.
const DIRECTORY_MODE: u32 = 0o755;

/// What a write has to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process: the page cache is enough.
    Process,
    /// A power cut.
    Power,
}

/// Writes a new file; an old one of the same name (left by a process that died) is
/// replaced.
pub(crate) fn write_new(path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    let open = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)
    };
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()?
        }
        other => other?,
    };
    let written = file.write_all(content).and_then(|()| match durability {
        Durability::Process => Ok(()),
        Durability::Power => file.sync_data(),
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
    }
    written
}

/// Replaces the content of `path`, by way of `temporary` in the same directory.
pub(crate) fn replace(
    path: &Path,
    temporary: &Path,
    content: &[u8],
    durability: Durability,
) -> io::Result<()> {
    write_new(temporary, content, durability)?;
    if let Err(error) = fs::rename(temporary, path) {
        let _ = fs::remove_file(temporary);
        return Err(error);
    }
    match (durability, path.parent()) {
        (Durability::Power, Some(directory)) => sync_directory(directory),
        (Durability::Power, None) | (Durability::Process, _) => Ok(()),
    }
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

/// Removes files of writers that died: their names start with a dot and the process id,
/// and end with `suffix`.
pub(crate) fn remove_temporary(directory: &Path, suffix: &str) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix('.')?.strip_suffix(suffix));
        if process.is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_digit())) {
            // Somebody else may have removed it; nothing depends on it.
            let _ = fs::remove_file(directory.join(&name));
        }
    }
    Ok(())
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
