//! What a pod's containers have to themselves, and what they share.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::json;

use crate::lab::{Lab, eventually, expect};

static LAB: LazyLock<Lab> = LazyLock::new(|| {
    let lab = Lab::up("pods", &["--ip-family", "dual"]);
    lab.apply(
        "default",
        &json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "two", "labels": {"tier": "front"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "nodeName": "node-1",
                "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["elsewhere.example"]}],
                "containers": [
                    {
                        "name": "asks",
                        "image": "busybox",
                        "command": ["sleep", "infinity"],
                        "env": [
                            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                            {"name": "GREETING", "value": "hello from $(NODE)"},
                            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        ],
                    },
                    {"name": "answers", "image": "weft/echo"},
                ],
            },
        })
        .to_string(),
    );
    lab.apply(
        "default",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "neighbour"},
            "spec": {"terminationGracePeriodSeconds": 0, "nodeName": "node-1",
                     "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "infinity"]}]}}"#,
    );
    lab.pods_ready("default", "");
    // Nobody probes it: it runs before it listens.
    eventually("the second container listens", || {
        lab.sh("default/two", "curl -fsS -m 5 http://127.0.0.1:8080")
            .result()
    });
    lab
});

fn two(script: &str) -> String {
    LAB.sh("default/two", script).ok()
}

#[test]
fn containers_of_a_pod_meet_on_localhost() {
    for address in ["127.0.0.1", "[::1]", "localhost"] {
        let said = two(&format!("curl -fsS -m 5 http://{address}:8080"));
        assert!(said.starts_with("pod: two\n"), "{address}: {said}");
    }
    // Nobody else does: it is the pod's own.
    let neighbour = LAB.sh("default/neighbour", "curl -sS -m 5 http://127.0.0.1:8080");
    assert_eq!(neighbour.code, Some(7), "{neighbour}");
    let node = LAB.sh("node-1", "curl -sS -m 5 http://127.0.0.1:8080");
    assert_eq!(node.code, Some(7), "{node}");
}

#[test]
fn a_container_is_chosen_by_its_name() {
    for (container, greeting) in [("asks", "hello from node-1\n"), ("answers", "\n")] {
        let said = LAB.weft(
            &["exec"],
            &[
                "--container",
                container,
                "two",
                "--",
                "sh",
                "-c",
                "echo $GREETING",
            ],
        );
        assert_eq!(said.ok(), greeting, "{container}");
    }
}

#[test]
fn a_pod_knows_its_name_and_addresses() {
    let ips = LAB.pod_ips("default", "two");
    assert_eq!(ips.len(), 2);
    assert_eq!(two("hostname"), "two\n");
    assert_eq!(two("echo $IP"), format!("{}\n", ips[0]));
    assert_eq!(
        two("echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"),
        "10.96.0.1:443\n"
    );

    let hosts = two("cat /etc/hosts");
    for ip in &ips {
        assert!(hosts.contains(&format!("{ip}\ttwo\n")), "{hosts}");
    }
    assert!(hosts.contains("127.0.0.1\tlocalhost\n"), "{hosts}");
    assert!(hosts.contains("192.0.2.7\telsewhere.example\n"), "{hosts}");

    let resolver = two("cat /etc/resolv.conf");
    assert!(
        resolver.contains("search default.svc.cluster.local svc.cluster.local cluster.local\n"),
        "{resolver}"
    );
    assert!(resolver.contains("nameserver 10.96.0.10\n"), "{resolver}");
    assert!(resolver.contains("options ndots:5\n"), "{resolver}");
}

#[test]
fn devices_work() {
    assert_eq!(two("echo gone > /dev/null && cat /dev/null | wc -c"), "0\n");
    assert_eq!(two("head -c 16 /dev/urandom | wc -c"), "16\n");
    assert_eq!(two("head -c 4 /dev/zero | od -An -tx1"), " 00 00 00 00\n");
    assert_eq!(
        two("echo shared > /dev/shm/x && cat /dev/shm/x"),
        "shared\n"
    );
    // The machine's disks are not among them.
    assert_eq!(two("find /dev -type b | wc -l"), "0\n");
}

#[test]
fn each_pod_sees_its_own_processes() {
    let processes = |target| {
        LAB.sh(target, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            .ok()
    };
    let mine = processes("default/two");
    assert!(
        mine.contains("weft program echo") && mine.contains("sleep infinity"),
        "{mine}"
    );
    assert!(
        !mine.contains("kubelet") && !mine.contains("neighbour"),
        "{mine}"
    );
    let neighbours = processes("default/neighbour");
    assert!(!neighbours.contains("weft program echo"), "{neighbours}");

    for kind in ["net", "pid", "mnt", "uts", "ipc"] {
        let link = format!("readlink /proc/self/ns/{kind}");
        let seen = ["default/two", "default/neighbour", "node-1", "node-2"]
            .map(|target| LAB.sh(target, &link).ok());
        let mut distinct = seen.to_vec();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), seen.len(), "{kind}: {seen:?}");
    }
}

#[test]
fn what_a_pod_writes_stays_in_the_pod() {
    let mark = format!("weft-e2e-{}", std::process::id());
    for folder in ["/etc", "/usr/local", "/tmp", "/var/lib", "/opt"] {
        let path = format!("{folder}/{mark}");
        assert_eq!(two(&format!("echo mine > {path} && cat {path}")), "mine\n");
        assert!(!Path::new(&path).exists(), "{path} is on the machine");
        for other in ["default/neighbour", "node-1"] {
            let seen = LAB.exec(other, &["test", "-e", &path]);
            assert_eq!(seen.code, Some(1), "{path} is in {other}: {seen}");
        }
    }
    // What the machine has can be changed, for oneself.
    let before = std::fs::read_to_string("/etc/passwd").unwrap();
    assert_eq!(
        two("echo changed > /etc/passwd && cat /etc/passwd"),
        "changed\n"
    );
    assert_eq!(std::fs::read_to_string("/etc/passwd").unwrap(), before);
    assert_eq!(LAB.sh("default/neighbour", "cat /etc/passwd").ok(), before);
}

#[test]
fn a_container_that_ends_starts_again() {
    LAB.apply(
        "default",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fragile"},
            "spec": {"terminationGracePeriodSeconds": 0,
                     "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "987654"]}]}}"#,
    );
    LAB.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/fragile",
        "--timeout=90s",
    ])
    .ok();
    let ips = LAB.pod_ips("default", "fragile");
    // With its first process all others of the container end: the shell too, sooner or later.
    let _ended = LAB.sh("default/fragile", "kill -9 $(pidof sleep)");
    eventually("it runs again, and the pod is the same", || {
        let count = LAB.field(
            &["pod", "fragile"],
            "{.status.containerStatuses[0].restartCount}",
        )?;
        expect(count, |count| count == "1")?;
        let last = LAB.field(
            &["pod", "fragile"],
            "{.status.containerStatuses[0].lastState.terminated.exitCode}",
        )?;
        expect(last, |last| last == "137")?;
        LAB.sh("default/fragile", "pidof sleep").result()
    });
    assert_eq!(LAB.pod_ips("default", "fragile"), ips);
}

#[test]
fn a_pod_that_has_done_its_work_has_succeeded() {
    LAB.apply(
        "default",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "once"},
            "spec": {"restartPolicy": "Never",
                     "containers": [{"name": "c", "image": "busybox", "command": ["true"]}]}}"#,
    );
    eventually("it has succeeded", || {
        let phase = LAB.field(&["pod", "once"], "{.status.phase}")?;
        expect(phase, |phase| phase == "Succeeded")
    });
    let said = LAB.kubectl(&["get", "pod", "once", "--no-headers"]).ok();
    assert!(said.contains("0/1") && said.contains("Completed"), "{said}");
}
