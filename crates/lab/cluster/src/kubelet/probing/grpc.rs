//! The gRPC health checking protocol: one unary call over HTTP/2 without TLS.
//!
//! Source: grpc/grpc `doc/health-checking.md`.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use weft_kube::k8s_openapi::api::core::v1::GRPCAction;
use weft_proto::grpc;
use weft_proto::protobuf::{Fields, Message, Value};

use super::{AGENT, dial};
use crate::kubelet::chain;
use crate::kubelet::probe::Outcome;

/// `Check` of the service.
const METHOD: &str = "/grpc.health.v1.Health/Check";
/// An answer is two bytes and a prefix; a server may say more, but not for ever.
const ANSWER_LIMIT: usize = 64 * 1024;
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
            .header("content-type", grpc::CONTENT_TYPE)
            .header("te", "trailers")
            .header("user-agent", AGENT)
            .body(Full::new(Bytes::from(question(service))))
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
        let status = |name: &str| heads.get(name).and_then(|value| value.to_str().ok());
        grpc::succeeded(status).map_err(|failure| words(&failure))?;
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

/// What the kubelet says of a status that is not OK.
fn words(failure: &grpc::Failure) -> String {
    let grpc::Failure { code, message } = failure;
    match code.as_str() {
        grpc::UNIMPLEMENTED => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        ),
        code => {
            format!("error: health rpc probe failed: rpc error: code = {code} desc = {message}")
        }
    }
}

/// `HealthCheckRequest{service}` as a gRPC message.
fn question(service: &str) -> Vec<u8> {
    let message = match service {
        "" => Message::default(),
        service => Message::default().text(1, service),
    };
    grpc::framed(message.as_bytes())
}

/// `status` of a framed `HealthCheckResponse`; a field that is not there is 0.
fn state(framed: &[u8]) -> Option<u64> {
    let mut state = 0;
    for field in Fields::of(grpc::unframed(framed)?) {
        if let (1, Value::Number(number)) = field? {
            state = number;
        }
    }
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are those of the protocol's own documents.
    #[test]
    fn messages_are_framed() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
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
        let said = |code: &str| {
            words(&grpc::Failure {
                code: code.to_owned(),
                message: "in words".to_owned(),
            })
        };
        assert!(said("12").contains("does not implement"));
        assert!(said("5").ends_with("code = 5 desc = in words"));
    }
}
