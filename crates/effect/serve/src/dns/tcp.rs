//! TCP (RFC 7766): queries one after the other or all at once, replies as they come.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use weft_proto::dns::{HEADER_LEN, Query, Rcode, reply};

use super::forward::{Client, Job, framed};
use super::responder::{Outcome, Responder, Transport};
use super::udp::Rotation;

/// How long a connection may be silent (RFC 7766, section 6.2.3: some seconds).
const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to read a reply.
const WRITE: Duration = Duration::from_secs(5);
/// Connections at a time; more are closed at once, and their clients try again.
const CONNECTIONS: usize = 256;
/// Replies that wait for a slow reader before its queries are read no further.
const WAITING: usize = 16;
/// The largest query taken; nothing sensible is larger.
const MAX_QUERY: usize = 4096;

/// Takes connections without end.
pub(super) async fn serve(listener: TcpListener, responder: Responder, jobs: mpsc::Sender<Job>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly: no file descriptors left. Connections that end bring some back.
                tracing::warn!(%error, "taking a DNS connection failed; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::debug!("too many DNS connections; one more is closed");
            continue;
        };
        let (responder, jobs) = (responder.clone(), jobs.clone());
        tokio::spawn(async move {
            connection(stream, &responder, &jobs).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, responder: &Responder, jobs: &mpsc::Sender<Job>) {
    // A reply is one write; waiting for more would only delay it.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let (replies, waiting) = mpsc::channel(WAITING);
    let writing = tokio::spawn(write(writer, waiting));
    read(reader, responder, jobs, replies).await;
    // The last replies may still be on their way from other servers.
    if let Err(error) = writing.await {
        tracing::error!(%error, "the writer of a DNS connection ended early");
    }
}

/// Ends when the client does, or is silent, or its stream makes no sense.
async fn read(
    mut reader: OwnedReadHalf,
    responder: &Responder,
    jobs: &mpsc::Sender<Job>,
    replies: mpsc::Sender<Vec<u8>>,
) {
    let mut rotation = Rotation(std::process::id() | 1);
    let mut packet = Vec::new();
    while let Ok(Ok(length)) = timeout(IDLE, reader.read_u16()).await {
        let length = usize::from(length);
        if !(HEADER_LEN..=MAX_QUERY).contains(&length) {
            return;
        }
        packet.resize(length, 0);
        let Ok(Ok(_)) = timeout(IDLE, reader.read_exact(&mut packet)).await else {
            return;
        };
        let mut out = Vec::new();
        match responder.respond(&packet, Transport::Tcp, rotation.next(), &mut out) {
            Outcome::Replied => {}
            Outcome::Forward(chain) => {
                let job = Job {
                    packet: packet.clone(),
                    chain,
                    client: Client::Tcp(replies.clone()),
                };
                if jobs.try_send(job).is_ok() {
                    continue;
                }
                if let Ok(query) = Query::parse(&packet) {
                    reply::failure(&mut out, &query, Rcode::Refused, true);
                }
            }
        }
        if out.is_empty() || replies.send(out).await.is_err() {
            return;
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>) {
    while let Some(reply) = waiting.recv().await {
        let framed = framed(&reply);
        let Ok(Ok(())) = timeout(WRITE, writer.write_all(&framed)).await else {
            return;
        };
    }
}
