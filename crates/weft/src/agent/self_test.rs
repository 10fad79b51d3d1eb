//! Tries the ways to other nodes: when they are new or other ones, again when something was
//! wrong, now and then, and when somebody asks.
//!
//! Every agent answers questions at a port of its own ([`answering`]), and asks those of other
//! nodes ([`probing`]).

mod answering;
mod probing;
mod schedule;
mod size_search;

use std::net::IpAddr;
use std::sync::Arc;

use futures::StreamExt;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use weft_compile::fabric::{Path, Way};

use self::schedule::{Again, Schedule};
use crate::fabric::findings::{Findings, Tested};

/// Where agents answer, by default: UDP, beside the TCP port of their health.
pub(super) const PORT: u16 = 10256;
/// Ways that are tried at a time.
const AT_A_TIME: usize = 32;

/// A way to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) node: Arc<str>,
    pub(super) range: IpNet,
    /// The node's own address.
    pub(super) address: IpAddr,
    /// `direct`, `vxlan`…
    pub(super) way: &'static str,
    /// The tunnel's device, and the address of its other end.
    pub(super) tunnel: Option<(Arc<str>, IpAddr)>,
    /// Whether the tunnel's device is left checksums to make: what goes in datagrams has them.
    pub(super) leaves_checksums: bool,
    /// The number of that device: another one has to be tried anew.
    pub(super) device: Option<u32>,
    /// Bytes of the largest packet on the way.
    pub(super) packet: u32,
}

impl Target {
    /// `None` where nothing is known that could be tried.
    pub(super) fn new(path: Path, device: Option<u32>) -> Option<Self> {
        let (tunnel, leaves_checksums) = match &path.way {
            Way::Direct => (None, false),
            Way::Tunnel {
                device, address, ..
            } => (Some((device.clone(), *address)), true),
            // Its other end has the first address of what it leads to, as flannel's.
            Way::Datagrams { device } => (Some((device.clone(), path.range.network())), false),
        };
        Some(Self {
            address: path.address?,
            way: path.way.name(),
            device: device.filter(|_| leaves_checksums),
            leaves_checksums,
            node: path.node,
            range: path.range,
            packet: path.packet,
            tunnel,
        })
    }
}

/// What became known.
#[derive(Debug)]
pub(super) enum News {
    /// A way was tried.
    Found(Arc<Target>, Findings),
    /// The port can't be listened at, and why; or it can again.
    Port(Option<String>),
}

/// Tries what it is told to.
pub(super) struct SelfTest {
    targets: watch::Sender<Arc<[Arc<Target>]>>,
    told: mpsc::UnboundedSender<News>,
    /// What was tried because somebody asked, and is not well.
    failed: mpsc::UnboundedSender<Arc<Target>>,
    port: u16,
}

impl SelfTest {
    /// At this port; 0: neither asks nor answers. With it comes what becomes known. Needs a tokio
    /// runtime.
    pub(super) fn start(port: u16) -> (Self, mpsc::UnboundedReceiver<News>) {
        let targets = watch::Sender::new(Arc::from([]));
        let (told, news) = mpsc::unbounded_channel();
        let (failed, again) = mpsc::unbounded_channel();
        if port != 0 {
            let says = told.clone();
            let answering = std::thread::Builder::new().name("self-test".to_owned());
            let started = answering.spawn(move || {
                answering::answer(port, |trouble| drop(says.send(News::Port(trouble))));
            });
            if let Err(error) = started {
                warn!(%error, "other nodes' tests of the way to this one are not answered");
            }
            tokio::spawn(keep_trying(targets.subscribe(), again, told.clone(), port));
        }
        let it = Self {
            targets,
            told,
            failed,
            port,
        };
        (it, news)
    }

    /// These ways there are.
    pub(super) fn set(&self, targets: Vec<Target>) {
        self.targets.send_if_modified(|now| {
            let same = now.len() == targets.len()
                && now.iter().zip(&targets).all(|(one, other)| **one == *other);
            if !same {
                *now = targets.into_iter().map(Arc::new).collect();
            }
            !same
        });
    }

    /// Tries all ways now; the answer is JSON, `null` without a port.
    pub(super) fn check(&self, answer: oneshot::Sender<String>) {
        if self.port == 0 {
            // Who asked may have gone.
            let _ = answer.send("null".to_owned());
            return;
        }
        let targets = self.targets.borrow().clone();
        let (told, port) = (self.told.clone(), self.port);
        let failed = self.failed.clone();
        tokio::spawn(async move {
            let tries = futures::stream::iter(targets.iter().cloned()).map(|target| {
                let (told, failed) = (told.clone(), failed.clone());
                async move {
                    let findings = probing::test(&target, port).await;
                    let tested = Tested {
                        node: target.node.to_string(),
                        range: target.range,
                        way: target.way.to_owned(),
                        findings,
                    };
                    // The agent may have ended.
                    if findings.fails() {
                        let _ = failed.send(target.clone());
                    }
                    let _ = told.send(News::Found(target, findings));
                    tested
                }
            });
            let tested: Vec<Tested> = tries.buffer_unordered(AT_A_TIME).collect().await;
            match serde_json::to_string(&tested) {
                // Who asked may have gone.
                Ok(text) => drop(answer.send(text)),
                Err(error) => warn!(%error, "what the ways to other nodes are like is not told"),
            }
        });
    }
}

async fn keep_trying(
    mut targets: watch::Receiver<Arc<[Arc<Target>]>>,
    mut again: mpsc::UnboundedReceiver<Arc<Target>>,
    told: mpsc::UnboundedSender<News>,
    port: u16,
) {
    let mut schedule = Schedule::default();
    let mut tries = futures::stream::FuturesUnordered::new();
    loop {
        while tries.len() < AT_A_TIME
            && let Some(target) = schedule.take_due(Instant::now().into_std())
        {
            tries.push(async move {
                let findings = probing::test(&target, port).await;
                (target, findings)
            });
        }
        let full = tries.len() >= AT_A_TIME;
        let next = schedule.next().filter(|_| !full);
        tokio::select! {
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = targets.borrow_and_update().clone();
                schedule.set(&now, Instant::now().into_std());
            }
            Some((target, findings)) = tries.next() => {
                let now = Instant::now().into_std();
                if schedule.found(&target, Again::after(&findings), now)
                    && told.send(News::Found(target, findings)).is_err()
                {
                    return;
                }
            }
            Some(target) = again.recv() => schedule.hasten(&target, Instant::now().into_std()),
            () = until(next) => {}
        }
    }
}

async fn until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
