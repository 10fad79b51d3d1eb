//! A netlink socket: requests, acknowledgements, dumps, batches and notifications.
//!
//! The socket is synchronous. The kernel works on a request before `send` returns, so
//! waiting for its answer is a copy out of a queue; a caller on an async runtime does
//! not stall it longer than the request itself takes.
//!
//! Sources: netlink(7), rtnetlink(7), the kernel's `Documentation/userspace-api/netlink/`
//! and `include/uapi/linux/netlink.h`.

mod error;
mod message;
mod socket;
mod wire;

pub use rustix::io::Errno;

pub use error::Error;
pub use message::{
    Attribute, Attributes, Failure, HEADER_LENGTH, Message, Messages, Request, attributes,
    put_message,
};
pub(crate) use socket::CALL;
pub use socket::{Bus, Socket};
pub use wire::{Kernel, Wire};
