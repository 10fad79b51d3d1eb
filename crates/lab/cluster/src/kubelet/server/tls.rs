//! The kubelet's certificate, and who its clients are.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::Error;

/// The group of the API server's client certificate.
const MASTERS: &str = "system:masters";

/// TLS with the certificate and key in a file, for clients of this authority (PEM).
pub(super) fn acceptor(path: &Path, authority: Option<&[u8]>) -> Result<TlsAcceptor, Error> {
    let wrong = |reason: String| Error::Certificate {
        path: path.to_owned(),
        reason,
    };
    let failed = |error: &dyn std::fmt::Display| wrong(error.to_string());
    let text = std::fs::read(path).map_err(|error| failed(&error))?;
    let own: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| failed(&error))?;
    let authority =
        authority.ok_or_else(|| wrong("the kubeconfig names no authority".to_owned()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority) {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| failed(&error))?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(own, key)
        .map_err(|error| failed(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Whether the client, whose certificate the handshake has verified, may do everything.
pub(super) fn is_master(certificates: Option<&[CertificateDer<'static>]>) -> bool {
    let Some(own) = certificates.and_then(<[_]>::first) else {
        return false;
    };
    x509_parser::parse_x509_certificate(own).is_ok_and(|(_, parsed)| {
        parsed
            .subject()
            .iter_organization()
            .any(|group| group.as_str() == Ok(MASTERS))
    })
}
