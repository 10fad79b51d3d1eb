//! What a request's query asks for.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_apiserver::exercise_options(data));
