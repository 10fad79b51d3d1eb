//! nf_tables over netlink: transactions, and dumps of what the kernel holds.
//!
//! A [`Batch`] collects requests; [`Connection::commit`] sends them as one transaction,
//! which the kernel makes wholly or not at all. No `nft` process takes part, but what
//! is written here nft 1.0.6 can list, and read back: types of keys, comments and byte
//! orders are stored as nft stores them.
//!
//! Sources: `include/uapi/linux/netfilter/nf_tables.h` (numbers), nft's
//! `include/datatype.h` (ids of types) and libnftnl's `udata.h` (comments, expressions).

mod batch;
mod connection;
mod expression;
mod lookup;
mod notification;
mod object;
mod read;
mod type_of;
pub(crate) mod wire;

pub use batch::{Batch, ElementRef};
pub use connection::{Connection, Generation};
pub use expression::{
    BitOperation, CtKey, Direction, Expression, MetaKey, NatKind, NumberMode, PayloadBase,
    Register, Reject, SetOperation, Verdict,
};
pub use notification::{Change, Event, Notifications};
pub use object::{
    BaseChain, Chain, ChainKind, Counts, DataType, Element, Family, Hook, Policy, Rule, Set,
    SetFlags, Table, TableFlags, TableName,
};

/// Longest comment, in bytes and with the zero at its end; nft refuses longer ones
/// (`NFTNL_UDATA_COMMENT_MAXLEN`).
const COMMENT_LIMIT: usize = 128;

/// What of a text stands in the kernel when it is written as a comment: its beginning, at
/// most 127 bytes. Who compares a comment that was read compares it with this.
#[must_use]
pub fn comment(text: &str) -> &str {
    let mut end = text.len().min(COMMENT_LIMIT - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
