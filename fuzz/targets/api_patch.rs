//! A client's patch of an object.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_apiserver::exercise_patch(data));
