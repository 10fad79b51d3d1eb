//! Every feature of Services, from objects of the cluster to real packets: by each back end, in
//! each family.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

#[path = "../scene/mod.rs"]
mod scene;

mod affinity;
mod cluster_ip;
mod endpoints;
mod external;
mod node;
mod node_port;
mod objects;
mod row;
mod sctp;
mod source;
mod takeover;
