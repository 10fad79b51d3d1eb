//! Nodes: their pod ranges, and whether they are alive.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::json;
use weft_kube::k8s_openapi::api::core::v1::{Node, Pod, Taint};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weft_kube::kube::api::{Patch, PatchParams};
use weft_kube::kube::{Api, ResourceExt};
use weft_model::ObjectKey;

use super::orphans::pods_on;
use super::replicas::is_ready;
use super::world::{LEASES, World, api};
use super::{Context, During, Error, Options};
use crate::events::Severity;
use weft_kinds::node_ranges::Given;

const COMPONENT: &str = "node-controller";
/// A node whose lease is older is taken for dead (default of kube-controller-manager's
/// `--node-monitor-grace-period` in Kubernetes 1.32).
pub const NODE_GRACE: Duration = Duration::from_secs(50);
/// What only the kubelet can know (Kubernetes' node lifecycle controller).
const KUBELET_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";

pub(super) struct Nodes {
    context: Context,
    options: Options,
    given: RefCell<Given>,
    started: Instant,
}

/// What is known of a node's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Ready,
    NotReady,
    /// It has not been heard of for long.
    Unknown,
}

impl Nodes {
    pub(super) fn new(context: Context, options: Options) -> Self {
        Self {
            context,
            options,
            given: RefCell::default(),
            started: Instant::now(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let (node, ranges, health, next_look) = {
            let world = self.context.world.borrow();
            let Some(node) = world.nodes.get(&key).cloned() else {
                self.given.borrow_mut().take_back(&key.name);
                return Ok(None);
            };
            let ranges = if has_ranges(&node) {
                Ok(Vec::new())
            } else {
                self.free_ranges(&world, &key.name)
            };
            // What was not watched was not heard either: a node has the whole time from our start.
            let watched_for = self.started.elapsed();
            let silent_for = silence(&world, &key).map(|silent| silent.min(watched_for));
            let grace = self.options.node_grace;
            let health = health(&node, silent_for, grace);
            // Look again when the lease would have run out.
            let next = silent_for.and_then(|silent| grace.checked_sub(silent));
            (node, ranges, health, next)
        };
        let nodes: Api<Node> = Api::all(self.context.client.clone());
        match ranges {
            Ok(ranges) if ranges.is_empty() => {}
            Ok(ranges) => {
                let patch = json!({
                    "metadata": {"resourceVersion": node.resource_version()},
                    "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
                });
                nodes
                    .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .during(|| format!("giving Node {} its pod range", key.name))?;
                // What follows from the node's health comes with the event of this write.
                return Ok(None);
            }
            Err(range) => self.context.recorder.say(
                &*node,
                COMPONENT,
                Severity::Warning,
                "CIDRNotAvailable",
                format!("Node {} has no pod range: {range} has none left", key.name),
            ),
        }
        if health == Health::Unknown {
            self.mark_unknown(&nodes, &node).await?;
            self.mark_pods_not_ready(&key).await?;
        }
        self.write_taints(&nodes, &node, health).await?;
        Ok(next_look.map(|pause| pause + Duration::from_secs(1)))
    }

    /// The ranges for a node, or the pod range that has none left.
    fn free_ranges(&self, world: &World, node: &str) -> Result<Vec<IpNet>, IpNet> {
        let mut taken = self.options.reserved.clone();
        taken.extend(
            world
                .nodes
                .values()
                .flat_map(|node| {
                    node.spec
                        .iter()
                        .flat_map(|spec| spec.pod_cidrs.iter().flatten())
                })
                .filter_map(|range| range.parse::<IpNet>().ok()),
        );
        let Options {
            pod_cidrs,
            masks,
            chosen,
            ..
        } = &self.options;
        let own = |(of, _): &&(String, IpNet)| of == node;
        let wanted: Vec<IpNet> = chosen.iter().filter(own).map(|(_, part)| *part).collect();
        taken.extend(chosen.iter().filter(|one| !own(one)).map(|(_, part)| *part));
        let mut given = self.given.borrow_mut();
        given.give(node, pod_cidrs, *masks, &wanted, taken)
    }

    async fn mark_unknown(&self, nodes: &Api<Node>, node: &Node) -> Result<(), Error> {
        if condition(node, "Ready") == Some("Unknown") {
            return Ok(());
        }
        let now = now();
        let conditions = KUBELET_CONDITIONS.map(|kind| {
            json!({
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": now,
            })
        });
        let patch = json!({"status": {"conditions": conditions}});
        nodes
            .patch_status(
                &node.name_any(),
                &PatchParams::default(),
                &Patch::Strategic(&patch),
            )
            .await
            .settled(404, || {
                format!("marking Node {} as unknown", node.name_any())
            })?;
        self.context.recorder.say(
            node,
            COMPONENT,
            Severity::Normal,
            "NodeNotReady",
            format!("Node {} status is now: NodeNotReady", node.name_any()),
        );
        Ok(())
    }

    /// Nobody tells how they are any more, so nothing is to be sent to them.
    async fn mark_pods_not_ready(&self, key: &ObjectKey) -> Result<(), Error> {
        let ready: Vec<_> = {
            let world = self.context.world.borrow();
            let pods = pods_on(&world, &key.name).into_iter();
            pods.filter_map(|pod| Some((pod.clone(), world.pods.get(&pod)?.clone())))
                .filter(|(_, pod)| is_ready(pod))
                .collect()
        };
        for (pod_key, pod) in ready {
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [{
                "type": "Ready",
                "status": "False",
                "lastTransitionTime": now(),
            }]}});
            let marked = api::<Pod>(&self.context.client, &pod_key)
                .patch_status(
                    &pod_key.name,
                    &PatchParams::default(),
                    &Patch::Strategic(&patch),
                )
                .await
                .settled(404, || format!("marking Pod {pod_key} as not ready"))?;
            if marked.is_some() {
                self.context.recorder.say(
                    &*pod,
                    COMPONENT,
                    Severity::Warning,
                    "NodeNotReady",
                    "Node is not ready",
                );
            }
        }
        Ok(())
    }

    /// Keeps new pods off a node that can't run them, and has those it has leave in time.
    async fn write_taints(
        &self,
        nodes: &Api<Node>,
        node: &Node,
        health: Health,
    ) -> Result<(), Error> {
        let present: Vec<Taint> = node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.clone())
            .unwrap_or_default();
        let wanted = with_taints(&present, health, jiff::Timestamp::now());
        let wanted = with_network_taint(wanted, condition(node, "NetworkUnavailable"));
        if wanted == present {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": node.resource_version()},
            // None is no list, not an empty one.
            "spec": {"taints": Some(wanted).filter(|taints| !taints.is_empty())},
        });
        nodes
            .patch(
                &node.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
            .during(|| format!("tainting Node {}", node.name_any()))?;
        Ok(())
    }
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn has_ranges(node: &Node) -> bool {
    node.spec.as_ref().is_some_and(|spec| {
        spec.pod_cidrs
            .as_ref()
            .is_some_and(|ranges| !ranges.is_empty())
    })
}

/// The status of one of a node's conditions.
fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

fn health(node: &Node, silent_for: Option<Duration>, grace: Duration) -> Health {
    if silent_for.is_some_and(|silent| silent > grace) {
        return Health::Unknown;
    }
    match condition(node, "Ready") {
        Some("True") => Health::Ready,
        Some("Unknown") => Health::Unknown,
        Some(_) | None => Health::NotReady,
    }
}

/// How long ago the node renewed its lease; none without a lease.
fn silence(world: &World, key: &ObjectKey) -> Option<Duration> {
    let lease = world.leases.get(&ObjectKey::new(LEASES, &key.name))?;
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    let seconds = jiff::Timestamp::now().duration_since(renewed);
    Some(Duration::try_from(seconds).unwrap_or_default())
}

fn with_taints(present: &[Taint], health: Health, now: jiff::Timestamp) -> Vec<Taint> {
    let key = match health {
        Health::Ready => None,
        Health::NotReady => Some(NOT_READY),
        Health::Unknown => Some(UNREACHABLE),
    };
    let ours = |taint: &Taint| {
        ["NoSchedule", "NoExecute"].contains(&&*taint.effect)
            && [NOT_READY, UNREACHABLE].contains(&&*taint.key)
    };
    let mut taints: Vec<Taint> = present
        .iter()
        .filter(|taint| !ours(taint) || Some(&*taint.key) == key)
        .cloned()
        .collect();
    for effect in ["NoSchedule", "NoExecute"] {
        let is_there = |key: &str| {
            let mut taints = taints.iter();
            taints.any(|taint| taint.key == key && taint.effect == effect)
        };
        if let Some(key) = key.filter(|key| !is_there(key)) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                // Tolerations for a time count from here.
                time_added: (effect == "NoExecute").then_some(Time(now)),
                ..Taint::default()
            });
        }
    }
    taints
}

/// Keeps new pods off a node whose network is not there.
fn with_network_taint(mut taints: Vec<Taint>, unavailable: Option<&str>) -> Vec<Taint> {
    let ours = |taint: &Taint| taint.key == NETWORK_UNAVAILABLE && taint.effect == "NoSchedule";
    match unavailable {
        Some("True") if !taints.iter().any(ours) => taints.push(Taint {
            key: NETWORK_UNAVAILABLE.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        }),
        Some("False") => taints.retain(|taint| !ours(taint)),
        Some(_) | None => {}
    }
    taints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_network_is_tainted_while_it_says_so() {
        let tainted = with_network_taint(Vec::new(), Some("True"));
        assert_eq!(tainted[0].key, NETWORK_UNAVAILABLE);
        for unsaid in [None, Some("Unknown"), Some("True")] {
            assert_eq!(with_network_taint(tainted.clone(), unsaid), tainted);
        }
        assert_eq!(with_network_taint(tainted, Some("False")), []);
    }

    #[test]
    fn taints_follow_health_and_leave_others_alone() {
        let foreign = Taint {
            key: "dedicated".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let sick = with_taints(std::slice::from_ref(&foreign), Health::NotReady, at(1));
        let said = |taints: &[Taint]| -> Vec<String> {
            let taints = taints.iter();
            taints
                .map(|taint| format!("{}:{}", taint.key, taint.effect))
                .collect()
        };
        assert_eq!(
            said(&sick)[1..],
            [
                format!("{NOT_READY}:NoSchedule"),
                format!("{NOT_READY}:NoExecute")
            ]
        );
        let lost = with_taints(&sick, Health::Unknown, at(2));
        assert_eq!(
            said(&lost)[1..],
            [
                format!("{UNREACHABLE}:NoSchedule"),
                format!("{UNREACHABLE}:NoExecute")
            ]
        );
        assert_eq!(lost[2].time_added, Some(Time(at(2))));
        // The time from which tolerations count stays.
        assert_eq!(with_taints(&lost, Health::Unknown, at(3)), lost);
        assert_eq!(with_taints(&lost, Health::Ready, at(4)), [foreign]);
    }
}
