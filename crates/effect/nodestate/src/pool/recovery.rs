//! Reservations after a power cut, and whenever the records are gone.
//!
//! A reservation is synced before its ADD answers; one whose ADD had not may have a name without
//! content, and what follows from the names is not synced at all. So the first to take an address
//! after the machine was started forgets that. No pod has lived through it; but a runtime may
//! start its pods again, which keep the addresses that they had: who had which is written down
//! once, for there are no records that could tell. And a DEL that comes late must not free what is
//! another's by then: what names an owner stays.

use std::fs;
use std::io;
use std::net::IpAddr;

use weft_proto::cni::AttachmentKey;

use super::lock::Lock;
use super::{Pool, PoolError, Reservation, failed};
use crate::durable;

/// The file of who had which address before the records began.
const EARLIER: &str = "earlier";

/// `Documentation/admin-guide/sysctl/kernel.rst`, `random`: another one after each start.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(super) fn this_boot() -> Option<String> {
    let text = fs::read_to_string(BOOT_ID).ok()?;
    Some(text.trim().to_owned())
}

impl Pool {
    /// What tells this boot of the machine, and this life of the records, from those before.
    pub(super) fn life(&self) -> Result<Option<String>, PoolError> {
        let Some(boot) = &self.boot else {
            return Ok(None);
        };
        let records = self.records.life()?;
        Ok(Some(format!("{boot} {}", records.trim())))
    }

    /// Forgets what is worth nothing, once a life. The lock is held.
    pub(super) fn recover(&self, lock: &Lock) -> Result<(), PoolError> {
        let Some(life) = &lock.life else {
            return Ok(());
        };
        let path = self.directory.join("boot_id");
        if fs::read(&path).is_ok_and(|before| before == life.as_bytes()) {
            return Ok(());
        }
        self.forget_indexes()?;
        self.remove_nameless()?;
        self.remember_earlier()?;
        let temporary = self.directory.join(".boot_id");
        durable::replace(&path, &temporary, life.as_bytes())
            .map_err(|source| failed("write", &path, source))
    }

    /// Writes down who has which address.
    fn remember_earlier(&self) -> Result<(), PoolError> {
        let mut text = String::new();
        for Reservation { address, owner } in self.list()? {
            if let Ok(owner) = owner {
                text.push_str(&format!("{owner} {address}\n"));
            }
        }
        let path = self.directory.join(EARLIER);
        if text.is_empty() && !path.exists() {
            return Ok(());
        }
        durable::replace(&path, &self.directory.join(".earlier"), text.as_bytes())
            .map_err(|source| failed("write", &path, source))
    }

    /// What an owner without a record had when the records began; others may have it by now.
    pub(super) fn earlier(&self, owner: &AttachmentKey) -> Result<Vec<IpAddr>, PoolError> {
        let path = self.directory.join(EARLIER);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|source| failed("read", &path, source))?,
        };
        let owner = format!("{owner} ");
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix(&owner)?.parse().ok())
            .collect())
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
