//! What a node remembers in files: which address belongs to whom, and what was attached.
//!
//! Both survive `kill -9` at any moment. A record gets its name when it is written whole; it
//! tells of what is in the kernel, and goes with it. Addresses survive a power cut too: a
//! reservation is on disk, content and name, before its ADD touches the kernel.

mod attachments;
mod durable;
mod listing;
mod pool;
mod trial;

pub use attachments::{Attachment, Attachments, Bridge, Damaged, Listed, Pod, RecordError, digest};
pub use listing::Listing;
pub use pool::{Adopted, Held, Pool, PoolError, Release, Reservation, Usage};
pub use trial::takes_files;
