//! Protobuf's encoding, by field number.
//!
//! Source: protobuf.dev, "Encoding".

/// A message being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// A field of text.
    #[must_use]
    pub fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    /// A field that is a message itself.
    #[must_use]
    pub fn message(self, field: u32, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }

    /// A field that is a number, a truth value or one of an enumeration.
    #[must_use]
    pub fn number(mut self, field: u32, number: u64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(number);
        self
    }

    /// The message as it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A field of bytes.
    #[must_use]
    pub fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0
                .push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or_default());
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, a truth value or one of an enumeration.
    Number(u64),
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message, with their numbers, as they come; `None` where it can't be read, and
/// then no more.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of these bytes.
    pub fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let fixed = |bytes: &[u8]| {
            let bytes = bytes.iter().rev();
            bytes.fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(fixed(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Number(fixed(self.take(4)?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are those of the encoding's own document.
    #[test]
    fn messages_are_written_and_read() {
        assert_eq!(
            Message::default().number(1, 150).as_bytes(),
            [0x08, 0x96, 0x01]
        );
        let text = Message::default().text(2, "testing");
        assert_eq!(text.as_bytes(), b"\x12\x07testing");
        let outer = Message::default().message(3, &Message::default().number(1, 150));
        assert_eq!(outer.as_bytes(), b"\x1a\x03\x08\x96\x01");
        let read: Vec<_> = Fields::of(b"\x08\x96\x01\x12\x01t\x1d\x01\x02\x00\x00").collect();
        assert_eq!(
            read,
            [
                Some((1, Value::Number(150))),
                Some((2, Value::Bytes(b"t"))),
                Some((3, Value::Number(0x201))),
            ]
        );
        for broken in [&b"\x08"[..], b"\x12\x02t", b"\x0b", b"\x08\xff"] {
            assert_eq!(Fields::of(broken).collect::<Vec<_>>(), [None], "{broken:?}");
        }
    }
}
