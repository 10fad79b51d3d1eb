//! Packets to other nodes' pods in UDP datagrams, as flannel's back end udp sends them: what the
//! kernel gives to a TUN device goes out as whole datagrams, and what comes in goes to the kernel.
//!
//! A thread a core has a queue of the device and a socket of the port. TCP's segments and UDP's
//! datagrams pass the device in one piece: they are cut here, go out as one message that the
//! kernel cuts into datagrams as late as it can, and are put together again at the other end.

mod counters;
mod inward;
mod outward;
mod peers;

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use rustix::event::{PollFd, PollFlags};
use thiserror::Error;
use weft_desired::UdpTunnel;
use weft_proto::packet::Coalesce;
use weft_sys::datagrams::DatagramSocket;
use weft_sys::tun::Queue;

pub use counters::{Counters, Reason};
pub use peers::Peers;

use inward::Inward;
use outward::Outward;

/// A thread keeps its buffers on the heap.
const STACK: usize = 256 * 1024;

/// Why packets are not forwarded.
#[derive(Debug, Error)]
pub enum Error {
    /// The port can't be had.
    #[error("can't listen at UDP {address}: {source}{hint}", hint = hint(source))]
    Listen {
        /// Where.
        address: SocketAddrV4,
        /// What the kernel says.
        source: io::Error,
    },
    /// The device takes no large packets.
    #[error("the TUN device {device}: {source}")]
    Device {
        /// Its name.
        device: Arc<str>,
        /// What the kernel says.
        source: io::Error,
    },
    /// A thread can't be started.
    #[error("can't start a thread: {0}")]
    Thread(#[source] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::AddrInUse {
        "; another program has the port (flanneld?): stop it, or set another fabric.port on all nodes"
    } else {
        ""
    }
}

/// What all threads share.
#[derive(Debug)]
struct Shared {
    tunnel: UdpTunnel,
    peers: ArcSwap<Peers>,
    counters: Counters,
    ended: AtomicBool,
}

/// Sockets to forward by, one for each queue of a device.
#[derive(Debug)]
pub struct Sockets(Vec<DatagramSocket>);

impl Sockets {
    /// Binds so many: to be called before the device is made, so that nothing is led to one that
    /// nobody serves. All of them at once: what came to one alone would come to another later.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn bind(tunnel: &UdpTunnel, count: usize) -> Result<Self, Error> {
        let address = SocketAddrV4::new(tunnel.local, tunnel.port);
        let sockets: io::Result<_> = (0..count).map(|_| DatagramSocket::bind(address)).collect();
        match sockets {
            Ok(sockets) => Ok(Self(sockets)),
            Err(source) => Err(Error::Listen { address, source }),
        }
    }
}

/// Threads that forward. They end when this is dropped.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
    stop: Option<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Forwarder {
    /// Starts a thread for each of a device's queues.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(
        tunnel: &UdpTunnel,
        queues: Vec<Queue>,
        sockets: Sockets,
        peers: Peers,
        counters: Counters,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            tunnel: tunnel.clone(),
            peers: ArcSwap::from_pointee(peers),
            counters,
            ended: AtomicBool::new(false),
        });
        let (stopped, stop) = weft_sys::process::pipe().map_err(Error::Thread)?;
        let mut forwarder = Self {
            shared,
            stop: Some(stop),
            threads: Vec::new(),
        };
        for (number, (queue, socket)) in queues.into_iter().zip(sockets.0).enumerate() {
            let offloads = queue.offload().map_err(|source| Error::Device {
                device: tunnel.name.clone(),
                source,
            })?;
            let allowed = Coalesce {
                tcp: offloads.tcp,
                udp: offloads.udp,
            };
            let stopped = stopped.try_clone().map_err(Error::Thread)?;
            let shared = forwarder.shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("fabric-udp-{number}"))
                .stack_size(STACK)
                .spawn(move || serve(&shared, &queue, &socket, &stopped, allowed))
                .map_err(Error::Thread)?;
            forwarder.threads.push(thread);
        }
        Ok(forwarder)
    }

    /// From now on these nodes are sent packets.
    pub fn set_peers(&self, peers: Peers) {
        self.shared.peers.store(Arc::new(peers));
    }

    /// Whether all threads run; they end if the device goes.
    #[must_use]
    pub fn runs(&self) -> bool {
        !self.shared.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that forwards packets ended in a panic");
            }
        }
    }
}

/// Until told to stop, or the device is gone.
fn serve(
    shared: &Shared,
    queue: &Queue,
    socket: &DatagramSocket,
    stopped: &OwnedFd,
    allowed: Coalesce,
) {
    let mut outward = Outward::new();
    let mut inward = Inward::new(allowed);
    let ended = loop {
        let [from_kernel, from_network, stop] = match wait(queue, socket, stopped) {
            Ok(ready) => ready,
            Err(error) => break Err(error),
        };
        if stop {
            break Ok(());
        }
        if from_kernel && let Err(error) = outward.forward(shared, queue, socket) {
            break Err(error);
        }
        if from_network {
            inward.forward(shared, queue, socket);
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, device = %shared.tunnel.name, "no more packets from the device");
        shared.ended.store(true, Ordering::Relaxed);
    }
}

/// Waits for packets, and tells which of the three has something.
fn wait(queue: &Queue, socket: &DatagramSocket, stopped: &OwnedFd) -> io::Result<[bool; 3]> {
    let mut polled = [queue.as_fd(), socket.as_fd(), stopped.as_fd()]
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match rustix::event::poll(&mut polled, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled.map(|fd| !fd.revents().is_empty()))
}
