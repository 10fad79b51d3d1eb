//! The fabric's back end udp: its device, and the threads that forward.

use std::thread::available_parallelism;

use weft_desired::{Desired, UdpTunnel};
use weft_kernel::tunnel::{Problem, Report};
use weft_kernel::udp_tunnel;
use weft_serve::forwarder::{Counters, Error, Forwarder, Peers, Sockets};
use weft_sys::rtnl::Conversation;

use super::kernel::Outcome;

/// More threads than this gain nothing that a network card could take.
const MOST_QUEUES: usize = 16;

/// What forwards packets in datagrams, while there is to be such.
pub(super) struct Datagrams {
    counters: Counters,
    running: Option<Running>,
}

struct Running {
    index: u32,
    tunnel: UdpTunnel,
    peers: Peers,
    forwarder: Forwarder,
}

/// Why nothing is forwarded.
enum Refused {
    Device(Problem),
    Threads(Error),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Device(problem)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Threads(error)
    }
}

impl Datagrams {
    pub(super) fn new(counters: Counters) -> Self {
        Self {
            counters,
            running: None,
        }
    }

    /// Whether packets from other nodes are taken.
    pub(super) fn stands(&self) -> bool {
        self.running.as_ref().is_some_and(|it| it.forwarder.runs())
    }

    /// Makes the device and forwards: to be called before routes lead there. What can't be done
    /// is in the report.
    pub(super) fn raise(
        &mut self,
        conversation: &mut Conversation,
        desired: &Desired,
        report: &mut Report,
        outcome: &mut Outcome,
    ) {
        let Some(tunnel) = desired.udp_tunnel.as_ref().map(|entry| &entry.value) else {
            return;
        };
        // Threads that ended have no device any more; others keep theirs while nothing changes.
        self.running
            .take_if(|it| !it.forwarder.runs() || !serves(&it.tunnel, tunnel));
        let peers = Peers::new(&desired.udp_peers, &desired.udp_senders, tunnel.port);
        match self.run(conversation, tunnel, peers, report) {
            Ok(()) => {}
            Err(Refused::Device(problem)) => report.problems.push(problem),
            Err(Refused::Threads(error)) => {
                let problem = format!("tunnel {}: {error}", tunnel.name);
                outcome.problems.push(problem);
            }
        }
    }

    fn run(
        &mut self,
        conversation: &mut Conversation,
        tunnel: &UdpTunnel,
        peers: Peers,
        report: &mut Report,
    ) -> Result<(), Refused> {
        let count = available_parallelism().map_or(1, |cores| cores.get().min(MOST_QUEUES));
        let held = self.running.as_ref().map(|it| it.index);
        let sockets = match held {
            Some(_) => None,
            None => Some(Sockets::bind(tunnel, count)?),
        };
        let raised = udp_tunnel::raise(conversation, tunnel, held, count, report)?;
        if let Some(running) = self.running.as_mut().filter(|it| it.index == raised.index) {
            if running.peers != peers {
                running.forwarder.set_peers(peers.clone());
                running.peers = peers;
            }
            return Ok(());
        }
        // Of a device that is gone.
        self.running = None;
        let sockets = match sockets {
            Some(sockets) => sockets,
            None => Sockets::bind(tunnel, count)?,
        };
        let counters = self.counters.clone();
        let (queues, known) = (raised.queues, peers.clone());
        let forwarder = Forwarder::start(tunnel, queues, sockets, known, counters)?;
        report.writes += 1;
        self.running = Some(Running {
            index: raised.index,
            tunnel: tunnel.clone(),
            peers,
            forwarder,
        });
        Ok(())
    }

    /// Ends what is not wanted any more: to be called when no route leads there.
    ///
    /// # Errors
    /// A failure of the conversation.
    pub(super) fn clear(
        &mut self,
        conversation: &mut Conversation,
        desired: &Desired,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let wanted = desired.udp_tunnel.as_ref().map(|entry| &entry.value);
        if wanted.is_none() {
            self.running = None;
        }
        Ok(udp_tunnel::clear(conversation, wanted, report)?)
    }
}

/// Whether threads of one serve for the other: they don't look at the size of packets.
fn serves(running: &UdpTunnel, wanted: &UdpTunnel) -> bool {
    let of = |it: &UdpTunnel| (it.name.clone(), it.port, it.local, it.range);
    of(running) == of(wanted)
}
