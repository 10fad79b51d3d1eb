//! Questions over HTTP and HTTPS, of probes and of hooks.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use weft_kube::k8s_openapi::api::core::v1::{Container, HTTPGetAction};

use super::{AGENT, dial, port};
use crate::kubelet::chain;

/// Go's limit, which probes follow.
const REDIRECTS: usize = 10;

/// A GET.
#[derive(Debug, Clone)]
pub(in crate::kubelet) struct Question {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kubelet) struct Answered {
    /// The status code.
    pub(in crate::kubelet) code: u16,
    /// Whether it leads to another host, where nobody asks on.
    pub(in crate::kubelet) leads_away: bool,
}

impl Question {
    /// The question that an action puts.
    ///
    /// # Errors
    /// What is wrong with the action.
    pub(in crate::kubelet) fn of(
        action: &HTTPGetAction,
        container: &Container,
        pod_ip: Option<IpAddr>,
    ) -> Result<Self, String> {
        let tls = action.scheme.as_deref();
        let own = action.host.clone().filter(|host| !host.is_empty());
        let host = match own {
            Some(host) => host,
            None => pod_ip.ok_or("the pod has no address")?.to_string(),
        };
        let path = action.path.clone().unwrap_or_default();
        Ok(Question {
            tls: tls.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host,
            port: port(&action.port, container)?,
            path: if path.starts_with('/') {
                path
            } else {
                format!("/{path}")
            },
            headers: headers(action)?,
        })
    }

    /// As Go prints it in its errors.
    pub(in crate::kubelet) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    /// Asks, and follows redirections within the host.
    ///
    /// # Errors
    /// What it met on the way.
    pub(in crate::kubelet) async fn ask(&self) -> Result<Answered, String> {
        let mut question = self.clone();
        for _ in 0..=REDIRECTS {
            let response = question.ask_once().await?;
            let code = response.status().as_u16();
            let location = response.headers().get(LOCATION).cloned();
            let redirects = matches!(code, 301 | 302 | 303 | 307 | 308);
            let Some(location) = location.filter(|_| redirects) else {
                return Ok(Answered {
                    code,
                    leads_away: false,
                });
            };
            match question.follow(&location) {
                Some(next) => question = next,
                None => {
                    return Ok(Answered {
                        code,
                        leads_away: true,
                    });
                }
            }
        }
        Err(format!("stopped after {REDIRECTS} redirects"))
    }

    /// Where a redirection leads, if that is this host.
    fn follow(&self, location: &HeaderValue) -> Option<Self> {
        let target: Uri = location.to_str().ok()?.parse().ok()?;
        let path = target.path_and_query().map_or("/", |path| path.as_str());
        let mut next = self.clone();
        next.path = if path.starts_with('/') {
            path.to_owned()
        } else {
            let folder = self.path.rfind('/').map_or("", |end| &self.path[..end]);
            format!("{folder}/{path}")
        };
        if let Some(host) = target.host() {
            if host.trim_matches(['[', ']']) != self.host {
                return None;
            }
            next.tls = target.scheme_str() == Some("https");
            next.port = target.port_u16().unwrap_or(if next.tls { 443 } else { 80 });
        }
        Some(next)
    }

    async fn ask_once(&self) -> Result<Response<Incoming>, String> {
        let stream = dial(&self.host, self.port).await?;
        if !self.tls {
            return self.exchange(stream).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(unverified()?);
        let stream = connector.connect(name, stream).await;
        self.exchange(stream.map_err(|error| error.to_string())?)
            .await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Response<Incoming>, String> {
        let said = |error: hyper::Error| {
            if error.is_incomplete_message() || error.is_canceled() {
                "EOF".to_owned()
            } else {
                chain(&error)
            }
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(said)?;
        let mut request = Request::get(&self.path)
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        if !headers.contains_key(HOST) {
            let host = HeaderValue::from_str(&self.authority());
            headers.insert(HOST, host.map_err(|error| error.to_string())?);
        }
        let mut answer = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            biased;
            answer = &mut answer => answer.map_err(said),
            ended = connection => match ended {
                // With the connection may have come the answer.
                Ok(()) => answer.await.map_err(said),
                Err(error) => Err(said(error)),
            },
        }
    }
}

/// The action's own headers, and those that every probe has unless it says otherwise; an empty
/// `Accept` is none.
fn headers(action: &HTTPGetAction) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for own in action.http_headers.iter().flatten() {
        let wrong = || format!("the header {:?} cannot be sent", own.name);
        let name = HeaderName::from_bytes(own.name.as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(&own.value).map_err(|_| wrong())?;
        headers.append(name, value);
    }
    headers
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static(AGENT));
    match headers.get(ACCEPT) {
        Some(accept) if accept.is_empty() => drop(headers.remove(ACCEPT)),
        Some(_) => {}
        None => drop(headers.insert(ACCEPT, HeaderValue::from_static("*/*"))),
    }
    Ok(headers)
}

/// Kubernetes does not look at the certificates of those it probes.
fn unverified() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn question(action: serde_json::Value) -> Question {
        let action = serde_json::from_value(action).unwrap();
        Question::of(&action, &Container::default(), "10.0.0.7".parse().ok()).unwrap()
    }

    #[test]
    fn headers_are_the_probes_own_unless_it_says_otherwise() {
        let plain = question(json!({"port": 80}));
        assert_eq!(plain.url(), "http://10.0.0.7:80/");
        assert_eq!(plain.headers[USER_AGENT], "kube-probe/1.32");
        assert_eq!(plain.headers[ACCEPT], "*/*");
        let own = question(
            json!({"port": 443, "scheme": "HTTPS", "path": "/x?y", "host": "fd00::1",
            "httpHeaders": [{"name": "User-Agent", "value": "me"}, {"name": "Accept", "value": ""},
                {"name": "X", "value": "1"}, {"name": "X", "value": "2"}]}),
        );
        assert_eq!(own.url(), "https://[fd00::1]:443/x?y");
        assert_eq!(own.headers[USER_AGENT], "me");
        assert!(!own.headers.contains_key(ACCEPT));
        assert_eq!(own.headers.get_all("x").iter().count(), 2);
    }

    #[test]
    fn redirections_are_followed_within_the_host() {
        let own = question(json!({"port": 8080, "path": "/a/b"}));
        let to = |location: &'static str| {
            own.follow(&HeaderValue::from_static(location))
                .map(|next| next.url())
        };
        assert_eq!(to("/c?d").as_deref(), Some("http://10.0.0.7:8080/c?d"));
        let elsewhere = to("https://10.0.0.7/x");
        assert_eq!(elsewhere.as_deref(), Some("https://10.0.0.7:443/x"));
        assert_eq!(to("http://10.0.0.8:8080/"), None);
    }
}
