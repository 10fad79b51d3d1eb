//! The server: its sockets, its threads, its beginning and end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_sys::udp::{BindOptions, UdpSocket};

use super::forward::{Forwarder, Job};
use super::responder::{PodNames, Responder};
use super::udp::{self, Shared};
use super::{Records, tcp};
use crate::{ListenAddress, listener};

/// Questions that may wait for other servers at a time (kubeadm's `max_concurrent`).
const IN_FLIGHT: usize = 1000;
/// Questions that may wait for their turn to be sent on.
const QUEUE: usize = 128;
/// Silence after which nobody is taken to ask any more.
const QUIET: Duration = Duration::from_secs(1);

/// How a [`Server`] runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub listen: Vec<ListenAddress>,
    /// Whether other servers that say so too may listen there, and each gets a part of the
    /// queries.
    pub share_port: bool,
    /// UDP threads for each address.
    pub threads: usize,
    /// Who is asked for names that are not the cluster's, in order of preference.
    pub upstreams: Vec<SocketAddr>,
    /// Whether pods' addresses have names.
    pub pod_names: PodNames,
    /// How long the server answers on after it was told to end, as long as somebody asks:
    /// the cluster takes a while to send its clients elsewhere.
    pub lameduck: Duration,
}

/// Why the server does not run.
#[derive(Debug, Error)]
pub enum Error {
    /// An address can't be listened at.
    #[error("can't listen at {address} for DNS ({protocol}): {source}{hint}", hint = hint(source))]
    Listen {
        /// The address.
        address: ListenAddress,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// A thread can't be started.
    #[error("can't start a thread for DNS: {0}")]
    Thread(#[source] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "; ports below 1024 need the capability NET_BIND_SERVICE"
    } else if error.kind() == io::ErrorKind::AddrInUse {
        "; another server has the port: stop it or choose another"
    } else {
        ""
    }
}

/// A DNS server whose sockets are bound: what is sent to it from now on is answered once
/// it runs.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<Arc<UdpSocket>>,
    listeners: Vec<TcpListener>,
    responder: Responder,
    forwarder: Arc<Forwarder>,
    lameduck: Duration,
}

impl Server {
    /// Binds the sockets. Needs a tokio runtime.
    pub fn bind(settings: &Settings, records: Arc<Records>) -> Result<Self, Error> {
        let mut sockets = Vec::new();
        let mut listeners = Vec::new();
        for address in &settings.listen {
            bind(*address, settings, &mut sockets, &mut listeners)?;
        }
        let forwards = !settings.upstreams.is_empty();
        Ok(Self {
            sockets,
            listeners,
            responder: Responder::new(records, settings.pod_names, forwards),
            forwarder: Arc::new(Forwarder::new(settings.upstreams.clone())),
            lameduck: settings.lameduck,
        })
    }

    /// The addresses bound, one for each address to listen at.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Answers until `shutdown` is over and nobody asks any more.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(self.forwarder, waiting));
        for listener in self.listeners {
            tasks.spawn(tcp::serve(listener, self.responder.clone(), jobs.clone()));
        }
        let mut threads = Threads::default();
        for (index, socket) in self.sockets.into_iter().enumerate() {
            let shared = Arc::new(Shared::default());
            threads.shared.push(shared.clone());
            let responder = self.responder.clone();
            let thread = udp::spawn(index, socket, responder, jobs.clone(), shared)
                .map_err(Error::Thread)?;
            threads.handles.push(thread);
        }
        shutdown.await;
        threads.quiet(self.lameduck).await;
        threads.end().await;
        Ok(())
    }
}

/// Sends questions on, a bounded number at a time.
async fn forward(forwarder: Arc<Forwarder>, mut waiting: mpsc::Receiver<Job>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Some(job) = waiting.recv().await {
        // While all places are taken the queue fills, and who comes then is refused.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let forwarder = forwarder.clone();
        tokio::spawn(async move {
            forwarder.run(job).await;
            drop(place);
        });
    }
}

/// The UDP threads. They end when this is dropped.
#[derive(Default)]
struct Threads {
    handles: Vec<JoinHandle<()>>,
    shared: Vec<Arc<Shared>>,
}

impl Threads {
    fn queries(&self) -> u64 {
        self.shared
            .iter()
            .map(|shared| shared.queries.load(Ordering::Relaxed))
            .sum()
    }

    /// Waits until no query has come for a while, at most `limit`.
    async fn quiet(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut seen = self.queries();
        let mut since = Instant::now();
        while Instant::now() < end && since.elapsed() < QUIET {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.queries();
            if now != seen {
                seen = now;
                since = Instant::now();
            }
        }
    }

    async fn end(mut self) {
        self.stop();
        let handles = std::mem::take(&mut self.handles);
        let joined =
            tokio::task::spawn_blocking(move || handles.into_iter().try_for_each(JoinHandle::join));
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("a DNS thread ended in a panic");
        }
    }

    fn stop(&self) {
        for shared in &self.shared {
            shared.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How often another port is tried when one that was to be any is taken for TCP.
const ATTEMPTS: u32 = 8;

/// Binds all sockets of one address: UDP for every thread, and TCP at the same port.
fn bind(
    address: ListenAddress,
    settings: &Settings,
    sockets: &mut Vec<Arc<UdpSocket>>,
    listeners: &mut Vec<TcpListener>,
) -> Result<(), Error> {
    let wrap = |(protocol, source)| Error::Listen {
        address,
        protocol,
        source,
    };
    let only_v6 = matches!(address, ListenAddress::One(_));
    let mut failure = ("UDP", io::ErrorKind::AddrNotAvailable.into());
    for candidate in address.candidates() {
        for _ in 0..ATTEMPTS {
            match bind_one(candidate, only_v6, settings) {
                Ok((udp, tcp)) => {
                    sockets.extend(udp);
                    listeners.push(tcp);
                    return Ok(());
                }
                Err(error) => failure = error,
            }
            if candidate.port() != 0 {
                break;
            }
        }
        // The next candidate stands in for a family that the machine does not have.
        if !NO_IPV6.contains(&failure.1.raw_os_error().unwrap_or_default()) {
            break;
        }
    }
    Err(wrap(failure))
}

/// What the kernel says to an IPv6 address where there is no IPv6, or it is switched off.
const NO_IPV6: [i32; 2] = [
    rustix::io::Errno::AFNOSUPPORT.raw_os_error(),
    rustix::io::Errno::ADDRNOTAVAIL.raw_os_error(),
];

type Bound = (Vec<Arc<UdpSocket>>, TcpListener);

fn bind_one(
    address: SocketAddr,
    only_v6: bool,
    settings: &Settings,
) -> Result<Bound, (&'static str, io::Error)> {
    let options = BindOptions {
        reuse_port: true,
        only_v6,
        receive_timeout: udp::RECEIVE_TIMEOUT,
    };
    let udp = |error| ("UDP", error);
    let first = UdpSocket::bind(address, options).map_err(udp)?;
    let bound = first.local_address().map_err(udp)?;
    let mut sockets = vec![Arc::new(first)];
    for _ in 1..settings.threads {
        sockets.push(Arc::new(UdpSocket::bind(bound, options).map_err(udp)?));
    }
    // UDP ports are shared by our own threads anyway: TCP tells of somebody else.
    let options = listener::Options {
        only_v6,
        reuse_port: settings.share_port,
    };
    let tcp = listener::listen(bound, options).map_err(|error| ("TCP", error))?;
    Ok((sockets, tcp))
}
