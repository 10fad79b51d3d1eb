//! The fuzz targets' corpus, replayed without a fuzzer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use weft_proto::{cni, cri, dns, flannel, kubelet, packet, path_probe, spdy};

fn replay(target: &str, exercise: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../fuzz/corpus")
        .join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let seed = fs::read(entry.unwrap().path()).unwrap();
        exercise(&seed);
        // What an input starts with must not need what it ends with.
        for end in 0..seed.len() {
            exercise(&seed[..end]);
        }
        seeds += 1;
    }
    assert!(seeds > 5, "{target} has {seeds} seeds");
}

#[test]
fn cni_requests() {
    replay("cni_request", cni::exercise);
}

#[test]
fn policy_gates() {
    replay("cni_gate", cni::exercise_gate);
}

#[test]
fn runtimes_answers() {
    replay("cri_answer", cri::exercise);
}

#[test]
fn dns_queries() {
    replay("dns_query", dns::exercise);
}

#[test]
fn kubelet_requests() {
    replay("kubelet_request", kubelet::exercise);
}

#[test]
fn spdy_frames() {
    replay("spdy_frames", spdy::exercise);
}

#[test]
fn fabric_packets() {
    replay("fabric_packet", packet::exercise);
}

#[test]
fn flannel_s_configurations_and_leases() {
    replay("flannel", flannel::exercise);
}

#[test]
fn path_probes() {
    replay("path_probe", path_probe::exercise);
}
