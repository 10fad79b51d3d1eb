//! By which address this host is reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use weft_proto::flannel::{Backend, Holder};

use crate::agent::forwarding::Forwarding;
use crate::agent::own_interface::{Interface, source};

/// Addresses of nobody's, for documentation (RFC 5737, RFC 3849): which way leads there is the way
/// of the default route.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// What a person says of it.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) interface: Option<Interface>,
    pub(super) public_v4: Option<Ipv4Addr>,
    pub(super) public_v6: Option<Ipv6Addr>,
}

/// The host's addresses, at most one a family, IPv4's first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnAddresses {
    /// On its own links.
    pub(super) local: Vec<IpAddr>,
    /// Where others send to.
    pub(super) public: (Ipv4Addr, Option<Ipv6Addr>),
}

impl OwnAddresses {
    /// None of them is in `networks`: containers of this host have those.
    pub(super) fn find(
        wish: &Wish,
        networks: &[IpNet],
        forwarding: &mut Forwarding,
    ) -> Result<Self> {
        let dual = networks.iter().any(|network| network.addr().is_ipv6());
        let candidates = candidates(wish.interface.as_ref(), forwarding)?;
        let mut v4 = None;
        let mut v6 = None;
        for address in candidates {
            match address {
                IpAddr::V4(address) => v4 = v4.or(Some(address)),
                IpAddr::V6(address) => v6 = v6.or(Some(address)),
            }
        }
        let at = match &wish.interface {
            Some(interface) => interface.to_string(),
            None => "this host's default route".to_owned(),
        };
        let Some(v4) = v4 else {
            bail!("{at} has no IPv4 address that others could send to; name a link with --iface");
        };
        if dual && v6.is_none() {
            bail!(
                "{at} has no IPv6 address, and the network has IPv6 (EnableIPv6); name a link \
                 that has both with --iface"
            );
        }
        let v6 = v6.filter(|_| dual);
        let local = [IpAddr::V4(v4)].into_iter().chain(v6.map(IpAddr::V6));
        Ok(Self {
            local: local.collect(),
            public: (
                wish.public_v4.unwrap_or(v4),
                wish.public_v6.filter(|_| dual).or(v6),
            ),
        })
    }

    /// Where others send to, IPv4's first.
    pub(super) fn public(&self) -> Vec<IpAddr> {
        let (v4, v6) = self.public;
        [IpAddr::V4(v4)]
            .into_iter()
            .chain(v6.map(IpAddr::V6))
            .collect()
    }

    /// What the lease says before there is a tunnel.
    pub(super) fn holder(&self, backend: &Backend) -> Holder {
        Holder {
            public_ip: self.public.0,
            public_ipv6: self.public.1,
            backend_type: backend.name().to_owned(),
            backend_data: None,
            backend_v6_data: None,
        }
    }
}

fn candidates(interface: Option<&Interface>, forwarding: &mut Forwarding) -> Result<Vec<IpAddr>> {
    let all = forwarding.reachable_at()?;
    if let Some(interface) = interface {
        return interface.choose(&all).context("--iface…");
    }
    let sources = ANYWHERE.into_iter().filter_map(source);
    let all: Vec<IpAddr> = all.into_iter().map(|(address, _)| address).collect();
    let sources: Vec<IpAddr> = sources.filter(|it| all.contains(it)).collect();
    if sources.is_empty() && all.iter().filter(|address| address.is_ipv4()).count() > 1 {
        bail!(
            "nothing leads out of this host, and it has several addresses: name the link that the \
             others are on with --iface"
        );
    }
    Ok(if sources.is_empty() { all } else { sources })
}
