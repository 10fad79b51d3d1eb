//! What the kernel answers, decoded.

use std::borrow::Cow;
use std::time::Duration;

use super::batch::{KEY_END, SET_EVAL, SET_INTERVAL, SET_MAP, SET_TIMEOUT};
use super::expression::{Direction, HASH_JENKINS, NAT_RANDOM_FULLY, Reject, Verdict};
use super::object::{
    BaseChain, Chain, ChainKind, Counts, DataType, Element, Family, Hook, Policy, Rule, Set,
    SetFlags, Table, TableFlags, TableName,
};
use super::wire::{be_u32, be_u64, text, user_data};
use super::{
    BitOperation, CtKey, Expression, MetaKey, NatKind, NumberMode, PayloadBase, Register,
    SetOperation,
};
use crate::netlink::{Attributes, attributes};

/// `struct nfgenmsg`, which every payload starts with.
const FAMILY_HEADER: usize = 4;

/// An attribute that is a text.
pub(super) fn name(payload: &[u8], kind: u16) -> Option<String> {
    Fields::of_message(payload).text(kind)
}

/// The attributes of one level, by their type; a type that comes twice counts once. They are few,
/// and gone through anew for each.
struct Fields<'a> {
    list: Attributes<'a>,
}

impl<'a> Fields<'a> {
    fn new(list: Attributes<'a>) -> Self {
        Self { list }
    }

    fn of_message(payload: &'a [u8]) -> Self {
        Self::new(attributes(payload.get(FAMILY_HEADER..).unwrap_or_default()))
    }

    fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.list
            .clone()
            .find(|found| found.kind == kind)
            .map(|found| found.value)
    }

    fn u32(&self, kind: u16) -> Option<u32> {
        be_u32(self.get(kind)?)
    }

    fn u64(&self, kind: u16) -> Option<u64> {
        be_u64(self.get(kind)?)
    }

    fn word(&self, kind: u16) -> Option<Cow<'a, str>> {
        self.get(kind).map(text)
    }

    fn text(&self, kind: u16) -> Option<String> {
        self.word(kind).map(Cow::into_owned)
    }

    fn nested(&self, kind: u16) -> Option<Fields<'a>> {
        self.get(kind).map(|value| Fields::new(attributes(value)))
    }

    fn comment(&self, kind: u16, entry: u8) -> Option<String> {
        user_data::entries(self.get(kind)?)
            .find(|(found, _)| *found == entry)
            .map(|(_, value)| text(value).into_owned())
    }

    fn register(&self, kind: u16) -> Option<Register> {
        Register::from_number(self.u32(kind)?)
    }

    /// `NFTA_DATA_VALUE` within the attribute.
    fn value(&self, kind: u16) -> Option<Vec<u8>> {
        Some(self.nested(kind)?.get(1)?.to_vec())
    }
}

fn family(payload: &[u8]) -> Option<Family> {
    Family::from_number(*payload.first()?)
}

/// A table; `None` if it is of a family weft has nothing to do with.
pub(super) fn table(payload: &[u8]) -> Option<Table> {
    let fields = Fields::of_message(payload);
    Some(Table {
        name: TableName {
            family: family(payload)?,
            name: fields.text(1)?,
        },
        flags: TableFlags::from_bits(fields.u32(2).unwrap_or(0)),
        comment: fields.comment(6, user_data::COMMENT),
    })
}

/// A chain and its table.
pub(super) fn chain(payload: &[u8]) -> Option<(TableName, Chain)> {
    let fields = Fields::of_message(payload);
    let table = TableName {
        family: family(payload)?,
        name: fields.text(1)?,
    };
    let base = fields.nested(4).and_then(|hook| {
        Some(BaseChain {
            kind: ChainKind::from_keyword(&fields.word(7)?)?,
            hook: Hook::from_number(hook.u32(1)?)?,
            priority: hook.u32(2)?.cast_signed(),
            policy: match fields.u32(5)? {
                0 => Policy::Drop,
                _ => Policy::Accept,
            },
        })
    });
    let name = fields.text(3)?;
    Some((table, Chain { name, base }))
}

/// A rule.
pub(super) fn rule(payload: &[u8]) -> Option<Rule> {
    let fields = Fields::of_message(payload);
    let expressions = attributes(fields.get(4).unwrap_or_default())
        .filter_map(|entry| expression(&Fields::new(entry.nested())))
        .collect();
    Some(Rule {
        chain: fields.text(2)?,
        expressions,
        comment: fields.comment(7, user_data::COMMENT),
    })
}

/// What the counters of a rule have counted; nothing if it has none.
pub(super) fn rule_counts(payload: &[u8]) -> Option<Counts> {
    let fields = Fields::of_message(payload);
    attributes(fields.get(4).unwrap_or_default()).find_map(|entry| counts(entry.nested()))
}

/// An expression; nothing for one that does nothing.
fn expression(fields: &Fields<'_>) -> Option<Expression> {
    let name = fields.word(1).unwrap_or_default();
    let data = fields
        .nested(2)
        .unwrap_or_else(|| Fields::new(attributes(&[])));
    // nft turns each part of a key with ranges round, a single byte too.
    let is_idle = name == "byteorder" && data.u32(4)? < data.u32(5)?;
    let other = || Expression::Other {
        name: name.to_string(),
    };
    (!is_idle).then(|| known(&name, &data).unwrap_or_else(other))
}

/// The expression, or `None` if it is not one of those weft writes.
fn known(name: &str, data: &Fields<'_>) -> Option<Expression> {
    Some(match name {
        "meta" => Expression::Meta {
            key: MetaKey::from_number(data.u32(2)?)?,
            into: data.register(1)?,
        },
        "payload" => Expression::Payload {
            base: PayloadBase::from_number(data.u32(2)?)?,
            offset: data.u32(3)?,
            length: data.u32(4)?,
            into: data.register(1)?,
        },
        "ct" => Expression::Ct {
            key: CtKey::from_number(data.u32(2)?)?,
            direction: match data.get(3) {
                None => None,
                Some([0]) => Some(Direction::Original),
                Some(_) => Some(Direction::Reply),
            },
            into: data.register(1)?,
        },
        "cmp" => Expression::Compare {
            from: data.register(1)?,
            operation: BitOperation::from_number(data.u32(2)?)?,
            value: data.value(3)?,
        },
        "bitwise" => {
            // Another operation than mask and xor.
            if data.u32(6).unwrap_or(0) != 0 {
                return None;
            }
            Expression::Bitwise {
                from: data.register(1)?,
                into: data.register(2)?,
                mask: data.value(4)?,
                xor: data.value(5)?,
            }
        }
        "immediate" => immediate(data)?,
        "lookup" => Expression::Lookup {
            set: data.text(1)?,
            from: data.register(2)?,
            into: match data.u32(3) {
                None => None,
                Some(number) => Some(Register::from_number(number)?),
            },
            invert: data.u32(5).unwrap_or(0) & 1 != 0,
        },
        "numgen" => {
            if data.u32(4).unwrap_or(0) != 0 {
                return None;
            }
            Expression::Number {
                mode: NumberMode::from_number(data.u32(3)?)?,
                modulus: data.u32(2)?,
                into: data.register(1)?,
            }
        }
        "hash" => {
            let by_key = data.u32(7).unwrap_or(HASH_JENKINS) == HASH_JENKINS;
            if !by_key || data.u32(6).unwrap_or(0) != 0 {
                return None;
            }
            Expression::Hash {
                from: data.register(1)?,
                into: data.register(2)?,
                length: data.u32(3)?,
                modulus: data.u32(4)?,
                seed: data.u32(5)?.try_into().ok()?,
            }
        }
        "nat" => Expression::Nat {
            kind: NatKind::from_number(data.u32(1)?)?,
            family: Family::from_number(u8::try_from(data.u32(2)?).ok()?)?,
            address: data.register(3)?,
            port: data.register(5),
        },
        "masq" => Expression::Masquerade {
            random: data.u32(1).unwrap_or(0) & NAT_RANDOM_FULLY != 0,
        },
        "reject" => match data.u32(1)? {
            0 => Expression::Reject(Reject::Unreachable(*data.get(2)?.first()?)),
            1 => Expression::Reject(Reject::TcpReset),
            _ => return None,
        },
        "counter" => Expression::Counter,
        "notrack" => Expression::NoTrack,
        "dynset" => Expression::Update {
            set: data.text(1)?,
            operation: SetOperation::from_number(data.u32(3)?)?,
            key: data.register(4)?,
            data: data.register(5),
            timeout: data.u64(6).filter(|t| *t != 0).map(Duration::from_millis),
        },
        "log" => Expression::Log {
            prefix: data.text(2).unwrap_or_default(),
            group: match data.get(1) {
                Some([high, low]) => Some(u16::from_be_bytes([*high, *low])),
                _ => None,
            },
        },
        _ => return None,
    })
}

fn immediate(data: &Fields<'_>) -> Option<Expression> {
    if data.u32(1)? == 0 {
        let verdict = data.nested(2)?.nested(2)?;
        let code = verdict.u32(1)?.cast_signed();
        return Verdict::from_code(code, verdict.text(2)).map(Expression::Verdict);
    }
    Some(Expression::Immediate {
        into: data.register(1)?,
        value: data.value(2)?,
    })
}

/// A set; `None` if its key or data is of a type weft does not write.
pub(super) fn set(payload: &[u8]) -> Option<Set> {
    let fields = Fields::of_message(payload);
    let flags = fields.u32(3).unwrap_or(0);
    Some(Set {
        name: fields.text(2)?,
        key: data_types(fields.u32(4)?, fields.u32(5)?)?,
        data: if flags & SET_MAP != 0 {
            data_types(fields.u32(6)?, fields.u32(7)?)?
        } else {
            Vec::new()
        },
        flags: SetFlags {
            interval: flags & SET_INTERVAL != 0,
            timeout: flags & SET_TIMEOUT != 0,
            dynamic: flags & SET_EVAL != 0,
        },
        timeout: fields
            .u64(11)
            .filter(|t| *t != 0)
            .map(Duration::from_millis),
        counter: fields.get(17).is_some(),
        comment: fields.comment(13, user_data::SET_COMMENT),
    })
}

/// How many elements a set has (`NFTA_SET_COUNT`).
pub(super) fn element_count(payload: &[u8]) -> Option<u32> {
    Fields::of_message(payload).u32(20)
}

/// The name of a set, whatever its type.
pub(super) fn set_name(payload: &[u8]) -> Option<String> {
    Fields::of_message(payload).text(2)
}

/// The parts of a type that nft packed. Of those that are numbers to it the length says which they
/// are.
fn data_types(packed: u32, length: u32) -> Option<Vec<DataType>> {
    let mut numbers = [DataType::Number, DataType::NeighbourTarget].into_iter();
    numbers.find_map(|number| {
        let parts = parts(packed, number)?;
        (DataType::length_of(&parts) == length).then_some(parts)
    })
}

fn parts(mut packed: u32, number: DataType) -> Option<Vec<DataType>> {
    let all = [
        DataType::Ipv4Address,
        DataType::Ipv6Address,
        DataType::Protocol,
        DataType::Port,
        number,
        DataType::EthernetAddress,
        DataType::InterfaceName,
    ];
    let mut parts = Vec::new();
    while packed != 0 {
        let part = all.into_iter().find(|part| part.id() == packed & 0x3f)?;
        parts.insert(0, part);
        packed >>= 6;
    }
    Some(parts)
}

/// Hands the elements of one message of a dump to `each`. `false` if one of them has a key
/// that is no value.
pub(super) fn elements(payload: &[u8], mut each: impl FnMut(Element)) -> bool {
    let fields = Fields::of_message(payload);
    for entry in attributes(fields.get(3).unwrap_or_default()) {
        match element(entry.nested()) {
            Some(element) => each(element),
            None => return false,
        }
    }
    true
}

/// One element. Read attribute by attribute, without a list of them: there can be
/// hundreds of thousands.
fn element(list: Attributes<'_>) -> Option<Element> {
    let mut key = None;
    let mut element = Element {
        key: Vec::new(),
        key_end: Vec::new(),
        data: Vec::new(),
        interval_end: false,
        expires_in: None,
        comment: None,
        counts: None,
    };
    for attribute in list {
        let value = || attribute.nested().find(|inner| inner.kind == 1);
        match attribute.kind {
            1 => key = value(),
            2 => element.data = value()?.value.to_vec(),
            3 => element.interval_end = be_u32(attribute.value)? & 1 != 0,
            5 => element.expires_in = be_u64(attribute.value).map(Duration::from_millis),
            6 => {
                element.comment = user_data::entries(attribute.value)
                    .find(|(kind, _)| *kind == user_data::COMMENT)
                    .map(|(_, value)| text(value).into_owned());
            }
            7 => element.counts = counts(attribute.nested()),
            KEY_END => element.key_end = value()?.value.to_vec(),
            _ => {}
        }
    }
    element.key = key?.value.to_vec();
    Some(element)
}

fn counts(list: Attributes<'_>) -> Option<Counts> {
    let fields = Fields::new(list);
    if fields.word(1)? != "counter" {
        return None;
    }
    let data = fields.nested(2)?;
    Some(Counts {
        bytes: data.u64(1)?,
        packets: data.u64(2)?,
    })
}

/// The generation's number.
pub(super) fn generation(payload: &[u8]) -> Option<u32> {
    Fields::of_message(payload).u32(1)
}
