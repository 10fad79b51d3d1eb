//! The long runs: hundreds of rounds of what the end-to-end tests do once. `make soak`.
//!
//! `WEFT_SOAK` is the percentage of the rounds to do: `make soak WEFT_SOAK=5` takes minutes.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod churn;
#[expect(dead_code, reason = "the end-to-end tests use the rest")]
mod durability;
#[expect(dead_code, reason = "the end-to-end tests use the rest")]
mod lab;
mod storms;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use lab::{Lab, eventually, expect};
use serde_json::json;

/// So many rounds, or the percentage of them that is asked for; at least one.
fn rounds(full: usize) -> usize {
    let percent = std::env::var("WEFT_SOAK")
        .ok()
        .and_then(|text| text.parse().ok());
    (full * percent.unwrap_or(100)).div_ceil(100)
}

/// A process of this machine, and its children.
struct Process {
    parent: u32,
    /// In ticks since boot: tells it from a later process of the same id.
    started: u64,
    command: String,
}

/// All processes of the machine, by id (proc(5), stat, fields 4 and 22).
fn processes() -> BTreeMap<u32, Process> {
    let read = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let rest: Vec<_> = stat[stat.rfind(')')? + 2..].split(' ').collect();
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Some(Process {
            parent: rest.get(1)?.parse().ok()?,
            started: rest.get(19)?.parse().ok()?,
            command: command.replace('\0', " "),
        })
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, read(pid)?)))
        .collect()
}

/// The processes below one.
fn below(front: u32) -> BTreeMap<u32, Process> {
    let mut all = processes();
    let mut found = BTreeMap::new();
    let mut parents = BTreeSet::from([front]);
    while !parents.is_empty() {
        let children = all.extract_if(.., |_, process| parents.contains(&process.parent));
        let children: BTreeMap<_, _> = children.collect();
        parents = children.keys().copied().collect();
        found.extend(children);
    }
    found
}

/// Those below the front whose command begins so.
fn parts(front: u32, command: &str) -> Vec<u32> {
    below(front)
        .into_iter()
        .filter(|(_, process)| process.command.starts_with(command))
        .map(|(pid, _)| pid)
        .collect()
}

fn kill(pid: u32) {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
}

/// Asks a Service over a new connection, and over one that stays, for ever; notes each failure,
/// and how often it asked.
const TRAFFIC: &str = r#"
import http.client, os, time
def ask(connection):
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200: raise OSError(answer.status)
def connect(): return http.client.HTTPConnection("target", timeout=10)
failures = open("/tmp/failures", "w")
kept = connect()
kept.connect()
# Opens no other one by itself when this one is closed.
kept.auto_open = 0
count = 0
while True:
    for what in "new", "kept":
        try:
            connection = kept if what == "kept" else connect()
            ask(connection)
            if what == "new": connection.close()
        except Exception as error:
            print(what, "connection, request", count, repr(error), file=failures, flush=True)
            if what == "kept": kept.close(); kept.connect()
    count += 1
    with open("/tmp/counting", "w") as file: print(count, file=file)
    os.replace("/tmp/counting", "/tmp/count")
    time.sleep(0.002)
"#;

const CLIENTS: [&str; 2] = ["client-node-1", "client-node-2"];

fn traffic_objects() -> [String; 2] {
    let server = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "target"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "target"}},
            "template": {
                "metadata": {"labels": {"app": "target"}},
                "spec": {"containers": [{"name": "c", "image": "weft/echo"}]},
            },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "target"},
        "spec": {"selector": {"app": "target"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let client = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "client"}},
            "spec": {
                "nodeName": name.strip_prefix("client-"),
                "containers": [{"name": "c", "image": "python", "command": ["python3", "-c", TRAFFIC]}],
            },
        })
    };
    [
        lab::probe::manifest(&[server, service]),
        lab::probe::manifest(&CLIENTS.map(client)),
    ]
}

/// How often a client has asked; an error if one request failed.
fn asked(lab: &Lab, client: &str) -> Result<u64, String> {
    let script = "cat /tmp/failures >&2; [ ! -s /tmp/failures ] && cat /tmp/count";
    let count = lab.sh(&format!("default/{client}"), script).result()?;
    count.trim().parse().map_err(|_| format!("counted {count}"))
}

#[test]
#[ignore = "soak: 200 rounds"]
fn traffic_survives_the_death_of_every_part() {
    let lab = Lab::up("soak-kill", &[]);
    let [servers, clients] = traffic_objects();
    for (objects, app) in [(servers, "app=target"), (clients, "app=client")] {
        lab.apply("default", &objects);
        lab.pods_ready("default", app);
    }
    let mut counts = CLIENTS.map(|client| {
        eventually(&format!("{client} asks"), || {
            expect(asked(&lab, client)?, |count| *count > 0)
        })
    });
    let kinds = [
        "weft agent",
        "weft internal kubelet",
        "weft internal apiserver",
        "weft internal controllers",
    ];
    for round in 0..rounds(200) {
        let kind = kinds[round % kinds.len()];
        let before = parts(lab.front(), kind);
        let victim = before[(round / kinds.len()) % before.len()];
        kill(victim);
        eventually(&format!("round {round}: {kind} runs again"), || {
            let now = parts(lab.front(), kind);
            if now.len() == before.len() && !now.contains(&victim) {
                return Ok(());
            }
            let pods = lab.kubectl(&["get", "pods", "-A", "-o", "wide"]);
            Err(format!(
                "{now:?} and before {before:?}, killed {victim}\n{pods}"
            ))
        });
        if kind == "weft agent" {
            renew_agents(&lab);
        }
        eventually(&format!("round {round}: {kind} is of use again"), || {
            whole(&lab)
        });
        for (client, count) in CLIENTS.into_iter().zip(&mut counts) {
            let now =
                asked(&lab, client).unwrap_or_else(|failed| panic!("round {round}: {failed}"));
            assert!(now > *count, "round {round}: {client} has stopped at {now}");
            *count = now;
        }
    }
    println!("asked, each over a new connection and one that stayed: {counts:?}");
}

/// Replaces agents by new pods: one whose container has died before waits longer each time,
/// as everywhere in Kubernetes.
fn renew_agents(lab: &Lab) {
    let agents = ["-n", "kube-system", "pods", "-l", "k8s-app=weft-agent"];
    let restarted = lab.get(&agents)["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pod| pod["status"]["containerStatuses"][0]["restartCount"] != 0)
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect::<Vec<_>>();
    for name in restarted {
        lab.kubectl(&["-n", "kube-system", "delete", "pod", &name])
            .ok();
    }
}

/// Whether nodes, agents and DNS are ready, as the API tells.
fn whole(lab: &Lab) -> Result<(), String> {
    let agents = lab.field(
        &["-n", "kube-system", "daemonset/weft-agent"],
        "{.status.numberReady} {.status.updatedNumberScheduled}",
    )?;
    expect(agents, |ready| ready == "2 2")?;
    let dns = lab.field(
        &["-n", "kube-system", "deployment/weft-dns"],
        "{.status.readyReplicas}",
    )?;
    expect(dns, |ready| ready == "2")?;
    let nodes = lab.field(
        &["nodes"],
        "{.items[*].status.conditions[?(@.type==\"Ready\")].status}",
    )?;
    expect(nodes, |ready| ready == "True True")?;
    Ok(())
}

/// What a lab may not leave on the machine, or change there.
fn machine() -> [String; 3] {
    let devices: BTreeSet<_> = fs::read_to_string("/proc/net/dev")
        .unwrap()
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    [
        fs::read_to_string("/proc/self/mountinfo").unwrap(),
        format!("{devices:?}"),
        fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
    ]
}

/// The namespaces of these processes that are not our own.
fn namespaces(of: impl Iterator<Item = u32>) -> BTreeMap<PathBuf, fs::File> {
    let path = |pid: &str, kind: &str| PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
    let kinds = ["net", "pid", "mnt"];
    let own: BTreeSet<_> = kinds
        .iter()
        .filter_map(|kind| fs::read_link(path("self", kind)).ok())
        .collect();
    of.flat_map(|pid| kinds.map(|kind| path(&pid.to_string(), kind)))
        .filter_map(|path| Some((fs::read_link(&path).ok()?, fs::File::open(&path).ok()?)))
        .filter(|(namespace, _)| !own.contains(namespace))
        .collect()
}

#[test]
#[ignore = "soak: 100 rounds"]
fn a_killed_front_leaves_nothing_whenever_it_dies() {
    let before = machine();
    for round in 0..rounds(100) {
        let name = format!("soak-front-{}", std::process::id());
        let mut front = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["lab", "up", "--name", &name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // After another step of the start each time; often when it is ready.
        let steps = round % 16;
        let mut lines = BufReader::new(front.stdout.take().unwrap()).lines();
        for line in lines.by_ref().take(steps).map_while(Result::ok) {
            if line.ends_with("s  ready") {
                break;
            }
        }
        let left = below(front.id());
        // Held open, a namespace's number is not given to another.
        let namespaces_left = namespaces(left.keys().copied());
        front.kill().unwrap();
        front.wait().unwrap();
        eventually(
            &format!("round {round}: no process of the lab is left"),
            || {
                let now = processes();
                let same = left.iter().filter(|(pid, process)| {
                    now.get(pid)
                        .is_some_and(|other| other.started == process.started)
                });
                expect(same.map(|(pid, _)| *pid).collect::<Vec<_>>(), Vec::is_empty)
            },
        );
        let found = namespaces(processes().into_keys());
        let kept: Vec<_> = namespaces_left
            .keys()
            .filter(|one| found.contains_key(*one))
            .collect();
        assert!(kept.is_empty(), "round {round}: {kept:?}");
        assert_eq!(machine(), before, "round {round}");
    }
}

#[test]
#[ignore = "soak: 500 pods"]
fn pods_come_and_go_without_a_trace() {
    churn::pods_come_and_go("soak-pods", rounds(500 / churn::AT_ONCE), &[]);
}

#[test]
#[ignore = "soak: 500 pods, and a kill for every ten"]
fn pods_come_and_go_while_parts_die() {
    churn::pods_come_and_go("soak-churn", rounds(500 / churn::AT_ONCE), &churn::PARTS);
}

#[test]
#[ignore = "soak: 200 rounds"]
fn acknowledged_writes_survive_every_kill() {
    durability::killed_while_writing(rounds(200));
}

#[test]
#[ignore = "soak: 50 kills in each mode"]
fn agents_killed_in_storms_end_where_fresh_ones_do() {
    storms::agents_die("soak-storm", rounds(50));
}
