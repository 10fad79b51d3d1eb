//! Addresses of links.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags as KernelFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::{Batch, Conversation, Error, NLM_F_CREATE, NLM_F_EXCL, malformed, payload};
use crate::netlink::{Message, Request};

// include/uapi/linux/rtnetlink.h
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

/// How an address is put on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressFlags {
    /// No route to the address's network is made.
    pub no_prefix_route: bool,
    /// The address is usable at once, without looking for a duplicate first (IPv6).
    pub no_duplicate_detection: bool,
}

/// An address as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link's number.
    pub index: u32,
    /// The address, with its network's length.
    pub network: IpNet,
    /// How it was put there.
    pub flags: AddressFlags,
    /// Not usable yet: looking for a duplicate, or one was found.
    pub tentative: bool,
    /// Only valid on the link itself (`fe80::/10`), or on this host.
    pub link_local: bool,
    /// Somebody gave it for good; the kernel gives those of router advertisements for a time.
    pub permanent: bool,
    /// Nothing new is to be sent from it (IPv6), such as keepalived's.
    pub deprecated: bool,
}

impl Conversation {
    /// The addresses of one link, or (`None`) of all.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Address>, Error> {
        let operation = "list addresses";
        let mut message = AddressMessage::default();
        message.header.index = index.unwrap_or(0);
        let request = Request {
            operation,
            object: String::new(),
            kind: RTM_GETADDR,
            flags: 0,
            payload: payload(&message),
        };
        self.socket.dump(&request, |message| {
            let address = decode(operation, message)?;
            Ok(address.filter(|address| index.is_none_or(|index| address.index == index)))
        })
    }

    /// Puts an address on a link.
    ///
    /// # Errors
    /// [`Error::is_exists`] if it is there already.
    pub fn add_address(
        &mut self,
        index: u32,
        network: IpNet,
        flags: AddressFlags,
    ) -> Result<(), Error> {
        self.one(&add_request(index, network, flags))
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// [`Error::is_absent`] if it is not there.
    pub fn delete_address(&mut self, index: u32, network: IpNet) -> Result<(), Error> {
        self.one(&delete_request(index, network))
    }
}

impl Batch {
    /// See [`Conversation::add_address`].
    pub fn add_address(&mut self, index: u32, network: IpNet, flags: AddressFlags) -> &mut Self {
        self.requests.push(add_request(index, network, flags));
        self
    }

    /// See [`Conversation::delete_address`].
    pub fn delete_address(&mut self, index: u32, network: IpNet) -> &mut Self {
        self.requests.push(delete_request(index, network));
        self
    }
}

fn described(index: u32, network: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match network {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = network.prefix_len();
    message.header.index = index;
    message
        .attributes
        .push(AddressAttribute::Local(network.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(network.addr()));
    message
}

fn add_request(index: u32, network: IpNet, wanted: AddressFlags) -> Request {
    let mut message = described(index, network);
    let mut flags = KernelFlags::empty();
    flags.set(KernelFlags::Noprefixroute, wanted.no_prefix_route);
    flags.set(KernelFlags::Nodad, wanted.no_duplicate_detection);
    message
        .header
        .flags
        .set(AddressHeaderFlags::Nodad, wanted.no_duplicate_detection);
    message.attributes.push(AddressAttribute::Flags(flags));
    Request {
        operation: "add address",
        object: format!("{network} to the link with index {index}"),
        kind: RTM_NEWADDR,
        flags: NLM_F_CREATE | NLM_F_EXCL,
        payload: payload(&message),
    }
}

fn delete_request(index: u32, network: IpNet) -> Request {
    Request {
        operation: "delete address",
        object: format!("{network} from the link with index {index}"),
        kind: RTM_DELADDR,
        flags: 0,
        payload: payload(&described(index, network)),
    }
}

/// Reads an address out of RTM_NEWADDR or RTM_DELADDR; one of another family is `None`.
pub(super) fn decode(
    operation: &'static str,
    message: Message<'_>,
) -> Result<Option<Address>, Error> {
    if message.kind != RTM_NEWADDR && message.kind != RTM_DELADDR {
        return Ok(None);
    }
    let message = AddressMessage::parse(message.payload).map_err(malformed(operation))?;
    let mut flags = KernelFlags::empty();
    let mut local: Option<IpAddr> = None;
    let mut remote: Option<IpAddr> = None;
    for attribute in &message.attributes {
        // The library's enum is non-exhaustive.
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            remote = Some(*ip);
        } else if let AddressAttribute::Flags(all) = attribute {
            flags = *all;
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other side; IFA_LOCAL is ours.
    let Some(ip) = local.or(remote) else {
        return Ok(None);
    };
    let Ok(network) = IpNet::new(ip, message.header.prefix_len) else {
        return Ok(None);
    };
    Ok(Some(Address {
        index: message.header.index,
        network,
        flags: AddressFlags {
            no_prefix_route: flags.contains(KernelFlags::Noprefixroute),
            no_duplicate_detection: flags.contains(KernelFlags::Nodad),
        },
        tentative: flags.intersects(KernelFlags::Tentative | KernelFlags::Dadfailed),
        link_local: matches!(
            message.header.scope,
            AddressScope::Link | AddressScope::Host | AddressScope::Nowhere
        ),
        permanent: flags.contains(KernelFlags::Permanent),
        deprecated: flags.contains(KernelFlags::Deprecated),
    }))
}
