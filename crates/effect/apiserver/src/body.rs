//! Bodies: bounded ones from clients, whole or streamed ones to them.

use std::pin::{Pin, pin};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body, Frame};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::connection::Patience;
use crate::negotiate::{Encoding, encode, media_type};
use crate::stalled::{self, Watched};
use crate::status::ApiError;

/// The body of an answer.
pub(crate) type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// Why a body that comes from elsewhere broke off.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The longest body a client may send, as in Kubernetes.
const MAX_BODY: usize = 3 << 20;
/// What of a longer one is taken and thrown away, so that its client reads the answer.
const MAX_DISCARDED: usize = 32 << 20;

/// An answer of known length.
pub(crate) fn whole(
    status: StatusCode,
    media: &'static str,
    body: impl Into<Bytes>,
) -> Response<Answer> {
    let mut response = Response::new(
        Full::new(body.into())
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// An answer that goes on for a while; given up when the client does not take it.
pub(crate) fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Response<Answer> {
    use futures::StreamExt;
    let frames = Watched::new(chunks, stalled::PATIENCE)
        .map(|chunk| chunk.map(Frame::data).map_err(BoxError::from));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// The hash of some texts, as an entity tag and in addresses.
pub(crate) fn hash<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text);
    }
    let hash = hash.finalize();
    hash.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// An answer that a client may keep and ask for again by its tag: 304 if it has it already.
pub(crate) fn tagged(
    asked: &HeaderMap,
    tag: &str,
    media: &'static str,
    body: impl FnOnce() -> Bytes,
) -> Response<Answer> {
    let quoted = format!("\"{tag}\"");
    let known = asked
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| matches!(one.trim(), "*") || one.trim().trim_start_matches("W/") == quoted);
    let mut response = if known {
        let mut response = Response::new(
            Full::new(Bytes::new())
                .map_err(|never| match never {})
                .boxed_unsync(),
        );
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        whole(StatusCode::OK, media, body())
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&quoted) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A document.
pub(crate) fn document(
    status: StatusCode,
    value: &Value,
    encoding: Encoding,
) -> Result<Response<Answer>, ApiError> {
    Ok(whole(
        status,
        media_type(encoding),
        encode(value, encoding)?,
    ))
}

/// The `metav1.Status` of an error.
pub(crate) fn failure(error: &ApiError) -> Response<Answer> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = whole(status, "application/json", error.to_status().to_string());
    if let Some(seconds) = error.details["retryAfterSeconds"].as_u64() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Reads a client's body: at most 3 MiB, in time. One that waits for an invitation to send it
/// (`Expect: 100-continue`, RFC 9110, 10.1.1) gets it when its body is first asked for.
pub(crate) async fn read<B>(
    headers: &HeaderMap,
    body: B,
    patience: Patience,
) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = pin!(body);
    if body.size_hint().lower() <= MAX_BODY as u64 {
        let read = Limited::new(body.as_mut(), MAX_BODY).collect();
        match tokio::time::timeout(patience.body, read).await {
            Err(_) => return Err(ApiError::request_timeout()),
            Ok(Ok(collected)) => return Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {}
            Ok(Err(error)) => {
                let why = format!("the body broke off: {error}");
                return Err(ApiError::bad_request(why));
            }
        }
    } else if headers.contains_key(header::EXPECT) {
        return Err(ApiError::too_large(MAX_BODY));
    }
    // Who goes on for longer loses the connection.
    let _ = tokio::time::timeout(patience.linger, discard(body)).await;
    Err(ApiError::too_large(MAX_BODY))
}

/// Takes what a client still sends, within bounds: over HTTP/1 one that is writing when its
/// connection is closed does not come to read why.
async fn discard<B: Body<Data = Bytes>>(mut body: Pin<&mut B>) {
    let mut left = MAX_DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
