//! `weft lab node`: nodes that come and go, and links that are cut, under a running lab.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::json;
use weft_cluster::lab::boot::Cluster;
use weft_cluster::lab::cuts::Peer;
use weft_cluster::lab::drain;
use weft_cluster::lab::membership::{Complaint, NodeRequest};
use weft_cluster::lab::requests::{Asked, Error, NodeStanding, Outcome};
use weft_cluster::lab::settings::{Capacity, NodeSettings, NodeTaint, ZONE, label};
use weft_cluster::lab::state::Lab;

use super::Which;
use crate::output::{self, Format, NotThere, table};

/// How long the front may take to note what PID 1 has told it.
const NOTING: Duration = Duration::from_secs(5);
/// Between two looks at its note.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start another node, and wait until it is ready
    #[command(after_help = "\
Examples:
  weft lab node add
  weft lab node add gpu --label gpu=yes --taint gpu=yes:NoSchedule --capacity cpu=8,memory=32Gi
  weft lab node add --zone b --address 172.30.0.40 -o json

The node runs the same kubelet and gets the same DaemonSets as the others. In a kept lab it is
there again after the next `weft lab up --keep`.")]
    Add(Box<AddArgs>),
    /// End a node's processes, delete its Node object, and free its name and addresses
    #[command(after_help = "\
Examples:
  weft lab node remove node-2            as if its machine broke down for good
  weft lab node remove node-2 --drain    its pods leave first, as with `kubectl drain`

What was stored on the node is gone. A lab's last node cannot be removed.")]
    Remove {
        #[command(flatten)]
        which: Which,
        /// Cordon the node and evict its pods first, and remove it when they are gone
        #[arg(long)]
        drain: bool,
        /// How many seconds the pods may take to leave
        #[arg(long, value_name = "SECONDS", default_value = "120")]
        timeout: u64,
        /// The node
        node: String,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Cut a node's link, or what of it leads to another node, to `outside` or to the `api`
    #[command(after_help = "\
Examples:
  weft lab node cut node-2               its cable is pulled
  weft lab node cut node-2 node-1        those two no longer reach each other
  weft lab node cut node-2 api           it no longer reaches the API server
  weft lab node cut node-2 outside       nobody outside reaches it, nor it them

Everything on the node runs on. After --node-grace (see `weft lab up --help`) a node that the API
server does not hear of is NotReady, and its pods leave the Services and are replaced. Cutting
what is cut already changes nothing.")]
    Cut(LinkArgs),
    /// Mend what was cut: all of a node's cuts, or one
    #[command(after_help = "\
Examples:
  weft lab node heal node-2              every cut that concerns it
  weft lab node heal node-2 node-1       only that between the two")]
    Heal(LinkArgs),
    /// List the nodes and what is cut
    List {
        #[command(flatten)]
        which: Which,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    which: Which,
    /// Its name [default: the lowest node-N that is free]
    node: Option<String>,
    /// Its address on the node network; one for each family [default: the lowest that is free]
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    address: Vec<IpAddr>,
    /// Its zone, the label topology.kubernetes.io/zone
    #[arg(long)]
    zone: Option<String>,
    /// A label; can be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// A taint with which it registers; can be given more than once
    #[arg(long = "taint", value_name = "KEY=VALUE:EFFECT", value_delimiter = ',')]
    taints: Vec<NodeTaint>,
    /// What it tells the scheduler that it has [default: what the machine has, 110 pods]
    #[arg(long, value_name = "cpu=N,memory=N,pods=N", default_value = "", hide_default_value = true, value_parser = capacity)]
    capacity: Capacity,
    /// Return when it has been started, without waiting until it is ready
    #[arg(long)]
    no_wait: bool,
    /// How many seconds it may take to become ready
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    timeout: u64,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct LinkArgs {
    #[command(flatten)]
    which: Which,
    /// The node
    node: String,
    /// Another node, `outside`, or `api` [default: everything]
    peer: Option<String>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Of the flag; nothing for what the machine has.
fn capacity(text: &str) -> Result<Capacity, weft_cluster::lab::settings::Error> {
    if text.is_empty() {
        return Ok(Capacity::default());
    }
    text.parse()
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add(args) => add(*args),
        Command::Remove {
            which,
            drain,
            timeout,
            node,
            output,
        } => remove(
            &ready(&which)?,
            &node,
            drain.then_some(Duration::from_secs(timeout)),
            output,
        ),
        Command::Cut(args) => {
            let lab = ready(&args.which)?;
            let peer = Peer::named(args.peer.as_deref());
            let outcome = Asked(&lab.record).cut(&args.node, peer.clone())?;
            say_links(&outcome, args.output, |changed| match changed {
                true => format!("{} cut off from {peer}", args.node),
                false => format!("{} is cut off from {peer} already", args.node),
            })
        }
        Command::Heal(args) => {
            let lab = ready(&args.which)?;
            let peer = Peer::named(args.peer.as_deref());
            let outcome = Asked(&lab.record).heal(&args.node, peer.clone())?;
            say_links(&outcome, args.output, |changed| match changed {
                true => format!("{} connected to {peer} again", args.node),
                false => format!("{} is not cut off from {peer}", args.node),
            })
        }
        Command::List { which, output } => {
            let lab = which.lab()?;
            list(&Asked(&lab.record).list()?, output)
        }
    }
}

/// A lab whose start is over: before that its front writes what nodes there are.
fn ready(which: &Which) -> anyhow::Result<Lab> {
    let lab = which.lab()?;
    if !lab.record.ready {
        return Err(weft_cluster::lab::state::Error::Starting(lab.name().to_owned()).into());
    }
    Ok(lab)
}

fn add(args: AddArgs) -> anyhow::Result<()> {
    let lab = ready(&args.which)?;
    let labels = args.labels.into_iter();
    let zone = args.zone.map(|zone| (ZONE.to_owned(), zone));
    let request = NodeRequest {
        name: args.node,
        addresses: args.address,
        settings: NodeSettings {
            labels: labels.chain(zone).collect(),
            taints: args.taints,
            capacity: args.capacity,
        },
    };
    let began = Instant::now();
    let node = Asked(&lab.record).add(request)?;
    let told = |what: &str| {
        if args.output == Format::Table {
            let took = began.elapsed().as_secs_f64();
            output::say(format!("{took:6.2} s  {} {what}", node.name));
        }
    };
    wait_for_note(&lab, |nodes| nodes.contains(&node.name.as_str()))?;
    told("started");
    let mut pod_cidrs = Vec::new();
    if !args.no_wait {
        let patience = Duration::from_secs(args.timeout);
        let state = super::up::runtime()?.block_on(async {
            let cluster = Cluster::connect(&lab.kubeconfig()).await?;
            cluster.wait_for_node(&node.name, patience).await
        })?;
        pod_cidrs = state.pod_cidrs;
        told("ready");
    }
    if args.output == Format::Json {
        let value = json!({
            "name": node.name,
            "addresses": node.addresses,
            "podCIDRs": pod_cidrs,
            "ready": !args.no_wait,
        });
        output::say(serde_json::to_string_pretty(&value)?);
    }
    Ok(())
}

fn remove(lab: &Lab, node: &str, drain: Option<Duration>, format: Format) -> anyhow::Result<()> {
    let said = |what: &str| {
        if format == Format::Table {
            output::say(what);
        }
    };
    let runtime = super::up::runtime()?;
    let asked = Asked(&lab.record);
    let names: Vec<String> = asked.list()?.into_iter().map(|node| node.name).collect();
    let is_last = names.len() == 1 && names.iter().any(|name| name == node);
    if let Some(patience) = drain
        && names.iter().any(|name| name == node)
        && !is_last
    {
        runtime.block_on(async {
            let cluster = Cluster::connect(&lab.kubeconfig()).await?;
            drain::drain(cluster.client(), node, patience, said).await
        })?;
    }
    let removed = asked.remove(node);
    let was_there = match &removed {
        Ok(()) => true,
        // A removal that was interrupted goes on with the Node object.
        Err(Error::Refused {
            kind: Complaint::NotThere,
            ..
        }) => false,
        Err(_) => return Ok(removed?),
    };
    wait_for_note(lab, |nodes| !nodes.contains(&node))?;
    let forgotten = runtime.block_on(async {
        let cluster = Cluster::connect(&lab.kubeconfig()).await?;
        drain::forget(cluster.client(), node).await
    })?;
    if !was_there && !forgotten {
        return Ok(removed?);
    }
    match format {
        Format::Json => {
            let value = json!({"name": node, "removed": true, "drained": drain.is_some()});
            output::say(serde_json::to_string_pretty(&value)?);
        }
        Format::Table => output::say(format!("node {node} removed")),
    }
    Ok(())
}

/// Waits until the front has recorded the nodes that there are now, for `weft lab list`. It may be
/// stopped; what was done is done without it.
fn wait_for_note(lab: &Lab, noted: impl Fn(&[&str]) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + NOTING;
    loop {
        let record = lab.look_again()?;
        let names: Vec<&str> = record
            .plan
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        if noted(&names) {
            return Ok(());
        }
        let stopped = is_stopped(record.front);
        if stopped || Instant::now() >= deadline {
            let why = if stopped { "is stopped" } else { "is slow" };
            output::note(format!(
                "`weft lab up` (process {}) {why}: until it goes on, `weft lab list` shows the nodes there were",
                record.front
            ));
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether somebody stopped a process, as by Ctrl-Z.
fn is_stopped(pid: i32) -> bool {
    // proc(5): the command's name in parentheses, then the state.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
    })
}

fn say_links(
    outcome: &Outcome,
    format: Format,
    words: impl FnOnce(bool) -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Table => output::say(words(outcome.changed)),
        Format::Json => {
            let node = outcome.nodes.first();
            let node = node.ok_or_else(|| NotThere("the node is gone".to_owned()))?;
            let value = json!({
                "name": node.name,
                "changed": outcome.changed,
                "cutOffFrom": peers(node),
            });
            output::say(serde_json::to_string_pretty(&value)?);
        }
    }
    Ok(())
}

fn peers(node: &NodeStanding) -> Vec<String> {
    let peers = node.cut.iter();
    peers
        .map(|peer| match peer {
            Peer::Everything => "everything".to_owned(),
            Peer::Api => "api".to_owned(),
            Peer::Node(name) => name.clone(),
        })
        .collect()
}

fn list(nodes: &[NodeStanding], format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => {
            let items: Vec<_> = nodes
                .iter()
                .map(|node| {
                    json!({
                        "name": node.name,
                        "addresses": node.addresses,
                        "running": node.running,
                        "cutOffFrom": peers(node),
                    })
                })
                .collect();
            output::say(serde_json::to_string_pretty(&items)?);
        }
        Format::Table => {
            let rows: Vec<_> = nodes
                .iter()
                .map(|node| {
                    let addresses: Vec<_> = node.addresses.iter().map(IpAddr::to_string).collect();
                    let state = if node.running { "running" } else { "ended" };
                    let cut = peers(node).join(",");
                    vec![
                        node.name.clone(),
                        addresses.join(","),
                        state.to_owned(),
                        if cut.is_empty() { "-".to_owned() } else { cut },
                    ]
                })
                .collect();
            let header = ["NODE", "ADDRESS", "STATE", "CUT OFF FROM"];
            output::print(table(&header, &rows));
        }
    }
    Ok(())
}
