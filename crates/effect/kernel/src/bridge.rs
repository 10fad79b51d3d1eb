//! The bridge that pods of a network are ports of.
//!
//! Whoever attaches a pod makes it, several processes at a time: every step may have been
//! taken by somebody else, and all of them lead to the same bridge. It stays when its last
//! port goes.
//!
//! A bridge that is not weft's (no mark, see [`weft_desired::mark`]) is used as it is, if it
//! has the pods' routers as its addresses, and never changed.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{Bridge, mark};
use weft_sys::rtnl::{
    self, Address, AddressFlags, Batch, BridgeSpec, Conversation, Link, LinkChange, Mac,
};

use crate::sysctl::{self, Scope, Setting};

/// Why pods can't have the bridge.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step failed.
    #[error("bridge {bridge}: cannot {step}")]
    Kernel {
        /// The bridge.
        bridge: Arc<str>,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: rtnl::Error,
    },
    /// A setting of it can't be changed.
    #[error("bridge {bridge}")]
    Setting {
        /// The bridge.
        bridge: Arc<str>,
        /// Why.
        source: sysctl::Error,
    },
    /// The node has something else in its place.
    #[error("bridge {bridge}: {what}")]
    Conflict {
        /// The bridge.
        bridge: Arc<str>,
        /// What is in the way, and what to do about it.
        what: String,
    },
}

/// Whether pods could have the bridge: it stands as it should, or could be made so.
///
/// # Errors
/// See [`Error`].
pub fn examine(host: &mut Conversation, bridge: &Bridge) -> Result<(), Error> {
    let found = host
        .find_link(&bridge.name)
        .map_err(failed(bridge)("look it up"))?;
    match found {
        Some(found) => compare(host, bridge, &found).map(drop),
        None => no_other_has(host, None, bridge),
    }
}

/// Has the bridge stand, and returns its number. The calling thread is in the namespace that
/// `host` speaks about.
///
/// # Errors
/// See [`Error`].
pub fn stand(host: &mut Conversation, bridge: &Bridge) -> Result<u32, Error> {
    let failed = failed(bridge);
    let found = host.find_link(&bridge.name).map_err(failed("look it up"))?;
    let found = match found {
        Some(link) => link,
        None => create(host, bridge)?,
    };
    if let Some(difference) = compare(host, bridge, &found)? {
        finish(host, bridge, &found, difference)?;
    }
    Ok(found.index)
}

/// What one of weft's bridges has too many and too few.
struct Difference {
    stale: Vec<IpNet>,
    missing: Vec<IpNet>,
}

/// `None` for a bridge that is somebody else's, and fit.
fn compare(
    host: &mut Conversation,
    bridge: &Bridge,
    found: &Link,
) -> Result<Option<Difference>, Error> {
    if found.kind.as_deref() != Some("bridge") {
        let kind = found.kind.as_deref().unwrap_or("network card");
        return Err(conflict(
            bridge,
            format!("the node has a {kind} of that name; configure another"),
        ));
    }
    let present = host
        .addresses(Some(found.index))
        .map_err(failed(bridge)("read its addresses"))?;
    let missing = missing(bridge, &present);
    if !is_ours(found, bridge) {
        return match (missing.first(), found.up) {
            (None, true) => Ok(None),
            (Some(address), _) => Err(conflict(
                bridge,
                format!(
                    "it is not weft's, and lacks the address {address}: add it, or configure \
                     another bridge"
                ),
            )),
            (None, false) => Err(conflict(
                bridge,
                "it is not weft's, and down: switch it on, or configure another bridge".to_owned(),
            )),
        };
    }
    let alias = found.alias.as_deref().unwrap_or_default();
    if !alias.is_empty() && alias != &*bridge.alias {
        let owner = alias.strip_prefix(mark::BRIDGE_ALIAS).unwrap_or(alias);
        return Err(conflict(
            bridge,
            format!("it is the network {owner}'s; configure another bridge for this one"),
        ));
    }
    let stale = stale(host, found, bridge, &present)?;
    if !missing.is_empty() {
        no_other_has(host, Some(found.index), bridge)?;
    }
    Ok(Some(Difference { stale, missing }))
}

fn finish(
    host: &mut Conversation,
    bridge: &Bridge,
    found: &Link,
    difference: Difference,
) -> Result<(), Error> {
    let failed = failed(bridge);
    let mut batch = Batch::new();
    if found.alias.as_deref() != Some(&*bridge.alias) || found.mtu != bridge.mtu {
        batch.set_link(
            found.index,
            LinkChange {
                alias: Some(&bridge.alias),
                mtu: Some(bridge.mtu),
                ..LinkChange::default()
            },
        );
    }
    if found.promiscuous {
        batch.set_link(
            found.index,
            LinkChange {
                promiscuous: Some(false),
                ..LinkChange::default()
            },
        );
    }
    prepare(bridge)?;
    if !found.up {
        batch.set_link(
            found.index,
            LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        );
    }
    for address in difference.stale {
        batch.delete_address(found.index, address);
    }
    for address in difference.missing {
        batch.add_address(found.index, address, AT_ONCE);
    }
    if !batch.is_empty() {
        for step in host.run(&batch).map_err(failed("configure it"))? {
            match step {
                // Somebody else was quicker.
                Err(error) if error.is_exists() || error.is_absent() => {}
                other => other.map_err(failed("configure it"))?,
            }
        }
    }
    Ok(())
}

/// What is not as [`stand`] makes it, in words.
///
/// # Errors
/// A failure of the conversation.
pub fn deviations(host: &mut Conversation, bridge: &Bridge) -> Result<Vec<String>, rtnl::Error> {
    let Some(found) = host.find_link(&bridge.name)? else {
        return Ok(vec!["it is missing".to_owned()]);
    };
    let mut deviations = Vec::new();
    if found.kind.as_deref() != Some("bridge") {
        deviations.push("it is no bridge".to_owned());
    }
    if !found.up {
        deviations.push("it is down".to_owned());
    }
    if found.promiscuous && is_ours(&found, bridge) {
        deviations.push("it is promiscuous".to_owned());
    }
    let present = host.addresses(Some(found.index))?;
    for address in missing(bridge, &present) {
        deviations.push(format!("address {address} is missing"));
    }
    Ok(deviations)
}

/// Usable at once: nobody else on a bridge of pods has the routers' addresses.
const AT_ONCE: AddressFlags = AddressFlags {
    no_prefix_route: false,
    no_duplicate_detection: true,
};

/// A bridge has its mark, its alias, only after it was made; until then its Ethernet address
/// tells whose it is.
fn is_ours(found: &Link, bridge: &Bridge) -> bool {
    match found.alias.as_deref().unwrap_or_default() {
        "" => found.mac == Some(Mac(bridge.mac)),
        alias => alias.starts_with(mark::BRIDGE_ALIAS),
    }
}

fn create(host: &mut Conversation, bridge: &Bridge) -> Result<Link, Error> {
    let failed = failed(bridge);
    let made = host.add_bridge(BridgeSpec {
        name: &bridge.name,
        mac: Some(Mac(bridge.mac)),
        mtu: Some(bridge.mtu),
        alias: None,
    });
    match made {
        Ok(link) => Ok(link),
        // Another pod's ADD made it meanwhile.
        Err(error) if error.is_exists() => host
            .link_by_name(&bridge.name)
            .map_err(failed("look it up")),
        Err(error) => Err(failed("make it")(error)),
    }
}

/// Before it is up: no pod tells the node, by a router advertisement, where to send. It could on a
/// bridge of IPv4 too, which has IPv6 unless the node has none.
fn prepare(bridge: &Bridge) -> Result<(), Error> {
    let scope = Scope::Link(&bridge.name);
    let mut settings = Vec::new();
    if bridge.addresses.iter().any(|net| net.addr().is_ipv6()) {
        settings.push(Setting::Ipv6Disabled(scope, false));
    }
    if sysctl::has_ipv6() {
        settings.push(Setting::AcceptRouterAdvertisements(scope, 0));
    }
    for setting in settings {
        sysctl::set(setting).map_err(|source| Error::Setting {
            bridge: bridge.name.clone(),
            source,
        })?;
    }
    Ok(())
}

fn missing(bridge: &Bridge, present: &[Address]) -> Vec<IpNet> {
    let has = |address: &IpNet| {
        let mut present = present.iter();
        present.any(|there| there.network == *address && !there.tentative)
    };
    let addresses = bridge.addresses.iter().copied();
    addresses.filter(|address| !has(address)).collect()
}

/// Addresses from an earlier configuration; they may go as long as no pod knows them. Those that
/// the kernel made by itself go by themselves.
fn stale(
    host: &mut Conversation,
    found: &Link,
    bridge: &Bridge,
    present: &[Address],
) -> Result<Vec<IpNet>, Error> {
    let stale: Vec<IpNet> = present
        .iter()
        .filter(|there| {
            there.permanent && !there.link_local && !bridge.addresses.contains(&there.network)
        })
        .map(|there| there.network)
        .collect();
    let Some(first) = stale.first() else {
        return Ok(stale);
    };
    let links = host.links().map_err(failed(bridge)("look for its ports"))?;
    let ports = links.iter().filter(|link| link.master == Some(found.index));
    match ports.count() {
        0 => Ok(stale),
        ports => Err(conflict(
            bridge,
            format!(
                "it has the address {first} of an earlier configuration, and {ports} pods \
                 attached: they have to end first"
            ),
        )),
    }
}

/// Two devices with one network: packets would go to one of them, by chance. An address without a
/// network takes packets to itself alone, as that of a tunnel or of the loopback device; it is in
/// the way where it is one of the bridge's own.
fn no_other_has(host: &mut Conversation, own: Option<u32>, bridge: &Bridge) -> Result<(), Error> {
    let failed = failed(bridge);
    let all = host
        .addresses(None)
        .map_err(failed("read the node's addresses"))?;
    let inside = |address: IpAddr| {
        let mut networks = bridge.addresses.iter();
        networks.find(|network| network.contains(&address)).copied()
    };
    let is_in_the_way = |there: &IpNet| {
        let mut own = bridge.addresses.iter().map(IpNet::addr);
        there.prefix_len() < there.max_prefix_len() || own.any(|own| own == there.addr())
    };
    let others = all.iter().filter(|there| Some(there.index) != own);
    for there in others.filter(|there| is_in_the_way(&there.network)) {
        if let Some(network) = inside(there.network.addr()) {
            let device = host
                .link(there.index)
                .map_or_else(|_| format!("with index {}", there.index), |link| link.name);
            return Err(conflict(
                bridge,
                format!(
                    "it would have {network}, and the node's device {device} has {} already",
                    there.network
                ),
            ));
        }
    }
    Ok(())
}

fn conflict(bridge: &Bridge, what: String) -> Error {
    Error::Conflict {
        bridge: bridge.name.clone(),
        what,
    }
}

fn failed(bridge: &Bridge) -> impl Fn(&'static str) -> Box<dyn FnOnce(rtnl::Error) -> Error> {
    let bridge = bridge.name.clone();
    move |step| {
        let bridge = bridge.clone();
        Box::new(move |source| Error::Kernel {
            bridge,
            step,
            source,
        })
    }
}
