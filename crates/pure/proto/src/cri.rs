//! The Container Runtime Interface: what a runtime says of its pods.
//!
//! Messages are written and read by field number ([`crate::protobuf`]), because of the
//! interface's hundred types two numbers are needed.
//!
//! Source: kubernetes/cri-api `pkg/apis/runtime/v1/api.proto`.

use crate::protobuf::{Fields, Message, Value};

/// The method that lists pods; its question is an empty message.
pub const LIST: &str = "runtime.v1.RuntimeService/ListPodSandbox";

/// A pod as its runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// What CNI calls the container's id.
    pub id: String,
}

/// The pods of a `ListPodSandboxResponse`; `None` if it can't be read to its end.
pub fn sandboxes(answer: &[u8]) -> Option<Vec<Sandbox>> {
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

/// The body of a fuzz target: reads `data` as a runtime's answer, with gRPC's prefix. Must not
/// panic, whatever `data` is; what was read is read again as it is written.
///
/// # Panics
/// When it is not.
pub fn exercise(data: &[u8]) {
    let Some(found) = crate::grpc::unframed(data).and_then(sandboxes) else {
        return;
    };
    let mut answer = Message::default();
    for sandbox in &found {
        answer = answer.message(1, &Message::default().text(1, &sandbox.id));
    }
    let framed = crate::grpc::framed(answer.as_bytes());
    let again = crate::grpc::unframed(&framed).and_then(sandboxes);
    assert_eq!(again, Some(found));
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
