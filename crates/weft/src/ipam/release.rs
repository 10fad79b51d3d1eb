//! `weft ipam release`.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use weft_nodestate::Reservation;

use super::Place;
use super::facts::{Facts, Recorded, Runtimes};
use crate::output::{InUse, NotThere, note, say};
use weft_cni::detach;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
An attachment that weft made is detached whole: link, ports and all of its addresses.
What lives is refused (exit code 4), for another pod would get its address.

Examples:
  weft ipam release 10.244.1.7                  what would be done
  weft ipam release 10.244.1.7 --yes            do it
  weft ipam release 3f1c2a9d/eth0 --yes         by container and interface
  weft ipam release 10.244.1.7 --yes --force    although a namespace has it")]
pub(super) struct Args {
    /// An address, or CONTAINER/INTERFACE
    #[arg(value_name = "ADDRESS|CONTAINER/INTERFACE")]
    what: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    runtimes: Runtimes,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Release what lives, too
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let node = args.place.open()?;
    let facts = Facts::gather(&node, &args.runtimes)?;
    let (reservations, recorded) = find(&facts, &args.what)?;
    if !args.force {
        refuse_living(&facts, &reservations, recorded)?;
    }
    for reservation in &reservations {
        let owner = match &reservation.owner {
            Ok(owner) => owner.to_string(),
            Err(reason) => format!("nobody ({reason})"),
        };
        say(format!("{} of {owner}", reservation.address));
    }
    if let Some(recorded) = recorded {
        let record = &recorded.attachment;
        say(format!(
            "attachment {}, link {}",
            record.key, record.host_link
        ));
    }
    if !args.yes {
        note("nothing was changed; `--yes` releases it");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(recorded) = recorded {
        detach(&node.records, &recorded.attachment).map_err(|error| anyhow!("{error}"))?;
    }
    for reservation in &reservations {
        // What the attachment had went with it.
        node.pool.reclaim(reservation)?;
    }
    say("released");
    Ok(ExitCode::SUCCESS)
}

fn find<'a>(facts: &'a Facts, what: &str) -> Result<(Vec<Reservation>, Option<&'a Recorded>)> {
    let address: Option<IpAddr> = what.parse().ok();
    let reservations: Vec<Reservation> = facts
        .reservations
        .iter()
        .filter(|reservation| match (address, &reservation.owner) {
            (Some(address), _) => reservation.address == address,
            (None, Ok(owner)) => owner.to_string() == what,
            (None, Err(_)) => false,
        })
        .cloned()
        .collect();
    let recorded = facts.records.iter().find(|recorded| {
        let record = &recorded.attachment;
        match address {
            Some(address) => record.addresses.contains(&address),
            None => record.key.to_string() == what,
        }
    });
    if reservations.is_empty() && recorded.is_none() {
        let text = format!("nobody holds {what}; `weft ipam show` lists who holds what");
        return Err(NotThere(text).into());
    }
    Ok((reservations, recorded))
}

fn refuse_living(
    facts: &Facts,
    reservations: &[Reservation],
    recorded: Option<&Recorded>,
) -> Result<()> {
    if let Some(recorded) = recorded.filter(|one| one.lives && !one.is_abandoned) {
        let text = format!(
            "attachment {} lives: its {} is there; delete the pod, or use --force",
            recorded.attachment.key,
            match recorded {
                one if one.is_seen => format!("namespace {}", one.attachment.netns.display()),
                one if one.is_known => "pod in its runtime".to_owned(),
                one => format!("link {}", one.attachment.host_link),
            }
        );
        return Err(InUse(text).into());
    }
    for reservation in reservations {
        if let Some(place) = facts.live.get(&reservation.address) {
            let text = format!(
                "{} is in use in {}; end that container, or use --force",
                reservation.address,
                place.display()
            );
            return Err(InUse(text).into());
        }
    }
    Ok(())
}
