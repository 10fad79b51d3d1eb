//! Ends connections to endpoints that are gone, on a thread of its own: the kernel walks
//! over all it tracks for each frontend, and no change waits for that.

use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result};
use tracing::{debug, warn};
use weft_desired::{Backend, FrontendKey, Protocol};
use weft_kernel::flow;
use weft_sys::conntrack::Conntrack;

type Gone = Vec<(FrontendKey, Backend)>;

/// The thread. It ends with the agent.
pub(super) struct StaleFlows {
    gone: Sender<Gone>,
}

impl StaleFlows {
    /// Starts it.
    pub(super) fn start() -> Result<Self> {
        let conntrack = Conntrack::open().context("a netlink socket for connections")?;
        let (gone, told) = channel();
        std::thread::Builder::new()
            .name("stale flows".to_owned())
            .spawn(move || work(conntrack, &told))
            .context("the thread that ends connections")?;
        Ok(Self { gone })
    }

    /// Has connections to endpoints ended that are gone.
    pub(super) fn end(&self, gone: &[(FrontendKey, Backend)]) {
        let datagrams: Gone = gone
            .iter()
            .filter(|(frontend, _)| frontend.protocol == Protocol::Udp)
            .copied()
            .collect();
        if !datagrams.is_empty() && self.gone.send(datagrams).is_err() {
            warn!("nobody ends connections to endpoints that are gone: the thread has ended");
        }
    }
}

fn work(mut conntrack: Conntrack, told: &Receiver<Gone>) {
    while let Ok(mut gone) = told.recv() {
        // What came meanwhile is one walk a frontend.
        gone.extend(told.try_iter().flatten());
        match flow::end_stale(&mut conntrack, &gone) {
            Ok(0) => {}
            Ok(flows) => debug!(flows, "connections to endpoints that are gone ended"),
            Err(error) => warn!(%error, "connections to endpoints that are gone stay"),
        }
    }
}
