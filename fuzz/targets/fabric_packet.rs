//! Packets between a TUN device and the datagrams of other nodes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_proto::packet::exercise(data));
