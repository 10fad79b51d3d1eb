//! The plugin's program, as a runtime runs it. What its verbs do is tested in
//! `crates/weft/tests/cni`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn run(verb: &str, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft-cni"))
        .env_clear()
        .env("CNI_COMMAND", verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[test]
fn it_tells_its_versions_and_refuses_what_it_does_not_understand() {
    let version = run("VERSION", r#"{"cniVersion": "1.1.0"}"#);
    assert!(version.status.success(), "{version:?}");
    let answer: serde_json::Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(answer["cniVersion"], "1.1.0");
    assert!(answer["supportedVersions"].as_array().unwrap().len() > 3);

    let refused = run(
        "MOVE",
        r#"{"cniVersion": "1.1.0", "name": "n", "type": "weft"}"#,
    );
    assert!(!refused.status.success());
    let answer: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(answer["code"], 4, "{answer}");
}
