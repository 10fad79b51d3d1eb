//! A container runtime's list of pods, as it comes over gRPC.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_proto::cri::exercise(data));
