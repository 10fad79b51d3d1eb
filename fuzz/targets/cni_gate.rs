//! What the plugin and the agent say to each other at the policy gate, and the section
//! `policyGate` of a network configuration.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_proto::cni::exercise_gate(data));
