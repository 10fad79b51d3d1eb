//! `weft lab node`: nodes come and go, and links are cut, under a running lab.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect};
use crate::silence::{nodes_of_endpoints, ready, web};

fn node(lab: &Lab, verb: &str, arguments: &[&str]) -> crate::lab::Ran {
    lab.weft(&["node", verb], arguments)
}

fn node_names(lab: &Lab) -> Vec<String> {
    let names = lab.field(&["nodes"], "{.items[*].metadata.name}").unwrap();
    names.split_whitespace().map(str::to_owned).collect()
}

/// Whether one end reaches another by a packet.
fn reaches(lab: &Lab, from: &str, to: &str) -> bool {
    lab.exec(from, &["ping", "-c", "1", "-W", "1", to]).code == Some(0)
}

/// One packet may be lost on a busy machine, or wait for the answer of a neighbour.
#[track_caller]
fn reaches_at_last(lab: &Lab, from: &str, to: &str) {
    eventually(&format!("{from} reaches {to}"), || {
        expect(reaches(lab, from, to), |reached| *reached)
    });
}

#[track_caller]
fn json_of(said: &str) -> Value {
    serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn a_node_joins_works_and_leaves() {
    let lab = Lab::up("node", &[]);
    lab.apply("default", &web());
    lab.pods_ready("default", "app=web");

    let flags = [
        "gpu",
        "--zone",
        "b",
        "--label",
        "disk=fast",
        "--taint",
        "gpu=yes:PreferNoSchedule",
        "--capacity",
        "cpu=2500m,memory=3Gi,pods=40",
        "--address",
        "172.30.0.77",
        "-o",
        "json",
    ];
    let said = json_of(&node(&lab, "add", &flags).ok());
    assert_eq!(said["name"], "gpu");
    assert_eq!(said["addresses"], json!(["172.30.0.77"]));
    assert_eq!(said["podCIDRs"].as_array().map(Vec::len), Some(1), "{said}");
    let object = lab.get(&["node", "gpu"]);
    let labels = &object["metadata"]["labels"];
    assert_eq!(labels["topology.kubernetes.io/zone"], "b");
    assert_eq!(labels["disk"], "fast");
    // Those of a node that is not ready yet go a moment after it is.
    eventually("it has its own taint alone", || {
        let taints = lab.field(&["node", "gpu"], "{.spec.taints}")?;
        let taints: Value = serde_json::from_str(&taints).map_err(|error| error.to_string())?;
        let own = json!([{"key": "gpu", "value": "yes", "effect": "PreferNoSchedule"}]);
        expect(taints, |taints| *taints == own)
    });
    assert_eq!(
        object["status"]["capacity"],
        json!({"cpu": "2500m", "memory": "3Gi", "pods": "40"})
    );
    assert_eq!(ready(&lab, &["node", "gpu"]).unwrap(), "True");
    // Its daemon, and a pod of its own that the others' pods reach.
    let daemons = ["-n", "kube-system", "daemonset", "weft-agent"];
    eventually("the new node has its agent", || {
        expect(lab.field(&daemons, "{.status.numberReady}")?, |ready| {
            ready == "3"
        })
    });
    let pinned = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pinned"},
        "spec": {
            "nodeSelector": {"disk": "fast"},
            "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "infinity"]}],
        },
    });
    lab.apply("default", &pinned.to_string());
    lab.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/pinned",
        "--timeout=110s",
    ])
    .ok();
    let address = lab.pod_ips("default", "pinned").remove(0);
    reaches_at_last(&lab, "node-1", &address);
    for every in ["node-1", "gpu", "outside"] {
        let hosts = lab.sh(every, "cat /etc/hosts").ok();
        assert!(hosts.contains("172.30.0.77\tgpu"), "{every}: {hosts}");
    }
    let listed = eventually("the lab's status is told", || {
        lab.weft(&["status"], &["-o", "json"]).result()
    });
    let listed = json_of(&listed);
    assert_eq!(listed["cluster"]["nodes"].as_array().map(Vec::len), Some(3));

    // What cannot be.
    let taken = node(&lab, "add", &["gpu"]);
    assert_eq!(taken.code, Some(4), "{taken}");
    let address = node(&lab, "add", &["x", "--address", "172.30.0.77"]);
    assert_eq!(address.code, Some(2), "{address}");
    assert!(address.err.contains("it is gpu's"), "{address}");
    let outside = node(&lab, "add", &["outside"]);
    assert_eq!(outside.code, Some(2), "{outside}");
    let unknown = node(&lab, "remove", &["nobody"]);
    assert_eq!(unknown.code, Some(5), "{unknown}");
    assert!(unknown.err.contains("node-1, node-2, gpu"), "{unknown}");

    // Its pods leave before it does.
    node(&lab, "remove", &["gpu", "--drain"]).ok();
    assert_eq!(node_names(&lab), ["node-1", "node-2"]);
    lab.kubectl(&["get", "pod", "pinned"]).refused();
    lab.pods_ready("default", "app=web");
    eventually("its daemon is gone, and its lease", || {
        expect(
            lab.field(&daemons, "{.status.desiredNumberScheduled}")?,
            |count| count == "2",
        )?;
        let leases = lab.field(
            &["-n", "kube-node-lease", "leases"],
            "{.items[*].metadata.name}",
        )?;
        expect(leases, |names| names == "node-1 node-2")
    });
    let hosts = lab.sh("node-1", "cat /etc/hosts").ok();
    assert!(!hosts.contains("gpu"), "{hosts}");

    // A node that breaks down: its pods are replaced, its name and address are free.
    node(&lab, "remove", &["node-2"]).ok();
    eventually("all replicas are on the node that is left", || {
        expect(nodes_of_endpoints(&lab)?, |nodes| {
            nodes == "node-1 node-1 node-1"
        })
    });
    let last = node(&lab, "remove", &["node-1", "--drain"]);
    assert_eq!(last.code, Some(2), "{last}");
    assert!(last.err.contains("last node"), "{last}");
    lab.pods_ready("default", "app=web");
    let again = json_of(&node(&lab, "add", &["-o", "json"]).ok());
    assert_eq!(again["name"], "node-2");
    assert_eq!(again["addresses"], json!(["172.30.0.12"]));
}

#[test]
fn a_lab_whose_front_is_stopped_goes_on() {
    let lab = Lab::up("stopped", &[]);
    let stopped = lab.stop_front();
    // Each time the front is told of all nodes. A pipe holds 64 KiB: so it takes the first time
    // whole, the second in part, and nothing of the third.
    let labels: Vec<String> = (0..400)
        .map(|number| format!("{number:a<60}={number:x<60}"))
        .collect();
    let labels = labels.join(",");
    let said = node(&lab, "add", &["wide", "--no-wait", "--label", &labels]);
    assert!(said.err.contains("stopped"), "{said}");
    said.ok();
    node(&lab, "add", &["gone", "--no-wait"]).ok();
    node(&lab, "remove", &["gone"]).ok();
    node(&lab, "add", &["late"]).ok();
    node(&lab, "add", &["last"]).ok();
    assert_eq!(ready(&lab, &["node", "last"]).unwrap(), "True");
    let five = ["last", "late", "node-1", "node-2", "wide"];
    assert_eq!(node_names(&lab), five);
    let listed = json_of(&node(&lab, "list", &["-o", "json"]).ok());
    assert_eq!(listed.as_array().map(Vec::len), Some(5), "{listed}");

    drop(stopped);
    eventually("the front has noted which nodes there are", || {
        expect(lab.listed()?["nodes"].clone(), |nodes| *nodes == 5)
    });
}

#[test]
fn a_link_is_cut_and_mended() {
    let flags = ["--nodes", "3", "--node-grace", "40"];
    let lab = Lab::up("cut", &flags);
    lab.apply("default", &web());
    lab.pods_ready("default", "app=web");
    eventually("every node has a replica behind the Service", || {
        expect(nodes_of_endpoints(&lab)?, |nodes| {
            ["node-1", "node-2", "node-3"]
                .iter()
                .all(|node| nodes.contains(node))
        })
    });
    let started = lab.processes("weft internal kubelet");

    // Between two nodes: everybody else reaches both.
    node(&lab, "cut", &["node-1", "node-2"]).ok();
    let again = node(&lab, "cut", &["node-2", "node-1"]).ok();
    assert!(again.contains("already"), "{again}");
    assert!(!reaches(&lab, "node-1", "172.30.0.12"));
    for (from, to) in [
        ("node-1", "172.30.0.13"),
        ("node-3", "172.30.0.12"),
        ("node-2", "172.30.0.1"),
        ("outside", "172.30.0.11"),
    ] {
        reaches_at_last(&lab, from, to);
    }
    // One from the API server.
    node(&lab, "cut", &["node-2", "api"]).ok();
    assert!(!reaches(&lab, "node-2", "172.30.0.1"));
    reaches_at_last(&lab, "node-2", "172.30.0.13");
    let listed = json_of(&node(&lab, "list", &["-o", "json"]).ok());
    assert_eq!(listed[0]["cutOffFrom"], json!(["node-2"]));
    assert_eq!(listed[1]["cutOffFrom"], json!(["node-1", "api"]));
    node(&lab, "heal", &["node-2"]).ok();
    eventually("both ways are open again", || {
        // A neighbour that was not there a moment ago is asked for again.
        let reached = [("node-1", "172.30.0.12"), ("node-2", "172.30.0.1")];
        expect(reached.map(|(from, to)| reaches(&lab, from, to)), |all| {
            *all == [true, true]
        })
    });

    // From everything: what Kubernetes does about a node that it does not hear of.
    let said = json_of(&node(&lab, "cut", &["node-3", "-o", "json"]).ok());
    assert_eq!(
        said,
        json!({"name": "node-3", "changed": true, "cutOffFrom": ["everything"]})
    );
    assert!(!reaches(&lab, "node-1", "172.30.0.13") && !reaches(&lab, "node-3", "172.30.0.11"));
    eventually("nobody knows how the node is", || {
        expect(ready(&lab, &["node", "node-3"])?, |status| {
            status == "Unknown"
        })
    });
    eventually(
        "its replica is out of the Service, and another is in",
        || {
            expect(nodes_of_endpoints(&lab)?, |nodes| {
                !nodes.contains("node-3") && nodes.split(' ').count() == 3
            })
        },
    );
    let pods = || lab.sh("node-3", "ls /run/weft-lab/pods").ok();
    assert!(pods().contains("default_web-"), "it runs on, unseen");

    let heal = node(&lab, "heal", &["node-3"]).ok();
    assert!(heal.contains("connected"), "{heal}");
    eventually("the node is back", || {
        expect(ready(&lab, &["node", "node-3"])?, |status| status == "True")?;
        let taints = lab.field(&["node", "node-3"], "{.spec.taints}")?;
        expect(taints, String::is_empty)
    });
    eventually("what was replaced meanwhile is gone from it", || {
        expect(pods(), |pods| !pods.contains("default_web-"))
    });
    assert_eq!(
        lab.processes("weft internal kubelet"),
        started,
        "nothing was restarted"
    );
    let nothing = node(&lab, "heal", &["node-3"]).ok();
    assert!(nothing.contains("not cut off"), "{nothing}");

    let itself = node(&lab, "cut", &["node-3", "node-3"]);
    assert_eq!(itself.code, Some(2), "{itself}");
    let unknown = node(&lab, "cut", &["node-3", "node-9"]);
    assert_eq!(unknown.code, Some(5), "{unknown}");
}

#[test]
fn a_node_whose_first_process_is_killed_is_removed_all_the_same() {
    let lab = Lab::up("node-kill", &[]);
    let before = lab.processes("weft internal node");
    node(&lab, "add", &["victim"]).ok();
    let after = lab.processes("weft internal node");
    let victim: BTreeSet<u32> = after.difference(&before).copied().collect();
    assert_eq!(victim.len(), 1, "{victim:?}");
    lab.kill_outright(&victim);
    eventually("the lab knows that the node has ended", || {
        let listed = node(&lab, "list", &["-o", "json"]).result()?;
        expect(json_of(&listed), |listed| listed[2]["running"] == false)
    });
    let cut = node(&lab, "cut", &["victim"]);
    assert_eq!(cut.code, Some(2), "{cut}");
    assert!(cut.err.contains("has ended"), "{cut}");
    node(&lab, "remove", &["victim"]).ok();
    assert_eq!(node_names(&lab), ["node-1", "node-2"]);

    // Removed while it is killed: whoever comes first, it is gone.
    node(&lab, "add", &["victim"]).ok();
    let after = lab.processes("weft internal node");
    let victim = after.difference(&before).copied().collect();
    let removed = lab.meanwhile(&["node", "remove"], &["victim"], || {
        lab.kill_outright(&victim)
    });
    removed.ok();
    assert_eq!(node_names(&lab), ["node-1", "node-2"]);
    assert_eq!(lab.processes("weft internal node"), before);

    // The other half of an interrupted removal: the Node object is left.
    node(&lab, "add", &["victim"]).ok();
    let after = lab.processes("weft internal node");
    lab.kill_outright(&after.difference(&before).copied().collect());
    lab.kubectl(&["delete", "node", "victim"]).ok();
    node(&lab, "remove", &["victim"]).ok();
    let ghost = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ghost"}});
    lab.apply("default", &ghost.to_string());
    node(&lab, "remove", &["ghost"]).ok();
    assert_eq!(node_names(&lab), ["node-1", "node-2"]);
}

/// What twenty nodes could leave: processes, links, records, folders.
fn traces(lab: &Lab) -> (usize, String, String) {
    let processes = lab.processes("weft").len();
    let init = format!("/proc/{}/root/run/weft-lab", lab.init());
    let mut names = Vec::new();
    for folder in ["nodes", "log", "durable/nodes"] {
        let Ok(entries) = std::fs::read_dir(format!("{init}/{folder}")) else {
            continue;
        };
        let mut inside: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        inside.sort();
        names.push(format!("{folder}: {inside:?}"));
    }
    let links = std::process::Command::new("nsenter")
        .args([
            &format!("--net=/proc/{}/ns/net", lab.init()),
            "ip",
            "-o",
            "link",
        ])
        .output()
        .unwrap();
    let links = String::from_utf8_lossy(&links.stdout);
    let ports = links.lines().filter(|line| line.contains("port")).count();
    (processes, format!("{ports} ports"), names.join("; "))
}

#[test]
fn twenty_nodes_come_and_go_and_leave_nothing() {
    let lab = Lab::up("node-churn", &[]);
    lab.pods_ready("kube-system", "");
    let before = traces(&lab);
    for round in 0..20 {
        let said = node(&lab, "add", &["--no-wait", "-o", "json"]).ok();
        let said = json_of(&said);
        assert_eq!(said["name"], "node-3", "round {round}");
        assert_eq!(said["addresses"], json!(["172.30.0.13"]), "round {round}");
        // Some have come up wholly, some have hardly begun.
        if round % 4 == 0 {
            let wait = [
                "wait",
                "--for=condition=Ready",
                "node/node-3",
                "--timeout=60s",
            ];
            eventually("the node is ready", || lab.kubectl(&wait).result());
            node(&lab, "cut", &["node-3", "node-1"]).ok();
        }
        node(&lab, "remove", &["node-3"]).ok();
    }
    eventually("nothing is left of the twenty", || {
        expect(traces(&lab), |now| *now == before)
    });
    eventually("neither are their objects", || {
        expect(node_names(&lab), |names| *names == ["node-1", "node-2"])?;
        let pods = lab.field(&["-A", "pods"], "{.items[*].spec.nodeName}")?;
        expect(pods, |nodes| !nodes.contains("node-3"))
    });
    // The pod range is free again: sixty nodes would not have had room in a /18.
    node(&lab, "add", &[]).ok();
}

#[test]
fn a_kept_lab_keeps_its_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("lab");
    let flags = ["--nodes", "2", "--keep", kept.to_str().unwrap()];
    let mut lab = Lab::up("node-keep", &flags);
    node(&lab, "add", &["gpu", "--label", "disk=fast"]).ok();
    node(&lab, "remove", &["node-1"]).ok();
    lab.sh("gpu", "echo written > /var/lib/weft/by-hand").ok();
    let ranges = lab.field(&["node", "gpu"], "{.spec.podCIDRs}").unwrap();
    for end in ["down", "kill -9"] {
        let name = lab.name().to_owned();
        if end == "down" {
            drop(lab);
        } else {
            lab.kill();
        }
        // The same command, though there are other nodes now.
        lab = Lab::up_as(name, &flags);
        assert_eq!(node_names(&lab), ["gpu", "node-2"], "after {end}");
        assert_eq!(lab.sh("gpu", "cat /var/lib/weft/by-hand").ok(), "written\n");
        assert_eq!(
            lab.field(&["node", "gpu"], "{.spec.podCIDRs}").unwrap(),
            ranges
        );
    }
    assert!(
        !kept.join("nodes/node-1").exists(),
        "what was removed is gone from the disk"
    );
}
