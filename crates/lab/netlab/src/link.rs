//! Links, addresses and routes of one network namespace.
//!
//! [`Network`] is a conversation with the kernel about one namespace: the caller's own
//! ([`Network::here`], no thread needed) or another ([`Network::of`]). The functions of this
//! module are the same steps for a [`Namespace`] at hand.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;
use weft_sys::rtnl::{
    self, AddressFlags, BridgeSpec, Conversation, LinkChange, NextHop, PROTOCOL_STATIC, RouteSpec,
    VethSpec,
};

use crate::{Error, Namespace};

/// The links, addresses and routes of one network namespace.
#[derive(Debug)]
pub struct Network {
    name: String,
    conversation: Conversation,
}

impl Network {
    /// Those of the namespace that the calling thread is in. `name` is for messages.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn here(name: &str) -> Result<Self, Error> {
        let conversation = Conversation::open().map_err(failed(name, "open a netlink socket"))?;
        Ok(Network {
            name: name.to_owned(),
            conversation,
        })
    }

    /// Those of another namespace.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn of(namespace: &Namespace) -> Result<Self, Error> {
        let name = namespace.name();
        let conversation = Conversation::in_namespace(namespace.as_fd())
            .map_err(failed(name, "open a netlink socket"))?;
        Ok(Network {
            name: name.to_owned(),
            conversation,
        })
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn up(&mut self, link: &str) -> Result<(), Error> {
        let action = format!("set {link} up");
        let index = self.index(link)?;
        self.conversation
            .set_up(index)
            .map_err(failed(&self.name, &action))
    }

    /// Sets a link down: its other end loses its carrier.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn down(&mut self, link: &str) -> Result<(), Error> {
        let action = format!("set {link} down");
        let index = self.index(link)?;
        self.conversation
            .set_down(index)
            .map_err(failed(&self.name, &action))
    }

    /// Makes a pair of virtual Ethernet links: `name` here and up, `peer_name` in another
    /// namespace, down.
    ///
    /// # Errors
    /// When a name is taken or not valid.
    pub fn veth(
        &mut self,
        name: &str,
        peer_name: &str,
        peer_namespace: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let mut spec = VethSpec::new(name, peer_name);
        spec.peer_namespace = Some(peer_namespace);
        let index = self.conversation.add_veth(spec).map_err(failed(
            &self.name,
            &format!("make the pair {name}, {peer_name}"),
        ))?;
        self.conversation
            .set_up(index)
            .map_err(failed(&self.name, &format!("set {name} up")))
    }

    /// Makes a bridge, up.
    ///
    /// # Errors
    /// When the name is taken or not valid.
    pub fn bridge(&mut self, name: &str) -> Result<(), Error> {
        let spec = BridgeSpec {
            name,
            mac: None,
            mtu: None,
            alias: None,
        };
        let made = self
            .conversation
            .add_bridge(spec)
            .map_err(failed(&self.name, &format!("make the bridge {name}")))?;
        self.conversation
            .set_up(made.index)
            .map_err(failed(&self.name, &format!("set {name} up")))
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// When there is no such bridge or link.
    pub fn port(&mut self, bridge: &str, link: &str) -> Result<(), Error> {
        let (bridge_index, index) = (self.index(bridge)?, self.index(link)?);
        self.conversation
            .set_master(index, Some(bridge_index))
            .map_err(failed(
                &self.name,
                &format!("make {link} a port of {bridge}"),
            ))
    }

    /// Notes for whoever lists the links.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn alias(&mut self, link: &str, alias: &str) -> Result<(), Error> {
        let index = self.index(link)?;
        let change = LinkChange {
            alias: Some(alias),
            ..LinkChange::default()
        };
        self.conversation
            .set_link(index, change)
            .map_err(failed(&self.name, &format!("set the alias of {link}")))
    }

    /// Gives a link an address with its network's prefix. An IPv6 address can be used at once:
    /// no search for duplicates.
    ///
    /// # Errors
    /// When there is no such link or the address is there already.
    pub fn address(&mut self, link: &str, address: IpNet) -> Result<(), Error> {
        let index = self.index(link)?;
        let flags = AddressFlags {
            no_prefix_route: false,
            no_duplicate_detection: true,
        };
        self.conversation
            .add_address(index, address, flags)
            .map_err(failed(
                &self.name,
                &format!("give {link} the address {address}"),
            ))
    }

    /// Adds a route through a gateway.
    ///
    /// # Errors
    /// When the gateway is not on a network of this namespace.
    pub fn route(&mut self, destination: IpNet, via: IpAddr) -> Result<(), Error> {
        let action = format!("route {destination} via {via}");
        let next_hop = NextHop::Gateway {
            address: via,
            device: None,
            on_link: false,
        };
        self.conversation
            .add_route(&RouteSpec::new(destination, next_hop, PROTOCOL_STATIC))
            .map_err(failed(&self.name, &action))
    }

    /// Deletes a link (both ends of a pair).
    ///
    /// # Errors
    /// When there is no such link.
    pub fn delete(&mut self, link: &str) -> Result<(), Error> {
        self.conversation
            .delete_link_by_name(link)
            .map_err(failed(&self.name, &format!("delete {link}")))
    }

    /// Deletes a link if it is there. Its other end may take it along at any moment.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_if_there(&mut self, link: &str) -> Result<(), Error> {
        match self.conversation.delete_link_by_name(link) {
            Err(error) if !error.is_absent() => {
                Err(failed(&self.name, &format!("delete {link}"))(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn index(&mut self, link: &str) -> Result<u32, Error> {
        self.conversation
            .link_by_name(link)
            .map(|link| link.index)
            .map_err(failed(&self.name, &format!("find the link {link}")))
    }
}

fn failed(name: &str, action: &str) -> impl FnOnce(rtnl::Error) -> Error {
    let (name, action) = (name.to_owned(), action.to_owned());
    move |source| Error::Network {
        name,
        action,
        source: match source.errno() {
            Some(errno) => errno.into(),
            None => std::io::Error::other(source),
        },
    }
}

/// Sets a link up.
///
/// # Errors
/// When there is no such link.
pub fn up(namespace: &Namespace, link: &str) -> Result<(), Error> {
    Network::of(namespace)?.up(link)
}

/// Joins two namespaces by a pair of virtual Ethernet links, both up. Each end is made in its
/// final namespace.
///
/// # Errors
/// When a name is taken or not valid.
pub fn veth(
    left: &Namespace,
    left_name: &str,
    right: &Namespace,
    right_name: &str,
) -> Result<(), Error> {
    Network::of(left)?.veth(left_name, right_name, right.as_fd())?;
    up(right, right_name)
}

/// Makes a bridge, up.
///
/// # Errors
/// When the name is taken or not valid.
pub fn bridge(namespace: &Namespace, name: &str) -> Result<(), Error> {
    Network::of(namespace)?.bridge(name)
}

/// Makes a link a port of a bridge.
///
/// # Errors
/// When there is no such bridge or link.
pub fn port(namespace: &Namespace, bridge: &str, link: &str) -> Result<(), Error> {
    Network::of(namespace)?.port(bridge, link)
}

/// Gives a link an address with its network, such as `192.0.2.1/24`. An IPv6 address can be
/// used at once: no search for duplicates.
///
/// # Errors
/// When the text is no address with a prefix, or there is no such link.
pub fn address(namespace: &Namespace, link: &str, address: &str) -> Result<(), Error> {
    let parsed = parse(namespace, "address", address)?;
    Network::of(namespace)?.address(link, parsed)
}

/// Adds a route to `destination` (a network; `0.0.0.0/0` or `::/0` for everything) through the
/// gateway `via`.
///
/// # Errors
/// When a text cannot be read, or the gateway is not on a network of this namespace.
pub fn route(namespace: &Namespace, destination: &str, via: &str) -> Result<(), Error> {
    let destination = parse(namespace, "network", destination)?;
    let via = parse(namespace, "address", via)?;
    Network::of(namespace)?.route(destination, via)
}

/// Deletes a link (both ends of a pair).
///
/// # Errors
/// When there is no such link.
pub fn delete(namespace: &Namespace, link: &str) -> Result<(), Error> {
    Network::of(namespace)?.delete(link)
}

fn parse<T: std::str::FromStr>(namespace: &Namespace, what: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| {
        namespace.network(
            &format!("read {text:?} as {what}"),
            std::io::ErrorKind::InvalidInput.into(),
        )
    })
}
