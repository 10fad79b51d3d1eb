//! Streams of which a part is killed: the kubelet, the API server, the client.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{PODS, forward, get, pods};
use crate::lab::{Lab, eventually, expect};

/// How soon a client knows that a part its stream led through was killed. Much less than a command
/// may take: what ends in this time was not ended by that.
const CUT: Duration = Duration::from_secs(60);

/// The process ids of what runs in the pods.
fn programs(lab: &Lab) -> Result<[BTreeSet<u32>; 2], String> {
    let found = ["sleep infinity", "python3 -m http.server"].map(|program| lab.processes(program));
    expect(found, |[sleep, serve]| sleep.len() == 3 && serve.len() == 1)
}

/// Kills a part of a lab under streams of every kind: they end, and new ones work.
#[track_caller]
fn streams_outlive(purpose: &str, part: &str) {
    let lab = &Lab::up(purpose, &[]);
    let namespace = "cut";
    lab.namespace(namespace);
    lab.apply(namespace, PODS);
    lab.apply(
        namespace,
        "
apiVersion: v1
kind: Pod
metadata: {name: says}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, command: [sh, -c, 'echo word; exec sleep infinity']}
  - {name: ticks, image: busybox, command: [sh, -c, 'while true; do echo tick; sleep 0.1; done']}
",
    );
    lab.pods_ready(namespace, "");
    let before = eventually("all programs run", || programs(lab));

    let exec = lab.kubectl_start(&[
        "exec",
        "-n",
        namespace,
        "quiet",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "echo up; exec sleep 8641",
    ]);
    exec.line("up", |line| line == "up");
    let attach = lab.kubectl_start(&["attach", "-n", namespace, "says", "-c", "ticks"]);
    attach.line("a tick", |line| line == "tick");
    let logs = lab.kubectl_start(&["logs", "-f", "-n", namespace, "says", "-c", "main"]);
    logs.line("a word", |line| line == "word");
    let (forwards, local) = forward(lab, namespace, "pod/files", 8080);
    assert_eq!(get(local, "/etc/hostname"), b"files\n");
    let mut open = TcpStream::connect(("127.0.0.1", local)).unwrap();
    open.write_all(b"GET /").unwrap();
    open.set_read_timeout(Some(CUT)).unwrap();

    let victims = lab.processes(part);
    assert!(!victims.is_empty());
    for victim in victims {
        lab.kill_part(part, victim);
    }
    // Nothing of these ends was told by the program: a success would be a lie.
    assert_eq!(exec.ends_within(CUT), Some(1));
    assert_eq!(attach.ends_within(CUT), Some(1));
    assert_eq!(logs.ends_within(CUT), Some(1));
    assert_eq!(forwards.ends_within(CUT), Some(1));
    let mut nothing = Vec::new();
    match open.read_to_end(&mut nothing) {
        Ok(_) => assert!(nothing.is_empty(), "{nothing:?}"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    eventually("the program of the stream that was cut is gone", || {
        expect(lab.processes("sleep 8641"), |left| left.is_empty())
    });

    eventually("kubectl works again", || {
        lab.kubectl(&["exec", "-n", namespace, "quiet", "-c", "main", "--", "true"])
            .result()
    });
    eventually("the other node's streams work again", || {
        lab.kubectl(&["exec", "-n", namespace, "files", "--", "true"])
            .result()
    });
    let said = eventually("logs are read again", || {
        lab.kubectl(&["logs", "-n", namespace, "says", "-c", "main"])
            .result()
    });
    assert_eq!(said, "word\n");
    let (_forward, local) = forward(lab, namespace, "pod/files", 8080);
    assert_eq!(get(local, "/etc/hostname"), b"files\n");
    assert_eq!(programs(lab), Ok(before));
}

#[test]
fn streams_end_with_their_kubelet_and_new_ones_reach_the_same_pods() {
    streams_outlive("streams-kubelet", "weft internal kubelet");
}

#[test]
fn streams_end_with_the_api_server_and_new_ones_reach_the_same_pods() {
    streams_outlive("streams-api", "weft internal apiserver");
}

#[test]
fn a_client_that_vanishes_leaves_no_program() {
    let (namespace, lab) = ("vanish", pods("vanish"));
    // Programs that notice nothing by themselves: they neither read nor write. Nothing that
    // started them has a command line that begins like theirs.
    let programs = [
        ("--stdin=false", "sleep 97531", "exec sleep 97531"),
        ("--stdin=true", "sleep 97532", "exec sleep 97532"),
        (
            "--stdin=false",
            "sleep 97533",
            "trap '' HUP TERM PIPE; sleep 97533; true",
        ),
    ];
    for (input, program, script) in programs {
        let client = lab.kubectl_start(&[
            "exec", input, "-n", namespace, "quiet", "-c", "main", "--", "sh", "-c", script,
        ]);
        eventually("the program runs", || {
            expect(lab.processes(program), |found| found.len() == 1)
        });
        client.kill_program("kubectl exec");
        eventually("the program is gone", || {
            expect(lab.processes(program), |found| found.is_empty())
        });
        // timeout(1) tells of its command's end by the signal.
        client.ends_within(CUT);
    }
    // The container's own program was never meant.
    assert_eq!(
        lab.kubectl(&["exec", "-n", namespace, "quiet", "-c", "main", "--", "true"])
            .ok(),
        ""
    );
}
