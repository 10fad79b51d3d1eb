//! The node as a router.

use weft_sys::rtnl::{self, Conversation, NextHop, RouteFilter};

use crate::sysctl::{self, Scope, Setting};

/// RTPROT_RA (`include/uapi/linux/rtnetlink.h`): the kernel learned the route from a
/// router advertisement.
const PROTOCOL_ADVERTISEMENT: u8 = 9;

/// Why the node could not be made a router.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its default routes can't be read.
    #[error("the default routes that IPv6 forwarding would take away")]
    Routes(#[from] rtnl::Error),
    /// A setting can't be read or written.
    #[error(transparent)]
    Setting(#[from] sysctl::Error),
}

/// Makes the calling thread's network namespace an IPv4 router.
///
/// # Errors
/// [`Error::Setting`].
pub fn forward_v4() -> Result<(), Error> {
    sysctl::set(Setting::Ipv4Forwarding(true))?;
    Ok(())
}

/// Makes the calling thread's network namespace an IPv6 router, and lets it keep the
/// default routes that it has from router advertisements: a router takes those only
/// where it is told to. `conversation` is with the same namespace.
///
/// # Errors
/// See [`Error`].
pub fn forward_v6(conversation: &mut Conversation) -> Result<(), Error> {
    for link in advertised_links(conversation)? {
        // Where the kernel takes none (0), another program does, and keeps the route.
        if sysctl::holds(Setting::AcceptRouterAdvertisements(Scope::Link(&link), 1))? {
            sysctl::set(Setting::AcceptRouterAdvertisements(Scope::Link(&link), 2))?;
        }
    }
    sysctl::set(Setting::Ipv6Forwarding(Scope::All, true))?;
    Ok(())
}

/// The names of the links with an advertised default route.
fn advertised_links(conversation: &mut Conversation) -> Result<Vec<String>, rtnl::Error> {
    let routes = conversation.routes(RouteFilter {
        protocol: Some(PROTOCOL_ADVERTISEMENT),
        table: None,
    })?;
    let devices: Vec<u32> = routes
        .iter()
        .filter(|route| route.destination.addr().is_ipv6() && route.destination.prefix_len() == 0)
        .filter_map(|route| match route.next_hop {
            NextHop::Gateway { device, .. } => device,
            NextHop::Link { device } => Some(device),
            // The kernel joins no advertised routes to one of several next hops.
            NextHop::Unreachable | NextHop::Blackhole | NextHop::Other => None,
        })
        .collect();
    let links = conversation.links()?.into_iter();
    Ok(links
        .filter(|link| devices.contains(&link.index))
        .map(|link| link.name)
        .collect())
}
