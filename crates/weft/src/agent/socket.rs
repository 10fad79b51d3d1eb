//! Sockets of the agent's own, at which the plugin and commands of this node ask it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use tokio::net::UnixListener;

/// Listens, for root alone. What an agent before this one left of the socket is replaced: a node
/// has one agent. `purpose` is for errors.
pub(super) fn listen(path: &Path, purpose: &str) -> Result<UnixListener> {
    let what = || format!("{purpose} {}", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(what)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(what);
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).with_context(what)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(what)?;
    Ok(listener)
}
