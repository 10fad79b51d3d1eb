//! Carrying connections from the machine to what is in the lab.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};
use weft_netlab::Namespace;
use weft_netlab::sys_namespace::{self, Kind};

use super::{Never, Publication};
use crate::lab::enter;
use crate::lab::state::Record;

/// As many connections as are carried at a time; others wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 1000;
/// What is read ahead in each direction. A reader that is slow costs this much and no more.
const AHEAD: usize = 32 << 10;
/// How long a dial may take before another node, or another endpoint, is tried.
const DIAL: Duration = Duration::from_secs(3);
/// A connection on which nothing is said for so long is asked for, since a pod or node that
/// vanished never ends one; this often again, and so many times before it is given up.
const SILENT: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_secs(10);
const ASKED: u32 = 3;
/// As many ways are tried: beyond that it is not the way.
const WAYS: usize = 6;
/// When no descriptor is free, connections are taken again after this.
const RECOVER: Duration = Duration::from_millis(50);

/// Carries every connection that comes.
pub(super) async fn all(
    listener: TcpListener,
    publication: Arc<Publication>,
    lab: Record,
) -> Never {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let lab = Arc::new(lab);
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            // Nobody closes it.
            continue;
        };
        match listener.accept().await {
            Ok((client, from)) => {
                let (publication, lab) = (Arc::clone(&publication), Arc::clone(&lab));
                tokio::spawn(async move { one(client, from, &publication, &lab, permit).await });
            }
            Err(error) => {
                warn!(%error, "a connection cannot be taken");
                tokio::time::sleep(RECOVER).await;
            }
        }
    }
}

async fn one(
    mut client: TcpStream,
    from: SocketAddr,
    publication: &Publication,
    lab: &Record,
    _permit: OwnedSemaphorePermit,
) {
    let mut server = match dial(publication, lab).await {
        Ok(server) => server,
        Err(error) => {
            warn!(%from, %error, "nobody answers");
            reset(&client);
            return;
        }
    };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    if let Err(error) = keep_asking(&server) {
        debug!(%from, %error, "a server that vanishes will not be noticed");
    }
    // The end of one direction is passed on, and the other goes on.
    if let Err(error) = copy_bidirectional_with_sizes(&mut client, &mut server, AHEAD, AHEAD).await
    {
        debug!(%from, %error, "broken off");
        reset(&client);
        reset(&server);
    }
}

/// Has the kernel notice that the other side is gone for good.
fn keep_asking(server: impl AsFd) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(&server, SILENT)?;
    sockopt::set_tcp_keepintvl(&server, ASK_AGAIN)?;
    sockopt::set_tcp_keepcnt(&server, ASKED)?;
    sockopt::set_socket_keepalive(&server, true)
}

/// Has the other side see a reset rather than an end.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        debug!(%error, "the connection ends instead of breaking off");
    }
}

async fn dial(publication: &Publication, lab: &Record) -> io::Result<TcpStream> {
    let route = publication.route().map_err(io::Error::other)?;
    let mut last = io::Error::other("the Service has no ready endpoint");
    let mut nodes = nodes(lab);
    // Those with endpoints first: a Service may be served on its endpoints' nodes alone.
    nodes.sort_by_key(|(name, _)| !route.nodes.contains(name));
    let mut ways = 0;
    for address in &route.addresses {
        for (name, namespace) in &nodes {
            if ways == WAYS {
                return Err(last);
            }
            ways += 1;
            let socket = namespace.run(|| match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            });
            let socket = socket.map_err(io::Error::other)??;
            match tokio::time::timeout(DIAL, socket.connect(*address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
            debug!(%address, node = %name, error = %last, "no way");
        }
    }
    Err(last)
}

/// The network namespaces of the nodes that run.
fn nodes(lab: &Record) -> Vec<(String, Namespace)> {
    enter::nodes(lab)
        .into_iter()
        .filter(|(name, _)| name != crate::lab::init::OUTSIDE)
        .filter_map(|(name, process)| {
            let file = process.join("ns").join(Kind::Net.file_name());
            let opened: OwnedFd = sys_namespace::open(file).ok()?;
            Some((name.clone(), Namespace::from_descriptor(&name, opened)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_vanishes_is_asked_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        keep_asking(&server).unwrap();
        assert!(sockopt::socket_keepalive(&server).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&server).unwrap(), SILENT);
        assert_eq!(sockopt::tcp_keepintvl(&server).unwrap(), ASK_AGAIN);
        assert_eq!(sockopt::tcp_keepcnt(&server).unwrap(), ASKED);
    }
}
