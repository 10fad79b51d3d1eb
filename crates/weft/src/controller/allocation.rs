//! Nodes that have no pod ranges get theirs, for as long as this process leads.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use tokio::pin;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tracing::{info, warn};
use weft_kinds::node_ranges::{Fault, NodeRanges, Settings};
use weft_kube::{
    Client, Leading, NodeEvents, NodeWarning, Pauses, RangedNode, RangedUpdate, give_node_ranges,
    watch_node_ranges,
};
use weft_model::NodeName;

/// How many updates are taken before ranges are given, if that many wait.
const LARGEST_BATCH: usize = 4096;
/// How many nodes are written at once.
const AT_ONCE: usize = 8;
/// How long a write may take: less than a lease lasts after its last renewal.
const WRITE: Duration = Duration::from_secs(4);

/// The ranges of a cluster's nodes, as one leader knows them.
pub(super) struct Allocation {
    client: Client,
    leading: Leading,
    events: NodeEvents,
    ranges: NodeRanges,
    nodes: BTreeMap<String, RangedNode>,
    /// Nodes that were written, and the watch does not tell yet.
    written: BTreeSet<String>,
    /// Nodes that could not be written; they are tried again later.
    failed: BTreeSet<String>,
    /// Nodes for which there was nothing left.
    exhausted: BTreeMap<String, Fault>,
    /// What has been said already.
    told: BTreeSet<(String, Fault)>,
    in_sync: bool,
}

impl Allocation {
    pub(super) fn new(
        client: &Client,
        settings: Settings,
        leading: Leading,
        events: &NodeEvents,
    ) -> Self {
        Self {
            client: client.clone(),
            leading,
            events: events.clone(),
            ranges: NodeRanges::new(settings),
            nodes: BTreeMap::new(),
            written: BTreeSet::new(),
            failed: BTreeSet::new(),
            exhausted: BTreeMap::new(),
            told: BTreeSet::new(),
            in_sync: false,
        }
    }

    /// Until it is told to stop; what is being written then is finished.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let updates = watch_node_ranges(&self.client).ready_chunks(LARGEST_BATCH);
        pin!(updates);
        let mut pauses = Pauses::default();
        let mut retry_at: Option<Instant> = None;
        loop {
            tokio::select! {
                Some(batch) = updates.next() => batch.into_iter().for_each(|it| self.take(it)),
                () = until(retry_at) => {
                    retry_at = None;
                    self.failed.clear();
                }
                _ = stop.wait_for(|stop| *stop) => return,
            }
            // Before all nodes are known any range may be another's.
            if !self.in_sync {
                continue;
            }
            self.give(&stop).await;
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
        self.exhausted.remove(node);
    }

    /// Gives the nodes that have none their ranges.
    async fn give(&mut self, stop: &watch::Receiver<bool>) {
        let wanting: Vec<RangedNode> = self
            .ranges
            .without()
            .filter(|node| !self.written.contains(*node) && !self.failed.contains(*node))
            .filter_map(|node| self.nodes.get(node))
            .filter(|node| !node.leaving && node.unreadable.is_empty())
            .cloned()
            .collect();
        let mut writes = Vec::new();
        for node in wanting {
            match self.ranges.give(&node.name) {
                Ok(ranges) => {
                    self.exhausted.remove(&node.name);
                    writes.push((node, ranges));
                }
                Err(fault) => {
                    self.exhausted.insert(node.name, fault);
                }
            }
        }
        let (client, leading) = (&self.client, &self.leading);
        let write = |(node, ranges): (RangedNode, Vec<_>)| async move {
            // A process that stood still may have lost the lease without having heard of it.
            if *stop.borrow() || !leading.is_so() {
                return (node, Err("left to the next leader".to_owned()));
            }
            let asked = give_node_ranges(client, &node, &ranges);
            let outcome = match timeout(WRITE, asked).await {
                Ok(Ok(())) => Ok(ranges),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the API does not answer".to_owned()),
            };
            (node, outcome)
        };
        let mut outcomes =
            futures::stream::iter(writes.into_iter().map(write)).buffer_unordered(AT_ONCE);
        while let Some((node, outcome)) = outcomes.next().await {
            let node = node.name;
            match outcome {
                Ok(ranges) => {
                    info!(node, ?ranges, "pod ranges given");
                    self.written.insert(node);
                }
                Err(error) => {
                    warn!(node, error, "pod ranges not given yet");
                    self.failed.insert(node);
                }
            }
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
