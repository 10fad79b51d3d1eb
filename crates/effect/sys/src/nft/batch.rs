//! Transactions before they are sent.

use std::time::Duration;

use super::expression::milliseconds;
use super::object::{Chain, Counts, Policy, Rule, Set, Table, TableName};
use super::type_of;
use super::wire::{
    self, BATCH_BEGIN, BATCH_END, DELETE_CHAIN, DELETE_ELEMENT, DELETE_RULE, DELETE_SET,
    DELETE_TABLE, NEW_CHAIN, NEW_ELEMENT, NEW_RULE, NEW_SET, NEW_TABLE, SUBSYSTEM, nest, put,
    put_family_header, put_text, put_u32, user_data,
};
use crate::netlink::HEADER_LENGTH;

// include/uapi/linux/netlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
/// Of a deletion: not with what is in it.
const NLM_F_NONREC: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// Where a list of elements is cut: an attribute's length has 16 bits, and one element
/// with the longest key, data and comment is under 1 KiB.
const LIST_LIMIT: usize = 63 << 10;

/// `NFTA_SET_ELEM_LIST_ELEMENTS`.
const LIST_ELEMENTS: u16 = 3;

/// An element to add or to delete.
#[derive(Clone, Copy, Debug, Default)]
pub struct ElementRef<'a> {
    /// The parts of the key, each filled up to a word.
    pub key: &'a [u8],
    /// In an interval set whose key has several parts: the last value of each part, filled
    /// up like the key. Empty in other sets.
    pub key_end: &'a [u8],
    /// A map's data, each part filled up to a word; empty for a set. Not looked at when
    /// an element is deleted.
    pub data: &'a [u8],
    /// In an interval set: the first key that is no longer in the range.
    pub interval_end: bool,
    /// How long it stays; the set's default if none.
    pub timeout: Option<Duration>,
    /// What it has counted already, in a set whose elements count.
    pub counts: Option<Counts>,
    /// Who it is there for; `nft list` shows it. Cut at 127 bytes; empty for none.
    pub comment: &'a str,
}

/// What a message does, for errors.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// As a verb.
    pub(super) operation: &'static str,
    /// What it is about.
    pub(super) object: String,
}

/// A list of elements that is still open at the end of a batch.
#[derive(Clone, Debug)]
struct OpenList {
    message: usize,
    list: usize,
    kind: u16,
    table: TableName,
    set: String,
}

/// What becomes of a transaction that the kernel accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It holds.
    Commit,
    /// It is taken back, which the kernel does with a batch that has no end
    /// (`nfnetlink_rcv_batch` in net/netfilter/nfnetlink.c).
    Abort,
}

/// Requests that the kernel carries out together or not at all.
///
/// Within the transaction they take effect in their order, so a set may be made and
/// used in the same batch.
#[derive(Clone, Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each message starts, with what it does; the first is the batch's begin.
    steps: Vec<(usize, Step)>,
    open: Option<OpenList>,
    next_set_id: u32,
    elements: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::with_capacity(4096),
            steps: Vec::new(),
            open: None,
            next_set_id: 1,
            elements: 0,
        };
        batch.message(BATCH_BEGIN, NLM_F_REQUEST, "commit", String::new(), |out| {
            put_family_header(out, 0, SUBSYSTEM);
        });
        batch
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.len() < 2
    }

    /// Its length in bytes when it is sent. See [`super::Connection::capacity`].
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len() + HEADER_LENGTH + 4
    }

    /// How many elements it adds and deletes.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Makes a table, or takes one over that an owner left (with [`owner`] and
    /// [`persist`]); a table that is there stays as it is otherwise.
    ///
    /// [`owner`]: super::TableFlags::owner
    /// [`persist`]: super::TableFlags::persist
    pub fn add_table(&mut self, table: &Table) {
        self.table_message(NEW_TABLE, NLM_F_CREATE, "add table", &table.name, |out| {
            put_text(out, 1, &table.name.name);
            put_u32(out, 2, table.flags.bits());
            put_comment(out, 6, user_data::COMMENT, table.comment.as_deref());
        });
    }

    /// Removes a table with all that is in it.
    pub fn delete_table(&mut self, table: &TableName) {
        self.table_message(DELETE_TABLE, 0, "delete table", table, |out| {
            put_text(out, 1, &table.name);
        });
    }

    /// Removes a table that has nothing in it; of another it is an error (EBUSY).
    pub fn delete_bare_table(&mut self, table: &TableName) {
        self.table_message(DELETE_TABLE, NLM_F_NONREC, "delete table", table, |out| {
            put_text(out, 1, &table.name);
        });
    }

    /// Makes a chain.
    pub fn add_chain(&mut self, table: &TableName, chain: &Chain) {
        let object = format!("{table} {}", chain.name);
        let flags = NLM_F_REQUEST | NLM_F_CREATE;
        self.message(nft(NEW_CHAIN), flags, "add chain", object, |out| {
            put_family_header(out, table.family.number(), 0);
            put_text(out, 1, &table.name);
            put_text(out, 3, &chain.name);
            if let Some(base) = &chain.base {
                nest(out, 4, |out| {
                    put_u32(out, 1, base.hook.number());
                    put(out, 2, &base.priority.to_be_bytes());
                });
                let policy = match base.policy {
                    Policy::Drop => 0,
                    Policy::Accept => 1,
                };
                put_u32(out, 5, policy);
                put_text(out, 7, base.kind.keyword());
            }
        });
    }

    /// Removes a chain that has no rules and that no rule jumps to.
    pub fn delete_chain(&mut self, table: &TableName, chain: &str) {
        let object = format!("{table} {chain}");
        self.message(
            nft(DELETE_CHAIN),
            NLM_F_REQUEST,
            "delete chain",
            object,
            |out| {
                put_family_header(out, table.family.number(), 0);
                put_text(out, 1, &table.name);
                put_text(out, 3, chain);
            },
        );
    }

    /// Removes a chain's rules.
    pub fn flush_chain(&mut self, table: &TableName, chain: &str) {
        let object = format!("{table} {chain}");
        self.message(
            nft(DELETE_RULE),
            NLM_F_REQUEST,
            "flush chain",
            object,
            |out| {
                put_family_header(out, table.family.number(), 0);
                put_text(out, 1, &table.name);
                put_text(out, 2, chain);
            },
        );
    }

    /// Appends a rule to its chain.
    pub fn add_rule(&mut self, table: &TableName, rule: &Rule) {
        let object = format!("{table} {}", rule.chain);
        let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND;
        self.message(nft(NEW_RULE), flags, "add rule", object, |out| {
            put_family_header(out, table.family.number(), 0);
            put_text(out, 1, &table.name);
            put_text(out, 2, &rule.chain);
            nest(out, 4, |out| {
                for expression in &rule.expressions {
                    nest(out, 1, |out| expression.put(out));
                }
            });
            put_comment(out, 7, user_data::COMMENT, rule.comment.as_deref());
        });
    }

    /// Makes a set or map.
    pub fn add_set(&mut self, table: &TableName, set: &Set) {
        let id = self.next_set_id;
        self.next_set_id += 1;
        let object = format!("{table} {}", set.name);
        let flags = NLM_F_REQUEST | NLM_F_CREATE;
        self.message(nft(NEW_SET), flags, "add set", object, |out| {
            put_family_header(out, table.family.number(), 0);
            put_text(out, 1, &table.name);
            put_text(out, 2, &set.name);
            put_set(out, set, id);
        });
    }

    /// Removes a set that no rule uses and that has no elements; of another it is an error (EBUSY).
    pub fn delete_bare_set(&mut self, table: &TableName, set: &str) {
        let object = format!("{table} {set}");
        self.message(
            nft(DELETE_SET),
            NLM_F_REQUEST | NLM_F_NONREC,
            "delete set",
            object,
            |out| {
                put_family_header(out, table.family.number(), 0);
                put_text(out, 1, &table.name);
                put_text(out, 2, set);
            },
        );
    }

    /// Adds an element. An element that is there is an error (EEXIST): delete it first.
    pub fn add_element(&mut self, table: &TableName, set: &str, element: ElementRef<'_>) {
        self.element(NEW_ELEMENT, table, set, element);
    }

    /// Deletes an element; one that is not there is an error (ENOENT).
    pub fn delete_element(&mut self, table: &TableName, set: &str, element: ElementRef<'_>) {
        self.element(DELETE_ELEMENT, table, set, element);
    }

    /// Deletes all elements of a set.
    pub fn flush_set(&mut self, table: &TableName, set: &str) {
        let object = format!("{table} {set}");
        self.message(
            nft(DELETE_ELEMENT),
            NLM_F_REQUEST,
            "flush set",
            object,
            |out| {
                put_family_header(out, table.family.number(), 0);
                put_text(out, 1, &table.name);
                put_text(out, 2, set);
            },
        );
    }

    /// Consecutive elements of one set share a message, up to an attribute's limit.
    fn element(&mut self, kind: u16, table: &TableName, set: &str, element: ElementRef<'_>) {
        self.elements += 1;
        let fits = self.open.as_ref().is_some_and(|open| {
            open.kind == kind
                && self.bytes.len() - open.list < LIST_LIMIT
                && open.set == set
                && open.table == *table
        });
        if !fits {
            let (operation, flags) = if kind == NEW_ELEMENT {
                ("add element", NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL)
            } else {
                ("delete element", NLM_F_REQUEST)
            };
            let mut list = 0;
            let message = self.bytes.len();
            self.message(
                nft(kind),
                flags,
                operation,
                format!("{table} {set}"),
                |out| {
                    put_family_header(out, table.family.number(), 0);
                    put_text(out, 1, &table.name);
                    put_text(out, 2, set);
                    list = wire::open(out, LIST_ELEMENTS);
                },
            );
            self.open = Some(OpenList {
                message,
                list,
                kind,
                table: table.clone(),
                set: set.to_owned(),
            });
        }
        let Some(open) = &self.open else { return };
        put_element(&mut self.bytes, kind == NEW_ELEMENT, element);
        wire::close(&mut self.bytes, open.list);
        close_message(&mut self.bytes, open.message);
    }

    fn table_message(
        &mut self,
        kind: u16,
        flags: u16,
        operation: &'static str,
        table: &TableName,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        let flags = flags | NLM_F_REQUEST;
        self.message(nft(kind), flags, operation, table.to_string(), |out| {
            put_family_header(out, table.family.number(), 0);
            fill(out);
        });
    }

    /// Appends a message; its sequence number is set when the batch is sent.
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        operation: &'static str,
        object: String,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        self.open = None;
        let start = self.bytes.len();
        self.steps.push((start, Step { operation, object }));
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        fill(&mut self.bytes);
        close_message(&mut self.bytes, start);
    }

    /// The bytes to send, with sequence numbers from `first` on, what each of those numbers
    /// stands for, and which is the last request's. That one asks for an acknowledgement:
    /// kernels before 6.10 give none for the batch's end.
    pub(super) fn finish(mut self, first: u32, ending: Ending) -> (Vec<u8>, Vec<Step>, usize) {
        let last = self.steps.len() - 1;
        if let Some((start, _)) = self.steps.last().filter(|_| self.steps.len() > 1) {
            let flags = start + 6;
            let old = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]);
            self.bytes[flags..flags + 2].copy_from_slice(&(old | NLM_F_ACK).to_ne_bytes());
        }
        match ending {
            Ending::Commit => {
                self.message(BATCH_END, NLM_F_REQUEST, "commit", String::new(), |out| {
                    put_family_header(out, 0, SUBSYSTEM);
                });
            }
            Ending::Abort => {}
        }
        for ((start, _), sequence) in self.steps.iter().zip(first..) {
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
        let steps = self.steps.into_iter().map(|(_, step)| step).collect();
        (self.bytes, steps, last)
    }

    /// How many messages [`Batch::finish`] makes at most.
    pub(super) fn messages(&self) -> usize {
        self.steps.len() + 1
    }
}

fn nft(kind: u16) -> u16 {
    SUBSYSTEM << 8 | kind
}

fn close_message(bytes: &mut [u8], start: usize) {
    let length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn put_comment(out: &mut Vec<u8>, attribute: u16, kind: u8, comment: Option<&str>) {
    if let Some(comment) = comment {
        let mut data = Vec::with_capacity(comment.len() + 3);
        user_data::put_text(&mut data, kind, comment);
        put(out, attribute, &data);
    }
}

// enum nft_set_flags
pub(super) const SET_INTERVAL: u32 = 0x4;
pub(super) const SET_MAP: u32 = 0x8;
pub(super) const SET_TIMEOUT: u32 = 0x10;
pub(super) const SET_EVAL: u32 = 0x20;
const SET_CONCAT: u32 = 0x80;

/// `NFTA_SET_ELEM_KEY_END`.
pub(super) const KEY_END: u16 = 10;

fn put_set(out: &mut Vec<u8>, set: &Set, id: u32) {
    use super::object::DataType;
    // nft packs the types of a concatenation into one number, six bits each.
    let type_of = |parts: &[DataType]| parts.iter().fold(0, |sum, part| sum << 6 | part.id());
    let order_of = |parts: &[DataType]| match parts {
        [single] => single.byte_order(),
        // nft has no byte order for a concatenation: each part has its own.
        _ => 0,
    };
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let mut flags = flag(set.flags.interval, SET_INTERVAL)
        | flag(!set.data.is_empty(), SET_MAP)
        | flag(set.flags.timeout, SET_TIMEOUT)
        | flag(set.flags.dynamic, SET_EVAL);
    let ranges_of_parts = set.flags.interval && set.key.len() > 1;
    flags |= flag(ranges_of_parts, SET_CONCAT);
    put_u32(out, 3, flags);
    put_u32(out, 4, type_of(&set.key));
    put_u32(out, 5, DataType::length_of(&set.key));
    if !set.data.is_empty() {
        put_u32(out, 6, type_of(&set.data));
        put_u32(out, 7, DataType::length_of(&set.data));
    }
    if ranges_of_parts {
        nest(out, 9, |out| {
            nest(out, 2, |out| {
                for part in &set.key {
                    nest(out, 1, |out| put_u32(out, 1, part.length()));
                }
            });
        });
    }
    put_u32(out, 10, id);
    if let Some(timeout) = set.timeout {
        wire::put_u64(out, 11, milliseconds(timeout));
    }
    let mut data = Vec::new();
    let mut put_order = |kind: u8, parts: &[DataType]| {
        data.extend_from_slice(&[kind, 4]);
        data.extend_from_slice(&order_of(parts).to_ne_bytes());
    };
    put_order(user_data::SET_KEY_BYTE_ORDER, &set.key);
    if !set.data.is_empty() {
        put_order(user_data::SET_DATA_BYTE_ORDER, &set.data);
    }
    let mut parts = set.key.iter().chain(&set.data);
    if parts.any(|part| part.has_no_name()) {
        type_of::put(&mut data, user_data::SET_KEY_TYPE_OF, &set.key);
        if !set.data.is_empty() {
            type_of::put(&mut data, user_data::SET_DATA_TYPE_OF, &set.data);
        }
    }
    if let Some(comment) = &set.comment {
        user_data::put_text(&mut data, user_data::SET_COMMENT, comment);
    }
    put(out, 13, &data);
    if set.counter {
        nest(out, 17, |out| super::Expression::Counter.put(out));
    }
}

fn put_element(out: &mut Vec<u8>, add: bool, element: ElementRef<'_>) {
    let start = wire::open(out, 1);
    let key = wire::open(out, 1);
    put(out, 1, element.key);
    wire::close(out, key);
    if !element.key_end.is_empty() {
        nest(out, KEY_END, |out| put(out, 1, element.key_end));
    }
    if element.interval_end {
        put_u32(out, 3, 1);
    }
    if add {
        if !element.data.is_empty() {
            let data = wire::open(out, 2);
            put(out, 1, element.data);
            wire::close(out, data);
        }
        if let Some(timeout) = element.timeout {
            wire::put_u64(out, 4, milliseconds(timeout));
        }
        if let Some(counts) = element.counts {
            nest(out, 7, |out| {
                put_text(out, 1, "counter");
                nest(out, 2, |out| {
                    wire::put_u64(out, 1, counts.bytes);
                    wire::put_u64(out, 2, counts.packets);
                });
            });
        }
        if !element.comment.is_empty() {
            let value = wire::open(out, 6);
            user_data::put_text(out, user_data::COMMENT, element.comment);
            // User data is bytes, not a list of attributes: no nested flag, and the
            // padding is not part of it.
            out[value + 2..value + 4].copy_from_slice(&6_u16.to_ne_bytes());
            wire::close(out, value);
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
    wire::close(out, start);
}
