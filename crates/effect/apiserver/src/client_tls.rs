//! TLS as a client: to nodes, and to what is behind a proxy.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::pki::Pki;
use crate::relay::Relay;
use crate::server::{ServerError, certificates};
use crate::upstream::Upstreams;

/// As whom the API server speaks to nodes (kubeadm's name for that certificate), and the group
/// that nodes let in.
const USER: &str = "kube-apiserver-kubelet-client";
const GROUP: &str = "system:masters";

fn failed(error: impl std::fmt::Display) -> ServerError {
    ServerError::Tls(error.to_string())
}

/// The way out of a server with this authority.
pub(crate) fn relay(pki: &Pki, upstreams: Box<dyn Upstreams>) -> Result<Relay, ServerError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pki.ca_certificate())? {
        roots.add(certificate).map_err(failed)?;
    }
    let own = pki.client(USER, GROUP)?;
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(failed)?;
    let provider = Arc::new(ring::default_provider());
    let to_nodes = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&own.certificate)?, key)
        .map_err(failed)?;
    let to_any = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody { provider }))
        .with_no_client_auth();
    Ok(Relay::new(upstreams, to_nodes, to_any))
}

/// Takes every certificate: nobody says which authority a Service's is of.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
