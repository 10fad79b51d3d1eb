//! What a unary gRPC call adds to HTTP/2: the prefix of a message, and the status behind it.
//!
//! Source: grpc/grpc `doc/PROTOCOL-HTTP2.md`, `doc/statuscodes.md`.

/// The media type of a request.
pub const CONTENT_TYPE: &str = "application/grpc";
/// The header of the trailers that holds the status code.
pub const STATUS: &str = "grpc-status";
/// The header of the trailers that holds the status' words, percent-encoded.
pub const STATUS_MESSAGE: &str = "grpc-message";

/// The status code `OK`.
const OK: &str = "0";
/// The status code of a method that the server has not.
pub const UNIMPLEMENTED: &str = "12";

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The status code as it was sent; empty where none was, which is no success either.
    pub code: String,
    /// The server's words; may be empty.
    pub message: String,
}

/// Whether a call's status is OK. `head` looks a header up, in the trailers or, in an answer
/// without a body, among the headers.
///
/// # Errors
/// [`Failure`]: the status that was sent.
pub fn succeeded<'a>(head: impl Fn(&str) -> Option<&'a str>) -> Result<(), Failure> {
    let text = |name| head(name).unwrap_or_default().to_owned();
    match text(STATUS) {
        code if code == OK => Ok(()),
        code => Err(Failure {
            code,
            message: text(STATUS_MESSAGE),
        }),
    }
}

/// A message with its prefix: not compressed, its length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// The first message of a body; `None` if it is compressed or cut off.
pub fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = body.split_at_checked(5)?;
    let [0, length @ ..] = prefix else {
        return None;
    };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    rest.get(..usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed() {
        assert_eq!(framed(b""), [0, 0, 0, 0, 0]);
        assert_eq!(framed(&[7, 8]), [0, 0, 0, 0, 2, 7, 8]);
        assert_eq!(unframed(&framed(&[7, 8])), Some(&[7, 8][..]));
        // Of a stream the first.
        assert_eq!(unframed(&[0, 0, 0, 0, 1, 7, 0, 0]), Some(&[7][..]));
        for cut in [
            &[][..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 7],
            &[0, 0xff, 0xff, 0xff, 0xff, 7],
            &[1, 0, 0, 0, 0],
        ] {
            assert_eq!(unframed(cut), None);
        }
    }

    #[test]
    fn a_status_that_is_not_ok_is_a_failure() {
        let told = |code: Option<&'static str>| {
            succeeded(|name| match name {
                STATUS => code,
                STATUS_MESSAGE => Some("in words"),
                _ => None,
            })
        };
        assert_eq!(told(Some("0")), Ok(()));
        for code in [Some("5"), Some(""), Some("00"), None] {
            let failure = told(code).unwrap_err();
            assert_eq!(failure.code, code.unwrap_or_default());
            assert_eq!(failure.message, "in words");
        }
    }
}
