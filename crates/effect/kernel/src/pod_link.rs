//! The veth pair between a pod and its node.
//!
//! The routed pair is made from the node's namespace with the pod's end directly in the
//! pod's, both under their final names and Ethernet addresses. Each end then gets what
//! it needs in one batch: the pod its addresses as /32 and /128, permanent neighbours
//! for its routers and default routes through them; the node its own addresses, a
//! permanent neighbour for each of the pod's and a route to each. Nothing is ever asked
//! on the link: no ARP, no neighbour discovery, no search for duplicates, and neither
//! end has a link-local address.
//!
//! In a bridge the node's end is a port, with hairpin mode on and nothing else to it. The pod
//! has its addresses with the length of their network, and asks on the link as any host does.
//!
//! Both ends go when one goes, and take addresses, neighbours and routes along: undoing
//! is deleting the node's end.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use ipnet::IpNet;
use weft_desired::{PodLink, mark};
use weft_sys::rtnl::{
    self, AddressFlags, Batch, Conversation, Link, LinkChange, Mac, NeighbourState, NextHop,
    RouteFilter, RouteSpec, VethSpec,
};

use crate::bridge;
use crate::sysctl::{self, Scope, Setting};

/// A link that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The node's end's number in the node's namespace.
    pub host_index: u32,
    /// The pod's end's number in the pod's namespace.
    pub pod_index: u32,
    /// The node's end's Ethernet address.
    pub host_mac: Mac,
    /// The pod's end's Ethernet address.
    pub pod_mac: Mac,
}

/// Why a pod's link could not be made, checked or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step on the node failed.
    #[error("link {link}: cannot {step}")]
    Host {
        /// The node's end.
        link: Arc<str>,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: rtnl::Error,
    },
    /// A step in the pod's namespace failed.
    #[error("interface {interface} in the pod: cannot {step}")]
    Pod {
        /// The pod's end.
        interface: String,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: rtnl::Error,
    },
    /// A setting of the pod's namespace could not be changed.
    #[error("interface {interface} in the pod: cannot prepare it for IPv6")]
    Setting {
        /// The pod's end.
        interface: String,
        /// Why.
        source: sysctl::Error,
    },
    /// A setting of the node's end could not be changed.
    #[error("link {link}: cannot prepare it")]
    HostSetting {
        /// The node's end.
        link: Arc<str>,
        /// Why.
        source: sysctl::Error,
    },
    /// The bridge can't be had.
    #[error(transparent)]
    Bridge(#[from] bridge::Error),
    /// A link of that name is not weft's.
    #[error(
        "link {link} is not weft's (its kind is {kind}, its alias {alias:?}); it is left alone"
    )]
    Foreign {
        /// The link.
        link: Arc<str>,
        /// Its driver.
        kind: String,
        /// Its alias; empty if it has none.
        alias: String,
    },
}

/// Makes a pod's link. `interface` is the pod's end's name in `pod`, the pod's network
/// namespace, which `inside` is a conversation about; `host` is one about the node's, which the
/// calling thread is in.
///
/// # Errors
/// See [`Error`]. Nothing is left of a link that could not be made whole.
pub fn set_up(
    host: &mut Conversation,
    inside: &mut Conversation,
    pod: BorrowedFd<'_>,
    interface: &str,
    link: &PodLink,
) -> Result<Standing, Error> {
    let on_host = on_host(link);
    let master = match &link.bridge {
        None => None,
        Some(bridge) => Some(bridge::stand(host, bridge)?),
    };
    let host_index = host
        .add_veth(VethSpec {
            name: &link.host_name,
            peer_name: interface,
            peer_namespace: Some(pod),
            mac: Some(Mac(link.host_mac)),
            peer_mac: Some(Mac(link.pod_mac)),
            mtu: Some(link.mtu),
            master,
        })
        .map_err(on_host("make the pair"))?;
    let finished = finish_pod(inside, pod, interface, link).and_then(|pod_index| {
        ignore_routers(link)?;
        host.run_all(&host_steps(host_index, link))
            .map_err(on_host("configure the node's end"))?;
        Ok(pod_index)
    });
    match finished {
        Ok(pod_index) => Ok(Standing {
            host_index,
            pod_index,
            host_mac: Mac(link.host_mac),
            pod_mac: Mac(link.pod_mac),
        }),
        Err(error) => {
            if let Err(undo) = host.delete_link(host_index)
                && !undo.is_absent()
            {
                tracing::error!(
                    link = %link.host_name, error = %undo,
                    "a link that could not be made whole could not be removed either"
                );
            }
            Err(error)
        }
    }
}

/// Removes a link by its number, and runs `meanwhile` as soon as nothing comes by it any more:
/// the kernel takes longer to see it out, until nobody can be looking at what it was.
///
/// # Errors
/// See [`rtnl::Error`]; a link that could not be removed has had no `meanwhile`.
pub fn delete_while<T: Send>(
    host: &mut Conversation,
    index: u32,
    meanwhile: impl FnOnce(&mut Conversation) -> T + Send,
) -> Result<T, rtnl::Error> {
    let mut other = Conversation::open()?;
    let is_deleted = OnceLock::new();
    let meanwhile = Mutex::new(Some(meanwhile));
    let take = || {
        let mut meanwhile = meanwhile.lock().unwrap_or_else(PoisonError::into_inner);
        meanwhile.take()
    };
    let done = thread::scope(|scope| {
        // The deletion begins at once, and has no thread to wait for.
        let work = || match is_gone(&mut other, index, &is_deleted) {
            true => take().map(|work| work(&mut other)),
            false => None,
        };
        let working = thread::Builder::new().spawn_scoped(scope, work);
        let deleted = gone(host.delete_link(index));
        // Nobody else sets it.
        let _ = is_deleted.set(deleted.is_ok());
        let done = working.map(|working| working.join().unwrap_or_else(|it| resume_unwind(it)));
        deleted.map(|()| done.ok().flatten())
    })?;
    // No thread was to be had, or it could not see.
    let late = || take().map(|work| work(host));
    done.or_else(late).ok_or_else(|| rtnl::Error::Socket {
        operation: "work while a link is deleted",
        source: std::io::Error::other("it was not done"),
    })
}

/// Waits until nobody sees a link any more, unless its deletion fails.
fn is_gone(host: &mut Conversation, index: u32, is_deleted: &OnceLock<bool>) -> bool {
    // A link leaves everybody's sight, with all packets on their way by it, under the lock
    // that a look takes too.
    loop {
        match (is_seen(host, index), is_deleted.get()) {
            (Ok(false), _) => return true,
            (Err(_), _) => return false,
            (Ok(true), Some(is_deleted)) => return *is_deleted,
            (Ok(true), None) => thread::yield_now(),
        }
    }
}

/// What took its namespace away may have taken the link along.
fn gone(deleted: Result<(), rtnl::Error>) -> Result<(), rtnl::Error> {
    match deleted {
        Err(error) if !error.is_absent() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_seen(host: &mut Conversation, index: u32) -> Result<bool, rtnl::Error> {
    match host.link(index) {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The number of a pod's link, if there is one.
///
/// # Errors
/// [`Error::Foreign`] for a link that is not weft's; [`Error::Host`].
pub fn find(host: &mut Conversation, host_name: &str) -> Result<Option<u32>, Error> {
    let found = host.find_link(host_name);
    let Some(link) = found.map_err(of_host(host_name, "look it up"))? else {
        return Ok(None);
    };
    if is_ours(&link) {
        return Ok(Some(link.index));
    }
    Err(Error::Foreign {
        link: host_name.into(),
        kind: link.kind.unwrap_or_else(|| "none".to_owned()),
        alias: link.alias.unwrap_or_default(),
    })
}

fn of_host(link: &str, step: &'static str) -> impl FnOnce(rtnl::Error) -> Error {
    move |source| Error::Host {
        link: link.into(),
        step,
        source,
    }
}

/// The links of weft's pods on this node.
///
/// # Errors
/// See [`rtnl::Error`].
pub fn list(host: &mut Conversation) -> Result<Vec<Link>, rtnl::Error> {
    let mut links = host.links()?;
    links.retain(is_ours);
    Ok(links)
}

fn is_ours(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
        && link.name.starts_with(mark::LINK_NAME)
        && link
            .alias
            .as_deref()
            .is_some_and(|alias| alias.starts_with(mark::LINK_ALIAS))
}

/// One thing about a link that is not as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// On the node's end, or on the pod's.
    pub end: End,
    /// What is not as it should be (`address 10.244.1.7/32 is missing`).
    pub what: String,
}

/// An end of a pod's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In the node's namespace.
    Host,
    /// In the pod's namespace.
    Pod,
    /// The bridge that the node's end is a port of.
    Bridge,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            End::Host => write!(f, "node's end: {}", self.what),
            End::Pod => write!(f, "pod's end: {}", self.what),
            End::Bridge => write!(f, "bridge: {}", self.what),
        }
    }
}

/// Compares a pod's link with what [`set_up`] makes of it. Empty: all is as it was made.
/// What else is in the pod's namespace or on the node is nobody's business here.
///
/// # Errors
/// See [`Error`].
pub fn check(
    host: &mut Conversation,
    pod: BorrowedFd<'_>,
    interface: &str,
    link: &PodLink,
) -> Result<Vec<Deviation>, Error> {
    let on_host = on_host(link);
    let in_pod = in_pod(interface);
    let mut inside = Conversation::in_namespace(pod).map_err(in_pod("enter its namespace"))?;
    let mut deviations = Vec::new();

    let master = match &link.bridge {
        None => None,
        Some(bridge) => {
            let found = bridge::deviations(host, bridge).map_err(on_host("read its bridge"))?;
            deviations.extend(found.into_iter().map(|what| Deviation {
                end: End::Bridge,
                what: format!("{} {what}", bridge.name),
            }));
            let found = host.find_link(&bridge.name);
            found
                .map_err(on_host("read its bridge"))?
                .map(|found| (found.index, &*bridge.name))
        }
    };
    let node_addresses: Vec<IpNet> = link.node_addresses.iter().copied().map(alone).collect();
    let node_end = Expected {
        end: End::Host,
        name: &link.host_name,
        mac: Mac(link.host_mac),
        mtu: link.mtu,
        alias: Some(&link.alias),
        master,
        addresses: &node_addresses,
        neighbours: asked_nobody(link, pod_addresses(link), link.pod_mac),
        routes: &|index| host_routes(index, link),
    };
    node_end
        .compare(host, &mut deviations)
        .map_err(on_host("read the node's end"))?;
    let pod_end = Expected {
        end: End::Pod,
        name: interface,
        mac: Mac(link.pod_mac),
        mtu: link.mtu,
        alias: None,
        master: None,
        addresses: &link.addresses,
        neighbours: asked_nobody(link, link.gateways.iter().copied(), link.host_mac),
        routes: &|index| pod_routes(index, link),
    };
    pod_end
        .compare(&mut inside, &mut deviations)
        .map_err(in_pod("read the pod's end"))?;
    Ok(deviations)
}

fn finish_pod(
    inside: &mut Conversation,
    pod: BorrowedFd<'_>,
    interface: &str,
    link: &PodLink,
) -> Result<u32, Error> {
    let in_pod = in_pod(interface);
    for setting in pod_settings(interface, link) {
        sysctl::set_in(pod, setting).map_err(|source| Error::Setting {
            interface: interface.to_owned(),
            source,
        })?;
    }
    let index = inside.index_of(interface).map_err(in_pod("look it up"))?;
    let mut batch = Batch::new();
    let flags = match &link.bridge {
        None => {
            batch.set_link(index, without_link_local());
            AS_IT_IS
        }
        Some(_) => WITH_ITS_NETWORK,
    };
    batch.set_link(index, up());
    // The runtime's task, and not every runtime does it.
    batch.set_link(LOOPBACK, up());
    for address in &link.addresses {
        batch.add_address(index, *address, flags);
    }
    for (address, mac) in asked_nobody(link, link.gateways.iter().copied(), link.host_mac) {
        batch.add_neighbour(index, address, mac);
    }
    for route in pod_routes(index, link) {
        batch.add_route(&route);
    }
    inside
        .run_all(&batch)
        .map_err(in_pod("configure the pod's end"))?;
    Ok(index)
}

/// Some runtimes make namespaces in which devices start without IPv6. And on a bridge any pod
/// could say that it is the router, in a family that the network has no range of too.
fn pod_settings<'a>(interface: &'a str, link: &PodLink) -> Vec<Setting<'a>> {
    let scope = Scope::Link(interface);
    let mut settings = Vec::new();
    if pod_addresses(link).any(|address| address.is_ipv6()) {
        settings.push(Setting::Ipv6Disabled(scope, false));
    }
    if link.bridge.is_some() && sysctl::has_ipv6() {
        settings.push(Setting::AcceptRouterAdvertisements(scope, 0));
    }
    settings
}

/// No pod tells the node, by a router advertisement, where to send. A port of a bridge hears none:
/// the bridge does.
fn ignore_routers(link: &PodLink) -> Result<(), Error> {
    if link.bridge.is_some() {
        return Ok(());
    }
    let setting = Setting::AcceptRouterAdvertisements(Scope::Link(&link.host_name), 0);
    match sysctl::set(setting) {
        Err(error) if error.is_absent() && !sysctl::has_ipv6() => Ok(()),
        set => set.map(drop).map_err(|source| Error::HostSetting {
            link: link.host_name.clone(),
            source,
        }),
    }
}

/// No route to the address's network, and no search for duplicates: the address is
/// given out once, and there is nobody on the link to ask.
const AS_IT_IS: AddressFlags = AddressFlags {
    no_prefix_route: true,
    no_duplicate_detection: true,
};

/// The same with a route to the network, which is on the bridge.
const WITH_ITS_NETWORK: AddressFlags = AddressFlags {
    no_prefix_route: false,
    no_duplicate_detection: true,
};

/// LOOPBACK_IFINDEX, `include/net/net_namespace.h`: the same in every namespace.
const LOOPBACK: u32 = 1;

fn up() -> LinkChange<'static> {
    LinkChange {
        up: Some(true),
        ..LinkChange::default()
    }
}

/// To be followed by switching the link on: one that comes up before its address mode is set
/// may get a link-local address all the same.
fn without_link_local() -> LinkChange<'static> {
    LinkChange {
        link_local_address: Some(false),
        ..LinkChange::default()
    }
}

fn host_steps(index: u32, link: &PodLink) -> Batch {
    let mut batch = Batch::new();
    batch.set_link(
        index,
        LinkChange {
            // The kernel takes none with the request that makes a link, and this one is due anyway.
            alias: Some(&link.alias),
            ..without_link_local()
        },
    );
    if link.bridge.is_some() {
        // A pod that speaks to itself by way of a Service, or of a port of the node.
        batch.set_hairpin(index, true);
    }
    batch.set_link(index, up());
    for address in &link.node_addresses {
        batch.add_address(index, alone(*address), AS_IT_IS);
    }
    for (address, mac) in asked_nobody(link, pod_addresses(link), link.pod_mac) {
        batch.add_neighbour(index, address, mac);
    }
    for route in host_routes(index, link) {
        batch.add_route(&route);
    }
    batch
}

/// As a network of its own.
fn alone(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn pod_addresses(link: &PodLink) -> impl Iterator<Item = IpAddr> {
    link.addresses.iter().map(IpNet::addr)
}

/// The permanent neighbours of a routed link's end.
fn asked_nobody(
    link: &PodLink,
    addresses: impl Iterator<Item = IpAddr>,
    mac: [u8; 6],
) -> Vec<(IpAddr, Mac)> {
    match link.bridge {
        None => addresses.map(|address| (address, Mac(mac))).collect(),
        Some(_) => Vec::new(),
    }
}

fn host_routes(index: u32, link: &PodLink) -> Vec<RouteSpec> {
    if link.bridge.is_some() {
        return Vec::new();
    }
    let next_hop = NextHop::Link { device: index };
    pod_addresses(link)
        .map(|address| RouteSpec::new(alone(address), next_hop.clone(), mark::ROUTE_POD))
        .collect()
}

fn pod_routes(index: u32, link: &PodLink) -> Vec<RouteSpec> {
    let router = |destination: &IpNet| {
        let mut gateways = link.gateways.iter().copied();
        gateways.find(|gateway| gateway.is_ipv4() == destination.addr().is_ipv4())
    };
    link.routes
        .iter()
        .filter_map(|destination| {
            let next_hop = NextHop::Gateway {
                address: router(destination)?,
                device: Some(index),
                on_link: link.bridge.is_none(),
            };
            Some(RouteSpec::new(*destination, next_hop, mark::ROUTE_POD))
        })
        .collect()
}

fn on_host(
    link: &PodLink,
) -> impl Fn(&'static str) -> Box<dyn FnOnce(rtnl::Error) -> Error> + use<> {
    let link = link.host_name.clone();
    move |step| {
        let link = link.clone();
        Box::new(move |source| Error::Host { link, step, source })
    }
}

fn in_pod(
    interface: &str,
) -> impl Fn(&'static str) -> Box<dyn FnOnce(rtnl::Error) -> Error> + use<> {
    let interface = interface.to_owned();
    move |step| {
        let interface = interface.clone();
        Box::new(move |source| Error::Pod {
            interface,
            step,
            source,
        })
    }
}

/// What one end must hold.
struct Expected<'a> {
    end: End,
    name: &'a str,
    mac: Mac,
    mtu: u32,
    alias: Option<&'a str>,
    /// The bridge it is a port of.
    master: Option<(u32, &'a str)>,
    addresses: &'a [IpNet],
    neighbours: Vec<(IpAddr, Mac)>,
    routes: &'a dyn Fn(u32) -> Vec<RouteSpec>,
}

impl Expected<'_> {
    fn compare(
        &self,
        conversation: &mut Conversation,
        deviations: &mut Vec<Deviation>,
    ) -> Result<(), rtnl::Error> {
        let mut report = |what: String| {
            deviations.push(Deviation {
                end: self.end,
                what,
            });
        };
        let Some(found) = conversation.find_link(self.name)? else {
            report(format!("link {} is missing", self.name));
            return Ok(());
        };
        if !found.up {
            report(format!("link {} is down", self.name));
        }
        if found.kind.as_deref() != Some("veth") {
            report(format!("link {} is no veth", self.name));
        }
        if found.mtu != self.mtu {
            report(format!("MTU is {}, not {}", found.mtu, self.mtu));
        }
        if found.mac != Some(self.mac) {
            let now = found.mac.map_or("none".to_owned(), |mac| mac.to_string());
            report(format!("Ethernet address is {now}, not {}", self.mac));
        }
        if self.alias.is_some() && found.alias.as_deref() != self.alias {
            report(format!("alias is {:?}, not {:?}", found.alias, self.alias));
        }
        if let Some((index, name)) = self.master {
            if found.master != Some(index) {
                report(format!("it is not a port of {name}"));
            } else if found.hairpin != Some(true) {
                report(format!("its hairpin mode on {name} is off"));
            }
        } else if self.end == End::Host && found.master.is_some() {
            report("it is a port of a bridge".to_owned());
        }
        let addresses = conversation.addresses(Some(found.index))?;
        for expected in self.addresses.iter().copied() {
            if !addresses
                .iter()
                .any(|a| a.network == expected && !a.tentative)
            {
                report(format!("address {expected} is missing"));
            }
        }
        let neighbours = conversation.neighbours(Some(found.index))?;
        for (address, mac) in &self.neighbours {
            if !neighbours.iter().any(|n| {
                n.address == *address && n.mac == Some(*mac) && n.state == NeighbourState::Permanent
            }) {
                report(format!("permanent neighbour {address} ({mac}) is missing"));
            }
        }
        let routes = conversation.routes(RouteFilter {
            protocol: Some(mark::ROUTE_POD),
            table: None,
        })?;
        for expected in (self.routes)(found.index) {
            if !routes.iter().any(|route| {
                route.destination == expected.destination && route.next_hop == expected.next_hop
            }) {
                report(format!("route {expected} is missing"));
            }
        }
        Ok(())
    }
}
