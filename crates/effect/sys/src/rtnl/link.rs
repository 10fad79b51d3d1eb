//! Links: veth pairs, bridges, and what all devices have. VXLAN devices have a module of their own.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::str::FromStr;

use netlink_packet_core::{DefaultNla, Parseable};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rustix::net::netdevice::name_to_index;

use super::vxlan::{self, Vxlan};
use super::{Batch, Conversation, Error, NLM_F_CREATE, NLM_F_EXCL, malformed, payload};
use crate::netlink::{Failure, Message, Request};

// include/uapi/linux/rtnetlink.h
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const IFLA_IFALIAS: u16 = 20;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is no Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address (six hexadecimal bytes with colons between them)")]
pub struct NotAMac(String);

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|it| it.is_ascii_hexdigit()))
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| NotAMac(text.to_owned()))?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(NotAMac(text.to_owned())),
        }
    }
}

/// A link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The driver's name (`veth`, `bridge`, `vxlan`…); `None` for loopback and hardware.
    pub kind: Option<String>,
    /// Its Ethernet address, if it is an Ethernet device.
    pub mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// `ip link set … alias`.
    pub alias: Option<String>,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    /// As a port of a bridge, whether it sends back what came in by it; `None` if it is no port.
    pub hairpin: Option<bool>,
    /// What it is, if it is a VXLAN device.
    pub vxlan: Option<Vxlan>,
    /// Switched on by an administrator.
    pub up: bool,
    /// Switched on, and the other side is too.
    pub running: bool,
    /// The loopback device.
    pub loopback: bool,
    /// Somebody asked it to take what is not for it.
    pub promiscuous: bool,
}

/// A veth pair to make. What is `None` is left to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// This end's name.
    pub name: &'a str,
    /// The other end's name.
    pub peer_name: &'a str,
    /// The namespace the other end is made in; `None`: this one.
    pub peer_namespace: Option<BorrowedFd<'a>>,
    /// This end's Ethernet address.
    pub mac: Option<Mac>,
    /// The other end's Ethernet address.
    pub peer_mac: Option<Mac>,
    /// Largest packet of both ends, in bytes.
    pub mtu: Option<u32>,
    /// The bridge this end is a port of.
    pub master: Option<u32>,
}

impl<'a> VethSpec<'a> {
    /// A pair with these names, both ends in this namespace.
    #[must_use]
    pub fn new(name: &'a str, peer_name: &'a str) -> Self {
        Self {
            name,
            peer_name,
            peer_namespace: None,
            mac: None,
            peer_mac: None,
            mtu: None,
            master: None,
        }
    }
}

/// A bridge to make. What is `None` is left to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct BridgeSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its Ethernet address. Without one it takes the lowest of its ports' and changes
    /// it when ports come and go.
    pub mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu: Option<u32>,
    /// Its alias.
    pub alias: Option<&'a str>,
}

/// A change of a link; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange<'a> {
    /// A new name; the link has to be down on kernels before 6.2.
    pub name: Option<&'a str>,
    /// Switch it on or off.
    pub up: Option<bool>,
    /// Whether it takes what is not for it.
    pub promiscuous: Option<bool>,
    /// Make it a port of this bridge; `Some(None)`: of none.
    pub master: Option<Option<u32>>,
    /// Largest packet, in bytes.
    pub mtu: Option<u32>,
    /// Its alias; empty removes it.
    pub alias: Option<&'a str>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Whether the kernel gives it an IPv6 link-local address when it comes up.
    pub link_local_address: Option<bool>,
    /// Move it to another namespace.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl Conversation {
    /// All links of the namespace.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let operation = "list links";
        let request = Request {
            operation,
            object: String::new(),
            kind: RTM_GETLINK,
            flags: 0,
            payload: payload(&described_briefly()),
        };
        self.socket
            .dump(&request, |message| decode(operation, message))
    }

    /// The link of this name.
    ///
    /// # Errors
    /// [`Error::is_absent`] if there is none.
    pub fn link_by_name(&mut self, name: &str) -> Result<Link, Error> {
        let mut message = described_briefly();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.get(name.to_owned(), &message)
    }

    /// The link of this number.
    ///
    /// # Errors
    /// [`Error::is_absent`] if there is none.
    pub fn link(&mut self, index: u32) -> Result<Link, Error> {
        let mut message = described_briefly();
        message.header.index = index;
        self.get(format!("with index {index}"), &message)
    }

    /// The link of this name, if there is one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        match self.link_by_name(name) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of the link of this name (SIOCGIFINDEX, netdevice(7)). Waits for nobody who
    /// changes links, as the other ways to ask do. For links that should be there: of one that is
    /// not the kernel looks for a module.
    ///
    /// # Errors
    /// [`Error::is_absent`] if there is none.
    pub fn index_of(&self, name: &str) -> Result<u32, Error> {
        name_to_index(&self.socket, name).map_err(|errno| Error::Refused {
            operation: "look up link",
            object: name.to_owned(),
            failure: Failure {
                errno,
                text: None,
                offset: None,
            },
        })
    }

    fn get(&mut self, object: String, message: &LinkMessage) -> Result<Link, Error> {
        let operation = "look up link";
        let request = Request {
            operation,
            object,
            kind: RTM_GETLINK,
            flags: 0,
            payload: payload(message),
        };
        let found = self
            .socket
            .call(&request, |message| decode(operation, message))?;
        found.into_iter().next().ok_or_else(|| Error::Malformed {
            operation,
            reason: "an acknowledgement and no link".to_owned(),
        })
    }

    /// Makes a veth pair, both ends under their final names and in their final
    /// namespaces, and returns this end's number. Both are down.
    ///
    /// # Errors
    /// [`Error::is_exists`] if one of the names is taken.
    pub fn add_veth(&mut self, spec: VethSpec<'_>) -> Result<u32, Error> {
        let object = format!("veth {} with peer {}", spec.name, spec.peer_name);
        let mut peer = described(spec.peer_name, spec.peer_mac, spec.mtu);
        peer.attributes.extend(one_queue());
        if let Some(namespace) = spec.peer_namespace {
            peer.attributes
                .push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        }
        let mut message = described(spec.name, spec.mac, spec.mtu);
        message.attributes.extend(one_queue());
        message
            .attributes
            .extend(spec.master.map(LinkAttribute::Controller));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create(object, &message)?;
        let index = self.index_of(spec.name);
        self.whole_or_removed(spec.name, index)
    }

    /// Makes a bridge and returns it, down.
    ///
    /// # Errors
    /// [`Error::is_exists`] if the name is taken.
    pub fn add_bridge(&mut self, spec: BridgeSpec<'_>) -> Result<Link, Error> {
        let mut message = described(spec.name, spec.mac, spec.mtu);
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
                InfoKind::Bridge,
            )]));
        self.make(
            format!("bridge {}", spec.name),
            &message,
            spec.name,
            spec.alias,
        )
    }

    /// The kernel takes no alias with the request that makes a link: it is set right
    /// after, and the link is removed again if that fails.
    pub(super) fn make(
        &mut self,
        object: String,
        message: &LinkMessage,
        name: &str,
        alias: Option<&str>,
    ) -> Result<Link, Error> {
        self.create(object, message)?;
        let marked = match alias {
            None => Ok(()),
            Some(alias) => {
                let mut message = LinkMessage::default();
                message
                    .attributes
                    .push(LinkAttribute::IfName(name.to_owned()));
                message.attributes.push(alias_attribute(alias));
                self.one(&Request {
                    operation: "set the alias of link",
                    object: name.to_owned(),
                    kind: RTM_SETLINK,
                    flags: 0,
                    payload: payload(&message),
                })
            }
        };
        let made = marked.and_then(|()| self.link_by_name(name));
        self.whole_or_removed(name, made)
    }

    fn create(&mut self, object: String, message: &LinkMessage) -> Result<(), Error> {
        self.one(&Request {
            operation: "add link",
            object,
            kind: RTM_NEWLINK,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            payload: payload(message),
        })
    }

    /// Removes a link that could not be made whole.
    fn whole_or_removed<T>(&mut self, name: &str, made: Result<T, Error>) -> Result<T, Error> {
        if made.is_err() {
            // The first error says more than one from the removal would.
            let _ = self.delete_link_by_name(name);
        }
        made
    }

    /// Changes a link.
    ///
    /// # Errors
    /// [`Error::is_absent`] if there is none with this number.
    pub fn set_link(&mut self, index: u32, change: LinkChange<'_>) -> Result<(), Error> {
        self.one(&set_request(index, change))
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// [`Error::is_absent`] if there is none with this number.
    pub fn set_up(&mut self, index: u32) -> Result<(), Error> {
        self.set_link(
            index,
            LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        )
    }

    /// Switches a link off. The kernel removes its routes, and its IPv6 addresses.
    ///
    /// # Errors
    /// [`Error::is_absent`] if there is none with this number.
    pub fn set_down(&mut self, index: u32) -> Result<(), Error> {
        self.set_link(
            index,
            LinkChange {
                up: Some(false),
                ..LinkChange::default()
            },
        )
    }

    /// Makes a link a port of a bridge, or (`None`) of none.
    ///
    /// # Errors
    /// [`Error::is_absent`] if one of the two does not exist.
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<(), Error> {
        self.set_link(
            index,
            LinkChange {
                master: Some(master),
                ..LinkChange::default()
            },
        )
    }

    /// Removes a link; a veth's other end goes with it.
    ///
    /// # Errors
    /// [`Error::is_absent`] if there is none with this number.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one(&delete_request(format!("with index {index}"), &message))
    }

    /// Removes a link; a veth's other end goes with it.
    ///
    /// # Errors
    /// [`Error::is_absent`] if there is none of this name.
    pub fn delete_link_by_name(&mut self, name: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.one(&delete_request(name.to_owned(), &message))
    }
}

impl Batch {
    /// See [`Conversation::set_link`].
    pub fn set_link(&mut self, index: u32, change: LinkChange<'_>) -> &mut Self {
        self.requests.push(set_request(index, change));
        self
    }

    /// Whether a port of a bridge sends back what came in by it. Refused for a link that is no
    /// port.
    pub fn set_hairpin(&mut self, index: u32, on: bool) -> &mut Self {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(
                on,
            )])),
        ]));
        self.requests.push(Request {
            operation: "set hairpin mode of link",
            object: format!("with index {index}"),
            // RTM_SETLINK does not look at what belongs to a kind of link.
            kind: RTM_NEWLINK,
            flags: 0,
            payload: payload(&message),
        });
        self
    }
}

pub(super) fn described(name: &str, mac: Option<Mac>, mtu: Option<u32>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    if let Some(mac) = mac {
        message
            .attributes
            .push(LinkAttribute::Address(mac.0.to_vec()));
    }
    if let Some(mtu) = mtu {
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
    message
}

/// A question about links whose answer leaves out the counters, most of its bytes (and with them
/// what IPv6 says of a link).
fn described_briefly() -> LinkMessage {
    let mut message = LinkMessage::default();
    let mask = vec![LinkExtentMask::SkipStats];
    message.attributes.push(LinkAttribute::ExtMask(mask));
    message
}

/// A pair hands packets over in the sender's own system call: its queues, of which the kernel
/// would make one a core, are only for programs at the device (XDP) and cost time with each link.
fn one_queue() -> [LinkAttribute; 2] {
    [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)]
}

/// Without a terminating zero, which the kernel would count as part of the alias.
fn alias_attribute(alias: &str) -> LinkAttribute {
    LinkAttribute::Other(DefaultNla::new(IFLA_IFALIAS, alias.as_bytes().to_vec()))
}

fn set_request(index: u32, change: LinkChange<'_>) -> Request {
    let LinkChange {
        name,
        up,
        promiscuous,
        master,
        mtu,
        alias,
        mac,
        link_local_address,
        namespace,
    } = change;
    let mut message = LinkMessage::default();
    message.header.index = index;
    for (flag, wanted) in [(LinkFlags::Up, up), (LinkFlags::Promisc, promiscuous)] {
        if let Some(wanted) = wanted {
            message.header.change_mask.insert(flag);
            message.header.flags.set(flag, wanted);
        }
    }
    let generation = link_local_address.map(|wanted| {
        let mode = if wanted {
            In6AddrGenMode::Eui64
        } else {
            In6AddrGenMode::None
        };
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            mode,
        )])])
    });
    message.attributes.extend(
        [
            name.map(|name| LinkAttribute::IfName(name.to_owned())),
            master.map(|master| LinkAttribute::Controller(master.unwrap_or(0))),
            mtu.map(LinkAttribute::Mtu),
            alias.map(alias_attribute),
            mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())),
            generation,
            namespace.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())),
        ]
        .into_iter()
        .flatten(),
    );
    Request {
        operation: "change link",
        object: format!("with index {index}"),
        kind: RTM_SETLINK,
        flags: 0,
        payload: payload(&message),
    }
}

fn delete_request(object: String, message: &LinkMessage) -> Request {
    Request {
        operation: "delete link",
        object,
        kind: RTM_DELLINK,
        flags: 0,
        payload: payload(message),
    }
}

/// Reads a link out of RTM_NEWLINK or RTM_DELLINK.
pub(super) fn decode(operation: &'static str, message: Message<'_>) -> Result<Option<Link>, Error> {
    if message.kind != RTM_NEWLINK && message.kind != RTM_DELLINK {
        return Ok(None);
    }
    let message = LinkMessage::parse(message.payload).map_err(malformed(operation))?;
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        alias: None,
        master: None,
        hairpin: None,
        vxlan: None,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        loopback: flags.contains(LinkFlags::Loopback),
        promiscuous: flags.contains(LinkFlags::Promisc),
    };
    for attribute in message.attributes {
        // The library's enum is non-exhaustive and has a hundred attributes.
        if let LinkAttribute::IfName(name) = attribute {
            link.name = name;
        } else if let LinkAttribute::Address(bytes) = attribute {
            link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = mtu;
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias = Some(alias);
        } else if let LinkAttribute::Controller(index) = attribute {
            link.master = Some(index);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    link.kind = Some(kind.to_string());
                } else if let LinkInfo::PortData(InfoPortData::BridgePort(attributes)) = info {
                    for attribute in attributes {
                        if let InfoBridgePort::HairpinMode(on) = attribute {
                            link.hairpin = Some(on);
                        }
                    }
                } else if let LinkInfo::Data(InfoData::Vxlan(data)) = info {
                    link.vxlan = Some(vxlan::read(&data));
                }
            }
        }
    }
    Ok(Some(link))
}
