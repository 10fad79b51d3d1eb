//! Neighbours: which Ethernet address an IP address has on a link.

use std::net::IpAddr;

use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState as KernelState,
};

use super::{Batch, Conversation, Error, Mac, NLM_F_CREATE, NLM_F_REPLACE, malformed, payload};
use crate::netlink::{Message, Request};

// include/uapi/linux/rtnetlink.h
pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
pub(super) const RTM_GETNEIGH: u16 = 30;

/// What the kernel thinks of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Put there; never asked for and never forgotten.
    Permanent,
    /// Learned; usable, and confirmed or about to be.
    Learned,
    /// Asked for, and no answer (yet).
    Unresolved,
}

/// A neighbour as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The link's number.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address, if known.
    pub mac: Option<Mac>,
    /// What the kernel thinks of it.
    pub state: NeighbourState,
}

impl Conversation {
    /// The neighbours on one link, or (`None`) on all. Multicast and broadcast entries,
    /// which need no resolution, are left out.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn neighbours(&mut self, index: Option<u32>) -> Result<Vec<Neighbour>, Error> {
        let operation = "list neighbours";
        let mut message = NeighbourMessage::default();
        if let Some(index) = index {
            message.attributes.push(NeighbourAttribute::IfIndex(index));
        }
        let request = Request {
            operation,
            object: String::new(),
            kind: RTM_GETNEIGH,
            flags: 0,
            payload: payload(&message),
        };
        self.socket.dump(&request, |message| {
            let neighbour = decode(operation, message)?;
            Ok(neighbour.filter(|n| index.is_none_or(|index| n.index == index)))
        })
    }

    /// Puts a permanent neighbour on a link, in place of what the link had for its address.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn add_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<(), Error> {
        self.one(&add_request(index, address, mac))
    }

    /// Removes a neighbour from a link.
    ///
    /// # Errors
    /// [`Error::is_absent`] if it is not there.
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> Result<(), Error> {
        self.one(&delete_request(index, address))
    }
}

impl Batch {
    /// See [`Conversation::add_neighbour`].
    pub fn add_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> &mut Self {
        self.requests.push(add_request(index, address, mac));
        self
    }

    /// See [`Conversation::delete_neighbour`].
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> &mut Self {
        self.requests.push(delete_request(index, address));
        self
    }
}

fn described(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = index;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
}

fn add_request(index: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = described(index, address);
    message.header.state = KernelState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    Request {
        operation: "add neighbour",
        object: format!("{address} ({mac}) on the link with index {index}"),
        kind: RTM_NEWNEIGH,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        payload: payload(&message),
    }
}

fn delete_request(index: u32, address: IpAddr) -> Request {
    Request {
        operation: "delete neighbour",
        object: format!("{address} on the link with index {index}"),
        kind: RTM_DELNEIGH,
        flags: 0,
        payload: payload(&described(index, address)),
    }
}

/// Reads a neighbour out of RTM_NEWNEIGH or RTM_DELNEIGH; one that is no IP neighbour
/// (a bridge's forwarding entry, a multicast group) is `None`.
pub(super) fn decode(
    operation: &'static str,
    message: Message<'_>,
) -> Result<Option<Neighbour>, Error> {
    if message.kind != RTM_NEWNEIGH && message.kind != RTM_DELNEIGH {
        return Ok(None);
    }
    let message = NeighbourMessage::parse(message.payload).map_err(malformed(operation))?;
    let Some(state) = known(message.header.state) else {
        return Ok(None);
    };
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        // The library's enums are non-exhaustive.
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) = attribute {
            address = Some(IpAddr::V4(*ip));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) = attribute {
            address = Some(IpAddr::V6(*ip));
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
        }
    }
    Ok(address.map(|address| Neighbour {
        index: message.header.ifindex,
        address,
        mac,
        state,
    }))
}

/// `None` for neighbours that need no resolution (NUD_NOARP).
fn known(state: KernelState) -> Option<NeighbourState> {
    use KernelState::{
        Delay, Failed, Incomplete, None as Fresh, Permanent, Probe, Reachable, Stale,
    };
    if matches!(state, Permanent) {
        Some(NeighbourState::Permanent)
    } else if matches!(state, Reachable | Stale | Delay | Probe) {
        Some(NeighbourState::Learned)
    } else if matches!(state, Incomplete | Failed | Fresh) {
        Some(NeighbourState::Unresolved)
    } else {
        None
    }
}
