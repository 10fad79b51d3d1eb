//! Connections that the kubelet makes for the API server: to a pod's address, from the node
//! (HTTP CONNECT, RFC 9110, section 9.3.6), and to a port inside a pod.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use weft_netlab::sys_namespace::{self, Kind};

use super::{Body, Refusal};
use crate::kubelet::shim;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers CONNECT.
pub(super) async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let address: SocketAddr = request
        .uri()
        .authority()
        .and_then(|authority| authority.as_str().parse().ok())
        .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "an address and a port are needed"))?;
    let mut stream = within(TcpStream::connect(address))
        .await
        .map_err(|error| Refusal::new(StatusCode::BAD_GATEWAY, plain(&error)))?;
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => {
                let mut client = TokioIo::new(upgraded);
                // An end that breaks off ends the other too: both are dropped here.
                let _broke = tokio::io::copy_bidirectional(&mut client, &mut stream).await;
            }
            Err(error) => tracing::debug!(%error, "a tunnel did not begin"),
        }
    });
    let empty = Empty::<Bytes>::new().boxed_unsync();
    Ok(Response::new(empty))
}

/// Connects to a port of a pod's own loopback: IPv4, then IPv6.
pub(super) async fn inside(folder: &Path, port: u16) -> io::Result<TcpStream> {
    let pid = std::fs::read_to_string(folder.join(shim::PID))?;
    let pid = pid
        .trim()
        .parse()
        .map_err(|_| io::Error::other("the pod has no process"))?;
    let namespace = sys_namespace::of_process(pid, Kind::Net).map_err(io::Error::other)?;
    // A socket belongs to the namespace it was made in, wherever it is used.
    let make = || (TcpSocket::new_v4(), TcpSocket::new_v6());
    let (v4, v6) = sys_namespace::in_net(namespace.as_fd(), make).map_err(io::Error::other)?;
    let loopback = |address: IpAddr| SocketAddr::new(address, port);
    let first = match v4 {
        Ok(socket) => within(socket.connect(loopback(Ipv4Addr::LOCALHOST.into()))).await,
        Err(error) => Err(error),
    };
    let error = match first {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let second = match v6 {
        Ok(socket) => within(socket.connect(loopback(Ipv6Addr::LOCALHOST.into()))).await,
        Err(error) => Err(error),
    };
    second.map_err(|second| {
        io::Error::other(format!(
            "failed to connect to localhost:{port} inside the pod's network, IPv4: dial tcp4 127.0.0.1:{port}: connect: {}, IPv6: dial tcp6 [::1]:{port}: connect: {}",
            plain(&error),
            plain(&second)
        ))
    })
}

async fn within<T>(connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The kernel's words, as Go programs have them.
fn plain(error: &io::Error) -> String {
    [
        (io::ErrorKind::ConnectionRefused, "connection refused"),
        (io::ErrorKind::HostUnreachable, "no route to host"),
        (io::ErrorKind::NetworkUnreachable, "network is unreachable"),
        (io::ErrorKind::TimedOut, "connection timed out"),
    ]
    .into_iter()
    .find(|(kind, _)| *kind == error.kind())
    .map_or_else(|| error.to_string(), |(_, text)| text.to_owned())
}
