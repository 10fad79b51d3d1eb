//! Netlink messages and attributes as bytes.
//!
//! A message is a 16-byte header (`struct nlmsghdr`: length, type, flags, sequence,
//! port), a family's own header and attributes; an attribute is a 4-byte header
//! (`struct nlattr`: length, type) and a value. Both are padded to 4 bytes. Numbers
//! are in the machine's byte order unless an attribute says otherwise.

use rustix::io::Errno;

/// Length of `struct nlmsghdr`, in bytes.
pub const HEADER_LENGTH: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

// include/uapi/linux/netlink.h
pub(super) const NLMSG_NOOP: u16 = 1;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLMSG_OVERRUN: u16 = 4;
pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(super) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
/// Strips NLA_F_NESTED and NLA_F_NET_BYTEORDER from an attribute's type.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// One request to the kernel.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it does, as a verb, for errors (`add route`).
    pub operation: &'static str,
    /// What it does it to, for errors.
    pub object: String,
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags` besides NLM_F_REQUEST, NLM_F_ACK and NLM_F_DUMP, which the call adds.
    pub flags: u16,
    /// The family's header and attributes.
    pub payload: Vec<u8>,
}

/// The kernel's answer to a request it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error number.
    pub errno: Errno,
    /// The kernel's own explanation (extended acknowledgement), if it gave one.
    pub text: Option<String>,
    /// Where in the request the attribute at fault starts, in bytes from the message's header.
    pub offset: Option<u32>,
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq` of the request this answers; 0 for notifications.
    pub sequence: u32,
    /// `nlmsg_pid`: the netlink port of whom this answers, or who did what it tells of.
    pub port: u32,
    /// The family's header and attributes.
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// If this is an acknowledgement or the end of a dump: what it says.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<(), Failure>> {
        match self.kind {
            NLMSG_ERROR | NLMSG_DONE => {}
            _ => return None,
        }
        let code = match self.payload.get(..4) {
            Some(bytes) => i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            None => 0,
        };
        if code >= 0 {
            return Some(Ok(()));
        }
        let mut failure = Failure {
            errno: Errno::from_raw_os_error(-code),
            text: None,
            offset: None,
        };
        if self.flags & NLM_F_ACK_TLVS != 0 {
            for attribute in attributes(self.extended()) {
                match attribute.kind {
                    NLMSGERR_ATTR_MSG => {
                        let text = attribute
                            .value
                            .split(|b| *b == 0)
                            .next()
                            .unwrap_or_default();
                        failure.text = Some(String::from_utf8_lossy(text).into_owned());
                    }
                    NLMSGERR_ATTR_OFFS => failure.offset = attribute.u32(),
                    _ => {}
                }
            }
        }
        Some(Err(failure))
    }

    /// The attributes behind an error: after the code, and for NLMSG_ERROR after the
    /// header of the request, and the rest of the request unless the kernel capped it.
    fn extended(&self) -> &[u8] {
        let mut start = 4;
        if self.kind == NLMSG_ERROR {
            let length = u32_at(self.payload, 4).unwrap_or(0) as usize;
            start += if self.flags & NLM_F_CAPPED != 0 {
                HEADER_LENGTH
            } else {
                aligned(length.max(HEADER_LENGTH))
            };
        }
        self.payload.get(start..).unwrap_or_default()
    }
}

/// The messages in a buffer. Stops at the first one that is cut short.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32_at(self.rest, 0)? as usize;
        let payload = self.rest.get(HEADER_LENGTH..length)?;
        let message = Message {
            kind: u16_at(self.rest, 4)?,
            flags: u16_at(self.rest, 6)?,
            sequence: u32_at(self.rest, 8)?,
            port: u32_at(self.rest, 12)?,
            payload,
        };
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(message)
    }
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The type, without its flag bits.
    pub kind: u16,
    /// The value, without padding.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as a number in the machine's byte order.
    #[must_use]
    pub fn u32(&self) -> Option<u32> {
        u32_at(self.value, 0)
    }

    /// The attributes nested in this one.
    #[must_use]
    pub fn nested(&self) -> Attributes<'a> {
        attributes(self.value)
    }
}

/// The attributes in a buffer. Stops at the first one that is cut short.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

/// The attributes in `bytes`.
#[must_use]
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & NLA_TYPE_MASK;
        let value = self.rest.get(ATTRIBUTE_HEADER..length)?;
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

/// Appends a message: header, payload, padding. The port is 0: the kernel knows whose
/// socket it came through.
pub fn put_message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    let length = HEADER_LENGTH + payload.len();
    // A message this long fails to send (EMSGSIZE); the cast only keeps the type.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&0_u32.to_ne_bytes());
    out.extend_from_slice(payload);
    out.resize(out.len() + aligned(length) - length, 0);
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset + 2)?;
    Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way_into_bytes_and_back() {
        let mut bytes = Vec::new();
        put_message(&mut bytes, 24, NLM_F_ACK, 7, b"abcde");
        put_message(&mut bytes, 25, 0, 8, b"");
        assert_eq!(bytes.len(), 24 + 16);
        let read: Vec<_> = Messages::new(&bytes)
            .map(|m| (m.kind, m.flags, m.sequence, m.payload.to_vec()))
            .collect();
        assert_eq!(
            read,
            vec![(24, NLM_F_ACK, 7, b"abcde".to_vec()), (25, 0, 8, vec![])]
        );
    }

    #[test]
    fn what_is_cut_short_is_not_read() {
        let mut bytes = Vec::new();
        put_message(&mut bytes, 24, 0, 1, &[1, 2, 3, 4]);
        assert_eq!(Messages::new(&bytes[..19]).count(), 0);
        // An attribute that claims 8 bytes where there are 6, and one shorter than its header.
        assert_eq!(attributes(&[8, 0, 1, 0, 1, 2]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0, 1, 2, 3, 4]).count(), 0);
        assert_eq!(attributes(&[]).count(), 0);
    }

    #[test]
    fn an_error_carries_the_kernels_text_wherever_the_request_ends() {
        let text = [8, 0, 1, 0, b'n', b'o', b'!', 0];
        for (flags, echoed) in [(NLM_F_CAPPED, 0_usize), (0, 12)] {
            let mut payload = (-22_i32).to_ne_bytes().to_vec();
            payload.extend((16 + echoed as u32).to_ne_bytes());
            payload.extend([0; 12]);
            payload.extend(vec![0xaa; echoed]);
            payload.extend(text);
            let message = Message {
                kind: NLMSG_ERROR,
                flags: flags | NLM_F_ACK_TLVS,
                sequence: 1,
                port: 0,
                payload: &payload,
            };
            assert_eq!(
                message.outcome(),
                Some(Err(Failure {
                    errno: Errno::INVAL,
                    text: Some("no!".into()),
                    offset: None
                }))
            );
        }
    }
}
