//! One HTTP/2 connection to one member, and the calls on it.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;
use weft_proto::grpc;
use weft_proto::protobuf::Message;

use crate::{Endpoint, Error, Tls};

/// The longest answer: some hundred bytes for each of a cluster's hosts.
const LONGEST_ANSWER: usize = 64 << 20;
/// A member that elects a leader answers after some seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// While a watch stands, a member that is gone is noticed by that. etcd ends a connection on
/// which a client asks more often than every 5 s (`--grpc-keepalive-min-time`).
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// A connection; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) endpoint: Endpoint,
    sender: SendRequest<Said>,
    /// By which etcd knows who asks.
    token: Option<HeaderValue>,
}

impl Connection {
    pub(crate) async fn open(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Self, Error> {
        let failed = |source| Error::Connect {
            endpoint: endpoint.to_string(),
            source,
        };
        let sender = match timeout(PATIENCE, dial(endpoint, tls)).await {
            Ok(dialled) => dialled.map_err(failed)?,
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        Ok(Self {
            endpoint: endpoint.clone(),
            sender,
            token: None,
        })
    }

    /// Shows this token with whatever is asked from now on.
    pub(crate) fn present(&mut self, mut token: HeaderValue) {
        token.set_sensitive(true);
        self.token = Some(token);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// A call with one answer.
    pub(crate) async fn call(
        &mut self,
        method: &'static str,
        message: &Message,
    ) -> Result<Vec<u8>, Error> {
        match timeout(PATIENCE, self.exchange(method, message)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.failed(method, format!("no answer in {PATIENCE:?}"))),
        }
    }

    async fn exchange(
        &mut self,
        method: &'static str,
        message: &Message,
    ) -> Result<Vec<u8>, Error> {
        let response = self.send(method, Said::once(message)).await?;
        let mut heads = response.headers().clone();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER);
        let body = body.collect().await;
        let body = body.map_err(|error| self.failed(method, error.to_string()))?;
        heads.extend(body.trailers().cloned().unwrap_or_default());
        self.succeeded(method, &heads)?;
        let body = body.to_bytes();
        let message = grpc::unframed(&body).ok_or_else(|| self.unreadable(method))?;
        Ok(message.to_vec())
    }

    /// A call that is answered as long as it is kept open.
    pub(crate) async fn stream(
        &mut self,
        method: &'static str,
        message: &Message,
    ) -> Result<Answers, Error> {
        let (open, closed) = oneshot::channel();
        let said = Said {
            open: Some(closed),
            ..Said::once(message)
        };
        let sent = timeout(PATIENCE, self.send(method, said)).await;
        let response =
            sent.map_err(|_| self.failed(method, format!("no answer in {PATIENCE:?}")))??;
        let heads = response.headers();
        // An answer without a body says here how it ended.
        if heads.contains_key(grpc::STATUS) {
            self.succeeded(method, heads)?;
        }
        Ok(Answers {
            connection: self.clone(),
            method,
            body: response.into_body(),
            received: Vec::new(),
            _open: open,
        })
    }

    async fn send(
        &mut self,
        method: &'static str,
        said: Said,
    ) -> Result<Response<Incoming>, Error> {
        let scheme = if self.endpoint.tls { "https" } else { "http" };
        let uri = format!("{scheme}://{}/{method}", self.endpoint.authority());
        let mut request = Request::post(uri);
        if let Some(token) = &self.token {
            // etcd's `api/v3rpc/rpctypes/metadatafields.go`.
            request = request.header("token", token);
        }
        let request = request
            .header("content-type", grpc::CONTENT_TYPE)
            .header("te", "trailers")
            // A member that is cut off from the others ends a watch rather than keep silent.
            .header("hasleader", "true")
            .body(said)
            .map_err(|error| self.failed(method, error.to_string()))?;
        let sent = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let response = sent
            .await
            .map_err(|error| self.failed(method, chain(&error)))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(self.failed(method, format!("HTTP status {status}"))),
        }
    }

    fn succeeded(&self, method: &'static str, heads: &HeaderMap) -> Result<(), Error> {
        let head = |name: &str| heads.get(name).and_then(|value| value.to_str().ok());
        grpc::succeeded(head).map_err(|grpc::Failure { code, message }| Error::Refused {
            endpoint: self.endpoint.to_string(),
            method,
            code,
            message,
        })
    }

    pub(crate) fn unreadable(&self, method: &'static str) -> Error {
        self.failed(method, "its answer can't be read".to_owned())
    }

    pub(crate) fn failed(&self, method: &'static str, reason: String) -> Error {
        Error::Call {
            endpoint: self.endpoint.to_string(),
            method,
            reason,
        }
    }
}

async fn dial(endpoint: &Endpoint, tls: Option<&Tls>) -> io::Result<SendRequest<Said>> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    if !endpoint.tls {
        return handshake(stream).await;
    }
    let Some(Tls(connector)) = tls else {
        let words = "https needs the authorities' certificates (--etcd-cafile)";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    };
    let name = ServerName::try_from(endpoint.host.clone());
    let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    handshake(connector.connect(name, stream).await?).await
}

async fn handshake<T>(stream: T) -> io::Result<SendRequest<Said>>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(ASKED_EVERY)
        .keep_alive_timeout(PATIENCE)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection to etcd ended");
        }
    });
    Ok(sender)
}

/// hyper's errors name their cause only in the chain.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The answers to a call, one after the other. Dropped, it ends the call.
pub(crate) struct Answers {
    connection: Connection,
    method: &'static str,
    body: Incoming,
    received: Vec<u8>,
    _open: oneshot::Sender<()>,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl Answers {
    /// The next one, as `read` reads it. Dropping the future loses nothing.
    pub(crate) async fn next<T>(&mut self, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, Error> {
        let failed = |reason: String| self.connection.failed(self.method, reason);
        loop {
            if let Some(message) = grpc::unframed(&self.received) {
                let read = read(message).ok_or_else(|| self.connection.unreadable(self.method));
                let length = grpc::framed(message).len();
                self.received.drain(..length);
                return read;
            }
            if self.received.len() > LONGEST_ANSWER {
                return Err(failed("its answer is too long".to_owned()));
            }
            let Some(frame) = self.body.frame().await else {
                return Err(failed("ended".to_owned()));
            };
            let frame = frame.map_err(|error| failed(chain(&error)))?;
            if let Some(data) = frame.data_ref() {
                self.received.extend_from_slice(data);
            } else if let Some(trailers) = frame.trailers_ref() {
                self.connection.succeeded(self.method, trailers)?;
            }
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// The body of a request: one message. While a call is to stay open, so does the body.
pub(crate) struct Said {
    message: Option<Bytes>,
    open: Option<oneshot::Receiver<()>>,
}

impl Said {
    fn once(message: &Message) -> Self {
        Self {
            message: Some(grpc::framed(message.as_bytes()).into()),
            open: None,
        }
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        match &mut self.open {
            Some(open) => Pin::new(open).poll(context).map(|_| None),
            None => Poll::Ready(None),
        }
    }
}
