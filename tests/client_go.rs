//! Programs of client-go and controller-runtime, as they come: `tests/client-go` does what
//! controllers and operators do, and says of each whether it went as it should.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use crate::lab::{Lab, Running, repository};

static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("client-go", &[]));

/// The program; none, and it is said so, where there is no Go toolchain (1.23 or later) or no
/// way to its modules.
static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let go = |arguments: &[&str]| {
        Command::new("go")
            .args(arguments)
            .current_dir(repository("tests/client-go"))
            .output()
    };
    let missing = match go(&["mod", "download"]) {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(format!("go: {error}")),
    };
    if let Some(reason) = missing {
        let told = format!("NOT TESTED with client-go, which can't be had: {reason}\n");
        std::io::stderr().write_all(told.as_bytes()).unwrap();
        return None;
    }
    let program = concat!(env!("CARGO_TARGET_TMPDIR"), "/client-go");
    let built = go(&["build", "-o", program, "."]).unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "tests/client-go: {said}");
    Some(program.into())
});

/// Runs checks, and fails with what they say unless each is well. What they want killed is.
#[track_caller]
fn passes(lab: &Lab, watch_list: bool, names: &[&str]) {
    let Some(program) = &*PROGRAM else { return };
    let mut command = Command::new(program);
    command
        .args(names)
        .env("KUBECONFIG", lab.kubeconfig())
        .env("KUBE_FEATURE_WatchListClient", watch_list.to_string());
    let mut program = Running::start(command);
    let mut verdicts = BTreeMap::new();
    while verdicts.len() < names.len() {
        let line = program.line("a verdict", |_| true);
        match line.split_once(' ') {
            None if line == "kill" => {
                lab.kill_api_server();
                program.say("\n");
            }
            Some(("ok", name)) => {
                verdicts.insert(name.to_owned(), None);
            }
            Some(("FAIL", why)) => {
                let name = why.split(':').next().unwrap_or_default().to_owned();
                verdicts.insert(name, Some(line));
            }
            Some(_) | None => {}
        }
    }
    let failures: Vec<_> = verdicts.into_values().flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The groups in which the checks are run: each group is a test below.
const INFORMERS: &[&str] = &[
    "informer",
    "informer-with-selector",
    "dynamic-client",
    "metadata-client",
];
const KILLS: &[&str] = &[
    "informer-survives-a-kill",
    "informer-survives-gone",
    "retry-watcher",
];
const WATCHES: &[&str] = &[
    "watch-with-bookmarks",
    "watch-from-a-compacted-version",
    "until",
];
const WRITES: &[&str] = &[
    "apply-conflicts",
    "apply-lists",
    "apply-extracted",
    "apply-status",
    "typed-json",
    "typed-protobuf",
    "delete-collection",
    "dry-run",
    "concurrent-writers",
    "concurrent-appliers",
    "finalizers-and-owners",
];
const READS: &[&str] = &["discovery", "rest-mapper", "paging", "openapi-v3"];
const CONTROLLERS: &[&str] = &[
    "leader-election",
    "core-events",
    "service-account-token",
    "access-review",
    "wrong-credentials",
    "scale-client",
    "eviction",
    "rollback",
];
const EVENTS: &[&str] = &["events-k8s-io"];
const STREAMS: &[&str] = &["exec", "exec-terminal", "attach", "logs", "port-forward"];
const CUSTOM: &[&str] = &["custom-resources", "controller-runtime"];

#[test]
fn no_check_is_left_out() {
    let Some(program) = &*PROGRAM else { return };
    let said = Command::new(program).arg("--list").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let mut all: Vec<_> = said.lines().collect();
    let mut run = [
        INFORMERS,
        KILLS,
        WATCHES,
        WRITES,
        READS,
        CONTROLLERS,
        EVENTS,
        STREAMS,
        CUSTOM,
    ]
    .concat();
    all.sort_unstable();
    run.sort_unstable();
    assert_eq!(all, run);
}

#[test]
fn informers_that_list_and_watch() {
    passes(&LAB, false, INFORMERS);
}

#[test]
fn informers_that_stream_their_lists() {
    passes(&LAB, true, INFORMERS);
}

#[test]
fn informers_survive_the_api_server() {
    let lab = Lab::up("client-go-kill", &[]);
    passes(&lab, false, KILLS);
    passes(&lab, true, KILLS);
}

#[test]
fn watches_go_on_or_say_why_not() {
    passes(&LAB, true, WATCHES);
}

#[test]
fn what_is_written_is_kept_and_nothing_else() {
    passes(&LAB, true, WRITES);
}

#[test]
fn clients_find_out_what_there_is() {
    passes(&LAB, true, READS);
}

#[test]
fn what_controllers_do() {
    passes(&LAB, true, CONTROLLERS);
}

#[test]
fn events_of_the_newer_api() {
    passes(&LAB, true, EVENTS);
}

#[test]
fn streams_into_pods() {
    passes(&LAB, true, STREAMS);
}

/// In a lab of its own: kinds come and go in it, which other checks look at.
#[test]
fn operators_and_their_kinds() {
    passes(&Lab::up("client-go-custom", &[]), true, CUSTOM);
}
