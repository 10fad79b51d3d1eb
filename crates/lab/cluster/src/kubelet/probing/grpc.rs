//! The gRPC health checking protocol: one unary call over HTTP/2 without TLS.
//!
//! Source: grpc/grpc `doc/health-checking.md`, `doc/PROTOCOL-HTTP2.md`, protobuf's encoding.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use weft_kube::k8s_openapi::api::core::v1::GRPCAction;

use super::{AGENT, dial};
use crate::kubelet::chain;
use crate::kubelet::probe::Outcome;

/// `Check` of the service.
const METHOD: &str = "/grpc.health.v1.Health/Check";
/// An answer is two bytes and a prefix; a server may say more, but not for ever.
const ANSWER_LIMIT: usize = 64 * 1024;
/// gRPC's status codes that mean something here (`doc/statuscodes.md`).
const OK: &str = "0";
const UNIMPLEMENTED: &str = "12";
/// `HealthCheckResponse.ServingStatus`.
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// Asks a server how a service of it is.
pub(super) async fn ask(action: &GRPCAction, pod_ip: Option<IpAddr>, timeout: Duration) -> Outcome {
    let (Some(ip), Ok(port)) = (pod_ip, u16::try_from(action.port)) else {
        return Outcome::Failure("the pod has no such address".to_owned());
    };
    let service = action.service.as_deref().unwrap_or_default();
    let address = std::net::SocketAddr::new(ip, port);
    match tokio::time::timeout(timeout, call(&ip.to_string(), port, service)).await {
        Ok(Ok(SERVING)) => Outcome::Success,
        Ok(Ok(state)) => {
            let state = usize::try_from(state).ok();
            let name = state
                .and_then(|state| STATES.get(state))
                .unwrap_or(&"UNKNOWN");
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Ok(Err(reason)) => Outcome::Failure(reason),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service {:?} within {}s: context deadline exceeded",
            address.to_string(),
            timeout.as_secs()
        )),
    }
}

async fn call(host: &str, port: u16, service: &str) -> Result<u64, String> {
    let failed =
        |error: String| format!("error: failed to connect service at {host:?}:{port}: {error}");
    let stream = dial(host, port).await.map_err(failed)?;
    let said = |error: hyper::Error| failed(chain(&error));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(said)?;
    let exchange = async move {
        let authority = std::net::SocketAddr::new(
            host.parse().map_err(|_| failed("no address".to_owned()))?,
            port,
        );
        let request = Request::post(format!("http://{authority}{METHOD}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", AGENT)
            .body(Full::new(question(service)))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(said)?;
        if !response.status().is_success() {
            return Err(format!(
                "error: health rpc probe failed: unexpected HTTP status code {}",
                response.status().as_u16()
            ));
        }
        let mut heads = response.headers().clone();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        heads.extend(body.trailers().cloned().unwrap_or_default());
        succeeded(&heads)?;
        state(&body.to_bytes())
            .ok_or_else(|| "error: health rpc probe failed: its answer cannot be read".to_owned())
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => match ended {
            // With the connection may have come the answer.
            Ok(()) => exchange.await,
            Err(error) => Err(said(error)),
        },
    }
}

/// Whether the call's status, in the trailers or in an answer of headers alone, is OK.
fn succeeded(heads: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| {
        let value = heads.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    let message = text("grpc-message");
    match text("grpc-status") {
        OK => Ok(()),
        UNIMPLEMENTED => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        code => Err(format!(
            "error: health rpc probe failed: rpc error: code = {code} desc = {message}"
        )),
    }
}

/// `HealthCheckRequest{service}` as a gRPC message: not compressed, its length, the bytes.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, length-delimited.
        message.push(0x0a);
        varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
}

/// `status` of a framed `HealthCheckResponse`; a field that is not there is 0.
fn state(framed: &[u8]) -> Option<u64> {
    let (prefix, rest) = framed.split_at_checked(5)?;
    let [0, length @ ..] = prefix else {
        return None;
    };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let mut rest = rest.get(..usize::try_from(length).ok()?)?;
    let mut state = 0;
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => state = take_varint(&mut rest)?,
            (_, 0) => drop(take_varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(state)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are those of the protocol's own documents.
    #[test]
    fn messages_are_framed() {
        assert_eq!(question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(
            question("ab").as_ref(),
            [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']
        );
        assert_eq!(state(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(state(&[0, 0, 0, 0, 0]), Some(0));
        // A field of a later version before it.
        assert_eq!(state(&[0, 0, 0, 0, 5, 0x12, 1, 7, 8, 2]), Some(2));
        for broken in [
            &[][..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 8],
            &[1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 1, 0x80],
        ] {
            assert_eq!(state(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_status_that_is_not_ok_says_what_it_is() {
        let heads = |code: &'static str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static(code),
            )])
        };
        assert_eq!(succeeded(&heads("0")), Ok(()));
        assert!(
            succeeded(&heads("12"))
                .unwrap_err()
                .contains("does not implement")
        );
        assert!(succeeded(&heads("5")).unwrap_err().contains("code = 5"));
        assert!(succeeded(&HeaderMap::new()).is_err());
    }
}
