//! A lab as its user has it: the binary, kubectl, and nothing else.

pub(crate) mod probe;
mod processes;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// After this many seconds a command is ended; it is a failure of its own.
const COMMAND_SECONDS: &str = "120";
/// The same for what runs while other things are done: as long as several waits may last.
const RUNNING_SECONDS: &str = "900";
/// How long a lab may take to come up: one of twenty nodes, on a machine that is slow and busy.
const UP_SECONDS: &str = "600";

/// A lab of its own. It ends when this is dropped, and with the test process in any case.
pub(crate) struct Lab {
    name: String,
    kubeconfig: PathBuf,
    front: u32,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    what: String,
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(what: String, output: Output) -> Self {
        Ran {
            what,
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its output; the test fails if the command did.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.out
    }

    /// What it complained; the test fails if the command succeeded.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert!(self.code.is_some_and(|code| code != 0), "{self}");
        self.err
    }

    /// Its output, or the whole story of its failure.
    pub(crate) fn result(self) -> Result<String, String> {
        if self.code == Some(0) {
            Ok(self.out)
        } else {
            Err(self.to_string())
        }
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self
            .code
            .map_or("a signal".to_owned(), |code| code.to_string());
        write!(
            f,
            "{} ended with {code}\n{}{}",
            self.what, self.out, self.err
        )
    }
}

/// Tries until something is as it has to be, and returns it.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(found) => return found,
            Err(last) if Instant::now() >= deadline => {
                panic!("not within {PATIENCE:?}: {what}; at last: {last}")
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// For [`eventually`]: an error that tells what was found instead.
pub(crate) fn expect<T: std::fmt::Debug>(
    found: T,
    holds: impl FnOnce(&T) -> bool,
) -> Result<T, String> {
    if holds(&found) {
        Ok(found)
    } else {
        Err(format!("{found:?}"))
    }
}

/// A command that cannot last for ever.
fn limited(seconds: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", seconds]).arg(program);
    command
}

fn weft(seconds: &str) -> Command {
    let mut command = limited(seconds, env!("CARGO_BIN_EXE_weft"));
    command.env_remove("WEFT_LOG");
    command
}

fn run(mut command: Command, stdin: &str) -> Ran {
    let what = format!("{:?}", command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that ended without reading all of it says why with its exit code.
    let _unread = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    Ran::of(what, child.wait_with_output().unwrap())
}

/// The file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

impl Lab {
    /// Starts a lab and waits until it is ready.
    ///
    /// The front stays a child of a thread that lives as long as it, and is told of that
    /// thread's death by the kernel: a killed test process leaves nothing either.
    #[track_caller]
    pub(crate) fn up(purpose: &str, flags: &[&str]) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{purpose}-{}-{number}", std::process::id());
        Self::up_as(name, flags)
    }

    /// The same for a lab of this name.
    #[track_caller]
    pub(crate) fn up_as(name: String, flags: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", env!("CARGO_BIN_EXE_weft")])
            .args(["lab", "up", "--name", &name, "--timeout", UP_SECONDS])
            .args(flags)
            .env_remove("WEFT_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let (told, came_up) = mpsc::channel();
        thread::spawn(move || keep(command, &told));
        let front = match came_up.recv().unwrap() {
            Ok(front) => front,
            Err(said) => panic!("the lab {name} did not come up:\n{said}"),
        };
        let mut lab = Lab {
            name,
            kubeconfig: PathBuf::new(),
            front,
        };
        lab.kubeconfig = lab.weft(&["kubeconfig"], &[]).ok().trim().into();
        lab
    }

    /// What `weft lab up` says that must not come up.
    #[track_caller]
    pub(crate) fn refused(flags: &[&str]) -> String {
        let mut command = weft(COMMAND_SECONDS);
        command.args(["lab", "up"]).args(flags);
        run(command, "").refused()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Kills the front: the lab ends without being taken down.
    #[track_caller]
    pub(crate) fn kill(self) {
        let killed = Command::new("kill")
            .args(["-9", &self.front.to_string()])
            .status();
        assert!(killed.unwrap().success());
        std::mem::forget(self);
    }

    /// The front's process id on this machine.
    pub(crate) fn front(&self) -> u32 {
        self.front
    }

    /// `weft lab VERB --name … ARGUMENTS`.
    pub(crate) fn weft(&self, verb: &[&str], arguments: &[&str]) -> Ran {
        let mut command = weft(COMMAND_SECONDS);
        command
            .arg("lab")
            .args(verb)
            .args(["--name", &self.name])
            .args(arguments);
        run(command, "")
    }

    /// What `weft lab list` says of it.
    pub(crate) fn listed(&self) -> Result<Value, String> {
        let mut command = weft(COMMAND_SECONDS);
        command.args(["lab", "list", "-o", "json"]);
        let said = run(command, "").result()?;
        let labs: Vec<Value> = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        let own = labs.into_iter().find(|lab| lab["name"] == self.name);
        own.ok_or_else(|| format!("{} is not among {said}", self.name))
    }

    /// Starts the same and leaves it running.
    pub(crate) fn weft_start(&self, verb: &[&str], arguments: &[&str]) -> Running {
        let mut command = weft(RUNNING_SECONDS);
        command
            .arg("lab")
            .args(verb)
            .args(["--name", &self.name])
            .args(arguments);
        Running::start(command)
    }

    /// The same, while something else is done.
    pub(crate) fn meanwhile(&self, verb: &[&str], arguments: &[&str], deed: impl FnOnce()) -> Ran {
        thread::scope(|scope| {
            let running = scope.spawn(|| self.weft(verb, arguments));
            deed();
            running.join().unwrap()
        })
    }

    fn exec_command(&self, seconds: &str, target: &str) -> Command {
        let mut command = weft(seconds);
        command.args(["lab", "exec", "--name", &self.name]);
        match target.split_once('/') {
            Some((namespace, pod)) => command.args(["--namespace", namespace, pod, "--"]),
            None => command.args([target, "--"]),
        };
        command
    }

    /// Runs a command in a node, in `outside`, or in a pod, `NAMESPACE/NAME`.
    pub(crate) fn exec(&self, target: &str, command: &[&str]) -> Ran {
        let mut exec = self.exec_command(COMMAND_SECONDS, target);
        exec.args(command);
        run(exec, "")
    }

    /// Runs a shell script there.
    pub(crate) fn sh(&self, target: &str, script: &str) -> Ran {
        self.exec(target, &["sh", "-c", script])
    }

    /// Starts a command there and leaves it running.
    pub(crate) fn start(&self, target: &str, command: &[&str]) -> Running {
        let mut exec = self.exec_command(RUNNING_SECONDS, target);
        exec.args(command);
        Running::start(exec)
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        self.kubectl_command_of(Path::new("kubectl"), COMMAND_SECONDS, arguments)
    }

    fn kubectl_command_of(&self, program: &Path, seconds: &str, arguments: &[&str]) -> Command {
        const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/kubectl");
        let mut command = limited(seconds, program);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            // Not in the home of whoever runs the tests; before 1.21 no variable says where.
            .env("KUBECACHEDIR", CACHE)
            .env("HOME", CACHE);
        command
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Ran {
        run(self.kubectl_command(arguments), "")
    }

    /// kubectl with this input, whatever bytes it and the output are.
    pub(crate) fn kubectl_fed(&self, arguments: &[&str], input: Vec<u8>) -> Output {
        let mut child = self
            .kubectl_command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Beside the reading: more than a pipe holds may go through.
        let feeder = thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _unread = feeder.join().unwrap();
        output
    }

    /// This kubectl, with variables in its environment.
    pub(crate) fn kubectl_of(
        &self,
        program: &Path,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> Ran {
        let mut command = self.kubectl_command_of(program, COMMAND_SECONDS, arguments);
        command.envs(variables.iter().copied());
        run(command, "")
    }

    /// Starts kubectl and leaves it running.
    pub(crate) fn kubectl_start(&self, arguments: &[&str]) -> Running {
        let kubectl = Path::new("kubectl");
        Running::start(self.kubectl_command_of(kubectl, RUNNING_SECONDS, arguments))
    }

    /// `kubectl apply -f -`.
    pub(crate) fn kubectl_apply(&self, namespace: &str, manifest: &str) -> Ran {
        let command = self.kubectl_command(&["apply", "--namespace", namespace, "-f", "-"]);
        run(command, manifest)
    }

    /// Applies a manifest that has to be good.
    #[track_caller]
    pub(crate) fn apply(&self, namespace: &str, manifest: &str) {
        self.kubectl_apply(namespace, manifest).ok();
    }

    /// `kubectl get … -o json`.
    #[track_caller]
    pub(crate) fn get(&self, arguments: &[&str]) -> Value {
        let said = self
            .kubectl(&[&["get", "-o", "json"], arguments].concat())
            .ok();
        serde_json::from_str(&said).unwrap()
    }

    /// One field of one object.
    pub(crate) fn field(&self, arguments: &[&str], path: &str) -> Result<String, String> {
        let template = format!("jsonpath={path}");
        self.kubectl(&[&["get", "-o", &template], arguments].concat())
            .result()
    }

    /// A namespace for one test.
    #[track_caller]
    pub(crate) fn namespace(&self, name: &str) {
        let namespace = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name},
        });
        self.apply("default", &namespace.to_string());
    }

    /// Waits until all pods of a namespace that match a selector (all, if it is empty) are ready.
    #[track_caller]
    pub(crate) fn pods_ready(&self, namespace: &str, selector: &str) {
        let pods = ["-n", namespace, "pods", "-l", selector];
        eventually(&format!("pods {selector} of {namespace} are ready"), || {
            let list: Value = serde_json::from_str(
                &self
                    .kubectl(&[&["get", "-o", "json"], &pods[..]].concat())
                    .result()?,
            )
            .map_err(|error| error.to_string())?;
            let items = list["items"].as_array().ok_or("no list")?;
            let unready: Vec<_> = items.iter().filter(|pod| !is_ready(pod)).collect();
            if items.is_empty() || !unready.is_empty() {
                let about: Vec<_> = unready
                    .iter()
                    .map(|pod| format!("{}: {}", pod["metadata"]["name"], pod["status"]))
                    .collect();
                return Err(format!("of {} pods: {about:?}", items.len()));
            }
            Ok(())
        });
    }

    /// A pod's addresses, in the order of its status.
    #[track_caller]
    pub(crate) fn pod_ips(&self, namespace: &str, pod: &str) -> Vec<String> {
        strings(
            &self.get(&["-n", namespace, "pod", pod])["status"]["podIPs"],
            "ip",
        )
    }

    /// How Services are translated from now on.
    #[track_caller]
    pub(crate) fn set_mode(&self, mode: &str) {
        self.configure("mode", mode);
    }

    /// Edits one line of the agents' configuration and replaces their pods, as one does with
    /// kube-proxy.
    #[track_caller]
    pub(crate) fn configure(&self, field: &str, value: &str) {
        self.edit_configuration(field, value);
        let agents = ["-l", "k8s-app=weft-agent", "-n", "kube-system"];
        let delete = [&["delete", "pods"][..], &agents].concat();
        self.kubectl(&delete).ok();
    }

    /// Edits one line of the configuration that agents start with.
    #[track_caller]
    pub(crate) fn edit_configuration(&self, field: &str, value: &str) {
        let start = format!("{field}:");
        let map = ["-n", "kube-system", "configmap", "weft"];
        let text = self.field(&map, "{.data.config\\.yaml}").unwrap();
        let edited: Vec<String> = text
            .lines()
            .map(|line| match line.starts_with(&start) {
                true => format!("{field}: {value}"),
                false => line.to_owned(),
            })
            .collect();
        let patch = serde_json::json!({"data": {"config.yaml": edited.join("\n")}}).to_string();
        let patch = ["patch", "--type", "merge", "-p", &patch];
        let patch = [&patch[..], &map].concat();
        self.kubectl(&patch).ok();
    }

    /// A node's addresses on the node network.
    #[track_caller]
    pub(crate) fn node_ips(&self, node: &str) -> Vec<String> {
        let node = self.get(&["node", node]);
        node["status"]["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|address| address["type"] == "InternalIP")
            .map(|address| address["address"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Lab {
    /// Tells what a failed test leaves: a failure that comes once in a hundred runs is
    /// understood from this or not at all.
    fn tell(&self) {
        let mut told = Vec::new();
        for arguments in [
            "get pods,endpointslices --all-namespaces -o wide",
            "get events --all-namespaces",
            "logs --namespace kube-system --selector k8s-app=weft-agent --prefix",
        ] {
            let words: Vec<_> = arguments.split(' ').collect();
            told.push(self.kubectl(&words));
        }
        for node in ["node-1", "node-2"] {
            for family in ["ip", "ip6"] {
                for part in [
                    "chain {} weft unknown",
                    "chain {} weft refuse-reply",
                    "map {} weft endpoints",
                ] {
                    let listed = format!("nft list {}", part.replace("{}", family));
                    told.push(self.sh(node, &listed));
                }
            }
        }
        let told: String = told.iter().map(ToString::to_string).collect();
        // Who can't write to standard error can't be told.
        let _ = std::io::stderr().write_all(told.as_bytes());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell();
        }
        let ended = self.weft(&["down"], &[]);
        if !thread::panicking() {
            ended.ok();
        }
    }
}

/// One field of every object in a list.
pub(crate) fn strings(list: &Value, field: &str) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item[field].as_str().map(str::to_owned))
        .collect()
}

/// Whether a pod's Ready condition holds, and it is not on its way out.
fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Runs the front of a lab to its end, and tells when it is ready, or why it never was.
fn keep(mut command: Command, told: &mpsc::Sender<Result<u32, String>>) {
    let mut front = match command.spawn() {
        Ok(front) => front,
        Err(error) => {
            told.send(Err(error.to_string())).unwrap();
            return;
        }
    };
    let mut said = String::new();
    let lines = BufReader::new(front.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if line.ends_with("s  ready") {
            told.send(Ok(front.id())).unwrap();
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = front.wait().unwrap();
    // Nobody listens any more if it had been ready.
    let _ready_before = told.send(Err(format!("{said}{status}")));
}

/// A command that runs beside the test. Dropped, it is ended.
pub(crate) struct Running {
    child: Child,
    what: String,
    lines: mpsc::Receiver<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let what = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            // Who dropped the receiver does not want the rest.
            output
                .lines()
                .map_while(Result::ok)
                .all(|line| send.send(line).is_ok())
        });
        Running { child, what, lines }
    }

    /// The next line that satisfies a condition.
    #[track_caller]
    pub(crate) fn line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(reason) => panic!(
                    "{}: no line that says {what} ({reason}): {seen:?}",
                    self.what
                ),
            }
        }
    }

    /// Writes to its input.
    pub(crate) fn say(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// The lines that have come so far and were not looked at.
    pub(crate) fn so_far(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Closes its input, waits for its end, and returns the rest of its output.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{} ended with {status}", self.what);
        self.lines.iter().collect()
    }

    /// Waits for an end that comes by itself and within this time; returns the exit code.
    #[track_caller]
    pub(crate) fn ends_within(mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                Instant::now() < deadline,
                "{} has not ended within {limit:?}",
                self.what
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the program itself, and not only what limits its time.
    #[track_caller]
    pub(crate) fn kill_program(&self, program: &str) {
        processes::kill_child(self.child.id(), program);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
