//! The fuzz targets' corpus, replayed without a fuzzer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use weft_apiserver::{
    exercise_apply, exercise_log, exercise_options, exercise_patch, exercise_schema,
    exercise_selector,
};

fn replay(target: &str, exercise: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../fuzz/corpus")
        .join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let seed = fs::read(entry.unwrap().path()).unwrap();
        exercise(&seed);
        // What an input starts with must not need what it ends with.
        for end in 0..seed.len() {
            exercise(&seed[..end]);
        }
        seeds += 1;
    }
    assert!(seeds > 5, "{target} has {seeds} seeds");
}

#[test]
fn patches() {
    replay("api_patch", exercise_patch);
}

#[test]
fn applies() {
    replay("api_apply", exercise_apply);
}

#[test]
fn options() {
    replay("api_options", exercise_options);
}

#[test]
fn selectors() {
    replay("api_selector", exercise_selector);
}

#[test]
fn schemas() {
    replay("api_schema", exercise_schema);
}

#[test]
fn logs() {
    replay("store_log", exercise_log);
}
