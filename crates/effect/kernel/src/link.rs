//! Links of the node itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use weft_desired::mark;
use weft_sys::rtnl::{Address, Conversation, Error, Link, NextHop, RouteFilter};

/// The node's own addresses, loopback's and link-local ones left out.
///
/// # Errors
/// A failure of the conversation.
pub fn own_addresses(conversation: &mut Conversation) -> Result<BTreeSet<IpAddr>, Error> {
    Ok(conversation
        .addresses(None)?
        .into_iter()
        .filter(|held| !held.link_local)
        .map(|held| held.network.addr())
        .filter(|address| !address.is_loopback())
        .collect())
}

/// Whether links may be changed from here, which reading them does not tell.
///
/// # Errors
/// What the kernel says against it.
pub fn may_change(conversation: &mut Conversation) -> Result<(), Error> {
    // The kernel looks at the permission before it looks for the link (`rtnetlink_rcv_msg` in
    // net/core/rtnetlink.c); it counts them from 1 on, and none gets the highest number.
    match conversation.set_down(i32::MAX.unsigned_abs()) {
        Err(error) if error.is_absent() => Ok(()),
        other => other,
    }
}

/// The links by which a node reaches others: not pods' links, which have the node's addresses
/// too, nor tunnels, nor what is switched off.
#[derive(Clone, Debug, Default)]
pub struct Uplinks {
    /// The node's own addresses on them, each with its link.
    pub addresses: BTreeMap<IpAddr, Link>,
    /// Those of them that can be used, with their links' names, what a link is known by first:
    /// IPv4's in the kernel's order, which is the order that they were given in.
    pub in_order: Vec<(IpAddr, String)>,
    /// Who is reached without a router.
    pub networks: BTreeSet<IpNet>,
}

/// Reads them.
///
/// # Errors
/// A failure of the conversation.
pub fn uplinks(conversation: &mut Conversation) -> Result<Uplinks, Error> {
    let links: BTreeMap<u32, Link> = conversation
        .links()?
        .into_iter()
        .filter(|link| {
            let alias = link.alias.as_deref().unwrap_or_default();
            let others = link.loopback || link.vxlan.is_some();
            link.up && !others && !alias.starts_with(mark::LINK_ALIAS)
        })
        .map(|link| (link.index, link))
        .collect();
    let held = conversation.addresses(None)?;
    let names = links.iter().map(|(index, link)| (*index, &*link.name));
    let mut uplinks = Uplinks {
        in_order: in_order(&held, &names.collect()),
        ..Uplinks::default()
    };
    for held in held {
        if let (false, Some(link)) = (held.link_local, links.get(&held.index)) {
            uplinks.addresses.insert(held.network.addr(), link.clone());
        }
    }
    for route in conversation.routes(RouteFilter::default())? {
        if let NextHop::Link { device } = route.next_hop
            && links.contains_key(&device)
            && route.protocol != mark::ROUTE_POD
            && route.protocol != mark::ROUTE_FABRIC
        {
            uplinks.networks.insert(route.destination);
        }
    }
    Ok(uplinks)
}

/// The addresses by which others could know these links (each a number and a name).
fn in_order(held: &[Address], links: &BTreeMap<u32, &str>) -> Vec<(IpAddr, String)> {
    let usable = held.iter().filter(|it| !it.link_local && !it.tentative);
    let named = usable.filter_map(|it| Some((it, *links.get(&it.index)?)));
    let mut all: Vec<(&Address, &str)> = named.collect();
    // The kernel lists IPv6's the other way round, and those of router advertisements, which come
    // and go, among them; the order of equals stays. An IPv4 lease of DHCP's is for a time too.
    all.sort_by_key(|(it, _)| it.network.addr().is_ipv6() && (it.deprecated || !it.permanent));
    let pairs = all.into_iter();
    pairs
        .map(|(it, name)| (it.network.addr(), name.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use weft_sys::rtnl::AddressFlags;

    use super::*;

    fn held(index: u32, network: &str) -> Address {
        Address {
            index,
            network: network.parse().unwrap(),
            flags: AddressFlags::default(),
            tentative: false,
            link_local: false,
            permanent: true,
            deprecated: false,
        }
    }

    #[test]
    fn what_a_link_had_first_comes_first() {
        let held = [
            held(1, "192.0.2.1/24"),
            Address {
                permanent: false,
                ..held(2, "10.9.0.50/24")
            },
            held(2, "10.9.0.10/32"),
            Address {
                link_local: true,
                ..held(2, "169.254.0.1/16")
            },
            Address {
                deprecated: true,
                ..held(2, "fd09::10/128")
            },
            Address {
                permanent: false,
                ..held(2, "fd09::aaaa/64")
            },
            Address {
                tentative: true,
                ..held(2, "fd09::20/64")
            },
            held(2, "fd09::50/64"),
        ];
        let links = BTreeMap::from([(2, "eth1")]);
        let all = in_order(&held, &links);
        let addresses: Vec<String> = all.iter().map(|(it, _)| it.to_string()).collect();
        let expected = [
            "10.9.0.50",
            "10.9.0.10",
            "fd09::50",
            "fd09::10",
            "fd09::aaaa",
        ];
        assert_eq!(addresses, expected);
        assert!(all.iter().all(|(_, link)| link == "eth1"), "{all:?}");
    }
}
