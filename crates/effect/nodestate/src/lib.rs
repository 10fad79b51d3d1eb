//! What a node remembers on disk: which address belongs to whom, and what was
//! attached.
//!
//! Both survive `kill -9` and a power cut at any moment. A record is written to a file of
//! another name and synced before it gets its own name, and the directory is synced before
//! anybody acts on it. Reservations are not synced: they follow from the records.

mod attachments;
mod durable;
mod listing;
mod pool;

pub use attachments::{Attachment, Attachments, Damaged, Listed, Pod, RecordError, digest};
pub use durable::Durability;
pub use listing::Listing;
pub use pool::{Adopted, Held, Pool, PoolError, Reservation, Usage};
