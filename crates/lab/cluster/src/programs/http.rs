//! A server of short answers over HTTP/1.1, small enough for hundreds of pods.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use super::Error;

/// What a request may take up.
const REQUEST_LIMIT: usize = 16 * 1024;
/// How many clients are answered at a time; others wait in the kernel's queue.
const CLIENTS: usize = 256;
const BACKLOG: i32 = 512;
/// A client that says nothing for this long is let go.
const IDLE: Duration = Duration::from_secs(60);
/// How long answers under way may take once the program is asked to end.
const LAST_ANSWERS: Duration = Duration::from_secs(25);

/// A request, as far as the programs need it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
}

/// An answer in plain text.
#[derive(Debug)]
pub(super) struct Reply {
    status: &'static str,
    body: String,
}

impl Reply {
    pub(super) fn text(body: String) -> Self {
        Reply {
            status: "200 OK",
            body,
        }
    }

    pub(super) fn not_found() -> Self {
        Reply {
            status: "404 Not Found",
            body: "404 page not found\n".to_owned(),
        }
    }
}

/// Waits to be asked to end.
pub(super) async fn ended(program: &'static str) -> Result<(), Error> {
    let failed = |source| Error::System {
        program,
        action: "receive signals",
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Serves a port of both families until it is asked to end, then finishes what is under way.
pub(super) async fn serve(
    program: &'static str,
    port: u16,
    answer: fn(&Request) -> Reply,
) -> Result<(), Error> {
    let listener = listen(port).map_err(|source| Error::System {
        program,
        action: "listen on its port",
        source,
    })?;
    let places = Arc::new(Semaphore::new(CLIENTS));
    let (ending, ended_receiver) = watch::channel(false);
    let mut end = std::pin::pin!(ended(program));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = tokio::select! {
            outcome = &mut end => {
                outcome?;
                break;
            }
            accepted = async { (place.await, listener.accept().await) } => accepted,
        };
        if let (Ok(place), Ok((stream, client))) = accepted {
            let ending = ended_receiver.clone();
            tokio::spawn(async move {
                // A client that goes away is its own affair.
                let _gone = converse(stream, client, answer, ending).await;
                drop(place);
            });
        }
    }
    drop(listener);
    ending.send_replace(true);
    let all = u32::try_from(CLIENTS).unwrap_or(u32::MAX);
    let _answers_take_too_long = tokio::time::timeout(LAST_ANSWERS, places.acquire_many(all)).await;
    Ok(())
}

/// `[::]` for both families, or `0.0.0.0` where there is no IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    let open = |family| -> io::Result<std::os::fd::OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        Ok(socket)
    };
    let both = || -> io::Result<std::os::fd::OwnedFd> {
        let socket = open(AddressFamily::INET6)?;
        sockopt::set_ipv6_v6only(&socket, false)?;
        rustix::net::bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        Ok(socket)
    };
    let socket = match both() {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(_) => {
            let socket = open(AddressFamily::INET)?;
            rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
            socket
        }
    };
    rustix::net::listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Answers one client's requests in turn.
async fn converse(
    mut stream: TcpStream,
    client: SocketAddr,
    answer: fn(&Request) -> Reply,
    mut ending: watch::Receiver<bool>,
) -> io::Result<()> {
    let server = stream.local_addr()?;
    let mut received = Vec::with_capacity(1024);
    loop {
        let (head, body) = loop {
            if let Some(found) = head(&received) {
                break found;
            }
            if received.len() > REQUEST_LIMIT {
                return Ok(());
            }
            // Between two requests a client that is let go loses nothing.
            let idle = received.is_empty();
            tokio::select! {
                read = tokio::time::timeout(IDLE, stream.read_buf(&mut received)) => match read {
                    Ok(Ok(count)) if count > 0 => {}
                    Ok(Ok(_)) | Err(_) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                },
                _ = ending.wait_for(|ending| *ending), if idle => return Ok(()),
            }
        };
        let text = String::from_utf8_lossy(&received[..head]).into_owned();
        // What came with the request is read and left aside.
        while received.len() < head + body {
            if head + body > REQUEST_LIMIT || stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        }
        received.drain(..head + body);
        let mut words = text.split_ascii_whitespace();
        let request = Request {
            method: words.next().unwrap_or_default().to_owned(),
            path: words.next().unwrap_or("/").to_owned(),
            client,
            server,
        };
        let old = words.next() == Some("HTTP/1.0");
        let last = old || *ending.borrow() || header(&text, "connection") == Some("close");
        let reply = answer(&request);
        let body = if request.method == "HEAD" {
            ""
        } else {
            &reply.body
        };
        let message = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{}\r\n{body}",
            reply.status,
            reply.body.len(),
            if last { "Connection: close\r\n" } else { "" },
        );
        stream.write_all(message.as_bytes()).await?;
        if last {
            return stream.shutdown().await;
        }
    }
}

/// The lengths of a request's head and body, once the head is whole.
fn head(received: &[u8]) -> Option<(usize, usize)> {
    let end = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?
        + 4;
    let text = String::from_utf8_lossy(&received[..end]);
    let body = header(&text, "content-length").and_then(|length| length.parse().ok());
    Some((end, body.unwrap_or(0)))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_on_one_connection_are_answered_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_ending, receiver) = watch::channel(false);
        tokio::spawn(async move {
            let (stream, client) = listener.accept().await.unwrap();
            let answer =
                |request: &Request| Reply::text(format!("{} {}", request.method, request.path));
            converse(stream, client, answer, receiver).await.unwrap();
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyzGET /b HTTP/1.1\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let bodies: Vec<_> = text.split("\r\n\r\n").skip(1).collect();
        assert!(
            bodies[0].starts_with("POST /a") && bodies[1] == "GET /b",
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_idle_client_does_not_hold_up_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ending, receiver) = watch::channel(false);
        let server = tokio::spawn(async move {
            let (stream, client) = listener.accept().await.unwrap();
            converse(stream, client, |_| Reply::not_found(), receiver).await
        });
        let _idle = TcpStream::connect(address).await.unwrap();
        ending.send_replace(true);
        tokio::time::timeout(Duration::from_secs(10), server)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}
