//! How to reach the API.

use std::path::PathBuf;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use thiserror::Error;

use crate::transport;

/// Where the API is and who we are there.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig file. Without one: the service account of the pod we run in,
    /// else `$KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The API's URL, instead of what the kubeconfig or the pod's environment says.
    /// An agent needs it where nobody but itself makes the `kubernetes` Service work.
    pub server: Option<String>,
}

/// Why the API can't be reached.
#[derive(Debug, Error)]
pub enum AccessError {
    /// The kubeconfig file is unreadable or says something impossible.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What the client library says of it.
        source: kube::config::KubeconfigError,
    },
    /// There is neither a service account nor a kubeconfig.
    #[error(
        "no access to a Kubernetes API: give --kubeconfig, set KUBECONFIG, or run in a pod with a service account"
    )]
    Nowhere(#[source] kube::config::InferConfigError),
    /// The server's URL is not one.
    #[error("API server {url:?} is not a URL like https://10.0.0.1:6443")]
    Server {
        /// As given.
        url: String,
    },
    /// The client can't be built (certificates, TLS).
    #[error("the Kubernetes client can't be set up")]
    Client(#[source] kube::Error),
}

/// A client for the API, which knows it by the program's name: managedFields say who wrote what.
/// Sends nothing yet.
pub async fn connect(access: &Access, program: &'static str) -> Result<Client, AccessError> {
    let mut config = match &access.kubeconfig {
        Some(path) => from_file(path.clone()).await?,
        None => Config::infer().await.map_err(AccessError::Nowhere)?,
    };
    if let Some(url) = &access.server {
        config.cluster_url = url
            .parse()
            .map_err(|_| AccessError::Server { url: url.clone() })?;
    }
    let name = HeaderValue::from_static(program);
    config.headers.push((USER_AGENT, name));
    transport::client(config).map_err(AccessError::Client)
}

async fn from_file(path: PathBuf) -> Result<Config, AccessError> {
    let wrap = |source| AccessError::Kubeconfig {
        path: path.clone(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(&path).map_err(wrap)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(wrap)
}
