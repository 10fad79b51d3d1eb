//! Reservations after a power cut.
//!
//! A reservation is synced before its ADD answers; one whose ADD had not may have a name without
//! content, and what follows from the names is not synced at all. So the first to take an address
//! after the machine was started forgets that. No pod has lived through it; but a runtime may
//! start its pods again with their addresses, and a DEL that comes late must not free what is
//! another's by then: what names an owner stays.

use std::fs;

use super::{Pool, PoolError, failed};
use crate::durable;

/// `Documentation/admin-guide/sysctl/kernel.rst`, `random`: another one after each start.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(super) fn this_boot() -> Option<String> {
    let text = fs::read_to_string(BOOT_ID).ok()?;
    Some(text.trim().to_owned())
}

impl Pool {
    /// Forgets what is worth nothing, once a boot. The lock is held.
    pub(super) fn recover(&self) -> Result<(), PoolError> {
        let Some(boot) = &self.boot else {
            return Ok(());
        };
        let path = self.directory.join("boot_id");
        if fs::read(&path).is_ok_and(|before| before == boot.as_bytes()) {
            return Ok(());
        }
        self.forget_indexes()?;
        self.remove_nameless()?;
        let temporary = self.directory.join(".boot_id");
        durable::replace(&path, &temporary, boot.as_bytes())
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

    /// Removes reservations without content: their ADDs had not answered, and no DEL could tell
    /// that they were its.
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
}
