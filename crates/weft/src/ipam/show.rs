//! `weft ipam show` and `check`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use weft_nodestate::Usage;
use weft_proto::cni::{AttachmentKey, RangeSet};

use super::audit::{Finding, Kind, audit};
use super::facts::{Facts, Recorded, Runtimes};
use super::{Node, Output, Place};
use crate::output::{Format, print, say, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
STATE is `attached` (weft attached it), `dead` (its namespace is gone), `abandoned` (no runtime has
the pod, and nobody is in its namespace), `other` (in use, and not attached by weft: adopted from
another plugin) or `leaked` (in no namespace).

Examples:
  weft ipam show
  weft ipam show -o json | jq '.addresses[] | select(.state == \"leaked\")'")]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    runtimes: Runtimes,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ends with 0 when everything fits together, with 1 when it does not.

Examples:
  weft ipam check
  weft ipam check --runtime /run/containerd/containerd.sock -o json")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    runtimes: Runtimes,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    address: IpAddr,
    container: Option<String>,
    interface: Option<String>,
    pod: Option<String>,
    link: Option<String>,
    state: &'static str,
}

#[derive(Debug, Serialize)]
struct RangeRow {
    ranges: Vec<String>,
    total: u64,
    reserved: u64,
    taken: u64,
    free: u64,
}

impl RangeRow {
    fn of(set: &RangeSet, usage: Usage) -> Self {
        RangeRow {
            ranges: set
                .ranges
                .iter()
                .map(|range| format!("{}-{}", range.first, range.last))
                .collect(),
            total: shown(usage.total),
            reserved: shown(usage.reserved),
            taken: shown(usage.taken),
            free: shown(usage.free()),
        }
    }
}

/// JSON's readers know no larger number.
fn shown(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

pub(super) fn show(args: &Args) -> Result<ExitCode> {
    let node = args.place.open()?;
    let facts = Facts::gather(&node, &args.runtimes)?;
    let rows = rows(&facts);
    let ranges = ranges(&node)?;
    match args.output.output {
        Format::Json => say(serde_json::to_string_pretty(&serde_json::json!({
            "network": node.network.as_str(), "ranges": ranges, "addresses": rows,
        }))?),
        Format::Table => {
            for range in &ranges {
                say(format!(
                    "{}: {} of {} free, {} taken, {} reserved",
                    range.ranges.join(", "),
                    range.free,
                    range.total,
                    range.taken,
                    range.reserved
                ));
            }
            let cells: Vec<Vec<String>> = rows.into_iter().map(cells).collect();
            print(table(
                &["ADDRESS", "CONTAINER", "INTERFACE", "POD", "LINK", "STATE"],
                &cells,
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(row: Row) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    // As other tools show container ids.
    let short = row.container.map(|id| id.chars().take(13).collect());
    vec![
        row.address.to_string(),
        or_dash(short),
        or_dash(row.interface),
        or_dash(row.pod),
        or_dash(row.link),
        row.state.to_owned(),
    ]
}

fn rows(facts: &Facts) -> Vec<Row> {
    let records: BTreeMap<&AttachmentKey, &Recorded> = facts
        .records
        .iter()
        .map(|recorded| (&recorded.attachment.key, recorded))
        .collect();
    facts
        .reservations
        .iter()
        .map(|reservation| {
            let owner = reservation.owner.as_ref().ok();
            let recorded = owner.and_then(|owner| records.get(owner).copied());
            let is_live = facts.live.contains_key(&reservation.address);
            let state = match recorded {
                Some(recorded) if !recorded.lives => "dead",
                Some(recorded) if recorded.is_abandoned => "abandoned",
                Some(_) => "attached",
                None if is_live => "other",
                None => "leaked",
            };
            let attachment = recorded.map(|recorded| &recorded.attachment);
            Row {
                address: reservation.address,
                container: owner.map(|owner| owner.container.to_string()),
                interface: owner.map(|owner| owner.interface.to_string()),
                pod: attachment
                    .and_then(|attachment| attachment.pod.as_ref())
                    .map(|pod| format!("{}/{}", pod.namespace, pod.name)),
                link: attachment.map(|attachment| attachment.host_link.clone()),
                state,
            }
        })
        .collect()
}

fn ranges(node: &Node) -> Result<Vec<RangeRow>> {
    let Some(ipam) = &node.ipam else {
        return Ok(Vec::new());
    };
    ipam.sets
        .iter()
        .map(|set| Ok(RangeRow::of(set, node.pool.usage(set, &ipam.reserved)?)))
        .collect()
}

pub(super) fn check(args: &CheckArgs) -> Result<ExitCode> {
    let node = args.place.open()?;
    let findings = audit(&Facts::gather(&node, &args.runtimes)?);
    report(&node, &findings, args.output.output, None)?;
    Ok(match findings.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

#[derive(Debug, Serialize)]
struct FindingRow<'a> {
    kind: Kind,
    object: &'a str,
    text: &'a str,
    /// What `repair` would do, or did.
    repair: Option<&'static str>,
    /// Whether that was done.
    done: bool,
}

/// What became of findings.
#[derive(Clone, Copy)]
pub(super) enum Outcome<'a> {
    /// Nothing was to be done.
    Dry,
    /// What could be done was, but for these.
    Done { failed: &'a [&'a Finding] },
}

/// Prints findings, and what became of them if that was asked for.
pub(super) fn report(
    node: &Node,
    findings: &[Finding],
    format: Format,
    outcome: Option<Outcome<'_>>,
) -> Result<()> {
    let is_done = |finding: &Finding| match outcome {
        Some(Outcome::Done { failed }) => finding.repair.is_some() && !failed.contains(&finding),
        Some(Outcome::Dry) | None => false,
    };
    let rows: Vec<FindingRow<'_>> = findings
        .iter()
        .map(|finding| FindingRow {
            kind: finding.kind,
            object: &finding.object,
            text: &finding.text,
            repair: finding.repair.as_ref().map(super::repair::word),
            done: is_done(finding),
        })
        .collect();
    match format {
        Format::Json => say(serde_json::to_string_pretty(&serde_json::json!({
            "network": node.network.as_str(), "findings": rows,
            "repaired": outcome.map(|outcome| matches!(outcome, Outcome::Done { failed: [] })),
        }))?),
        Format::Table if rows.is_empty() => say(format!(
            "network {}: everything fits together",
            node.network
        )),
        Format::Table => {
            for row in rows {
                let kind = serde_json::to_value(row.kind)?;
                let repair = match (row.repair, outcome) {
                    (None, _) => String::new(),
                    (Some(word), Some(Outcome::Done { .. })) => match row.done {
                        true => format!(" [{word}: done]"),
                        false => format!(" [{word}: failed]"),
                    },
                    (Some(word), Some(Outcome::Dry)) => format!(" [would {word}]"),
                    (Some(word), None) => format!(" [`weft ipam repair` would {word}]"),
                };
                say(format!(
                    "{}: {} {}{repair}",
                    kind.as_str().unwrap_or_default(),
                    row.object,
                    row.text
                ));
            }
        }
    }
    Ok(())
}
