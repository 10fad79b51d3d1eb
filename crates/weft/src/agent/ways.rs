//! What the agent makes of what it finds out about the ways to other nodes: events, metrics, a
//! smaller packet size where large packets vanish, and checksums made by the kernel where a
//! device's come out wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::{info, warn};
use weft_kube::{NodeEvents, NodeWarning};
use weft_model::NodeName;
use weft_serve::metrics::{FABRIC_CHECKS, Metrics};

use super::self_test::Target;
use crate::fabric::findings::{Findings, Outcome};

/// How often in a row a check fails before it is told of: a packet is lost now and then, and a
/// node that joins is not all there at once.
const PATIENCE: u32 = 3;
/// How often in a row checksums are wrong before the device makes no more of them.
const CHECKSUM_PATIENCE: u32 = 2;
/// Which of [`FABRIC_CHECKS`].
const CHECKSUM: usize = 3;

/// What to do about what was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Consequences {
    /// Other packet sizes than before are known to get through.
    pub(super) sizes: bool,
    /// Checksums are not to be left to this device.
    pub(super) make_checksums: Option<Arc<str>>,
}

/// All ways that were tried.
pub(super) struct Ways {
    me: NodeName,
    events: NodeEvents,
    metrics: Metrics,
    tried: BTreeMap<(Arc<str>, IpNet), Tried>,
}

struct Tried {
    address: IpAddr,
    findings: Findings,
    /// How often each check failed in a row.
    failures: [u32; FABRIC_CHECKS.len()],
    /// Bytes of the largest packet that gets there, where that is less than links take.
    narrow: Option<u32>,
}

impl Ways {
    pub(super) fn new(me: NodeName, events: NodeEvents, metrics: Metrics) -> Self {
        Self {
            me,
            events,
            metrics,
            tried: BTreeMap::new(),
        }
    }

    /// These ways there are; what was found of others is of no use any more. Returns whether
    /// that changes how large packets may be.
    pub(super) fn keep(&mut self, targets: &[Target]) -> bool {
        let ways = targets.iter().map(|it| ((it.node.clone(), it.range), it));
        let ways: BTreeMap<_, _> = ways.collect();
        let before = self.narrow();
        self.tried.retain(|key, tried| {
            ways.get(key).is_some_and(|target| {
                tried.narrow = tried.narrow.filter(|size| *size < target.packet);
                target.address == tried.address
            })
        });
        self.count();
        before != self.narrow()
    }

    /// How large a packet, in bytes, gets to nodes' addresses, where that is less than links take.
    pub(super) fn narrow(&self) -> BTreeMap<IpAddr, u32> {
        let tried = self.tried.values();
        tried
            .filter_map(|it| Some((it.address, it.narrow?)))
            .collect()
    }

    /// One was tried.
    pub(super) fn found(&mut self, target: &Target, findings: Findings) -> Consequences {
        self.metrics.tested_way(!findings.fails());
        let key = (target.node.clone(), target.range);
        let tried = self.tried.entry(key).or_insert_with(|| Tried {
            address: target.address,
            findings,
            failures: Default::default(),
            narrow: None,
        });
        (tried.address, tried.findings) = (target.address, findings);
        let mut consequences = Consequences::default();
        for (index, outcome) in findings.checks().into_iter().enumerate() {
            let Some(failures) = tried.failures.get_mut(index) else {
                continue;
            };
            match outcome {
                Outcome::Fails => *failures = failures.saturating_add(1),
                Outcome::Ok | Outcome::NoAgent => {
                    if *failures >= patience(index) {
                        let check = FABRIC_CHECKS.get(index);
                        info!(node = %target.node, range = %target.range, check, "the way to a node is well again");
                    }
                    *failures = 0;
                }
                Outcome::Untested => {}
            }
            if *failures == patience(index)
                && outcome == Outcome::Fails
                && let Some((reason, note)) = told(index, target, &findings)
            {
                warn!(node = %target.node, reason, note, "the way to a node is not well");
                self.events.warn(NodeWarning {
                    node: self.me.clone(),
                    reason,
                    action: "Test",
                    note,
                });
            }
            if index == CHECKSUM && *failures >= patience(index) && outcome == Outcome::Fails {
                let device = target.tunnel.as_ref().map(|(device, _)| device.clone());
                consequences.make_checksums = device;
            }
        }
        if let Some(size) = findings.path_mtu {
            let narrow = Some(size).filter(|size| *size < findings.packet);
            consequences.sizes = tried.narrow != narrow;
            tried.narrow = narrow;
        }
        self.count();
        consequences
    }

    fn count(&self) {
        let mut failing = [0; FABRIC_CHECKS.len()];
        for tried in self.tried.values() {
            for (count, outcome) in failing.iter_mut().zip(tried.findings.checks()) {
                *count += usize::from(outcome == Outcome::Fails);
            }
        }
        self.metrics.set_failing_ways(failing);
    }
}

fn patience(check: usize) -> u32 {
    match check {
        CHECKSUM => CHECKSUM_PATIENCE,
        _ => PATIENCE,
    }
}

/// What is said of a check that fails: a word, and a sentence.
fn told(check: usize, target: &Target, findings: &Findings) -> Option<(&'static str, String)> {
    let Target {
        node,
        range,
        address,
        ..
    } = target;
    Some(match (FABRIC_CHECKS.get(check).copied()?, &target.tunnel) {
        ("node", _) => (
            "PeerUnreachable",
            format!(
                "node {node} does not answer at its address {address}: look whether it runs, and \
                 whether a firewall drops UDP to the port of the agents' self-test"
            ),
        ),
        ("tunnel", Some((device, end))) => (
            "TunnelBroken",
            format!(
                "node {node} does not answer at {end}, through the tunnel {device} (pods \
                 {range}): look whether a firewall drops the tunnel's UDP port between the nodes"
            ),
        ),
        ("mtu", _) => (
            "PathMTUTooSmall",
            match findings.path_mtu {
                Some(largest) => format!(
                    "packets of more than {largest} bytes do not get to node {node} at {address}, \
                     and nobody says so, though this node's link takes {}: routes to its pods \
                     {range} say what gets through; set the links' MTU, or fabric.mtu",
                    findings.packet
                ),
                None => format!(
                    "only the smallest packets get to node {node} at {address}: look what drops \
                     large ones between the nodes"
                ),
            },
        ),
        ("checksum", Some((device, _))) => (
            "ChecksumOffloadBroken",
            format!(
                "packets that this node sends through {device} to node {node} (pods {range}) \
                 arrive with wrong checksums: they are left to the device no more, as by \
                 ethtool -K {device} tx off (ethtool -k {device} shows whether it lets itself be told)"
            ),
        ),
        _ => return None,
    })
}
