//! What the agent does about the ways to other nodes: has them tried, takes in what was found, and
//! tells the API whether the node's network is there.

use std::time::Instant;

use anyhow::Result;
use ipnet::IpNet;
use tracing::{info, warn};
use weft_compile::FabricBackend;
use weft_desired::IpFamily;
use weft_sys::ethtool;

use super::Agent;
use super::kernel::Outcome;
use super::self_test::{News, Target};

/// What could not be written of the fabric when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Unwritten(Vec<String>);

impl Unwritten {
    /// A write of something else says nothing of it.
    fn follow(&mut self, outcome: &Outcome) {
        if let Some(problems) = &outcome.fabric {
            self.0.clone_from(problems);
        }
    }
}

impl Agent {
    /// Has the ways to other nodes tried that are new, or other ones.
    pub(super) fn follow_ways(&mut self) {
        let standing = self.kernel.tunnels();
        let device = |range: &IpNet| standing.get(&IpFamily::of(range.addr())).copied();
        let paths = self.compiler.paths();
        let mut ways = [("direct", 0), ("vxlan", 0), ("udp", 0)];
        for path in &paths {
            let way = ways.iter_mut().find(|(way, _)| *way == path.way.name());
            way.into_iter().for_each(|(_, count)| *count += 1);
        }
        self.metrics
            .set_fabric(&ways, self.compiler.desired().routes.len());
        let targets = paths.into_iter().filter_map(|path| {
            let device = device(&path.range);
            Target::new(path, device)
        });
        let targets: Vec<Target> = targets.collect();
        let forgotten = self.ways.keep(&targets);
        // First: the addresses may make others of them.
        self.self_test.set(targets);
        if forgotten {
            self.look_at_addresses();
        }
    }

    /// Takes in what was found of the ways to other nodes.
    pub(super) fn learn(&mut self, news: News) {
        let (target, findings) = match news {
            News::Found(target, findings) => (target, findings),
            News::Port(trouble) => return self.learn_of_port(trouble),
        };
        let consequences = self.ways.found(&target, findings);
        if let Some(device) = consequences.make_checksums {
            make_checksums(&device, &target);
        }
        if consequences.sizes {
            info!(node = %target.node, path = findings.path_mtu, link = findings.packet, "how large a packet gets to a node");
            self.look_at_addresses();
        }
    }

    fn learn_of_port(&mut self, trouble: Option<String>) {
        let port = trouble.map(|error| {
            format!(
                "other nodes' tests are not answered: UDP port of fabric.selfTest: {error}; stop \
                 what has it, or set another fabric.selfTest.port"
            )
        });
        if let Some(port) = &port {
            warn!(
                port,
                "other nodes' tests of the way to this one are not answered"
            );
        }
        self.node_reports.port(port, Instant::now());
    }

    /// Tells of what could not be written of the fabric.
    pub(super) fn report_unwritten(&mut self, outcome: &Outcome) {
        self.unwritten.follow(outcome);
        let lacking = self.lacking();
        let problems = self.unwritten.0.iter().chain(&lacking).cloned();
        self.node_reports.here(problems, Instant::now());
    }

    /// Tells of what could not be written of the fabric, and whether the node's network is there.
    pub(super) fn report_fabric(&mut self, outcome: &Outcome, opened: &Result<impl Sized>) {
        self.report_unwritten(outcome);
        let lacking = self.lacking();
        let desired = self.compiler.desired();
        let standing = self.kernel.standing();
        // What this node is reached by. Another way to some nodes is wanted in vain: that is told of.
        let tunnelless = match self.backend {
            FabricBackend::HostGw => false,
            FabricBackend::Vxlan => !desired.tunnels.is_empty() && standing.tunnels.is_empty(),
            FabricBackend::Udp => desired.udp_tunnel.is_some() && !standing.datagrams,
        };
        // What is only beside it keeps no packet: a runtime that has a configuration starts pods,
        // even if a newer one can't be written.
        let closed = || self.compiler.mtu().is_none() || !self.directories.has_configuration();
        match (lacking, opened) {
            (Some(lacking), _) => self.availability.unavailable(&lacking),
            (None, _) if tunnelless => {
                self.availability.unavailable(&self.unwritten.0.join("; "));
            }
            (None, Err(error)) if closed() => {
                self.availability.unavailable(&format!("{error:#}"));
            }
            (None, Ok(_) | Err(_)) if self.ready.ready() => self.availability.available(),
            (None, Ok(_) | Err(_)) => {}
        }
    }

    /// What the node's own object lacks for pods to start.
    fn lacking(&self) -> Option<String> {
        let node = self.compiler.own_node()?;
        if node.pod_cidrs.is_empty() {
            return Some(
                "the node has no pod range (spec.podCIDRs): let the controller manager allocate \
                 node CIDRs, or set it"
                    .to_owned(),
            );
        }
        node.internal_ips.is_empty().then(|| {
            "the node has no address (status.addresses of type InternalIP): set the kubelet's \
             --node-ip, or look what the cloud's controller says"
                .to_owned()
        })
    }
}

fn make_checksums(device: &str, target: &Target) {
    if let Ok(false) = ethtool::leaves_checksums(device) {
        // Somebody else's device makes them wrong.
        return;
    }
    match ethtool::leave_checksums(device, false) {
        Ok(()) => {
            warn!(%device, node = %target.node, "packets arrive with wrong checksums: they are not left to the device any more");
        }
        Err(error) => {
            warn!(%device, %error, "packets arrive with wrong checksums, and the device's offload can't be switched off");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_is_known_until_it_is_looked_at_again() {
        let fabric = |problems: &[&str]| Outcome {
            fabric: Some(problems.iter().map(ToString::to_string).collect()),
            ..Outcome::default()
        };
        let mut unwritten = Unwritten::default();
        unwritten.follow(&fabric(&["a", "b"]));
        unwritten.follow(&Outcome::default());
        assert_eq!(unwritten.0, ["a", "b"]);
        unwritten.follow(&fabric(&["b"]));
        assert_eq!(unwritten.0, ["b"]);
        unwritten.follow(&fabric(&[]));
        assert!(unwritten.0.is_empty());
    }
}
