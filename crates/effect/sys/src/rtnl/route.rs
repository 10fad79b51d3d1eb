//! Routes of one table.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};
use rustix::io::Errno;

use super::{
    Batch, Conversation, Error, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, malformed, payload,
};
use crate::netlink::{Message, Request};

// include/uapi/linux/rtnetlink.h
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
/// RT_TABLE_MAIN: the table `ip route` shows.
pub const TABLE_MAIN: u32 = 254;
/// RTPROT_STATIC: a route an administrator set.
pub const PROTOCOL_STATIC: u8 = 4;

/// Where a packet goes next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// The destination is on this link.
    Link {
        /// The link's number.
        device: u32,
    },
    /// Through a router.
    Gateway {
        /// The router.
        address: IpAddr,
        /// The link it is on; `None`: the kernel finds it from the router's address. A
        /// route that was read always has it.
        device: Option<u32>,
        /// The link reaches the router though no address of it says so.
        on_link: bool,
    },
    /// Nowhere: the sender is told (ICMP unreachable).
    Unreachable,
    /// Nowhere: silence.
    Blackhole,
    /// Something this type has no case for (several next hops, a tunnel, a local
    /// delivery…), as found; can't be written.
    Other,
}

/// A route to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Where to.
    pub destination: IpNet,
    /// Through what.
    pub next_hop: NextHop,
    /// Who it belongs to: the `protocol` of `ip route`.
    pub protocol: u8,
    /// The source address of packets that this host sends there itself.
    pub source: Option<IpAddr>,
    /// Preference among routes to one destination: the lowest wins. `None`: 0 for IPv4,
    /// 1024 for IPv6.
    pub metric: Option<u32>,
    /// The table.
    pub table: u32,
    /// Bytes of the largest packet that goes there; `None`: as many as the link takes.
    pub mtu: Option<u32>,
}

impl RouteSpec {
    /// A route in the main table without a source or metric of its own.
    #[must_use]
    pub fn new(destination: IpNet, next_hop: NextHop, protocol: u8) -> Self {
        Self {
            destination,
            next_hop,
            protocol,
            source: None,
            metric: None,
            table: TABLE_MAIN,
            mtu: None,
        }
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.next_hop {
            NextHop::Link { device } => write!(f, "{} dev #{device}", self.destination)?,
            NextHop::Gateway {
                address,
                device,
                on_link,
            } => {
                write!(f, "{} via {address}", self.destination)?;
                if let Some(device) = device {
                    write!(f, " dev #{device}")?;
                }
                if *on_link {
                    f.write_str(" onlink")?;
                }
            }
            NextHop::Unreachable => write!(f, "unreachable {}", self.destination)?,
            NextHop::Blackhole => write!(f, "blackhole {}", self.destination)?,
            NextHop::Other => write!(f, "{}", self.destination)?,
        }
        write!(f, " proto {}", self.protocol)
    }
}

/// A route as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through what.
    pub next_hop: NextHop,
    /// Who it belongs to.
    pub protocol: u8,
    /// The source address of packets that this host sends there itself.
    pub source: Option<IpAddr>,
    /// Preference among routes to one destination: the lowest wins.
    pub metric: u32,
    /// The table.
    pub table: u32,
    /// Bytes of the largest packet that goes there, if the route says it.
    pub mtu: Option<u32>,
}

/// Which routes to list; what is `None` is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Of this protocol.
    pub protocol: Option<u8>,
    /// In this table; `None`: the main one.
    pub table: Option<u32>,
}

impl Conversation {
    /// The routes of both families that the filter lets through. A table that does not
    /// exist has none.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, Error> {
        let operation = "list routes";
        let table = filter.table.unwrap_or(TABLE_MAIN);
        let wanted = |route: &Route| {
            route.table == table && filter.protocol.is_none_or(|p| route.protocol == p)
        };
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.protocol = RouteProtocol::from(filter.protocol.unwrap_or(0));
            message.attributes.push(RouteAttribute::Table(table));
            let request = Request {
                operation,
                object: format!("of table {table}"),
                kind: RTM_GETROUTE,
                flags: 0,
                payload: payload(&message),
            };
            let dumped = self.socket.dump(&request, |message| {
                Ok(decode(operation, message)?.filter(wanted))
            });
            match dumped {
                Ok(found) => routes.extend(found),
                // A namespace that never had a route has no main table, and a kernel
                // without IPv6 does not know the family.
                Err(error)
                    if matches!(
                        error.errno(),
                        Some(Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT)
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }

    /// Writes a route to a destination that has none with this metric.
    ///
    /// # Errors
    /// [`Error::is_exists`] if the destination has one, whoever it belongs to.
    pub fn add_route(&mut self, spec: &RouteSpec) -> Result<(), Error> {
        self.one(&add_request(spec))
    }

    /// Writes a route in place of the one the destination has with this metric, whoever
    /// that belongs to.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn replace_route(&mut self, spec: &RouteSpec) -> Result<(), Error> {
        self.one(&replace_request(spec))
    }

    /// Removes the route that `spec` describes: protocol, next hop and, if given, metric
    /// have to be the same.
    ///
    /// # Errors
    /// [`Error::is_absent`] if there is none.
    pub fn delete_route(&mut self, spec: &RouteSpec) -> Result<(), Error> {
        self.one(&delete_request(spec))
    }
}

impl Batch {
    /// See [`Conversation::add_route`].
    pub fn add_route(&mut self, spec: &RouteSpec) -> &mut Self {
        self.requests.push(add_request(spec));
        self
    }

    /// See [`Conversation::replace_route`].
    pub fn replace_route(&mut self, spec: &RouteSpec) -> &mut Self {
        self.requests.push(replace_request(spec));
        self
    }

    /// See [`Conversation::delete_route`].
    pub fn delete_route(&mut self, spec: &RouteSpec) -> &mut Self {
        self.requests.push(delete_request(spec));
        self
    }
}

fn described(spec: &RouteSpec) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = match spec.destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    header.destination_prefix_length = spec.destination.prefix_len();
    header.protocol = RouteProtocol::from(spec.protocol);
    header.kind = RouteType::Unicast;
    header.scope = RouteScope::Universe;
    let attributes = &mut message.attributes;
    match u8::try_from(spec.table) {
        Ok(table) => header.table = table,
        Err(_) => {
            header.table = RouteHeader::RT_TABLE_UNSPEC;
            attributes.push(RouteAttribute::Table(spec.table));
        }
    }
    if spec.destination.prefix_len() > 0 {
        let network = spec.destination.network();
        attributes.push(RouteAttribute::Destination(network.into()));
    }
    match &spec.next_hop {
        NextHop::Link { device } => {
            // What is on the link itself has link scope; IPv6 knows no scopes.
            if spec.destination.addr().is_ipv4() {
                header.scope = RouteScope::Link;
            }
            attributes.push(RouteAttribute::Oif(*device));
        }
        NextHop::Gateway {
            address,
            device,
            on_link,
        } => {
            attributes.push(RouteAttribute::Gateway((*address).into()));
            if let Some(device) = device {
                attributes.push(RouteAttribute::Oif(*device));
            }
            if *on_link {
                header.flags |= RouteFlags::Onlink;
            }
        }
        NextHop::Unreachable => header.kind = RouteType::Unreachable,
        NextHop::Blackhole => header.kind = RouteType::BlackHole,
        NextHop::Other => {}
    }
    if let Some(source) = spec.source {
        attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if let Some(metric) = spec.metric {
        attributes.push(RouteAttribute::Priority(metric));
    }
    if let Some(mtu) = spec.mtu {
        attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    message
}

fn request(operation: &'static str, kind: u16, flags: u16, spec: &RouteSpec) -> Request {
    Request {
        operation,
        object: spec.to_string(),
        kind,
        flags,
        payload: payload(&described(spec)),
    }
}

fn add_request(spec: &RouteSpec) -> Request {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    request("add route", RTM_NEWROUTE, flags, spec)
}

fn replace_request(spec: &RouteSpec) -> Request {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    request("replace route", RTM_NEWROUTE, flags, spec)
}

fn delete_request(spec: &RouteSpec) -> Request {
    let mut message = described(spec);
    // For a removal "nowhere" means any scope; and the kernel would compare the flag of
    // a gateway to one it keeps with the link.
    message.header.scope = RouteScope::NoWhere;
    message.header.flags = RouteFlags::empty();
    if spec.next_hop == NextHop::Other {
        // Any kind: what was found is not known well enough to name it.
        message.header.kind = RouteType::Unspec;
    }
    Request {
        operation: "delete route",
        object: spec.to_string(),
        kind: RTM_DELROUTE,
        flags: 0,
        payload: payload(&message),
    }
}

/// Reads a route out of RTM_NEWROUTE or RTM_DELROUTE; one of another family, and one the
/// kernel only keeps as a cache, is `None`.
pub(super) fn decode(
    operation: &'static str,
    message: Message<'_>,
) -> Result<Option<Route>, Error> {
    if message.kind != RTM_NEWROUTE && message.kind != RTM_DELROUTE {
        return Ok(None);
    }
    let message = RouteMessage::parse(message.payload).map_err(malformed(operation))?;
    let header = &message.header;
    let any: IpAddr = if header.address_family == AddressFamily::Inet {
        Ipv4Addr::UNSPECIFIED.into()
    } else if header.address_family == AddressFamily::Inet6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        return Ok(None);
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return Ok(None);
    }
    let mut destination = any;
    let mut gateway = None;
    let mut device = None;
    let mut source = None;
    let mut metric = 0;
    let mut table = u32::from(header.table);
    let mut mtu = None;
    let mut plain = header.tos == 0 && header.source_prefix_length == 0;
    for attribute in &message.attributes {
        // The library's enums are non-exhaustive.
        if let RouteAttribute::Destination(address) = attribute {
            destination = ip(address).unwrap_or(any);
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = ip(address);
        } else if let RouteAttribute::PrefSource(address) = attribute {
            source = ip(address);
        } else if let RouteAttribute::Oif(index) = attribute {
            device = Some(*index);
        } else if let RouteAttribute::Priority(value) = attribute {
            metric = *value;
        } else if let RouteAttribute::Table(value) = attribute {
            table = *value;
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            mtu = metrics.iter().find_map(mtu_of).or(mtu);
        } else if let RouteAttribute::MultiPath(_)
        | RouteAttribute::Via(_)
        | RouteAttribute::Encap(_)
        | RouteAttribute::NhId(_) = attribute
        {
            plain = false;
        }
    }
    let Ok(destination) = IpNet::new(destination, header.destination_prefix_length) else {
        return Ok(None);
    };
    let next_hop = match (header.kind, gateway, device) {
        (RouteType::Unreachable, _, _) if plain => NextHop::Unreachable,
        (RouteType::BlackHole, _, _) if plain => NextHop::Blackhole,
        (RouteType::Unicast, Some(address), device) if plain => NextHop::Gateway {
            address,
            device,
            on_link: header.flags.contains(RouteFlags::Onlink),
        },
        (RouteType::Unicast, None, Some(device)) if plain => NextHop::Link { device },
        _ => NextHop::Other,
    };
    Ok(Some(Route {
        destination,
        next_hop,
        protocol: header.protocol.into(),
        source,
        metric,
        table,
        mtu,
    }))
}

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    if let RouteMetric::Mtu(mtu) = metric {
        Some(*mtu)
    } else {
        None
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(ip) = address {
        Some(IpAddr::V4(*ip))
    } else if let RouteAddress::Inet6(ip) = address {
        Some(IpAddr::V6(*ip))
    } else {
        None
    }
}
