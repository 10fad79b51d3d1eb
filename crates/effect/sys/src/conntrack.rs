//! Connections that the kernel tracks: found by where they were sent, and forgotten one by
//! one. The kernel looks for them itself: what is not asked for never leaves it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use crate::netlink::{Attributes, Bus, Error, Request, Socket, attributes};
use crate::nft::wire::{nest, put, put_family_header};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
// include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum cntl_msg_types
const GET: u16 = 1;
const DELETE: u16 = 2;

// enum ctattr_type
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const PROTOCOL_INFO: u16 = 4;
const ID: u16 = 12;
const FILTER: u16 = 25;
// enum ctattr_tuple
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
// enum ctattr_ip
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
// enum ctattr_l4proto
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
// enum ctattr_protoinfo, enum ctattr_protoinfo_tcp
const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
/// `TCP_CONNTRACK_TIME_WAIT` (include/uapi/linux/netfilter/nf_conntrack_tcp.h): from here on
/// both ends have closed.
const TIME_WAIT: u8 = 7;
/// `CTA_FILTER_ORIG_FLAGS`, `CTA_FILTER_REPLY_FLAGS`.
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// What of the original tuple counts: destination, protocol and destination port
/// (net/netfilter/nf_internals.h, `CTA_FILTER_F_CTA_IP_DST` and so on; since Linux 5.8).
const BY_DESTINATION: u32 = BY_PORT | 1 << 1;
/// The same without the address. Linux (seen in 6.18) compares addresses of IPv6 the wrong
/// way round: a filter by one finds all connections but the ones looked for.
const BY_PORT: u32 = 1 << 3 | 1 << 5;
/// The protocol alone.
const BY_PROTOCOL: u32 = 1 << 3;

/// The connections of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

/// A connection as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opened it, as it sent.
    pub client: SocketAddr,
    /// Where the client sent it.
    pub sent_to: SocketAddr,
    /// Where answers come from: the endpoint that it was translated to.
    pub reply_source: SocketAddr,
    /// Whether both ends have closed it, as far as the kernel saw (TCP).
    pub closed: bool,
    family: u8,
    /// The original tuple and the identity, as the kernel wrote them.
    original: Vec<u8>,
    id: Vec<u8>,
}

impl Conntrack {
    /// Those of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Bus::Netfilter)?,
        })
    }

    /// Those of the network namespace that `namespace` refers to.
    ///
    /// # Errors
    /// [`Error::Socket`] if it can't be entered or the kernel gives no socket.
    pub fn in_namespace(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::in_namespace(Bus::Netfilter, namespace)?,
        })
    }

    /// The connections of an IP protocol that were sent to an address and port.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn flows_to(&mut self, to: SocketAddr, protocol: u8) -> Result<Vec<Flow>, Error> {
        let filter = match to.ip() {
            IpAddr::V4(_) => BY_DESTINATION,
            IpAddr::V6(_) => BY_PORT,
        };
        let tuple = |out: &mut Vec<u8>| {
            nest(out, TUPLE_IP, |out| match to.ip() {
                IpAddr::V4(address) => put(out, V4_DESTINATION, &address.octets()),
                IpAddr::V6(address) => put(out, V6_DESTINATION, &address.octets()),
            });
            nest(out, TUPLE_PROTOCOL, |out| {
                put(out, PROTOCOL_NUMBER, &[protocol]);
                put(out, DESTINATION_PORT, &to.port().to_be_bytes());
            });
        };
        let there = |flow: &Flow| flow.sent_to.ip() == to.ip();
        self.find(family_of(to.ip()), filter, to.to_string(), tuple, there)
    }

    /// The connections of an IP protocol that `keep` picks, in both families. The others
    /// are let go as they come: a node may have a million.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn flows_of(
        &mut self,
        protocol: u8,
        mut keep: impl FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, Error> {
        let mut all = Vec::new();
        for family in [V4, V6] {
            let object = format!("of protocol {protocol}");
            let tuple = |out: &mut Vec<u8>| {
                nest(out, TUPLE_PROTOCOL, |out| {
                    put(out, PROTOCOL_NUMBER, &[protocol]);
                });
            };
            all.extend(self.find(family, BY_PROTOCOL, object, tuple, &mut keep)?);
        }
        Ok(all)
    }

    /// The connections of a family whose original tuple has what `filter` names of `tuple`,
    /// as far as `keep` picks them.
    fn find(
        &mut self,
        family: u8,
        filter: u32,
        object: String,
        tuple: impl FnOnce(&mut Vec<u8>),
        mut keep: impl FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, Error> {
        let mut payload = Vec::new();
        put_family_header(&mut payload, family, 0);
        nest(&mut payload, TUPLE_ORIGINAL, tuple);
        nest(&mut payload, FILTER, |out| {
            put(out, FILTER_ORIGINAL, &filter.to_ne_bytes());
            put(out, FILTER_REPLY, &0_u32.to_ne_bytes());
        });
        let request = Request {
            operation: "list connections",
            object,
            kind: SUBSYSTEM << 8 | GET,
            flags: 0,
            payload,
        };
        self.socket.dump(&request, |message| {
            Ok(flow(message.payload).filter(&mut keep))
        })
    }

    /// Forgets a connection: its next packet starts a new one. One that is gone already is
    /// no error.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn forget(&mut self, flow: &Flow) -> Result<(), Error> {
        let mut payload = Vec::new();
        put_family_header(&mut payload, flow.family, 0);
        nest(&mut payload, TUPLE_ORIGINAL, |out| {
            out.extend_from_slice(&flow.original);
        });
        put(&mut payload, ID, &flow.id);
        let request = Request {
            operation: "forget a connection",
            object: flow.reply_source.to_string(),
            kind: SUBSYSTEM << 8 | DELETE,
            flags: 0,
            payload,
        };
        match self.socket.call(&request, |_| Ok(None::<()>)) {
            Err(error) if error.is_absent() => Ok(()),
            done => done.map(|_| ()),
        }
    }
}

/// `AF_INET` and `AF_INET6`.
const V4: u8 = 2;
const V6: u8 = 10;

fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    }
}

/// A connection; `None` for a message that does not tell all that is needed.
fn flow(payload: &[u8]) -> Option<Flow> {
    let body = payload.get(4..)?;
    let find = |kind| attributes(body).find(|attribute| attribute.kind == kind);
    let original = find(TUPLE_ORIGINAL)?;
    let reply = find(TUPLE_REPLY)?;
    let source = |tuple| end(tuple, [V4_SOURCE, V6_SOURCE], SOURCE_PORT);
    let tcp_state = find(PROTOCOL_INFO)
        .and_then(|info| within(info.nested(), INFO_TCP, &[TCP_STATE]))
        .and_then(|state| state.first().copied());
    Some(Flow {
        client: source(original.nested())?,
        sent_to: end(
            original.nested(),
            [V4_DESTINATION, V6_DESTINATION],
            DESTINATION_PORT,
        )?,
        reply_source: source(reply.nested())?,
        closed: tcp_state.is_some_and(|state| state >= TIME_WAIT),
        family: *payload.first()?,
        original: original.value.to_vec(),
        id: find(ID)?.value.to_vec(),
    })
}

/// One end of a tuple.
fn end(tuple: Attributes<'_>, addresses: [u16; 2], port: u16) -> Option<SocketAddr> {
    let ip = address(within(tuple.clone(), TUPLE_IP, &addresses)?)?;
    let port = within(tuple, TUPLE_PROTOCOL, &[port])?;
    Some(SocketAddr::new(
        ip,
        u16::from_be_bytes(port.try_into().ok()?),
    ))
}

/// The first of these attributes in a part of a tuple.
fn within<'a>(tuple: Attributes<'a>, part: u16, kinds: &[u16]) -> Option<&'a [u8]> {
    let mut parts = tuple;
    let part = parts.find(|attribute| attribute.kind == part)?;
    let mut inner = part.nested();
    inner
        .find(|attribute| kinds.contains(&attribute.kind))
        .map(|attribute| attribute.value)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}
