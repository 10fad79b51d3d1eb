//! `weft service stats`: what the kernel has counted, Service by Service.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use serde_json::{Value, json};
use weft_desired::{Reason, Volume};

use super::standing::{Service, Standing, Which, traffic_json, turned_away_json};
use crate::output::{self, Format};

/// Shows what this node's kernel has counted of each port of each Service: new connections,
/// packets turned away by reason, and bytes where those are counted.
///
/// Connections are counted always. They stay counted when endpoints change, the last one goes
/// and another comes, or the agent is restarted; a Service that is deleted takes them along.
/// Bytes need `nftables: {countBytes: true}` in the agent's configuration. In mode iptables
/// the counts are those of the rules, which begin anew when a rule is written.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  weft service stats
  weft service stats kube-system/kube-dns -o json
  weft service stats --watch
  weft service stats web --watch=10")]
pub(super) struct Args {
    /// Only this Service: NAME, NAMESPACE/NAME, ADDRESS or ADDRESS:PORT
    service: Option<Which>,
    /// Prints again every so many seconds, with what has been counted since
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
    /// As a table, or as JSON (with --watch a line each time)
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// What is printed: of each port of a Service, and of the node.
#[derive(Clone, Default)]
struct Counted {
    services: BTreeMap<(String, String), Sum>,
    turned_away: BTreeMap<String, u64>,
}

/// Of all addresses of a Service's port.
#[derive(Clone, Default)]
struct Sum {
    connections: u64,
    traffic: Option<(Volume, Volume)>,
    turned_away: BTreeMap<Reason, u64>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let counted = count(args)?;
        let mut text = match args.output {
            Format::Json => json_text(&counted, args.watch.is_some())?,
            Format::Table => table(&counted, last.as_ref()),
        };
        if args.output == Format::Json || args.watch.is_some() {
            text.push('\n');
        }
        let is_read = output::print_on(text).context("standard output")?;
        let Some(seconds) = args.watch.filter(|_| is_read) else {
            return Ok(());
        };
        last = Some(counted);
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

fn count(args: &Args) -> anyhow::Result<Counted> {
    let standing = Standing::read(args.service.as_ref())?;
    let mut counted = Counted {
        turned_away: standing.turned_away,
        ..Counted::default()
    };
    counted.turned_away.retain(|_, packets| *packets > 0);
    for row in standing.rows {
        let key = (row.seen.label.to_string(), row.key.protocol.to_string());
        let sum = counted.services.entry(key).or_default();
        let tally = row.seen.tally;
        sum.connections += tally.connections;
        if let Some((sent, answered)) = tally.traffic {
            let known = sum.traffic.get_or_insert_default();
            add(&mut known.0, sent);
            add(&mut known.1, answered);
        }
        for (reason, packets) in tally.turned_away {
            *sum.turned_away.entry(reason).or_default() += packets;
        }
    }
    Ok(counted)
}

fn add(sum: &mut Volume, more: Volume) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
}

const REASONS: [Reason; 3] = [
    Reason::NoEndpoints,
    Reason::NoLocalEndpoints,
    Reason::SourceNotAdmitted,
];

fn table(counted: &Counted, last: Option<&Counted>) -> String {
    let bytes = counted.services.values().any(|sum| sum.traffic.is_some());
    let mut header = vec!["SERVICE", "PROTOCOL", "CONNECTIONS"];
    if bytes {
        header.extend(["BYTES-IN", "BYTES-OUT"]);
    }
    header.extend(["NO-ENDPOINTS", "NONE-HERE", "NOT-ADMITTED"]);
    let rows: Vec<Vec<String>> = counted
        .services
        .iter()
        .map(|(key, sum)| {
            let before = last.and_then(|last| last.services.get(key));
            let mut cells = vec![
                key.0.clone(),
                key.1.clone(),
                since(sum.connections, before.map(|it| it.connections)),
            ];
            if bytes {
                let before = before.and_then(|it| it.traffic);
                let (sent, answered) = sum.traffic.unwrap_or_default();
                cells.push(since(sent.bytes, before.map(|it| it.0.bytes)));
                cells.push(since(answered.bytes, before.map(|it| it.1.bytes)));
            }
            for reason in REASONS {
                let of = |sum: &Sum| sum.turned_away.get(&reason).copied().unwrap_or_default();
                cells.push(since(of(sum), before.map(of)));
            }
            cells
        })
        .collect();
    let mut text = output::table(&header, &rows);
    if !counted.turned_away.is_empty() {
        let rows: Vec<Vec<String>> = counted
            .turned_away
            .iter()
            .map(|(reason, packets)| {
                let before = last.and_then(|last| last.turned_away.get(reason)).copied();
                vec![reason.clone(), since(*packets, before)]
            })
            .collect();
        text.push('\n');
        text.push_str(&output::table(
            &["TURNED AWAY ON THIS NODE", "PACKETS"],
            &rows,
        ));
    }
    text
}

/// `120 (+7)`: now, and what came since the last look.
fn since(now: u64, before: Option<u64>) -> String {
    match before.map(|before| now.saturating_sub(before)) {
        None | Some(0) => now.to_string(),
        Some(more) => format!("{now} (+{more})"),
    }
}

fn json_text(counted: &Counted, one_line: bool) -> anyhow::Result<String> {
    let services: Vec<Value> = counted
        .services
        .iter()
        .map(|((label, protocol), sum)| {
            let service = Service::of(label);
            json!({
                "namespace": service.namespace,
                "name": service.name,
                "portName": service.port,
                "protocol": protocol,
                "connections": sum.connections,
                "traffic": sum.traffic.map(traffic_json),
                "turnedAway": turned_away_json(&sum.turned_away),
            })
        })
        .collect();
    let all = json!({"services": services, "turnedAway": counted.turned_away});
    Ok(if one_line {
        all.to_string()
    } else {
        serde_json::to_string_pretty(&all)?
    })
}
