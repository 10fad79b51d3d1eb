//! Attributes as bytes, and the numbers of nf_tables' messages.

use std::borrow::Cow;

/// `NFNL_SUBSYS_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`).
pub(super) const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
pub(super) const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`.
pub(super) const BATCH_END: u16 = 0x11;

// include/uapi/linux/netfilter/nf_tables.h, enum nf_tables_msg_types
pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const DELETE_CHAIN: u16 = 5;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
pub(super) const DELETE_RULE: u16 = 8;
pub(super) const NEW_SET: u16 = 9;
pub(super) const GET_SET: u16 = 10;
pub(super) const DELETE_SET: u16 = 11;
pub(super) const NEW_ELEMENT: u16 = 12;
pub(super) const GET_ELEMENT: u16 = 13;
pub(super) const DELETE_ELEMENT: u16 = 14;
pub(super) const GET_GENERATION: u16 = 16;

/// Says that an attribute's value is a list of attributes.
const NESTED: u16 = 0x8000;

/// `struct nfgenmsg`: family, version 0, and a number that means something in the
/// messages around a batch only.
pub(crate) fn put_family_header(out: &mut Vec<u8>, family: u8, resource: u16) {
    out.extend_from_slice(&[family, 0]);
    out.extend_from_slice(&resource.to_be_bytes());
}

/// Appends an attribute.
pub(crate) fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // A value that does not fit is never written: names and keys are short, and the
    // lists of elements are cut before they reach the limit.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends a text that ends with NUL, as the kernel wants names.
pub(super) fn put_text(out: &mut Vec<u8>, kind: u16, text: &str) {
    let length = u16::try_from(4 + text.len() + 1).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends a number: nf_tables has them in network byte order.
pub(super) fn put_u32(out: &mut Vec<u8>, kind: u16, value: u32) {
    put(out, kind, &value.to_be_bytes());
}

/// Appends a long number in network byte order.
pub(super) fn put_u64(out: &mut Vec<u8>, kind: u16, value: u64) {
    put(out, kind, &value.to_be_bytes());
}

/// Appends an attribute that holds the attributes `fill` appends.
pub(crate) fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = open(out, kind);
    fill(out);
    close(out, start);
}

/// Starts a nested attribute; [`close`] sets its length.
pub(super) fn open(out: &mut Vec<u8>, kind: u16) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(kind | NESTED).to_ne_bytes());
    start
}

/// Ends the nested attribute that starts at `start`.
pub(super) fn close(out: &mut [u8], start: usize) {
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// A number in network byte order, as an attribute's value.
pub(super) fn be_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

/// A long number in network byte order, as an attribute's value.
pub(super) fn be_u64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?))
}

/// A text as an attribute's value, with or without its NUL.
pub(super) fn text(value: &[u8]) -> Cow<'_, str> {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end])
}

/// The types in libnftnl's user data (`include/libnftnl/udata.h`): a type byte, a
/// length byte, the value; nothing is padded.
pub(super) mod user_data {
    /// Comments of tables, chains, rules and elements.
    pub(in super::super) const COMMENT: u8 = 0;
    pub(in super::super) const SET_KEY_BYTE_ORDER: u8 = 0;
    pub(in super::super) const SET_DATA_BYTE_ORDER: u8 = 1;
    pub(in super::super) const SET_KEY_TYPE_OF: u8 = 3;
    pub(in super::super) const SET_DATA_TYPE_OF: u8 = 4;
    pub(in super::super) const SET_COMMENT: u8 = 7;
    /// Appends one entry with a text, cut to [`super::super::comment`].
    pub(in super::super) fn put_text(out: &mut Vec<u8>, kind: u8, text: &str) {
        let text = super::super::comment(text);
        out.push(kind);
        // At most 128.
        out.push((text.len() + 1) as u8);
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }

    /// The entries of a user data attribute.
    pub(in super::super) fn entries(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
        std::iter::from_fn(move || {
            let [kind, length, tail @ ..] = rest else {
                return None;
            };
            let value = tail.get(..usize::from(*length))?;
            rest = &tail[usize::from(*length)..];
            Some((*kind, value))
        })
    }
}
