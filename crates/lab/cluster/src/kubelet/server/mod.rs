//! The kubelet's own server: streams into the node's pods, and their logs.
//!
//! Only the API server's client certificate opens it (group `system:masters`), as the kubelet's
//! default authorization would have it. What a stream buffers is bounded: each direction waits
//! for the other end.

mod channels;
mod connect;
mod forward;
mod handshake;
mod logs;
mod run;
mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::Shared;
use weft_proto::kubelet::{self, Call};

/// The port (Kubernetes' default).
const PORT: u16 = 10250;
/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 1024;
/// How long a TLS handshake, or a request's head, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before a listener that failed is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its certificate, or the authority's.
    #[error("the kubelet's certificate {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Its port.
    #[error("the kubelet's server cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The answer.
        source: io::Error,
    },
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What cannot be done, as the client reads it.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Refusal {
            status,
            text: text.into(),
        }
    }

    fn internal(text: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text.to_string())
    }

    fn no_container(name: &str) -> Self {
        Self::internal(format_args!("container not found (\"{name}\")"))
    }
}

impl From<kubelet::Error> for Refusal {
    fn from(error: kubelet::Error) -> Self {
        let status = match &error {
            kubelet::Error::Path => StatusCode::NOT_FOUND,
            kubelet::Error::Parameter(_) => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, error.to_string())
    }
}

/// Starts to serve on the node's addresses.
pub(super) fn start(shared: Arc<Shared>, certificate: &Path) -> Result<(), Error> {
    let tls = tls::acceptor(certificate, shared.cluster_ca.as_deref())?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for address in shared.config.node_addresses.clone() {
        let address = SocketAddr::new(address, PORT);
        let refused = |source| Error::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let listener = TcpListener::from_std(listener).map_err(refused)?;
        tokio::spawn(accept(
            Arc::clone(&shared),
            listener,
            tls.clone(),
            Arc::clone(&permits),
        ));
    }
    Ok(())
}

async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: TlsAcceptor,
    permits: Arc<Semaphore>,
) {
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move {
                    serve(shared, stream, tls).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the kubelet cannot be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, tls: TlsAcceptor) {
    let _gone_already = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake with the kubelet failed");
            return;
        }
        Err(_) => return,
    };
    let allowed = tls::is_master(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move {
            let answer = if allowed {
                answer(&shared, request).await
            } else {
                Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden"))
            };
            Ok::<_, Infallible>(answer.unwrap_or_else(|refusal| text(refusal.status, refusal.text)))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the kubelet broke off");
    }
}

async fn answer(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if request.method() == Method::CONNECT {
        return connect::answer(request).await;
    }
    let uri = request.uri();
    let call = Call::parse(
        uri.path(),
        uri.query().unwrap_or_default(),
        Timestamp::now(),
    )?;
    match call {
        Call::Health => Ok(text(StatusCode::OK, "ok")),
        Call::Logs {
            pod,
            container,
            options,
        } => logs::answer(shared, &pod, &container, options).await,
        Call::Exec {
            pod,
            container,
            streams,
            command,
        } => {
            let program = run::Program::Own(command);
            run::answer(&mut request, &pod, container, streams, program).await
        }
        Call::Attach {
            pod,
            container,
            streams,
        } => run::answer(&mut request, &pod, container, streams, run::Program::First).await,
        Call::PortForward { pod } => forward::answer(&mut request, &pod),
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
