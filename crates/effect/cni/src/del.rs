//! DEL.

use std::path::Path;

use weft_compile::attachment;
use weft_nodestate::{Attachment, Attachments, Held, Pool, RecordError, digest};
use weft_proto::cni::{AttachmentKey, Detach, Error};

use super::node::Node;
use super::{bandwidth, chained, host_port, link, note, pod_rules, pool_error, record_error};

/// Detaches a container. What is gone already is no error, and the pod's namespace is
/// not needed: the link goes with its end on the node.
pub(super) fn del(request: &Detach) -> Result<(), Error> {
    if request.config.is_chained {
        return chained::del(request);
    }
    let records = Attachments::under(Path::new(&request.config.state_dir));
    match records.read(&request.key) {
        Ok(Some(record)) => undo(&records, &record),
        Ok(None) => {
            let pool = Pool::under(
                Path::new(&request.config.data_dir),
                &request.config.network,
                &records,
            );
            remove(&records, &request.key, &pool, Held::Unknown)
        }
        Err(RecordError::Damaged(damaged)) => {
            note(&format_args!("{damaged}; detaching without it"));
            let pool = Pool::under(
                Path::new(&request.config.data_dir),
                &request.config.network,
                &records,
            );
            remove(&records, &request.key, &pool, Held::Unknown)
        }
        Err(error) => Err(record_error(&error)),
    }
}

/// Removes everything a record stands for, and last the record.
pub(super) fn undo(records: &Attachments, record: &Attachment) -> Result<(), Error> {
    let pool = Pool::under(&record.data_dir, &record.network, records);
    let held = Held::These(&record.addresses);
    remove(records, &record.key, &pool, held)
}

/// The same of an attachment that may have no record, or one that can't be read.
pub(super) fn remove(
    records: &Attachments,
    key: &AttachmentKey,
    pool: &Pool,
    held: Held<'_>,
) -> Result<(), Error> {
    let name = attachment::host_name(&digest(key));
    let is_interrupted = matches!(held, Held::Unknown);
    let Node {
        mut links,
        mut rules,
    } = Node::open()?;
    // What is about the link goes after it, for nothing may come by it unseen, but while the
    // kernel sees it out: both take the kernel the same wait.
    link::detach(&mut links, &name, |links| {
        bandwidth::remove(links, key)?;
        // What a DEL before this one had released may be another's by now, with its ports and
        // rules, or become so between a look and a write: nobody gets an address from here on.
        let release = pool
            .begin_release(key, held)
            .map_err(|error| pool_error(&error))?;
        let own = release.addresses();
        if !own.is_empty() {
            host_port::begin(&mut rules, key, &[], own, &name)?;
        }
        pod_rules::clear(&mut rules, key, &name, own)?;
        release.finish().map_err(|error| pool_error(&error))?;
        // By the records the agent puts rules back: not those of an address that may be another's.
        records.remove(key).map_err(|error| record_error(&error))
    })?;
    if is_interrupted {
        // An ADD that died left, at worst, a file that never got its name.
        records.sweep().map_err(|error| record_error(&error))?;
    }
    Ok(())
}
