//! TCP listeners, with the options the standard library does not set.

use std::io;
use std::net::SocketAddr;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use tokio::net::TcpListener;

/// Connections the kernel holds until they are taken.
const BACKLOG: i32 = 256;

/// How a listener is bound.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// `::` does not take IPv4 too.
    pub(crate) only_v6: bool,
    /// Others that set this too may listen at the same address (`SO_REUSEPORT`).
    pub(crate) reuse_port: bool,
}

/// Listens at an address. Needs a tokio runtime.
pub(crate) fn listen(address: SocketAddr, options: Options) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let fd = rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(ipproto::TCP),
    )?;
    // A restarted server must not wait for its predecessor's connections to be forgotten.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if options.reuse_port {
        sockopt::set_socket_reuseport(&fd, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, options.only_v6)?;
    }
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, BACKLOG)?;
    TcpListener::from_std(fd.into())
}
