//! Tables, chains, rules, sets and elements.

use std::time::Duration;

use super::Expression;

/// The packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Frames that a bridge carries.
    Bridge,
}

impl Family {
    /// `NFPROTO_*` (`include/uapi/linux/netfilter.h`).
    pub(super) fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::V4 => 2,
            Family::Bridge => 7,
            Family::V6 => 10,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Family::Inet),
            2 => Some(Family::V4),
            7 => Some(Family::Bridge),
            10 => Some(Family::V6),
            _ => None,
        }
    }

    /// As `nft` writes it.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            Family::Inet => "inet",
            Family::V4 => "ip",
            Family::V6 => "ip6",
            Family::Bridge => "bridge",
        }
    }
}

/// Which table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// The packets it sees.
    pub family: Family,
    /// Unique in its family.
    pub name: String,
}

impl TableName {
    /// A table's name from its two parts.
    #[must_use]
    pub fn new(family: Family, name: &str) -> Self {
        Self {
            family,
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.family.keyword(), self.name)
    }
}

/// A table's flags (`enum nft_table_flags`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableFlags {
    /// Its chains see no packets.
    pub dormant: bool,
    /// Only the socket that made it may change it.
    pub owner: bool,
    /// It outlives that socket, and may then be adopted by another (since Linux 6.9).
    pub persist: bool,
}

impl TableFlags {
    pub(super) fn bits(self) -> u32 {
        u32::from(self.dormant) | u32::from(self.owner) << 1 | u32::from(self.persist) << 2
    }

    pub(super) fn from_bits(bits: u32) -> Self {
        Self {
            dormant: bits & 1 != 0,
            owner: bits & 2 != 0,
            persist: bits & 4 != 0,
        }
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which.
    pub name: TableName,
    /// Its flags.
    pub flags: TableFlags,
    /// Shown by `nft list`; at most 127 bytes.
    pub comment: Option<String>,
}

/// Where in a packet's way a base chain stands (`enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Arrived, not yet routed.
    Prerouting,
    /// For this host.
    Input,
    /// From somebody else to somebody else.
    Forward,
    /// From this host.
    Output,
    /// About to leave.
    Postrouting,
}

impl Hook {
    const ALL: [Hook; 5] = [
        Hook::Prerouting,
        Hook::Input,
        Hook::Forward,
        Hook::Output,
        Hook::Postrouting,
    ];

    pub(super) fn number(self) -> u32 {
        self as u32
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Accept and drop.
    Filter,
    /// Translate addresses; sees the first packet of a connection only.
    Nat,
    /// Change packets, and route those of this host again.
    Route,
}

impl ChainKind {
    pub(super) fn keyword(self) -> &'static str {
        match self {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        }
    }

    pub(super) fn from_keyword(keyword: &str) -> Option<Self> {
        match keyword {
            "filter" => Some(ChainKind::Filter),
            "nat" => Some(ChainKind::Nat),
            "route" => Some(ChainKind::Route),
            _ => None,
        }
    }
}

/// What happens to a packet that reaches a base chain's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It passes.
    Accept,
    /// It is gone.
    Drop,
}

/// What makes a chain a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// What it may do.
    pub kind: ChainKind,
    /// Where it stands.
    pub hook: Hook,
    /// Its place among the chains of the hook; lower comes first.
    pub priority: i32,
    /// What happens at its end.
    pub policy: Policy,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Unique in its table.
    pub name: String,
    /// A base chain's hook; other chains are entered by jump and goto.
    pub base: Option<BaseChain>,
}

/// A rule. What the kernel counts in it is read by [`super::Connection::rules`] only as
/// "there is a counter": two rules are equal if they do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain it stands in.
    pub chain: String,
    /// Its steps.
    pub expressions: Vec<Expression>,
    /// Shown by `nft list`; at most 127 bytes.
    pub comment: Option<String>,
}

/// The type of one part of a key or of a map's data, so that `nft` can show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// 4 bytes, network byte order.
    Ipv4Address,
    /// 16 bytes, network byte order.
    Ipv6Address,
    /// A transport protocol, 1 byte.
    Protocol,
    /// A port, 2 bytes, network byte order.
    Port,
    /// A number of 4 bytes in the machine's byte order, as rules draw it. nft's plain integer
    /// has no length, so a set that has one says of all its parts what expressions they are.
    Number,
    /// 6 bytes.
    EthernetAddress,
    /// A device's name, 16 bytes.
    InterfaceName,
    /// The IPv6 address that a neighbour advertisement is about (RFC 4861, section 4.4). nft 1.0.6
    /// knows such a field by its place alone, and takes it for a number.
    NeighbourTarget,
}

impl DataType {
    /// nft's `enum datatypes`.
    pub(super) fn id(self) -> u32 {
        match self {
            DataType::Number | DataType::NeighbourTarget => 4,
            DataType::Ipv4Address => 7,
            DataType::Ipv6Address => 8,
            DataType::EthernetAddress => 9,
            DataType::Protocol => 12,
            DataType::Port => 13,
            DataType::InterfaceName => 41,
        }
    }

    /// The type's length in a key: each part of a concatenation starts at a word.
    #[must_use]
    pub fn padded_length(self) -> usize {
        match self {
            DataType::Ipv4Address | DataType::Protocol | DataType::Port | DataType::Number => 4,
            DataType::EthernetAddress => 8,
            DataType::Ipv6Address | DataType::InterfaceName | DataType::NeighbourTarget => 16,
        }
    }

    /// The type's own length.
    pub(super) fn length(self) -> u32 {
        match self {
            DataType::Ipv4Address | DataType::Number => 4,
            DataType::Ipv6Address | DataType::InterfaceName | DataType::NeighbourTarget => 16,
            DataType::EthernetAddress => 6,
            DataType::Protocol => 1,
            DataType::Port => 2,
        }
    }

    /// Whether what it is can only be said by an expression.
    pub(super) fn has_no_name(self) -> bool {
        matches!(self, DataType::Number | DataType::NeighbourTarget)
    }

    /// The length of a key or data of these parts.
    pub(super) fn length_of(parts: &[DataType]) -> u32 {
        match parts {
            [single] => single.length(),
            parts => parts.iter().map(|part| part.padded_length() as u32).sum(),
        }
    }

    /// nft's `enum byteorder`: 1 is the machine's, 2 the network's.
    pub(super) fn byte_order(self) -> u32 {
        match self {
            DataType::Number | DataType::InterfaceName => 1,
            DataType::Ipv4Address
            | DataType::Ipv6Address
            | DataType::EthernetAddress
            | DataType::NeighbourTarget
            | DataType::Protocol
            | DataType::Port => 2,
        }
    }
}

/// A set's flags (`enum nft_set_flags`), besides those that follow from its type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetFlags {
    /// Elements are ranges.
    pub interval: bool,
    /// Elements may go away by themselves.
    pub timeout: bool,
    /// Rules may add elements.
    pub dynamic: bool,
}

/// A named set, or with data a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Unique in its table.
    pub name: String,
    /// What the key is made of.
    pub key: Vec<DataType>,
    /// What a map's data is made of; empty for a set.
    pub data: Vec<DataType>,
    /// Its flags.
    pub flags: SetFlags,
    /// How long an element stays if nobody says otherwise.
    pub timeout: Option<Duration>,
    /// Every element counts the packets that found it.
    pub counter: bool,
    /// Shown by `nft list`; at most 127 bytes.
    pub comment: Option<String>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes of them, IP header included.
    pub bytes: u64,
}

/// An element as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The parts of the key, each filled up to a word.
    pub key: Vec<u8>,
    /// In an interval set whose key has several parts: the last value of each part.
    pub key_end: Vec<u8>,
    /// A map's data, each part filled up to a word; empty for a set.
    pub data: Vec<u8>,
    /// In an interval set: the first key that is no longer in the range.
    pub interval_end: bool,
    /// When it goes away by itself.
    pub expires_in: Option<Duration>,
    /// Who it is there for.
    pub comment: Option<String>,
    /// What it counted.
    pub counts: Option<Counts>,
}
