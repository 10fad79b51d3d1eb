//! The node as a router to other nodes' pods: what of the kernel does not depend on who says which
//! nodes there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use weft_compile::fabric::{ReachedAt, Uplinks};
use weft_desired::{Desired, Difference, IpFamily, RouteOwner, difference};
use weft_kernel::{link, route, router, tunnel};
use weft_serve::forwarder::Counters;
use weft_sys::rtnl::{self, Conversation};

use super::datagrams::Datagrams;
use super::fabric::Standing;
use super::kernel::Outcome;
use super::own_interface::Interface;

/// Routes and tunnels, and the links that they go by.
pub(super) struct Forwarding {
    conversation: Conversation,
    families: Vec<IpFamily>,
    /// Addresses in these are pods', or Services': nobody reaches the node there.
    ranges: Vec<IpNet>,
    /// By what others are to reach the node, if a person says so.
    interface: Option<Interface>,
    /// The numbers of the tunnels' devices that stand.
    tunnels: BTreeMap<IpFamily, u32>,
    datagrams: Datagrams,
    /// After a pass without a fault, until somebody else may have changed something.
    stood: Option<Stood>,
}

/// What leads to other nodes, as it stands, and what the kernel has beside it.
struct Stood {
    desired: Desired,
    surroundings: route::Actual,
}

impl Forwarding {
    /// Makes the node a router for the families of these ranges.
    pub(super) fn take_up(ranges: &[IpNet], counters: Counters) -> Result<Self> {
        let mut conversation = Conversation::open().context("a netlink socket for routes")?;
        let has = |family: IpFamily| ranges.iter().any(|range| family.has(range.addr()));
        let families: Vec<IpFamily> = IpFamily::BOTH.into_iter().filter(|it| has(*it)).collect();
        for family in &families {
            match family {
                IpFamily::V4 => router::forward_v4()?,
                IpFamily::V6 => router::forward_v6(&mut conversation)?,
            }
        }
        Ok(Self {
            conversation,
            families,
            ranges: ranges.to_vec(),
            interface: None,
            tunnels: BTreeMap::new(),
            datagrams: Datagrams::new(counters),
            stood: None,
        })
    }

    /// Others are to reach the node by this.
    pub(super) fn be_reached_by(&mut self, interface: Option<Interface>) {
        self.interface = interface;
    }

    /// The families that the node is a router for.
    pub(super) fn families(&self) -> &[IpFamily] {
        &self.families
    }

    /// Writes what a change of nodes makes different from what stood, in few messages, however
    /// many nodes there are. The kernel tells of it, and then everything is read back as after
    /// any change. Where that is not enough, it is read back at once.
    pub(super) fn write_change(&mut self, desired: &Desired, outcome: &mut Outcome) -> Result<()> {
        let Some(stood) = self.stood.take().filter(|it| it.is_by_devices_of(desired)) else {
            return self.write(desired, outcome);
        };
        match self.exchange(&stood, desired) {
            Ok(Some(writes)) => {
                outcome.writes += writes;
                // As what stood.
                outcome.fabric = Some(Vec::new());
                self.stood = Some(Stood {
                    desired: ways(desired),
                    ..stood
                });
                Ok(())
            }
            // What is wrong, a pass will say.
            Ok(None) | Err(_) => self.write(desired, outcome),
        }
    }

    /// Leads first, then takes away. `None`: a route can't be written.
    fn exchange(&mut self, stood: &Stood, desired: &Desired) -> Result<Option<usize>, rtnl::Error> {
        let (conversation, devices) = (&mut self.conversation, &self.tunnels);
        let peers = difference(
            &stood.desired.tunnel_peers,
            &desired.tunnel_peers,
            PartialEq::eq,
        );
        let routes = difference(&stood.desired.routes, &desired.routes, PartialEq::eq);
        let routes: Vec<_> = routes
            .iter()
            .map(|step| match step {
                Difference::Add(key, new) => Difference::Add(*key, &new.value),
                Difference::Change(key, old, new) => {
                    Difference::Change(*key, &old.value, &new.value)
                }
                Difference::Remove(key, old) => Difference::Remove(*key, &old.value),
            })
            .collect();
        let added = tunnel::add_peers(conversation, devices, &peers)?;
        let report = route::apply(conversation, &stood.surroundings, &routes)?;
        if !report.problems.is_empty() {
            return Ok(None);
        }
        let removed = tunnel::remove_peers(conversation, devices, &peers, &desired.tunnel_peers)?;
        let led = report.added + report.changed + report.removed;
        Ok(Some(added + led + removed))
    }

    /// Reads back what leads to other nodes' pods, and writes what differs: nothing leads through
    /// a tunnel that is not there.
    pub(super) fn write(&mut self, desired: &Desired, outcome: &mut Outcome) -> Result<()> {
        self.stood = None;
        let before = outcome.problems.len();
        let (tunnels, peers) = (&desired.tunnels, &desired.tunnel_peers);
        let mut raised = tunnel::raise(&mut self.conversation, tunnels, peers)
            .context("tunnels to other nodes")?;
        self.tunnels.clone_from(&raised.devices);
        self.datagrams
            .raise(&mut self.conversation, desired, &mut raised, outcome);
        add(outcome, raised);
        let report = route::reconcile(&mut self.conversation, RouteOwner::Fabric, &desired.routes)
            .context("routes to other nodes' pods")?;
        outcome.writes += report.added + report.changed + report.removed;
        let problems = report.problems.iter().map(ToString::to_string);
        outcome.problems.extend(problems);
        if report.all_stand() {
            let mut cleared = tunnel::clear(&mut self.conversation, tunnels, peers)
                .context("tunnels to other nodes")?;
            self.datagrams
                .clear(&mut self.conversation, desired, &mut cleared)
                .context("the device of packets in datagrams")?;
            add(outcome, cleared);
        }
        let problems = outcome.problems.get(before..).unwrap_or_default().to_vec();
        self.stood = problems.is_empty().then(|| Stood {
            desired: ways(desired),
            surroundings: report.surroundings,
        });
        outcome.fabric = Some(problems);
        Ok(())
    }

    /// By what packets are taken from other nodes.
    pub(super) fn standing(&self) -> Standing<'_> {
        Standing {
            tunnels: &self.tunnels,
            datagrams: self.datagrams.stands(),
        }
    }

    /// The numbers of the tunnels that stand and lead to other nodes.
    pub(super) fn tunnels(&self) -> &BTreeMap<IpFamily, u32> {
        &self.tunnels
    }

    /// Which networks the node is on, and how large a packet, in bytes, their links take.
    pub(super) fn uplinks(&mut self) -> Result<Uplinks> {
        let uplinks = link::uplinks(&mut self.conversation).context("the node's own links")?;
        let candidates = self.candidates(&uplinks);
        let reached_at = match self.interface.as_ref().map(|it| it.choose(&candidates)) {
            None => ReachedAt::Object,
            Some(Ok(addresses)) => ReachedAt::Chosen(addresses),
            Some(Err(error)) => ReachedAt::Missing(format!("{error:#}")),
        };
        let addresses = uplinks.addresses.into_iter();
        Ok(Uplinks {
            addresses: addresses.map(|(it, link)| (it, link.mtu)).collect(),
            networks: uplinks.networks,
            reached_at,
            narrow: BTreeMap::new(),
        })
    }

    /// The addresses that others could reach the node at, each with its link's name, the first
    /// of a link first.
    pub(super) fn reachable_at(&mut self) -> Result<Vec<(IpAddr, String)>> {
        let uplinks = link::uplinks(&mut self.conversation).context("the node's own links")?;
        Ok(self.candidates(&uplinks))
    }

    fn candidates(&self, uplinks: &link::Uplinks) -> Vec<(IpAddr, String)> {
        let within = |address: &IpAddr| self.ranges.iter().any(|range| range.contains(address));
        let others = uplinks.in_order.iter().filter(|(it, _)| !within(it));
        others.cloned().collect()
    }

    /// The node's own addresses.
    pub(super) fn own_addresses(&mut self) -> Result<BTreeSet<IpAddr>> {
        link::own_addresses(&mut self.conversation).context("the node's own addresses")
    }
}

impl Stood {
    /// Whether only what leads through the same devices differs.
    fn is_by_devices_of(&self, desired: &Desired) -> bool {
        let stood = &self.desired;
        stood.tunnels == desired.tunnels
            && stood.udp_tunnel == desired.udp_tunnel
            && stood.udp_peers == desired.udp_peers
            && stood.udp_senders == desired.udp_senders
    }
}

/// What leads to other nodes, and nothing else.
fn ways(desired: &Desired) -> Desired {
    Desired {
        tunnels: desired.tunnels.clone(),
        tunnel_peers: desired.tunnel_peers.clone(),
        udp_tunnel: desired.udp_tunnel.clone(),
        udp_peers: desired.udp_peers.clone(),
        udp_senders: desired.udp_senders.clone(),
        routes: desired.routes.clone(),
        ..Desired::default()
    }
}

fn add(outcome: &mut Outcome, report: tunnel::Report) {
    outcome.writes += report.writes;
    let problems = report.problems.into_iter();
    let texts = problems.map(|problem| format!("{:#}", anyhow::Error::new(problem)));
    outcome.problems.extend(texts);
}
