//! Pods of a lab: how fast they come up, how fast a change of readiness reaches the kernels, and
//! what they cost when they do nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::lab::{Lab, wait};
use crate::memory::{self, Memory};
use crate::report::{Report, Samples, Unit};

/// What is started at once, on two nodes.
const CROWD: usize = 100;
/// What stands idle, on two nodes; together with weft's own pods below their limit of 110 each.
const IDLE: usize = 200;
/// Pods that are started one by one.
const SINGLE: usize = 30;
/// Pods whose readiness changes, and how often it does.
const PROBED: usize = 10;
const FLIPS: usize = 12;
/// How long idle pods are watched.
const WATCHED: Duration = Duration::from_secs(30);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where the server of the probes' answers listens, in `outside`.
const PROBE_PORT: u16 = 8099;

/// Answers the path `/N` with 200 or 503, as told on standard input (`N up`, `N down`), and tells
/// of the first answer after each change before it is sent.
const PROBE_SERVER: &str = r#"
import http.server, sys, threading
state, told = {}, {}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        up = state.get(name, False)
        if told.get(name) is not up:
            told[name] = up
            print(name, "up" if up else "down", flush=True)
        self.send_response(200 if up else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("listening", flush=True)
for line in sys.stdin:
    name, what = line.split()
    state[name] = what == "up"
"#;

pub(crate) fn measure(weft: &Path, report: &mut Report) -> anyhow::Result<()> {
    let lab = Lab::up(weft, 2)?;
    let kubectl = Kubectl::new(weft, &lab)?;
    crowd(&kubectl, report)?;
    single(&kubectl, report)?;
    readiness(&lab, &kubectl, report)?;
    idle(&lab, &kubectl, report)
}

/// kubectl against a lab.
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: String,
}

impl Kubectl {
    pub(crate) fn new(weft: &Path, lab: &Lab) -> anyhow::Result<Self> {
        let output = Command::new(weft)
            .args(["lab", "kubeconfig", "--name", lab.name()])
            .output()?;
        // Where the Makefile puts it; else the machine's own.
        let own = Path::new("target/kubectl/kubectl");
        Ok(Kubectl {
            program: if own.exists() {
                own.into()
            } else {
                "kubectl".into()
            },
            kubeconfig: String::from_utf8(output.stdout)?.trim().to_owned(),
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().context("kubectl")?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    pub(crate) fn apply(&self, objects: &[Value]) -> anyhow::Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let mut apply = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut stdin = apply.stdin.take().context("no standard input")?;
        stdin.write_all(list.to_string().as_bytes())?;
        drop(stdin);
        if !apply.wait()?.success() {
            bail!("the manifest was refused");
        }
        Ok(())
    }
}

/// A program whose lines are read as they come, with the time at which they came. Dropped, it ends.
struct Lines {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<(Instant, String)>,
}

impl Lines {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .all(|line| send.send((Instant::now(), line)).is_ok())
        });
        Ok(Lines {
            stdin: child.stdin.take(),
            child,
            lines,
        })
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("no standard input")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// The next line, within the patience.
    fn next(&self, what: &str) -> anyhow::Result<(Instant, String)> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.with_context(|| format!("no line in {PATIENCE:?}: {what}"))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn deployment(name: &str, replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": sleeping()},
        },
    })
}

fn sleeping() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "infinity"]}],
    })
}

/// One figure beside what it has to reach.
fn goal(report: &mut Report, name: &str, unit: Unit, value: f64, limit: f64) {
    report.value(name, unit, value);
    let verdict = if value < limit { "reached" } else { "MISSED" };
    report.note(&format!("  goal: under {}: {verdict}", unit.show(limit)));
}

fn crowd(kubectl: &Kubectl, report: &mut Report) -> anyhow::Result<()> {
    report.section("pods of a lab of two nodes");
    let started = Instant::now();
    kubectl.apply(&[deployment("crowd", CROWD)])?;
    kubectl.run(&[
        "wait",
        "--for=condition=Available",
        "deployment/crowd",
        "--timeout=120s",
    ])?;
    kubectl.run(&["rollout", "status", "deployment/crowd", "--timeout=120s"])?;
    let took = started.elapsed().as_secs_f64();
    let name = format!("{CROWD} pods, kubectl apply to all Ready");
    goal(report, &name, Unit::Seconds, took, 20.0);
    kubectl.run(&["delete", "deployment", "crowd", "--wait=true"])?;
    gone(kubectl, "app=crowd")
}

fn gone(kubectl: &Kubectl, selector: &str) -> anyhow::Result<()> {
    wait(&format!("pods {selector} are gone"), || {
        let left = kubectl.run(&["get", "pods", "-l", selector, "-o", "name"])?;
        Ok(left.is_empty())
    })
}

/// One pod after the other: from the moment a watch shows that it has a node to the moment it
/// shows that it runs.
fn single(kubectl: &Kubectl, report: &mut Report) -> anyhow::Result<()> {
    let template = "jsonpath={.metadata.name} {.spec.nodeName} {.status.phase}{\"\\n\"}";
    let watch = Lines::start(kubectl.command(&["get", "pods", "--watch", "-o", template]))?;
    let mut took = Samples::default();
    for number in 0..SINGLE {
        let name = format!("single-{number}");
        let mut spec = sleeping();
        spec["restartPolicy"] = json!("Never");
        kubectl.apply(&[json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "single"}}, "spec": spec,
        })])?;
        let mut scheduled = None;
        loop {
            let (at, line) = watch.next("a pod that starts")?;
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [pod, _node, phase] if *pod == name => {
                    let since = *scheduled.get_or_insert(at);
                    if *phase == "Running" {
                        took.push_time(at - since);
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    drop(watch);
    report.spread("one pod, scheduled to Running", Unit::Seconds, &took);
    let name = "one pod, scheduled to Running, p50";
    goal(report, name, Unit::Seconds, took.median(), 0.150);
    kubectl.run(&["delete", "pods", "-l", "app=single", "--wait=true"])?;
    gone(kubectl, "app=single")
}

/// From the moment a probe is answered otherwise than before to the moment the last node's kernel
/// has, or no longer has, the endpoint.
fn readiness(lab: &Lab, kubectl: &Kubectl, report: &mut Report) -> anyhow::Result<()> {
    let port = PROBE_PORT.to_string();
    let mut server = Lines::start(lab.exec("outside", ["python3", "-c", PROBE_SERVER, &port]))?;
    server.next("the server of the probes' answers")?;
    let outside = lab.address("outside")?;
    let mut objects = Vec::new();
    for number in 0..PROBED {
        let name = format!("probed-{number}");
        let labels = json!({"app": "probed", "pod": name});
        let mut spec = sleeping();
        spec["containers"][0]["readinessProbe"] = json!({
            "httpGet": {"host": outside, "port": PROBE_PORT, "path": format!("/{number}")},
            "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5,
        });
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": labels}, "spec": spec,
        }));
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"pod": name}, "ports": [{"port": 80}]},
        }));
    }
    kubectl.apply(&objects)?;
    let mut addresses: BTreeMap<String, usize> = BTreeMap::new();
    wait("the pods have addresses", || {
        let template = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
        let text = kubectl.run(&["get", "pods", "-l", "app=probed", "-o", template])?;
        addresses = text
            .lines()
            .filter_map(|line| {
                let (name, address) = line.split_once(' ')?;
                let number = name.strip_prefix("probed-")?.parse().ok()?;
                Some((address.to_owned(), number)).filter(|_| !address.is_empty())
            })
            .collect();
        Ok(addresses.len() == PROBED)
    })?;
    let nodes = ["node-1", "node-2"];
    let monitors = nodes
        .iter()
        .map(|node| Lines::start(lab.exec(node, ["nft", "-n", "monitor", "elements"])))
        .collect::<anyhow::Result<Vec<_>>>()?;
    // The first change is not counted: a monitor may not listen yet.
    let mut took = Samples::default();
    for flip in 0..=FLIPS {
        let up = flip % 2 == 0;
        let word = if up { "up" } else { "down" };
        for number in 0..PROBED {
            server.say(&format!("{number} {word}"))?;
        }
        let mut answered: BTreeMap<usize, Instant> = BTreeMap::new();
        while answered.len() < PROBED {
            let (at, line) = server.next("an answer to a probe")?;
            if let Some((number, said)) = line.split_once(' ')
                && said == word
            {
                answered.insert(number.parse()?, at);
            }
        }
        if flip == 0 {
            kubectl.run(&[
                "wait",
                "--for=condition=Ready",
                "pods",
                "-l",
                "app=probed",
                "--timeout=60s",
            ])?;
            for monitor in &monitors {
                while monitor
                    .lines
                    .recv_timeout(Duration::from_millis(500))
                    .is_ok()
                {}
            }
            continue;
        }
        let mut last: BTreeMap<usize, Instant> = BTreeMap::new();
        for monitor in &monitors {
            let mut seen: BTreeMap<usize, Instant> = BTreeMap::new();
            while seen.len() < PROBED {
                let (at, line) = monitor.next("a change in a kernel")?;
                // As nft 1.0.6 words what became of an element.
                let verbs = if up { ["add", "create"] } else { ["delete"; 2] };
                if verbs.iter().any(|verb| line.starts_with(verb))
                    && line.contains(" endpoints ")
                    && let Some(number) = endpoint(&line, &addresses)
                {
                    seen.entry(number).or_insert(at);
                }
            }
            for (number, at) in seen {
                let latest = last.entry(number).or_insert(at);
                *latest = at.max(*latest);
            }
        }
        for (number, at) in last {
            let since = answered.get(&number).context("a pod that was not probed")?;
            took.push_time(at.saturating_duration_since(*since));
        }
    }
    drop((monitors, server));
    report.spread("probe answered to last node's kernel", Unit::Seconds, &took);
    let name = "probe answered to last node's kernel, p99";
    goal(report, name, Unit::Seconds, took.percentile(0.99), 0.100);
    kubectl.run(&["delete", "pods", "-l", "app=probed", "--wait=true"])?;
    for number in 0..PROBED {
        kubectl.run(&["delete", "service", &format!("probed-{number}")])?;
    }
    gone(kubectl, "app=probed")
}

/// Which pod's endpoint a line of `nft monitor` is about: `… : 10.244.0.2 . 80 }`.
fn endpoint(line: &str, addresses: &BTreeMap<String, usize>) -> Option<usize> {
    let (_, data) = line.rsplit_once(" : ")?;
    let address = data.split_whitespace().next()?;
    addresses.get(address).copied()
}

/// What pods cost that do nothing: weft's own processes, not what runs in the pods.
fn idle(lab: &Lab, kubectl: &Kubectl, report: &mut Report) -> anyhow::Result<()> {
    let front = lab.front()?;
    let before = own_memory(front)?;
    kubectl.apply(&[deployment("idle", IDLE)])?;
    kubectl.run(&["rollout", "status", "deployment/idle", "--timeout=300s"])?;
    let after = own_memory(front)?;
    let each = after.saturating_sub(before) as f64 / IDLE as f64;
    let name = format!("{IDLE} idle pods: weft's own memory, each (PSS)");
    goal(report, &name, Unit::Kibibytes, each, 2.0 * 1024.0);
    // What a start leaves to do (status written, events) is not what standing idle costs.
    std::thread::sleep(Duration::from_secs(10));
    let (ticks, at) = (ticks(front)?, Instant::now());
    std::thread::sleep(WATCHED);
    let used = self::ticks(front)?.saturating_sub(ticks) as f64 / ticks_a_second();
    let share = 100.0 * used / at.elapsed().as_secs_f64();
    let name = format!("{IDLE} idle pods: processors in all, the lab's own included");
    goal(report, &name, Unit::Rate("% of one core"), share, 5.0);
    Ok(())
}

/// KiB of all processes of weft below the front, shared pages in proportion.
fn own_memory(front: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in memory::tree(front)? {
        // A process that ended meanwhile costs nothing.
        let (Ok(memory), Ok(kind)) = (Memory::of(pid), memory::kind(pid)) else {
            continue;
        };
        if kind.starts_with("weft") || pid == front {
            sum += memory.proportional();
        }
    }
    Ok(sum)
}

/// Time on processors of all processes below the front, in clock ticks (proc(5), stat, fields 14
/// and 15).
fn ticks(front: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in memory::tree(front)? {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = rest.split_whitespace().collect();
        for field in [11, 12] {
            sum += fields
                .get(field)
                .and_then(|field| field.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    Ok(sum)
}

/// `USER_HZ`: 100 on every architecture that Linux has today.
fn ticks_a_second() -> f64 {
    100.0
}
