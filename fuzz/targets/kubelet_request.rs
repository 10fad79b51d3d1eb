//! What the kubelet's server is asked for.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_proto::kubelet::exercise(data));
