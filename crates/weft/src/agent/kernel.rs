//! The node's kernel as the agent sees it: routes, address translation, settings.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use tokio::time::{Instant, sleep};
use tracing::warn;
use weft_compile::Touched;
use weft_desired::{Desired, RouteOwner};
use weft_kernel::service::{Error, IpFamily, ServiceTable};
use weft_kernel::{link, route, router};
use weft_sys::nft::Connection;
use weft_sys::rtnl::Conversation;

/// Between two looks whether another agent still holds the tables.
const OWNER_PAUSE: Duration = Duration::from_millis(20);

/// What a write has done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// How many things were written.
    pub(super) writes: usize,
    /// Single things that could not be, each with its reason. The others were.
    pub(super) problems: Vec<String>,
}

/// Handles on the kernel, kept open.
pub(super) struct Kernel {
    conversation: Conversation,
    services: ServiceTable,
}

impl Kernel {
    /// Takes over what an earlier agent left, for the families of these ranges, and makes
    /// the node a router.
    pub(super) async fn adopt(ranges: &[IpNet], patience: Duration) -> Result<Self> {
        let has = |v4: bool| {
            ranges
                .iter()
                .any(|range| matches!(range, IpNet::V4(_)) == v4)
        };
        let mut conversation = Conversation::open().context("a netlink socket for routes")?;
        let mut families = Vec::new();
        if has(true) {
            router::forward_v4()?;
            families.push(IpFamily::V4);
        }
        if has(false) {
            router::forward_v6(&mut conversation)?;
            families.push(IpFamily::V6);
        }
        Ok(Self {
            conversation,
            services: adopt_services(&families, patience).await?,
        })
    }

    /// Reads the routes back and repairs those that differ.
    pub(super) fn repair_routes(&mut self, desired: &Desired) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        self.write_routes(desired, &mut outcome)?;
        Ok(outcome)
    }

    /// Writes what a change made different.
    pub(super) fn apply(&mut self, desired: &Desired, touched: &Touched) -> Result<Outcome> {
        if self.services.needs_reconcile() {
            return self.reconcile(desired);
        }
        let mut outcome = Outcome::default();
        // Reachable first, then referred to: a Service never leads to a pod that no
        // route leads to yet.
        if !touched.routes.is_empty() {
            self.write_routes(desired, &mut outcome)?;
        }
        if touched.nat {
            outcome.writes += self.services.apply_nat(&desired.nat)?.elements;
        }
        if !touched.frontends.is_empty() {
            let changes = touched.frontends.iter().map(|key| {
                let frontend = desired.frontends.get(key).map(|entry| &entry.value);
                (*key, frontend)
            });
            outcome.writes += self.services.apply(changes)?.elements;
        }
        Ok(outcome)
    }

    /// Reads everything back and repairs what differs.
    pub(super) fn reconcile(&mut self, desired: &Desired) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        self.write_routes(desired, &mut outcome)?;
        let report = self.services.reconcile(&desired.frontends, &desired.nat)?;
        for reason in &report.rebuilt {
            warn!(reason, "Service rules written anew");
        }
        outcome.writes += report.elements + report.rebuilt.len();
        Ok(outcome)
    }

    fn write_routes(&mut self, desired: &Desired, outcome: &mut Outcome) -> Result<()> {
        let report = route::reconcile(&mut self.conversation, RouteOwner::Fabric, &desired.routes)
            .context("routes to other nodes' pods")?;
        outcome.writes += report.added + report.changed + report.removed;
        let problems = report.problems.iter().map(ToString::to_string);
        outcome.problems.extend(problems);
        Ok(())
    }

    /// The largest packet, in bytes, that passes from this node to its peers unfragmented:
    /// the MTU of the link that has the node's own address.
    pub(super) fn mtu_towards_peers(&mut self, own: &[IpAddr]) -> Result<u32> {
        link::mtu_of(&mut self.conversation, own)?.with_context(|| {
            format!("no link has this node's address {own:?}; is it the right node?")
        })
    }
}

/// Waits for an earlier agent's hold on the tables to end, but not for long: an agent that
/// is alive does not let go.
async fn adopt_services(families: &[IpFamily], patience: Duration) -> Result<ServiceTable> {
    let deadline = Instant::now() + patience;
    loop {
        let connection = Connection::open().context("a netlink socket for nf_tables")?;
        match ServiceTable::adopt(connection, families) {
            Err(Error::Owned { .. }) if Instant::now() < deadline => sleep(OWNER_PAUSE).await,
            adopted => return adopted.context("the Services in nf_tables"),
        }
    }
}
