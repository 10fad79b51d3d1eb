//! The node's side of a verb's work in the kernel.

use weft_proto::cni::{Code, Error};
use weft_sys::nft::Connection;
use weft_sys::rtnl::Conversation;

use super::chain;

/// One conversation about links and one about rules, for everything that a verb does. To end one
/// about rules is to wait until the kernel has freed what it removed: that is best begun early,
/// and ended last.
pub(super) struct Node {
    pub(super) links: Conversation,
    pub(super) rules: Connection,
}

impl Node {
    /// The node that the calling thread is in.
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self {
            links: links()?,
            rules: rules()?,
        })
    }
}

/// A conversation about links.
pub(super) fn links() -> Result<Conversation, Error> {
    Conversation::open().map_err(|error| silent("links", &error))
}

/// A conversation about rules.
pub(super) fn rules() -> Result<Connection, Error> {
    Connection::open().map_err(|error| silent("rules (nf_tables)", &error))
}

fn silent(about: &str, error: &dyn std::error::Error) -> Error {
    let reason = chain(error);
    Error::new(
        Code::Kernel,
        format!("cannot talk to the kernel about {about}: {reason}"),
    )
}
