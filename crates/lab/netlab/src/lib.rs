//! Namespaces, links, processes and packet probes for tests and the lab.
//!
//! A [`Namespace`] is a network namespace held by a descriptor: dropped, it is gone, with
//! everything in it. [`Namespace::run`] does work inside it, [`link`] joins two of them,
//! and [`probe`] asks what a packet meets on its way.
//!
//! ```no_run
//! use weft_netlab::{Namespace, link, probe};
//! # fn main() -> Result<(), weft_netlab::Error> {
//! let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
//! link::veth(&left, "eth0", &right, "eth0")?;
//! link::address(&left, "eth0", "192.0.2.1/24")?;
//! link::address(&right, "eth0", "192.0.2.2/24")?;
//! let server = probe::TcpEcho::start(&right, "192.0.2.2:0")?;
//! let outcome = probe::tcp(&left, server.address(), std::time::Duration::from_secs(1))?;
//! assert!(outcome.is_answered());
//! # Ok(()) }
//! ```

pub mod barrier;
pub mod link;
pub mod namespace;
pub mod probe;

use std::io;

pub use namespace::Namespace;
pub use weft_sys::{mount, namespace as sys_namespace, process};

/// What can go wrong in building or probing a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace could not be made or entered.
    #[error("namespace {name}: {source}")]
    Namespace {
        /// The namespace's name.
        name: String,
        /// What happened.
        source: weft_sys::namespace::Error,
    },
    /// A link, address, route or setting could not be made.
    #[error("namespace {name}: cannot {action}: {source}")]
    Network {
        /// The namespace's name.
        name: String,
        /// What was tried.
        action: String,
        /// The answer.
        source: io::Error,
    },
    /// A probe could not be sent at all. (What it met is an outcome, not an error.)
    #[error("namespace {name}: cannot {action}: {source}")]
    Probe {
        /// The namespace's name.
        name: String,
        /// What was tried.
        action: String,
        /// The answer.
        source: io::Error,
    },
}
