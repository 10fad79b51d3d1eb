//! A small HTTP/1 server: for what load balancers, probes and collectors of metrics ask.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// How long a client may take for a request, and be silent before the next one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may last, whatever its client does: one that never reads its answers
/// is not silent.
const LIFETIME: Duration = Duration::from_secs(120);
/// Connections of one listener at a time. When there are so many, the oldest makes room for
/// who comes: a probe that has to wait takes the node for dead.
const MOST_CONNECTIONS: usize = 256;
/// After the kernel could not hand over a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The path, without what follows `?`.
    pub path: &'a str,
    /// The address that was asked.
    pub at: SocketAddr,
}

/// What is answered. The length and the date are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A body that its reader must not take for anything else.
    pub fn new(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Self {
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static(kind)),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ];
        Self {
            status,
            headers: headers.into_iter().collect(),
            body: body.into(),
        }
    }

    /// Text.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// JSON.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// There is nothing of this name.
    pub fn not_found() -> Self {
        Self::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.insert(name, value.into());
        self
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Who answers. Whatever the method: HEAD has its body left out.
pub type Answering = Arc<dyn Fn(Question<'_>) -> Answer + Send + Sync>;

/// Answers without end. Dropping the future closes the listener and its connections.
pub async fn serve(listener: TcpListener, answering: Answering) {
    let mut connections = JoinSet::new();
    let mut by_age = VecDeque::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    make_room(&mut by_age);
                    let connection = timeout(LIFETIME, converse(stream, answering.clone()));
                    by_age.push_back(connections.spawn(connection));
                }
                Err(error) => {
                    tracing::warn!(%error, "taking a connection failed; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Closes the oldest connection if there are as many as there may be.
fn make_room(by_age: &mut VecDeque<AbortHandle>) {
    by_age.retain(|connection| !connection.is_finished());
    if by_age.len() >= MOST_CONNECTIONS
        && let Some(oldest) = by_age.pop_front()
    {
        oldest.abort();
    }
}

async fn converse(stream: TcpStream, answering: Answering) {
    let Ok(at) = stream.local_addr() else {
        return;
    };
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let path = request.uri().path();
        let answer = answering(Question { path, at });
        async move { Ok::<_, Infallible>(answer.response()) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    // A client that leaves, or says nothing, has its answers.
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_asks_is_answered_whoever_holds_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let answering: Answering = Arc::new(|_| Answer::text(StatusCode::OK, "here"));
        let server = tokio::spawn(serve(listener, answering));
        let mut idle = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            idle.push(TcpStream::connect(at).await.unwrap());
        }
        let asking = async {
            let mut probe = TcpStream::connect(at).await?;
            probe
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
                .await?;
            let mut answer = String::new();
            probe.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        // Sooner than those who are silent are sent away.
        let answer = timeout(PATIENCE / 2, asking).await.unwrap().unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        // The oldest made room.
        let closed = timeout(PATIENCE / 2, idle[0].read(&mut [0])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
        server.abort();
    }
}
