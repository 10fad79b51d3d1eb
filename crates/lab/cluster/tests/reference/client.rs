//! A server of the lab's kinds on a socket of its own, and one request to it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_apiserver::{Pki, SubjectName};

use crate::server::{self, Running};

/// Every answer is here within this time.
const SOON: Duration = Duration::from_secs(60);

pub(crate) struct TestServer {
    address: SocketAddr,
    tls: TlsConnector,
    running: Running,
    _directory: TempDir,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::generate("test").unwrap();
        let tls = connector(&pki);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let name = SubjectName::Dns("localhost".into());
        let config = server::config(directory.path().join("store.redb"), pki, name);
        let running = Running::start(config, listener).await;
        Self {
            address,
            tls,
            running,
            _directory: directory,
        }
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }

    /// Sends one request on a connection of its own: a server may close it after a body
    /// that it does not read.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        tokio::time::timeout(SOON, self.exchange(request))
            .await
            .expect("an answer in time")
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Reply {
        let headers = request.headers_mut();
        headers.insert(header::HOST, "localhost".parse().unwrap());
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = self.tls.connect(name, tcp).await.unwrap();
        let (mut sender, connection) = handshake(TokioIo::new(tls)).await.unwrap();
        let driver = tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        driver.abort();
        Reply {
            status: head.status,
            headers: head.headers,
            body,
        }
    }
}

fn connector(pki: &Pki) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(pki.ca_certificate().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let admin = pki.client("admin", "system:masters").unwrap();
    let chain = vec![CertificateDer::from_pem_slice(admin.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(admin.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    TlsConnector::from(Arc::new(config))
}
