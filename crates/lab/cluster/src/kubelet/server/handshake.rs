//! The change from HTTP to WebSocket (RFC 6455, section 4.2).

use bytes::Bytes;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Body, Refusal};

/// The longest message taken: clients write in pieces of 32 KiB.
const MESSAGE_LIMIT: usize = 1 << 20;
/// What may wait to be written before a writer waits too.
const WRITE_BUFFER: usize = 64 * 1024;

/// A WebSocket connection.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A handshake that is agreed upon.
pub(super) struct Agreed {
    /// The answer to send.
    pub(super) response: Response<Body>,
    /// The protocol, one of those offered.
    pub(super) protocol: &'static str,
    upgrade: OnUpgrade,
}

impl Agreed {
    /// The connection, once the answer is sent.
    pub(super) async fn socket(upgrade: OnUpgrade) -> Result<Socket, hyper::Error> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT))
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER + MESSAGE_LIMIT);
        let stream = TokioIo::new(upgrade.await?);
        Ok(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await)
    }

    /// Takes it apart.
    pub(super) fn into_parts(self) -> (Response<Body>, &'static str, OnUpgrade) {
        (self.response, self.protocol, self.upgrade)
    }
}

/// Agrees on the first of the client's protocols that is served.
pub(super) fn agree(
    request: &mut Request<Incoming>,
    served: &[&'static str],
) -> Result<Agreed, Refusal> {
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    let headers = request.headers();
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let upgrade = header(UPGRADE).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("websocket") {
        // SPDY/3.1, which clients fall back to, would be agreed upon here. Its clients take a text
        // that is a map in YAML, one with a colon in it, for an error without a message.
        return Err(bad(format!(
            "{upgrade:?} is not served, only WebSocket, which kubectl speaks from 1.31 on"
        )));
    }
    if header(SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(bad("websocket: version 13 is required".to_owned()));
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .ok_or_else(|| bad("websocket: Sec-WebSocket-Key is missing".to_owned()))?;
    let accept = derive_accept_key(key.as_bytes());
    let offered: Vec<&str> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let protocol = offered
        .iter()
        .find_map(|one| served.iter().find(|served| *served == one).copied())
        .ok_or_else(|| {
            Refusal::new(
                StatusCode::FORBIDDEN,
                format!(
                    "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {served:?}"
                ),
            )
        })?;
    let accept = HeaderValue::from_str(&accept).map_err(Refusal::internal)?;
    let upgrade = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| bad("this connection cannot be upgraded".to_owned()))?;
    let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(Agreed {
        response,
        protocol,
        upgrade,
    })
}
