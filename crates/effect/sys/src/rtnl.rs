//! Links, addresses, routes and neighbours of one network namespace (rtnetlink).
//!
//! A [`Conversation`] is one socket and does one thing at a time; a [`Batch`] collects
//! changes that are sent together. Names, numbers and addresses are plain Rust types;
//! `netlink-packet-route`, which writes and reads the messages, stays inside.
//!
//! Source: rtnetlink(7), `include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour}.h`.

mod address;
mod forwarding;
mod link;
mod neighbour;
mod notification;
mod route;
mod traffic;
mod vxlan;

use std::os::fd::BorrowedFd;

use netlink_packet_core::{DecodeError, Emitable};

pub use crate::netlink::Error;
use crate::netlink::{Bus, Request, Socket};

pub use address::{Address, AddressFlags};
pub use forwarding::Forwarding;
pub use link::{BridgeSpec, Link, LinkChange, Mac, VethSpec};
pub use neighbour::{Neighbour, NeighbourState};
pub use notification::{Event, Group, Notifications};
pub use route::{NextHop, PROTOCOL_STATIC, Route, RouteFilter, RouteSpec, TABLE_MAIN};
pub use traffic::{Held, TokenBucket};
pub use vxlan::{Vxlan, VxlanSpec};

// include/uapi/linux/netlink.h
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

/// A conversation with the kernel about one network namespace.
#[derive(Debug)]
pub struct Conversation {
    socket: Socket,
}

impl Conversation {
    /// About the calling thread's network namespace. It stays with that namespace,
    /// wherever the thread goes later.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Bus::Route)?,
        })
    }

    /// About the network namespace that `namespace` refers to.
    ///
    /// # Errors
    /// [`Error::Socket`] if it can't be entered or the kernel gives no socket.
    pub fn in_namespace(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::in_namespace(Bus::Route, namespace)?,
        })
    }

    /// Does everything in `batch`, in its order. The answer has one result a step; a
    /// refused step does not stop those after it.
    ///
    /// # Errors
    /// A failure of the socket; what was sent before it may be done.
    pub fn run(&mut self, batch: &Batch) -> Result<Vec<Result<(), Error>>, Error> {
        self.socket.batch(&batch.requests)
    }

    /// Does everything in `batch`, and fails with the first step that was refused. The
    /// steps after it were still tried.
    ///
    /// # Errors
    /// The first refusal, or a failure of the socket.
    pub fn run_all(&mut self, batch: &Batch) -> Result<(), Error> {
        self.run(batch)?.into_iter().collect()
    }

    fn one(&mut self, request: &Request) -> Result<(), Error> {
        self.socket.call(request, |_| Ok(None::<()>)).map(drop)
    }
}

/// Changes that are sent together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    requests: Vec<Request>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of steps in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

fn payload(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn malformed(operation: &'static str) -> impl FnOnce(DecodeError) -> Error {
    move |error| Error::Malformed {
        operation,
        reason: format!("{error:#}"),
    }
}
