//! Asks a container runtime what runs, over the Container Runtime Interface.
//!
//! The interface is gRPC on a Unix socket. A call here is one unary exchange over HTTP/2; what is
//! said in it is `weft_proto`'s.

mod call;

pub use call::{Error, Runtime};
pub use weft_proto::cri::Sandbox;

use weft_proto::cri;
use weft_proto::protobuf::Message;

impl Runtime {
    /// Every pod that the runtime knows, running or not: one that does not has still to be
    /// removed, and DEL comes by then.
    ///
    /// # Errors
    /// [`Error`] if the runtime does not answer, or not as the interface says.
    pub fn sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        let answer = self.call(cri::LIST, &Message::default())?;
        cri::sandboxes(&answer).ok_or_else(|| self.unreadable(cri::LIST))
    }
}
