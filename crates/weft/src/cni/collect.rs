//! GC and STATUS.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use weft_nodestate::{Attachment, Attachments, Pool, Reservation};
use weft_proto::cni::{AttachmentKey, Code, Collect, Error, Status};
use weft_sys::rtnl::Conversation;

use super::{bandwidth, chain, del, live, note, pod_rules, pool_error, record_error};

/// Frees what the runtime does not list and what shows no sign of life besides: an
/// attachment whose namespace is gone, a reservation without a record whose address is in no
/// namespace. Everything is looked at twice, the second time right before it is freed, for a
/// container of the same name may have come meanwhile. The rest is named and left.
pub(super) fn gc(request: &Collect) -> Result<(), Error> {
    if request.config.is_chained {
        // The reservations of that name are another plugin's.
        return Ok(());
    }
    let records = Attachments::under(Path::new(&request.config.state_dir));
    let pool = Pool::under(
        Path::new(&request.config.data_dir),
        &request.config.network,
        &records,
    );
    let mut first_error = None;
    let orphans = orphans(request, &records, &pool)?;
    for record in dead(request, &records)? {
        let again = records.read(&record.key).ok().flatten();
        if again.as_ref() != Some(&record) || lives(&record) {
            note(&format_args!(
                "attachment {} changed meanwhile: kept",
                record.key
            ));
            continue;
        }
        if let Err(error) = del::undo(&records, &record) {
            note(&error);
            first_error.get_or_insert(error);
        }
    }
    if let Err(error) = free(&orphans, &records, &pool) {
        note(&error);
        first_error.get_or_insert(error);
    }
    for swept in [pod_rules::sweep(&records), bandwidth::sweep(&records)] {
        if let Err(error) = swept {
            note(&error);
            first_error.get_or_insert(error);
        }
    }
    records.sweep().map_err(|error| record_error(&error))?;
    pool.sweep().map_err(|error| pool_error(&error))?;
    first_error.map_or(Ok(()), Err)
}

/// The network's attachments that the runtime does not list and whose namespace is gone.
fn dead(request: &Collect, records: &Attachments) -> Result<Vec<Attachment>, Error> {
    let mut dead = Vec::new();
    for listed in records.list().map_err(|error| record_error(&error))? {
        let record = match listed {
            Ok(record) => record,
            Err(damaged) => {
                note(&damaged);
                continue;
            }
        };
        if record.network != request.config.network || request.valid.contains(&record.key) {
            continue;
        }
        if lives(&record) {
            note(&format_args!(
                "attachment {} is not listed as valid, but its namespace {} is there: kept",
                record.key,
                record.netns.display()
            ));
            continue;
        }
        dead.push(record);
    }
    Ok(dead)
}

fn lives(record: &Attachment) -> bool {
    live::has_namespace(&record.netns, record.netns_inode)
}

/// Reservations that neither the runtime nor a record accounts for: of another plugin that had
/// this pool before, or of an ADD whose record was lost.
fn orphans(
    request: &Collect,
    records: &Attachments,
    pool: &Pool,
) -> Result<Vec<Reservation>, Error> {
    let recorded: BTreeSet<AttachmentKey> = records
        .list()
        .map_err(|error| record_error(&error))?
        .into_iter()
        .flatten()
        .map(|record| record.key)
        .collect();
    let mut orphans = pool.list().map_err(|error| pool_error(&error))?;
    orphans.retain(|reservation| match &reservation.owner {
        Ok(owner) => !recorded.contains(owner) && !request.valid.contains(owner),
        Err(_) => false,
    });
    Ok(orphans)
}

fn free(orphans: &[Reservation], records: &Attachments, pool: &Pool) -> Result<(), Error> {
    if orphans.is_empty() {
        return Ok(());
    }
    let live = live::addresses().map_err(|error| {
        Error::new(
            Code::Io,
            format!("cannot look for addresses in use: {}", chain(&error)),
        )
    })?;
    for orphan in orphans {
        let (Ok(owner), address) = (&orphan.owner, orphan.address) else {
            continue;
        };
        if let Some(namespace) = live.get(&address) {
            note(&format_args!(
                "address {address} of {owner} is not listed as valid, but in use in {}: kept",
                namespace.display()
            ));
        } else if !matches!(records.read(owner), Ok(None)) {
            note(&format_args!(
                "address {address} of {owner} has a record now: kept"
            ));
        } else if pool.reclaim(orphan).map_err(|error| pool_error(&error))? {
            note(&format_args!("address {address} of {owner} is free again"));
        }
    }
    Ok(())
}

/// Whether an ADD could succeed now: the disk takes a file, the kernel talks, and each set
/// has an address left.
pub(super) fn status(request: &Status) -> Result<(), Error> {
    if request.config.is_chained {
        return Ok(());
    }
    let records = Attachments::under(Path::new(&request.config.state_dir));
    let pool = Pool::under(
        Path::new(&request.config.data_dir),
        &request.config.network,
        &records,
    );
    for directory in [records.directory(), pool.directory()] {
        takes_files(directory).map_err(|source| {
            Error::new(
                Code::NotAvailable,
                format!("cannot write to {}: {source}", directory.display()),
            )
            .with_details("make room, or mount the file system for writing")
        })?;
    }
    Conversation::open().map_err(|error| {
        Error::new(
            Code::NotAvailable,
            format!("cannot talk to the kernel about links: {}", chain(&error)),
        )
    })?;
    for set in &request.ipam.sets {
        let usage = pool
            .usage(set, &request.ipam.reserved)
            .map_err(|error| pool_error(&error))?;
        if usage.free() == 0 {
            let family = if set.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(Error::new(
                Code::NotAvailable,
                format!(
                    "network {}: no {family} address left: {} of {} are taken by pods, {} are reserved",
                    request.config.network, usage.taken, usage.total, usage.reserved
                ),
            ));
        }
    }
    Ok(())
}

/// Writes a file and removes it. The directory is made by the first ADD; until then the one
/// above it tells.
fn takes_files(directory: &Path) -> io::Result<()> {
    let there = directory
        .ancestors()
        .find(|ancestor| ancestor.is_dir())
        .unwrap_or(Path::new("/"));
    let probe = there.join(format!(".{}.status", std::process::id()));
    let written = fs::write(&probe, "x");
    let removed = fs::remove_file(&probe);
    written.and(removed)
}
