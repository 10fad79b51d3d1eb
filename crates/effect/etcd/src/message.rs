//! etcd's messages, of which the fields are written and read that are needed.

use weft_proto::protobuf::{Fields, Message, Value};

/// A count of all changes so far.
pub type Revision = u64;

/// Which lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseId(pub(crate) u64);

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which.
    pub id: LeaseId,
    /// How long it lasts unless it is kept, in seconds.
    pub seconds: u64,
}

/// A key that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// When it was last written.
    pub written: Revision,
    /// The lease that it goes with; 0: none.
    pub lease: LeaseId,
}

/// The keys that begin alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// When.
    pub revision: Revision,
    /// All of them.
    pub entries: Vec<Entry>,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was written.
    Put(Entry),
    /// It is gone: deleted, or its lease ran out.
    Gone(String),
}

/// What a watch says at once (`WatchResponse`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) revision: Revision,
    pub(crate) canceled: bool,
    pub(crate) compacted: Revision,
    pub(crate) reason: String,
    pub(crate) events: Vec<Event>,
}

/// The first key behind all that begin so.
fn behind(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // All keys.
    vec![0]
}

/// `RangeRequest`.
pub(crate) fn list(prefix: &str) -> Message {
    let message = Message::default().text(1, prefix);
    message.bytes(2, &behind(prefix))
}

/// `TxnRequest`: puts a key if it was last written then; 0: if it is not there.
pub(crate) fn put(key: &str, value: &str, lease: LeaseId, written: Revision) -> Message {
    const EQUAL: u64 = 0;
    const MOD: u64 = 2;
    let compare = Message::default().number(1, EQUAL).number(2, MOD);
    let compare = compare.text(3, key).number(6, written);
    let put = Message::default().text(1, key).text(2, value);
    let put = put.number(3, lease.0);
    let operation = Message::default().message(2, &put);
    Message::default()
        .message(1, &compare)
        .message(2, &operation)
}

/// `LeaseGrantRequest`.
pub(crate) fn grant(seconds: u64) -> Message {
    Message::default().number(1, seconds)
}

/// `LeaseKeepAliveRequest`.
pub(crate) fn keep(lease: LeaseId) -> Message {
    Message::default().number(1, lease.0)
}

/// `AuthenticateRequest`.
pub(crate) fn authenticate(user: &str, password: &str) -> Message {
    Message::default().text(1, user).text(2, password)
}

/// `AuthenticateResponse`.
pub(crate) fn token(bytes: &[u8]) -> Option<String> {
    let mut token = None;
    for field in Fields::of(bytes) {
        if let (2, Value::Bytes(text)) = field? {
            token = String::from_utf8(text.to_vec()).ok();
        }
    }
    token
}

/// `WatchRequest`.
pub(crate) fn watch(prefix: &str, from: Revision) -> Message {
    let create = Message::default().text(1, prefix).bytes(2, &behind(prefix));
    Message::default().message(1, &create.number(3, from))
}

/// `ResponseHeader`.
fn revision(header: &[u8]) -> Option<Revision> {
    let mut revision = 0;
    for field in Fields::of(header) {
        if let (3, Value::Number(number)) = field? {
            revision = number;
        }
    }
    Some(revision)
}

/// `KeyValue`.
fn entry(bytes: &[u8]) -> Option<Entry> {
    let mut entry = Entry::default();
    for field in Fields::of(bytes) {
        match field? {
            (1, Value::Bytes(key)) => entry.key = String::from_utf8_lossy(key).into_owned(),
            (3, Value::Number(written)) => entry.written = written,
            (6, Value::Number(lease)) => entry.lease = LeaseId(lease),
            (5, Value::Bytes(value)) => entry.value = value.to_vec(),
            _ => {}
        }
    }
    Some(entry)
}

/// `RangeResponse`; `None` if it is cut off.
pub(crate) fn listing(bytes: &[u8]) -> Option<Listing> {
    let mut listing = Listing::default();
    for field in Fields::of(bytes) {
        match field? {
            (1, Value::Bytes(header)) => listing.revision = revision(header)?,
            (2, Value::Bytes(bytes)) => listing.entries.push(entry(bytes)?),
            _ => {}
        }
    }
    Some(listing)
}

/// `TxnResponse`: the revision, if what it compared was so.
pub(crate) fn transacted(bytes: &[u8]) -> Option<Option<Revision>> {
    let (mut at, mut succeeded) = (0, false);
    for field in Fields::of(bytes) {
        match field? {
            (1, Value::Bytes(header)) => at = revision(header)?,
            (2, Value::Number(number)) => succeeded = number != 0,
            _ => {}
        }
    }
    Some(succeeded.then_some(at))
}

/// `LeaseGrantResponse`, `LeaseKeepAliveResponse`; a lease that is gone lasts 0 seconds.
pub(crate) fn lease(bytes: &[u8]) -> Option<Lease> {
    let (mut id, mut seconds) = (0, 0);
    for field in Fields::of(bytes) {
        match field? {
            (2, Value::Number(number)) => id = number,
            (3, Value::Number(number)) => seconds = number,
            _ => {}
        }
    }
    Some(Lease {
        id: LeaseId(id),
        seconds,
    })
}

/// `Event`.
fn event(bytes: &[u8]) -> Option<Event> {
    const DELETE: u64 = 1;
    let (mut kind, mut of) = (0, Entry::default());
    for field in Fields::of(bytes) {
        match field? {
            (1, Value::Number(number)) => kind = number,
            (2, Value::Bytes(bytes)) => of = entry(bytes)?,
            _ => {}
        }
    }
    Some(match kind {
        DELETE => Event::Gone(of.key),
        _ => Event::Put(of),
    })
}

/// `WatchResponse`; `None` if it is cut off.
pub(crate) fn watched(bytes: &[u8]) -> Option<Watched> {
    let mut watched = Watched::default();
    for field in Fields::of(bytes) {
        match field? {
            (1, Value::Bytes(header)) => watched.revision = revision(header)?,
            (4, Value::Number(number)) => watched.canceled = number != 0,
            (5, Value::Number(number)) => watched.compacted = number,
            (6, Value::Bytes(text)) => watched.reason = String::from_utf8_lossy(text).into_owned(),
            (11, Value::Bytes(bytes)) => watched.events.push(event(bytes)?),
            _ => {}
        }
    }
    Some(watched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(behind("/a/"), b"/a0");
        assert_eq!(behind("a\u{7f}"), b"a\x80");
        assert_eq!(behind(""), [0]);
    }

    /// Written by hand as the encoding's document has it: header 1 {revision 3: 7}, and so on.
    #[test]
    fn messages_are_read() {
        let header = b"\x0a\x02\x18\x07";
        let entry = b"\x0a\x01k\x10\x05\x18\x06\x20\x02\x2a\x01v\x30\x09";
        let mut bytes = header.to_vec();
        bytes.extend([0x12, 14]);
        bytes.extend(entry);
        let expected = Entry {
            key: "k".to_owned(),
            value: b"v".to_vec(),
            written: 6,
            lease: LeaseId(9),
        };
        let listing = listing(&bytes).unwrap();
        assert_eq!(
            (listing.revision, listing.entries),
            (7, vec![expected.clone()])
        );
        assert_eq!(transacted(b"\x0a\x02\x18\x07\x10\x01"), Some(Some(7)));
        assert_eq!(transacted(header), Some(None));
        assert_eq!(transacted(b"\x0a\x02\x18"), None);
        assert_eq!(token(b"\x0a\x02\x18\x07\x12\x02ab").as_deref(), Some("ab"));
        assert_eq!(token(header), None);
        let mut bytes = header.to_vec();
        bytes.extend([0x5a, 16, 0x12, 14]);
        bytes.extend(entry);
        bytes.extend(b"\x5a\x07\x08\x01\x12\x03\x0a\x01g");
        let watched = watched(&bytes).unwrap();
        assert_eq!(
            watched.events,
            [Event::Put(expected), Event::Gone("g".to_owned())]
        );
    }
}
