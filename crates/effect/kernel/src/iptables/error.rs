//! Why iptables rules could not be read or written.

use std::io;

use weft_sys::netlink;

/// What went wrong with iptables.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// iptables is not there.
    #[error("there is no {0}: install iptables on this node, or use mode nftables")]
    Missing(String),
    /// A program could not be run.
    #[error("running {program}")]
    Run {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program}: {reason}")]
    Failed {
        /// Its name.
        program: String,
        /// What it said, with the line at fault if it named one.
        reason: String,
    },
    /// The kernel could not be asked for changes.
    #[error("nf_tables: {0}")]
    Kernel(#[from] netlink::Error),
    /// The kernel did not say what a table is like.
    #[error("looking at the table {table}")]
    Look {
        /// Its name.
        table: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A change was to be made to a state that is not known.
    #[error("iptables rules have to be read and reconciled before they are changed")]
    Unsettled,
}
