//! Port forwarding: SPDY frames inside WebSocket messages, two streams for each connection.
//!
//! Source: Kubernetes' subprotocol `SPDY/3.1+portforward.k8s.io` (client-go,
//! tools/portforward). A stream of type `error` and one of type `data` with the same request id
//! belong together; what cannot be connected is said on the first one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::tungstenite::{self, Message};
use weft_proto::spdy::{Decoder, Encoder, Frame, Headers};

use super::connect;
use super::handshake::{Agreed, Socket, agree};
use super::{Body, Refusal};
use crate::kubelet::sandbox;
use crate::kubelet::shim;
use weft_proto::kubelet::PodName;

const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// How much is read from a pod at once.
const PIECE: usize = 32 * 1024;
/// How many pieces (each at most 64 KiB) may wait for a pod that does not read.
const WAITING: usize = 16;
/// The other connections of a client wait meanwhile, so a pod that reads nothing for so long
/// loses its connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// Streams of one client.
const MAX_STREAMS: usize = 1024;
/// RST_STREAM's status codes.
const REFUSED: u32 = 3;
const CANCEL: u32 = 5;

/// Answers a request to forward ports of a pod.
pub(super) fn answer(
    request: &mut Request<Incoming>,
    pod: &PodName,
) -> Result<Response<Body>, Refusal> {
    let folder = sandbox::folder(&pod.namespace, &pod.name);
    if !folder.join(shim::PID).exists() {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("pod not found (\"{pod}\")"),
        ));
    }
    let (response, _, upgrade) = agree(request, &[PROTOCOL])?.into_parts();
    let pod = pod.to_string();
    tokio::spawn(async move {
        match Agreed::socket(upgrade).await {
            Ok(socket) => Tunnel::new(socket, folder, pod).run().await,
            Err(error) => tracing::debug!(%error, "a stream did not begin"),
        }
    });
    Ok(response)
}

/// Sends frames.
struct Out {
    sink: Mutex<SplitSink<Socket, Message>>,
}

impl Out {
    async fn send(&self, frame: Vec<u8>) -> Result<(), tungstenite::Error> {
        self.sink
            .lock()
            .await
            .send(Message::Binary(frame.into()))
            .await
    }
}

/// The streams of a connection that is not complete yet.
#[derive(Default)]
struct Pair {
    data: Option<(u32, u16)>,
    error: Option<u32>,
    /// What has come for the pod so far.
    pieces: Option<mpsc::Receiver<Vec<u8>>>,
}

/// A stream whose bytes go to a pod.
struct Stream {
    /// `None` once the client has sent all.
    pieces: Option<mpsc::Sender<Vec<u8>>>,
    task: Option<AbortHandle>,
}

/// One client's connections to a pod.
struct Tunnel {
    source: futures::stream::SplitStream<Socket>,
    out: Arc<Out>,
    encoder: Encoder,
    folder: Arc<Path>,
    pod: String,
    pairs: BTreeMap<String, Pair>,
    streams: BTreeMap<u32, Stream>,
    running: JoinSet<u32>,
}

impl Tunnel {
    fn new(socket: Socket, folder: PathBuf, pod: String) -> Self {
        let (sink, source) = socket.split();
        Tunnel {
            source,
            out: Arc::new(Out {
                sink: Mutex::new(sink),
            }),
            encoder: Encoder::default(),
            folder: folder.into(),
            pod,
            pairs: BTreeMap::new(),
            streams: BTreeMap::new(),
            running: JoinSet::new(),
        }
    }

    /// Until the client is gone; its connections go with it.
    async fn run(mut self) {
        let mut decoder = Decoder::new();
        loop {
            let message = tokio::select! {
                message = self.source.next() => message,
                Some(ended) = self.running.join_next() => {
                    if let Ok(stream) = ended {
                        self.streams.remove(&stream);
                    }
                    continue;
                }
            };
            let data = match message {
                Some(Ok(Message::Binary(data))) => data,
                Some(Ok(
                    Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_),
                )) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            };
            decoder.push(&data);
            loop {
                match decoder.frame() {
                    Ok(Some(frame)) => {
                        if let Err(error) = self.take(frame).await {
                            tracing::debug!(%error, "a forwarding client is gone");
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "a forwarding client does not speak SPDY");
                        return;
                    }
                }
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), tungstenite::Error> {
        match frame {
            Frame::Open {
                stream,
                fin,
                headers,
            } => self.open(stream, fin, &headers).await,
            Frame::Data { stream, fin, data } => self.give(stream, fin, data).await,
            Frame::Reset { stream, .. } => {
                if let Some(task) = self.streams.remove(&stream).and_then(|one| one.task) {
                    task.abort();
                }
                Ok(())
            }
            // Ours would be even; we send none.
            Frame::Ping(number) if number % 2 == 1 => self.out.send(Encoder::ping(number)).await,
            Frame::Ping(_) | Frame::Headers { .. } | Frame::GoAway => Ok(()),
        }
    }

    async fn open(
        &mut self,
        stream: u32,
        fin: bool,
        headers: &Headers,
    ) -> Result<(), tungstenite::Error> {
        let port: u16 = headers.get("port").parse().unwrap_or(0);
        let kind = headers.get("streamtype");
        let known = self.streams.contains_key(&stream) || self.streams.len() >= MAX_STREAMS;
        if port == 0
            || !matches!(kind, "data" | "error")
            || known
            || self.pairs.len() >= MAX_STREAMS
        {
            return self.out.send(Encoder::reset(stream, REFUSED)).await;
        }
        let reply = self.encoder.reply(stream, &Headers::default());
        self.out.send(reply).await?;
        let id = match headers.get("requestid") {
            // Clients without ids open both streams one after the other, the error's first.
            "" if kind == "data" => stream.wrapping_sub(2).to_string(),
            "" => stream.to_string(),
            id => id.to_owned(),
        };
        let pair = self.pairs.entry(id.clone()).or_default();
        if kind == "error" {
            pair.error = Some(stream);
        } else {
            let (sender, receiver) = mpsc::channel(WAITING);
            pair.data = Some((stream, port));
            pair.pieces = Some(receiver);
            let pieces = (!fin).then_some(sender);
            self.streams.insert(stream, Stream { pieces, task: None });
        }
        if let (Some((data, port)), Some(error)) = (pair.data, pair.error)
            && let Some(pieces) = pair.pieces.take()
        {
            self.pairs.remove(&id);
            let connection = Forwarded {
                out: Arc::clone(&self.out),
                data,
                error,
                port,
                pod: self.pod.clone(),
            };
            let task = self
                .running
                .spawn(connection.run(Arc::clone(&self.folder), pieces));
            if let Some(stream) = self.streams.get_mut(&data) {
                stream.task = Some(task);
            }
        }
        Ok(())
    }

    async fn give(
        &mut self,
        number: u32,
        fin: bool,
        data: Vec<u8>,
    ) -> Result<(), tungstenite::Error> {
        let Some(stream) = self.streams.get_mut(&number) else {
            // An error's stream, or one that is over: there is nobody to give it to.
            return Ok(());
        };
        if !data.is_empty()
            && let Some(pieces) = &stream.pieces
        {
            match tokio::time::timeout(PATIENCE, pieces.send(data)).await {
                Ok(Ok(())) => {}
                // The pod has closed its side; what follows is for nobody.
                Ok(Err(_)) => stream.pieces = None,
                Err(_) => {
                    if let Some(task) = self.streams.remove(&number).and_then(|one| one.task) {
                        task.abort();
                    }
                    return self.out.send(Encoder::reset(number, CANCEL)).await;
                }
            }
        }
        if fin && let Some(stream) = self.streams.get_mut(&number) {
            stream.pieces = None;
        }
        Ok(())
    }
}

/// One connection to the pod.
struct Forwarded {
    out: Arc<Out>,
    data: u32,
    error: u32,
    port: u16,
    pod: String,
}

impl Forwarded {
    /// Returns the number of its data stream.
    async fn run(self, folder: Arc<Path>, pieces: mpsc::Receiver<Vec<u8>>) -> u32 {
        let carried = match connect::inside(&folder, self.port).await {
            Ok(stream) => self.carry(stream, pieces).await,
            Err(error) => self.fail(&error.to_string()).await,
        };
        if let Err(error) = carried {
            tracing::debug!(%error, "a forwarding client is gone");
        }
        self.data
    }

    async fn fail(&self, why: &str) -> Result<(), tungstenite::Error> {
        let (port, pod) = (self.port, &self.pod);
        let text = format!("error forwarding port {port} to pod {pod}: {why}");
        self.out
            .send(Encoder::data(self.error, true, text.as_bytes()))
            .await?;
        self.out.send(Encoder::data(self.data, true, &[])).await
    }

    async fn carry(
        &self,
        stream: tokio::net::TcpStream,
        pieces: mpsc::Receiver<Vec<u8>>,
    ) -> Result<(), tungstenite::Error> {
        let _gone_already = stream.set_nodelay(true);
        let (from, to) = stream.into_split();
        let (sent, ()) = tokio::join!(self.send(from), receive(to, pieces));
        sent
    }

    /// What the pod says.
    async fn send(&self, mut from: OwnedReadHalf) -> Result<(), tungstenite::Error> {
        let mut buffer = vec![0; PIECE];
        loop {
            match from.read(&mut buffer).await {
                Ok(count) if count > 0 => {
                    let frame = Encoder::data(self.data, false, &buffer[..count]);
                    self.out.send(frame).await?;
                }
                // A connection that the pod breaks off ends like one that it closes.
                Ok(_) | Err(_) => break,
            }
        }
        self.out.send(Encoder::data(self.data, true, &[])).await?;
        self.out.send(Encoder::data(self.error, true, &[])).await
    }
}

/// What the client says.
async fn receive(mut to: OwnedWriteHalf, mut pieces: mpsc::Receiver<Vec<u8>>) {
    while let Some(piece) = pieces.recv().await {
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    // The pod may have closed its side as well.
    let _closed = to.shutdown().await;
}
