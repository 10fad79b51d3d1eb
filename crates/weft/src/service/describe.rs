//! `weft service describe`: all that the kernel knows of a Service.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::Parser;
use serde_json::Value;
use weft_desired::{Backend, HashOf, Observed, Otherwise};

use super::standing::{
    Row, Service, Standing, Which, as_json, door, frontend, masquerade, reason, slots_of,
};
use crate::output::{self, Format};

/// Shows all that this node's kernel has of a Service: what is translated, to which endpoints
/// in which slots or with which share of the connections, who is admitted and remembered, what
/// was counted.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  weft service describe kubernetes
  weft service describe kube-system/kube-dns
  weft service describe 10.96.0.10:53
  weft service describe fd00:10:96::a -o json")]
pub(super) struct Args {
    /// NAME, NAMESPACE/NAME, ADDRESS or ADDRESS:PORT
    service: Which,
    /// As text, or as JSON
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let standing = Standing::read(Some(&args.service))?;
    match args.output {
        Format::Json => {
            let rows: Vec<Value> = standing.rows.iter().map(as_json).collect();
            output::say(serde_json::to_string_pretty(&rows)?);
        }
        Format::Table => output::print(text(&standing.rows)),
    }
    Ok(())
}

fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut last = None;
    for row in rows {
        let service = Service::of(&row.seen.label);
        let name = (service.namespace, service.name);
        if last != Some(name) {
            if last.is_some() {
                text.push('\n');
            }
            // A String takes all that is written.
            let _ = writeln!(text, "Name:       {}", service.name);
            let _ = writeln!(text, "Namespace:  {}", service.namespace);
            last = Some(name);
        }
        block(&mut text, row, service.port);
    }
    text
}

fn block(text: &mut String, row: &Row, port: &str) {
    let Row { mode, key, seen } = row;
    let kind = door(seen.door);
    let port = match port {
        "" => String::new(),
        port => format!(", port {port}"),
    };
    let _ = writeln!(text, "\n{} ({kind}{port}, {})", frontend(key), mode.name());
    let mut field = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<16}{value}");
    };
    field("Connections:", seen.tally.connections.to_string());
    if let Some((sent, answered)) = seen.tally.traffic {
        for (name, volume) in [("From clients:", sent), ("To clients:", answered)] {
            let volume = format!("{} bytes in {} packets", volume.bytes, volume.packets);
            field(name, volume);
        }
    }
    for (why, packets) in &seen.tally.turned_away {
        field(
            "Turned away:",
            format!("{packets} packets ({})", reason(*why)),
        );
    }
    if let Some(seconds) = seen.affinity {
        let clients = seen.remembered;
        field("Affinity:", format!("{seconds} s, {clients} clients now"));
    }
    if let Some(whose) = seen.masquerade {
        field("Masquerade:", masquerade(whose).to_owned());
    }
    if let Some(ranges) = &seen.sources {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        field("Sources:", ranges.join(", "));
    }
    if let Some(hash) = seen.hash {
        let hash = match hash {
            HashOf::Source => "by a hash of the client's address",
            HashOf::FiveTuple => "by a hash of both ends and the protocol",
        };
        field("Chosen:", hash.to_owned());
    }
    field("Endpoints:", given(seen));
    endpoints(text, &seen.backends);
    if let Some(outside) = &seen.outside {
        let told = match slots_of(&outside.backends).len() {
            0 => "none on this node: dropped".to_owned(),
            count => format!("{count}, this node's (externalTrafficPolicy Local)"),
        };
        let _ = writeln!(text, "  {:<16}{told}", "From outside:");
        endpoints(text, &outside.backends);
    }
}

fn given(seen: &Observed) -> String {
    match seen.turned_away {
        Some(Otherwise::Refuse) => "none: clients are refused".to_owned(),
        Some(Otherwise::Drop) => "none for this node: packets are dropped".to_owned(),
        None => slots_of(&seen.backends).len().to_string(),
    }
}

/// Slot by slot, or each with its share where some have several slots.
fn endpoints(text: &mut String, backends: &BTreeMap<u32, Backend>) {
    let by_endpoint = slots_of(backends);
    if by_endpoint.len() == backends.len() {
        for (slot, backend) in backends {
            let _ = writeln!(text, "    {slot:>3}  {backend}");
        }
        return;
    }
    for (backend, slots) in by_endpoint {
        let share = 100.0 * slots.len() as f64 / backends.len() as f64;
        let _ = writeln!(text, "  {share:>5.1} %  {backend}");
    }
}
