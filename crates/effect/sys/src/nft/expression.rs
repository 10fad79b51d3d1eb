//! Expressions: what a rule is made of.
//!
//! Each works on the registers of one packet's evaluation: sixteen words of four
//! bytes, and a verdict. Values stand in network byte order unless said otherwise;
//! each starts at a word and is filled up with zeros.

use std::time::Duration;

use super::object::Family;
use super::wire::{nest, put, put_text, put_u32, put_u64};

/// One word of the evaluation's sixteen. A value longer than four bytes goes on in the
/// words after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register(u8);

impl Register {
    /// The word of this index, 0 to 15.
    #[must_use]
    pub const fn word(index: u8) -> Self {
        Self(index & 15)
    }

    /// Which word, 0 to 15.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.0
    }

    /// The number the kernel reports: every fourth word has a name of its own
    /// (`NFT_REG_1`…), the others are `NFT_REG32_00` and on.
    fn number(self) -> u32 {
        let index = u32::from(self.0);
        if index.is_multiple_of(4) {
            1 + index / 4
        } else {
            8 + index
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number as u8 - 1) * 4)),
            8..=23 => Some(Self(number as u8 - 8)),
            _ => None,
        }
    }
}

/// What `meta` loads (`enum nft_meta_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// The packet's mark, in the machine's byte order.
    Mark,
    /// The name of the device it came in through, 16 bytes.
    InputName,
    /// The name of the device it leaves through, 16 bytes.
    OutputName,
    /// The family, one byte (`NFPROTO_*`).
    Family,
    /// The transport protocol, one byte.
    Protocol,
}

/// Where a payload's offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// The Ethernet header.
    Link,
    /// The IP header.
    Network,
    /// The TCP, UDP or SCTP header.
    Transport,
}

/// What `ct` loads (`enum nft_ct_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtKey {
    /// One bit of [`CtKey::INVALID`] and so on; machine's byte order.
    State,
    /// 0 for a packet that goes as the first did, 1 for an answer; one byte.
    Direction,
    /// Bits such as [`CtKey::DESTINATION_TRANSLATED`]; machine's byte order.
    Status,
    /// The transport protocol, one byte.
    Protocol,
    /// Source port, two bytes.
    SourcePort,
    /// Destination port, two bytes.
    DestinationPort,
    /// Source address, 4 bytes.
    SourceV4,
    /// Destination address, 4 bytes.
    DestinationV4,
    /// Source address, 16 bytes.
    SourceV6,
    /// Destination address, 16 bytes.
    DestinationV6,
}

impl CtKey {
    /// State: the packet fits no connection and can't start one.
    pub const INVALID: u32 = 1;
    /// State: the connection has been seen in both directions.
    pub const ESTABLISHED: u32 = 2;
    /// State: belongs to another connection (ICMP errors, FTP data).
    pub const RELATED: u32 = 4;
    /// State: starts a connection.
    pub const NEW: u32 = 8;
    /// State: conntrack was told to leave the packet alone.
    pub const UNTRACKED: u32 = 64;
    /// Status: `IPS_DST_NAT`.
    pub const DESTINATION_TRANSLATED: u32 = 32;
}

/// Which direction of a connection `ct` speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As the first packet was sent, before translation.
    Original,
    /// As the answers are sent.
    Reply,
}

/// How values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitOperation {
    /// All bytes are equal.
    Equal,
    /// Some byte differs.
    NotEqual,
}

/// How `numgen` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberMode {
    /// One more for every packet.
    Incremental,
    /// Random.
    Random,
}

/// Which address `nat` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// An ICMP or ICMPv6 destination unreachable message with this code.
    Unreachable(u8),
    /// A TCP reset.
    TcpReset,
}

/// What a rule does to the set that [`Expression::Update`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOperation {
    /// Adds the element if it is not there.
    Add,
    /// Adds it, or renews its timeout.
    Update,
}

/// Where evaluation goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet passes this base chain.
    Accept,
    /// The packet is gone.
    Drop,
    /// Evaluation goes on with the chain, then comes back.
    Jump(String),
    /// Evaluation goes on with the chain and does not come back.
    Goto(String),
    /// Evaluation goes on in the chain that jumped here.
    Return,
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Verdict::Drop => 0,
            Verdict::Accept => 1,
            Verdict::Jump(_) => -3,
            Verdict::Goto(_) => -4,
            Verdict::Return => -5,
        }
    }

    pub(super) fn from_code(code: i32, chain: Option<String>) -> Option<Self> {
        match (code, chain) {
            (0, None) => Some(Verdict::Drop),
            (1, None) => Some(Verdict::Accept),
            (-3, Some(chain)) => Some(Verdict::Jump(chain)),
            (-4, Some(chain)) => Some(Verdict::Goto(chain)),
            (-5, None) => Some(Verdict::Return),
            _ => None,
        }
    }
}

/// One step of a rule. A step that does not match ends the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads something the kernel knows of the packet.
    Meta {
        /// What.
        key: MetaKey,
        /// Where to.
        into: Register,
    },
    /// Loads bytes of the packet.
    Payload {
        /// Which header.
        base: PayloadBase,
        /// Bytes from the header's start.
        offset: u32,
        /// Bytes.
        length: u32,
        /// Where to.
        into: Register,
    },
    /// Loads something conntrack knows.
    Ct {
        /// What.
        key: CtKey,
        /// Which direction, for addresses and ports.
        direction: Option<Direction>,
        /// Where to.
        into: Register,
    },
    /// Goes on if the comparison holds.
    Compare {
        /// What is compared.
        from: Register,
        /// How.
        operation: BitOperation,
        /// With what.
        value: Vec<u8>,
    },
    /// `into = (from & mask) ^ xor`.
    Bitwise {
        /// The operand.
        from: Register,
        /// Where to.
        into: Register,
        /// Bits that are kept.
        mask: Vec<u8>,
        /// Bits that are turned over; as long as the mask.
        xor: Vec<u8>,
    },
    /// Loads a constant.
    Immediate {
        /// Where to.
        into: Register,
        /// The constant.
        value: Vec<u8>,
    },
    /// Ends or moves the evaluation.
    Verdict(Verdict),
    /// Goes on if the key is in the set; with `into`, loads the map's data.
    Lookup {
        /// The set's or map's name.
        set: String,
        /// Where the key starts.
        from: Register,
        /// Where the data goes; only for maps.
        into: Option<Register>,
        /// Goes on if the key is not in the set.
        invert: bool,
    },
    /// Loads a number below `modulus`, in the machine's byte order.
    Number {
        /// How it counts.
        mode: NumberMode,
        /// One more than the largest number.
        modulus: u32,
        /// Where to.
        into: Register,
    },
    /// Loads a number below `modulus` that the bytes of some registers decide (Jenkins' hash of
    /// them), in the machine's byte order. The same bytes make the same number in every
    /// kernel of that byte order.
    Hash {
        /// Where the bytes start.
        from: Register,
        /// How many there are.
        length: u32,
        /// One more than the largest number.
        modulus: u32,
        /// Where the hash starts from. Zero would be another one in each kernel.
        seed: std::num::NonZeroU32,
        /// Where to.
        into: Register,
    },
    /// Changes the address of the connection; the rest of the chain is not evaluated.
    Nat {
        /// Which address.
        kind: NatKind,
        /// The address's family.
        family: Family,
        /// Where the address stands.
        address: Register,
        /// Where the port stands.
        port: Option<Register>,
    },
    /// Gives the connection the address of the device it leaves through.
    Masquerade {
        /// Picks the source port at random, so that two packets at one time on two
        /// processors do not pick the same (`NF_NAT_RANGE_PROTO_RANDOM_FULLY`).
        random: bool,
    },
    /// Refuses the packet.
    Reject(Reject),
    /// Counts.
    Counter,
    /// Lets the packet pass conntrack by.
    NoTrack,
    /// Puts an element into a set or map.
    Update {
        /// The set's or map's name.
        set: String,
        /// What is done.
        operation: SetOperation,
        /// Where the key starts.
        key: Register,
        /// Where the data starts; only for maps.
        data: Option<Register>,
        /// How long the element stays; the set's default if none.
        timeout: Option<Duration>,
    },
    /// Writes to the kernel's log, or to a netlink group.
    Log {
        /// What the line starts with.
        prefix: String,
        /// The NFLOG group; the kernel's log if none.
        group: Option<u16>,
    },
    /// An expression weft does not write. Only found when reading.
    Other {
        /// Its name in the kernel.
        name: String,
    },
}

/// `NF_NAT_RANGE_MAP_IPS`.
const NAT_MAP_ADDRESSES: u32 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const NAT_MAP_PORTS: u32 = 2;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub(super) const NAT_RANDOM_FULLY: u32 = 16;

/// `NFT_HASH_JENKINS`.
pub(super) const HASH_JENKINS: u32 = 0;

impl Expression {
    /// The kernel's name of the expression.
    fn name(&self) -> &str {
        match self {
            Expression::Meta { .. } => "meta",
            Expression::Payload { .. } => "payload",
            Expression::Ct { .. } => "ct",
            Expression::Compare { .. } => "cmp",
            Expression::Bitwise { .. } => "bitwise",
            Expression::Immediate { .. } | Expression::Verdict(_) => "immediate",
            Expression::Lookup { .. } => "lookup",
            Expression::Number { .. } => "numgen",
            Expression::Hash { .. } => "hash",
            Expression::Nat { .. } => "nat",
            Expression::Masquerade { .. } => "masq",
            Expression::Reject(_) => "reject",
            Expression::Counter => "counter",
            Expression::NoTrack => "notrack",
            Expression::Update { .. } => "dynset",
            Expression::Log { .. } => "log",
            Expression::Other { name } => name,
        }
    }

    /// Appends the expression's name and data.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_text(out, 1, self.name());
        nest(out, 2, |out| self.put_data(out));
    }

    fn put_data(&self, out: &mut Vec<u8>) {
        match self {
            Expression::Meta { key, into } => {
                put_u32(out, 1, into.number());
                put_u32(out, 2, key.number());
            }
            Expression::Payload {
                base,
                offset,
                length,
                into,
            } => {
                put_u32(out, 1, into.number());
                put_u32(out, 2, base.number());
                put_u32(out, 3, *offset);
                put_u32(out, 4, *length);
            }
            Expression::Ct {
                key,
                direction,
                into,
            } => {
                put_u32(out, 1, into.number());
                put_u32(out, 2, key.number());
                match direction {
                    Some(Direction::Original) => put(out, 3, &[0]),
                    Some(Direction::Reply) => put(out, 3, &[1]),
                    None => {}
                }
            }
            Expression::Compare {
                from,
                operation,
                value,
            } => {
                put_u32(out, 1, from.number());
                put_u32(out, 2, operation.number());
                nest(out, 3, |out| put(out, 1, value));
            }
            Expression::Bitwise {
                from,
                into,
                mask,
                xor,
            } => {
                put_u32(out, 1, from.number());
                put_u32(out, 2, into.number());
                put_u32(out, 3, mask.len() as u32);
                nest(out, 4, |out| put(out, 1, mask));
                nest(out, 5, |out| put(out, 1, xor));
            }
            Expression::Immediate { into, value } => {
                put_u32(out, 1, into.number());
                nest(out, 2, |out| put(out, 1, value));
            }
            Expression::Verdict(verdict) => put_verdict(out, verdict),
            Expression::Lookup {
                set,
                from,
                into,
                invert,
            } => {
                put_text(out, 1, set);
                put_u32(out, 2, from.number());
                if let Some(into) = into {
                    put_u32(out, 3, into.number());
                }
                if *invert {
                    put_u32(out, 5, 1);
                }
            }
            Expression::Number {
                mode,
                modulus,
                into,
            } => {
                put_u32(out, 1, into.number());
                put_u32(out, 2, *modulus);
                put_u32(out, 3, mode.number());
            }
            Expression::Hash {
                from,
                length,
                modulus,
                seed,
                into,
            } => {
                put_u32(out, 1, from.number());
                put_u32(out, 2, into.number());
                put_u32(out, 3, *length);
                put_u32(out, 4, *modulus);
                put_u32(out, 5, seed.get());
                put_u32(out, 7, HASH_JENKINS);
            }
            Expression::Nat {
                kind,
                family,
                address,
                port,
            } => {
                put_u32(out, 1, kind.number());
                put_u32(out, 2, u32::from(family.number()));
                put_u32(out, 3, address.number());
                let mut flags = NAT_MAP_ADDRESSES;
                if let Some(port) = port {
                    put_u32(out, 5, port.number());
                    flags |= NAT_MAP_PORTS;
                }
                put_u32(out, 7, flags);
            }
            Expression::Masquerade { random } => {
                if *random {
                    put_u32(out, 1, NAT_RANDOM_FULLY);
                }
            }
            Expression::Reject(Reject::Unreachable(code)) => {
                put_u32(out, 1, 0);
                put(out, 2, &[*code]);
            }
            Expression::Reject(Reject::TcpReset) => put_u32(out, 1, 1),
            Expression::Counter | Expression::NoTrack | Expression::Other { .. } => {}
            Expression::Update {
                set,
                operation,
                key,
                data,
                timeout,
            } => {
                put_text(out, 1, set);
                put_u32(out, 3, operation.number());
                put_u32(out, 4, key.number());
                if let Some(data) = data {
                    put_u32(out, 5, data.number());
                }
                if let Some(timeout) = timeout {
                    put_u64(out, 6, milliseconds(*timeout));
                }
            }
            Expression::Log { prefix, group } => {
                if let Some(group) = group {
                    put(out, 1, &group.to_be_bytes());
                }
                put_text(out, 2, prefix);
            }
        }
    }
}

/// An immediate into the verdict register.
fn put_verdict(out: &mut Vec<u8>, verdict: &Verdict) {
    put_u32(out, 1, 0);
    nest(out, 2, |out| {
        nest(out, 2, |out| {
            put(out, 1, &verdict.code().to_be_bytes());
            match verdict {
                Verdict::Jump(chain) | Verdict::Goto(chain) => put_text(out, 2, chain),
                Verdict::Accept | Verdict::Drop | Verdict::Return => {}
            }
        });
    });
}

/// The time as the kernel has it in sets.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The kernel's number of each variant.
macro_rules! numbers {
    ($type:ident { $($variant:ident = $number:literal),* $(,)? }) => {
        impl $type {
            fn number(self) -> u32 {
                match self {
                    $($type::$variant => $number,)*
                }
            }

            pub(super) fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some($type::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

// include/uapi/linux/netfilter/nf_tables.h
numbers!(MetaKey {
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    Family = 15,
    Protocol = 16,
});
numbers!(PayloadBase {
    Link = 0,
    Network = 1,
    Transport = 2,
});
numbers!(CtKey {
    State = 0,
    Direction = 1,
    Status = 2,
    Protocol = 10,
    SourcePort = 11,
    DestinationPort = 12,
    SourceV4 = 19,
    DestinationV4 = 20,
    SourceV6 = 21,
    DestinationV6 = 22,
});
numbers!(BitOperation {
    Equal = 0,
    NotEqual = 1,
});
numbers!(NumberMode {
    Incremental = 0,
    Random = 1,
});
numbers!(NatKind {
    Source = 0,
    Destination = 1,
});
numbers!(SetOperation {
    Add = 0,
    Update = 1,
});
