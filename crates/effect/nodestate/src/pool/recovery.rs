//! Reservations after a power cut.
//!
//! The record of an attachment is synced before its ADD touches the kernel, its reservations
//! are not: a power cut may take them, or leave their names without content. So the first to
//! take an address after the machine was started makes them again from the records. No pod
//! has lived through it; but a runtime may start its pods again with their addresses, and a
//! DEL that comes late must not free what is another's by then.

use std::fs;
use std::io;

use super::{Content, Pool, PoolError, failed};
use crate::durable::{self, Durability};
use crate::{Attachment, RecordError};

/// `Documentation/admin-guide/sysctl/kernel.rst`, `random`: another one after each start.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(super) fn this_boot() -> Option<String> {
    let text = fs::read_to_string(BOOT_ID).ok()?;
    Some(text.trim().to_owned())
}

impl Pool {
    /// Makes what is missing again, once a boot. The lock is held.
    pub(super) fn recover(&self) -> Result<(), PoolError> {
        let Some(boot) = &self.boot else {
            return Ok(());
        };
        let path = self.directory.join("boot_id");
        if fs::read(&path).is_ok_and(|before| before == boot.as_bytes()) {
            return Ok(());
        }
        self.forget_indexes()?;
        let listed = self.records.list().map_err(|error| match error {
            RecordError::Io {
                action,
                path,
                source,
            } => PoolError::Io {
                action,
                path,
                source,
            },
            RecordError::Damaged(damaged) => failed(
                "read",
                &damaged.path,
                io::Error::other(damaged.reason.clone()),
            ),
        })?;
        // A record that can't be read reserves nothing; `weft ipam check` shows it.
        for record in listed.into_iter().flatten() {
            if self.directory == record.data_dir.join(record.network.as_str()) {
                self.restore(&record)?;
            }
        }
        self.remove_nameless()?;
        let temporary = self.directory.join(".boot_id");
        durable::replace(&path, &temporary, boot.as_bytes(), Durability::Process)
            .map_err(|source| failed("write", &path, source))
    }

    /// An index that was being written may hold anything.
    fn forget_indexes(&self) -> Result<(), PoolError> {
        let entries = fs::read_dir(&self.directory)
            .map_err(|source| failed("list", &self.directory, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| failed("list", &self.directory, source))?;
            if entry.file_name().as_encoded_bytes().starts_with(b"index.") {
                let path = entry.path();
                fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
            }
        }
        Ok(())
    }

    /// Removes reservations that lost their content and that no record names: their owners are
    /// gone, and no DEL could tell that they were its.
    fn remove_nameless(&self) -> Result<(), PoolError> {
        for address in self.taken()? {
            // One that can't be read is somebody's.
            if matches!(self.reservation(address), Ok(Some(text)) if text.is_empty()) {
                let path = self.path(address);
                fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
            }
        }
        Ok(())
    }

    fn restore(&self, record: &Attachment) -> Result<(), PoolError> {
        let mut content = None;
        for address in &record.addresses {
            match self.reservation(*address) {
                // Somebody has it: the name decides, and does so if it can't be read.
                Ok(Some(text)) if !text.is_empty() => continue,
                Err(_) => continue,
                Ok(Some(_)) => {
                    let path = self.path(*address);
                    fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
                }
                Ok(None) => {}
            }
            let content = match &content {
                Some(content) => content,
                None => content.insert(Content::write(&self.directory, &record.key)?),
            };
            self.link(content, *address)?;
        }
        Ok(())
    }
}
