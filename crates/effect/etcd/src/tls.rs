//! TLS to etcd, with certificates from files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::Error;

/// The files, each in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authorities that a member's certificate may be of.
    pub authorities: PathBuf,
    /// This client's own certificate, with those between it and the authority, and its key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// What a connection needs.
#[derive(Clone)]
pub struct Tls(pub(crate) TlsConnector);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Tls`] with the file that can't be used.
    pub fn read(files: &TlsFiles) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        let what = "the authorities' certificates";
        let failed = |reason: &dyn fmt::Display| wrong(what, &files.authorities, reason);
        for certificate in certificates(what, &files.authorities)? {
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots);
        let mut config = match &files.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("this client's certificate", certificate)?;
                let what = "this client's key";
                let failed = |reason: &dyn fmt::Display| wrong(what, key, reason);
                let own = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(&error))?;
                builder
                    .with_client_auth_cert(chain, own)
                    .map_err(|error| failed(&error))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |reason: &dyn fmt::Display| wrong(what, path, reason);
    let all = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
    let all: Result<Vec<_>, _> = all.collect();
    let all = all.map_err(|error| failed(&error))?;
    match all.is_empty() {
        true => Err(failed(&"no certificate in it")),
        false => Ok(all),
    }
}

fn wrong(what: &'static str, path: &Path, reason: &dyn fmt::Display) -> Error {
    Error::Tls {
        what,
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let authorities = folder.path().join("ca.pem");
        let files = TlsFiles {
            authorities: authorities.clone(),
            own: None,
        };
        let error = || Tls::read(&files).unwrap_err().to_string();
        let named = format!("the authorities' certificates {}: ", authorities.display());
        assert!(error().starts_with(&named), "{}", error());
        fs::write(&authorities, "nothing").unwrap();
        assert_eq!(error(), format!("{named}no certificate in it"));
    }
}
