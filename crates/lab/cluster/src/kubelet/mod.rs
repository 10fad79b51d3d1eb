//! The lab's kubelet: registers a node, runs the pods that are bound to it.
//!
//! One runtime on one thread, a task per pod. What must outlive the kubelet (a pod's processes,
//! their logs and exit codes) is with the pod's [`shim`]; what a new kubelet has to know lies in
//! the pod's folder and in the API.

pub mod backoff;
mod bandwidth;
pub mod cache;
pub mod cni;
pub mod conditions;
pub mod environment;
mod files;
mod hooks;
pub mod images;
mod last_words;
pub mod names;
pub mod node;
mod plan;
mod pod;
mod ports;
pub mod probe;
mod probing;
mod reclaim;
pub mod sandbox;
mod server;
pub mod services;
pub mod shim;
pub mod status;
mod sub_path;
mod sysctls;
pub mod volumes;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use weft_kube::k8s_openapi::ByteString;
use weft_kube::k8s_openapi::api::core::v1::Pod;
use weft_kube::kube::Api;
use weft_kube::kube::runtime::watcher::{self, Event};
use weft_kube::{Access, AccessError, Client};

use crate::events::Recorder;
use crate::lab::settings::NodeSettings;
use environment::Allocatable;
use names::ClusterDns;
use pod::{Update, Worker};

/// In whose name a kubelet's events are.
const COMPONENT: &str = "kubelet";
/// Before an interrupted watch is taken up again.
const RETRY: Duration = Duration::from_millis(200);

/// What a kubelet has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// Its addresses, the primary family first.
    pub node_addresses: Vec<IpAddr>,
    /// How the API is reached.
    pub kubeconfig: PathBuf,
    /// The addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// What else it says of its node.
    #[serde(default)]
    pub node: NodeSettings,
    /// The version that the node reports.
    #[serde(default = "default_version")]
    pub version: String,
    /// The machine's file system on the node, which containers see changes of their own over.
    #[serde(default = "default_machine")]
    pub machine: PathBuf,
    /// Certificate and key of its own server (PEM, one file), with the authority whose
    /// clients it knows taken from the kubeconfig; no server without.
    #[serde(default)]
    pub serving: Option<PathBuf>,
    /// The weft binary, which is every pod's first process.
    #[serde(default = "default_weft")]
    pub weft: PathBuf,
    /// Where network configurations are.
    #[serde(default = "default_network_folder")]
    pub network_folder: PathBuf,
    /// Where network plugins are.
    #[serde(default = "default_plugin_folder")]
    pub plugin_folder: PathBuf,
}

fn default_version() -> String {
    "v1.32.0".to_owned()
}

fn default_machine() -> PathBuf {
    PathBuf::from("/run/weft-lab/machine")
}

fn default_weft() -> PathBuf {
    PathBuf::from("/usr/local/bin/weft")
}

fn default_network_folder() -> PathBuf {
    PathBuf::from(cni::CONFIG_FOLDER)
}

fn default_plugin_folder() -> PathBuf {
    PathBuf::from(cni::PLUGIN_FOLDER)
}

impl Config {
    /// Reads the settings from a file.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |source: io::Error| Error::Config {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read(path).map_err(wrong)?;
        serde_json::from_slice(&text).map_err(|error| wrong(error.into()))
    }
}

/// Why a kubelet does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its settings.
    #[error("the kubelet's settings {}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The runtime.
    #[error("the kubelet's runtime does not start")]
    Runtime(#[source] io::Error),
    /// The API.
    #[error("the kubelet has no access to the API")]
    Access(#[from] AccessError),
    /// Its own server.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The folder of network configurations.
    #[error("the folder {} cannot be watched for a pod network", folder.display())]
    Network {
        /// Which.
        folder: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

/// What every task of a kubelet uses.
pub struct Shared {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) cache: cache::Cache,
    pub(crate) network: watch::Receiver<Option<cni::Network>>,
    pub(crate) allocatable: Allocatable,
    pub(crate) cluster_ca: Option<Vec<u8>>,
    pub(crate) dns: ClusterDns,
    pub(crate) ports: ports::Taken,
}

/// Runs a kubelet until its process is ended.
///
/// # Errors
/// [`Error`], when it cannot start.
pub fn run(config: Config) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Error> {
    let access = Access {
        kubeconfig: Some(config.kubeconfig.clone()),
        server: None,
    };
    let client = weft_kube::connect(&access, "kubelet").await?;
    let network =
        node::watch_network(&config.network_folder, &config.plugin_folder).map_err(|source| {
            Error::Network {
                folder: config.network_folder.clone(),
                source,
            }
        })?;
    let shared = Arc::new(Shared {
        recorder: Recorder::start(client.clone(), Some(config.node_name.clone())),
        cache: cache::Cache::start(client.clone()),
        network,
        allocatable: node::capacity(config.node.capacity),
        cluster_ca: cluster_ca(&config.kubeconfig),
        dns: ClusterDns {
            servers: config.cluster_dns.clone(),
            domain: config.cluster_domain.clone(),
        },
        ports: ports::Taken::default(),
        client,
        config,
    });
    if let Some(certificate) = shared.config.serving.clone() {
        server::start(Arc::clone(&shared), &certificate)?;
    }
    tokio::spawn(node::keep(Arc::clone(&shared)));
    tokio::spawn(node::renew_lease(Arc::clone(&shared)));
    tokio::spawn(reclaim::keep(Arc::clone(&shared)));
    Manager::new(shared).run().await;
    Ok(())
}

/// The cluster's certificate in PEM, as the kubeconfig has it.
fn cluster_ca(kubeconfig: &Path) -> Option<Vec<u8>> {
    let kubeconfig = weft_kube::kube::config::Kubeconfig::read_from(kubeconfig).ok()?;
    let cluster = kubeconfig.clusters.into_iter().next()?.cluster?;
    if let Some(data) = cluster.certificate_authority_data {
        // The API's own type for base64.
        let bytes: ByteString = serde_json::from_value(serde_json::Value::String(data)).ok()?;
        return Some(bytes.0);
    }
    std::fs::read(cluster.certificate_authority?).ok()
}

/// One pod's task.
struct Running {
    name: (String, String),
    updates: watch::Sender<Update>,
}

/// Gives every pod of the node its task.
struct Manager {
    shared: Arc<Shared>,
    /// By UID.
    running: BTreeMap<String, Running>,
    /// Pods whose name another pod still has here.
    queued: BTreeMap<(String, String), Arc<Pod>>,
    ended_sender: mpsc::UnboundedSender<String>,
    ended: mpsc::UnboundedReceiver<String>,
}

impl Manager {
    fn new(shared: Arc<Shared>) -> Self {
        let (ended_sender, ended) = mpsc::unbounded_channel();
        Manager {
            shared,
            running: BTreeMap::new(),
            queued: BTreeMap::new(),
            ended_sender,
            ended,
        }
    }

    async fn run(mut self) {
        let api: Api<Pod> = Api::all(self.shared.client.clone());
        let selector = format!("spec.nodeName={}", self.shared.config.node_name);
        let stream = watcher::watcher(api, watcher::Config::default().fields(&selector));
        let mut stream = std::pin::pin!(stream);
        let mut listed: Vec<Pod> = Vec::new();
        let mut first = true;
        loop {
            tokio::select! {
                Some(uid) = self.ended.recv() => self.ended(&uid),
                event = stream.next() => match event {
                    Some(Ok(Event::Init)) => listed.clear(),
                    Some(Ok(Event::InitApply(pod))) => listed.push(pod),
                    Some(Ok(Event::InitDone)) => {
                        self.listed(std::mem::take(&mut listed), first).await;
                        first = false;
                    }
                    Some(Ok(Event::Apply(pod))) => self.apply(pod),
                    Some(Ok(Event::Delete(pod))) => self.removed(&uid(&pod), Some(pod)),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "the watch for pods is interrupted");
                        tokio::time::sleep(RETRY).await;
                    }
                    None => return,
                },
            }
        }
    }

    /// The whole truth: what is not in it is gone. At the first one, what an earlier kubelet left
    /// of pods that are gone is removed.
    async fn listed(&mut self, pods: Vec<Pod>, first: bool) {
        let here: Vec<String> = pods.iter().map(uid).collect();
        if first {
            for (folder, owner) in sandbox::folders() {
                if owner.as_ref().is_none_or(|owner| !here.contains(owner)) {
                    tracing::info!(folder = %folder.display(), "removing what is left of a pod");
                    sandbox::clean(&folder).await;
                    if let Some(owner) = owner {
                        volumes::remove(&owner);
                    }
                }
            }
            // What a node that went down meanwhile still has of pods that are gone.
            volumes::remove_all_but(&here);
            pod::ending::remove_logs_but(&here);
        }
        let gone: Vec<String> = self
            .running
            .keys()
            .filter(|uid| !here.contains(uid))
            .cloned()
            .collect();
        for uid in gone {
            self.removed(&uid, None);
        }
        self.queued.retain(|_, pod| here.contains(&uid(pod)));
        for pod in pods {
            self.apply(pod);
        }
    }

    fn apply(&mut self, pod: Pod) {
        let uid = uid(&pod);
        let pod = Arc::new(pod);
        if let Some(running) = self.running.get(&uid) {
            running.updates.send_replace(Update {
                pod,
                removed: false,
            });
            return;
        }
        let name = name(&pod);
        if self.running.values().any(|running| running.name == name) {
            self.queued.insert(name, pod);
            return;
        }
        let (updates, receiver) = watch::channel(Update {
            pod,
            removed: false,
        });
        self.running.insert(uid.clone(), Running { name, updates });
        let worker = Worker::new(Arc::clone(&self.shared), receiver);
        let ended = self.ended_sender.clone();
        tokio::spawn(async move {
            worker.run().await;
            let _kubelet_ends = ended.send(uid);
        });
    }

    fn removed(&mut self, uid: &str, pod: Option<Pod>) {
        if let Some(running) = self.running.get(uid) {
            running.updates.send_modify(|update| {
                update.removed = true;
                if let Some(pod) = pod {
                    update.pod = Arc::new(pod);
                }
            });
        }
        self.queued.retain(|_, queued| self::uid(queued) != uid);
    }

    fn ended(&mut self, uid: &str) {
        self.shared.ports.give_back(uid);
        if let Some(running) = self.running.remove(uid)
            && let Some(next) = self.queued.remove(&running.name)
        {
            self.apply(Pod::clone(&next));
        }
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn name(pod: &Pod) -> (String, String) {
    let metadata = &pod.metadata;
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// A descriptor that the runtime waits on until it is readable. The runtime's pipe is the safe
/// type of it that takes any descriptor which epoll takes.
fn waitable(descriptor: std::os::fd::OwnedFd) -> io::Result<tokio::net::unix::pipe::Receiver> {
    tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(descriptor)
}

/// An error with its causes, for texts that a person reads in a status or an event.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Errors that show their cause themselves are not shown twice.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
