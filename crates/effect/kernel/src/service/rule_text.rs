//! Rules in nft's words: each expression adds to what is known of the registers, or to what is
//! printed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use weft_desired::Protocol;
use weft_sys::nft::{
    BitOperation, CtKey, DataType, Direction, Expression, MetaKey, NatKind, NumberMode,
    PayloadBase, Register, Reject, Rule, Set, SetOperation, Verdict,
};

use super::ip_family::IpFamily;

/// What stands in the registers.
struct Registers<'a> {
    family: IpFamily,
    sets: &'a BTreeMap<String, Set>,
    loaded: BTreeMap<Register, Loaded>,
}

/// What a register was loaded with.
#[derive(Clone)]
struct Loaded {
    text: String,
    source: Source,
}

/// What values of it mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Protocol,
    Device,
    Mark,
    Direction,
    /// An address's first bits.
    Address(u32),
    /// Some bits of conntrack's state or status.
    Bits(CtKey, u32),
    Other,
}

/// A rule, as nft prints it.
pub(super) fn rule(family: IpFamily, sets: &BTreeMap<String, Set>, rule: &Rule) -> String {
    let mut registers = Registers {
        family,
        sets,
        loaded: BTreeMap::new(),
    };
    let words = rule
        .expressions
        .iter()
        .filter_map(|expression| registers.take(expression));
    let mut words: Vec<String> = words.collect();
    if let Some(comment) = &rule.comment {
        words.push(format!("comment \"{comment}\""));
    }
    words.join(" ")
}

impl Registers<'_> {
    /// Takes an expression in; what is printed of it, if anything is.
    fn take(&mut self, expression: &Expression) -> Option<String> {
        match expression {
            Expression::Meta { key, into } => {
                let (text, source) = meta(*key);
                self.load(*into, text, source);
                None
            }
            Expression::Payload {
                base,
                offset,
                length,
                into,
            } => {
                let text = self.payload(*base, *offset, *length);
                let source = match text.ends_with("addr") {
                    true => Source::Address(length * 8),
                    false => Source::Other,
                };
                self.load(*into, text, source);
                None
            }
            Expression::Ct {
                key,
                direction,
                into,
            } => {
                let source = match key {
                    CtKey::Direction => Source::Direction,
                    CtKey::Protocol => Source::Protocol,
                    CtKey::State
                    | CtKey::Status
                    | CtKey::SourcePort
                    | CtKey::DestinationPort
                    | CtKey::SourceV4
                    | CtKey::DestinationV4
                    | CtKey::SourceV6
                    | CtKey::DestinationV6 => Source::Bits(*key, u32::MAX),
                };
                self.load(*into, connection(*key, *direction), source);
                None
            }
            Expression::Bitwise {
                from, into, mask, ..
            } => {
                let mut loaded = self.at(*from);
                match &mut loaded.source {
                    Source::Bits(_, bits) => {
                        *bits = mask
                            .first_chunk::<4>()
                            .map_or(0, |m| u32::from_ne_bytes(*m));
                    }
                    Source::Address(bits) => {
                        *bits = mask.iter().map(|byte| byte.count_ones()).sum()
                    }
                    Source::Protocol
                    | Source::Device
                    | Source::Mark
                    | Source::Direction
                    | Source::Other => {}
                }
                self.loaded.insert(*into, loaded);
                None
            }
            Expression::Compare {
                from,
                operation,
                value,
            } => Some(self.compare(*from, *operation, value)),
            Expression::Immediate { into, value } => {
                let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                self.load(*into, format!("0x{digits}"), Source::Other);
                None
            }
            Expression::Lookup {
                set,
                from,
                into,
                invert,
            } => {
                let key = self.key(set, *from);
                match into {
                    Some(into) => {
                        self.load(*into, format!("{key} map @{set}"), Source::Other);
                        None
                    }
                    None if *invert => Some(format!("{key} != @{set}")),
                    None => Some(format!("{key} @{set}")),
                }
            }
            Expression::Number {
                mode,
                modulus,
                into,
            } => {
                let mode = match mode {
                    NumberMode::Incremental => "inc",
                    NumberMode::Random => "random",
                };
                let text = format!("numgen {mode} mod {modulus}");
                self.load(*into, text, Source::Other);
                None
            }
            Expression::Hash {
                from,
                length,
                modulus,
                seed,
                into,
            } => {
                // What goes on over several words was loaded at its first.
                let end = u32::from(from.index()) + length.div_ceil(4);
                let words = (from.index()..).take_while(|word| u32::from(*word) < end);
                let parts: Vec<&str> = words
                    .filter_map(|word| self.loaded.get(&Register::word(word)))
                    .map(|loaded| loaded.text.as_str())
                    .collect();
                let text = format!("jhash {} mod {modulus} seed {seed:#x}", parts.join(" . "));
                self.load(*into, text, Source::Other);
                None
            }
            Expression::NoTrack => Some("notrack".to_owned()),
            Expression::Nat {
                kind,
                family,
                address,
                ..
            } => {
                let kind = match kind {
                    NatKind::Source => "snat",
                    NatKind::Destination => "dnat",
                };
                let to = self.at(*address).text;
                Some(format!("{kind} {} to {to}", family.keyword()))
            }
            Expression::Masquerade { random } => Some(match random {
                true => "masquerade fully-random".to_owned(),
                false => "masquerade".to_owned(),
            }),
            Expression::Reject(how) => Some(self.reject(*how)),
            Expression::Counter => Some("counter packets 0 bytes 0".to_owned()),
            Expression::Update {
                set,
                operation,
                key,
                data,
                timeout,
            } => Some(self.update(set, *operation, *key, *data, *timeout)),
            Expression::Log { prefix, group } => Some(match group {
                Some(group) => format!("log prefix \"{prefix}\" group {group}"),
                None => format!("log prefix \"{prefix}\""),
            }),
            Expression::Verdict(verdict) => Some(match verdict {
                Verdict::Accept => "accept".to_owned(),
                Verdict::Drop => "drop".to_owned(),
                Verdict::Return => "return".to_owned(),
                Verdict::Jump(chain) => format!("jump {chain}"),
                Verdict::Goto(chain) => format!("goto {chain}"),
            }),
            Expression::Other { name } => Some(name.clone()),
        }
    }

    fn load(&mut self, into: Register, text: impl Into<String>, source: Source) {
        let text = text.into();
        self.loaded.insert(into, Loaded { text, source });
    }

    fn at(&self, register: Register) -> Loaded {
        let nothing = || Loaded {
            text: "?".to_owned(),
            source: Source::Other,
        };
        self.loaded.get(&register).cloned().unwrap_or_else(nothing)
    }

    fn payload(&self, base: PayloadBase, offset: u32, length: u32) -> String {
        let name = match self.family {
            IpFamily::V4 => "ip",
            IpFamily::V6 => "ip6",
        };
        match (base, self.family, offset) {
            (PayloadBase::Network, IpFamily::V4, 12) | (PayloadBase::Network, IpFamily::V6, 8) => {
                format!("{name} saddr")
            }
            (PayloadBase::Network, IpFamily::V4, 16) | (PayloadBase::Network, IpFamily::V6, 24) => {
                format!("{name} daddr")
            }
            (PayloadBase::Transport, _, 0) => "th sport".to_owned(),
            (PayloadBase::Transport, _, 2) => "th dport".to_owned(),
            (PayloadBase::Link, _, _) => format!("@ll,{},{}", offset * 8, length * 8),
            (PayloadBase::Network, _, _) => format!("@nh,{},{}", offset * 8, length * 8),
            (PayloadBase::Transport, _, _) => format!("@th,{},{}", offset * 8, length * 8),
        }
    }

    /// The parts from a register on that are a set's key.
    fn key(&self, set: &str, from: Register) -> String {
        self.parts(from, self.sets.get(set).map_or(&[], |set| &set.key))
    }

    fn parts(&self, from: Register, types: &[DataType]) -> String {
        let mut word = from.index();
        let mut texts = Vec::new();
        for part in types {
            texts.push(self.at(Register::word(word)).text);
            word += (part.padded_length() / 4) as u8;
        }
        texts.join(" . ")
    }

    fn compare(&self, from: Register, operation: BitOperation, value: &[u8]) -> String {
        let loaded = self.at(from);
        let value = match loaded.source {
            // "Any of these bits" is a comparison with none of them.
            Source::Bits(key, mask) => return format!("{} {}", loaded.text, bits(key, mask)),
            Source::Protocol => value
                .first()
                .and_then(|number| Protocol::from_number(*number))
                .map_or_else(|| format!("{value:?}"), |it| it.to_string()),
            Source::Direction => match value {
                [0] => "original".to_owned(),
                _ => "reply".to_owned(),
            },
            Source::Address(bits) => self.range(value, bits),
            Source::Device => {
                let name = String::from_utf8_lossy(value);
                match value.len() {
                    16 => format!("\"{}\"", name.trim_end_matches('\0')),
                    _ => format!("\"{name}*\""),
                }
            }
            Source::Mark => match value.first_chunk::<4>() {
                Some(mark) => format!("{:#010x}", u32::from_ne_bytes(*mark)),
                None => format!("{value:?}"),
            },
            Source::Other => format!("{value:?}"),
        };
        match operation {
            BitOperation::Equal => format!("{} {value}", loaded.text),
            BitOperation::NotEqual => format!("{} != {value}", loaded.text),
        }
    }

    /// The addresses that begin with these bits.
    fn range(&self, value: &[u8], bits: u32) -> String {
        let mut octets = [0; 16];
        for (octet, byte) in octets.iter_mut().zip(value) {
            *octet = *byte;
        }
        let [a, b, c, d, ..] = octets;
        match self.family {
            IpFamily::V4 => format!("{}/{bits}", Ipv4Addr::new(a, b, c, d)),
            IpFamily::V6 => format!("{}/{bits}", Ipv6Addr::from(octets)),
        }
    }

    fn reject(&self, how: Reject) -> String {
        let port = match self.family {
            IpFamily::V4 => 3,
            IpFamily::V6 => 4,
        };
        match how {
            Reject::TcpReset => "reject with tcp reset".to_owned(),
            // The one that nft takes if nothing is said.
            Reject::Unreachable(code) if code == port => "reject".to_owned(),
            Reject::Unreachable(code) => format!("reject with icmp {code}"),
        }
    }

    fn update(
        &self,
        set: &str,
        operation: SetOperation,
        key: Register,
        data: Option<Register>,
        timeout: Option<Duration>,
    ) -> String {
        let verb = match operation {
            SetOperation::Add => "add",
            SetOperation::Update => "update",
        };
        let timeout = timeout.map_or(String::new(), |it| format!(" timeout {}", duration(it)));
        let types = self.sets.get(set).map_or(&[][..], |set| &set.data);
        let data = data.map_or(String::new(), |data| {
            format!(" : {}", self.parts(data, types))
        });
        let key = self.key(set, key);
        format!("{verb} @{set} {{ {key}{timeout}{data} }}")
    }
}

fn meta(key: MetaKey) -> (&'static str, Source) {
    match key {
        MetaKey::Mark => ("meta mark", Source::Mark),
        MetaKey::InputName => ("iifname", Source::Device),
        MetaKey::OutputName => ("oifname", Source::Device),
        MetaKey::Family => ("meta nfproto", Source::Other),
        MetaKey::Protocol => ("meta l4proto", Source::Protocol),
    }
}

fn connection(key: CtKey, direction: Option<Direction>) -> String {
    let direction = match direction {
        None => "",
        Some(Direction::Original) => "original ",
        Some(Direction::Reply) => "reply ",
    };
    let key = match key {
        CtKey::State => "state",
        CtKey::Direction => "direction",
        CtKey::Status => "status",
        CtKey::Protocol => "protocol",
        CtKey::SourcePort => "proto-src",
        CtKey::DestinationPort => "proto-dst",
        CtKey::SourceV4 => "ip saddr",
        CtKey::DestinationV4 => "ip daddr",
        CtKey::SourceV6 => "ip6 saddr",
        CtKey::DestinationV6 => "ip6 daddr",
    };
    format!("ct {direction}{key}")
}

/// The names of bits, the lowest first.
fn bits(key: CtKey, mask: u32) -> String {
    let names: &[(u32, &str)] = match key {
        CtKey::State => &[
            (CtKey::INVALID, "invalid"),
            (CtKey::ESTABLISHED, "established"),
            (CtKey::RELATED, "related"),
            (CtKey::NEW, "new"),
            (CtKey::UNTRACKED, "untracked"),
        ],
        CtKey::Status => &[(CtKey::DESTINATION_TRANSLATED, "dnat")],
        CtKey::Direction
        | CtKey::Protocol
        | CtKey::SourcePort
        | CtKey::DestinationPort
        | CtKey::SourceV4
        | CtKey::DestinationV4
        | CtKey::SourceV6
        | CtKey::DestinationV6 => &[],
    };
    let set = names.iter().filter(|(bit, _)| mask & bit != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    names.join(",")
}

/// `3h`, `1m30s`.
fn duration(time: Duration) -> String {
    let mut seconds = time.as_secs();
    let mut text = String::new();
    for (unit, name) in [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')] {
        let count = seconds / unit;
        seconds %= unit;
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
        }
    }
    text
}
