//! `weft service list`: a line for each address and port that the kernel translates.

use std::collections::BTreeSet;

use clap::Parser;
use serde_json::{Value, json};
use weft_desired::Observed;

use super::standing::{
    Row, Service, Shown, Standing, Which, as_json, door, endpoints, frontend, masquerade, outside,
};
use crate::output;

/// Lists the Services that this node's kernel translates, read from the kernel alone.
///
/// A line is an address, protocol and port that something is translated at: a Service has one
/// for each of its ports and addresses. OUTSIDE is what clients beyond the cluster get, where
/// externalTrafficPolicy gives them this node's endpoints only. CONNECTIONS counts new
/// connections since the Service is there (in mode iptables: since its rule was written).
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  weft service list
  weft service list web -o wide
  weft service list -n kube-system -o json
  weft lab exec node-1 -- weft service list")]
pub(super) struct Args {
    /// Only this Service: NAME, NAMESPACE/NAME, ADDRESS or ADDRESS:PORT
    service: Option<Which>,
    /// Only this namespace's
    #[arg(short, long)]
    namespace: Option<String>,
    /// As a table, a wider one, or as JSON
    #[arg(short, long, value_enum, default_value_t = Shown::Table)]
    output: Shown,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut standing = Standing::read(args.service.as_ref())?;
    if let Some(namespace) = &args.namespace {
        let of = |row: &Row| Service::of(&row.seen.label).namespace == namespace;
        standing.rows.retain(of);
    }
    if args.output == Shown::Json {
        let rows: Vec<Value> = standing.rows.iter().map(as_json).collect();
        let all = json!({"frontends": rows, "turnedAway": standing.turned_away});
        output::say(serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    if standing.rows.is_empty() {
        output::note("no Services");
        return Ok(());
    }
    let wide = args.output == Shown::Wide;
    let mut header = vec![
        "SERVICE",
        "KIND",
        "FRONTEND",
        "ENDPOINTS",
        "OUTSIDE",
        "AFFINITY",
        "CONNECTIONS",
    ];
    if wide {
        header.extend(["MODE", "MASQUERADED", "SOURCES", "ADDRESSES"]);
    }
    let rows: Vec<_> = standing.rows.iter().map(|row| line(row, wide)).collect();
    output::print(output::table(&header, &rows));
    Ok(())
}

fn line(row: &Row, wide: bool) -> Vec<String> {
    let Row { mode, key, seen } = row;
    let affinity = seen.affinity.map(|seconds| format!("{seconds}s"));
    let mut cells = vec![
        seen.label.to_string(),
        door(seen.door).to_owned(),
        frontend(key),
        endpoints(seen),
        outside(seen),
        affinity.unwrap_or_else(|| "-".to_owned()),
        seen.tally.connections.to_string(),
    ];
    if wide {
        cells.extend([
            mode.name().to_owned(),
            seen.masquerade.map_or("-", masquerade).to_owned(),
            sources(seen),
            addresses(seen),
        ]);
    }
    cells
}

fn sources(seen: &Observed) -> String {
    match &seen.sources {
        None => "all".to_owned(),
        Some(ranges) => joined(ranges.iter()),
    }
}

fn addresses(seen: &Observed) -> String {
    match seen.backends.len() {
        0 => "-".to_owned(),
        _ => joined(seen.backends.values().collect::<BTreeSet<_>>().into_iter()),
    }
}

fn joined(parts: impl Iterator<Item = impl ToString>) -> String {
    let parts: Vec<String> = parts.map(|part| part.to_string()).collect();
    parts.join(",")
}
