//! Labs from outside: started, entered, killed, through the binary alone.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what a test's helpers cannot do fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn weft() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.env_remove("WEFT_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    weft().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name that no other test, in this or another process, uses.
fn fresh_name(purpose: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("t-{purpose}-{}-{number}", std::process::id())
}

/// A lab in the foreground of this test. Dropped, it is ended as a person would.
struct Lab {
    name: String,
    front: Child,
}

impl Lab {
    fn up(purpose: &str, flags: &[&str]) -> Self {
        Self::up_by(weft(), purpose, flags)
    }

    fn up_by(mut command: Command, purpose: &str, flags: &[&str]) -> Self {
        let name = fresh_name(purpose);
        let mut front = command
            .args(["lab", "up", "--name", &name])
            .args(flags)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let lines = BufReader::new(front.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            if line.ends_with("s  ready") {
                return Lab { name, front };
            }
            said.push_str(&line);
            said.push('\n');
        }
        let status = front.wait().unwrap();
        panic!("lab {name} did not come up ({status}):\n{said}");
    }

    fn exec(&self, target: &str, command: &[&str]) -> Output {
        weft()
            .args(["lab", "exec", "--name", &self.name, target, "--"])
            .args(command)
            .output()
            .unwrap()
    }

    fn pid(&self) -> u32 {
        self.front.id()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Already ended, where the test ended it.
        let _down = weft().args(["lab", "down", "--name", &self.name]).output();
        let _killed = self.front.kill();
        let _reaped = self.front.wait();
    }
}

/// Waits until something holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every process below one, by id, each with the time of its start, which tells it from a later
/// process of the same id.
fn descendants(of: u32) -> BTreeMap<u32, u64> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            && let Some((parent, started)) = process(pid)
        {
            parents.insert(pid, (parent, started));
        }
    }
    let mut found = BTreeMap::new();
    let mut below = BTreeSet::from([of]);
    loop {
        let more: Vec<_> = parents
            .iter()
            .filter(|(pid, (parent, _))| below.contains(parent) && !below.contains(pid))
            .map(|(pid, (_, started))| (*pid, *started))
            .collect();
        if more.is_empty() {
            return found;
        }
        for (pid, started) in more {
            below.insert(pid);
            found.insert(pid, started);
        }
    }
}

/// Parent and start time of a process (proc(5), stat, fields 4 and 22).
fn process(pid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest: Vec<_> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    Some((rest.get(1)?.parse().ok()?, rest.get(19)?.parse().ok()?))
}

fn namespaces_of(processes: &BTreeMap<u32, u64>) -> BTreeSet<PathBuf> {
    processes
        .keys()
        .flat_map(|pid| ["net", "pid", "mnt"].map(|kind| format!("/proc/{pid}/ns/{kind}")))
        .filter_map(|path| fs::read_link(path).ok())
        .collect()
}

/// What a lab may not change on the machine.
fn machine() -> (String, BTreeSet<String>, String) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let links = fs::read_to_string("/proc/net/dev").unwrap();
    let links = links
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    (mounts, links, forward)
}

/// Asserts that the processes end, and that nothing else of their time is in the namespaces.
/// (The kernel gives the number of a namespace that is gone to a new one, of another lab perhaps.)
fn assert_gone(processes: &BTreeMap<u32, u64>, namespaces: &BTreeSet<PathBuf>) {
    let begin = processes.values().max().copied().unwrap();
    eventually("all processes of the lab are gone", || {
        processes
            .iter()
            .all(|(pid, started)| process(*pid).is_none_or(|(_, other)| other != *started))
    });
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let older = pid
            .and_then(process)
            .is_some_and(|(_, started)| started <= begin);
        for kind in ["net", "pid", "mnt"] {
            if older && let Ok(namespace) = fs::read_link(entry.path().join("ns").join(kind)) {
                assert!(
                    !namespaces.contains(&namespace),
                    "{} is still in {}",
                    entry.path().display(),
                    namespace.display()
                );
            }
        }
    }
}

#[test]
fn what_cannot_work_is_refused_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let name = fresh_name("refused");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--nodes", "0"], 2, "--nodes 0: a lab has 1 to 100 nodes"),
        (
            &["--nodes", "many"],
            2,
            "invalid value 'many' for '--nodes <N>'",
        ),
        (
            &["--pod-cidr", "10.0.0.0"],
            2,
            "invalid value '10.0.0.0' for '--pod-cidr <CIDR>'",
        ),
        (
            &["--pod-cidr", "10.100.0.0/16"],
            2,
            "--pod-cidr 10.100.0.0/16 overlaps --service-cidr 10.96.0.0/12",
        ),
        (
            &["--node-cidr", "172.30.0.0/30"],
            2,
            "--node-cidr 172.30.0.0/30 is too small",
        ),
        (&["--pod-cidr", "fd00::/56"], 2, "--ip-family is ipv4"),
        (
            &["--node-name", "a,a"],
            2,
            "--node-name \"a\" is there twice",
        ),
        (&["--name", "Not_A_Name"], 2, "--name \"Not_A_Name\""),
        (
            &["--ip-family", "ipx"],
            2,
            "invalid value 'ipx' for '--ip-family <FAMILY>'",
        ),
        (
            &["--api-port", &port],
            4,
            &format!("port {port} of 127.0.0.1 is in use"),
        ),
        (
            &["--api-port", &port, "--detach"],
            4,
            &format!("port {port} of 127.0.0.1 is in use"),
        ),
    ];
    for (flags, code, complaint) in cases {
        let mut command = weft();
        command.args(["lab", "up"]);
        if !flags.contains(&"--name") {
            command.args(["--name", &name]);
        }
        let output = command.args(*flags).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{flags:?}: {said}");
        assert!(said.contains(complaint), "{flags:?}: {said}");
    }
    let list = text(&run(&["lab", "list", "-o", "json"]).stdout);
    assert!(!list.contains(&name), "{list}");
}

#[test]
fn a_lab_that_does_not_exist_is_named() {
    let name = fresh_name("none");
    for arguments in [
        vec!["lab", "status", "--name", &name],
        vec!["lab", "down", "--name", &name],
        vec!["lab", "kubeconfig", "--name", &name],
        vec!["lab", "exec", "--name", &name, "node-1", "--", "true"],
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(5), "{arguments:?}");
        assert!(text(&output.stderr).contains(&name), "{arguments:?}");
    }
}

#[test]
fn a_killed_front_leaves_nothing() {
    let before = machine();
    let mut lab = Lab::up("kill", &[]);
    let processes = descendants(lab.pid());
    let namespaces: BTreeSet<_> = namespaces_of(&processes)
        .difference(&namespaces_of(&BTreeMap::from([(std::process::id(), 0)])))
        .cloned()
        .collect();
    assert!(processes.len() > 8, "{processes:?}");
    assert_eq!(machine(), before, "the running lab is seen on the machine");

    lab.front.kill().unwrap();
    lab.front.wait().unwrap();
    assert_gone(&processes, &namespaces);
    assert_eq!(machine(), before);
    let list = text(&run(&["lab", "list", "-o", "json"]).stdout);
    assert!(!list.contains(&lab.name), "{list}");
}

#[test]
fn two_labs_with_the_same_ranges_do_not_meet() {
    let first = Lab::up("first", &["--nodes", "1", "--node-name", "alpha"]);
    let second = Lab::up("second", &["--nodes", "1", "--node-name", "beta"]);

    // The name of a running lab is taken, and the attempt harms nothing.
    let again = run(&["lab", "up", "--name", &first.name]);
    assert_eq!(again.status.code(), Some(4));
    assert!(
        text(&again.stderr).contains("is already up"),
        "{}",
        text(&again.stderr)
    );

    let list: serde_json::Value =
        serde_json::from_slice(&run(&["lab", "list", "-o", "json"]).stdout).unwrap();
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|lab| lab["name"].as_str())
        .collect();
    assert!(names.contains(&first.name.as_str()) && names.contains(&second.name.as_str()));

    for (lab, node) in [(&first, "alpha"), (&second, "beta")] {
        let output = run(&["lab", "status", "--name", &lab.name, "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["ready"], true);
        assert_eq!(status["cluster"]["nodes"].as_array().unwrap().len(), 1);
        assert_eq!(status["cluster"]["nodes"][0]["name"], node);
        assert_eq!(status["cluster"]["nodes"][0]["addresses"][0], "172.30.0.11");
        assert_eq!(text(&lab.exec(node, &["hostname"]).stdout).trim(), node);
    }

    // One ends, the other stays.
    let down = run(&["lab", "down", "--name", &first.name]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert!(second.exec("beta", &["true"]).status.success());
}

#[test]
fn commands_run_inside_with_streams_and_codes() {
    let lab = Lab::up("exec", &["--nodes", "1"]);
    let output = lab.exec("node-1", &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("out\n".into(), "err\n".into())
    );

    let mut cat = weft()
        .args(["lab", "exec", "--name", &lab.name, "outside", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cat.stdin.take().unwrap().write_all(b"through\n").unwrap();
    assert_eq!(text(&cat.wait_with_output().unwrap().stdout), "through\n");

    assert_eq!(
        lab.exec("node-1", &["no-such-program"]).status.code(),
        Some(127)
    );
    let unknown = lab.exec("node-9", &["true"]);
    assert_eq!(unknown.status.code(), Some(5));
    assert!(
        text(&unknown.stderr).contains("nodes: node-1, outside"),
        "{}",
        text(&unknown.stderr)
    );

    // The node's own file system: changes stay in it.
    let path = format!("/etc/{}", lab.name);
    assert!(lab.exec("node-1", &["touch", &path]).status.success());
    assert!(!Path::new(&path).exists());
    assert_eq!(
        text(&lab.exec("node-1", &["cat", "/proc/1/comm"]).stdout),
        "weft\n"
    );

    // outside is on the node network, and every node's way out.
    let route = text(
        &lab.exec("node-1", &["ip", "route", "show", "default"])
            .stdout,
    );
    assert!(
        route.starts_with("default via 172.30.0.2 dev eth0"),
        "{route}"
    );
    let addresses = text(
        &lab.exec("outside", &["ip", "-br", "address", "show", "eth0"])
            .stdout,
    );
    assert!(addresses.contains("172.30.0.2/24"), "{addresses}");
}

#[test]
fn a_pod_is_entered_by_its_name() {
    let lab = Lab::up("pod", &["--nodes", "1"]);
    let kubeconfig = text(&run(&["lab", "kubeconfig", "--name", &lab.name]).stdout);
    let manifest = "\
apiVersion: v1
kind: Pod
metadata: {name: inner}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    command: [sleep, '600']
    env: [{name: GREETING, value: hello}]
";
    let mut apply = weft()
        .args(["lab", "apply", "--name", &lab.name, "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    apply
        .stdin
        .take()
        .unwrap()
        .write_all(manifest.as_bytes())
        .unwrap();
    let applied = apply.wait_with_output().unwrap();
    assert_eq!(text(&applied.stdout), "pod/inner applied\n");
    eventually("the pod answers", || {
        lab.exec("inner", &["true"]).status.success()
    });

    let output = lab.exec(
        "inner",
        &["sh", "-c", "echo $GREETING from $(hostname); exit 3"],
    );
    assert_eq!(text(&output.stdout), "hello from inner\n");
    assert_eq!(output.status.code(), Some(3));
    assert!(Path::new(kubeconfig.trim()).exists());
}

#[test]
fn a_detached_lab_stays_until_taken_down() {
    let name = fresh_name("detached");
    let up = run(&["lab", "up", "--name", &name, "--nodes", "1", "--detach"]);
    assert!(up.status.success(), "{}", text(&up.stderr));
    assert!(text(&up.stdout).contains("ready"), "{}", text(&up.stdout));
    let list: serde_json::Value =
        serde_json::from_slice(&run(&["lab", "list", "-o", "json"]).stdout).unwrap();
    let entry = list
        .as_array()
        .unwrap()
        .iter()
        .find(|lab| lab["name"] == *name)
        .unwrap();
    assert_eq!(entry["ready"], true);
    let front = u32::try_from(entry["pid"].as_u64().unwrap()).unwrap();
    let processes = descendants(front);
    let namespaces = namespaces_of(&processes)
        .difference(&namespaces_of(&BTreeMap::from([(std::process::id(), 0)])))
        .cloned()
        .collect();

    let down = run(&["lab", "down", "--name", &name]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert_gone(&processes, &namespaces);
    assert_eq!(
        run(&["lab", "status", "--name", &name]).status.code(),
        Some(5)
    );
}

/// Whether there are other users to become: for root of the machine, and not for root of a
/// user namespace that holds one identity (user_namespaces(7)).
fn can_become_others() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    rustix::process::geteuid().is_root() && map.split_whitespace().nth(2) != Some("1")
}

#[test]
fn an_ordinary_user_has_a_lab_too() {
    if !can_become_others() {
        // Then every other test of this file is this test.
        return;
    }
    // A place that the user can read, as the build folder may not be.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = folder.path().join("weft");
    fs::copy(env!("CARGO_BIN_EXE_weft"), &binary).unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    let as_nobody = || {
        let mut command = Command::new("runuser");
        command
            .args(["-u", "nobody", "--", "env"])
            .arg(format!("XDG_RUNTIME_DIR={}", state.display()))
            .arg(&binary);
        command
    };
    let kept = state.join("kept");
    let keep = ["--keep", kept.to_str().unwrap()];
    let lab = Lab::up_by(
        as_nobody(),
        "user",
        &[&["--nodes", "1"][..], &keep].concat(),
    );
    let inside = as_nobody()
        .args(["lab", "exec", "--name", &lab.name, "node-1", "--"])
        .args([
            "sh",
            "-c",
            "id -u; nft add table inet mine && nft list tables",
        ])
        .output()
        .unwrap();
    let said = text(&inside.stdout);
    assert!(
        said.starts_with("0\n") && said.contains("table inet mine"),
        "{said}"
    );
    let down = as_nobody()
        .args(["lab", "down", "--name", &lab.name])
        .output()
        .unwrap();
    assert!(down.status.success(), "{}", text(&down.stderr));
    let again = as_nobody()
        .args(["lab", "up", "--detach"])
        .args(keep)
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", text(&again.stderr));
    let said = text(&again.stdout);
    assert!(said.contains("as it was, from"), "{said}");
    let down = as_nobody()
        .args(["lab", "down", "--name", &lab.name])
        .output()
        .unwrap();
    assert!(down.status.success(), "{}", text(&down.stderr));
}

#[test]
fn a_machine_that_forbids_namespaces_is_told_what_to_change() {
    // A user namespace has limits of its own, so nothing of the machine is touched.
    let state = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 0 > /proc/sys/user/max_net_namespaces && exec \"$0\" lab up --name \"$1\"")
        .arg(env!("CARGO_BIN_EXE_weft"))
        .arg(fresh_name("forbidden"))
        .env("XDG_RUNTIME_DIR", state.path())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("making namespaces is not permitted")
            && said.contains("sudo sysctl -w user.max_net_namespaces=10000"),
        "{said}"
    );
}
