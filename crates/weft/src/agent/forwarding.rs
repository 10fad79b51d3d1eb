//! The node as a router to other nodes' pods: what of the kernel does not depend on who says which
//! nodes there are.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use weft_compile::fabric::{ReachedAt, Uplinks};
use weft_desired::{Desired, IpFamily, RouteOwner};
use weft_kernel::{link, route, router, tunnel};
use weft_serve::forwarder::Counters;
use weft_sys::rtnl::{Conversation, Event};

use super::datagrams::Datagrams;
use super::fabric::Standing;
use super::kernel::Outcome;
use super::own_interface::Interface;
use super::stood::Stood;

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
    /// many nodes there are. The kernel tells of it, and where it does not say what was written,
    /// everything is read back. Where that is not enough, it is read back at once.
    pub(super) fn write_change(&mut self, desired: &Desired, outcome: &mut Outcome) -> Result<()> {
        let Some(mut stood) = self.stood.take().filter(|it| it.is_by_devices_of(desired)) else {
            return self.write(desired, outcome);
        };
        match stood.exchange(&mut self.conversation, &self.tunnels, desired) {
            Ok(Some(writes)) => {
                outcome.writes += writes;
                // As what stood.
                outcome.fabric = Some(Vec::new());
                self.stood = Some(stood);
                Ok(())
            }
            // What is wrong, a pass will say.
            Ok(None) | Err(_) => self.write(desired, outcome),
        }
    }

    /// Whether the kernel tells of something that was not written here, or stands otherwise than
    /// it was written: a reason to look at all of it. Neighbours of other links come and go by
    /// themselves.
    pub(super) fn is_news(&self, event: &Event) -> bool {
        match event {
            Event::Neighbour(neighbour) | Event::NeighbourGone(neighbour) => {
                self.tunnel(neighbour.index)
            }
            Event::Forwarding(entry) | Event::ForwardingGone(entry) => self.tunnel(entry.index),
            Event::Route(_) | Event::RouteGone(_) => Some(IpFamily::V4),
            Event::Link(_)
            | Event::LinkGone(_)
            | Event::Address(_)
            | Event::AddressGone(_)
            | Event::Overflow => return true,
        }
        .is_some_and(|family| {
            let stood = self.stood.as_ref();
            stood.is_none_or(|stood| !stood.agrees(family, event))
        })
    }

    /// Of which family the tunnel with this number is.
    fn tunnel(&self, index: u32) -> Option<IpFamily> {
        let mut tunnels = self.tunnels.iter();
        let found = tunnels.find(|(_, number)| **number == index);
        found.map(|(family, _)| *family)
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
        self.stood = problems
            .is_empty()
            .then(|| Stood::new(desired, report.surroundings));
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

fn add(outcome: &mut Outcome, report: tunnel::Report) {
    outcome.writes += report.writes;
    let problems = report.problems.into_iter();
    let texts = problems.map(|problem| format!("{:#}", anyhow::Error::new(problem)));
    outcome.problems.extend(texts);
}
