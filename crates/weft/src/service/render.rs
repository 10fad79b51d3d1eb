//! `weft service render`: manifests in, rules out, with no cluster and no rights.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft_cluster::lab::boot;
use weft_compile::{Compiler, LocalMode, NodePortsAt, ProxySettings, Settings};
use weft_desired::{Desired, IpFamily};
use weft_iptables::{Generation, Options, Ruleset};
use weft_model::{Change, NodeName};

use crate::output::{self, Format, NotThere, Usage};

/// Prints the rules that a node would have for the Services in some manifests.
///
/// Takes Services, EndpointSlices and Nodes as `kubectl get -o yaml` prints them; all else in
/// the files is passed over. The rules are those that `iptables-save` prints, first IPv4's.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  kubectl get services,endpointslices,nodes -A -o yaml > cluster.yaml
  weft service render --from cluster.yaml --mode iptables --node node-1 --cluster-cidr 10.244.0.0/16
  weft service render --from cluster.yaml --mode iptables --iptables-compat 1.23 --family ipv4
  kubectl get services,endpointslices -A -o yaml | weft service render --from - --mode iptables")]
pub(super) struct Args {
    /// Manifests, as YAML or JSON; `-` for standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    from: Vec<PathBuf>,
    /// Which back end's rules
    #[arg(long, value_enum, default_value_t = Mode::Iptables)]
    mode: Mode,
    /// The node whose rules: which endpoints are its own, and what its addresses are
    #[arg(long, value_name = "NAME", default_value = "")]
    node: String,
    /// The pods' ranges, at most one a family
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// How pods' packets are told from others: cluster-cidr, node-cidr, bridge:NAME,
    /// prefix:NAME, none
    #[arg(long, value_name = "HOW", default_value = "cluster-cidr")]
    detect_local: DetectLocal,
    /// Which generation of kube-proxy's chains
    #[arg(long, value_enum, default_value_t = Compat::Current)]
    iptables_compat: Compat,
    /// Masquerade all that is sent to cluster addresses
    #[arg(long, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false)]
    masquerade_all: bool,
    /// The bit of the mark that stands for "masquerade"
    #[arg(long, value_name = "BIT", default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..=31))]
    masquerade_bit: u8,
    /// Where node ports answer: ranges, or `primary` [default: everywhere]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// Whether node ports answer at 127.0.0.1 too
    #[arg(long, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = true)]
    localhost_nodeports: bool,
    /// Count what kube-proxy counts, where the kernel has nfacct
    #[arg(long)]
    nfacct: bool,
    /// Only this family's rules [default: of each family that a Service has]
    #[arg(long, value_enum)]
    family: Option<FamilyName>,
    /// As text, or as JSON: chains by table
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Iptables,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compat {
    /// kube-proxy 1.26 and later
    Current,
    /// kube-proxy 1.23
    #[value(name = "1.23")]
    V1_23,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FamilyName {
    Ipv4,
    Ipv6,
}

/// `--detect-local`.
#[derive(Clone, Debug)]
enum DetectLocal {
    ClusterCidr,
    NodeCidr,
    Bridge(String),
    Prefix(String),
    None,
}

impl FromStr for DetectLocal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("bridge", name)) if !name.is_empty() => Ok(Self::Bridge(name.to_owned())),
            Some(("prefix", name)) if !name.is_empty() => Ok(Self::Prefix(name.to_owned())),
            None if text == "cluster-cidr" => Ok(Self::ClusterCidr),
            None if text == "node-cidr" => Ok(Self::NodeCidr),
            None if text == "none" => Ok(Self::None),
            Some(_) | None => {
                Err("give cluster-cidr, node-cidr, bridge:NAME, prefix:NAME or none".to_owned())
            }
        }
    }
}

impl fmt::Display for DetectLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterCidr => f.write_str("cluster-cidr"),
            Self::NodeCidr => f.write_str("node-cidr"),
            Self::Bridge(name) => write!(f, "bridge:{name}"),
            Self::Prefix(name) => write!(f, "prefix:{name}"),
            Self::None => f.write_str("none"),
        }
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let desired = compile(&args)?;
    match args.mode {
        Mode::Iptables => iptables(&args, &desired),
    }
}

fn iptables(args: &Args, desired: &Desired) -> anyhow::Result<()> {
    let rulesets: Vec<Ruleset> = families(args, desired)
        .into_iter()
        .map(|family| Ruleset::new(family, &desired.services, &desired.nat, &options(args)))
        .collect();
    match args.output {
        Format::Table => {
            for ruleset in &rulesets {
                output::say(format!("# {}", program(ruleset.family)));
                output::print(ruleset.saved());
            }
        }
        Format::Json => {
            let all: Vec<Value> = rulesets.iter().map(as_json).collect();
            output::say(serde_json::to_string_pretty(&all)?);
        }
    }
    Ok(())
}

/// Everything in the files, compiled for the node.
fn compile(args: &Args) -> anyhow::Result<Desired> {
    let mut changes = Vec::new();
    for file in &args.from {
        for object in boot::objects(&file.to_string_lossy(), &read(file)?)? {
            changes.extend(decode(file, object)?);
        }
    }
    let settings = Settings {
        node: NodeName::from(args.node.as_str()),
        service_ranges: Vec::new(),
        proxy: proxy(args)?,
    };
    let mut compiler = Compiler::new(settings);
    compiler.apply_all(changes);
    for problem in compiler.problems() {
        output::note(format!("weft: {problem}"));
    }
    if !args.node.is_empty() && compiler.own_node().is_none() {
        output::note(format!(
            "weft: there is no Node {} in these files: its addresses and zone are not known",
            args.node
        ));
    }
    let mut desired = compiler.desired().clone();
    // Without a kernel to ask, the node has the addresses that it is known by.
    let own = compiler.own_node().into_iter();
    let known = own.flat_map(|node| node.internal_ips.iter().copied());
    desired.nat.own_addresses.extend(known);
    Ok(desired)
}

/// What an object changes in the model; nothing if it is of a kind that no rule depends on.
fn decode(file: &Path, mut object: Value) -> anyhow::Result<Option<Change>> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if kind != "Node" && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = "default".into();
    }
    let change = match kind.as_str() {
        "Service" => weft_kube::service(&typed(file, object)?),
        "EndpointSlice" => weft_kube::endpoint_slice(&typed(file, object)?),
        "Node" => weft_kube::node(&typed(file, object)?),
        _ => None,
    };
    Ok(change)
}

fn typed<T: DeserializeOwned>(file: &Path, object: Value) -> anyhow::Result<T> {
    let name = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let what = format!(
        "{}: {} {}/{}",
        file.display(),
        object["kind"].as_str().unwrap_or_default(),
        name("namespace"),
        name("name")
    );
    serde_json::from_value(object)
        .map_err(|error| Usage(format!("{what} is not as the API has it: {error}")).into())
}

fn proxy(args: &Args) -> anyhow::Result<ProxySettings> {
    let node_ports_at = match &args.nodeport_addresses[..] {
        [] => NodePortsAt::All,
        [word] if word == "primary" => NodePortsAt::Primary,
        ranges => {
            let ranges = ranges.iter().map(|range| {
                let parsed: Result<IpNet, _> = range.parse();
                parsed.map_err(|_| {
                    let text = format!("--nodeport-addresses {range}: give ranges, or `primary`");
                    anyhow::Error::from(Usage(text))
                })
            });
            NodePortsAt::Within(ranges.collect::<anyhow::Result<BTreeSet<IpNet>>>()?)
        }
    };
    let local = match &args.detect_local {
        DetectLocal::ClusterCidr => LocalMode::Ranges(args.cluster_cidr.iter().copied().collect()),
        DetectLocal::NodeCidr => LocalMode::NodeRanges,
        DetectLocal::Bridge(name) => LocalMode::Bridge(name.as_str().into()),
        DetectLocal::Prefix(name) => LocalMode::InterfacePrefix(name.as_str().into()),
        DetectLocal::None => LocalMode::Nothing,
    };
    Ok(ProxySettings {
        node_ports_at,
        local,
        masquerade_all: args.masquerade_all,
        localhost_node_ports: args.localhost_nodeports,
    })
}

fn options(args: &Args) -> Options {
    Options {
        generation: match args.iptables_compat {
            Compat::Current => Generation::Current,
            Compat::V1_23 => Generation::V1_23,
        },
        masquerade_bit: args.masquerade_bit,
        counters: args.nfacct,
        ..Options::default()
    }
}

fn families(args: &Args, desired: &Desired) -> Vec<IpFamily> {
    match args.family {
        Some(FamilyName::Ipv4) => vec![IpFamily::V4],
        Some(FamilyName::Ipv6) => vec![IpFamily::V6],
        None => {
            let used: BTreeSet<IpFamily> = desired.services.keys().map(|key| key.family).collect();
            if used.is_empty() {
                vec![IpFamily::V4]
            } else {
                used.into_iter().collect()
            }
        }
    }
}

fn program(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "iptables-save",
        IpFamily::V6 => "ip6tables-save",
    }
}

fn as_json(ruleset: &Ruleset) -> Value {
    let mut tables = serde_json::Map::new();
    for ((table, chain), rules) in ruleset.jumps.iter().chain(&ruleset.chains) {
        let lines: Vec<String> = rules
            .iter()
            .map(|rule| rule.line(ruleset.family, chain))
            .collect();
        let chains = tables
            .entry(table.name())
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        chains[chain.as_str()] = lines.into();
    }
    json!({"family": ruleset.family.to_string(), "tables": tables})
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            NotThere(format!("{}: there is no such file", file.display())).into()
        } else {
            anyhow::Error::from(error).context(format!("cannot read {}", file.display()))
        }
    })
}
