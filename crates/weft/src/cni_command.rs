//! `weft cni`: the plugin on a node that no agent looks after.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use ipnet::IpNet;
use weft_kernel::leftovers;
use weft_nodestate::Attachments;
use weft_proto::cni::{DEFAULT_BRIDGE, DEFAULT_MTU, DEFAULT_STATE_DIR, InterfaceName, InvalidName};
use weft_sys::rtnl::Conversation;

use crate::agent::plugin::{Directories, NodeNetwork};
use crate::output::{InUse, Usage, note, say};

/// Puts the CNI plugin on this node, or takes it away.
#[derive(Debug, Parser)]
#[command(after_help = "\
On a cluster the agent does this. A container runtime calls the plugin with CNI_COMMAND set.

Examples:
  weft cni install --range 10.244.1.0/24
  weft cni install --range 10.244.1.0/24 --range fd00:10:244:1::/64 --mtu 1450
  weft cni install --range 10.244.1.0/24 --masquerade --cluster-cidr 10.244.0.0/16
  weft cni install --range 10.88.0.0/16 --masquerade --bridge
  weft cni uninstall")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the plugin there and write the network configuration, each in one step
    Install(Install),
    /// Remove the configuration, the binary, and what the plugin left for the next pod
    Uninstall(Uninstall),
}

#[derive(Debug, clap::Args)]
struct Folders {
    /// Where the runtime looks for plugins
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    bin_dir: PathBuf,
    /// Where the runtime looks for network configurations
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    conf_dir: PathBuf,
}

impl Folders {
    fn directories(&self) -> Directories {
        Directories {
            binaries: self.bin_dir.clone(),
            configurations: self.conf_dir.clone(),
        }
    }
}

#[derive(Debug, clap::Args)]
struct Install {
    /// A range of pod addresses, of this node alone; one a family or several
    #[arg(long, required = true, value_name = "CIDR")]
    range: Vec<IpNet>,
    /// The node's own address, one a family [default: those of its links]
    #[arg(long, value_name = "ADDRESS")]
    node_address: Vec<IpAddr>,
    /// The pods' MTU, in bytes
    #[arg(long, default_value_t = DEFAULT_MTU)]
    mtu: u32,
    /// Make pods ports of a bridge, in one network with each other; it is made with the first pod
    /// [name, if none is given: cni0]
    #[arg(long, num_args = 0..=1, default_missing_value = DEFAULT_BRIDGE, value_name = "NAME")]
    #[arg(value_parser = interface_name)]
    bridge: Option<InterfaceName>,
    /// Give pods the node's address beyond the cluster; without, others must have routes to them
    #[arg(long)]
    masquerade: bool,
    /// With --masquerade: where pods keep their own addresses [default: the ranges]
    #[arg(long, requires = "masquerade", value_name = "CIDR")]
    cluster_cidr: Vec<IpNet>,
    #[command(flatten)]
    folders: Folders,
}

#[derive(Debug, clap::Args)]
struct Uninstall {
    #[command(flatten)]
    folders: Folders,
    /// Where attachment records are
    #[arg(long, default_value = DEFAULT_STATE_DIR, value_name = "DIR")]
    state_dir: PathBuf,
    /// Although pods are attached, whose DEL will find no plugin
    #[arg(long)]
    force: bool,
}

fn interface_name(text: &str) -> Result<InterfaceName, InvalidName> {
    InterfaceName::try_from(text)
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Install(args) => install(args),
        Command::Uninstall(args) => uninstall(&args),
    }
}

fn install(args: Install) -> Result<ExitCode> {
    if let Some(range) = args.range.iter().find(|range| range.trunc() != **range) {
        let text = format!(
            "--range: {range} has host bits set; the range is {}",
            range.trunc()
        );
        return Err(Usage(text).into());
    }
    let addresses = match args.node_address.is_empty() {
        false => args.node_address,
        true => own_addresses(&args.range)?,
    };
    let directories = args.folders.directories();
    renew_rules();
    // The configuration last: it tells the runtime that pods can start.
    directories.install_binary()?;
    let network = NodeNetwork {
        ranges: args.range,
        addresses,
        mtu: args.mtu,
        bridge: args.bridge,
        masquerade_beyond: args.masquerade.then_some(args.cluster_cidr),
        gate: None,
    };
    let written = directories.write_configuration(&network)?;
    say(format!("plugin {}", directories.binary().display()));
    say(format!(
        "configuration {}{}",
        directories.configuration().display(),
        if written { "" } else { " (as it was)" }
    ));
    if let Some(other) = directories.preferred_configuration()? {
        note(format!(
            "the runtime goes on with {}, whose name comes first: move it away",
            other.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the rules about running pods as this version has them, with all that they look for, in
/// one transaction: the plugin knows of its own pod alone, and those of an earlier version would
/// lack what it does not.
fn renew_rules() {
    let records = Attachments::under(Path::new(DEFAULT_STATE_DIR));
    if let Err(error) = weft_cni::pod_rules::restore(&records) {
        note(format!(
            "the rules about running pods are as they were: {error:#}"
        ));
    }
}

/// The node's first address of each family of the ranges, outside of them.
fn own_addresses(ranges: &[IpNet]) -> Result<Vec<IpAddr>> {
    let all = weft_kernel::link::own_addresses(&mut Conversation::open()?)?;
    let mut chosen: Vec<IpAddr> = Vec::new();
    for range in ranges {
        let is_same = |address: &IpAddr| address.is_ipv4() == range.addr().is_ipv4();
        if chosen.iter().any(is_same) {
            continue;
        }
        let mut fitting = all.iter().copied().filter(|address| {
            is_same(address) && !ranges.iter().any(|range| range.contains(address))
        });
        chosen.push(fitting.next().ok_or_else(|| {
            anyhow!("the node has no address like {range}: give one with --node-address")
        })?);
    }
    Ok(chosen)
}

fn uninstall(args: &Uninstall) -> Result<ExitCode> {
    let attached = Attachments::under(&args.state_dir).list()?.len();
    if attached > 0 && !args.force {
        let text = format!(
            "{attached} pods are attached, and their runtime needs the plugin to detach them: \
             drain the node first (`weft ipam show` lists them), or use --force"
        );
        return Err(InUse(text).into());
    }
    let directories = args.folders.directories();
    // The other way round: no runtime finds a configuration without its plugin.
    let paths = [
        Some(directories.configuration()),
        directories.own_loopback(),
    ];
    for path in paths.into_iter().flatten().chain([directories.binary()]) {
        match remove(&path)? {
            true => say(format!("removed {}", path.display())),
            false => say(format!("{} was not there", path.display())),
        }
    }
    if let Err(error) = remove_leftovers(&args.state_dir) {
        say(format!(
            "what the plugin left in the kernel is still there: {error:#}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the first pods made and the last ones left; what a pod still needs stays.
fn remove_leftovers(state_dir: &Path) -> Result<()> {
    let mut host = Conversation::open()?;
    let bridges = leftovers::remove_bridges(&mut host).context("the pods' bridges")?;
    for bridge in bridges {
        say(format!("removed bridge {bridge}"));
    }
    let tables = leftovers::remove_tables(&mut host).context("the pods' tables of nf_tables")?;
    for table in tables {
        say(format!("removed table {table}"));
    }
    // An ADD that had begun may have written into a table that looked empty.
    weft_cni::pod_rules::restore(&Attachments::under(state_dir))?;
    Ok(())
}

fn remove(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(anyhow!("{}: {error}", path.display())),
    }
}
