//! Why a netlink exchange failed.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::Failure;

/// What went wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket itself failed.
    #[error("netlink: cannot {operation}")]
    Socket {
        /// What was tried with it.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{operation} {object}: {failure}")]
    Refused {
        /// The request, as a verb (`add route`).
        operation: &'static str,
        /// What it was about (`10.244.1.0/24 via 172.30.0.12`).
        object: String,
        /// The kernel's answer.
        failure: Failure,
    },
    /// The kernel's answer can't be read.
    #[error("{operation}: the kernel's answer can't be read: {reason}")]
    Malformed {
        /// The request, as a verb.
        operation: &'static str,
        /// What was found.
        reason: String,
    },
    /// The objects kept changing while they were listed.
    #[error("{operation}: the list changed in each of {attempts} attempts to read it; try again")]
    Unsettled {
        /// The request, as a verb.
        operation: &'static str,
        /// How often it was read.
        attempts: u32,
    },
    /// The kernel dropped messages because the receive buffer was full.
    #[error(
        "{operation}: the receive buffer of {capacity} bytes overflowed and answers were lost; \
         read the state again"
    )]
    Lost {
        /// The request, as a verb.
        operation: &'static str,
        /// The buffer's size as the kernel counts it.
        capacity: usize,
    },
}

impl Error {
    /// The kernel's error number, where the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { failure, .. } => Some(failure.errno),
            Error::Socket { source, .. } => Errno::from_io_error(source),
            Error::Malformed { .. } | Error::Unsettled { .. } | Error::Lost { .. } => None,
        }
    }

    /// Whether what was to be created is already there.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// Whether a port or an address is another's.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.errno() == Some(Errno::ADDRINUSE)
    }

    /// Whether what was asked for is not there: each subsystem says it with an error
    /// number of its own (ENOENT, ENODEV for links, ESRCH for routes, EADDRNOTAVAIL
    /// for addresses).
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::NOENT | Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL)
        )
    }

    pub(crate) fn socket(operation: &'static str, errno: Errno) -> Self {
        Error::Socket {
            operation,
            source: errno.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from(self.errno))?;
        if let Some(text) = &self.text {
            write!(f, " (kernel: {text})")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", at byte {offset} of the request")?;
        }
        Ok(())
    }
}
