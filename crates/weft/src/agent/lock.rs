//! One agent per node.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::output::InUse;

/// Takes the node's lock until the file is dropped, or says who can't be two.
pub(crate) fn take(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("the lock's directory {}", directory.display()))?;
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("the lock {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let text = format!(
                "another weft agent holds {}; a node has one agent. Stop the other one first",
                path.display()
            );
            Err(InUse(text).into())
        }
        Err(error) => Err(error).with_context(|| format!("the lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_agent_gives_up_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.lock");
        let held = take(&path).unwrap();
        let error = take(&path).unwrap_err().to_string();
        assert!(error.contains("another weft agent holds"), "{error}");
        drop(held);
        take(&path).unwrap();
    }
}
