//! The plugin as a runtime calls it: the binary, in a node's namespace, with pods.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod asked;
mod bandwidth;
mod bridge;
mod bridge_conflicts;
mod chains;
mod containerd;
mod enclosure;
mod gate;
mod install;
mod ipam;
mod kills;
mod libcni;
mod masquerade;
mod node;
mod overlap;
mod podman;
mod power_cut;
mod spoofing;
mod status;
mod verbs;
