//! Tells over HTTP whether a process is well, for the kubelet's probes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::{ListenAddress, listener};

/// How long a prober may take for its request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest request head read.
const MAX_HEAD: usize = 8192;

/// Whether a process is well. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Says whether the process can be sent work; at first it can't.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether the process can be sent work.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn respond(&self, head: &str) -> String {
        let mut words = head.split_ascii_whitespace();
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        if !["GET", "HEAD"].contains(&method) {
            return response("405 Method Not Allowed", "only GET\n", true);
        }
        let (status, body) = match target.split('?').next().unwrap_or_default() {
            // That this is answered at all says that the process is alive.
            "/health" | "/healthz" | "/livez" => OK,
            "/ready" | "/readyz" if self.ready() => OK,
            "/ready" | "/readyz" => ("503 Service Unavailable", "not ready\n"),
            _ => ("404 Not Found", "only /health and /ready\n"),
        };
        response(status, body, method == "GET")
    }
}

const OK: (&str, &str) = ("200 OK", "OK\n");

fn response(status: &str, body: &str, with_body: bool) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{}",
        body.len(),
        if with_body { body } else { "" }
    )
}

/// Listens at an address. Needs a tokio runtime.
pub fn listen(address: ListenAddress) -> std::io::Result<TcpListener> {
    let options = listener::Options {
        only_v6: matches!(address, ListenAddress::One(_)),
        reuse_port: false,
    };
    let mut failure = std::io::ErrorKind::AddrNotAvailable.into();
    for candidate in address.candidates() {
        match listener::listen(candidate, options) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Answers probes without end: `/health` and `/healthz` always, `/ready` and `/readyz`
/// with 200 or 503.
pub async fn serve(listener: TcpListener, health: Health) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                tokio::spawn(async move {
                    // A prober that leaves, or is slow, has its answer.
                    let _ = timeout(TIMEOUT, answer(stream, &health)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "taking a probe's connection failed; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, health: &Health) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let response = health.respond(&String::from_utf8_lossy(&head));
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_503_until_it_is_200() {
        let health = Health::default();
        let status = |request: &str| health.respond(request)[9..12].to_owned();
        assert_eq!(status("GET /ready HTTP/1.1\r\n\r\n"), "503");
        assert_eq!(status("GET /health HTTP/1.1\r\n\r\n"), "200");
        health.set_ready(true);
        assert_eq!(status("GET /ready?verbose HTTP/1.1\r\n\r\n"), "200");
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "404");
        assert_eq!(status("POST /ready HTTP/1.1\r\n\r\n"), "405");
        assert_eq!(status("\r\n\r\n"), "405");
    }
}
