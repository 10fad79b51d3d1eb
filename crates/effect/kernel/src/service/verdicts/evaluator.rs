//! The kernel's way of looking at the first packet of a connection, expression by expression.
//! Where chance decides, all ways are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_desired::{Backend, Protocol};
use weft_sys::nft::{
    BitOperation, ChainKind, CtKey, Direction, Expression, Hook, MetaKey, PayloadBase, Register,
    Reject, Rule, Verdict,
};

use super::super::ip_family::IpFamily;
use super::super::item::Items;
use super::super::layout::Layout;
use super::clusters::Fate;

/// The packet, and where it comes in; by no device what the node itself sends.
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) device: Option<&'static str>,
}

/// What the kernel has put into maps itself.
pub(super) type Remembered = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// A packet on its way through rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    registers: [u8; 64],
    destination: IpAddr,
    port: u16,
    translated: bool,
    masqueraded: bool,
    remembered: Remembered,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// This base chain is done with it.
    Accepted,
    Rejected,
    Dropped,
}

/// What a rule does to a packet.
enum Step {
    /// The next rule is looked at.
    On(Way),
    Go(Way, Verdict),
}

pub(super) struct Evaluator {
    family: IpFamily,
    layout: Layout,
    sets: BTreeMap<String, Elements>,
    own: BTreeSet<IpAddr>,
}

/// A set's elements.
#[derive(Default)]
struct Elements {
    /// Keys, and a map's data.
    exact: BTreeMap<Vec<u8>, Vec<u8>>,
    /// First and last keys.
    closed: Vec<(Vec<u8>, Vec<u8>)>,
    /// First keys, and those behind the last; nothing is behind the last of all.
    open: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Elements {
    fn find(&self, key: &[u8]) -> Option<Vec<u8>> {
        let closed = self.closed.iter();
        let mut closed = closed.filter(|(first, last)| first.as_slice() <= key && key <= last);
        let mut open = self.open.iter();
        let open = open.find(|(first, behind)| {
            first.as_slice() <= key && (behind.is_empty() || key < behind.as_slice())
        });
        let within = closed.next().or(open).map(|_| Vec::new());
        self.exact.get(key).cloned().or(within)
    }
}

impl Evaluator {
    pub(super) fn new(
        family: IpFamily,
        layout: Layout,
        items: &Items,
        own: BTreeSet<IpAddr>,
    ) -> Self {
        let mut sets: BTreeMap<String, Elements> = BTreeMap::new();
        for name in layout.sets.keys() {
            sets.insert(name.clone(), Elements::default());
        }
        for (key, value) in items {
            // A set that the layout does not have is one that the kernel has not.
            let set = sets.get_mut(&*key.set.name()).unwrap();
            let (bytes, data) = (key.key.as_slice().to_vec(), value.data.as_slice().to_vec());
            if key.set.is_ranges() {
                set.open.push((bytes, data));
            } else if key.set.has_key_ends() {
                set.closed.push((bytes, data));
            } else {
                set.exact.insert(bytes, data);
            }
        }
        Self {
            family,
            layout,
            sets,
            own,
        }
    }

    /// All that may become of a packet where the kernel remembers this, and what it remembers
    /// then.
    pub(super) fn passages(
        &self,
        packet: &Packet,
        remembered: &Remembered,
    ) -> BTreeSet<(Fate, Remembered)> {
        let start = Way {
            registers: [0; 64],
            destination: packet.destination,
            port: packet.port,
            translated: false,
            masqueraded: false,
            remembered: remembered.clone(),
            end: None,
        };
        let sent_here = packet.device.is_none();
        let first = if sent_here {
            Hook::Output
        } else {
            Hook::Prerouting
        };
        let mut ways = BTreeSet::new();
        for way in self.hook(first, packet, BTreeSet::from([start]), true) {
            let stays = self.own.contains(&way.destination);
            let mut way = BTreeSet::from([way]);
            // What the node sends to itself leaves it first, and comes in again; it is
            // translated once.
            let hooks: &[Hook] = match (sent_here, stays) {
                (true, true) => &[Hook::Postrouting, Hook::Prerouting, Hook::Input],
                (true, false) => &[Hook::Postrouting],
                (false, true) => &[Hook::Input],
                (false, false) => &[Hook::Forward, Hook::Postrouting],
            };
            for hook in hooks {
                way = self.hook(*hook, packet, way, *hook != Hook::Prerouting);
            }
            ways.extend(way);
        }
        let passages = ways.into_iter().map(|way| {
            let endpoint = Backend {
                address: way.destination,
                port: way.port,
            };
            let fate = match way.end {
                Some(End::Rejected) => Fate::Rejected,
                Some(End::Dropped) => Fate::Dropped,
                Some(End::Accepted) | None => Fate::Passed {
                    endpoint: way.translated.then_some(endpoint),
                    masqueraded: way.masqueraded,
                },
            };
            (fate, way.remembered)
        });
        passages.collect()
    }

    /// All base chains of a hook, in their order.
    fn hook(
        &self,
        hook: Hook,
        packet: &Packet,
        mut ways: BTreeSet<Way>,
        translating: bool,
    ) -> BTreeSet<Way> {
        let mut chains: Vec<_> = (self.layout.chains.values())
            .filter_map(|chain| Some((chain.base.as_ref()?, &chain.name)))
            .filter(|(base, _)| base.hook == hook)
            .filter(|(base, _)| translating || base.kind != ChainKind::Nat)
            .collect();
        chains.sort_by_key(|(base, _)| base.priority);
        for (_, chain) in chains {
            let next = ways.into_iter().flat_map(|way| match way.end {
                Some(End::Rejected | End::Dropped) => BTreeSet::from([way]),
                Some(End::Accepted) | None => {
                    let way = Way { end: None, ..way };
                    self.walk(&self.layout.rules[chain], packet, way)
                }
            });
            ways = next.collect();
        }
        ways
    }

    fn walk(&self, rules: &[Rule], packet: &Packet, way: Way) -> BTreeSet<Way> {
        let Some((rule, rest)) = rules.split_first() else {
            return BTreeSet::from([way]);
        };
        let mut ways = BTreeSet::new();
        for step in self.rule(&rule.expressions, packet, way) {
            match step {
                Step::On(way) => ways.extend(self.walk(rest, packet, way)),
                Step::Go(way, Verdict::Return) => _ = ways.insert(way),
                Step::Go(way, Verdict::Goto(chain)) => {
                    ways.extend(self.walk(&self.layout.rules[&chain], packet, way));
                }
                Step::Go(way, Verdict::Jump(chain)) => {
                    for back in self.walk(&self.layout.rules[&chain], packet, way) {
                        match back.end {
                            Some(_) => _ = ways.insert(back),
                            None => ways.extend(self.walk(rest, packet, back)),
                        }
                    }
                }
                Step::Go(way, Verdict::Accept) => _ = ways.insert(ended(way, End::Accepted)),
                Step::Go(way, Verdict::Drop) => _ = ways.insert(ended(way, End::Dropped)),
            }
        }
        ways
    }

    fn rule(&self, expressions: &[Expression], packet: &Packet, mut way: Way) -> Vec<Step> {
        // What no expression of this rule has loaded must make no difference.
        way.registers = [0xee; 64];
        self.expressions(expressions, packet, way)
            .into_iter()
            .map(|step| match step {
                Step::On(way) => Step::On(forgotten(way)),
                Step::Go(way, verdict) => Step::Go(forgotten(way), verdict),
            })
            .collect()
    }

    fn expressions(&self, expressions: &[Expression], packet: &Packet, mut way: Way) -> Vec<Step> {
        let Some((expression, rest)) = expressions.split_first() else {
            return vec![Step::On(way)];
        };
        match expression {
            Expression::Meta { key, into } => {
                let value = match key {
                    MetaKey::InputName => {
                        let mut name = packet.device.unwrap_or_default().as_bytes().to_vec();
                        name.resize(16, 0);
                        name
                    }
                    MetaKey::Protocol => vec![packet.protocol.number()],
                    MetaKey::Mark => vec![0; 4],
                    MetaKey::OutputName | MetaKey::Family => {
                        unreachable!("no rule loads {key:?}")
                    }
                };
                load(&mut way, *into, &value);
            }
            Expression::Payload {
                base,
                offset,
                length,
                into,
            } => {
                let header = match base {
                    PayloadBase::Link => vec![0; 14],
                    PayloadBase::Network => self.network_header(packet, &way),
                    PayloadBase::Transport => [[0xab, 0xcd], way.port.to_be_bytes()].concat(),
                };
                let (offset, length) = (*offset as usize, *length as usize);
                load(&mut way, *into, &header[offset..offset + length]);
            }
            Expression::Ct {
                key,
                direction,
                into,
            } => {
                let answers = *direction == Some(Direction::Reply);
                let value = match key {
                    CtKey::State => CtKey::NEW.to_ne_bytes().to_vec(),
                    CtKey::Direction => vec![0],
                    CtKey::Status if way.translated => {
                        CtKey::DESTINATION_TRANSLATED.to_ne_bytes().to_vec()
                    }
                    CtKey::Status => vec![0; 4],
                    CtKey::Protocol => vec![packet.protocol.number()],
                    CtKey::DestinationPort => packet.port.to_be_bytes().to_vec(),
                    // Where the first packet of a connection goes, its answers come from.
                    CtKey::SourceV4 | CtKey::SourceV6 if answers => octets(way.destination),
                    CtKey::SourcePort if answers => way.port.to_be_bytes().to_vec(),
                    CtKey::SourceV4 | CtKey::SourceV6 => octets(packet.source),
                    CtKey::DestinationV4 | CtKey::DestinationV6 => octets(packet.destination),
                    CtKey::SourcePort => unreachable!("no rule loads {key:?}"),
                };
                load(&mut way, *into, &value);
            }
            Expression::Compare {
                from,
                operation,
                value,
            } => {
                let same = read(&way, *from, value.len()) == *value;
                if same != (*operation == BitOperation::Equal) {
                    return vec![Step::On(way)];
                }
            }
            Expression::Bitwise {
                from,
                into,
                mask,
                xor,
            } => {
                let value = read(&way, *from, mask.len());
                let value: Vec<u8> = value
                    .iter()
                    .zip(mask)
                    .zip(xor)
                    .map(|((value, mask), xor)| (value & mask) ^ xor)
                    .collect();
                load(&mut way, *into, &value);
            }
            Expression::Immediate { into, value } => load(&mut way, *into, value),
            Expression::Counter => {}
            Expression::Verdict(verdict) => return vec![Step::Go(way, verdict.clone())],
            Expression::Lookup {
                set,
                from,
                into,
                invert,
            } => {
                let key = read(&way, *from, self.key_length(set));
                let remembered = way.remembered.get(&(set.clone(), key.clone())).cloned();
                let found = self.sets[set].find(&key).or(remembered);
                if found.is_some() == *invert {
                    return vec![Step::On(way)];
                }
                if let (Some(into), Some(data)) = (into, found) {
                    load(&mut way, *into, &data);
                }
            }
            // Which number a client's is makes no difference: there are clients of all.
            Expression::Number { modulus, into, .. } | Expression::Hash { modulus, into, .. } => {
                let drawn = (0..*modulus).flat_map(|number| {
                    let mut way = way.clone();
                    load(&mut way, *into, &number.to_ne_bytes());
                    self.expressions(rest, packet, way)
                });
                return drawn.collect();
            }
            Expression::Nat { address, port, .. } => {
                way.destination = self.address(&read(&way, *address, self.address_length()));
                if let Some(port) = port {
                    let port = read(&way, *port, 2);
                    way.port = u16::from_be_bytes([port[0], port[1]]);
                }
                way.translated = true;
                return vec![Step::Go(way, Verdict::Accept)];
            }
            Expression::Masquerade { .. } => {
                way.masqueraded = true;
                return vec![Step::Go(way, Verdict::Accept)];
            }
            Expression::Reject(how) => {
                let resets = *how == Reject::TcpReset;
                assert!(
                    !resets || packet.protocol == Protocol::Tcp,
                    "a reset of no TCP"
                );
                way.end = Some(End::Rejected);
                return vec![Step::Go(way, Verdict::Return)];
            }
            Expression::Update { set, key, data, .. } => {
                let key = read(&way, *key, self.key_length(set));
                let length = self.layout.sets[set].data.iter();
                let length = length.map(|part| part.padded_length()).sum();
                let data = data
                    .map(|data| read(&way, data, length))
                    .unwrap_or_default();
                way.remembered.insert((set.clone(), key), data);
            }
            Expression::NoTrack | Expression::Log { .. } | Expression::Other { .. } => {
                unreachable!("no packet here gets to {expression:?}")
            }
        }
        self.expressions(rest, packet, way)
    }

    fn key_length(&self, set: &str) -> usize {
        let key = self.layout.sets[set].key.iter();
        key.map(|part| part.padded_length()).sum()
    }

    fn address_length(&self) -> usize {
        4 * usize::from(self.family.words())
    }

    fn address(&self, bytes: &[u8]) -> IpAddr {
        match self.family {
            IpFamily::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap()).into(),
            IpFamily::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).into(),
        }
    }

    /// RFC 791 and RFC 8200, as far as addresses.
    fn network_header(&self, packet: &Packet, way: &Way) -> Vec<u8> {
        let before = match self.family {
            IpFamily::V4 => 12,
            IpFamily::V6 => 8,
        };
        let mut header = vec![0xcc; before];
        header.extend(octets(packet.source));
        header.extend(octets(way.destination));
        header
    }
}

fn ended(way: Way, end: End) -> Way {
    Way {
        // A rule that refuses has said so already.
        end: way.end.or(Some(end)),
        ..way
    }
}

fn forgotten(way: Way) -> Way {
    Way {
        registers: [0; 64],
        ..way
    }
}

fn start(register: Register) -> usize {
    let word = (0..16).find(|word| Register::word(*word) == register);
    4 * usize::from(word.unwrap())
}

fn read(way: &Way, from: Register, length: usize) -> Vec<u8> {
    way.registers[start(from)..start(from) + length].to_vec()
}

/// A value is filled up with zeros to whole words.
fn load(way: &mut Way, into: Register, value: &[u8]) {
    let start = start(into);
    let end = start + value.len();
    way.registers[start..end.next_multiple_of(4)].fill(0);
    way.registers[start..end].copy_from_slice(value);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
