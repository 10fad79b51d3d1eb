//! Those who listen to a container's outputs besides its log.
//!
//! As with other runtimes, a listener that does not read holds the container back once its pipe
//! and [`PENDING_LIMIT`] are full, so that nobody misses anything and memory stays bounded; one
//! that is gone is forgotten.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::log::Stream;

/// What may wait for one listener.
const PENDING_LIMIT: usize = 64 * 1024;

struct Listener {
    connection: u64,
    stream: Stream,
    pipe: OwnedFd,
    pending: Vec<u8>,
}

/// The listeners of one container.
#[derive(Default)]
pub(super) struct Audience(Vec<Listener>);

impl Audience {
    /// Adds one. Its pipe must not block.
    pub(super) fn join(&mut self, connection: u64, stream: Stream, pipe: OwnedFd) {
        self.0.push(Listener {
            connection,
            stream,
            pipe,
            pending: Vec::new(),
        });
    }

    /// Forgets those of a connection.
    pub(super) fn leave(&mut self, connection: u64) {
        self.0.retain(|one| one.connection != connection);
    }

    /// Tells everybody.
    pub(super) fn tell(&mut self, stream: Stream, data: &[u8]) {
        for listener in self.0.iter_mut().filter(|one| one.stream == stream) {
            listener.pending.extend_from_slice(data);
        }
        self.flush();
    }

    /// Writes what the pipes take.
    pub(super) fn flush(&mut self) {
        self.0.retain_mut(|one| {
            loop {
                if one.pending.is_empty() {
                    break true;
                }
                match rustix::io::write(&one.pipe, &one.pending) {
                    Ok(count) => drop(one.pending.drain(..count)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break true,
                    Err(_) => break false,
                }
            }
        });
    }

    /// Nothing more will come: lets go of those that have everything.
    pub(super) fn finish(&mut self) {
        self.flush();
        self.0.retain(|one| !one.pending.is_empty());
    }

    /// Whether a stream may be read: every listener has room.
    pub(super) fn has_room(&self, stream: Stream) -> bool {
        let full = |one: &Listener| one.stream == stream && one.pending.len() >= PENDING_LIMIT;
        !self.0.iter().any(full)
    }

    /// The pipes that something waits for.
    pub(super) fn waiting(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let waits = |one: &&Listener| !one.pending.is_empty();
        self.0.iter().filter(waits).map(|one| one.pipe.as_fd())
    }
}
