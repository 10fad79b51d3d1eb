//! Asks a container runtime what runs, over the Container Runtime Interface.
//!
//! The interface is gRPC on a Unix socket. A call here is one unary exchange over HTTP/2; messages
//! are written and read by field number ([`Message`], [`Fields`]), because of the interface's
//! hundred types two numbers are needed.
//!
//! Source: kubernetes/cri-api `pkg/apis/runtime/v1/api.proto`, grpc/grpc `doc/PROTOCOL-HTTP2.md`.

mod call;
mod wire;

pub use call::{Error, Runtime};
pub use wire::{Fields, Message, Value};

/// All pods.
const LIST: &str = "runtime.v1.RuntimeService/ListPodSandbox";

/// A pod as its runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// What CNI calls the container's id.
    pub id: String,
}

impl Runtime {
    /// Every pod that the runtime knows, running or not: one that does not has still to be
    /// removed, and DEL comes by then.
    ///
    /// # Errors
    /// [`Error`] if the runtime does not answer, or not as the interface says.
    pub fn sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        let answer = self.call(LIST, Message::default())?;
        sandboxes(&answer).ok_or_else(|| self.unreadable(LIST))
    }
}

/// `ListPodSandboxResponse`; `None` if it is cut off.
fn sandboxes(answer: &[u8]) -> Option<Vec<Sandbox>> {
    let mut found = Vec::new();
    for field in Fields::of(answer) {
        // items
        if let (1, Value::Bytes(item)) = field? {
            found.push(sandbox(item)?);
        }
    }
    Some(found)
}

/// `PodSandbox`.
fn sandbox(item: &[u8]) -> Option<Sandbox> {
    let mut id = String::new();
    for field in Fields::of(item) {
        if let (1, Value::Bytes(text)) = field? {
            id = String::from_utf8(text.to_vec()).ok()?;
        }
    }
    Some(Sandbox { id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_sandboxes_is_read() {
        // As protobuf's text format says: items {id: "a" metadata {name: "p"}}
        // items {id: "b" state: 1 created_at: 300}.
        let answer = b"\x0a\x08\x0a\x01a\x12\x03\x0a\x01p\x0a\x08\x0a\x01b\x18\x01\x20\xac\x02";
        let told = |id: &str| Sandbox { id: id.to_owned() };
        assert_eq!(sandboxes(answer).unwrap(), [told("a"), told("b")]);
        assert_eq!(sandboxes(b"").unwrap(), []);
        for end in [1, 5, answer.len() - 1] {
            assert_eq!(sandboxes(&answer[..end]), None, "{end}");
        }
    }
}
