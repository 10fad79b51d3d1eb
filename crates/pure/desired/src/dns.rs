//! What the cluster's DNS must answer: records by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::Table;

/// The records of every name that exists. A name without a record of some type exists
/// all the same: the answer is then empty, and not "no such name".
pub type DnsTable = Table<DomainName, NameRecords>;

/// A fully qualified domain name: lower-case text without a dot at the end. The root is
/// empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(Arc<str>);

/// Why text is no domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotADomainName {
    /// An empty label, as between two dots.
    EmptyLabel,
    /// A label over 63 bytes (RFC 1035, section 2.3.4).
    LongLabel,
    /// Over 253 characters, which are 255 bytes on the wire (same section).
    LongName,
    /// A dot where one label is wanted.
    Dot,
}

impl fmt::Display for NotADomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyLabel => "a domain name has no empty labels",
            Self::LongLabel => "a label of a domain name has at most 63 bytes",
            Self::LongName => "a domain name has at most 253 characters",
            Self::Dot => "a label of a domain name has no dot in it",
        })
    }
}

impl std::error::Error for NotADomainName {}

impl DomainName {
    /// The name of a text, with or without a dot at the end.
    pub fn parse(text: &str) -> Result<Self, NotADomainName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if !text.is_empty() {
            text.split('.').try_for_each(check_label)?;
        }
        Self::checked(text.to_ascii_lowercase())
    }

    /// The name one label below this one.
    pub fn child(&self, label: &str) -> Result<Self, NotADomainName> {
        if label.contains('.') {
            return Err(NotADomainName::Dot);
        }
        check_label(label)?;
        let mut text = label.to_ascii_lowercase();
        if !self.0.is_empty() {
            text.push('.');
            text.push_str(&self.0);
        }
        Self::checked(text)
    }

    /// The name under which an address's name is asked for (RFC 1035, section 3.5; RFC
    /// 3596, section 2.5).
    pub fn reverse(address: IpAddr) -> Self {
        let text = match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(address) => {
                let mut text = String::with_capacity(72);
                for byte in address.octets().iter().rev() {
                    for nibble in [byte & 0x0f, byte >> 4] {
                        text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
                        text.push('.');
                    }
                }
                text.push_str("ip6.arpa");
                text
            }
        };
        Self(text.into())
    }

    /// The name without a dot at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn checked(text: String) -> Result<Self, NotADomainName> {
        if text.len() > 253 {
            return Err(NotADomainName::LongName);
        }
        Ok(Self(text.into()))
    }
}

fn check_label(label: &str) -> Result<(), NotADomainName> {
    match label.len() {
        0 => Err(NotADomainName::EmptyLabel),
        1..=63 => Ok(()),
        _ => Err(NotADomainName::LongLabel),
    }
}

impl fmt::Display for DomainName {
    /// With the dot at the end, as zone files write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.0)
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// All records of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRecords {
    /// How many seconds the records may be kept.
    pub ttl: u32,
    /// A and AAAA.
    pub addresses: BTreeSet<IpAddr>,
    /// CNAME: the name's records are those of this name. A name with an alias has
    /// nothing else.
    pub alias: Option<DomainName>,
    /// PTR.
    pub pointers: BTreeSet<DomainName>,
    /// SRV.
    pub services: BTreeSet<ServiceRecord>,
    /// NS.
    pub name_servers: BTreeSet<DomainName>,
    /// TXT.
    pub texts: BTreeSet<Arc<str>>,
    /// Addresses of the names in `services` and `name_servers`, which spare the client
    /// the next question.
    pub additional: BTreeMap<DomainName, BTreeSet<IpAddr>>,
}

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceRecord {
    /// The name whose addresses take the connections.
    pub target: DomainName,
    /// The port there.
    pub port: u16,
    /// Lower comes first.
    pub priority: u16,
    /// Share among those of one priority.
    pub weight: u16,
}

impl NameRecords {
    /// No records; the name exists.
    pub fn empty(ttl: u32) -> Self {
        Self {
            ttl,
            ..Self::default()
        }
    }

    /// Adds the records of another claim on the same name.
    pub fn merge(&mut self, other: &Self) {
        self.ttl = self.ttl.min(other.ttl);
        self.addresses.extend(&other.addresses);
        self.alias = self.alias.take().or_else(|| other.alias.clone());
        self.pointers.extend(other.pointers.iter().cloned());
        self.services.extend(other.services.iter().cloned());
        self.name_servers.extend(other.name_servers.iter().cloned());
        self.texts.extend(other.texts.iter().cloned());
        for (name, addresses) in &other.additional {
            self.additional
                .entry(name.clone())
                .or_default()
                .extend(addresses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names_are_those_of_the_rfcs() {
        let reverse = |text: &str| DomainName::reverse(text.parse().unwrap()).to_string();
        assert_eq!(reverse("10.96.0.10"), "10.0.96.10.in-addr.arpa.");
        assert_eq!(
            reverse("2001:db8::567:89ab"),
            "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
        );
    }

    #[test]
    fn names_are_lower_case_and_checked() {
        let zone = DomainName::parse("Cluster.Local.").unwrap();
        assert_eq!(zone.child("SVC").unwrap().as_str(), "svc.cluster.local");
        assert_eq!(zone.child(""), Err(NotADomainName::EmptyLabel));
        assert_eq!(zone.child("a.b"), Err(NotADomainName::Dot));
        assert_eq!(zone.child(&"x".repeat(64)), Err(NotADomainName::LongLabel));
        assert_eq!(
            DomainName::parse(&"abcdefg.".repeat(32)),
            Err(NotADomainName::LongName)
        );
    }
}
