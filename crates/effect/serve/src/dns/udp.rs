//! UDP: a thread and a socket for each share of the clients.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use weft_proto::dns::{Query, Rcode, reply};
use weft_sys::udp::{Batch, UdpSocket};

use super::forward::{Client, Job};
use super::responder::{Outcome, Responder, Transport};

/// How often a thread looks whether it is to end.
pub(super) const RECEIVE_TIMEOUT: Duration = Duration::from_millis(500);
/// The largest query taken. A query is a header, a name and an OPT record.
const MAX_QUERY: usize = 2048;
/// A thread keeps its buffers on the heap.
const STACK: usize = 256 * 1024;

/// What a thread tells others.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) queries: AtomicU64,
}

/// Starts a thread that answers what comes in at `socket`.
pub(super) fn spawn(
    index: usize,
    socket: Arc<UdpSocket>,
    responder: Responder,
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("dns-udp-{index}"))
        .stack_size(STACK)
        .spawn(move || serve(&socket, &responder, &jobs, &shared))
}

fn serve(
    socket: &Arc<UdpSocket>,
    responder: &Responder,
    jobs: &mpsc::Sender<Job>,
    shared: &Shared,
) {
    let mut batch = Batch::new(MAX_QUERY);
    let mut rotation = Rotation(std::process::id() | 1);
    while !shared.stop.load(Ordering::Relaxed) {
        let received = match batch.receive(socket) {
            Ok(received) => received,
            Err(error) => {
                // An error of a single datagram (such as ECONNREFUSED) is over once told;
                // a lasting one must not turn this into a busy loop.
                tracing::warn!(%error, "receiving DNS queries failed; trying again");
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        for (peer, packet, out) in batch.exchanges() {
            match responder.respond(packet, Transport::Udp, rotation.next(), out) {
                Outcome::Replied => {}
                Outcome::Forward(chain) => {
                    let job = Job {
                        packet: packet.to_vec(),
                        chain,
                        client: Client::Udp(socket.clone(), *peer),
                    };
                    if let Err(refused) = jobs.try_send(job) {
                        refuse(&refused, out);
                    }
                }
            }
        }
        if received > 0 {
            shared.queries.fetch_add(received as u64, Ordering::Relaxed);
            batch.send(socket);
        }
    }
}

/// Too many questions wait for other servers: better a refusal now than silence.
fn refuse(refused: &TrySendError<Job>, out: &mut Vec<u8>) {
    let (TrySendError::Full(job) | TrySendError::Closed(job)) = refused;
    if let Ok(query) = Query::parse(&job.packet) {
        reply::failure(out, &query, Rcode::Refused, true);
    }
}

/// Numbers without a pattern (xorshift32; G. Marsaglia, "Xorshift RNGs"). A counter would
/// give a client that asks for A and AAAA in turn the same one of two addresses forever.
#[derive(Debug)]
pub(super) struct Rotation(pub(super) u32);

impl Rotation {
    pub(super) fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}
