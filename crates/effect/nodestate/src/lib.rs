//! What a node remembers on disk: which address belongs to whom, and what was
//! attached.
//!
//! Both survive `kill -9` and a power cut at any moment: content is written to a
//! file of another name and synced before it gets its own name, and the directory is
//! synced before anybody acts on it.

mod attachments;
mod durable;
mod listing;
mod pool;

pub use attachments::{Attachment, Attachments, Damaged, Listed, Pod, RecordError, digest};
pub use durable::Durability;
pub use listing::Listing;
pub use pool::{Held, Pool, PoolError, Reservation, Usage};
