//! `weft ipam repair`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};

use super::audit::{Finding, Repair, audit};
use super::facts::{Facts, Runtimes};
use super::show::{Outcome, report};
use super::{Node, Output, Place};
use crate::output::{Format, note};
use weft_cni::detach;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Does only what needs no judgement: detaches what has no namespace any more, gives back addresses
that no record and no namespace accounts for, reserves what a living pod has and is not reserved.
Everything is looked at twice before it is touched. In a container, which does not see the node's
namespaces, an attachment lives as long as its link stands, and less is given back.

Ends with 0 when nothing is left to a person, with 1 otherwise.

Examples:
  weft ipam repair            what would be done
  weft ipam repair --yes      do it
  weft ipam repair --runtime /run/containerd/containerd.sock --yes
                              also what the runtime lost and no process is in")]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    runtimes: Runtimes,
    #[command(flatten)]
    output: Output,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let node = args.place.open()?;
    let mut facts = Facts::gather(&node, &args.runtimes)?;
    let first = audit(&facts);
    let findings = if args.yes {
        // An ADD or DEL that ran meanwhile looked like a leak for a moment.
        facts = Facts::gather(&node, &args.runtimes)?;
        let second = audit(&facts);
        let mut both = first;
        both.retain(|finding| second.contains(finding));
        both
    } else {
        first
    };
    let mut failed = Vec::new();
    if args.yes {
        for finding in &findings {
            if let Err(error) = apply(&node, finding) {
                note(format!("weft: {}: {error:#}", finding.object));
                failed.push(finding);
            }
        }
        // Files of writers whose processes can't be seen from here are not known to be left.
        if !facts.sees_part() {
            node.records.sweep()?;
            node.pool.sweep()?;
        }
    }
    let outcome = match args.yes {
        true => Outcome::Done { failed: &failed },
        false => Outcome::Dry,
    };
    report(&node, &findings, args.output.output, Some(outcome))?;
    let is_dry = !args.yes && findings.iter().any(|finding| finding.repair.is_some());
    if is_dry && args.output.output == Format::Table {
        note("nothing was changed; `--yes` does it");
    }
    let for_a_person = findings.iter().any(|finding| finding.repair.is_none());
    Ok(match !failed.is_empty() || for_a_person {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// What a repair does, as a verb.
pub(super) fn word(repair: &Repair) -> &'static str {
    match repair {
        Repair::Detach(_) => "detach",
        Repair::Free(_) => "free",
        Repair::Reserve(..) => "reserve",
    }
}

fn apply(node: &Node, finding: &Finding) -> Result<()> {
    match &finding.repair {
        None => Ok(()),
        Some(Repair::Detach(record)) => {
            if node.records.read(&record.key)?.as_ref() != Some(&**record) {
                return Err(anyhow!("it changed meanwhile, and is left alone"));
            }
            detach(&node.records, record).map_err(|error| anyhow!("{error}"))
        }
        Some(Repair::Free(reservation)) => match node.pool.reclaim(reservation)? {
            true => Ok(()),
            false => Err(anyhow!("it changed meanwhile, and is left alone")),
        },
        Some(Repair::Reserve(owner, address)) => match node.pool.reserve(owner, *address)? {
            true => Ok(()),
            false => Err(anyhow!("somebody took {address} meanwhile")),
        },
    }
}
