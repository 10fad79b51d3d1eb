//! Who changes nf_tables, as it happens.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};

use super::object::{Family, TableName};
use super::read;
use super::wire::{DELETE_CHAIN, DELETE_RULE, NEW_CHAIN, NEW_RULE, SUBSYSTEM};
use crate::netlink::{Bus, Error, Message, Socket};

/// `NFNLGRP_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 7;

/// Something of a table was made, changed or removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The netlink port of whoever did it ([`super::Connection::port`]).
    pub by: u32,
    /// The table.
    pub table: TableName,
    /// The chain, if it was one or a rule in it.
    pub chain: Option<String>,
}

/// What the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A change.
    Changed(Change),
    /// There were more changes than the buffer holds: anything may be different.
    Overflow,
}

/// A subscription to all changes of nf_tables in a network namespace. The descriptor is
/// readable when there is something to take.
#[derive(Debug)]
pub struct Notifications {
    socket: Socket,
    waiting: VecDeque<Event>,
}

impl Notifications {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        Self::subscribe(Socket::open(Bus::Netfilter)?)
    }

    /// Of the network namespace that `namespace` refers to.
    ///
    /// # Errors
    /// [`Error::Socket`] if it can't be entered or the kernel gives no socket.
    pub fn in_namespace(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        Self::subscribe(Socket::in_namespace(Bus::Netfilter, namespace)?)
    }

    fn subscribe(socket: Socket) -> Result<Self, Error> {
        socket.join(GROUP)?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
        })
    }

    /// The next event, without waiting; `None` when all were taken. A transaction's are there
    /// when whoever sent it has its acknowledgement.
    ///
    /// # Errors
    /// A failure of the socket.
    pub fn take(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            let waiting = &mut self.waiting;
            let received = self
                .socket
                .try_receive("receive a notification", |message| {
                    waiting.extend(decode(&message).map(Event::Changed));
                });
            match received {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                // What was cut, or got lost, could be of anything.
                Err(Error::Lost { .. } | Error::Malformed { .. }) => {
                    return Ok(Some(Event::Overflow));
                }
                Err(
                    error
                    @ (Error::Socket { .. } | Error::Refused { .. } | Error::Unsettled { .. }),
                ) => {
                    return Err(error);
                }
            }
        }
    }

    /// Takes all there is, and tells who made the changes that `concern`. `None` if more
    /// happened than the buffer holds.
    ///
    /// # Errors
    /// A failure of the socket.
    pub fn authors(
        &mut self,
        concern: impl Fn(&Change) -> bool,
    ) -> Result<Option<BTreeSet<u32>>, Error> {
        let mut authors = Some(BTreeSet::new());
        while let Some(event) = self.take()? {
            match event {
                Event::Overflow => authors = None,
                Event::Changed(change) => {
                    if let Some(authors) = authors.as_mut().filter(|_| concern(&change)) {
                        authors.insert(change.by);
                    }
                }
            }
        }
        Ok(authors)
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn decode(message: &Message<'_>) -> Option<Change> {
    if message.kind >> 8 != SUBSYSTEM {
        return None;
    }
    let family = Family::from_number(*message.payload.first()?)?;
    let chain = match message.kind & 0xff {
        // NFTA_CHAIN_NAME
        NEW_CHAIN | DELETE_CHAIN => Some(3),
        // NFTA_RULE_CHAIN
        NEW_RULE | DELETE_RULE => Some(2),
        _ => None,
    };
    // Their table's name is the first attribute of all of them. A generation has a number
    // there.
    let name = read::name(message.payload, 1).filter(|_| message.kind & 0xff != NEW_GENERATION)?;
    Some(Change {
        by: message.port,
        table: TableName { family, name },
        chain: chain.and_then(|attribute| read::name(message.payload, attribute)),
    })
}

/// `NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = 15;
