//! `weft fabric docker-options`: what flannel's script `mk-docker-opts.sh` makes of a subnet file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::output::{self, NotThere};

/// Prints what a Docker daemon needs to be on this node's pod network.
///
/// Reads the subnet file that the agent (or flannel) writes, and prints options of dockerd as
/// assignments for an EnvironmentFile: each by itself (DOCKER_OPT_BIP, DOCKER_OPT_IPMASQ,
/// DOCKER_OPT_MTU), and all in one variable. Options are those of flannel's mk-docker-opts.sh,
/// but that without -d they are printed. What the variable of all options has in this program's
/// environment comes first in it, as there.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  weft fabric docker-options
  weft fabric docker-options -c -k DOCKER_NETWORK_OPTIONS -d /run/docker_opts.env")]
pub(super) struct Args {
    /// The subnet file
    #[arg(short = 'f', long, default_value = "/run/flannel/subnet.env")]
    subnet_file: PathBuf,
    /// Write here instead of printing
    #[arg(short = 'd', long)]
    docker_file: Option<PathBuf>,
    /// Each option as a variable of its own (with neither -i nor -c: both)
    #[arg(short = 'i', long)]
    individual: bool,
    /// All options in one variable
    #[arg(short = 'c', long)]
    combined: bool,
    /// The name of that variable
    #[arg(short = 'k', long, default_value = "DOCKER_OPTS", value_parser = variable)]
    key: String,
    /// Leave --ip-masq out, for a Docker that does not know it
    #[arg(short = 'm', long)]
    no_ip_masq: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let text = match fs::read_to_string(&args.subnet_file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = format!(
                "there is no {}: the agent writes it once the node has a range of pods; does it \
                 run here? (-f names another file)",
                args.subnet_file.display()
            );
            return Err(NotThere(text).into());
        }
        Err(error) => {
            return Err(error).with_context(|| format!("{}", args.subnet_file.display()));
        }
    };
    let options = Options::of(&text, !args.no_ip_masq)
        .with_context(|| format!("{}", args.subnet_file.display()))?;
    let before = std::env::var(&args.key).unwrap_or_default();
    let both = !args.individual && !args.combined;
    let mut printed = String::new();
    if args.individual || both {
        printed.push_str(&options.individual());
    }
    if args.combined || both {
        printed.push_str(&options.combined(&args.key, &before));
    }
    match &args.docker_file {
        None => output::print(printed),
        Some(path) => write(path, &printed)?,
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{}", path.display()))
}

fn variable(text: &str) -> Result<String, String> {
    let mut characters = text.chars();
    let starts = characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    match starts && characters.all(|it| it.is_ascii_alphanumeric() || it == '_') {
        true => Ok(text.to_owned()),
        false => Err("not the name of a variable".to_owned()),
    }
}

/// Options of dockerd, by the names that flannel's script gives them, in the names' order.
struct Options(Vec<(&'static str, String)>);

impl Options {
    fn of(subnet_file: &str, ip_masq: bool) -> Result<Self> {
        let get = |name: &str| {
            let mut lines = subnet_file.lines().rev();
            let value = lines.find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
            value
                .map(|value| value.trim_matches('"'))
                .filter(|value| !value.is_empty())
        };
        let mut options = Vec::new();
        if let Some(subnet) = get("FLANNEL_SUBNET") {
            options.push(("DOCKER_OPT_BIP", format!("--bip={subnet}")));
        }
        // Then somebody else masquerades.
        if get("FLANNEL_IPMASQ") == Some("true") && ip_masq {
            options.push(("DOCKER_OPT_IPMASQ", "--ip-masq=false".to_owned()));
        }
        if let Some(mtu) = get("FLANNEL_MTU") {
            options.push(("DOCKER_OPT_MTU", format!("--mtu={mtu}")));
        }
        if options.is_empty() {
            bail!("it has neither FLANNEL_SUBNET nor FLANNEL_MTU: is it a subnet file?");
        }
        Ok(Self(options))
    }

    fn individual(&self) -> String {
        let lines = self.0.iter();
        lines
            .map(|(name, value)| format!("{name}=\"{value}\"\n"))
            .collect()
    }

    fn combined(&self, key: &str, before: &str) -> String {
        let values: String = self
            .0
            .iter()
            .map(|(_, value)| format!("{value} "))
            .collect();
        format!("{key}=\"{before} {values}\"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "FLANNEL_NETWORK=172.17.0.0/16\nFLANNEL_SUBNET=172.17.18.1/24\n\
                        FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";

    #[test]
    fn it_says_what_flannels_script_does() {
        let options = Options::of(FILE, true).unwrap();
        assert_eq!(
            options.individual(),
            "DOCKER_OPT_BIP=\"--bip=172.17.18.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n\
             DOCKER_OPT_MTU=\"--mtu=1472\"\n"
        );
        assert_eq!(
            options.combined("DOCKER_OPTS", ""),
            "DOCKER_OPTS=\" --bip=172.17.18.1/24 --ip-masq=false --mtu=1472 \"\n"
        );
        let without = Options::of(FILE, false).unwrap();
        assert_eq!(
            without.combined("KEY", "--debug"),
            "KEY=\"--debug --bip=172.17.18.1/24 --mtu=1472 \"\n"
        );
    }

    #[test]
    fn what_is_no_subnet_file_is_refused() {
        assert!(Options::of("", true).is_err());
        assert!(Options::of("FLANNEL_SUBNET_LEN=24\n", true).is_err());
    }

    #[test]
    fn a_variable_has_a_name() {
        assert!(variable("DOCKER_OPTS").is_ok() && variable("_1").is_ok());
        assert!(variable("").is_err() && variable("1A").is_err() && variable("A-B").is_err());
    }
}
