//! Who a client is: TLS client certificates and service-account tokens.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// An authenticated client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
}

impl Identity {
    fn new(user: String, uid: String, mut groups: Vec<String>) -> Self {
        groups.push("system:authenticated".to_owned());
        Self { user, uid, groups }
    }

    /// The service account a valid token speaks for.
    pub(crate) fn account(namespace: &str, name: &str, uid: &str) -> Self {
        Self::new(
            format!("system:serviceaccount:{namespace}:{name}"),
            uid.to_owned(),
            vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ],
        )
    }
}

/// What a connection's TLS handshake said about the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// No certificate: a token may follow.
    Unknown,
    /// A certificate of our authority.
    Known(Arc<Identity>),
    /// A certificate that is not valid here.
    Refused,
}

/// Lets every certificate through the handshake, so that a client with a wrong one gets
/// a `metav1.Status` and not a broken connection. [`CertificateCheck::peer`] decides.
#[derive(Debug)]
pub(crate) struct CertificateCheck {
    authority: Arc<dyn ClientCertVerifier>,
}

impl CertificateCheck {
    pub(crate) fn new(authority: Arc<dyn ClientCertVerifier>) -> Self {
        Self { authority }
    }

    /// Who the certificates of a finished handshake belong to.
    pub(crate) fn peer(&self, certificates: Option<&[CertificateDer<'static>]>) -> Peer {
        let Some((own, intermediates)) = certificates.and_then(<[_]>::split_first) else {
            return Peer::Unknown;
        };
        if let Err(error) = self
            .authority
            .verify_client_cert(own, intermediates, UnixTime::now())
        {
            tracing::debug!(%error, "a client certificate is not valid");
            return Peer::Refused;
        }
        subject(own).map_or(Peer::Refused, |identity| Peer::Known(Arc::new(identity)))
    }
}

/// CN is the user, O the groups.
fn subject(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|value| value.as_str().ok())
        .map(str::to_owned)
        .collect();
    Some(Identity::new(user, String::new(), groups))
}

impl ClientCertVerifier for CertificateCheck {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authority
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authority
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.supported_verify_schemes()
    }
}
