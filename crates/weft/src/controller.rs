//! `weft controller`: what a cluster needs once. It gives nodes their pod ranges where nobody
//! else does.

mod allocation;

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use ipnet::IpNet;
use tokio::pin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};
use weft_kinds::node_ranges::Settings;
use weft_kube::{Access, Candidate, NodeEvents, Terms};
use weft_model::NodeName;
use weft_serve::ListenAddress;
use weft_serve::health::{self, Health};

use self::allocation::Allocation;
use crate::agent;

/// How long what is being written may take when this process is to end.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Gives nodes their pod ranges, on a cluster where nobody else does.
#[derive(Args, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("ranges").required(true).multiple(false)))]
#[command(after_help = "Examples:
  kubectl apply -f deploy/weft-controller.yaml     beside the agents of deploy/weft.yaml
  weft controller --config /etc/weft/config.yaml   ranges as the agents have them
  weft controller --kubeconfig ~/.kube/config --pod-cidr 10.244.0.0/16 --node-mask 25
  weft controller --pod-cidr 10.244.0.0/16,fd00:10:244::/48 --node-mask 24,64
  kubectl get nodes -o custom-columns=NODE:.metadata.name,RANGES:.spec.podCIDRs
  kubectl get lease -n kube-system weft-controller")]
pub(crate) struct ControllerArgs {
    /// The agents' configuration, for its pod ranges: `config.yaml` of the ConfigMap weft.
    #[arg(long, value_name = "FILE", group = "ranges")]
    config: Option<PathBuf>,
    /// The cluster's range of pod addresses; one of each family, the primary one first.
    #[arg(long, value_delimiter = ',', value_name = "CIDR", group = "ranges")]
    pod_cidr: Vec<IpNet>,
    /// How long the prefix of a node's part is, of the first range, the second [default: what
    /// net-conf.json beside --config says, or 24 for IPv4, 64 for IPv6].
    #[arg(long, value_delimiter = ',', value_name = "LENGTH")]
    node_mask: Vec<u8>,
    /// Ranges that no node gets, though a pod range may contain them: those of Services, of nodes.
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    reserved_cidr: Vec<IpNet>,
    /// The Lease by which several of these agree on who leads.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "kube-system/weft-controller",
        value_parser = namespaced
    )]
    lease: (String, String),
    /// After how many seconds without a sign of the leader another takes over.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 15,
        value_parser = clap::value_parser!(u32).range(3..=3600)
    )]
    lease_seconds: u32,
    /// What this one is called in the Lease [default: the machine's name and a number by chance].
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// Where `/healthz` and `/ready` are answered; `/ready` with 200 once the API has.
    #[arg(long, default_value = "127.0.0.1:10263")]
    health: ListenAddress,
    /// A kubeconfig; without one the pod's service account is used.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The API's URL, instead of what the kubeconfig or the pod's environment says.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
}

fn namespaced(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/');
    let is_name = |name: &str| !name.is_empty() && !name.contains('/');
    match parts.filter(|(namespace, name)| is_name(namespace) && is_name(name)) {
        Some((namespace, name)) => Ok((namespace.to_owned(), name.to_owned())),
        None => Err("expected NAMESPACE/NAME, such as kube-system/weft-controller".to_owned()),
    }
}

impl ControllerArgs {
    /// What parts are cut from, and where the API is if the configuration says so.
    fn settings(&self) -> Result<(Settings, Option<String>)> {
        let mut reserved = self.reserved_cidr.clone();
        let (ranges, masks, server) = match &self.config {
            Some(path) => {
                let cluster = agent::cluster_ranges(path)?;
                reserved.extend(cluster.services);
                (cluster.pods, cluster.node_masks, cluster.api_server)
            }
            None => (self.pod_cidr.clone(), Vec::new(), None),
        };
        let masks = match self.node_mask.is_empty() {
            true => &masks,
            false => &self.node_mask,
        };
        let settings = Settings::new(ranges, masks, reserved)?;
        Ok((settings, self.server.clone().or(server)))
    }
}

/// Runs until SIGTERM.
pub(crate) fn run(args: ControllerArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the controller's event loop")?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: ControllerArgs) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let told_to_end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    pin!(told_to_end);
    let (settings, server) = args.settings()?;
    let health = Health::default();
    let listener = health::listen(args.health).with_context(|| {
        format!(
            "can't listen at {} for health checks; is the port in use (--health)?",
            args.health
        )
    })?;
    tokio::spawn(health::serve(listener, health.clone()));
    let access = Access {
        kubeconfig: args.kubeconfig,
        server,
    };
    let client = weft_kube::connect(&access, "weft-controller").await?;
    let host = host_name();
    let identity = args.identity.unwrap_or_else(|| by_chance(&host));
    info!(identity, "controller started");
    let (namespace, name) = &args.lease;
    let terms = Terms::of(Duration::from_secs(args.lease_seconds.into()));
    let mut candidate = Candidate::new(&client, (namespace, name), identity, terms);
    let node = NodeName::from(host.as_str());
    let events = NodeEvents::start(&client, "weft-controller", &node);
    loop {
        tokio::select! {
            () = candidate.lead(|| health.set_ready(true)) => {}
            () = &mut told_to_end => {
                // It may have won a moment ago.
                candidate.resign().await;
                return Ok(());
            }
        }
        info!("leading");
        let (stop, stopping) = watch::channel(false);
        // With a list of its own: what another wrote before is in it.
        let leading = candidate.leading();
        let allocation = Allocation::new(&client, settings.clone(), leading, &terms, &events);
        let work = allocation.run(stopping);
        pin!(work);
        tokio::select! {
            _ = &mut work => {}
            () = candidate.keep() => warn!("does not lead any more"),
            () = &mut told_to_end => {
                stop.send_replace(true);
                // Not by a write that the next leader does not see is a range given twice.
                match timeout(LAST_WRITES, work).await {
                    Ok(true) => candidate.resign().await,
                    Ok(false) | Err(_) => warn!("a write has no answer; the lease runs out"),
                }
                info!("controller ended");
                return Ok(());
            }
        }
    }
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// A name that no other has, not even on this machine.
fn by_chance(host: &str) -> String {
    // The keys of a RandomState are random.
    format!("{host}_{:016x}", RandomState::new().hash_one(()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ControllerArgs,
    }

    fn line(flags: &[&str]) -> Result<(Settings, Option<String>)> {
        let line = Line::try_parse_from([&["weft"], flags].concat())?;
        line.args.settings()
    }

    #[test]
    fn flags_that_do_not_fit_are_named() {
        let error = |flags: &[&str]| format!("{:#}", line(flags).unwrap_err());
        assert!(error(&[]).contains("<--config <FILE>|--pod-cidr <CIDR>>"));
        assert!(error(&["--pod-cidr", "10.0.0.0/16", "--config", "x"]).contains("--config"));
        assert!(error(&["--pod-cidr", "10.0.0.0/16", "--node-mask", "8"]).contains("mask 8"));
        let lease = ["--pod-cidr", "10.0.0.0/16", "--lease", "weft"];
        assert!(error(&lease).contains("NAMESPACE/NAME"));
        assert!(error(&["--config", "/nowhere"]).contains("/nowhere"));
        assert!(
            line(&[
                "--pod-cidr",
                "10.0.0.0/16,fd00::/48",
                "--node-mask",
                "25,64"
            ])
            .is_ok()
        );
    }
}
