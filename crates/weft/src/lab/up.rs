//! `weft lab up`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{ArgAction, ValueEnum};
use ipnet::IpNet;
use tokio::io::AsyncBufReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use weft_cluster::lab::boot::{self, Cluster};
use weft_cluster::lab::enter;
use weft_cluster::lab::front::{Front, Notes};
use weft_cluster::lab::keep::{Asked, Kept};
use weft_cluster::lab::plan::{self, Chosen, Plan};
use weft_cluster::lab::settings::Capacity;
use weft_cluster::lab::state::Record;
use weft_cluster::placement::Scoring;
use weft_netlab::process::{self, Spawn};

use super::view;
use crate::output;

/// The manifest that a cluster gets; the lab applies the same one.
const MANIFEST: &str = include_str!("../../../../deploy/weft.yaml");

/// How long the API server may take to answer.
const API_PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two looks for the live status.
const REFRESH: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Families {
    Ipv4,
    Ipv6,
    Dual,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft lab up                                  two nodes, IPv4, in the foreground: Ctrl-C ends it
  weft lab up --nodes 5 --name five --detach   in the background, until `weft lab down --name five`
  weft lab up --ip-family dual --pod-cidr 10.7.0.0/16,fd07::/56
  weft lab up --node-name k1,k2 --node-address 172.30.0.21,172.30.0.22 \
              --node-pod-cidr 10.244.7.0/24,10.244.8.0/24
                                               like a cluster that exists already
  weft lab up --nodes 4 --zone a,b --node-capacity cpu=2,memory=4Gi
  weft lab up --keep ~/labs/one                what is in it outlives the lab; the same command
                                               brings it back
  KUBECONFIG=$(weft lab kubeconfig) kubectl get nodes

A lab changes nothing on the machine: no route, rule, device or setting. It lives as long as this
command does (with --detach: as its background process), and when that ends, however it ends, the
kernel removes all of it. Several labs can be up side by side, with the same ranges.

Exit codes: 0 ended by Ctrl-C or `weft lab down` (with --detach: ready), 1 failed, 2 the flags do
not fit together, 3 namespaces or mounts are not permitted, 4 the name or the port is in use.")]
pub(super) struct Args {
    /// How many nodes (default: 2, or as many as there are names)
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// The lab's name [default: weft]
    #[arg(long)]
    name: Option<String>,
    /// Keep what is durable of the lab in this folder; the next `up` with it brings the lab back
    #[arg(long, value_name = "DIR", overrides_with = "keep")]
    keep: Option<PathBuf>,
    /// The cluster's IP families [default: ipv4]
    #[arg(long, value_enum, value_name = "FAMILY")]
    ip_family: Option<Families>,
    /// Range of pod addresses; one for each family [default: 10.244.0.0/16, fd00:10:244::/56]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pod_cidr: Vec<IpNet>,
    /// Range of Service addresses, likewise [default: 10.96.0.0/12, fd00:10:96::/112]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    service_cidr: Vec<IpNet>,
    /// Range of node addresses, likewise [default: 172.30.0.0/24, fd00:172:30::/64]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    node_cidr: Vec<IpNet>,
    /// Address of the first node, second node, …, from --node-cidr; the others get free ones
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    node_address: Vec<IpAddr>,
    /// Pod range of the first node, second node, …, from --pod-cidr; the others get free ones
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    node_pod_cidr: Vec<IpNet>,
    /// Whether the lab's controllers give nodes their pod ranges (kube-controller-manager's flag);
    /// with `false` somebody else has to, such as `weft controller`, and the nodes are not waited for
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    allocate_node_cidrs: bool,
    /// Name of the first node, second node, …; the others are node-N
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    node_name: Vec<String>,
    /// Take a node for dead after so many silent seconds [default: 50, as Kubernetes]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(11..))]
    node_grace: Option<u64>,
    /// Zones that the nodes are in by turns (their label topology.kubernetes.io/zone)
    #[arg(long = "zone", value_delimiter = ',', value_name = "ZONE")]
    zones: Vec<String>,
    /// What every node tells the scheduler that it has [default: what the machine has, 110 pods]
    #[arg(long, value_name = "cpu=N,memory=N,pods=N")]
    node_capacity: Option<Capacity>,
    /// Which nodes the scheduler fills first: `least-allocated` spreads pods, `most-allocated` packs
    /// them
    #[arg(long, value_name = "STRATEGY", default_value = "least-allocated")]
    scheduler_scoring: Scoring,
    /// Port of 127.0.0.1 for the API server [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    api_port: Option<u16>,
    /// Return when the lab is ready, and leave it running
    #[arg(long)]
    detach: bool,
    /// How many seconds the cluster may take to become ready
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    timeout: u64,
    /// The background process's end of the pipe to the command that waits for it
    #[arg(long, hide = true)]
    background_fd: Option<i32>,
}

impl Args {
    fn asked(&self) -> Asked {
        Asked {
            name: self.name.clone(),
            nodes: self.nodes,
            node_names: self.node_name.clone(),
            families: self.ip_family.map(|families| match families {
                Families::Ipv4 => plan::Families::Ipv4,
                Families::Ipv6 => plan::Families::Ipv6,
                Families::Dual => plan::Families::Dual,
            }),
            pod_cidrs: self.pod_cidr.clone(),
            service_cidrs: self.service_cidr.clone(),
            node_cidrs: self.node_cidr.clone(),
            chosen: Chosen {
                addresses: self.node_address.clone(),
                pod_cidrs: self.node_pod_cidr.clone(),
            },
            zones: self.zones.clone(),
            capacity: self.node_capacity,
        }
    }
}

/// A runtime on this thread. Only after the lab's PID 1 has been cloned: see [`Front::start`].
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let asked = args.asked();
    // Before anything is touched: flags that do not fit together.
    asked.plan()?;
    if args.detach && args.background_fd.is_none() {
        return detach(args.keep.as_deref());
    }
    let mut progress = Progress::new(args.background_fd)?;
    let result = attend_as_asked(&args, &asked, &mut progress);
    if let Err(error) = &result {
        progress.failed(error);
    }
    result
}

fn attend_as_asked(
    args: &Args,
    asked: &Asked,
    progress: &mut Progress,
) -> anyhow::Result<ExitCode> {
    let (mut plan, kept) = match &args.keep {
        Some(folder) => {
            let kept = Kept::open(folder)?;
            (kept.plan(asked)?, Some(kept))
        }
        None => (asked.plan()?, None),
    };
    plan.node_grace = args.node_grace;
    plan.scoring = args.scheduler_scoring;
    plan.leaves_node_ranges = !args.allocate_node_cidrs;
    progress.line(&format!(
        "lab {}: {} node{}, pods {}, Services {}",
        plan.name,
        plan.nodes.len(),
        if plan.nodes.len() == 1 { "" } else { "s" },
        list(&plan.pod_cidrs),
        list(&plan.service_cidrs)
    ));
    if let Some(kept) = &kept {
        let folder = kept.folder().display();
        progress.line(&if kept.is_complete() {
            format!("as it was, from {folder}")
        } else {
            format!("kept in {folder}")
        });
    }
    let patience = Duration::from_secs(args.timeout);
    attend(
        plan,
        kept,
        args.api_port,
        patience,
        progress,
        show_until_told,
    )
}

fn list(ranges: &[IpNet]) -> String {
    let texts: Vec<_> = ranges.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// The life of a front: start, make it a cluster, do what `then` does with it, end. It
/// ends early when it is told to, or when the lab is gone.
pub(super) fn attend(
    plan: Plan,
    kept: Option<Kept>,
    api_port: Option<u16>,
    patience: Duration,
    progress: &mut Progress,
    then: impl AsyncFnOnce(&mut Front, &Cluster, &mut Progress) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let manifest = boot::own_manifest(MANIFEST, &plan)?;
    let filter = std::env::var(output::LOG_VARIABLE).ok();
    let mut front = Front::start(plan, kept, api_port, filter, |step| progress.step(step))?;
    let end = front
        .take_end()
        .context("the lab's first process is gone")?;
    let ended = runtime()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let notes = front.notes();
        let end = pipe::Receiver::from_owned_fd(end)?;
        let life = async {
            let cluster = cluster(&mut front, &manifest, patience, progress).await?;
            then(&mut front, &cluster, progress).await
        };
        tokio::select! {
            result = life => result.map(|()| Ended::Asked),
            _ = interrupt.recv() => Ok(Ended::Asked),
            _ = terminate.recv() => Ok(Ended::Asked),
            _ = hang_up.recv() => Ok(Ended::Asked),
            () = take_notes(end, &notes) => Ok(Ended::Lost),
        }
    });
    if ended.is_err() {
        progress.line(&last_words(front.record()));
    }
    let ended = ended?;
    let name = front.record().plan.name.clone();
    front.end();
    match ended {
        Ended::Asked => {
            progress.line(&format!("lab {name} is down"));
            Ok(ExitCode::SUCCESS)
        }
        Ended::Lost => anyhow::bail!("the first process of lab {name} ended: the lab is gone"),
    }
}

/// Takes note of what the lab's first process tells, until it ends.
async fn take_notes(told: pipe::Receiver, notes: &Notes) {
    let mut lines = tokio::io::BufReader::new(told).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Err(error) = notes.take(&line) {
            tracing::warn!(%error, "the lab has changed, and that is not recorded");
        }
    }
}

/// The last lines that the lab's own processes have logged, for a person to see why it failed.
fn last_words(record: &Record) -> String {
    const LINES: usize = 3;
    let mut text = String::new();
    for component in enter::logs(record) {
        let log = std::fs::read(enter::log_file(record, &component)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            text.push_str(&format!("{component}: {line}\n"));
        }
    }
    text
}

enum Ended {
    Asked,
    Lost,
}

/// Makes a started lab a cluster.
async fn cluster(
    front: &mut Front,
    manifest: &[serde_json::Value],
    patience: Duration,
    progress: &mut Progress,
) -> anyhow::Result<Cluster> {
    let since = front.kept().map_or(0, Kept::since);
    let cluster = Cluster::connect(front.kubeconfig()).await?.since(since);
    cluster.wait_for_api(API_PATIENCE).await?;
    progress.step("API ready");
    // What a person has changed of weft's own objects in a kept lab stays changed.
    if !front.kept().is_some_and(Kept::is_complete) {
        cluster.apply(manifest, "default").await?;
        progress.step("weft applied (deploy/weft.yaml)");
    }
    let plan = front.record().plan.clone();
    cluster
        .wait_until_ready(&plan, patience, |news| progress.step(news))
        .await?;
    front.set_ready()?;
    progress.step("ready");
    Ok(cluster)
}

/// Tells how to use a lab, then shows how it stands for as long as it lives.
async fn show_until_told(
    front: &mut Front,
    cluster: &Cluster,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    progress.ready(front);
    loop {
        if progress.live {
            // While the API server is starting again there is nothing new to show.
            if let Ok(snapshot) = cluster.snapshot().await {
                progress.show(&format!(
                    "\n{}\n{}\n",
                    view::nodes(&snapshot),
                    view::summary(&snapshot)
                ));
            }
            tokio::time::sleep(REFRESH).await;
        } else {
            std::future::pending::<()>().await;
        }
    }
}

/// Starts the same command in the background, and tells what it tells until it is ready.
pub(super) fn detach(keep: Option<&Path>) -> anyhow::Result<ExitCode> {
    let (told, tell) = process::pipe().context("cannot make a pipe")?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("cannot open /dev/null")?;
    let binary = std::env::current_exe().context("cannot find the own binary")?;
    let mut spawn = Spawn::new(binary)
        .arg0("weft")
        .args(std::env::args_os().skip(1));
    if let Some(keep) = keep {
        // It runs in another directory. The last of two counts.
        let keep = std::path::absolute(keep).context("cannot find the working directory")?;
        spawn = spawn.arg("--keep").arg(keep);
    }
    let child = spawn
        .args(["--background-fd", "3"])
        .descriptor(null.try_clone()?, 0)
        .descriptor(null.try_clone()?, 1)
        .descriptor(null, 2)
        .descriptor(tell, 3)
        .directory("/")
        .new_session()
        .spawn()?;
    for line in BufReader::new(File::from(told)).lines() {
        let line = line.context("cannot read from the background process")?;
        match line.split_at_checked(1) {
            Some(("=", _)) => return Ok(ExitCode::SUCCESS),
            Some(("!", complaint)) => {
                output::note(format!("weft: {complaint}"));
            }
            Some((_, text)) => output::say(text),
            None => output::say(""),
        }
    }
    let exit = child
        .wait()
        .context("cannot wait for the background process")?;
    Ok(ExitCode::from(u8::try_from(exit.shell_code()).unwrap_or(1)))
}

/// Where the progress of a start is told: on standard output, or to the command that waits.
///
/// To the latter, each line begins with a blank; `!` begins a complaint and `=` the last line.
pub(super) struct Progress {
    began: Instant,
    waiting: Option<File>,
    live: bool,
    /// Lines of the last picture, to paint over.
    painted: usize,
}

impl Progress {
    pub(super) fn new(background: Option<i32>) -> anyhow::Result<Self> {
        let waiting = background
            .map(process::inherited)
            .transpose()
            .context("--background-fd is for weft itself")?
            .map(File::from);
        Ok(Progress {
            began: Instant::now(),
            live: waiting.is_none() && io::stdout().is_terminal(),
            waiting,
            painted: 0,
        })
    }

    pub(super) fn line(&mut self, text: &str) {
        match &mut self.waiting {
            // The waiting command may have been interrupted; the lab goes on.
            Some(pipe) => {
                for line in text.lines() {
                    let _gone = writeln!(pipe, " {line}");
                }
            }
            None => output::say(text),
        }
    }

    pub(super) fn step(&mut self, what: &str) {
        let took = self.began.elapsed().as_secs_f64();
        self.line(&format!("{took:6.2} s  {what}"));
    }

    fn ready(&mut self, front: &Front) {
        let named = match front.record().plan.name.as_str() {
            "weft" => String::new(),
            name => format!(" --name {name}"),
        };
        self.line(&format!(
            "\n  export KUBECONFIG=$(weft lab kubeconfig{named})\n  kubectl get pods -A\n"
        ));
        if self.waiting.is_none() {
            output::say("Ctrl-C ends the lab.");
        }
        self.settled();
    }

    /// Lets go of the command that waits, if one does.
    pub(super) fn settled(&mut self) {
        if let Some(pipe) = &mut self.waiting {
            let _gone = writeln!(pipe, "=");
            self.waiting = File::options().write(true).open("/dev/null").ok();
        }
    }

    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        if let Some(pipe) = &mut self.waiting {
            let _gone = writeln!(pipe, "!{}", output::chain(error).replace('\n', " "));
        }
    }

    /// Paints a picture over the last one.
    fn show(&mut self, picture: &str) {
        let mut text = String::new();
        if self.painted > 0 {
            // Up, and clear to the end of the screen (ECMA-48 CPL and ED).
            text.push_str(&format!("\x1b[{}F\x1b[J", self.painted));
        }
        text.push_str(picture);
        output::print(text);
        self.painted = picture.lines().count();
    }
}
