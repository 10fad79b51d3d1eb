//! End to end, black box: whole labs, through the binary and kubectl.
//!
//! One file for each thing a user relies on. Tests of a file share a lab where they only read.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod lab;
#[expect(dead_code, reason = "the transcripts use the rest")]
mod replay;

mod adoption;
mod advertising;
mod churn;
mod client_go;
mod controller;
mod crowds;
mod durability;
mod endpoints;
mod fabric;
mod fabric_commands;
mod fabric_faults;
mod fabric_interop;
mod fabric_mixed;
mod fabric_twenty;
mod faults;
mod full_disk;
mod health;
mod hello;
mod keep;
mod kube_rs;
mod kubectl_old;
mod kubectl_verbs;
mod networking;
mod node;
mod node_pods;
mod ownership;
mod pod_rules;
mod pods;
mod proxy_settings;
mod publish;
mod refusals;
mod repair;
mod replaying;
mod rolling;
mod rollouts;
mod services;
mod sig_network;
mod silence;
mod stateful;
mod storage;
mod storms;
mod streams;
mod takeover;
mod verdicts;

#[test]
fn acknowledged_writes_survive_twenty_kills() {
    durability::killed_while_writing(20);
}

#[test]
fn a_hundred_pods_come_and_go_while_parts_die() {
    churn::pods_come_and_go("churn", 5, &churn::PARTS);
}

#[test]
fn an_agent_killed_in_a_storm_ends_where_a_fresh_one_does() {
    storms::agents_die("storm", 3);
}
