//! What the agent answers over HTTP: at kube-proxy's ports, to kube-proxy's paths.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use weft_serve::ListenAddress;
use weft_serve::health::{self, Health};
use weft_serve::http_server::{self, Answer, Answering, StatusCode};
use weft_serve::metrics::Metrics;
use weft_serve::proxy_health::ProxyHealth;

/// Until an address that could not be listened at is tried again (kube-proxy's).
const PAUSE: Duration = Duration::from_secs(5);

/// What `healthzBindAddress` answers: kube-proxy's `/healthz` and `/livez`, and `/ready`, which
/// is 200 once the node carries traffic.
pub(super) fn health(proxy: ProxyHealth, ready: Health, metrics: Metrics) -> Answering {
    Arc::new(move |question| match question.path {
        "/healthz" => {
            let answer = proxy.healthz();
            metrics.answered_healthz(answer.status);
            answer
        }
        "/livez" => {
            let answer = proxy.livez();
            metrics.answered_livez(answer.status);
            answer
        }
        "/ready" | "/readyz" if ready.ready() => Answer::text(StatusCode::OK, "OK\n"),
        "/ready" | "/readyz" => Answer::text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => Answer::not_found(),
    })
}

/// What `metricsBindAddress` answers.
pub(super) fn metrics(mode: String, metrics: Metrics) -> Answering {
    Arc::new(move |question| match question.path {
        "/metrics" => metrics.answer(),
        "/proxyMode" => Answer::text(StatusCode::OK, mode.clone()),
        // That this is answered at all says that the process is alive.
        "/healthz" => Answer::text(StatusCode::OK, "ok"),
        _ => Answer::not_found(),
    })
}

/// Answers at an address, as soon as it is free: another proxy may be about to leave it.
pub(super) async fn serve(what: &'static str, at: ListenAddress, answering: Answering) {
    let mut failed = false;
    loop {
        match health::listen(at) {
            Ok(listener) => {
                if failed {
                    info!(what, %at, "listening");
                }
                return http_server::serve(listener, answering).await;
            }
            Err(error) => {
                if !failed {
                    warn!(what, %at, %error, "can't listen; trying again");
                }
                failed = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
