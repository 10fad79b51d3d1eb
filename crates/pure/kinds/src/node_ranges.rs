//! The pod ranges of nodes: how a cluster's ranges are cut into parts, and who has which
//! (kube-controller-manager's `--allocate-node-cidrs`).

mod cluster;
mod given;
mod parts;

pub use cluster::{Fault, NodeRanges, Settings, SettingsError};
pub use given::Given;
pub use parts::{Masks, free_parts};
