//! The connections to the API. They notice that the other end is gone, however quietly it went,
//! and close when nobody has needed them for a while.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// How long a connection may say nothing before its other end is asked whether it is there.
const QUIET: Duration = Duration::from_secs(15);
/// How often it is asked then.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long it may acknowledge nothing. The kernel on its own retries for a quarter of an hour,
/// and after a minute or two only once in a minute: a node that is cut off and comes back would
/// wait that long. client-go notices within 45 s.
const GIVE_UP: Duration = Duration::from_secs(30);
/// A first packet that is lost is sent again after 1, 3 and 7 s; then we begin anew.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection is kept for its next use: longer than a Lease's renewal takes to come
/// around (10 s). One request is on a connection at a time, so many pods that start at once leave
/// many connections.
const SPARE: Duration = Duration::from_secs(15);

/// A client with kube's own layers over connections of ours.
pub(crate) fn client(config: Config) -> kube::Result<Client> {
    // What a proxy needs, and when a credential from a program expires, only kube knows.
    if config.proxy_url.is_some() || config.auth_info.exec.is_some() {
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(QUIET));
    tcp.set_keepalive_interval(Some(ASK_AGAIN));
    tcp.set_tcp_user_timeout(Some(GIVE_UP));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let mut connector = TimeoutConnector::new(tls);
    connector.set_connect_timeout(Some(CONNECT));
    let connections = legacy::Builder::new(TokioExecutor::new())
        .pool_idle_timeout(SPARE)
        .pool_timer(TokioTimer::new())
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(connections);
    Ok(Client::new(service, config.default_namespace))
}
