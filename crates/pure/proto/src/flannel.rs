//! What flannel's nodes agree on: the network's configuration, the leases of subnets, and what is
//! said of a tunnel's end.
//!
//! Source: flannel's `pkg/subnet` (`config.go`, `subnet.go`), its `Documentation/configuration.md`.

mod exercise;
mod lease;
mod net_conf;
mod pool;

pub use exercise::exercise;
pub use lease::{Holder, Lease, Subnets, VxlanEnd};
pub use net_conf::{Backend, NetConf};
pub use pool::Pool;

/// What is wrong with a field, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Fault {
    /// As flannel calls it, such as `Backend.VNI`.
    pub field: String,
    /// In words.
    pub reason: String,
}

impl Fault {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}
