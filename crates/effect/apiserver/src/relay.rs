//! Carries requests to where [`crate::upstream`] says: bodies as they come, and what becomes a
//! stream of its own (WebSocket, SPDY) byte by byte.
//!
//! Nothing of a stream is understood or kept here: what the server buffers for one is two buffers
//! of the copy, whatever the ends do. Kubernetes' kube-apiserver stands between client and kubelet
//! in the same way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderName, LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsConnector;

use crate::api::Api;
use crate::body::{Answer, BoxError, whole};
use crate::compress::Untouched;
use crate::route::{self, Query, Route};
use crate::status::ApiError;
use crate::upstream::{SUBRESOURCES, Upstream, UpstreamRequest, Upstreams, Way};

/// How long connecting to an upstream may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams at once; a client beyond that is told to come back.
const MAX_STREAMS: usize = 2048;
/// The longest text of a refusal that is passed on.
const MAX_REFUSAL: usize = 64 << 10;
/// Not a name of `http`: a header of HTTP/1.0 that concerns one hop only.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The way out.
pub(crate) struct Relay {
    pub(crate) upstreams: Box<dyn Upstreams>,
    /// To nodes: our authority, our own certificate.
    pub(crate) node_tls: Arc<ClientConfig>,
    /// To what says nothing about its authority.
    pub(crate) any_tls: Arc<ClientConfig>,
    streams: Arc<Semaphore>,
}

impl Relay {
    pub(crate) fn new(
        upstreams: Box<dyn Upstreams>,
        node_tls: ClientConfig,
        any_tls: ClientConfig,
    ) -> Self {
        Self {
            upstreams,
            node_tls: Arc::new(node_tls),
            any_tls: Arc::new(any_tls),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }
}

/// The route of a request that is to be carried, and the part of its path behind the route.
pub(crate) fn route(api: &Api, path: &str) -> Option<(Route, String)> {
    let (group, version, parts) = route::split(path)?;
    // Most requests end here, without a look at the registry.
    if !parts
        .iter()
        .skip(2)
        .any(|part| SUBRESOURCES.contains(&part.as_str()))
    {
        return None;
    }
    let found = Route::find(&api.registry(), group, version, &parts).ok()?;
    if !SUBRESOURCES.contains(&found.subresource.as_str()) {
        return None;
    }
    // `/api/v1` or `/apis/GROUP/VERSION`, then what the route is made of.
    let before =
        if group.is_empty() { 2 } else { 3 } + if found.namespace.is_empty() { 3 } else { 5 };
    let tail = path
        .match_indices('/')
        .nth(before)
        .map_or("", |(at, _)| &path[at..]);
    Some((found, tail.to_owned()))
}

/// Carries a request.
pub(crate) async fn answer<B>(
    api: &Api,
    relay: &Relay,
    mut head: request::Parts,
    body: B,
    (route, tail): (Route, String),
) -> Result<Response<Answer>, ApiError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    allowed(&head.method, &route.subresource)?;
    let raw_query = head.uri.query().unwrap_or_default().to_owned();
    if route.subresource == "proxy"
        && tail.is_empty()
        && matches!(head.method, Method::GET | Method::HEAD)
    {
        return Ok(slash(head.uri.path(), &raw_query));
    }
    let query = Query::parse(&raw_query);
    let request = UpstreamRequest {
        resource: &route.resource,
        namespace: &route.namespace,
        name: &route.name,
        subresource: &route.subresource,
        tail: &tail,
        raw_query: &raw_query,
        query: query.pairs(),
        objects: api,
    };
    let Some(upstream) = relay.upstreams.locate(&request)? else {
        return Ok(whole(StatusCode::NO_CONTENT, "text/plain", Bytes::new()));
    };
    let permit =
        relay.streams.clone().try_acquire_owned().map_err(|_| {
            ApiError::too_many_requests("too many streams are open; try again later")
        })?;
    let client = head.extensions.remove::<OnUpgrade>();
    let upgrade = head.headers.get(UPGRADE).cloned();
    let request = onward(head, body, &upstream, upgrade.as_ref())?;
    let mut response = tokio::time::timeout(CONNECT_TIMEOUT, connect(relay, &upstream.way))
        .await
        .map_err(|_| unreachable(&upstream.way, "no answer in time"))?
        .map_err(|error| unreachable(&upstream.way, &error))?
        .send_request(request)
        .await
        .map_err(|error| unreachable(&upstream.way, &error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let far = hyper::upgrade::on(&mut response);
        let near = client.ok_or_else(|| {
            ApiError::bad_request("this connection cannot be upgraded; use HTTP/1.1")
        })?;
        let shutdown = api.shutdown.clone();
        tokio::spawn(async move {
            join(near, far, shutdown).await;
            drop(permit);
        });
        let (mut head, _) = response.into_parts();
        head.extensions.clear();
        return Ok(Response::from_parts(head, none()));
    }
    if upstream.refusals_as_status && !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let (mut head, body) = response.into_parts();
    head.extensions.clear();
    head.extensions.insert(Untouched);
    remove_hop_headers(&mut head.headers);
    let body = body
        .map_err(|error| -> BoxError { error.into() })
        .map_frame(move |frame| {
            // A stream counts for as long as its body is on its way.
            let _counted = &permit;
            frame
        });
    Ok(Response::from_parts(head, body.boxed_unsync()))
}

fn none() -> Answer {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn allowed(method: &Method, subresource: &str) -> Result<(), ApiError> {
    let allowed = match subresource {
        "proxy" => true,
        "log" => matches!(*method, Method::GET | Method::HEAD),
        _ => matches!(*method, Method::GET | Method::POST),
    };
    allowed
        .then_some(())
        .ok_or_else(ApiError::method_not_allowed)
}

/// Relative links below a proxy need its root to be a folder.
fn slash(path: &str, query: &str) -> Response<Answer> {
    let mut location = format!("{path}/");
    if !query.is_empty() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = whole(StatusCode::MOVED_PERMANENTLY, "text/plain", Bytes::new());
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// The request as the upstream gets it.
fn onward<B>(
    head: request::Parts,
    body: B,
    upstream: &Upstream,
    upgrade: Option<&HeaderValue>,
) -> Result<Request<UnsyncBoxBody<Bytes, BoxError>>, ApiError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let uri: Uri = upstream
        .path
        .parse()
        .map_err(|error| ApiError::bad_request(format!("{}: {error}", upstream.path)))?;
    let mut headers = head.headers;
    remove_hop_headers(&mut headers);
    // Who the client is to us is not for others to know.
    headers.remove(AUTHORIZATION);
    let host = match upstream.way {
        Way::Node(address) | Way::Through { address, .. } => address.to_string(),
    };
    headers.insert(
        HOST,
        HeaderValue::from_str(&host).map_err(ApiError::internal)?,
    );
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    let mut request = Request::new(body.map_err(Into::into).boxed_unsync());
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Removes what concerns one connection only (RFC 9110, section 7.6.1).
fn remove_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

type Sender = http1::SendRequest<UnsyncBoxBody<Bytes, BoxError>>;

async fn connect(relay: &Relay, way: &Way) -> Result<Sender, BoxError> {
    match way {
        Way::Node(node) => handshake(to_node(relay, *node).await?).await,
        Way::Through { node, address, tls } => {
            let stream = tunnel(to_node(relay, *node).await?, &address.to_string()).await?;
            if !tls {
                return handshake(stream).await;
            }
            let name = ServerName::IpAddress(address.ip().into());
            let connector = TlsConnector::from(relay.any_tls.clone());
            handshake(connector.connect(name, stream).await?).await
        }
    }
}

async fn to_node(
    relay: &Relay,
    node: std::net::SocketAddr,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, BoxError> {
    let stream = TcpStream::connect(node).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(node.ip().into());
    let connector = TlsConnector::from(relay.node_tls.clone());
    Ok(connector.connect(name, stream).await?)
}

async fn handshake<S>(stream: S) -> Result<Sender, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to an upstream broke off");
        }
    });
    Ok(sender)
}

/// Has a node connect to `address` for us.
async fn tunnel<S>(stream: S, address: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut sender = handshake(stream).await?;
    let mut request = Request::new(
        Empty::new()
            .map_err(|never| -> BoxError { match never {} })
            .boxed_unsync(),
    );
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = address.parse::<Uri>()?;
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_str(address)?);
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(text(response).await.into());
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await?))
}

/// Carries bytes both ways until an end has gone, or the server stops.
async fn join(near: OnUpgrade, far: OnUpgrade, mut shutdown: watch::Receiver<bool>) {
    let (near, far) = match tokio::try_join!(near, far) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a stream did not begin");
            return;
        }
    };
    let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
    let copied = tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut near, &mut far) => copied,
        _ = shutdown.wait_for(|stop| *stop) => return,
    };
    if let Err(error) = copied {
        tracing::debug!(%error, "a stream broke off");
    }
}

fn unreachable(way: &Way, why: impl std::fmt::Display) -> ApiError {
    match way {
        Way::Node(node) => ApiError::internal(format!("error dialing the node at {node}: {why}")),
        Way::Through { address, .. } => ApiError::service_unavailable(format!(
            "error trying to reach service: dial tcp {address}: {why}"
        )),
    }
}

async fn text(response: Response<Incoming>) -> String {
    match Limited::new(response.into_body(), MAX_REFUSAL)
        .collect()
        .await
    {
        Ok(text) => String::from_utf8_lossy(&text.to_bytes()).trim().to_owned(),
        Err(error) => error.to_string(),
    }
}

/// What a node refused, as a `metav1.Status`.
async fn refusal(response: Response<Incoming>) -> ApiError {
    let status = response.status();
    let message = text(response).await;
    match status {
        StatusCode::BAD_REQUEST => ApiError::bad_request(message),
        StatusCode::NOT_FOUND => {
            let mut error = ApiError::no_such_path();
            error.message = format!("the server could not find the requested resource ({message})");
            error
        }
        _ => ApiError::internal(message),
    }
}
