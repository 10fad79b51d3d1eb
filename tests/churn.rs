//! Pods that come and go, and what they leave: nothing.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use crate::lab::{self, Lab, eventually, expect};

/// How many pods there are at one time.
pub(crate) const AT_ONCE: usize = 20;
/// What may die at any moment.
pub(crate) const PARTS: [&str; 3] = [
    "weft internal kubelet",
    "weft internal controllers",
    "weft internal apiserver",
];

/// What a node has, by kind: each pod that is gone must have taken its own with it.
const INVENTORY: &str = r#"
for process in /proc/[0-9]*; do echo "process $(cat $process/comm 2>/dev/null)"; done
echo "mounts $(wc -l </proc/1/mountinfo)"
ip -br link | sed 's/^/link /;s/  *$//'
ip route | sed 's/^/route /'
ls /var/lib/cni/networks/weft | grep -v last_reserved | sed 's/^/address /'
ls /run/weft/attachments | sed 's/^/attachment /'
ls /run/netns 2>/dev/null | sed 's/^/namespace /'
ls /var/lib/kubelet/pods 2>/dev/null | sed 's/^/volumes /'
"#;

fn inventory(lab: &Lab) -> Result<Vec<Vec<String>>, String> {
    ["node-1", "node-2"]
        .into_iter()
        .map(|node| {
            let said = lab.sh(node, INVENTORY).result()?;
            let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
            lines.sort();
            Ok(lines)
        })
        .collect()
}

/// Makes and deletes pods, in rounds; with `victims` one of those parts dies twice in every
/// round, as pods come and as they go.
pub(crate) fn pods_come_and_go(name: &str, rounds: usize, victims: &[&str]) {
    let lab = Lab::up(name, &[]);
    lab.pods_ready("kube-system", "");
    // A first pod makes what the node keeps.
    churn(&lab, "first", None);
    let before = inventory(&lab).unwrap();
    for round in 0..rounds {
        let victim = (!victims.is_empty()).then(|| victims[round % victims.len()]);
        churn(&lab, &format!("round-{round}"), victim);
        eventually(&format!("round {round}: the nodes are as before"), || {
            let now = inventory(&lab)?;
            let differences: Vec<_> = now
                .iter()
                .zip(&before)
                .flat_map(|(now, before)| difference(now, before))
                .collect();
            expect(differences, Vec::is_empty)
        });
    }
    // However many pods there were and whatever died: once connections that wait for their next
    // use are closed, each part holds what it holds in a lab where nothing has happened.
    for (part, most) in DESCRIPTORS {
        eventually(&format!("{part} holds at most {most} descriptors"), || {
            expect(descriptors(&lab, part), |held| *held <= most)
        });
    }
}

/// How many descriptors a process of a part may hold when nothing goes on: what it was seen to
/// hold in a lab of two nodes (82, of which 67 are connections, 40, 21 and 19; most are watches),
/// and requests that are under way (a Lease is renewed, an Event is told).
const DESCRIPTORS: [(&str, usize); 4] = [
    ("weft internal apiserver", 100),
    ("weft internal controllers", 46),
    ("weft internal kubelet", 26),
    ("weft agent", 24),
];

/// How many descriptors the processes of a part hold, at the most.
fn descriptors(lab: &Lab, part: &str) -> usize {
    let held = lab
        .processes(part)
        .into_iter()
        .map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count));
    held.max().unwrap_or_default()
}

/// Lines that one has more often than the other.
fn difference(now: &[String], before: &[String]) -> Vec<String> {
    let count =
        |lines: &[String], line: &String| lines.iter().filter(|other| *other == line).count();
    now.iter()
        .chain(before)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|line| count(now, line) != count(before, line))
        .map(|line| {
            format!(
                "{line}: {} and before {}",
                count(now, line),
                count(before, line)
            )
        })
        .collect()
}

/// Makes pods, waits until they run, deletes them, and waits until they are gone.
fn churn(lab: &Lab, namespace: &str, victim: Option<&str>) {
    let strike = || {
        if let Some(part) = victim {
            let one = lab.processes(part).into_iter().next();
            lab.kill_part(part, one.unwrap());
        }
    };
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
    })];
    objects.extend((0..AT_ONCE).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": format!("pod-{number}"),
                "labels": {"app": "churn"}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": format!("node-{}", number % 2 + 1)},
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": "pause"}],
            },
        })
    }));
    let objects = lab::probe::manifest(&objects);
    // An API server that died has to be asked again.
    let apply = || lab.kubectl_apply(namespace, &objects).result();
    eventually("the pods are made", apply);
    strike();
    lab.pods_ready(namespace, "app=churn");
    let delete = ["delete", "namespace", namespace, "--ignore-not-found"];
    eventually("the namespace is asked to go", || {
        lab.kubectl(&[&delete[..], &["--wait=false"]].concat())
            .result()
    });
    strike();
    eventually("the namespace is gone", || {
        let left = ["get", "namespace", namespace, "--ignore-not-found"];
        expect(lab.kubectl(&left).result()?, String::is_empty)
    });
}
