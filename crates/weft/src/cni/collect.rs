//! GC and STATUS.

use std::path::Path;

use rustix::fs::{stat, statfs};
use weft_nodestate::{Attachment, Attachments, Pool};
use weft_proto::cni::{Code, Collect, Error, Status};

use super::{del, note, pool_error, record_error};

/// NSFS_MAGIC, `include/uapi/linux/magic.h`: what a namespace's file is on.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Frees what the runtime does not list and whose namespace is gone too: two
/// independent signs of death. The rest is named and left.
pub(super) fn gc(request: &Collect) -> Result<(), Error> {
    let records = Attachments::under(Path::new(&request.config.state_dir));
    let mut first_error = None;
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
        if has_namespace(&record) {
            note(&format_args!(
                "attachment {} is not listed as valid, but its namespace {} is there: kept",
                record.key,
                record.netns.display()
            ));
            continue;
        }
        if let Err(error) = del::undo(&records, &record) {
            note(&error);
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// Whether the attachment's namespace can still be reached; in doubt it can.
fn has_namespace(record: &Attachment) -> bool {
    let is_namespace = match statfs(&record.netns) {
        Ok(system) => u64::try_from(system.f_type).is_ok_and(|kind| kind == NSFS_MAGIC),
        Err(errno) => errno != rustix::io::Errno::NOENT,
    };
    let is_another = match (stat(&record.netns), record.netns_inode) {
        (Ok(found), Some(inode)) => found.st_ino != inode,
        (Ok(_), None) | (Err(_), _) => false,
    };
    is_namespace && !is_another
}

/// Whether an ADD could succeed now.
pub(super) fn status(request: &Status) -> Result<(), Error> {
    let records = Attachments::under(Path::new(&request.config.state_dir));
    records.list().map_err(|error| record_error(&error))?;
    let pool = Pool::under(Path::new(&request.config.data_dir), &request.config.network);
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
