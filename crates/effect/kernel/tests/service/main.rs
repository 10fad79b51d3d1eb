//! Services in nf_tables, driven with real packets.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

#[path = "../scene/mod.rs"]
mod scene;

mod affinity;
mod change;
mod ending;
mod faults;
mod frontends;
mod large;
mod listing;
mod look;
mod node_port;
mod reach;
mod sharing;
mod sources;
mod strangers;
mod takeover;
