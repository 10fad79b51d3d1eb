//! The control plane's processes: the API server and the controllers of a lab.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use weft_apiserver::{Config, Pki, SubjectName};
use weft_kinds::ServiceRanges;
use weft_kube::Access;
use weft_netlab::process;

use super::advertised::{self, Unreachable};
use super::boot;
use super::plan::nth_host;
use crate::placement::Scoring;
use crate::{api, controllers, upstreams};
use weft_kinds::node_ranges::Masks;

/// The ports that Services get at the nodes (kube-apiserver's `--service-node-port-range`).
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Why a part of the control plane does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address, or the inherited descriptor.
        address: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The runtime.
    #[error("the runtime does not start")]
    Runtime(#[source] io::Error),
    /// The certificate authority.
    #[error(transparent)]
    Pki(#[from] weft_apiserver::PkiError),
    /// The server.
    #[error(transparent)]
    Server(#[from] weft_apiserver::ServerError),
    /// The way to the API.
    #[error(transparent)]
    Access(#[from] weft_kube::AccessError),
    /// The API did not come up.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// An address to advertise.
    #[error(transparent)]
    Advertise(#[from] Unreachable),
}

/// What the API server has to know.
#[derive(Debug, Clone)]
pub struct ApiServer {
    /// A listener that the process inherited, by its descriptor.
    pub inherited: Option<i32>,
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Where the `kubernetes` Service leads; if nothing is said, to those of the addresses listened
    /// on that an endpoint can have.
    pub advertise: Vec<IpAddr>,
    /// The folder of the certificate authority.
    pub pki: PathBuf,
    /// The store's file.
    pub store: PathBuf,
    /// Service ranges, the primary family first.
    pub service_cidrs: Vec<IpNet>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
}

/// Runs the API server until SIGTERM.
///
/// # Errors
/// When it cannot start.
pub fn apiserver(options: ApiServer) -> Result<(), Error> {
    allow_many_connections();
    let refused = |address: String| move |source| Error::Listen { address, source };
    let mut listeners = Vec::new();
    if let Some(number) = options.inherited {
        let inherited =
            process::inherited(number).map_err(refused(format!("descriptor {number}")))?;
        listeners.push(TcpListener::from(inherited));
    }
    let mut listening = Vec::new();
    for address in &options.listen {
        let listener = TcpListener::bind(address).map_err(refused(address.to_string()))?;
        listening.push(
            listener
                .local_addr()
                .map_err(refused(address.to_string()))?,
        );
        listeners.push(listener);
    }
    let advertised = advertised::addresses(&listening, &options.advertise)?;
    let pki = Pki::load_or_generate(&options.pki, "weft")?;
    let kubernetes: Vec<IpAddr> = options
        .service_cidrs
        .iter()
        .map(|range| nth_host(*range, 1).addr())
        .collect();
    let mut config = Config::new(
        options.store.clone(),
        api::registry(),
        pki,
        subject_names(&options, &advertised, &kubernetes),
    );
    config.admission = api::admission(ServiceRanges {
        addresses: options.service_cidrs.clone(),
        node_ports: NODE_PORTS,
    });
    config.documents = Some(api::documents());
    config.common = Some(api::common());
    config.protobuf = Some(api::protobuf());
    config.upstreams = Some(Box::new(upstreams::ToKubelets));
    config.bootstrap = api::bootstrap();
    config
        .bootstrap
        .push(api::service_cidr(&options.service_cidrs));
    config
        .bootstrap
        .extend(advertised::kubernetes_service(&kubernetes, &advertised));
    // It accepts connections; they are served by threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Runtime)?;
        let shutdown = async move {
            terminate.recv().await;
        };
        weft_apiserver::serve(config, listeners, shutdown).await?;
        Ok(())
    })
}

/// Many systems let a process open 1,024 files, for the sake of programs that use select(2), and
/// more to those that ask.
pub fn allow_many_connections() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, files = limit.current, "the limit of open files stays");
    }
}

/// The names under which clients reach the server: from the machine, from nodes, from pods.
fn subject_names(
    options: &ApiServer,
    advertised: &[SocketAddr],
    kubernetes: &[IpAddr],
) -> Vec<SubjectName> {
    let service = "kubernetes.default.svc";
    let names = [
        "localhost".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        service.to_owned(),
        format!("{service}.{}", options.cluster_domain),
    ];
    let addresses: BTreeSet<IpAddr> = [IpAddr::V4(Ipv4Addr::LOCALHOST)]
        .into_iter()
        .chain(options.listen.iter().chain(advertised).map(SocketAddr::ip))
        .chain(kubernetes.iter().copied())
        .collect();
    names
        .into_iter()
        .map(SubjectName::Dns)
        .chain(addresses.into_iter().map(SubjectName::Ip))
        .collect()
}

/// What the controllers have to know.
#[derive(Debug, Clone)]
pub struct Controllers {
    /// How the API is reached.
    pub kubeconfig: PathBuf,
    /// The authority's certificate, for pods.
    pub root_ca: PathBuf,
    /// Pod ranges, the primary family first.
    pub pod_cidrs: Vec<IpNet>,
    /// Ranges that no node may get: the node network.
    pub reserved: Vec<IpNet>,
    /// Parts of the pod ranges that are kept for nodes of these names.
    pub chosen: Vec<(String, IpNet)>,
    /// After how long a silence a node is taken for dead.
    pub node_grace: std::time::Duration,
    /// Which nodes the scheduler fills first.
    pub scoring: Scoring,
}

/// Runs the scheduler and all controllers until the process is ended.
///
/// # Errors
/// When they cannot start.
pub fn controllers(options: Controllers) -> Result<(), Error> {
    let root_ca = read(&options.root_ca)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        let access = Access {
            kubeconfig: Some(options.kubeconfig),
            ..Access::default()
        };
        let clients = controllers::Clients {
            manager: weft_kube::connect(&access, "kube-controller-manager").await?,
            scheduler: weft_kube::connect(&access, "kube-scheduler").await?,
        };
        let options = controllers::Options {
            pod_cidrs: options.pod_cidrs,
            masks: Masks::default(),
            reserved: options.reserved,
            chosen: options.chosen,
            node_grace: options.node_grace,
            scoring: options.scoring,
            root_ca,
        };
        match controllers::run(clients, options).await {}
    })
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}
