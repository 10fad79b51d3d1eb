//! A client of etcd: keys with a common prefix, leases, watches.
//!
//! Of etcd's methods six are needed, each a unary exchange or a stream of answers over HTTP/2;
//! messages are written and read by field number.
//!
//! Source: etcd's `api/etcdserverpb/rpc.proto`, `api/mvccpb/kv.proto`,
//! grpc/grpc `doc/PROTOCOL-HTTP2.md`.

mod call;
mod client;
mod endpoint;
mod message;
mod tls;
mod watch;

use std::io;

pub use client::{Client, Credentials};
pub use endpoint::Endpoint;
pub use message::{Entry, Event, Lease, LeaseId, Listing, Revision};
pub use tls::{Tls, TlsFiles};
pub use watch::{Batch, Watch};

/// What can go wrong with etcd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A member's address that can't be one.
    #[error("etcd endpoint {text:?}: {reason}")]
    Endpoint {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Certificates or keys that can't be used.
    #[error("{what} {path}: {reason}")]
    Tls {
        /// Which of the files.
        what: &'static str,
        /// Where it is.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A member is not there.
    #[error("etcd {endpoint}: cannot connect: {source}")]
    Connect {
        /// Which one.
        endpoint: String,
        /// What happened.
        source: io::Error,
    },
    /// A call did not come to an answer.
    #[error("etcd {endpoint}: {method}: {reason}")]
    Call {
        /// Which member.
        endpoint: String,
        /// The method.
        method: &'static str,
        /// Why, in words.
        reason: String,
    },
    /// etcd answers with an error.
    #[error("etcd {endpoint}: {method}: error {code}: {message}")]
    Refused {
        /// Which member.
        endpoint: String,
        /// The method.
        method: &'static str,
        /// gRPC's status code.
        code: String,
        /// etcd's words.
        message: String,
    },
    /// What a watch asks for is no longer remembered: everything has to be listed again.
    #[error("etcd has forgotten what changed before revision {revision}")]
    Compacted {
        /// The first that it remembers.
        revision: u64,
    },
}
