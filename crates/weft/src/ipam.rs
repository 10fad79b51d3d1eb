//! `weft ipam`: who holds which address of this node, and what of it leaked.
//!
//! Facts come from four places that know nothing of each other: attachment records,
//! reservations, the node's links, and the addresses in every network namespace. [`audit`]
//! compares them; `repair` and `release` undo what DEL would have undone.

mod adopt;
mod audit;
mod facts;
mod release;
mod repair;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::Value;
use weft_nodestate::{Attachments, Pool};
use weft_proto::cni::{
    DEFAULT_DATA_DIR, DEFAULT_STATE_DIR, Environment, Ipam, NetworkName, Request, Version,
};

use crate::output::{Format, Usage};

/// The network's name where nothing says otherwise: what the agent writes.
const DEFAULT_NETWORK: &str = "weft";
/// What the agent writes.
const DEFAULT_CONFIG: &str = "/etc/cni/net.d/10-weft.conflist";

/// Looks after the pod addresses of this node.
#[derive(Debug, Parser)]
#[command(after_help = "\
Run it on the node (as root), or in a lab with `weft lab exec NODE -- weft ipam ...`.
Nothing needs the agent or the API.

Examples:
  weft ipam show                      who holds which address, and how full the ranges are
  weft ipam check -o json             what does not fit together; exit code 1 if anything does not
  weft ipam repair                    what would be done about it
  weft ipam repair --yes              do it
  weft ipam release 10.244.1.7        give an address back whose pod is gone
  weft ipam adopt --from /var/lib/cni/networks/cbr0 --yes
                                      take over what flannel's pods hold")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the addresses that are taken, with their owners
    Show(show::Args),
    /// Compare reservations, records, links and namespaces
    Check(show::CheckArgs),
    /// Free what is provably dead and reserve what is missing (a dry run without --yes)
    Repair(repair::Args),
    /// Give back one address or attachment (a dry run without --yes)
    Release(release::Args),
    /// Take over the reservations of host-local, and so flannel's (a dry run without --yes)
    Adopt(adopt::Args),
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Show(args) => show::show(&args),
        Command::Check(args) => show::check(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Release(args) => release::run(&args),
        Command::Adopt(args) => adopt::run(&args),
    }
}

/// Where a node keeps its addresses.
#[derive(Debug, clap::Args)]
struct Place {
    /// The network configuration, for the ranges
    #[arg(long, default_value = DEFAULT_CONFIG, value_name = "FILE")]
    config: PathBuf,
    /// The network [default: what the configuration says, or weft]
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Where reservations are [default: what the configuration says, or /var/lib/cni/networks]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where attachment records are [default: what the configuration says, or /run/weft]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// How to print.
#[derive(Debug, clap::Args)]
struct Output {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// What [`Place`] comes to.
struct Node {
    network: NetworkName,
    records: Attachments,
    pool: Pool,
    /// Unknown without a configuration.
    ipam: Option<Ipam>,
}

impl Place {
    fn open(&self) -> Result<Node> {
        let configured = self.configured()?;
        let (name, data_dir, state_dir, ipam) = match configured {
            Some(status) => (
                status.config.network.to_string(),
                PathBuf::from(status.config.data_dir),
                PathBuf::from(status.config.state_dir),
                Some(status.ipam),
            ),
            None => (
                DEFAULT_NETWORK.to_owned(),
                PathBuf::from(DEFAULT_DATA_DIR),
                PathBuf::from(DEFAULT_STATE_DIR),
                None,
            ),
        };
        let name = self.network.clone().unwrap_or(name);
        let network = NetworkName::try_from(name.as_str())
            .map_err(|complaint| Usage(format!("--network: {complaint}")))?;
        let records = Attachments::under(self.state_dir.as_ref().unwrap_or(&state_dir));
        let pool = Pool::under(
            self.data_dir.as_ref().unwrap_or(&data_dir),
            &network,
            &records,
        );
        Ok(Node {
            network,
            records,
            pool,
            ipam,
        })
    }

    /// The configuration as the plugin would read it; `None` if there is none.
    fn configured(&self) -> Result<Option<weft_proto::cni::Status>> {
        let text = match std::fs::read(&self.config) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("configuration {}", self.config.display()))?,
        };
        let list: Value = serde_json::from_slice(&text)
            .with_context(|| format!("configuration {}", self.config.display()))?;
        let plugin = list["plugins"]
            .as_array()
            .and_then(|plugins| plugins.iter().find(|plugin| plugin["type"] == "weft"))
            .unwrap_or(&list);
        let mut plugin = plugin.clone();
        if let Some(map) = plugin.as_object_mut() {
            if let Some(name) = list.get("name") {
                map.insert("name".to_owned(), name.clone());
            }
            // Of what is written for an older runtime STATUS could not be asked.
            map.insert("cniVersion".to_owned(), Version::NEWEST.as_str().into());
        }
        let status = |name: &str| (name == "CNI_COMMAND").then(|| "STATUS".into());
        let refused = |error: weft_proto::cni::Error| {
            anyhow::anyhow!("configuration {}: {error}", self.config.display())
        };
        let environment = Environment::read(status).map_err(refused)?;
        match Request::parse(&environment, plugin.to_string().as_bytes()) {
            Ok(Request::Status(status)) => Ok(Some(status)),
            Ok(_) => Ok(None),
            Err(refusal) => Err(refused(refusal.error)),
        }
    }
}
