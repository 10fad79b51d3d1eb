//! The processes of a lab: what `weft lab up` starts, and no person.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use ipnet::IpNet;
use weft_cluster::controllers::NODE_GRACE;
use weft_cluster::placement::Scoring;
use weft_cluster::{kubelet, lab};

use crate::agent::plugin;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    process: Process,
}

#[derive(Debug, Subcommand)]
enum Process {
    /// PID 1 of a lab
    Init,
    /// PID 1 of a node
    Node {
        #[arg(long)]
        name: String,
        #[arg(long)]
        in_user_namespace: bool,
        /// Whether the node's state is kept
        #[arg(long)]
        keep: bool,
    },
    /// The API server
    Apiserver(Apiserver),
    /// Scheduler and controllers
    Controllers(Controllers),
    /// A node's kubelet
    Kubelet {
        #[arg(long)]
        config: PathBuf,
    },
    /// PID 1 of a pod
    Shim {
        /// The pod's folder
        folder: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Apiserver {
    /// A listener that was bound before, by its descriptor
    #[arg(long)]
    listen_fd: Option<i32>,
    /// An address to listen on
    #[arg(long)]
    listen: Vec<SocketAddr>,
    /// Where the Service kubernetes leads, one address a family; if nothing is said, to those of
    /// the addresses listened on that pods can reach
    #[arg(long)]
    advertise_address: Vec<IpAddr>,
    /// The folder of the certificate authority
    #[arg(long)]
    pki: PathBuf,
    /// The store's file
    #[arg(long)]
    store: PathBuf,
    /// Ranges of Service addresses, the primary family first
    #[arg(long)]
    service_cidr: Vec<IpNet>,
    /// The cluster's DNS domain
    #[arg(long)]
    cluster_domain: String,
}

#[derive(Debug, clap::Args)]
struct Controllers {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The certificate of the API's authority
    #[arg(long)]
    root_ca: PathBuf,
    /// Ranges of pod addresses, the primary family first
    #[arg(long)]
    pod_cidr: Vec<IpNet>,
    /// Ranges that no node may get
    #[arg(long)]
    reserved_cidr: Vec<IpNet>,
    /// A part of the pod ranges that is kept for a node, NODE=CIDR
    #[arg(long, value_parser = of_node)]
    node_pod_cidr: Vec<(String, IpNet)>,
    /// After how many silent seconds a node is taken for dead
    #[arg(long, default_value_t = NODE_GRACE.as_secs())]
    node_grace: u64,
    /// Which nodes the scheduler fills first
    #[arg(long, default_value = "least-allocated")]
    scheduler_scoring: Scoring,
}

/// `NODE=CIDR`.
fn of_node(text: &str) -> Result<(String, IpNet), String> {
    let (node, range) = text.split_once('=').ok_or("expected NODE=CIDR")?;
    let range = range.parse().map_err(|_| format!("{range} is no range"))?;
    Ok((node.to_owned(), range))
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.process {
        Process::Init => lab::init::run()?,
        Process::Node {
            name,
            in_user_namespace,
            keep,
        } => lab::node::run(&name, in_user_namespace, keep, plugin::is_this_binary())?,
        Process::Apiserver(args) => lab::control::apiserver(lab::control::ApiServer {
            inherited: args.listen_fd,
            listen: args.listen,
            advertise: args.advertise_address,
            pki: args.pki,
            store: args.store,
            service_cidrs: args.service_cidr,
            cluster_domain: args.cluster_domain,
        })?,
        Process::Controllers(args) => lab::control::controllers(lab::control::Controllers {
            kubeconfig: args.kubeconfig,
            root_ca: args.root_ca,
            pod_cidrs: args.pod_cidr,
            reserved: args.reserved_cidr,
            chosen: args.node_pod_cidr,
            node_grace: Duration::from_secs(args.node_grace),
            scoring: args.scheduler_scoring,
        })?,
        Process::Kubelet { config } => kubelet::run(kubelet::Config::read(&config)?)?,
        Process::Shim { folder } => kubelet::shim::main(&folder)?,
    }
    Ok(ExitCode::SUCCESS)
}
