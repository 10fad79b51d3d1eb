//! SPDY/3.1 frames, as far as Kubernetes' port forwarding uses them: streams that carry bytes in
//! both directions over one connection. There is no flow control: Kubernetes' own implementation
//! neither sends nor heeds WINDOW_UPDATE.
//!
//! Source: "SPDY Protocol - Draft 3.1", chromium.org, sections 2.2 (framing) and 2.6 (control
//! frames).

mod headers;

pub use headers::Headers;
use headers::{Deflate, Inflate};

/// The version in control frames.
const VERSION: u16 = 3;
/// The longest control frame taken; a stream's headers here are some hundred bytes.
const CONTROL_LIMIT: usize = 64 * 1024;
/// A data frame's payload is handed on in pieces of at most this.
const PIECE: usize = 64 * 1024;
/// The longest payload that a frame's header can tell (24 bits).
const LENGTH_LIMIT: usize = (1 << 24) - 1;
const HEADER: usize = 8;

const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why what came is no SPDY; the connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A control frame of another version.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// A control frame longer than any that makes sense.
    #[error("a control frame of {0} bytes; the limit is {CONTROL_LIMIT}")]
    TooLong(usize),
    /// A control frame too short for what it should hold.
    #[error("a frame of type {0} with {1} bytes is cut short")]
    Short(u16, usize),
    /// Headers that cannot be decompressed, or are no headers.
    #[error("a header block that is none: {0}")]
    Headers(&'static str),
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// SYN_STREAM: the other side opens a stream.
    Open {
        /// Its number.
        stream: u32,
        /// Whether the other side will send nothing on it.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// SYN_REPLY or HEADERS on a stream.
    Headers {
        /// The stream.
        stream: u32,
        /// Whether the other side has sent all.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// Bytes; a long frame comes in several pieces, `fin` with the last.
    Data {
        /// The stream.
        stream: u32,
        /// Whether the other side has sent all.
        fin: bool,
        /// The bytes.
        data: Vec<u8>,
    },
    /// RST_STREAM: the stream is over in both directions.
    Reset {
        /// The stream.
        stream: u32,
        /// Why.
        status: u32,
    },
    /// PING: to be sent back as it is when its number is the other side's.
    Ping(u32),
    /// GOAWAY: no new streams.
    GoAway,
}

/// The data frame that is being handed on.
#[derive(Debug, Clone, Copy)]
struct Partial {
    stream: u32,
    fin: bool,
    left: usize,
}

/// Takes bytes, gives frames. What it keeps is bounded by the longest control frame and what is
/// pushed at once.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    inflate: Inflate,
    partial: Option<Partial>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the beginning of a connection.
    #[must_use]
    pub fn new() -> Self {
        Decoder {
            buffer: Vec::new(),
            inflate: Inflate::new(),
            partial: None,
        }
    }

    /// Takes what was read.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next frame; `None` until more is pushed.
    ///
    /// # Errors
    /// [`Error`]; nothing sensible comes after it.
    pub fn frame(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(partial) = self.partial {
                return Ok(self.data(partial));
            }
            let Some(header) = self.buffer.first_chunk::<HEADER>() else {
                return Ok(None);
            };
            let [a, b, c, d, flags, e, f, g] = *header;
            let length = u32::from_be_bytes([0, e, f, g]) as usize;
            if a & 0x80 == 0 {
                self.buffer.drain(..HEADER);
                let stream = u32::from_be_bytes([a, b, c, d]);
                let fin = flags & FIN != 0;
                if length == 0 {
                    let data = Vec::new();
                    return Ok(Some(Frame::Data { stream, fin, data }));
                }
                self.partial = Some(Partial {
                    stream,
                    fin,
                    left: length,
                });
                continue;
            }
            let version = u16::from_be_bytes([a & 0x7f, b]);
            if version != VERSION {
                return Err(Error::Version(version));
            }
            if length > CONTROL_LIMIT {
                return Err(Error::TooLong(length));
            }
            if self.buffer.len() < HEADER + length {
                return Ok(None);
            }
            let rest = self.buffer.split_off(HEADER + length);
            let frame = std::mem::replace(&mut self.buffer, rest);
            let kind = u16::from_be_bytes([c, d]);
            // SETTINGS, WINDOW_UPDATE and what is unknown say nothing to us.
            if let Some(frame) = self.control(kind, flags, &frame[HEADER..])? {
                return Ok(Some(frame));
            }
        }
    }

    fn data(&mut self, partial: Partial) -> Option<Frame> {
        if self.buffer.is_empty() {
            return None;
        }
        let count = partial.left.min(self.buffer.len()).min(PIECE);
        let rest = self.buffer.split_off(count);
        let data = std::mem::replace(&mut self.buffer, rest);
        let left = partial.left - count;
        self.partial = (left > 0).then_some(Partial { left, ..partial });
        Some(Frame::Data {
            stream: partial.stream,
            fin: partial.fin && left == 0,
            data,
        })
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Option<Frame>, Error> {
        let short = || Error::Short(kind, payload.len());
        let number = |at: usize| {
            payload
                .get(at..)
                .and_then(<[u8]>::first_chunk::<4>)
                .map(|bytes| u32::from_be_bytes(*bytes))
                .ok_or_else(short)
        };
        let stream = |at: usize| number(at).map(|number| number & 0x7fff_ffff);
        let fin = flags & FIN != 0;
        Ok(Some(match kind {
            SYN_STREAM => Frame::Open {
                stream: stream(0)?,
                fin,
                // The number of another stream, priority and slot stand between.
                headers: self.inflate.headers(payload.get(10..).ok_or_else(short)?)?,
            },
            SYN_REPLY | HEADERS => Frame::Headers {
                stream: stream(0)?,
                fin,
                headers: self.inflate.headers(payload.get(4..).ok_or_else(short)?)?,
            },
            RST_STREAM => Frame::Reset {
                stream: stream(0)?,
                status: number(4)?,
            },
            PING => Frame::Ping(number(0)?),
            GO_AWAY => Frame::GoAway,
            _ => return Ok(None),
        }))
    }
}

/// Writes frames of one connection.
#[derive(Debug, Default)]
pub struct Encoder {
    deflate: Deflate,
}

impl Encoder {
    /// SYN_STREAM: opens a stream.
    #[must_use]
    pub fn open(&mut self, stream: u32, fin: bool, headers: &Headers) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 6]);
        payload.extend_from_slice(&self.deflate.headers(headers));
        control(SYN_STREAM, if fin { FIN } else { 0 }, &payload)
    }

    /// SYN_REPLY: takes a stream that the other side opened.
    #[must_use]
    pub fn reply(&mut self, stream: u32, headers: &Headers) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&self.deflate.headers(headers));
        control(SYN_REPLY, 0, &payload)
    }

    /// The header of a data frame with `length` bytes, at most 2^24 - 1.
    #[must_use]
    pub fn data(stream: u32, fin: bool, data: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER + data.len());
        let mut pieces = data.chunks(LENGTH_LIMIT).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let last = pieces.peek().is_none();
            frame.extend_from_slice(&(stream & 0x7fff_ffff).to_be_bytes());
            frame.extend_from_slice(&flags_and_length(if fin && last { FIN } else { 0 }, piece));
            frame.extend_from_slice(piece);
            if last {
                return frame;
            }
        }
    }

    /// RST_STREAM. Status 3 refuses a stream, 5 cancels it.
    #[must_use]
    pub fn reset(stream: u32, status: u32) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&status.to_be_bytes());
        control(RST_STREAM, 0, &payload)
    }

    /// PING, or the answer to one.
    #[must_use]
    pub fn ping(number: u32) -> Vec<u8> {
        control(PING, 0, &number.to_be_bytes())
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&flags_and_length(flags, payload));
    frame.extend_from_slice(payload);
    frame
}

/// The second half of a frame's header.
fn flags_and_length(flags: u8, payload: &[u8]) -> [u8; 4] {
    let length = u32::try_from(payload.len()).unwrap_or_default() & 0x00ff_ffff;
    ((u32::from(flags) << 24) | length).to_be_bytes()
}

/// The body of the fuzz target: nothing may panic, and where the bytes are cut makes no difference.
///
/// # Panics
/// When it does.
pub fn exercise(data: &[u8]) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = Decoder::new();
        let (mut bytes, mut frames) = (Vec::new(), Vec::new());
        for piece in pieces {
            decoder.push(piece);
            loop {
                match decoder.frame() {
                    Ok(Some(Frame::Data { data, .. })) => bytes.extend(data),
                    Ok(Some(frame)) => frames.push(Ok(frame)),
                    Ok(None) => break,
                    Err(error) => {
                        frames.push(Err(error));
                        return (bytes, frames);
                    }
                }
            }
        }
        (bytes, frames)
    };
    let (cut, rest) = data.split_first().map_or((1, data), |(first, rest)| {
        (usize::from(*first).max(1), rest)
    });
    let whole = read(&mut std::iter::once(rest));
    let pieces = read(&mut rest.chunks(cut));
    assert_eq!(whole, pieces, "cut into pieces of {cut}");
}
