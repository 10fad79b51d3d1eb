//! What should happen to the pods of a DaemonSet: the decisions of Kubernetes' DaemonSet
//! controller, without its loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_kube::k8s_openapi::api::apps::v1::DaemonSetSpec;
use weft_kube::k8s_openapi::api::core::v1::Pod;
use weft_kube::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_kube::kube::{Resource, ResourceExt};

use super::daemons::REVISION_HASH;
use super::replicas::{available_in, is_active};
use super::rollout::Bounds;
use super::scheduling::is_finished;
use crate::placement::Daemon;

/// Each node and whether the daemon belongs there.
pub(super) type Verdicts = BTreeMap<String, Daemon>;

/// What should happen to the pods of a DaemonSet.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create_on: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
}

/// The nodes that want the daemon.
pub(super) fn wanted(verdicts: &Verdicts) -> BTreeSet<&str> {
    verdicts
        .iter()
        .filter(|(_, daemon)| **daemon == Daemon::Runs)
        .map(|(node, _)| node.as_str())
        .collect()
}

/// Whether a pod is of the version of the template with this hash.
pub(super) fn is_of(pod: &Pod, hash: &str) -> bool {
    pod.labels()
        .get(REVISION_HASH)
        .is_some_and(|label| label == hash)
}

/// One pod on each wanted node, none elsewhere. Pods of an older template are replaced: as fast as
/// `maxUnavailable` allows, or, with `maxSurge`, after the next one is available beside them.
pub(super) fn plan(
    spec: &DaemonSetSpec,
    hash: &str,
    verdicts: &Verdicts,
    by_node: &BTreeMap<String, Vec<Arc<Pod>>>,
    now: jiff::Timestamp,
) -> Plan {
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let available =
        |pod: &Pod| available_in(pod, min_ready, now).is_some_and(|left| left.is_zero());
    let wanted = wanted(verdicts);
    let pace = Pace::of(spec, wanted.len());
    let mut plan = Plan::default();
    let mut places = Vec::new();
    for node in wanted {
        let there = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        // A finished daemon is replaced.
        let finished = there.iter().filter(|pod| is_finished(pod));
        plan.delete.extend(finished.cloned());
        let place = Place::of(node, there, hash, matches!(pace, Pace::Surge(_)), available);
        plan.delete.extend(place.surplus.iter().cloned());
        // Two daemons on one node would fight: the next waits until the last has gone.
        let leaving = there.iter().any(|pod| !is_active(pod) && !is_finished(pod));
        if place.old.is_none() && place.new.is_none() && !leaving {
            plan.create_on.push(node.to_owned());
        }
        places.push(place);
    }
    let leaves = |node: &String| {
        verdicts
            .get(node)
            .is_none_or(|daemon| *daemon == Daemon::Leaves)
    };
    for (_, pods) in by_node.iter().filter(|(node, _)| leaves(node)) {
        plan.delete.extend(
            pods.iter()
                .filter(|pod| pod.meta().deletion_timestamp.is_none())
                .cloned(),
        );
    }
    match pace {
        Pace::OnDelete => {}
        Pace::Unavailable(most) => replace(&mut plan, &places, most, available),
        Pace::Surge(most) => surge(&mut plan, &places, most, available),
    }
    plan
}

/// How pods of an older template are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// By whoever deletes them.
    OnDelete,
    /// Deleted first; so many nodes may be without one.
    Unavailable(usize),
    /// The next one comes first; on so many nodes at a time.
    Surge(usize),
}

impl Pace {
    fn of(spec: &DaemonSetSpec, nodes: usize) -> Self {
        let strategy = spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return Pace::OnDelete;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let nodes = i32::try_from(nodes).unwrap_or(i32::MAX);
        // A share is rounded up in both, unlike in a Deployment: as Bounds rounds surge.
        let number = |value: &IntOrString| {
            let number = Bounds::resolve(Some(value), None, nodes).surge;
            usize::try_from(number).unwrap_or(0)
        };
        let most = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let most_unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        match (most.map_or(0, number), most_unavailable.map_or(1, number)) {
            (0, unavailable) => Pace::Unavailable(unavailable.max(1)),
            (surge, _) => Pace::Surge(surge),
        }
    }
}

/// A node that wants the daemon, and what it has of it.
struct Place<'a> {
    node: &'a str,
    /// One of an older template.
    old: Option<&'a Arc<Pod>>,
    /// One of the newest.
    new: Option<&'a Arc<Pod>>,
    /// Those that are too many.
    surplus: Vec<Arc<Pod>>,
}

impl<'a> Place<'a> {
    fn of(
        node: &'a str,
        there: &'a [Arc<Pod>],
        hash: &str,
        may_have_two: bool,
        available: impl Fn(&Pod) -> bool,
    ) -> Self {
        let mut active: Vec<&Arc<Pod>> = there.iter().filter(|pod| is_active(pod)).collect();
        active.sort_by_key(|pod| pod.creation_timestamp());
        if may_have_two {
            // The one that works holds the place for the next.
            active.sort_by_key(|pod| !available(pod));
        }
        let mut place = Place {
            node,
            old: None,
            new: None,
            surplus: Vec::new(),
        };
        for pod in active {
            let is_new = is_of(pod, hash);
            let (same, other) = match is_new {
                true => (&mut place.new, &place.old),
                false => (&mut place.old, &place.new),
            };
            if same.is_some() || (other.is_some() && !may_have_two) {
                place.surplus.push(Arc::clone(pod));
            } else {
                *same = Some(pod);
            }
        }
        place
    }
}

/// Deletes what is old, as long as `most` nodes at the most are without the daemon.
fn replace(plan: &mut Plan, places: &[Place<'_>], most: usize, available: impl Fn(&Pod) -> bool) {
    let serves = |place: &&Place<'_>| place.old.or(place.new).is_some_and(|pod| available(pod));
    let mut unavailable = places.len() - places.iter().filter(serves).count();
    for pod in places.iter().filter_map(|place| place.old) {
        // One that is not available serves nobody: replacing it makes nothing worse.
        let free = !available(pod);
        if free || unavailable < most {
            unavailable += usize::from(!free);
            plan.delete.push(Arc::clone(pod));
        }
    }
}

/// Makes the next one beside what is old, on `most` nodes at a time, and deletes the old one when
/// the next is available.
fn surge(plan: &mut Plan, places: &[Place<'_>], most: usize, available: impl Fn(&Pod) -> bool) {
    let begun = places
        .iter()
        .filter(|place| place.old.is_some() && place.new.is_some_and(|new| !available(new)));
    let mut room = most.saturating_sub(begun.count());
    for place in places {
        let Some(old) = place.old else {
            continue;
        };
        match place.new {
            Some(new) if available(new) => plan.delete.push(Arc::clone(old)),
            Some(_) => {}
            // Nobody would miss it: its place is as good as free.
            None if !available(old) => plan.create_on.push(place.node.to_owned()),
            None if room > 0 => {
                room -= 1;
                plan.create_on.push(place.node.to_owned());
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_000;

    /// `NAME NODE VERSION AGE STATE`; it became what it is when it was made.
    fn pod(line: &str) -> (String, Arc<Pod>) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, node, hash, age, state] = fields[..] else {
            panic!("{line}");
        };
        let age: i64 = age.parse().unwrap();
        let made = jiff::Timestamp::from_second(NOW - age).unwrap();
        let mut pod = json!({
            "metadata": {
                "name": name,
                "labels": {REVISION_HASH: hash},
                "creationTimestamp": made.to_string(),
            },
            "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{
                "type": "Ready",
                "status": if state == "ready" { "True" } else { "False" },
                "lastTransitionTime": made.to_string(),
            }]},
        });
        match state {
            "leaving" => pod["metadata"]["deletionTimestamp"] = json!(made.to_string()),
            "failed" => pod["status"]["phase"] = json!("Failed"),
            _ => {}
        }
        (
            node.to_owned(),
            Arc::new(serde_json::from_value(pod).unwrap()),
        )
    }

    /// The nodes on which a pod is made, and the pods that are deleted, of nodes a to d that want
    /// the daemon's version `new`.
    fn planned(strategy: Value, pods: &[&str]) -> (String, String) {
        let mut spec = json!({
            "selector": {},
            "template": {},
            "minReadySeconds": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": strategy},
        });
        if strategy == "OnDelete" {
            spec["updateStrategy"] = json!({"type": "OnDelete"});
        }
        let spec: DaemonSetSpec = serde_json::from_value(spec).unwrap();
        let verdicts = ["a", "b", "c", "d"].map(|node| (node.to_owned(), Daemon::Runs));
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for line in pods {
            let (node, pod) = pod(line);
            by_node.entry(node).or_default().push(pod);
        }
        let now = jiff::Timestamp::from_second(NOW).unwrap();
        let plan = plan(&spec, "new", &verdicts.into(), &by_node, now);
        let deleted: Vec<String> = plan.delete.iter().map(|pod| pod.name_any()).collect();
        (plan.create_on.join(" "), deleted.join(" "))
    }

    fn both(create_on: &str, delete: &str) -> (String, String) {
        (create_on.to_owned(), delete.to_owned())
    }

    const OLD: [&str; 4] = [
        "1 a old 90 ready",
        "2 b old 90 ready",
        "3 c old 90 ready",
        "4 d old 90 ready",
    ];

    #[test]
    fn old_pods_go_as_far_as_may_be_unavailable() {
        let pace = |most: Value| json!({"maxUnavailable": most});
        assert_eq!(planned(pace(json!(2)), &OLD), both("", "1 2"));
        // A share is rounded up.
        assert_eq!(planned(pace(json!("30%")), &OLD), both("", "1 2"));
        assert_eq!(planned(json!({}), &OLD), both("", "1"));
        assert_eq!(planned(json!("OnDelete"), &OLD), both("", ""));
        // One is missing, so another may not be, but for one that serves nobody.
        let pods = ["2 b old 90 ready", "3 c old 90 ready", "4 d old 90 no"];
        assert_eq!(planned(pace(json!(1)), &pods), both("a", "4"));
        // It is available ten seconds after it became ready, and not before.
        let mut pods = OLD;
        pods[0] = "1 a new 9 ready";
        assert_eq!(planned(pace(json!(1)), &pods), both("", ""));
        pods[0] = "1 a new 10 ready";
        assert_eq!(planned(pace(json!(1)), &pods), both("", "2"));
    }

    #[test]
    fn with_surge_the_next_one_comes_before_the_last_one_goes() {
        let surge = |most: Value| json!({"maxSurge": most, "maxUnavailable": 0});
        assert_eq!(planned(surge(json!(1)), &OLD), both("a", ""));
        assert_eq!(planned(surge(json!("30%")), &OLD), both("a b", ""));
        let beside = |line: &'static str| [&OLD[..], &[line]].concat();
        // Until it is available the last one stays, and no other begins.
        assert_eq!(
            planned(surge(json!(1)), &beside("5 a new 9 ready")),
            both("", "")
        );
        assert_eq!(
            planned(surge(json!(2)), &beside("5 a new 9 ready")),
            both("b", "")
        );
        assert_eq!(
            planned(surge(json!(1)), &beside("5 a new 10 ready")),
            both("b", "1")
        );
        // Who leaves holds nobody up.
        let mut pods = beside("5 a new 10 ready");
        pods[0] = "1 a old 90 leaving";
        assert_eq!(planned(surge(json!(1)), &pods), both("b", ""));
        // One that serves nobody gets its successor beyond the bound.
        let mut pods = OLD;
        pods[3] = "4 d old 90 no";
        assert_eq!(planned(surge(json!(1)), &pods), both("a d", ""));
        // Of two old ones the one that works stays, older or not.
        let mut pods = beside("5 a older 200 no");
        assert_eq!(planned(surge(json!(1)), &pods), both("a", "5"));
        pods.push("6 a new 1 no");
        assert_eq!(planned(surge(json!(1)), &pods), both("", "5"));
    }

    #[test]
    fn every_node_has_one() {
        let pods = [
            "1 a new 90 failed",
            "2 b new 90 leaving",
            "3 c new 90 ready",
        ];
        assert_eq!(planned(json!({}), &pods), both("a d", "1"));
        // Of two the older one stays.
        let pods = [
            "1 a new 20 ready",
            "2 a new 90 ready",
            "3 b new 90 ready",
            "4 c new 90 ready",
            "5 d new 90 ready",
            "6 elsewhere new 90 ready",
        ];
        assert_eq!(planned(json!({}), &pods), both("", "1 6"));
    }
}
