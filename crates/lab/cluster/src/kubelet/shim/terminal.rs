//! Terminals inside a container: pseudo terminals of the container's own /dev/pts, so that its
//! programs find theirs by name.
//!
//! Source: pty(7), ioctl_tty(2), kernel Documentation/filesystems/devpts.rst.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;

/// The type of terminal that programs are told (as containerd does).
pub(super) const TYPE: &str = "xterm";

/// Our end and the container's, in the container with this root.
pub(super) fn open(root: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = rustix::fs::open(root.join("dev/pts/ptmx"), flags, Mode::empty())?;
    rustix::pty::unlockpt(&ours)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    Ok((ours, theirs))
}

/// The environment of a program on a terminal.
pub(super) fn environment(env: &[(String, String)]) -> Vec<(String, String)> {
    let mut env = env.to_vec();
    if !env.iter().any(|(name, _)| name == "TERM") {
        env.push(("TERM".to_owned(), TYPE.to_owned()));
    }
    env
}
