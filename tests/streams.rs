//! Streams into pods with kubectl as people use it: exec, attach, logs, port-forward, cp, proxies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::lab::{Lab, PATIENCE, Running, eventually, expect};

mod broken;

/// Each test has a namespace of its own in it.
static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("streams", &[]));

/// A pod that does nothing, and one that serves its file system on port 8080, behind a Service.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: quiet}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, command: [sleep, infinity]}
  - {name: other, image: busybox, command: [sleep, infinity]}
---
apiVersion: v1
kind: Pod
metadata: {name: files, labels: {app: files}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: python
    command: [python3, -m, http.server, '8080', --directory, /]
    ports: [{containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: files}
spec:
  selector: {app: files}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

#[track_caller]
fn pods(namespace: &str) -> &'static Lab {
    let lab = &*LAB;
    lab.namespace(namespace);
    lab.apply(namespace, PODS);
    lab.pods_ready(namespace, "");
    lab
}

/// Bytes of all values in no order that a stream could get right by chance.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

#[test]
fn exec_gives_streams_and_exit_codes() {
    let (namespace, lab) = ("exec", pods("exec"));
    let sh = |script: &str| {
        lab.kubectl(&[
            "exec", "-n", namespace, "quiet", "-c", "other", "--", "sh", "-c", script,
        ])
    };
    let ran = sh("echo out; echo err >&2; exit 3");
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), "out\n"), "{ran}");
    assert_eq!(ran.err, "err\ncommand terminated with exit code 3\n");
    let ran = sh("kill -9 $$");
    assert_eq!(ran.code, Some(137), "{ran}");
    // What a program leaves behind does not hold its client.
    assert_eq!(sh("sleep 600 & echo done").ok(), "done\n");

    let exec = |more: &[&str]| lab.kubectl(&[&["exec", "-n", namespace][..], more].concat());
    let refused = exec(&["quiet", "--", "no-such-program"]).refused();
    assert!(
        refused.contains("exec: \"no-such-program\": executable file not found in $PATH"),
        "{refused}"
    );
    let refused = exec(&["nobody", "--", "true"]).refused();
    assert_eq!(
        refused,
        "Error from server (NotFound): pods \"nobody\" not found\n"
    );
    let refused = exec(&["quiet", "-c", "none", "--", "true"]).refused();
    assert!(
        refused.contains("container none is not valid for pod quiet"),
        "{refused}"
    );
}

#[test]
fn exec_carries_many_bytes_both_ways() {
    let (namespace, lab) = ("exec-bytes", pods("exec-bytes"));
    let noise = noise(20 << 20);
    let ran = lab.kubectl_fed(
        &[
            "exec", "-i", "-n", namespace, "quiet", "-c", "main", "--", "cat",
        ],
        noise.clone(),
    );
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(ran.stdout == noise, "{} bytes came back", ran.stdout.len());
    // A program that does not read its input does not hold its client.
    let ran = lab.kubectl_fed(
        &[
            "exec", "-i", "-n", namespace, "quiet", "-c", "main", "--", "true",
        ],
        noise,
    );
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
fn exec_has_a_terminal_of_the_container() {
    let (namespace, lab) = ("exec-tty", pods("exec-tty"));
    // script(1) gives kubectl a terminal. Its own input stays open: at its end it would type an
    // end of transmission.
    // The size comes in a message of its own, maybe after the program has begun.
    let script =
        "tty; while [ \"$(stty size)\" = \"0 0\" ]; do :; done; stty size; echo $TERM; exit 5";
    let kubectl = format!(
        "stty rows 33 cols 99; kubectl exec -it -n {namespace} quiet -c main -- sh -c '{script}'"
    );
    let mut script = Command::new("script")
        .args(["-qec", &kubectl, "/dev/null"])
        .env("KUBECONFIG", lab.kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let open = script.stdin.take();
    let ran = script.wait_with_output().unwrap();
    drop(open);
    let said = String::from_utf8_lossy(&ran.stdout).replace('\r', "");
    assert!(said.contains("/dev/pts/0\n33 99\nxterm\n"), "{said}");
    assert_eq!(ran.status.code(), Some(5), "{said}");
}

#[test]
fn logs_are_read_as_asked() {
    let (namespace, lab) = ("logs", &*LAB);
    lab.namespace(namespace);
    lab.apply(
        namespace,
        "
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'seq 1 10; echo last >&2; exec sleep infinity']
  - {name: other, image: busybox, command: [sh, -c, 'echo other; exec sleep infinity']}
---
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, command: [sh, -c, 'echo run; exit 7']}
---
apiVersion: v1
kind: Pod
metadata: {name: pending}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: no.such/image}]
",
    );
    lab.pods_ready(namespace, "app=two");
    let logs = |more: &[&str]| lab.kubectl(&[&["logs", "-n", namespace][..], more].concat());
    let main = |more: &[&str]| logs(&[&["two", "-c", "main"][..], more].concat());
    eventually("everything was said", || {
        expect(main(&[]).result()?, |said| said.lines().count() == 11)
    });
    // The two outputs are two pipes: their order is not given.
    assert_eq!(
        main(&[]).ok().replace("last\n", ""),
        "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n"
    );
    assert_eq!(main(&["--tail=2"]).ok().lines().count(), 2);
    assert_eq!(main(&["--tail=0"]).ok(), "");
    assert_eq!(main(&["--limit-bytes=3"]).ok().len(), 3);
    assert_eq!(main(&["--since=1h"]).ok().lines().count(), 11);
    assert_eq!(main(&["--since-time=2100-01-01T00:00:00Z"]).ok(), "");
    for line in main(&["--timestamps"]).ok().lines() {
        let (stamp, rest) = line.split_once(' ').unwrap();
        assert!(
            stamp.len() == 30 && stamp.ends_with('Z') && !rest.is_empty(),
            "{line}"
        );
    }
    eventually("both containers were heard", || {
        let all = logs(&["two", "--all-containers", "--prefix"]).result()?;
        expect(all, |all| {
            all.contains("[pod/two/other] other\n") && all.contains("[pod/two/main] 10\n")
        })
    });
    assert_eq!(logs(&["-l", "app=two", "-c", "other"]).ok(), "other\n");
    let refused = main(&["--previous"]).refused();
    assert_eq!(
        refused,
        "Error from server (BadRequest): previous terminated container \"main\" in pod \"two\" not found\n"
    );

    eventually("a second run of what crashes", || {
        let restarts = lab.field(
            &["-n", namespace, "pod", "crash"],
            "{.status.containerStatuses[0].restartCount}",
        )?;
        expect(restarts, |restarts| {
            restarts.parse::<u32>().is_ok_and(|count| count > 0)
        })
    });
    eventually("the second run has said as much as the first", || {
        expect(logs(&["crash"]).result()?, |said| said == "run\n")
    });
    assert_eq!(logs(&["crash", "--previous"]).ok(), "run\n");
    let waiting = eventually("the image's absence is known", || {
        expect(logs(&["pending"]).refused(), |said| said.contains("image"))
    });
    assert!(
        waiting.starts_with("Error from server (BadRequest): container \"main\" in pod \"pending\" is waiting to start: "),
        "{waiting}"
    );
}

#[test]
fn a_log_is_followed_over_many_files() {
    let (namespace, lab) = ("logs-follow", &*LAB);
    lab.namespace(namespace);
    // Some 40 bytes a line on disk: more than two files of 10 MiB.
    lab.apply(
        namespace,
        "
apiVersion: v1
kind: Pod
metadata: {name: loud}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - {name: main, image: busybox, command: [sh, -c, 'while [ ! -e /tmp/go ]; do sleep 0.1; done; seq 1 600000']}
",
    );
    lab.pods_ready(namespace, "");
    let follow = lab.kubectl_start(&["logs", "-f", "-n", namespace, "loud"]);
    lab.kubectl(&["exec", "-n", namespace, "loud", "--", "touch", "/tmp/go"])
        .ok();
    for number in 1..=600_000_u32 {
        let line = follow.line("any", |_| true);
        assert_eq!(line, number.to_string());
    }
    assert_eq!(follow.finish(), Vec::<String>::new());
}

/// kubectl port-forward, and the local port it took.
fn forward(lab: &Lab, namespace: &str, what: &str, port: u16) -> (Running, u16) {
    let ports = format!(":{port}");
    let forward = lab.kubectl_start(&[
        "port-forward",
        "-n",
        namespace,
        "--address=127.0.0.1",
        what,
        &ports,
    ]);
    let said = forward.line("where it listens", |line| {
        line.starts_with("Forwarding from 127.0.0.1:")
    });
    let local = said
        .trim_start_matches("Forwarding from 127.0.0.1:")
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    (forward, local)
}

/// An HTTP request's answer, whole.
fn get(port: u16, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    answer.split_off(head + 4)
}

#[test]
fn ports_are_forwarded_for_several_at_once() {
    let (namespace, lab) = ("forward", pods("forward"));
    let noise = noise(5 << 20);
    let made = lab.kubectl_fed(
        &[
            "exec",
            "-i",
            "-n",
            namespace,
            "files",
            "--",
            "sh",
            "-c",
            "cat > /tmp/noise",
        ],
        noise.clone(),
    );
    assert!(made.status.success());
    for what in ["pod/files", "service/files"] {
        let port = if what.starts_with("pod") { 8080 } else { 80 };
        let (_forward, local) = forward(lab, namespace, what, port);
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| get(local, "/tmp/noise")))
                .collect();
            for asked in asked {
                assert!(asked.join().unwrap() == noise);
            }
        });
    }
    // Nobody listens there: kubectl says so and ends, as on any cluster.
    let (refused, local) = forward(lab, namespace, "pod/quiet", 81);
    let mut stream = TcpStream::connect(("127.0.0.1", local)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut nothing = Vec::new();
    let _reset_or_closed = stream.read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    drop(refused);
}

#[test]
fn what_is_uploaded_through_a_port_arrives() {
    let (namespace, lab) = ("forward-up", pods("forward-up"));
    let echo = "import socket\ns=socket.create_server(('127.0.0.1',7))\nprint('up',flush=True)\nc,_=s.accept()\nwhile d:=c.recv(65536): c.sendall(d)\nc.close()";
    let server = lab.kubectl_start(&[
        "exec", "-n", namespace, "quiet", "-c", "main", "--", "python3", "-c", echo,
    ]);
    server.line("up", |line| line == "up");
    let (_forward, local) = forward(lab, namespace, "pod/quiet", 7);
    let noise = noise(8 << 20);
    let mut stream = TcpStream::connect(("127.0.0.1", local)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&noise).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == noise, "{} bytes came back", back.len());
    });
}

#[test]
fn files_are_copied_both_ways() {
    let (namespace, lab) = ("cp", pods("cp"));
    let folder = tempfile::tempdir().unwrap();
    let (here, back) = (folder.path().join("here"), folder.path().join("back"));
    let noise = noise(3 << 20);
    std::fs::write(&here, &noise).unwrap();
    let there = format!("{namespace}/quiet:tmp/there");
    lab.kubectl(&["cp", "-c", "main", &here.to_string_lossy(), &there])
        .ok();
    lab.kubectl(&["cp", "-c", "main", &there, &back.to_string_lossy()])
        .ok();
    assert!(std::fs::read(back).unwrap() == noise);
}

#[test]
fn run_attaches_to_what_it_started() {
    let (namespace, lab) = ("run", &*LAB);
    lab.namespace(namespace);
    let run = |name: &str, script: &str, input: Vec<u8>| {
        lab.kubectl_fed(
            &[
                "run",
                name,
                "-n",
                namespace,
                "--rm",
                "-i",
                "-q",
                "--restart=Never",
                "--image=busybox",
                "--",
                "sh",
                "-c",
                script,
            ],
            input,
        )
    };
    // `read` holds it until somebody is attached.
    let ran = run(
        "talks",
        "read word; echo said $word; echo err >&2; exit 4",
        b"hello\n".to_vec(),
    );
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "said hello\n");
    assert!(String::from_utf8_lossy(&ran.stderr).contains("err\n"));
    assert_eq!(ran.status.code(), Some(4));
    let noise = noise(4 << 20);
    let ran = run(
        "counts",
        "read word; wc -c",
        [b"begin\n".to_vec(), noise.clone()].concat(),
    );
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout).trim(),
        noise.len().to_string()
    );
}

#[test]
fn everybody_attached_hears_the_container() {
    let (namespace, lab) = ("attach", &*LAB);
    lab.namespace(namespace);
    lab.apply(
        namespace,
        "
apiVersion: v1
kind: Pod
metadata: {name: ticks}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, command: [sh, -c, 'while true; do echo tick; sleep 0.1; done']}
",
    );
    lab.pods_ready(namespace, "");
    let attach = || lab.kubectl_start(&["attach", "-n", namespace, "ticks"]);
    let (first, second) = (attach(), attach());
    first.line("a tick", |line| line == "tick");
    second.line("a tick", |line| line == "tick");
    drop(first);
    // One that leaves takes nothing from the others, nor from the log.
    second.so_far();
    second.line("a tick", |line| line == "tick");
    lab.kubectl(&["delete", "pod", "-n", namespace, "ticks", "--now"])
        .ok();
    second.finish();
}

#[test]
fn proxies_lead_to_pods_services_and_nodes() {
    let (namespace, lab) = ("proxy", pods("proxy"));
    let raw = |path: &str| {
        let path = format!("/api/v1/namespaces/{namespace}/{path}");
        lab.kubectl(&["get", "--raw", &path])
    };
    for path in [
        "pods/files/proxy/etc/hostname",
        "pods/files:8080/proxy/etc/hostname",
        "pods/http:files:8080/proxy/etc/hostname",
        "services/files/proxy/etc/hostname",
        "services/files:80/proxy/etc/hostname",
        "services/http:files:http/proxy/etc/hostname?a=b",
    ] {
        assert_eq!(raw(path).ok(), "files\n", "{path}");
    }
    let refused = raw("services/nothing/proxy/").refused();
    assert_eq!(
        refused,
        "Error from server (NotFound): services \"nothing\" not found\n"
    );
    let refused = raw("pods/files:81/proxy/").refused();
    assert!(
        refused
            .starts_with("Error from server (ServiceUnavailable): error trying to reach service: "),
        "{refused}"
    );
    assert!(refused.contains("connection refused"), "{refused}");
    assert_eq!(
        lab.kubectl(&["get", "--raw", "/api/v1/nodes/node-1/proxy/healthz"])
            .ok(),
        "ok"
    );
}
