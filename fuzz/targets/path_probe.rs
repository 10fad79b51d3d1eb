//! What comes to the port by which nodes try the ways between them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_proto::path_probe::exercise(data));
