//! What rules of several tables are made of.

use std::net::IpAddr;

use weft_desired::IpFamily;
use weft_sys::nft::{BitOperation, CtKey, Expression, PayloadBase, Register};

// Where addresses stand in the IP header (RFC 791, RFC 8200).
pub(crate) const SOURCE_V4: u32 = 12;
pub(crate) const DESTINATION_V4: u32 = 16;
pub(crate) const SOURCE_V6: u32 = 8;
pub(crate) const DESTINATION_V6: u32 = 24;

/// Loads the port that the packet goes to: TCP, UDP and SCTP have it in the same place.
pub(crate) fn destination_port(word: u8) -> Expression {
    Expression::Payload {
        base: PayloadBase::Transport,
        offset: 2,
        length: 2,
        into: Register::word(word),
    }
}

/// Goes on if conntrack's value has one of the bits.
pub(crate) fn any_bit(key: CtKey, bits: u32) -> Vec<Expression> {
    vec![
        Expression::Ct {
            key,
            direction: None,
            into: Register::word(0),
        },
        Expression::Bitwise {
            from: Register::word(0),
            into: Register::word(0),
            mask: bits.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        Expression::Compare {
            from: Register::word(0),
            operation: BitOperation::NotEqual,
            value: vec![0; 4],
        },
    ]
}

/// Goes on if the connection's destination has been translated.
pub(crate) fn translated() -> Vec<Expression> {
    any_bit(CtKey::Status, CtKey::DESTINATION_TRANSLATED)
}

/// Goes on if the packet goes to a group (224.0.0.0/4, ff00::/8), or if it does not. Whoever hears
/// it answers to the address it came from.
pub(crate) fn to_group(family: IpFamily, operation: BitOperation) -> Vec<Expression> {
    let from = Register::word(0);
    let destination = |offset, length| Expression::Payload {
        base: PayloadBase::Network,
        offset,
        length,
        into: from,
    };
    match family {
        IpFamily::V4 => begins_with(
            destination(DESTINATION_V4, 4),
            operation,
            [0xf0, 0, 0, 0],
            [0xe0, 0, 0, 0],
        ),
        IpFamily::V6 => vec![
            destination(DESTINATION_V6, 1),
            Expression::Compare {
                from,
                operation,
                value: vec![0xff],
            },
        ],
    }
}

/// Goes on if what is loaded into word 0 has this value where the mask has ones, or if it has not.
pub(crate) fn begins_with<const LENGTH: usize>(
    load: Expression,
    operation: BitOperation,
    mask: [u8; LENGTH],
    value: [u8; LENGTH],
) -> Vec<Expression> {
    let from = Register::word(0);
    vec![
        load,
        Expression::Bitwise {
            from,
            into: from,
            mask: mask.to_vec(),
            xor: vec![0; LENGTH],
        },
        Expression::Compare {
            from,
            operation,
            value: value.to_vec(),
        },
    ]
}

/// Goes on if the key that starts at word 0 is in the set, or with `invert` if it is not.
pub(crate) fn lookup(set: &str, invert: bool) -> Expression {
    Expression::Lookup {
        set: set.to_owned(),
        from: Register::word(0),
        into: None,
        invert,
    }
}

/// An address as it stands in keys and in headers.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A device's name as it stands in keys: IFNAMSIZ bytes.
pub(crate) fn device_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
