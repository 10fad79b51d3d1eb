//! A definition's schema, and a client's object of it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_apiserver::exercise_schema(data));
