//! GC.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_nodestate::{Attachment, Attachments, Pool, Reservation};
use weft_proto::cni::{AttachmentKey, Code, Collect, Error};

use super::{bandwidth, chain, del, live, note, pod_rules, pool_error, record_error};

/// The kernel takes a namespace's links away some time after it.
const LINKS_GO_WITHIN: Duration = Duration::from_secs(1);
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Frees what the runtime does not list and what shows no sign of life besides: an
/// attachment whose namespace and whose link are gone, a reservation without a record whose
/// address is in no namespace. Everything is looked at twice, the second time right before it
/// is freed, for a container of the same name may have come meanwhile. The rest is named and
/// left.
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
        if again.as_ref() != Some(&record) || live::attachment(&record)? {
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
    let sees_all = sees_all_namespaces(&records)?;
    for swept in [
        pod_rules::sweep(&records, sees_all),
        bandwidth::sweep(&records),
    ] {
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
    let deadline = Instant::now() + LINKS_GO_WITHIN;
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
        if live::is_seen(&record) {
            note(&format_args!(
                "attachment {} is not listed as valid, but its namespace {} is there: kept",
                record.key,
                record.netns.display()
            ));
            continue;
        }
        let mut stands = live::link_stands(&record)?;
        while stands && Instant::now() < deadline {
            std::thread::sleep(BETWEEN_LOOKS);
            stands = live::link_stands(&record)?;
        }
        if stands {
            note(&format_args!(
                "attachment {} is not listed as valid and its namespace {} is not to be seen, \
                 but its link {} stands, so something is in it: kept",
                record.key,
                record.netns.display(),
                record.host_link
            ));
            continue;
        }
        dead.push(record);
    }
    Ok(dead)
}

/// Where one attachment's namespace lives out of sight, others may: that an address is in none of
/// those that can be seen proves nothing then.
fn sees_all_namespaces(records: &Attachments) -> Result<bool, Error> {
    for record in records.list().map_err(|error| record_error(&error))? {
        let Ok(record) = record else { continue };
        if !live::is_seen(&record) && live::link_stands(&record)? {
            return Ok(false);
        }
    }
    Ok(true)
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
    if !sees_all_namespaces(records)? {
        note(&"not all namespaces can be seen from here: addresses without a record are kept");
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
