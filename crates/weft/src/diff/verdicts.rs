//! Which connections would fare differently: the oracle's answer before and after.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};
use weft_compile::Compiler;
use weft_desired::FrontendKey;
use weft_model::{Change, Cluster, Node, NodeName, Object, ObjectKey, Pod, Protocol, Uid};
use weft_oracle::{Flow, Loss, NoRoute, Ranges, Refusal, Sender, SourceSeen, Verdict, verdict};

/// Connections that would fare differently.
pub(super) struct Shift {
    from: &'static str,
    to: FrontendKey,
    before: Verdict,
    after: Verdict,
}

impl Shift {
    pub(super) fn as_json(&self) -> Value {
        json!({
            "from": self.from,
            "to": crate::service::frontend_text(&self.to),
            "before": outcome(&self.before),
            "after": outcome(&self.after),
        })
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = crate::service::frontend_text(&self.to);
        let (before, after) = (outcome(&self.before), outcome(&self.after));
        write!(f, "{} → {to}: {before} → {after}", self.from)?;
        match (&self.before, &self.after) {
            (Verdict::Delivered(old), Verdict::Delivered(new)) => {
                let sockets = |all: &BTreeSet<weft_oracle::Arrival>| -> BTreeSet<String> {
                    let socket = |it: &weft_oracle::Arrival| {
                        std::net::SocketAddr::new(it.address, it.port.number()).to_string()
                    };
                    all.iter().map(socket).collect()
                };
                let (old, new) = (sockets(old), sockets(new));
                for (sign, socket) in old
                    .difference(&new)
                    .map(|it| ('-', it))
                    .chain(new.difference(&old).map(|it| ('+', it)))
                {
                    write!(f, " {sign}{socket}")?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The frontends that are there before or after, asked for by a pod of the node, the node
/// itself, and somebody outside who sends to the node.
pub(super) fn shifts(
    before: &Compiler,
    after: &Compiler,
    node: &str,
    service_ranges: &[IpNet],
) -> Vec<Shift> {
    let name = NodeName::from(node);
    let keys: BTreeSet<FrontendKey> = [before, after]
        .into_iter()
        .flat_map(|compiler| compiler.desired().frontends.keys().copied())
        .collect();
    let old = with_client(before.cluster(), &name);
    let new = with_client(after.cluster(), &name);
    let ranges = |compiler: &Compiler| Ranges {
        pods: compiler.desired().nat.pod_ranges.iter().copied().collect(),
        services: service_ranges.to_vec(),
    };
    let (old_ranges, new_ranges) = (ranges(before), ranges(after));
    let mut shifts = Vec::new();
    for to in keys {
        for (from, sender) in [
            ("pod any", Sender::Pod(client())),
            ("node", Sender::Node(name.clone())),
            ("outside", Sender::Outside),
        ] {
            let ask = |cluster: &Cluster, ranges: &Ranges| {
                let flow = flow(cluster, &name, sender.clone(), &to)?;
                Some(verdict(cluster, ranges, &flow))
            };
            let (Some(before), Some(after)) = (ask(&old, &old_ranges), ask(&new, &new_ranges))
            else {
                continue;
            };
            if before != after {
                shifts.push(Shift {
                    from,
                    to,
                    before,
                    after,
                });
            }
        }
    }
    shifts
}

/// A pod that no cluster has: names have no dots at their start.
fn client() -> ObjectKey {
    ObjectKey::new("default", ".any")
}

/// The cluster with one pod more on the node, which is nobody's endpoint.
fn with_client(cluster: &Cluster, name: &NodeName) -> Cluster {
    let mut cluster = cluster.clone();
    let Some(node) = cluster.node(name) else {
        return cluster;
    };
    let ips = node.pod_cidrs.iter().map(IpNet::broadcast).collect();
    let pod = Pod {
        key: client(),
        uid: Uid::from("any"),
        labels: Default::default(),
        node: Some(name.clone()),
        ips,
        host_network: false,
        finished: false,
        ready: true,
        terminating: false,
        hostname: None,
        subdomain: None,
    };
    cluster.apply(Change::Put(Object::Pod(pod)));
    cluster
}

fn flow(cluster: &Cluster, name: &NodeName, from: Sender, to: &FrontendKey) -> Option<Flow> {
    let node = cluster.node(name)?;
    let like = |addresses: &[IpAddr]| {
        let mut addresses = addresses.iter();
        addresses
            .find(|it| it.is_ipv4() == to.address.is_ipv4())
            .copied()
    };
    let source = match &from {
        Sender::Pod(key) => like(&cluster.pod(key)?.ips)?,
        Sender::Node(_) => like(&node.internal_ips)?,
        // RFC 5737 and RFC 3849: addresses that are nobody's.
        Sender::Outside if to.address.is_ipv4() => Ipv4Addr::new(203, 0, 113, 254).into(),
        Sender::Outside => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfffe).into(),
    };
    Some(Flow {
        from,
        source,
        destination: to.address,
        protocol: match to.protocol {
            weft_desired::Protocol::Tcp => Protocol::Tcp,
            weft_desired::Protocol::Udp => Protocol::Udp,
            weft_desired::Protocol::Sctp => Protocol::Sctp,
        },
        port: weft_model::Port::new(to.port)?,
        via: via(node, to),
    })
}

fn via(node: &Node, to: &FrontendKey) -> Option<NodeName> {
    (!node.internal_ips.contains(&to.address)).then(|| node.name.clone())
}

/// In a person's words.
fn outcome(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Delivered(arrivals) => {
            let count = arrivals.len();
            let s = if count == 1 { "" } else { "s" };
            let seen = arrivals
                .iter()
                .any(|it| it.source_seen != SourceSeen::Unchanged);
            let masqueraded = if seen {
                ", with the node's address"
            } else {
                ""
            };
            format!("forwarded to {count} endpoint{s}{masqueraded}")
        }
        Verdict::Refused(why) => format!(
            "rejected ({})",
            match why {
                Refusal::NoEndpoints => "no endpoints",
                Refusal::NoSuchServicePort => "no such port of the Service",
                Refusal::UnusedPodAddress => "no pod has the address",
            }
        ),
        Verdict::Dropped(why) => format!(
            "dropped ({})",
            match why {
                Loss::UnallocatedServiceAddress => "no Service has the address",
                Loss::NoLocalEndpoints => "no endpoints on this node",
                Loss::SourceNotAdmitted => "source not admitted",
                Loss::NoNodeAddress => "the node has no address of the family",
            }
        ),
        Verdict::NotRouted(why) => format!(
            "not translated ({})",
            match why {
                NoRoute::NoSuchSender => "no such sender",
                NoRoute::NotTheSenders => "not the sender's address",
                NoRoute::OtherFamily => "another family",
                NoRoute::NotForwarded => "never forwarded",
                NoRoute::FromOutside => "means nothing outside of the cluster",
                NoRoute::SenderHasNoFamily | NoRoute::ReceiverHasNoRoute => "no route",
                NoRoute::NoNodesRange => "in no node's range",
            }
        ),
    }
}
