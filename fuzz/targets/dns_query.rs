//! A packet at the DNS server's socket.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_proto::dns::exercise(data));
