//! Record types and the data of records.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::WireName;

/// A record's type (IANA, Resource Record TYPEs). Any number can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

impl RecordType {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// The name of a zone's server.
    pub const NS: Self = Self(2);
    /// Another name's records are this name's.
    pub const CNAME: Self = Self(5);
    /// A zone's properties.
    pub const SOA: Self = Self(6);
    /// The name of an address.
    pub const PTR: Self = Self(12);
    /// Text.
    pub const TXT: Self = Self(16);
    /// An IPv6 address (RFC 3596).
    pub const AAAA: Self = Self(28);
    /// A server of a service: name, port and weight (RFC 2782).
    pub const SRV: Self = Self(33);
    /// EDNS (RFC 6891).
    pub const OPT: Self = Self(41);
    /// A zone's changes (RFC 1995).
    pub const IXFR: Self = Self(251);
    /// A whole zone (RFC 5936).
    pub const AXFR: Self = Self(252);

    /// The type of an address's record.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::A,
            IpAddr::V6(_) => Self::AAAA,
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::A => "A",
            Self::NS => "NS",
            Self::CNAME => "CNAME",
            Self::SOA => "SOA",
            Self::PTR => "PTR",
            Self::TXT => "TXT",
            Self::AAAA => "AAAA",
            Self::SRV => "SRV",
            Self::OPT => "OPT",
            Self::IXFR => "IXFR",
            Self::AXFR => "AXFR",
            // RFC 3597, section 5.
            Self(other) => return write!(f, "TYPE{other}"),
        })
    }
}

impl fmt::Debug for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordData {
    /// A.
    V4(Ipv4Addr),
    /// AAAA.
    V6(Ipv6Addr),
    /// CNAME: the name this one stands for.
    Alias(WireName),
    /// PTR.
    Pointer(WireName),
    /// NS.
    NameServer(WireName),
    /// SRV.
    Service {
        /// Lower comes first.
        priority: u16,
        /// Share among those of one priority.
        weight: u16,
        /// Port at the target.
        port: u16,
        /// The name whose addresses take the connections.
        target: WireName,
    },
    /// TXT. Cut into strings of 255 bytes.
    Text(Arc<str>),
}

impl RecordData {
    /// The record of an address.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address),
        }
    }

    /// The record's type.
    pub fn record_type(&self) -> RecordType {
        match self {
            Self::V4(_) => RecordType::A,
            Self::V6(_) => RecordType::AAAA,
            Self::Alias(_) => RecordType::CNAME,
            Self::Pointer(_) => RecordType::PTR,
            Self::NameServer(_) => RecordType::NS,
            Self::Service { .. } => RecordType::SRV,
            Self::Text(_) => RecordType::TXT,
        }
    }
}
