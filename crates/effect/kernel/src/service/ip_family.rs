//! What differs between the two address families' tables.

use std::net::IpAddr;

use weft_desired::mark;
use weft_sys::nft::{DataType, Expression, Family, PayloadBase, Register, Reject, TableName};

use crate::expression::{DESTINATION_V4, DESTINATION_V6, SOURCE_V4, SOURCE_V6};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<weft_desired::IpFamily> for IpFamily {
    fn from(family: weft_desired::IpFamily) -> Self {
        match family {
            weft_desired::IpFamily::V4 => IpFamily::V4,
            weft_desired::IpFamily::V6 => IpFamily::V6,
        }
    }
}

impl From<IpFamily> for weft_desired::IpFamily {
    fn from(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => weft_desired::IpFamily::V4,
            IpFamily::V6 => weft_desired::IpFamily::V6,
        }
    }
}

impl IpFamily {
    /// Both.
    pub const BOTH: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

    /// Whether an address is of this family.
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            IpFamily::V4 => address.is_ipv4(),
            IpFamily::V6 => address.is_ipv6(),
        }
    }

    /// Its table.
    pub fn table(self) -> TableName {
        TableName::new(self.nft(), mark::TABLE)
    }

    pub(super) fn nft(self) -> Family {
        match self {
            IpFamily::V4 => Family::V4,
            IpFamily::V6 => Family::V6,
        }
    }

    pub(super) fn address_type(self) -> DataType {
        match self {
            IpFamily::V4 => DataType::Ipv4Address,
            IpFamily::V6 => DataType::Ipv6Address,
        }
    }

    /// Loads an address of the IP header.
    pub(super) fn address(self, end: End, word: u8) -> Expression {
        let (offset, length) = match (self, end) {
            (IpFamily::V4, End::Source) => (SOURCE_V4, 4),
            (IpFamily::V4, End::Destination) => (DESTINATION_V4, 4),
            (IpFamily::V6, End::Source) => (SOURCE_V6, 16),
            (IpFamily::V6, End::Destination) => (DESTINATION_V6, 16),
        };
        Expression::Payload {
            base: PayloadBase::Network,
            offset,
            length,
            into: Register::word(word),
        }
    }

    /// How many words an address fills.
    pub(super) fn words(self) -> u8 {
        match self {
            IpFamily::V4 => 1,
            IpFamily::V6 => 4,
        }
    }

    pub(super) fn port_unreachable(self) -> Expression {
        // RFC 792 and RFC 4443.
        Expression::Reject(Reject::Unreachable(match self {
            IpFamily::V4 => 3,
            IpFamily::V6 => 4,
        }))
    }
}

/// An end of a packet's way.
#[derive(Clone, Copy)]
pub(super) enum End {
    Source,
    Destination,
}
