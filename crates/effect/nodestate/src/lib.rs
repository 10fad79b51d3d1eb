//! What a node remembers on disk: which address belongs to whom, and what was
//! attached.
//!
//! Both survive `kill -9` and a power cut at any moment. A record gets its name when it is
//! written whole, and is on disk, content and name, before an ADD answers. Reservations are
//! not synced: they follow from the records.

mod attachments;
mod durable;
mod listing;
mod pool;
mod trial;

pub use attachments::{
    Attachment, Attachments, Bridge, Damaged, Listed, Pod, RecordError, Unsynced, digest,
};
pub use durable::Durability;
pub use listing::Listing;
pub use pool::{Adopted, Held, Pool, PoolError, Release, Reservation, Usage};
pub use trial::takes_files;
