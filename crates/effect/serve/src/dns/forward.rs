//! Questions that other servers must answer.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use weft_proto::dns::{
    MAX_MESSAGE, Query, Rcode, RecordType, Response, WireName, encode_query, reply,
};
use weft_sys::udp;

use super::responder::{Chain, Transport};

/// How long all of the servers together may take (CoreDNS's read timeout).
const TIMEOUT: Duration = Duration::from_secs(2);
/// The least time one of several servers gets before the next is asked.
const PATIENCE: Duration = Duration::from_millis(400);

/// A question on its way.
#[derive(Debug)]
pub(super) struct Job {
    /// The client's packet, which [`Query::parse`] has accepted.
    pub(super) packet: Vec<u8>,
    /// Aliases whose end is asked for in its place.
    pub(super) chain: Option<Chain>,
    pub(super) client: Client,
}

/// Where the reply goes.
#[derive(Debug)]
pub(super) enum Client {
    Udp(Arc<udp::UdpSocket>, udp::Peer),
    Tcp(mpsc::Sender<Vec<u8>>),
}

/// Asks other servers.
#[derive(Debug)]
pub(super) struct Forwarder {
    servers: Vec<SocketAddr>,
    /// The server that answered last is asked first.
    preferred: AtomicUsize,
}

/// No server gave an answer in time.
struct NoAnswer;

impl Client {
    fn transport(&self) -> Transport {
        match self {
            Client::Udp(..) => Transport::Udp,
            Client::Tcp(_) => Transport::Tcp,
        }
    }

    async fn send(self, bytes: Vec<u8>) {
        match self {
            // What can't be sent now is lost, as the network may lose it: the client asks again.
            Client::Udp(socket, peer) => {
                if let Err(error) = socket.send_to(&peer, &bytes) {
                    tracing::debug!(client = ?peer, %error, "reply not sent");
                }
            }
            // A closed channel: the client has gone.
            Client::Tcp(replies) => drop(replies.send(bytes).await),
        }
    }
}

impl Forwarder {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            preferred: AtomicUsize::new(0),
        }
    }

    /// Asks, and replies to the client whatever comes of it.
    pub(super) async fn run(&self, job: Job) {
        let mut out = Vec::new();
        {
            let Ok(query) = Query::parse(&job.packet) else {
                return;
            };
            let transport = job.client.transport();
            let limit = transport.limit(&query);
            let done = match &job.chain {
                None => self.relay(&query, transport, limit, &mut out).await,
                Some(chain) => self.complete(&query, chain, limit, &mut out).await,
            };
            if let Err(NoAnswer) = done {
                reply::failure(&mut out, &query, Rcode::ServFail, true);
            }
        }
        job.client.send(out).await;
    }

    async fn relay(
        &self,
        query: &Query<'_>,
        transport: Transport,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), NoAnswer> {
        let question = query.forwarded(random_id());
        let response = self.ask(&question, transport).await?;
        reply::relay(out, query, &response, limit);
        Ok(())
    }

    /// Answers with the aliases and the records at their end.
    async fn complete(
        &self,
        query: &Query<'_>,
        chain: &Chain,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), NoAnswer> {
        let target = chain.target().ok_or(NoAnswer)?;
        let record_type = query.record_type();
        let records = self.records_of(target, record_type).await?;
        let mut buffer = [0; 255];
        let mut builder = chain.begin(query.lower_name(&mut buffer));
        for record in &records {
            builder.answer_raw(&record.owner, record.record_type, record.ttl, &record.data);
        }
        let answer = builder.finish();
        reply::answer(out, query, &answer, 0, limit);
        Ok(())
    }

    async fn records_of(
        &self,
        name: &WireName,
        record_type: RecordType,
    ) -> Result<Vec<weft_proto::dns::ResponseRecord>, NoAnswer> {
        let question = encode_query(random_id(), name, record_type);
        let mut message = self.ask(&question, Transport::Udp).await?;
        if Response::parse(&message).is_ok_and(|response| response.truncated()) {
            message = self.ask(&question, Transport::Tcp).await?;
        }
        let response = Response::parse(&message).map_err(|_| NoAnswer)?;
        let asked_in_vain = [Rcode::NoError.number(), Rcode::NxDomain.number()];
        if !asked_in_vain.contains(&response.rcode()) {
            return Err(NoAnswer);
        }
        response.records(record_type).map_err(|_| NoAnswer)
    }

    /// Asks the servers in turn until one answers.
    async fn ask(&self, question: &[u8], transport: Transport) -> Result<Vec<u8>, NoAnswer> {
        let deadline = Instant::now() + TIMEOUT;
        let count = self.servers.len();
        let first = self.preferred.load(Ordering::Relaxed);
        for turn in 0..count {
            let index = (first + turn) % count;
            let server = self.servers[index];
            let last = turn + 1 == count;
            let until = if last {
                deadline
            } else {
                let share = TIMEOUT / u32::try_from(count).unwrap_or(u32::MAX);
                deadline.min(Instant::now() + share.max(PATIENCE))
            };
            let asking = async {
                match transport {
                    Transport::Udp => ask_udp(server, question).await,
                    Transport::Tcp => ask_tcp(server, question).await,
                }
            };
            match timeout_at(until, asking).await {
                Ok(Ok(response)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(response);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream failed"),
                Err(_) => tracing::debug!(%server, "upstream did not answer in time"),
            }
        }
        Err(NoAnswer)
    }
}

/// From a port of its own, so that a forged response must guess port and number.
async fn ask_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    // Larger than what the question's OPT record allows.
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if Response::parse(&buffer[..length]).is_ok_and(|response| response.answers(question)) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&framed(question)).await?;
    loop {
        let length = usize::from(stream.read_u16().await?);
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await?;
        if Response::parse(&message).is_ok_and(|response| response.answers(question)) {
            return Ok(message);
        }
    }
}

/// A message with its length before it (RFC 1035, section 4.2.2).
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let message = &message[..message.len().min(MAX_MESSAGE)];
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// Unpredictable: a hash under a key that the standard library takes from the kernel.
fn random_id() -> u16 {
    (RandomState::new().hash_one(0) & 0xffff) as u16
}
