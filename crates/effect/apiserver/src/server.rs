//! The server: listeners, TLS, connections.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::api::Api;
use crate::client_tls;
use crate::connection::{Patience, Shared};
use crate::custom::{self, Catalog, CommonRules};
use crate::disk::StoreError;
use crate::identity::CertificateCheck;
use crate::negotiate::ProtobufDecoder;
use crate::openapi::{DocumentSource, Documents};
use crate::pki::{Pki, PkiError, SubjectName};
use crate::resource::{Admission, NoAdmission, Registry};
use crate::state::HistoryLimits;
use crate::status::ApiError;
use crate::store::Store;
use crate::threads::{Arrived, Threads};
use crate::token::TokenKey;
use crate::upstream::Upstreams;
use crate::write::{self, FieldValidation, Request};

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// The pause after a failed accept, such as one without a free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a server needs.
pub struct Config {
    /// The store's file; made if missing.
    pub store: PathBuf,
    /// The kinds it serves.
    pub registry: Registry,
    /// Allocation.
    pub admission: Box<dyn Admission>,
    /// OpenAPI documents better than those made from the registry.
    pub documents: Option<DocumentSource>,
    /// What holds for objects of every kind; without it the server serves no custom
    /// resources.
    pub common: Option<Arc<dyn CommonRules>>,
    /// Bodies in Kubernetes' protobuf, which some clients send whatever is accepted;
    /// without it they get 415.
    pub protobuf: Option<ProtobufDecoder>,
    /// The authority whose clients are known, and which signs the server's certificate.
    pub pki: Pki,
    /// What the server's certificate is valid for.
    pub names: Vec<SubjectName>,
    /// Objects that are created before the first request, where they are missing.
    pub bootstrap: Vec<Value>,
    /// How much history watches can go back.
    pub history: HistoryLimits,
    /// Where streams into pods and proxies go; without this they get 501.
    pub upstreams: Option<Box<dyn Upstreams>>,
    /// How long clients may keep the server waiting.
    pub patience: Patience,
}

impl Config {
    /// A server of `registry` at the file `store`, with nothing else special.
    pub fn new(store: PathBuf, registry: Registry, pki: Pki, names: Vec<SubjectName>) -> Self {
        Self {
            store,
            registry,
            admission: Box::new(NoAdmission),
            documents: None,
            common: None,
            protobuf: None,
            pki,
            names,
            bootstrap: Vec::new(),
            history: HistoryLimits::default(),
            upstreams: None,
            patience: Patience::default(),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("store", &self.store)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Why a server can't start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store can't be opened.
    #[error("the API server's store can't be opened")]
    Store(#[from] StoreError),
    /// The certificates can't be made.
    #[error("the API server's certificates can't be made")]
    Pki(#[from] PkiError),
    /// The certificates can't be used.
    #[error("the API server's TLS can't be set up: {0}")]
    Tls(String),
    /// A listener can't be used.
    #[error("the API server can't use its listener")]
    Listener(#[source] io::Error),
    /// The threads that serve connections can't be started.
    #[error("the API server's threads can't be started")]
    Threads(#[source] io::Error),
    /// What goes with the stored objects can't be completed.
    #[error("the stored objects can't be repaired: {0}")]
    Repair(#[source] Box<ApiError>),
    /// An object that must be there from the start can't be created.
    #[error("{kind} {name} can't be created at start: {source}")]
    Bootstrap {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<ApiError>,
    },
}

/// A server that is open but does not listen yet.
pub struct Server {
    api: Arc<Api>,
    tls: TlsAcceptor,
    check: Arc<CertificateCheck>,
    patience: Patience,
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// Opens a server and serves on `listeners` until `shutdown`.
pub async fn serve(
    config: Config,
    listeners: Vec<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    Server::open(config).await?.run(listeners, shutdown).await
}

impl Server {
    /// Opens the store, repairs the allocations from it, and creates what must be there.
    pub async fn open(config: Config) -> Result<Self, ServerError> {
        let check = Arc::new(certificate_check(&config.pki)?);
        let tls = tls_config(&config.pki, &config.names, check.clone())?;
        let token_key = TokenKey::from_pem(config.pki.token_key())
            .ok_or_else(|| ServerError::Tls("the token key is not an Ed25519 key".to_owned()))?;
        let relay = config
            .upstreams
            .map(|upstreams| client_tls::relay(&config.pki, upstreams))
            .transpose()?;
        let mut registry = config.registry;
        if let Some(common) = &config.common {
            let row = registry
                .find(custom::GROUP, custom::VERSION, custom::PLURAL)
                .cloned();
            if let Some(row) = row {
                registry.replace(custom::definitions(&row, common.clone()));
            }
        }
        let registry = Arc::new(RwLock::new(Arc::new(registry)));
        let catalog = Catalog::new(registry.clone(), config.common.clone());
        let store = Store::open(
            &config.store,
            config.history,
            registry.clone(),
            config.admission,
            catalog,
        )?;
        let (stop, shutdown) = watch::channel(false);
        let server = Self {
            api: Arc::new(Api {
                registry,
                store,
                token_key,
                documents: Arc::new(Documents::new(config.documents, config.common)),
                protobuf: config.protobuf,
                relay,
                patience: config.patience,
                shutdown,
            }),
            tls: TlsAcceptor::from(Arc::new(tls)),
            check,
            patience: config.patience,
            stop,
        };
        let repaired = server.api.store.write(|tx| {
            tx.complete();
            Ok(())
        });
        repaired
            .await
            .map_err(|source| ServerError::Repair(Box::new(source)))?;
        for object in config.bootstrap {
            server.ensure(object).await?;
        }
        Ok(server)
    }

    /// Creates an object unless it exists.
    async fn ensure(&self, object: Value) -> Result<(), ServerError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        let failed = |source| ServerError::Bootstrap {
            kind: kind.clone(),
            name: name.clone(),
            source: Box::new(source),
        };
        let registry = self.api.registry();
        let resource = registry
            .find_kind(&text(&object["apiVersion"]), &kind)
            .cloned()
            .ok_or_else(|| failed(ApiError::no_such_path()))?;
        let namespace = text(&object["metadata"]["namespace"]);
        if self.api.store.get(&resource, &namespace, &name).is_some() {
            return Ok(());
        }
        let request = Request {
            resource,
            namespace,
            name: name.clone(),
            subresource: None,
            user: "system:apiserver".to_owned(),
            manager: "kube-apiserver".to_owned(),
            now: Timestamp::now(),
            dry_run: false,
            validation: FieldValidation::Strict,
        };
        let (object, warnings) = request.decode(object.into()).map_err(failed)?;
        self.api
            .store
            .write(move |tx| {
                let status = object.get("status").cloned();
                let created = write::create(tx, &request, object, warnings)?;
                let Some(status) = status else {
                    return Ok(created);
                };
                // Nobody but us would say it.
                let mut object = created.object.value();
                object["status"] = status;
                let request = Request {
                    subresource: Some("status".to_owned()),
                    ..request
                };
                write::update(tx, &request, created.object, object, Vec::new())
            })
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Serves on `listeners` until `shutdown`, then ends watches, lets requests finish,
    /// and closes the store.
    pub async fn run(
        self,
        listeners: Vec<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let threads = Arc::new(Threads::start().map_err(ServerError::Threads)?);
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut acceptors = JoinSet::new();
        for listener in listeners {
            listener
                .set_nonblocking(true)
                .map_err(ServerError::Listener)?;
            let listener =
                tokio::net::TcpListener::from_std(listener).map_err(ServerError::Listener)?;
            let connections = Connections {
                shared: Shared {
                    api: self.api.clone(),
                    tls: self.tls.clone(),
                    check: self.check.clone(),
                    patience: self.patience,
                    stop: self.stop.subscribe(),
                },
                permits: permits.clone(),
                threads: threads.clone(),
            };
            acceptors.spawn(connections.accept(listener));
        }
        acceptors.spawn(custom::clean_up(self.api.clone()));
        shutdown.await;
        self.stop.send_replace(true);
        while acceptors.join_next().await.is_some() {}
        if let Some(threads) = Arc::into_inner(threads) {
            threads.end().await;
        }
        self.api.store.close().await;
        Ok(())
    }
}

struct Connections {
    shared: Shared,
    permits: Arc<Semaphore>,
    threads: Arc<Threads>,
}

impl Connections {
    async fn accept(mut self, listener: tokio::net::TcpListener) {
        let mut refused = false;
        loop {
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                break;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = self.shared.stop.wait_for(|stop| *stop) => break,
            };
            let accepted = accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer)));
            match accepted {
                Ok((stream, peer)) => {
                    if std::mem::take(&mut refused) {
                        tracing::info!("connections can be accepted again");
                    }
                    self.threads.take(Arrived {
                        stream,
                        peer,
                        shared: self.shared.clone(),
                        permit,
                    });
                }
                Err(error) => {
                    // Once, however long it lasts.
                    if !std::mem::replace(&mut refused, true) {
                        tracing::warn!(%error, "connections can't be accepted; those there are go on");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| ServerError::Tls(error.to_string()))
}

fn certificate_check(pki: &Pki) -> Result<CertificateCheck, ServerError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pki.ca_certificate())? {
        roots
            .add(certificate)
            .map_err(|error| ServerError::Tls(error.to_string()))?;
    }
    let provider = Arc::new(ring::default_provider());
    let authority = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| ServerError::Tls(error.to_string()))?;
    Ok(CertificateCheck::new(authority))
}

fn tls_config(
    pki: &Pki,
    names: &[SubjectName],
    check: Arc<CertificateCheck>,
) -> Result<ServerConfig, ServerError> {
    let own = pki.server(names)?;
    let chain = certificates(&own.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes())
        .map_err(|error| ServerError::Tls(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ServerError::Tls(error.to_string()))?
        .with_client_cert_verifier(check)
        .with_single_cert(chain, key)
        .map_err(|error| ServerError::Tls(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
