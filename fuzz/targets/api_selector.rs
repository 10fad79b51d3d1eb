//! A client's label and field selectors.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_apiserver::exercise_selector(data));
