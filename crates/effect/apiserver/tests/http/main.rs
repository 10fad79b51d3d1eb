//! The server over real TLS sockets.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod clients;
mod deletion;
mod objects;
mod reading;
mod refusals;
mod watching;
