//! `weft service render`: manifests in, rules out, with no cluster and no rights.

use std::path::PathBuf;

use clap::Parser;
use serde_json::{Value, json};
use weft_desired::{Desired, IpFamily};
use weft_iptables::Ruleset;
use weft_kernel::service::{self, Listing};

use super::scene::{self, Mode, RuleArgs};
use crate::manifest;
use crate::output::{self, Format};

/// Prints the rules that a node would have for the Services in some manifests.
///
/// Takes Services, EndpointSlices and Nodes as `kubectl get -o yaml` prints them; all else in
/// the files is passed over, but for Pods in mode nftables: those of the node. The rules are
/// those that `iptables-save` or `nft list table ip weft` prints, first IPv4's.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  kubectl get services,endpointslices,nodes -A -o yaml > cluster.yaml
  weft service render --from cluster.yaml --mode iptables --node node-1 --cluster-cidr 10.244.0.0/16
  weft service render --from cluster.yaml --mode nftables --node node-1 --service-cidr 10.96.0.0/12
  weft service render --from cluster.yaml --mode iptables --iptables-compat 1.23 --family ipv4
  kubectl get services,endpointslices -A -o yaml | weft service render --from - --mode iptables")]
pub(super) struct Args {
    /// Manifests, as YAML or JSON; `-` for standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    rules: RuleArgs,
    /// As text, or as JSON: chains by table
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let desired = compile(&args)?;
    match args.rules.mode {
        Mode::Iptables => iptables(&args, &desired),
        Mode::Nftables => nftables(&args, &desired),
    }
}

fn nftables(args: &Args, desired: &Desired) -> anyhow::Result<()> {
    let listings: Vec<Listing> = args
        .rules
        .families(desired)
        .into_iter()
        .map(|family| {
            service::render(
                family.into(),
                &desired.frontends,
                &desired.nat,
                args.rules.count_bytes,
            )
        })
        .collect();
    match args.output {
        Format::Table => {
            for listing in &listings {
                output::print(listing.text());
            }
        }
        Format::Json => {
            let all: Vec<Value> = listings.iter().map(listing_json).collect();
            output::say(serde_json::to_string_pretty(&all)?);
        }
    }
    Ok(())
}

fn listing_json(listing: &Listing) -> Value {
    let mut sets = serde_json::Map::new();
    for (name, set) in &listing.sets {
        let set = json!({
            "kind": set.kind,
            "properties": set.properties,
            "elements": set.elements,
        });
        sets.insert(name.clone(), set);
    }
    let mut chains = serde_json::Map::new();
    for (name, chain) in &listing.chains {
        let chain = json!({"hook": chain.hook, "rules": chain.rules});
        chains.insert(name.clone(), chain);
    }
    let table = listing.family.table().to_string();
    json!({"table": table, "sets": sets, "chains": chains})
}

fn iptables(args: &Args, desired: &Desired) -> anyhow::Result<()> {
    let rulesets: Vec<Ruleset> = args
        .rules
        .families(desired)
        .into_iter()
        .map(|family| {
            Ruleset::new(
                family,
                &desired.services,
                &desired.nat,
                &args.rules.options(),
            )
        })
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
        for object in manifest::objects(file)? {
            changes.extend(scene::decode(&file.display().to_string(), object)?);
        }
    }
    let compiler = args.rules.compile(changes)?;
    for problem in compiler.problems() {
        output::note(format!("weft: {problem}"));
    }
    if !args.rules.node.is_empty() && compiler.own_node().is_none() {
        output::note(format!(
            "weft: there is no Node {} in these files: its addresses and zone are not known",
            args.rules.node
        ));
    }
    Ok(compiler.desired().clone())
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
