//! What changes in a namespace, as it changes.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::{
    Address, Error, Forwarding, Link, Neighbour, Route, address, forwarding, link, neighbour, route,
};
use crate::netlink::{Bus, Message, Socket};

/// What to be told of. A group covers both families where there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Links.
    Links,
    /// Addresses.
    Addresses,
    /// Routes of all tables.
    Routes,
    /// Neighbours, and forwarding entries of tunnels.
    Neighbours,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 4] = [
        Group::Links,
        Group::Addresses,
        Group::Routes,
        Group::Neighbours,
    ];

    /// RTNLGRP_* (`include/uapi/linux/rtnetlink.h`).
    fn numbers(self) -> &'static [u32] {
        match self {
            Group::Links => &[1],
            Group::Neighbours => &[3],
            Group::Addresses => &[5, 9],
            Group::Routes => &[7, 11],
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is new or different.
    Link(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address is new or different.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route is new or different.
    Route(Route),
    /// A route is gone. Routes that vanish because their link went down or away are not
    /// all reported: a change of a link is a reason to read the routes again.
    RouteGone(Route),
    /// A neighbour is new or different.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// A forwarding entry of a tunnel is new or different.
    Forwarding(Forwarding),
    /// A forwarding entry of a tunnel is gone.
    ForwardingGone(Forwarding),
    /// There were more changes than the buffer holds: read everything again.
    Overflow,
}

/// A subscription. The descriptor is readable when there is something to take.
#[derive(Debug)]
pub struct Notifications {
    socket: Socket,
    waiting: VecDeque<Event>,
}

impl Notifications {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(groups: &[Group]) -> Result<Self, Error> {
        Self::subscribe(Socket::open(Bus::Route)?, groups)
    }

    /// Of the network namespace that `namespace` refers to.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn in_namespace(namespace: BorrowedFd<'_>, groups: &[Group]) -> Result<Self, Error> {
        Self::subscribe(Socket::in_namespace(Bus::Route, namespace)?, groups)
    }

    fn subscribe(socket: Socket, groups: &[Group]) -> Result<Self, Error> {
        for number in groups.iter().flat_map(|group| group.numbers()) {
            socket.join(*number)?;
        }
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
        })
    }

    /// The next change, without waiting; `None` when all were taken.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a message that can't be read; the next call goes on
    /// behind it.
    pub fn take(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            let waiting = &mut self.waiting;
            let mut failed = None;
            let operation = "receive a notification";
            let received =
                self.socket
                    .try_receive(operation, |message| match decode(operation, message) {
                        Ok(event) => waiting.extend(event),
                        Err(error) => failed = Some(error),
                    });
            match (received, failed) {
                (Ok(_), Some(error)) => return Err(error),
                (Ok(true), None) => {}
                (Ok(false), None) => return Ok(None),
                (Err(Error::Lost { .. }), _) => return Ok(Some(Event::Overflow)),
                (Err(error), _) => return Err(error),
            }
        }
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Notifications {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

fn decode(operation: &'static str, message: Message<'_>) -> Result<Option<Event>, Error> {
    let event = match message.kind {
        link::RTM_NEWLINK => link::decode(operation, message)?.map(Event::Link),
        link::RTM_DELLINK => link::decode(operation, message)?.map(Event::LinkGone),
        address::RTM_NEWADDR => address::decode(operation, message)?.map(Event::Address),
        address::RTM_DELADDR => address::decode(operation, message)?.map(Event::AddressGone),
        route::RTM_NEWROUTE => route::decode(operation, message)?.map(Event::Route),
        route::RTM_DELROUTE => route::decode(operation, message)?.map(Event::RouteGone),
        neighbour::RTM_NEWNEIGH => match neighbour::decode(operation, message)? {
            Some(neighbour) => Some(Event::Neighbour(neighbour)),
            None => forwarding::decode(operation, message)?.map(Event::Forwarding),
        },
        neighbour::RTM_DELNEIGH => match neighbour::decode(operation, message)? {
            Some(neighbour) => Some(Event::NeighbourGone(neighbour)),
            None => forwarding::decode(operation, message)?.map(Event::ForwardingGone),
        },
        _ => None,
    };
    Ok(event)
}
