//! The wire format of protobuf: fields of numbers and of bytes.

use super::{ProtobufError, Result};

/// What stands in a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Content<'a> {
    pub(super) fn number(self) -> Result<u64> {
        match self {
            Content::Number(number) => Ok(number),
            Content::Bytes(_) => Err(ProtobufError::Malformed("a field is not of its type")),
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Content::Bytes(bytes) => Ok(bytes),
            Content::Number(_) => Err(ProtobufError::Malformed("a field is not of its type")),
        }
    }
}

/// The fields of a message, in the order in which they stand.
pub(super) struct Wire<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Wire<'a> {
    type Item = Result<(u32, Content<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Wire<'a> {
    fn field(&mut self) -> Result<(u32, Content<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .map_err(|_| ProtobufError::Malformed("a field number is too large"))?;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => Content::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Content::Bytes(self.take(length)?)
            }
            5 => Content::Bytes(self.take(4)?),
            _ => return Err(ProtobufError::Malformed("it has an unknown wire type")),
        };
        Ok((number, content))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed("a number is too long"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(ProtobufError::Malformed("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }
}
