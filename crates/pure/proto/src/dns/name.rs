//! Domain names in wire form.

use std::fmt;

use thiserror::Error;

use super::HEADER_LEN;

/// The longest name, the root's byte included (RFC 1035, section 2.3.4).
pub(crate) const MAX_NAME: usize = 255;
/// The longest label (RFC 1035, section 2.3.4).
pub(crate) const MAX_LABEL: usize = 63;
/// The two high bits of a length byte that is a compression pointer (section 4.1.4).
const POINTER: u8 = 0xc0;

/// Why text is not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Two dots in a row, or a leading one.
    #[error("a domain name has no empty labels")]
    EmptyLabel,
    /// A label of more than 63 bytes.
    #[error("a label of a domain name has at most 63 bytes")]
    LabelTooLong,
    /// More than 255 bytes on the wire.
    #[error("a domain name has at most 253 characters")]
    NameTooLong,
}

/// A name as it stands in a message without compression: a length byte before each
/// label, lower-case, the root's zero byte at the end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireName(Box<[u8]>);

impl WireName {
    /// The name of a text: labels between dots, with or without a dot at the end.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(text.len() + 2);
        if !text.is_empty() {
            for label in text.split('.') {
                push_label(&mut wire, label.as_bytes())?;
            }
        }
        wire.push(0);
        if wire.len() > MAX_NAME {
            return Err(NameError::NameTooLong);
        }
        Ok(Self(wire.into()))
    }

    /// The uncompressed name at the beginning of `bytes`, and how long it is.
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let length = plain_length(bytes)?;
        Some((Self::from_wire(bytes[..length].to_vec()), length))
    }

    /// The bytes, as in a message.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The labels, leftmost first, without the root's.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        labels(&self.0)
    }

    /// A name read out of a message. Labels' bytes are lowered here.
    pub(super) fn from_wire(mut wire: Vec<u8>) -> Self {
        wire.make_ascii_lowercase();
        Self(wire.into())
    }
}

impl fmt::Display for WireName {
    /// As zone files write it, dot at the end, unusual bytes escaped (RFC 1035, section 5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut any = false;
        for label in self.labels() {
            any = true;
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' => write!(f, "\\{}", char::from(*byte))?,
                    0x21..=0x7e => write!(f, "{}", char::from(*byte))?,
                    other => write!(f, "\\{other:03}")?,
                }
            }
            f.write_str(".")?;
        }
        if any { Ok(()) } else { f.write_str(".") }
    }
}

impl fmt::Debug for WireName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn push_label(wire: &mut Vec<u8>, label: &[u8]) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    let length = u8::try_from(label.len())
        .ok()
        .filter(|length| usize::from(*length) <= MAX_LABEL)
        .ok_or(NameError::LabelTooLong)?;
    wire.push(length);
    wire.extend(label.iter().map(u8::to_ascii_lowercase));
    Ok(())
}

/// The labels of an uncompressed name.
pub(super) fn labels(mut name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = name.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        if label.is_empty() {
            return None;
        }
        name = rest;
        Some(label)
    })
}

/// Where in `name` the name `suffix` begins, if `name` lies in that domain. Both are
/// uncompressed and lower-case.
pub fn suffix_offset(name: &[u8], suffix: &[u8]) -> Option<usize> {
    let start = name.len().checked_sub(suffix.len())?;
    if &name[start..] != suffix {
        return None;
    }
    let mut at = 0;
    while at < start {
        at += 1 + usize::from(name[at]);
    }
    (at == start).then_some(start)
}

/// Length of the uncompressed name at the beginning of `bytes`, the root's byte
/// included; `None` if there is none, or it is compressed.
pub(super) fn plain_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length > MAX_LABEL {
            return None;
        }
        at += 1 + length;
        if at > MAX_NAME {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// Position after the name at `at`, without following its pointer.
pub(super) fn skip(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            POINTER.. => {
                message.get(at + 1)?;
                return Some(at + 2);
            }
            // 01 and 10 in the high bits are reserved (RFC 6891, section 5).
            64..POINTER => return None,
        }
    }
}

/// The name at `at`, pointers followed, and the position after it. A pointer must lead
/// backwards, which every sender's does and which makes loops impossible.
pub(super) fn read(message: &[u8], at: usize) -> Option<(WireName, usize)> {
    let end = skip(message, at)?;
    let mut wire = Vec::with_capacity(64);
    let mut at = at;
    let mut earliest = at;
    loop {
        let length = *message.get(at)?;
        match length {
            0 => break,
            1..=63 => {
                let next = at + 1 + usize::from(length);
                wire.extend_from_slice(message.get(at..next)?);
                at = next;
            }
            POINTER.. => {
                let low = *message.get(at + 1)?;
                let target = usize::from(u16::from_be_bytes([length & !POINTER, low]));
                if target >= earliest || target < HEADER_LEN {
                    return None;
                }
                earliest = target;
                at = target;
            }
            64..POINTER => return None,
        }
        if wire.len() >= MAX_NAME {
            return None;
        }
    }
    wire.push(0);
    Some((WireName::from_wire(wire), end))
}

/// Appends `name`, compressed against the question's name, which stands at the
/// header's end in every message.
pub(super) fn write_compressed(out: &mut Vec<u8>, name: &WireName, question: &[u8]) {
    let name = name.as_bytes();
    let mut at = 0;
    while name[at] != 0 {
        if let Some(offset) = suffix_offset(question, &name[at..]) {
            out.extend_from_slice(&name[..at]);
            out.extend_from_slice(&pointer(offset));
            return;
        }
        at += 1 + usize::from(name[at]);
    }
    out.extend_from_slice(name);
}

/// A pointer to `offset` bytes into the question's name.
pub(super) fn pointer(offset: usize) -> [u8; 2] {
    // A name has 255 bytes at most, so offset and header fit the pointer's 14 bits.
    let [high, low] = u16::try_from(HEADER_LEN + offset)
        .unwrap_or(0x3fff)
        .to_be_bytes();
    [high | POINTER, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_lower_case_wire_form() {
        let name = WireName::parse("Hello.svc.").unwrap();
        assert_eq!(name.as_bytes(), b"\x05hello\x03svc\x00");
        assert_eq!(name.to_string(), "hello.svc.");
        assert_eq!(WireName::parse("").unwrap().as_bytes(), b"\x00");
        assert_eq!(WireName::parse(".").unwrap().to_string(), ".");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!(WireName::parse("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(
            WireName::parse(&"a".repeat(64)),
            Err(NameError::LabelTooLong)
        );
        assert_eq!(
            WireName::parse(&"abcdefg.".repeat(32)),
            Err(NameError::NameTooLong)
        );
    }

    #[test]
    fn a_suffix_counts_only_at_a_label_boundary() {
        let zone = WireName::parse("local").unwrap();
        let within = WireName::parse("a.local").unwrap();
        let beside = WireName::parse("a\u{5}local").unwrap();
        assert_eq!(suffix_offset(within.as_bytes(), zone.as_bytes()), Some(2));
        assert_eq!(suffix_offset(zone.as_bytes(), zone.as_bytes()), Some(0));
        assert_eq!(suffix_offset(beside.as_bytes(), zone.as_bytes()), None);
    }

    #[test]
    fn pointers_that_do_not_lead_backwards_end_the_reading() {
        let mut message = vec![0; HEADER_LEN];
        message.extend_from_slice(b"\x01a\xc0\x0c");
        assert_eq!(read(&message, 12), None);
        let mut message = vec![0; HEADER_LEN];
        message.extend_from_slice(b"\x01a\x00\x01b\xc0\x0c");
        let (name, end) = read(&message, 15).unwrap();
        assert_eq!(name.to_string(), "b.a.");
        assert_eq!(end, message.len());
    }
}
