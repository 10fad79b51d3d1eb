//! The sockets weft serves: DNS, and what tells others that a process is well.

pub mod dns;
pub mod health;
mod listen;
mod listener;

pub use listen::{ListenAddress, NotAListenAddress};
