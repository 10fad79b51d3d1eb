//! Long answers, made shorter on the way: gzip, for clients that take it.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};

use crate::body::{Answer, BoxError};

/// Shorter answers are not worth it. Both numbers are kube-apiserver's.
const LONG: u64 = 128 << 10;
/// The fastest level: on this machine's own network time is dearer than bytes.
const LEVEL: u32 = 1;

/// Marks an answer that is long, though its length is not known yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Long;

/// Marks an answer of somebody else, which is passed on as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untouched;

/// Whether a client takes gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| {
            let mut parts = one.split(';').map(str::trim);
            let named = matches!(parts.next(), Some("gzip" | "*"));
            named && parts.all(|part| !matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
}

/// Shortens a long answer that is not shortened yet.
pub(crate) fn shorten(mut response: Response<Answer>) -> Response<Answer> {
    let long = response.extensions().get::<Long>().is_some()
        || response.body().size_hint().exact().unwrap_or(0) > LONG;
    let untouched = response.extensions().get::<Untouched>().is_some();
    if !long || untouched || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    mark(response.headers_mut());
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.map(|body| {
        let encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
        Gzip {
            body,
            encoder: Some(encoder),
        }
        .boxed_unsync()
    })
}

/// Says that a body is in gzip.
pub(crate) fn mark(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A text in gzip.
pub(crate) fn pack(text: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text)?;
    Ok(encoder.finish()?.into())
}

/// The text of what [`pack`] made.
pub(crate) fn unpack(packed: &[u8]) -> io::Result<Bytes> {
    let mut text = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut text)?;
    Ok(text.into())
}

/// The next data of a body; `None` at its end.
fn next_data(
    body: &mut Answer,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, BoxError>>> {
    loop {
        match ready!(Pin::new(&mut *body).poll_frame(context)) {
            None => return Poll::Ready(None),
            // Answers have no trailers.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Poll::Ready(Some(Ok(data)));
                }
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
        }
    }
}

/// A body that is shortened piece by piece.
struct Gzip {
    body: Answer,
    /// `None` once everything is sent.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Body for Gzip {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let this = &mut *self;
            let Some(encoder) = &mut this.encoder else {
                return Poll::Ready(None);
            };
            let data = match ready!(next_data(&mut this.body, context)) {
                Some(Err(error)) => {
                    this.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(data)) => {
                    // Writing into memory can't fail.
                    let _ = encoder.write_all(&data);
                    std::mem::take(encoder.get_mut())
                }
                None => this
                    .encoder
                    .take()
                    .and_then(|encoder| encoder.finish().ok())
                    .unwrap_or_default(),
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_gzip() {
        for (value, wanted) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("*", true),
            ("identity", false),
            ("gzip;q=0", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(accepts_gzip(&headers), wanted, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn what_is_packed_can_be_unpacked() {
        let text = "weft ".repeat(1000);
        let packed = pack(text.as_bytes()).unwrap();
        assert!(packed.len() < 100);
        assert_eq!(unpack(&packed).unwrap(), text.as_bytes());
    }
}
