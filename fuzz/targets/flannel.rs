//! The configuration of a flannel network, and its hosts' leases.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_proto::flannel::exercise(data));
