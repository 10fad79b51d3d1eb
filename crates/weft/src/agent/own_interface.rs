//! By which of its links, and by which address there, others reach this node: flannel's flags,
//! for an agent and for a host without Kubernetes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use regex::Regex;

/// Any (RFC 863: "discard"): nothing is sent.
const PORT: u16 = 9;

/// What a person says of the link, or of the address.
#[derive(Clone, Debug)]
pub(super) enum Interface {
    /// The link of this name.
    Name(String),
    /// This address.
    Address(IpAddr),
    /// The first link whose name, or the first address that, this finds something in.
    Regex(Regex),
    /// Addresses in these ranges.
    Within(Vec<IpNet>),
    /// The addresses from which these are reached.
    CanReach(Vec<IpAddr>),
}

impl Interface {
    /// A link's name or an address.
    pub(super) fn named(text: &str) -> Self {
        match text.parse() {
            Ok(address) => Self::Address(address),
            Err(_) => Self::Name(text.to_owned()),
        }
    }

    /// A regular expression.
    ///
    /// # Errors
    /// One that can't be read, or is too large.
    pub(super) fn like(text: &str) -> Result<Self> {
        let regex = Regex::new(text).with_context(|| format!("{text:?} is no expression"))?;
        Ok(Self::Regex(regex))
    }

    /// Those of the node's addresses (each with its link's name, the first of a link first) that
    /// are meant; the first of a family counts.
    ///
    /// # Errors
    /// None is; what there is.
    pub(super) fn choose(&self, all: &[(IpAddr, String)]) -> Result<Vec<IpAddr>> {
        let on = |link: &str| {
            let there = all.iter().filter(|(_, name)| name.as_str() == link);
            there.map(|(address, _)| *address).collect()
        };
        let mut addresses = all.iter().map(|(address, _)| *address);
        let chosen: Vec<IpAddr> = match self {
            Self::Name(name) => on(name),
            Self::Address(address) => addresses.find(|it| it == address).into_iter().collect(),
            Self::Regex(regex) => {
                let mut links = all.iter().map(|(_, link)| link);
                match links.find(|link| regex.is_match(link)) {
                    Some(link) => on(link),
                    None => {
                        let mut matching = all.iter();
                        let first = matching.find(|(it, _)| regex.is_match(&it.to_string()));
                        // Its link's address of the other family comes along.
                        let link = first.map(|(address, link)| (*address, link));
                        let (address, others) = match link {
                            Some((address, link)) => (Some(address), on(link)),
                            None => (None, Vec::new()),
                        };
                        let others = others.into_iter();
                        let unlike = move |it: &IpAddr| {
                            address.is_some_and(|first| first.is_ipv4() != it.is_ipv4())
                        };
                        address.into_iter().chain(others.filter(unlike)).collect()
                    }
                }
            }
            Self::Within(ranges) => {
                let within = |it: &IpAddr| ranges.iter().any(|range| range.contains(it));
                addresses.filter(within).collect()
            }
            Self::CanReach(targets) => {
                let sources = targets.iter().filter_map(|target| source(*target));
                sources
                    .filter(|it| all.iter().any(|(own, _)| own == it))
                    .collect()
            }
        };
        if chosen.is_empty() {
            let links = all
                .iter()
                .map(|(address, link)| format!("{address} on {link}"));
            let there: Vec<String> = links.collect();
            bail!(
                "this node has no address on {self}; it has {}",
                match there.is_empty() {
                    true => "none that others could send to".to_owned(),
                    false => there.join(", "),
                }
            );
        }
        Ok(chosen)
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "a link {name} that is up"),
            Self::Address(address) => write!(f, "a link that is up like {address}"),
            Self::Regex(regex) => write!(f, "a link like {regex}"),
            Self::Within(ranges) => write!(f, "a link in {}", list(ranges)),
            Self::CanReach(targets) => write!(f, "a link that leads to {}", list(targets)),
        }
    }
}

fn list(items: &[impl fmt::Display]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// From which address this node would send there. Nothing is sent.
pub(super) fn source(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let asked = || -> Result<IpAddr> {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket
            .connect(SocketAddr::new(to, PORT))
            .context("a route")?;
        Ok(socket.local_addr()?.ip())
    };
    asked().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the link eth1 was given last is not its first, though its number is the lowest.
    fn node() -> Vec<(IpAddr, String)> {
        let all = [
            ("10.0.0.5", "mgmt0"),
            ("10.9.0.50", "eth1"),
            ("10.9.0.6", "eth1"),
            ("192.0.2.5", "eth0"),
            ("2001:db8::5", "eth0"),
            ("fd00:9::5", "eth1"),
        ];
        let parsed = all.map(|(address, link)| (address.parse().unwrap(), link.to_owned()));
        parsed.to_vec()
    }

    fn chosen(interface: &Interface) -> Vec<String> {
        let chosen = interface.choose(&node()).unwrap();
        chosen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_link_is_chosen_by_name_by_address_and_by_range() {
        let eth1 = ["10.9.0.50", "10.9.0.6", "fd00:9::5"];
        assert_eq!(chosen(&Interface::named("eth1")), eth1);
        assert_eq!(chosen(&Interface::named("10.9.0.6")), ["10.9.0.6"]);
        let regex = |text| Interface::Regex(Regex::new(text).unwrap());
        assert_eq!(chosen(&regex("^eth1$")), eth1);
        assert_eq!(chosen(&regex(r"^192\.0\.")), ["192.0.2.5", "2001:db8::5"]);
        let ranges = ["10.8.0.0/15", "2001:db8::/32"].map(|range| range.parse().unwrap());
        let within = Interface::Within(ranges.into());
        assert_eq!(chosen(&within), ["10.9.0.50", "10.9.0.6", "2001:db8::5"]);
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let error = |interface: &Interface| interface.choose(&node()).unwrap_err().to_string();
        let said = error(&Interface::named("eth7"));
        assert!(
            said.contains("eth7") && said.contains("10.0.0.5 on mgmt0"),
            "{said}"
        );
        assert!(error(&Interface::named("10.0.0.9")).contains("10.0.0.9"));
        let nobody = Interface::CanReach(vec![IpAddr::from([127, 0, 0, 1])]);
        assert!(error(&nobody).contains("leads to 127.0.0.1"));
    }
}
