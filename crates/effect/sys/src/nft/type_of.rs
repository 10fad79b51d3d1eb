//! A set's key or data as the expressions that its parts are (nft's `typeof`), in libnftnl's user
//! data: nft knows no length of a plain number otherwise, and could not read back its own list.
//!
//! The numbers are those of nft's `enum expr_types` and `enum proto_desc_id`, which stay what they
//! are because kernels hold them.

use super::DataType;

// The entries of an expression, and of what it is made of.
const EXPRESSION: u8 = 0;
const CONTENT: u8 = 1;

// enum expr_types
const PAYLOAD: u32 = 7;
const META: u32 = 9;
const CONCATENATION: u32 = 13;
const NUMGEN: u32 = 23;

// enum proto_desc_id
const TRANSPORT: u32 = 11;
const IPV4: u32 = 12;
const IPV6: u32 = 13;
const ETHERNET: u32 = 17;

// enum proto_bases
const TRANSPORT_HEADER: u32 = 3;

// enum nft_meta_keys
const INPUT_NAME: u32 = 6;
const PROTOCOL: u32 = 16;

/// Below which number those in keys are drawn, says their `typeof`; nothing follows from it.
const DRAWN_BELOW: u32 = 65_536;

impl DataType {
    /// The expression that a part of this type stands for in a `typeof`, as `nft` lists it.
    #[must_use]
    pub fn expression(self) -> &'static str {
        match self {
            DataType::Ipv4Address => "ip daddr",
            DataType::Ipv6Address => "ip6 daddr",
            DataType::Protocol => "meta l4proto",
            DataType::Port => "th dport",
            DataType::Number => "numgen random mod 65536",
            DataType::EthernetAddress => "ether saddr",
            DataType::InterfaceName => "iifname",
            DataType::NeighbourTarget => "@th,64,128",
        }
    }
}

/// Appends an entry of user data: what a key or data of these parts is.
pub(super) fn put(out: &mut Vec<u8>, kind: u8, parts: &[DataType]) {
    entry(out, kind, |out| match parts {
        [single] => put_part(out, *single),
        parts => {
            put_u32(out, EXPRESSION, CONCATENATION);
            entry(out, CONTENT, |out| {
                for (part, index) in parts.iter().zip(0..) {
                    entry(out, index, |out| put_part(out, *part));
                }
            });
        }
    });
}

fn put_part(out: &mut Vec<u8>, part: DataType) {
    // A header's field by its number, of those that nft knows of it.
    let (expression, content): (u32, &[u32]) = match part {
        DataType::Ipv4Address => (PAYLOAD, &[IPV4, 12]),
        DataType::Ipv6Address => (PAYLOAD, &[IPV6, 9]),
        DataType::Port => (PAYLOAD, &[TRANSPORT, 2]),
        DataType::EthernetAddress => (PAYLOAD, &[ETHERNET, 2]),
        // Of no header that nft knows: the transport header's 128 bits from bit 64 on.
        DataType::NeighbourTarget => (PAYLOAD, &[0, 0, TRANSPORT_HEADER, 64, 128]),
        DataType::Protocol => (META, &[PROTOCOL]),
        DataType::InterfaceName => (META, &[INPUT_NAME]),
        // Random ones, from 0.
        DataType::Number => (NUMGEN, &[1, DRAWN_BELOW, 0]),
    };
    put_u32(out, EXPRESSION, expression);
    entry(out, CONTENT, |out| {
        for (value, kind) in content.iter().zip(0..) {
            put_u32(out, kind, *value);
        }
    });
}

fn put_u32(out: &mut Vec<u8>, kind: u8, value: u32) {
    entry(out, kind, |out| out.extend_from_slice(&value.to_ne_bytes()));
}

/// At most 255 bytes of content; a key of ten parts has less.
fn entry(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[kind, 0]);
    let start = out.len();
    fill(out);
    out[start - 1] = u8::try_from(out.len() - start).unwrap_or(u8::MAX);
}
