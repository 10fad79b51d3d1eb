//! A runtime's call of the CNI plugin: environment and standard input.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_proto::cni::exercise(data));
