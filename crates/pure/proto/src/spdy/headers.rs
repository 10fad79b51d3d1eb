//! Header blocks: names and values, compressed with one zlib stream a direction (section 2.6.10).

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::Error;

/// The most that a block may hold once decompressed.
const LIMIT: usize = 64 * 1024;
/// A deflate stream refers back at most this far (RFC 1951); a power of two, as the
/// decompressor's ring must be.
const WINDOW: usize = 32 * 1024;
/// What a stored deflate block holds (RFC 1951, section 3.2.4).
const STORED: usize = 0xffff;

/// What both sides have "compressed" before the first block: these words with their lengths in
/// four bytes, then [`TAIL`].
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS {
        put(&mut dictionary, word.as_bytes());
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
}

fn put(out: &mut Vec<u8>, text: &[u8]) {
    let length = u32::try_from(text.len()).unwrap_or_default();
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text);
}

/// The headers of a stream: names in lower case, in the order they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a header; empty if it is not there.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(one, _)| one == name);
        found.map_or("", |(_, value)| value)
    }
}

impl FromIterator<(String, String)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(all: I) -> Self {
        Headers(all.into_iter().collect())
    }
}

fn parse(block: &[u8]) -> Result<Headers, Error> {
    let (count, mut rest) = block
        .split_first_chunk::<4>()
        .ok_or(Error::Headers("a length is missing"))?;
    let count = u32::from_be_bytes(*count) as usize;
    // Each pair takes two lengths at least.
    if count > block.len() / 8 {
        return Err(Error::Headers("more pairs than there is room for"));
    }
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let name = take(&mut rest)?;
        let value = take(&mut rest)?;
        // Several values of one name stand in one text, separated by NUL.
        for value in value.split('\0') {
            pairs.push((name.to_lowercase(), value.to_owned()));
        }
    }
    Ok(Headers(pairs))
}

fn take(rest: &mut &[u8]) -> Result<String, Error> {
    let (length, after) = rest
        .split_first_chunk::<4>()
        .ok_or(Error::Headers("a length is missing"))?;
    let (text, after) = after
        .split_at_checked(u32::from_be_bytes(*length) as usize)
        .ok_or(Error::Headers("a text is cut short"))?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| Error::Headers("a text is not UTF-8"))
}

/// Decompresses what the other side sends, block after block.
pub(super) struct Inflate {
    decompressor: Box<DecompressorOxide>,
    /// The last bytes that were decompressed, the dictionary before all: what the stream may
    /// refer back to.
    window: Box<[u8]>,
    position: usize,
    /// What of the zlib header (two bytes, with a dictionary six) has come.
    header: Vec<u8>,
    begun: bool,
}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflate")
            .field("begun", &self.begun)
            .finish_non_exhaustive()
    }
}

impl Inflate {
    pub(super) fn new() -> Self {
        let mut window = vec![0; WINDOW].into_boxed_slice();
        let dictionary = dictionary();
        window[..dictionary.len()].copy_from_slice(&dictionary);
        Inflate {
            decompressor: Box::default(),
            window,
            position: dictionary.len(),
            header: Vec::new(),
            begun: false,
        }
    }

    /// The headers in the next block.
    pub(super) fn headers(&mut self, compressed: &[u8]) -> Result<Headers, Error> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, Error> {
        while !self.begun {
            let Some((byte, rest)) = compressed.split_first() else {
                return Ok(Vec::new());
            };
            self.header.push(*byte);
            compressed = rest;
            self.begin()?;
        }
        let mut block = Vec::new();
        loop {
            let (status, read, written) = decompress(
                &mut self.decompressor,
                compressed,
                &mut self.window,
                self.position,
                TINFL_FLAG_HAS_MORE_INPUT,
            );
            compressed = &compressed[read..];
            block.extend_from_slice(&self.window[self.position..self.position + written]);
            self.position = (self.position + written) % WINDOW;
            if block.len() > LIMIT {
                return Err(Error::Headers("it holds too much"));
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput => return Ok(block),
                TINFLStatus::Done => return Err(Error::Headers("the compression has ended")),
                TINFLStatus::FailedCannotMakeProgress
                | TINFLStatus::BadParam
                | TINFLStatus::Adler32Mismatch
                | TINFLStatus::Failed
                | _ => return Err(Error::Headers("it cannot be decompressed")),
            }
        }
    }

    /// Looks at the zlib header once it is whole (RFC 1950, section 2.2).
    fn begin(&mut self) -> Result<(), Error> {
        let [method, flags, dictionary @ ..] = self.header.as_slice() else {
            return Ok(());
        };
        let check = u16::from_be_bytes([*method, *flags]);
        if method & 0x0f != 8 || check % 31 != 0 {
            return Err(Error::Headers("it is not zlib"));
        }
        // Without the flag nothing refers to the dictionary.
        let with_dictionary = flags & 0x20 != 0;
        self.begun = !with_dictionary || dictionary.len() == 4;
        Ok(())
    }
}

/// Writes blocks that any zlib reads: stored, not compressed. They are small, and few.
#[derive(Debug, Default)]
pub(super) struct Deflate {
    begun: bool,
}

impl Deflate {
    pub(super) fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        let mut block = u32::try_from(headers.0.len())
            .unwrap_or_default()
            .to_be_bytes()
            .to_vec();
        for (name, value) in &headers.0 {
            put(&mut block, name.as_bytes());
            put(&mut block, value.as_bytes());
        }
        let mut out = Vec::with_capacity(block.len() + 16);
        if !self.begun {
            self.begun = true;
            // Deflate with a window of 32 KiB; the second byte makes it a multiple of 31.
            out.extend_from_slice(&[0x78, 0x01]);
        }
        // An empty block at the end has readers give out what they hold (zlib's sync flush).
        for piece in block.chunks(STORED).chain([&[][..]]) {
            let length = u16::try_from(piece.len()).unwrap_or_default();
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(piece);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_draft_s() {
        // The Adler-32 that every SPDY/3 stream names in its zlib header (RFC 1950).
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }
}
