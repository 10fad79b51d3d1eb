//! The node's kernel as the agent sees it: routes, address translation, settings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};
use weft_compile::Touched;
use weft_compile::fabric::Uplinks;
use weft_desired::{Desired, IpFamily as Family, NodeNat, Table};
use weft_iptables::Options;
use weft_kernel::iptables::{self, Rules, Whose};
use weft_kernel::service::{Error, IpFamily, Report, ServiceTable};
use weft_kernel::sysctl::{self, Scope, Setting};
use weft_serve::forwarder::Counters;
use weft_sys::netlink;
use weft_sys::nft::{Connection, Notifications};
use weft_sys::rtnl::Event;

use super::fabric::Standing;
use super::forwarding::Forwarding;
use super::own_interface::Interface;
use super::stale::{Ended, Endpoints, StaleFlows};

/// Between two looks whether another agent still holds the tables.
const OWNER_PAUSE: Duration = Duration::from_millis(20);
/// Before what others keep changing is read again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// What a write has done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// How many things were written.
    pub(super) writes: usize,
    /// Transactions of Service rules that the kernel acknowledged.
    pub(super) transactions: usize,
    /// Of iptables' tables, in that mode: name, rules of ours, rules written.
    pub(super) iptables: Vec<(&'static str, usize, usize)>,
    /// Single things that could not be, each with its reason. The others were.
    pub(super) problems: Vec<String>,
    /// Those of them that lead to other nodes' pods; `None`: what leads there was not looked at.
    pub(super) fabric: Option<Vec<String>>,
}

impl Outcome {
    fn add(&mut self, report: &Report) {
        self.writes += report.elements + report.rebuilt.len();
        self.transactions += report.transactions;
    }

    fn add_iptables(&mut self, rules: &Rules, report: &iptables::Report) {
        self.writes += report.writes();
        self.transactions += report.restores;
        self.iptables = [
            (weft_iptables::Table::Filter, report.filter_rules),
            (weft_iptables::Table::Nat, report.nat_rules),
        ]
        .map(|(table, written)| (table.name(), rules.rules(table), written))
        .into();
    }
}

/// Handles on the kernel, kept open.
pub(super) struct Kernel {
    forwarding: Forwarding,
    services: ServiceTable,
    proxy: Proxy,
    families: Vec<Family>,
    stale_flows: StaleFlows,
    /// Whether it was looked for connections that went stale while nobody saw: before this
    /// agent ran, with a write that failed, with a table that somebody damaged.
    looked_back: bool,
    /// In mode iptables; nf_tables' tables say themselves what is gone.
    endpoints: Endpoints,
}

/// Who translates Services. What else is translated is nf_tables' in every mode.
enum Proxy {
    /// nf_tables. What an agent in mode iptables left goes when all is in place.
    Nftables { swept: bool },
    /// iptables.
    Iptables(Box<Rules>),
}

impl Kernel {
    /// Takes over what an earlier agent left, for the families of these ranges, and makes
    /// the node a router.
    pub(super) async fn adopt(
        ranges: &[IpNet],
        iptables: Option<Options>,
        ended: Ended,
        counters: Counters,
        patience: Duration,
    ) -> Result<Self> {
        let forwarding = Forwarding::take_up(ranges, counters)?;
        let all = forwarding.families().to_vec();
        let families: Vec<IpFamily> = all
            .iter()
            .map(|family| match family {
                Family::V4 => IpFamily::V4,
                Family::V6 => IpFamily::V6,
            })
            .collect();
        let proxy = match iptables {
            None => Proxy::Nftables { swept: false },
            Some(options) => {
                let rules = Rules::find(&all, &options).context("mode iptables")?;
                Proxy::Iptables(Box::new(rules))
            }
        };
        Ok(Self {
            forwarding,
            services: adopt_services(&families, patience).await?,
            proxy,
            families: all,
            stale_flows: StaleFlows::start(ended)?,
            looked_back: false,
            endpoints: Endpoints::new(ended),
        })
    }

    /// Whether bytes to and from Services are counted, in mode nftables; from the next
    /// reconciliation on.
    pub(super) fn count_bytes(&mut self, count: bool) {
        let by_nftables = matches!(self.proxy, Proxy::Nftables { .. });
        self.services.count_traffic(count && by_nftables);
    }

    /// Reads the routes back and repairs those that differ.
    pub(super) fn repair_routes(&mut self, desired: &Desired) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        self.forwarding.write(desired, &mut outcome)?;
        Ok(outcome)
    }

    /// Writes what a change made different.
    pub(super) fn apply(&mut self, desired: &Desired, touched: &Touched) -> Result<Outcome> {
        if self.needs_reconcile(desired, touched) {
            return self.reconcile(desired);
        }
        let written = self.try_apply(desired, touched);
        // A part of it may be written, and nobody said which endpoints went with that.
        self.looked_back &= written.is_ok();
        written
    }

    fn try_apply(&mut self, desired: &Desired, touched: &Touched) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        // Reachable first, then referred to: a Service never leads to a pod that no
        // route leads to yet.
        if touched.tunnels || !touched.routes.is_empty() {
            self.forwarding.write_change(desired, &mut outcome)?;
        }
        let some = touched.frontends.iter().copied();
        self.stale_flows.will_lead(some, &desired.frontends);
        match &mut self.proxy {
            Proxy::Nftables { .. } => {
                if touched.nat {
                    outcome.add(&self.services.apply_nat(&desired.nat)?);
                }
                if !touched.frontends.is_empty() {
                    let changes = touched.frontends.iter().map(|key| {
                        let frontend = desired.frontends.get(key).map(|entry| &entry.value);
                        (*key, frontend)
                    });
                    let report = self.services.apply(changes)?;
                    outcome.add(&report);
                    self.tidy(&report, &mut outcome);
                }
            }
            Proxy::Iptables(rules) => {
                if touched.nat {
                    let nat = without_services(&desired.nat);
                    outcome.add(&self.services.apply_nat(&nat)?);
                }
                if !touched.services.is_empty() {
                    let changes = touched.services.iter().map(|key| {
                        let port = desired.services.get(key).map(|entry| &entry.value);
                        (key, port)
                    });
                    let report = rules.apply(changes, &desired.services)?;
                    outcome.add_iptables(rules, &report);
                }
                let touched = touched.frontends.iter().copied();
                let gone = self.endpoints.follow(touched, &desired.frontends);
                self.stale_flows.end(&gone);
            }
        }
        Ok(outcome)
    }

    /// Whether a change can't be written by itself.
    fn needs_reconcile(&self, desired: &Desired, touched: &Touched) -> bool {
        let iptables = match &self.proxy {
            Proxy::Nftables { .. } => false,
            // What the node's addresses and ranges are stands in rules of no Service.
            Proxy::Iptables(rules) => {
                rules.needs_reconcile() || (touched.nat && !rules.fits(&desired.nat))
            }
        };
        iptables || self.services.needs_reconcile()
    }

    /// Reads everything back and repairs what differs. Where the mode is another one than
    /// before, what is new is in place before what was goes; connections that are
    /// translated stay so.
    pub(super) fn reconcile(&mut self, desired: &Desired) -> Result<Outcome> {
        let written = self.try_reconcile(desired);
        self.looked_back &= written.is_ok();
        written
    }

    fn try_reconcile(&mut self, desired: &Desired) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        self.forwarding.write(desired, &mut outcome)?;
        let all = desired.frontends.keys().copied();
        self.stale_flows.will_lead(all, &desired.frontends);
        match &mut self.proxy {
            Proxy::Nftables { swept } => {
                let report = self.services.reconcile(&desired.frontends, &desired.nat)?;
                outcome.add(&report);
                say_rebuilt(&report.rebuilt);
                // Nobody knows where the table led that was there before.
                self.looked_back &= report.rebuilt.is_empty();
                if !*swept {
                    // Pods do not wait for it: Services are translated by now.
                    match sweep_iptables(&self.families) {
                        Ok(writes) => {
                            outcome.writes += writes;
                            *swept = true;
                        }
                        Err(error) => outcome
                            .problems
                            .push(format!("iptables rules of an earlier agent: {error:#}")),
                    }
                }
                self.tidy(&report, &mut outcome);
            }
            Proxy::Iptables(rules) => {
                // 127.0.0.0/8 is routed only while a rule keeps neighbours out of it.
                let routed = desired.nat.localhost_node_ports;
                if !routed {
                    sysctl::set(Setting::RouteLocalnet(Scope::All, false))?;
                }
                let report = rules.reconcile(&desired.services, &desired.nat)?;
                outcome.add_iptables(rules, &report);
                if routed {
                    sysctl::set(Setting::RouteLocalnet(Scope::All, true))?;
                }
                let nat = without_services(&desired.nat);
                let report = self.services.reconcile(&Table::new(), &nat)?;
                outcome.add(&report);
                say_rebuilt(&report.rebuilt);
                let gone = self.endpoints.follow_all(&desired.frontends);
                self.stale_flows.end(&gone);
            }
        }
        // After the rules, so that nothing new goes where these went.
        if !std::mem::replace(&mut self.looked_back, true) {
            self.stale_flows.end_others(&desired.frontends);
        }
        Ok(outcome)
    }

    /// Repairs what others changed: routes, and where the kernel does not say that nobody
    /// has touched its tables, all that is translated.
    pub(super) fn audit(&mut self, desired: &Desired) -> Result<Outcome> {
        let untouched = match &self.proxy {
            Proxy::Nftables { swept } => *swept && self.services.is_untouched()?,
            Proxy::Iptables(_) => false,
        };
        if !untouched {
            return self.reconcile(desired);
        }
        let mut outcome = Outcome::default();
        self.forwarding.write(desired, &mut outcome)?;
        let tidied = Report {
            stale_clients: true,
            ..Report::default()
        };
        self.tidy(&tidied, &mut outcome);
        Ok(outcome)
    }

    /// Whether somebody else may have changed rules.
    pub(super) fn is_disturbed(&mut self) -> Result<bool> {
        let iptables = match &mut self.proxy {
            Proxy::Nftables { .. } => false,
            Proxy::Iptables(rules) => rules.disturbed()?,
        };
        Ok(self.services.disturbed()? || iptables)
    }

    /// A socket that is readable after somebody changed rules, where the kernel tells of it.
    pub(super) fn rule_changes(&self) -> Result<Option<OwnedFd>> {
        let notifications = match &self.proxy {
            Proxy::Nftables { .. } => self.services.notifications(),
            Proxy::Iptables(rules) => rules.notifications(),
        };
        let socket = notifications.map(|it| it.as_fd().try_clone_to_owned());
        socket.transpose().context("notifications of nf_tables")
    }

    /// After a write: what the kernel remembers of clients follows.
    fn tidy(&mut self, report: &Report, outcome: &mut Outcome) {
        if report.stale_clients {
            match self.services.forget_clients() {
                Ok(0) => {}
                Ok(clients) => debug!(clients, "clients get another endpoint"),
                Err(error) => outcome
                    .problems
                    .push(format!("clients whose endpoint is gone: {error}")),
            }
        }
        // Then: a client remembered would be sent to the same endpoint again.
        self.stale_flows.end(&report.gone);
    }

    /// The node's own addresses.
    pub(super) fn own_addresses(&mut self) -> Result<BTreeSet<IpAddr>> {
        self.forwarding.own_addresses()
    }

    /// Other nodes are to reach this one by this.
    pub(super) fn be_reached_by(&mut self, interface: Option<Interface>) {
        self.forwarding.be_reached_by(interface);
    }

    /// The numbers of the devices that stand and lead to other nodes.
    pub(super) fn tunnels(&self) -> &BTreeMap<Family, u32> {
        self.forwarding.tunnels()
    }

    /// Whether the kernel tells of a change of links, addresses or what leads to other nodes that
    /// was not written here.
    pub(super) fn is_news(&self, event: &Event) -> bool {
        self.forwarding.is_news(event)
    }

    /// By what packets are taken from other nodes.
    pub(super) fn standing(&self) -> Standing<'_> {
        self.forwarding.standing()
    }

    /// Which networks the node is on, and how large a packet, in bytes, their links take.
    pub(super) fn uplinks(&mut self) -> Result<Uplinks> {
        self.forwarding.uplinks()
    }
}

/// Waits for an earlier agent's hold on the tables to end, but not for long: an agent that
/// is alive does not let go.
pub(super) async fn adopt_services(
    families: &[IpFamily],
    patience: Duration,
) -> Result<ServiceTable> {
    let deadline = Instant::now() + patience;
    loop {
        let connection = Connection::open().context("a netlink socket for nf_tables")?;
        match ServiceTable::adopt(connection, families) {
            Err(Error::Owned { .. }) if Instant::now() < deadline => sleep(OWNER_PAUSE).await,
            // Others write all the time: that is no reason to end.
            Err(Error::Kernel(error @ netlink::Error::Unsettled { .. })) => {
                warn!(%error, pause = ?BUSY_PAUSE, "nf_tables can't be read; trying again");
                sleep(BUSY_PAUSE).await;
            }
            adopted => {
                let mut services = adopted.context("the Services in nf_tables")?;
                if !services.is_owned()? {
                    services.watch(Notifications::open()?)?;
                }
                return Ok(services);
            }
        }
    }
}

/// What nf_tables has to know where iptables translates Services: where pods leave the cluster,
/// and nothing of Services' addresses.
fn without_services(nat: &NodeNat) -> NodeNat {
    NodeNat {
        service_ranges: Default::default(),
        ..nat.clone()
    }
}

fn say_rebuilt(reasons: &[String]) {
    for reason in reasons {
        warn!(reason, "Service rules written anew");
    }
}

/// Removes the rules of an agent that ran in mode iptables. kube-proxy's are its own.
fn sweep_iptables(families: &[Family]) -> Result<usize> {
    match iptables::present(families) {
        Ok(Some(Whose::Ours)) => {
            // Before the rule goes that keeps neighbours out of 127.0.0.0/8.
            sysctl::set(Setting::RouteLocalnet(Scope::All, false))?;
            Ok(iptables::remove(families, Whose::Ours)?.writes())
        }
        Ok(Some(Whose::Anybodys)) => {
            warn!("kube-proxy's iptables rules are on this node and translate Services too");
            Ok(0)
        }
        // Without iptables nobody has rules of it.
        Ok(None) | Err(iptables::Error::Missing(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
