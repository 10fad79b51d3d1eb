//! Forwarding entries of tunnels: behind which host an Ethernet address is (`bridge fdb`).

use std::net::IpAddr;

use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
    NeighbourState as KernelState,
};

use super::neighbour::{RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH};
use super::{Batch, Conversation, Error, Mac, NLM_F_CREATE, NLM_F_REPLACE, malformed, payload};
use crate::netlink::{Message, Request};

/// Where a tunnel sends what is for an Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The tunnel's number.
    pub index: u32,
    /// The Ethernet address.
    pub mac: Mac,
    /// The host it is sent to.
    pub remote: IpAddr,
    /// Put there; never forgotten.
    pub permanent: bool,
}

impl Conversation {
    /// The forwarding entries of one tunnel.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn forwardings(&mut self, index: u32) -> Result<Vec<Forwarding>, Error> {
        let operation = "list forwarding entries";
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        let request = Request {
            operation,
            object: format!("of the link with index {index}"),
            kind: RTM_GETNEIGH,
            flags: 0,
            payload: payload(&message),
        };
        self.socket.dump(&request, |message| {
            let found = decode(operation, message)?;
            Ok(found.filter(|entry| entry.index == index))
        })
    }
}

impl Batch {
    /// Sends what is for an Ethernet address to a host, for ever, in place of where it went.
    pub fn add_forwarding(&mut self, index: u32, mac: Mac, remote: IpAddr) -> &mut Self {
        let mut message = described(index, mac, remote);
        message.header.state = KernelState::Permanent;
        self.requests.push(Request {
            operation: "add forwarding entry",
            object: object(index, mac, remote),
            kind: RTM_NEWNEIGH,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            payload: payload(&message),
        });
        self
    }

    /// Ends that.
    pub fn delete_forwarding(&mut self, index: u32, mac: Mac, remote: IpAddr) -> &mut Self {
        self.requests.push(Request {
            operation: "delete forwarding entry",
            object: object(index, mac, remote),
            kind: RTM_DELNEIGH,
            flags: 0,
            payload: payload(&described(index, mac, remote)),
        });
        self
    }
}

fn object(index: u32, mac: Mac, remote: IpAddr) -> String {
    format!("{mac} to {remote} on the link with index {index}")
}

fn described(index: u32, mac: Mac, remote: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    // NTF_SELF: the tunnel's own table, not that of a bridge it may be a port of.
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        NeighbourAttribute::Destination(remote.into()),
    ];
    message
}

/// Reads an entry out of RTM_NEWNEIGH or RTM_DELNEIGH; one that leads to no host (a bridge's)
/// is `None`.
pub(super) fn decode(
    operation: &'static str,
    message: Message<'_>,
) -> Result<Option<Forwarding>, Error> {
    if message.kind != RTM_NEWNEIGH && message.kind != RTM_DELNEIGH {
        return Ok(None);
    }
    let message = NeighbourMessage::parse(message.payload).map_err(malformed(operation))?;
    if message.header.family != AddressFamily::Bridge {
        return Ok(None);
    }
    let mut mac = None;
    let mut remote = None;
    for attribute in &message.attributes {
        // The library's enums are non-exhaustive.
        if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) = attribute {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            remote = v4
                .or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
                .ok();
        }
    }
    let permanent = matches!(message.header.state, KernelState::Permanent);
    Ok(mac.zip(remote).map(|(mac, remote)| Forwarding {
        index: message.header.ifindex,
        mac,
        remote,
        permanent,
    }))
}
