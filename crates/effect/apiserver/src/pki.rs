//! The cluster's certificate authority, the certificates it signs, and kubeconfigs.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};

/// Why a certificate could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Generating or signing failed.
    #[error("making the {what} failed")]
    Generate {
        /// What was being made.
        what: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A file could not be read or written.
    #[error("{path}: the certificate authority can't be kept there")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn generating(what: impl Into<String>) -> impl FnOnce(rcgen::Error) -> PkiError {
    let what = what.into();
    move |source| PkiError::Generate { what, source }
}

/// A name or address a server certificate is valid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// A certificate and its private key, PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").finish_non_exhaustive()
    }
}

/// The certificate authority and the key that signs service-account tokens.
pub struct Pki {
    ca: Credential,
    token_key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").finish_non_exhaustive()
    }
}

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const TOKEN_KEY: &str = "sa.key";

impl Pki {
    /// A new authority of this name.
    pub fn generate(name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(generating("authority's key"))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params
            .self_signed(&key)
            .map_err(generating("authority's certificate"))?;
        let token_key = KeyPair::generate_for(&PKCS_ED25519)
            .map_err(generating("token key"))?
            .serialize_pem();
        let ca = Credential {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        Self::from_pem(ca, token_key)
    }

    /// The authority that `ca` and `token_key` (PKCS #8, Ed25519) are.
    pub fn from_pem(ca: Credential, token_key: String) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(&ca.key).map_err(generating("authority from its key"))?;
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate, key)
            .map_err(generating("authority from its certificate"))?;
        KeyPair::from_pem(&token_key).map_err(generating("token signer from its key"))?;
        Ok(Self {
            ca,
            token_key,
            issuer,
        })
    }

    /// The authority kept in `directory`, or a new one of this name that is kept there.
    pub fn load_or_generate(directory: &Path, name: &str) -> Result<Self, PkiError> {
        let read = |file: &str| fs::read_to_string(directory.join(file));
        match (read(CA_CERTIFICATE), read(CA_KEY), read(TOKEN_KEY)) {
            (Ok(certificate), Ok(key), Ok(token_key)) => {
                Self::from_pem(Credential { certificate, key }, token_key)
            }
            (Err(source), ..) if source.kind() != io::ErrorKind::NotFound => Err(PkiError::File {
                path: directory.join(CA_CERTIFICATE),
                source,
            }),
            _ => {
                let pki = Self::generate(name)?;
                pki.save(directory)?;
                Ok(pki)
            }
        }
    }

    /// Writes the authority to files in `directory` that only their owner can read.
    pub fn save(&self, directory: &Path) -> Result<(), PkiError> {
        fs::create_dir_all(directory).map_err(|source| PkiError::File {
            path: directory.to_owned(),
            source,
        })?;
        // The certificate comes last: its presence says that the rest is there.
        let files = [
            (TOKEN_KEY, &self.token_key),
            (CA_KEY, &self.ca.key),
            (CA_CERTIFICATE, &self.ca.certificate),
        ];
        for (file, content) in files {
            let path = directory.join(file);
            let written = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
                .and_then(|mut file| {
                    io::Write::write_all(&mut file, content.as_bytes())?;
                    file.sync_all()
                });
            written.map_err(|source| PkiError::File { path, source })?;
        }
        Ok(())
    }

    /// The authority's certificate, PEM.
    pub fn ca_certificate(&self) -> &str {
        &self.ca.certificate
    }

    pub(crate) fn token_key(&self) -> &str {
        &self.token_key
    }

    /// A server certificate valid for `names`.
    pub fn server(&self, names: &[SubjectName]) -> Result<Credential, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        for name in names {
            params.subject_alt_names.push(match name {
                SubjectName::Ip(address) => SanType::IpAddress(*address),
                SubjectName::Dns(name) => SanType::DnsName(
                    name.as_str()
                        .try_into()
                        .map_err(generating(format!("server certificate for {name:?}")))?,
                ),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, "server certificate")
    }

    /// A client certificate: the user `name` (CN), a member of `group` (O; empty for none).
    pub fn client(&self, name: &str, group: &str) -> Result<Credential, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        if !group.is_empty() {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, "client certificate")
    }

    fn sign(&self, mut params: CertificateParams, what: &str) -> Result<Credential, PkiError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(generating(format!("{what}'s key")))?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(generating(what))?;
        Ok(Credential {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The text of a kubeconfig with one cluster, user and context of this name.
pub fn kubeconfig(name: &str, server: &str, ca_certificate: &str, client: &Credential) -> String {
    let ca = STANDARD.encode(ca_certificate);
    let certificate = STANDARD.encode(&client.certificate);
    let key = STANDARD.encode(&client.key);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {name}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {name}
current-context: {name}
"
    )
}
