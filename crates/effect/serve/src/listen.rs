//! Where a server listens.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// An address to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// This port at all addresses of both families: `:53`.
    All(u16),
    /// One address: `127.0.0.1:53`, `[::1]:53`.
    One(SocketAddr),
}

/// The text is no [`ListenAddress`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no address to listen at; write :53, 127.0.0.1:53 or [::1]:53")]
pub struct NotAListenAddress(String);

impl ListenAddress {
    /// The addresses to try, the first that this machine has is taken: a machine may
    /// have been built without IPv6.
    pub fn candidates(self) -> Vec<SocketAddr> {
        match self {
            ListenAddress::All(port) => vec![
                (Ipv6Addr::UNSPECIFIED, port).into(),
                (Ipv4Addr::UNSPECIFIED, port).into(),
            ],
            ListenAddress::One(address) => vec![address],
        }
    }
}

impl FromStr for ListenAddress {
    type Err = NotAListenAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotAListenAddress(text.to_owned());
        match text.strip_prefix(':') {
            Some(port) => port.parse().map(Self::All).map_err(|_| wrong()),
            None => text.parse().map(Self::One).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::All(port) => write!(f, ":{port}"),
            ListenAddress::One(address) => fmt::Display::fmt(address, f),
        }
    }
}
