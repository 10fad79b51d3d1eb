//! Where a container runtime runs: the node's network, processes and mounts of its own, an empty
//! `/run` and `/var/lib`. All of it goes with the test.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_netlab::Namespace;
use weft_sys::namespace;

use crate::node::{Node, plugin};

/// What starts and ends in seconds, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// Debian's plugin for a pod's loopback device, which containerd calls besides.
const LOOPBACK: &str = "/usr/lib/cni/loopback";
const BUSYBOX: &str = "/bin/busybox";

/// The first process of an enclosure: waits until its input ends, which it does when the test
/// dies of whatever, and reaps what others left meanwhile.
const FIRST: &str = "
for place in /run /var/lib; do mount -t tmpfs -o mode=755 tmpfs $place; done
mkdir -p /run/netns /run/lock
echo ready
exec 3<&0
cat <&3 &
wait $!
";

/// Processes with a process, mount and network namespace of their own.
pub(crate) struct Enclosure {
    holder: Child,
    first: u32,
    _input: ChildStdin,
}

impl Enclosure {
    /// On a node.
    pub(crate) fn on(node: &Node) -> Self {
        let mut command = node.namespace.command("unshare").unwrap();
        command
            .args(["--mount", "--pid", "--fork", "--mount-proc"])
            .args(["sh", "-c", FIRST])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        let output = holder.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let first = children(holder.id())[0];
        Self {
            _input: holder.stdin.take().unwrap(),
            holder,
            first,
        }
    }

    /// A command that runs inside.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.first.to_string()])
            .args(["--mount", "--pid", "--net", "--"])
            .arg(program);
        command
    }

    /// Runs a command inside to its end and gives its standard output; whatever it did not like
    /// fails the test.
    #[track_caller]
    pub(crate) fn output(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A network namespace by its path inside.
    pub(crate) fn namespace(&self, path: &str) -> Namespace {
        // A symbolic link would be followed out of here.
        let path = path.strip_prefix("/var").unwrap_or(path);
        let path = format!("/proc/{}/root{path}", self.first);
        Namespace::from_descriptor("pod", namespace::open(path).unwrap())
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        // What a killed first process leaves of its namespace, the kernel kills.
        let first = rustix::process::Pid::from_raw(self.first.try_into().unwrap()).unwrap();
        rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
        self.holder.wait().unwrap();
    }
}

/// The processes that a process started.
pub(crate) fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = fs::read_to_string(path).unwrap();
    text.split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

/// Waits for something that is `None` until it is there.
#[track_caller]
pub(crate) fn wait<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(there) = attempt() {
            return there;
        }
        assert!(Instant::now() < deadline, "waiting for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether programs are here; says what is left out where they are not.
pub(crate) fn has(programs: &[&str]) -> bool {
    let all = programs.iter().chain(&[LOOPBACK, BUSYBOX, "nsenter"]);
    let missing: Vec<&&str> = all
        .filter(|program| {
            let found = Command::new("sh")
                .args(["-c", "command -v \"$0\"", program])
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .stdout(Stdio::null())
                .status();
            !found.is_ok_and(|status| status.success())
        })
        .collect();
    if !missing.is_empty() {
        use std::io::Write;
        let told = format!(
            "NOT TESTED with {}: there is no {missing:?} (scripts/prerequisites test installs them)\n",
            programs[0]
        );
        std::io::stderr().write_all(told.as_bytes()).unwrap();
    }
    missing.is_empty()
}

/// A folder with the plugins that a runtime calls.
pub(crate) fn plugins(node: &Node) -> PathBuf {
    let folder = node.root.path().join("bin");
    fs::create_dir_all(&folder).unwrap();
    for (name, target) in [("weft", plugin()), ("loopback", LOOPBACK.into())] {
        std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
    }
    folder
}

/// A folder with the configuration that `weft cni install` writes, but for the folders of the
/// node's state. `further`: what it is asked for besides.
pub(crate) fn configurations(node: &Node, ranges: &[&str], further: &[&str]) -> PathBuf {
    let folder = node.root.path().join("net.d");
    let mut command = node.namespace.command(env!("CARGO_BIN_EXE_weft")).unwrap();
    command.args(["cni", "install", "--mtu", "1450", "--conf-dir"]);
    command.arg(&folder).arg("--bin-dir");
    command.arg(node.root.path().join("installed"));
    command.args(["--node-address", "172.30.0.11", "--node-address"]);
    command.arg("fd00:172:30::11");
    for range in ranges {
        command.args(["--range", range]);
    }
    let output = command.args(further).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let file = folder.join("10-weft.conflist");
    let mut list: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let plugin = &mut list["plugins"][0];
    let own = node.config();
    plugin["stateDir"] = own["stateDir"].clone();
    plugin["ipam"]["dataDir"] = own["ipam"]["dataDir"].clone();
    fs::write(&file, list.to_string()).unwrap();
    folder
}

/// Takes back what that wrote, and what the pods left in the kernel.
#[track_caller]
pub(crate) fn uninstall(node: &Node) {
    let mut command = node.namespace.command(env!("CARGO_BIN_EXE_weft")).unwrap();
    command.args(["cni", "uninstall"]);
    for (option, folder) in [
        ("--conf-dir", "net.d"),
        ("--bin-dir", "installed"),
        ("--state-dir", "state"),
    ] {
        command.arg(option).arg(node.root.path().join(folder));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let rules = node.namespace.output("nft", ["list", "ruleset"]).unwrap();
    assert_eq!(rules, "");
}

/// A root file system that has busybox, and nothing else.
pub(crate) fn root(folder: &Path) -> PathBuf {
    let root = folder.join("rootfs");
    for name in ["bin", "proc", "sys", "dev", "etc", "run", "tmp", "var"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    root
}
