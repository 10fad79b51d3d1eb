//! `weft ipam adopt`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use weft_nodestate::Adopted;

use super::{Output, Place};
use crate::output::{Format, NotThere, note, say};

/// What flannel's daemon writes for its plugin.
const FLANNEL: &str = "/run/flannel/subnet.env";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The addresses of running pods are reserved in weft's network too, so that weft gives none of them
out; the pods go on as they are, and weft's DEL gives their addresses back. Nothing is removed
from where it comes: the node can go back the same way, with --network and --from exchanged.

A pod that the other plugin attaches between this and weft's configuration has an address that
weft would give out again: cordon the node meanwhile, or do this again after the configuration.

Ends with 1 when an address belongs to different containers there and here.

Examples:
  weft ipam adopt --from /var/lib/cni/networks/cbr0         what would be taken over from flannel
  weft ipam adopt --from /var/lib/cni/networks/cbr0 --yes   do it
  weft ipam adopt --network cbr0 --from /var/lib/cni/networks/weft --yes     and back")]
pub(super) struct Args {
    /// A network's directory in host-local's layout
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/networks/cbr0")]
    from: PathBuf,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
    /// flannel's subnet file, to compare ranges with
    #[arg(long, value_name = "FILE", default_value = FLANNEL)]
    flannel: PathBuf,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let node = args.place.open()?;
    if !args.from.is_dir() {
        let text = format!(
            "there is no {}; `ls /var/lib/cni/networks` shows the networks of this node",
            args.from.display()
        );
        return Err(NotThere(text).into());
    }
    let adopted = node.pool.adopt(&args.from, args.yes)?;
    let count = |kind: Adopted| adopted.iter().filter(|(_, _, one)| *one == kind).count();
    match args.output.output {
        Format::Json => {
            let rows: Vec<_> = adopted
                .iter()
                .map(|(address, owner, kind)| {
                    serde_json::json!({"address": address, "owner": owner, "outcome": word(*kind)})
                })
                .collect();
            say(serde_json::to_string_pretty(&serde_json::json!({
                "network": node.network.as_str(), "from": args.from, "addresses": rows,
                "done": args.yes,
            }))?);
        }
        Format::Table => {
            for (address, owner, kind) in &adopted {
                say(format!("{address} {owner}: {}", word(*kind)));
            }
            say(format!(
                "{} {}, {} here already, {} in conflict",
                count(Adopted::New),
                match args.yes {
                    true => "taken over",
                    false => "to take over",
                },
                count(Adopted::Already),
                count(Adopted::Conflict)
            ));
            flannel(args)?;
            if !args.yes {
                note("nothing was changed; `--yes` takes them over");
            } else {
                note(
                    "a pod that starts before weft's configuration is there gets an address that \
                     weft does not know of: do this again after it",
                );
            }
        }
    }
    Ok(match count(Adopted::Conflict) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn word(kind: Adopted) -> &'static str {
    match kind {
        Adopted::New => "new",
        Adopted::Already => "already",
        Adopted::Conflict => "conflict",
    }
}

/// Says which configuration continues flannel's.
fn flannel(args: &Args) -> Result<()> {
    let text = match fs::read_to_string(&args.flannel) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("{}", args.flannel.display()))?,
    };
    if let Some(command) = install_command(&text) {
        say(format!("flannel's range goes on with: {command}"));
    }
    Ok(())
}

/// `weft cni install` with what flannel's file says; `None` if it names no range.
fn install_command(text: &str) -> Option<String> {
    let values: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .collect();
    let mut command = String::from("weft cni install");
    let mut has_range = false;
    for name in ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"] {
        // The address is the bridge's: 10.244.1.1/24.
        if let Some(net) = values
            .get(name)
            .and_then(|text| text.parse::<ipnet::IpNet>().ok())
        {
            command.push_str(&format!(" --range {}", net.trunc()));
            has_range = true;
        }
    }
    if let Some(mtu) = values.get("FLANNEL_MTU") {
        command.push_str(&format!(" --mtu {mtu}"));
    }
    has_range.then_some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannels_file_tells_the_configuration() {
        let text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
                    FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        assert_eq!(
            install_command(text).unwrap(),
            "weft cni install --range 10.244.1.0/24 --range fd00:10:244:1::/64 --mtu 1450"
        );
        assert_eq!(install_command("FLANNEL_SUBNET=none\n"), None);
    }
}
