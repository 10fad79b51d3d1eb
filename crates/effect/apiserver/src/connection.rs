//! One connection: TLS, HTTP, and what ends it.
//!
//! A client costs what it makes the server keep: a file descriptor, some buffers, answers that it
//! does not take. So every wait for a client ends, but for that with a stream passed on from a
//! pod (somebody pages through a log), of which there are so many and no more; and so does a
//! connection on which nothing is asked any more.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::api::Api;
use crate::body::BoxError;
use crate::gather::{Gathered, Gathering};
use crate::herald::Heralds;
use crate::identity::CertificateCheck;
use crate::traffic::{Noted, Sent, Traffic, Verdict};

/// How often a silent HTTP/2 client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Requests at once on one HTTP/2 connection, as many as kube-apiserver allows
/// (`--http2-max-streams-per-connection`: 250): a client with more opens another connection.
const MAX_STREAMS: u32 = 250;

/// How long a client may keep the server waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For a request's head, and for the next request when none is being answered.
    pub idle: Duration,
    /// For a request's body.
    pub body: Duration,
    /// For what is sent after a request was refused for its length.
    pub linger: Duration,
    /// For taking anything of what waits to be sent to it.
    pub unread: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            // Clients close what they have not used for 90 s: they had better be the first.
            idle: Duration::from_secs(120),
            body: Duration::from_secs(30),
            // As Go's servers have.
            linger: Duration::from_millis(500),
            // kube-apiserver gives a whole answer as long (`--request-timeout`).
            unread: Duration::from_secs(60),
        }
    }
}

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) api: Arc<Api>,
    pub(crate) tls: TlsAcceptor,
    pub(crate) check: Arc<CertificateCheck>,
    pub(crate) patience: Patience,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Shared {
    /// Serves a connection to its end, on the thread of `heralds`.
    pub(crate) async fn serve(self, stream: TcpStream, peer: SocketAddr, heralds: Heralds) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "a connection is already gone");
            return;
        }
        let traffic = Traffic::new(Instant::now());
        let noted = Noted {
            io: stream,
            traffic: traffic.clone(),
        };
        let stream = match timeout(self.patience.handshake, self.tls.accept(noted)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "the TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%peer, "the TLS handshake took too long");
                return;
            }
        };
        let client = Arc::new(self.check.peer(stream.get_ref().1.peer_certificates()));
        let (api, answered) = (self.api.clone(), traffic.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, client, answering) = (api.clone(), client.clone(), answered.request());
            let heralds = heralds.clone();
            async move {
                let response = api.answer(request, &client, &heralds).await;
                let response: Response<Sent> = answering.until_sent(response);
                Ok::<_, Infallible>(response)
            }
        });
        let ended = if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_INTERVAL)
                .max_concurrent_streams(MAX_STREAMS);
            let connection = Gathering::new(Gathered::new(stream), |stream| {
                Box::pin(builder.serve_connection(TokioIo::new(stream), service))
            });
            let finish = |one: Pin<&mut Gathering<Pin<Box<http2::Connection<_, _, _>>>, _>>| {
                one.get_mut().connection().as_mut().graceful_shutdown();
            };
            self.watch_over(connection, finish, &traffic).await
        } else {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(self.patience.idle);
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            let finish = auto::UpgradeableConnection::graceful_shutdown;
            self.watch_over(connection, finish, &traffic).await
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection broke off");
        }
    }

    /// Drives a connection until it ends, or has to. `finish` lets it end when it has answered.
    async fn watch_over<C, E>(
        mut self,
        connection: C,
        finish: impl Fn(Pin<&mut C>),
        traffic: &Traffic,
    ) -> Result<(), BoxError>
    where
        C: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        let Patience { idle, unread, .. } = self.patience;
        let mut look = Instant::now() + idle.min(unread);
        let mut finishing = false;
        tokio::pin!(connection);
        loop {
            tokio::select! {
                ended = &mut connection => return ended.map_err(Into::into),
                // The sender going away is a stop as well.
                _ = self.stop.wait_for(|stop| *stop), if !finishing => {
                    finishing = true;
                    finish(connection.as_mut());
                }
                () = sleep_until(look) => match traffic.verdict(Instant::now(), idle, unread) {
                    Verdict::GoesOn(until) => look = until,
                    Verdict::Idle if !finishing => {
                        finishing = true;
                        finish(connection.as_mut());
                        look = Instant::now() + unread;
                    }
                    Verdict::Idle => return Err("its client asks nothing, and does not go".into()),
                    Verdict::Stuck => return Err("its client takes nothing".into()),
                },
            }
        }
    }
}
