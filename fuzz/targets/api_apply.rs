//! What two clients apply to an object on the server.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_apiserver::exercise_apply(data));
