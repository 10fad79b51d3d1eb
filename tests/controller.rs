//! `weft controller`: nodes get their pod ranges where kube-controller-manager gives none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::{Lab, eventually, expect, repository};

const GIVES_NONE: &str = "--allocate-node-cidrs=false";

/// A controller beside a lab, on this machine.
struct Controller {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Controller {
    /// Others take over after ten seconds: who stands still for less, on a machine that is busy,
    /// leads on.
    fn start(lab: &Lab, identity: &str, flags: &[&str]) -> Self {
        Self::start_for(lab, identity, "10", flags)
    }

    /// Others take over after so many seconds.
    fn start_for(lab: &Lab, identity: &str, lease_seconds: &str, flags: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_weft")])
            .args([
                "controller",
                "--identity",
                identity,
                "--lease-seconds",
                lease_seconds,
            ])
            .args(["--health", "127.0.0.1:0", "--kubeconfig"])
            .arg(lab.kubeconfig())
            .args(flags)
            .env_remove("WEFT_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        Self {
            child: command.spawn().unwrap(),
            log,
            _folder: folder,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Ends it as Kubernetes does.
    fn end(mut self) -> String {
        self.signal(Signal::TERM);
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        self.log()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

const LEASE: [&str; 4] = ["-n", "kube-system", "lease", "weft-controller"];

/// Who leads.
fn holder(lab: &Lab) -> Result<String, String> {
    lab.field(&LEASE, "{.spec.holderIdentity}")
}

#[track_caller]
fn leads(lab: &Lab, identity: &str) {
    eventually(&format!("{identity} leads"), || {
        expect(holder(lab)?, |holder| holder == identity)
    });
}

/// Writes the Lease as anybody may who is allowed to.
#[track_caller]
fn annotate(lab: &Lab) {
    lab.kubectl(&[&["annotate"][..], &LEASE, &["seen=yes"]].concat())
        .ok();
}

fn nodes(names: impl Iterator<Item = String>) -> String {
    let node = |name| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let items: Vec<Value> = names.map(node).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// What every node has.
fn ranges(lab: &Lab) -> Result<BTreeMap<String, Vec<String>>, String> {
    let list = lab.kubectl(&["get", "nodes", "-o", "json"]).result()?;
    let list: Value = serde_json::from_str(&list).map_err(|error| error.to_string())?;
    let nodes = list["items"].as_array().ok_or("no list")?;
    let of_node = |node: &Value| {
        let ranges = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
        let ranges = ranges.map(|range| range.as_str().unwrap_or_default().to_owned());
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        (name.to_owned(), ranges.collect())
    };
    Ok(nodes.iter().map(of_node).collect())
}

/// Waits until so many nodes have one range each, no two the same.
#[track_caller]
fn all_have_one(lab: &Lab, count: usize) -> BTreeMap<String, Vec<String>> {
    let all = eventually(&format!("{count} nodes have a range each"), || {
        expect(ranges(lab)?, |all| {
            all.len() == count && all.values().all(|ranges| ranges.len() == 1)
        })
    });
    let different: BTreeSet<&Vec<String>> = all.values().collect();
    assert_eq!(different.len(), count, "{all:?}");
    all
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: POD}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: weft/echo}]
";

#[test]
fn the_shipped_manifest_gives_a_cluster_without_ranges_its_pod_network() {
    let lab = Lab::up("given", &[GIVES_NONE, "--ip-family", "dual"]);
    let none = ranges(&lab).unwrap();
    assert!(none.values().all(Vec::is_empty), "{none:?}");
    assert_eq!(none.len(), 2);
    let manifest = repository("deploy/weft-controller.yaml");
    lab.kubectl(&["apply", "-f", manifest.to_str().unwrap()])
        .ok();
    let wait = ["wait", "--for=condition=Ready", "--timeout=110s", "nodes"];
    lab.kubectl(&[&wait[..], &["--all"]].concat()).ok();
    let given = ranges(&lab).unwrap();
    let all: BTreeSet<&String> = given.values().flatten().collect();
    let expected = [
        "10.244.0.0/24",
        "10.244.1.0/24",
        "fd00:10:244::/64",
        "fd00:10:244:1::/64",
    ];
    let expected = expected.map(str::to_owned);
    assert_eq!(all, expected.iter().collect());
    for (pod, node) in [("one", "node-1"), ("two", "node-2")] {
        lab.apply("default", &POD.replace("POD", pod).replace("NODE", node));
    }
    lab.pods_ready("default", "");
    for address in lab.pod_ips("default", "two") {
        eventually(&format!("one reaches {address}"), || {
            let ping = ["ping", "-n", "-c", "1", "-W", "2", &address];
            lab.exec("one", &ping).result()
        });
    }
    // Its pods are ready: one leads, the other waits.
    lab.pods_ready("kube-system", "k8s-app=weft-controller");
}

#[test]
fn no_two_nodes_get_one_range_though_the_leader_is_killed_among_them() {
    let lab = Lab::up("leaders", &[GIVES_NONE, "--nodes", "1"]);
    // Half of a /17: 128 parts, of which 101 nodes need most.
    let flags = ["--pod-cidr", "10.244.0.0/17"];
    let start = |identity| Controller::start(&lab, identity, &flags);
    let one = start("one");
    leads(&lab, "one");
    let two = start("two");
    eventually("the other waits", || {
        expect(two.log(), |log| log.contains("another leads"))
    });
    let names = |numbers: std::ops::Range<u32>| nodes(numbers.map(|it| format!("extra-{it}")));
    lab.apply("default", &names(0..50));
    eventually("it has begun", || {
        let some = |all: &BTreeMap<_, Vec<String>>| all.values().any(|it| !it.is_empty());
        expect(ranges(&lab)?, some)
    });
    drop(one);
    lab.apply("default", &names(50..100));
    leads(&lab, "two");
    let before = all_have_one(&lab, 101);

    // What it leaves is taken at once, though a lease lasts.
    let three = Controller::start(&lab, "three", &flags);
    // Whoever else writes the Lease a moment before.
    annotate(&lab);
    two.end();
    leads(&lab, "three");
    // A node is gone, another comes: nobody's range is changed, and there is no other free
    // than its own before those that nobody had.
    let gone = before["extra-0"].clone();
    lab.kubectl(&["delete", "node", "extra-0"]).ok();
    lab.apply("default", &names(100..101));
    let after = all_have_one(&lab, 101);
    for (node, ranges) in &before {
        if node != "extra-0" {
            assert_eq!(after.get(node), Some(ranges), "{node}\n{}", three.log());
        }
    }
    assert!(!gone.is_empty());
}

#[test]
fn the_leader_leads_on_whoever_else_writes_the_lease() {
    let lab = Lab::up("annotated", &[GIVES_NONE, "--nodes", "1"]);
    let one = Controller::start_for(&lab, "one", "30", &["--pod-cidr", "10.244.0.0/17"]);
    leads(&lab, "one");
    annotate(&lab);
    let renewed = || lab.field(&LEASE, "{.spec.renewTime}");
    let mut last = renewed().unwrap();
    for _ in 0..2 {
        last = eventually("the lease is renewed", || {
            expect(renewed()?, |now| *now != last)
        });
    }
    let said = one.log();
    assert!(!said.contains("does not lead any more"), "{said}");
}

#[test]
fn what_others_gave_is_kept_and_named_and_who_gets_none_is_told() {
    let lab = Lab::up("kept-ranges", &[GIVES_NONE, "--nodes", "1"]);
    let held = |name: &str, range: &str| {
        let spec = json!({"podCIDR": range, "podCIDRs": [range]});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": spec});
        lab.apply("default", &node.to_string());
    };
    held("outsider", "192.168.7.0/24");
    held("insider", "10.244.0.0/25");
    let events = |node: &str| {
        let of = format!("involvedObject.name={node}");
        let said = lab.kubectl(&["get", "events", "--field-selector", &of, "-o", "json"]);
        said.result()
    };
    // Three parts; the insider's half of the first takes it whole, the last is reserved.
    let flags = [
        "--pod-cidr",
        "10.244.0.0/22",
        "--reserved-cidr",
        "10.244.3.0/30",
    ];
    let controller = Controller::start(&lab, "one", &flags);
    eventually("node-1 has the first free one", || {
        expect(ranges(&lab)?, |all| all["node-1"] == ["10.244.1.0/24"])
    });
    eventually("what is odd is an event", || {
        expect(events("outsider")?, |said| {
            said.contains("PodCIDROutside") && said.contains("192.168.7.0/24")
        })
    });
    lab.apply("default", &nodes(["second".to_owned()].into_iter()));
    eventually("the second has the last", || {
        expect(ranges(&lab)?, |all| all["second"] == ["10.244.2.0/24"])
    });
    lab.apply("default", &nodes(["third".to_owned()].into_iter()));
    eventually("the third is told that there is none", || {
        expect(events("third")?, |said| {
            said.contains("CIDRNotAvailable") && said.contains("10.244.0.0/22 has no part left")
        })
    });
    assert!(controller.log().contains("no part left"));
    lab.kubectl(&["delete", "node", "second"]).ok();
    eventually("the third has what the second had", || {
        expect(ranges(&lab)?, |all| all["third"] == ["10.244.2.0/24"])
    });
    let all = ranges(&lab).unwrap();
    assert_eq!(all["outsider"], ["192.168.7.0/24"]);
    assert_eq!(all["insider"], ["10.244.0.0/25"]);
    let said = controller.end();
    assert!(said.contains("the lease is free"), "{said}");
}
