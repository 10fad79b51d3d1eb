//! Nodes that have no pod ranges get theirs, for as long as this process leads.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;

use futures::StreamExt;
use ipnet::IpNet;
use tokio::pin;
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tracing::{info, warn};
use weft_kinds::node_ranges::{Fault, NodeRanges, Settings};
use weft_kube::kube;
use weft_kube::{
    Client, Leading, NodeEvents, NodeWarning, Pauses, RangedNode, RangedUpdate, Terms,
    give_node_ranges, watch_node_ranges,
};
use weft_model::NodeName;

/// How many updates are taken before ranges are given, if that many wait.
const LARGEST_BATCH: usize = 4096;
/// How many nodes are written at once.
const AT_ONCE: usize = 8;
/// For how many nodes ranges are chosen before those are written and the watch is heard.
const LARGEST_PASS: usize = 64;
/// How long a write may take at most.
const WRITE: Duration = Duration::from_secs(4);

/// The ranges of a cluster's nodes, as one leader knows them.
pub(super) struct Allocation {
    client: Client,
    leading: Leading,
    /// How long a write may take.
    write_within: Duration,
    events: NodeEvents,
    ranges: NodeRanges,
    nodes: BTreeMap<String, RangedNode>,
    /// Nodes that were written, and the watch does not tell yet.
    written: BTreeSet<String>,
    /// Nodes that could not be written; they are tried again later.
    failed: BTreeSet<String>,
    /// Nodes whose last write had no answer: the API may do it yet.
    unanswered: BTreeSet<String>,
    /// Nodes for which there was nothing left.
    exhausted: BTreeMap<String, Fault>,
    /// What has been said already.
    told: BTreeSet<(String, Fault)>,
    in_sync: bool,
}

/// What became of a write.
enum Outcome {
    Given(Vec<IpNet>),
    Refused(String),
    Unanswered(String),
    /// It was not begun.
    Left,
}

impl Outcome {
    fn of(answer: Result<Result<(), kube::Error>, Elapsed>, ranges: Vec<IpNet>) -> Self {
        match answer {
            Ok(Ok(())) => Self::Given(ranges),
            // A gateway's 504 is no answer of who does it.
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => {
                Self::Refused(status.to_string())
            }
            Ok(Err(error)) => Self::Unanswered(error.to_string()),
            Err(_) => Self::Unanswered("the API does not answer".to_owned()),
        }
    }
}

/// How long a write may take: it is over before others lead.
fn write_within(terms: &Terms) -> Duration {
    WRITE.min(terms.grace())
}

impl Allocation {
    pub(super) fn new(
        client: &Client,
        settings: Settings,
        leading: Leading,
        terms: &Terms,
        events: &NodeEvents,
    ) -> Self {
        Self {
            client: client.clone(),
            leading,
            write_within: write_within(terms),
            events: events.clone(),
            ranges: NodeRanges::new(settings),
            nodes: BTreeMap::new(),
            written: BTreeSet::new(),
            failed: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            exhausted: BTreeMap::new(),
            told: BTreeSet::new(),
            in_sync: false,
        }
    }

    /// Until it is told to stop; what is being written then is finished. Returns whether the API
    /// has answered every write, so that it does none after this.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> bool {
        let updates = watch_node_ranges(&self.client).ready_chunks(LARGEST_BATCH);
        pin!(updates);
        let mut pauses = Pauses::default();
        let mut retry_at: Option<Instant> = None;
        let mut more = false;
        loop {
            tokio::select! {
                Some(batch) = updates.next() => batch.into_iter().for_each(|it| self.take(it)),
                () = until(retry_at) => {
                    retry_at = None;
                    self.failed.clear();
                }
                _ = stop.wait_for(|stop| *stop) => return self.unanswered.is_empty(),
                () = ready(()), if more => {}
            }
            // Before all nodes are known any range may be another's.
            if !self.in_sync {
                continue;
            }
            let writes = self.choose();
            more = writes.len() == LARGEST_PASS;
            self.write(writes, &stop).await;
            self.report();
            if self.failed.is_empty() {
                pauses = Pauses::default();
            } else if retry_at.is_none() {
                retry_at = pauses.next().map(|pause| Instant::now() + pause);
            }
        }
    }

    fn take(&mut self, update: RangedUpdate) {
        match update {
            RangedUpdate::Node(node) => {
                let before = self.nodes.get(&node.name);
                if before.is_some_and(|before| before.uid != node.uid) {
                    self.remove(&node.name.clone());
                }
                if !node.ranges.is_empty() {
                    self.written.remove(&node.name);
                    self.unanswered.remove(&node.name);
                    self.exhausted.remove(&node.name);
                }
                self.ranges.observe(&node.name, node.ranges.clone());
                self.nodes.insert(node.name.clone(), node);
            }
            RangedUpdate::Gone(name) => self.remove(&name),
            RangedUpdate::InSync => {
                if !self.in_sync {
                    info!(nodes = self.nodes.len(), "all nodes are known");
                }
                self.in_sync = true;
            }
            RangedUpdate::Interrupted(error) => {
                warn!(%error, "the watch of nodes broke and is tried again");
            }
        }
    }

    fn remove(&mut self, node: &str) {
        self.ranges.remove(node);
        self.nodes.remove(node);
        self.written.remove(node);
        self.failed.remove(node);
        self.unanswered.remove(node);
        self.exhausted.remove(node);
    }

    /// The ranges of some nodes that have none.
    fn choose(&mut self) -> Vec<(RangedNode, Vec<IpNet>)> {
        let without = self.ranges.without();
        let wanting: Vec<&RangedNode> = without
            .filter(|node| !self.written.contains(*node) && !self.failed.contains(*node))
            .filter_map(|node| self.nodes.get(node))
            .filter(|node| !node.leaving && node.unreadable.is_empty())
            .collect();
        let names = wanting.iter().map(|node| &*node.name);
        let (given, refused) = self.ranges.give_some(names, LARGEST_PASS);
        for node in given.keys() {
            self.exhausted.remove(node);
        }
        self.exhausted.extend(refused);
        let nodes = given.into_iter();
        nodes
            .filter_map(|(node, ranges)| Some((self.nodes.get(&node)?.clone(), ranges)))
            .collect()
    }

    async fn write(&mut self, writes: Vec<(RangedNode, Vec<IpNet>)>, stop: &watch::Receiver<bool>) {
        let (client, leading, within) = (&self.client, &self.leading, self.write_within);
        let write = |(node, ranges): (RangedNode, Vec<IpNet>)| async move {
            // A process that stood still may have lost the lease without having heard of it.
            if *stop.borrow() || !leading.is_so() {
                return (node, Outcome::Left);
            }
            let asked = timeout(within, give_node_ranges(client, &node, &ranges)).await;
            (node, Outcome::of(asked, ranges))
        };
        let mut outcomes =
            futures::stream::iter(writes.into_iter().map(write)).buffer_unordered(AT_ONCE);
        while let Some((node, outcome)) = outcomes.next().await {
            let node = node.name;
            let error = match outcome {
                Outcome::Given(ranges) => {
                    info!(node, ?ranges, "pod ranges given");
                    self.unanswered.remove(&node);
                    self.written.insert(node);
                    continue;
                }
                Outcome::Refused(error) => {
                    self.unanswered.remove(&node);
                    error
                }
                Outcome::Unanswered(error) => {
                    self.unanswered.insert(node.clone());
                    error
                }
                Outcome::Left => "left to the next leader".to_owned(),
            };
            warn!(node, error, "pod ranges not given yet");
            self.failed.insert(node);
        }
    }

    /// Says once what is wrong with the ranges of nodes.
    fn report(&mut self) {
        let faults = self.ranges.faults().into_iter();
        let mut now: BTreeSet<(String, Fault)> = faults
            .flat_map(|(node, faults)| faults.into_iter().map(move |fault| (node.clone(), fault)))
            .collect();
        let exhausted = self.exhausted.iter();
        now.extend(exhausted.map(|(node, fault)| (node.clone(), fault.clone())));
        for (node, fault) in now.difference(&self.told) {
            warn!(node, %fault, "a Node's pod ranges");
            self.events.warn(NodeWarning {
                node: NodeName::from(node.as_str()),
                reason: reason(fault),
                action: "GivingPodRanges",
                note: fault.to_string(),
            });
        }
        self.told = now;
    }
}

/// In one word for programs; where kube-controller-manager has one, its own.
fn reason(fault: &Fault) -> &'static str {
    match fault {
        Fault::Exhausted { .. } => "CIDRNotAvailable",
        Fault::Outside { .. } => "PodCIDROutside",
        Fault::Overlap { .. } => "PodCIDROverlap",
        Fault::Reserved { .. } => "PodCIDRReserved",
        Fault::Lacks { .. } => "PodCIDRMissing",
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_over_before_others_lead() {
        for (lease, within) in [(3, 1), (6, 2), (12, 4), (15, 4), (3600, 4)] {
            let terms = Terms::of(Duration::from_secs(lease));
            assert_eq!(write_within(&terms), Duration::from_secs(within), "{lease}");
            assert!(terms.renew_within + write_within(&terms) <= terms.lease);
        }
    }

    #[test]
    fn who_does_not_know_what_became_of_a_write_has_no_answer() {
        let said = |code| {
            let status = kube::core::Status::failure("it says", "Reason").with_code(code);
            Ok(Err(kube::Error::Api(Box::new(status))))
        };
        let outcome = |answer| Outcome::of(answer, Vec::new());
        assert!(matches!(outcome(Ok(Ok(()))), Outcome::Given(_)));
        assert!(matches!(outcome(said(409)), Outcome::Refused(_)));
        assert!(matches!(outcome(said(504)), Outcome::Unanswered(_)));
        let broken = std::io::Error::other("reset");
        let broken = Ok(Err(kube::Error::Service(broken.into())));
        assert!(matches!(outcome(broken), Outcome::Unanswered(_)));
    }
}
