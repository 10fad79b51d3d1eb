//! Routes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Who a route belongs to; the kernel carries it as the route's protocol number
/// ([`mark`](crate::mark)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteOwner {
    /// A pod of this node.
    Pod,
    /// The fabric: other nodes' pod ranges.
    Fabric,
}

/// A destination is unique in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Whose it is.
    pub owner: RouteOwner,
    /// Where to.
    pub destination: IpNet,
}

/// Where a packet goes next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// The destination is on this link.
    Link {
        /// The device's name.
        device: Arc<str>,
    },
    /// Through a router on a directly connected network; the kernel finds the device.
    Gateway {
        /// The router.
        address: IpAddr,
    },
    /// Through a router that the link reaches though no address of it says so (`onlink`).
    OnLink {
        /// The router.
        address: IpAddr,
        /// The device's name.
        device: Arc<str>,
    },
    /// Nowhere: the sender is told at once (ICMP unreachable). More specific routes
    /// inside the destination still count.
    Unreachable,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextHop::Link { device } => write!(f, "dev {device}"),
            NextHop::Gateway { address } => write!(f, "via {address}"),
            NextHop::OnLink { address, device } => write!(f, "via {address} dev {device} onlink"),
            NextHop::Unreachable => f.write_str("unreachable"),
        }
    }
}

/// One route in the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where a packet goes next.
    pub next_hop: NextHop,
    /// Bytes of the largest packet that may go there, where that is less than the link takes.
    pub mtu: Option<u32>,
}

impl From<NextHop> for Route {
    /// For packets of every size that the link takes.
    fn from(next_hop: NextHop) -> Self {
        Self {
            next_hop,
            mtu: None,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.next_hop, f)?;
        match self.mtu {
            Some(mtu) => write!(f, " mtu {mtu}"),
            None => Ok(()),
        }
    }
}
