//! SPDY frames of a client that forwards ports.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_proto::spdy::exercise(data));
