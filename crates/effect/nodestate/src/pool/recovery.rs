//! Reservations after a power cut, and whenever the records are gone.
//!
//! A reservation is synced before its ADD makes a link; before that its name may stand without
//! content, and what follows from the names is not synced at all. So the first to take an address
//! after the machine was started forgets that. No pod has lived through it; but a runtime may
//! start its pods again, which keep the addresses that they had: who had which is written down
//! once, for there are no records that could tell. And a DEL that comes late must not free what
//! is another's by then: what names an owner stays.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;

use weft_proto::cni::AttachmentKey;

use super::lock::Lock;
use super::{Pool, PoolError, Reservation, failed};
use crate::{digest, durable};

/// The file of who had which address before the records began.
///
/// Lines of one length, sorted: part of the owner's digest, and the address. Owners may share a
/// digest's part; the reservation says whose it is.
const EARLIER: &str = "earlier";
const LINE: usize = 16 + 1 + 39 + 1;

/// `Documentation/admin-guide/sysctl/kernel.rst`, `random`: another one after each start.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(super) fn this_boot() -> Option<String> {
    let text = fs::read_to_string(BOOT_ID).ok()?;
    Some(text.trim().to_owned())
}

fn tag(owner: &AttachmentKey) -> String {
    let digest = digest(owner);
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The addresses behind a tag, among 65,000 lines as quickly as among few.
fn look_up(file: &File, tag: &str) -> io::Result<Vec<IpAddr>> {
    let mut line = [0; LINE];
    let count = file.metadata()?.len() / LINE as u64;
    let (mut from, mut to) = (0, count);
    while from < to {
        let middle = from + (to - from) / 2;
        file.read_exact_at(&mut line, middle * LINE as u64)?;
        match line[..tag.len()].cmp(tag.as_bytes()).is_lt() {
            true => from = middle + 1,
            false => to = middle,
        }
    }
    let mut found = Vec::new();
    for number in from..count {
        file.read_exact_at(&mut line, number * LINE as u64)?;
        if !line.starts_with(tag.as_bytes()) {
            break;
        }
        let address = std::str::from_utf8(&line[tag.len()..]).ok();
        found.extend(address.and_then(|text| text.trim().parse::<IpAddr>().ok()));
    }
    Ok(found)
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
        let mut lines = Vec::new();
        for Reservation { address, owner } in self.list()? {
            if let Ok(owner) = owner {
                // An address has 39 characters at most.
                lines.push(format!("{} {:<39}\n", tag(&owner), address.to_string()));
            }
        }
        lines.sort_unstable();
        let text = lines.concat();
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
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            file => file
                .and_then(|file| look_up(&file, &tag(owner)))
                .map_err(|source| failed("read", &path, source)),
        }
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

    /// Removes reservations without content: their ADDs had made no link, and no DEL could tell
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_is_found_among_many_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(EARLIER);
        let (tag, address) = (
            |n: u32| format!("{n:016x}"),
            |n: u32| format!("fd00::{n:x}"),
        );
        // Each of the even ones twice: a pod's two addresses.
        let lines = (0..200).map(|n| format!("{} {:<39}\n", tag(n / 2 * 2), address(n)));
        fs::write(&path, lines.collect::<String>()).unwrap();
        let file = File::open(&path).unwrap();
        let found = |n| look_up(&file, &tag(n)).unwrap();
        for n in (0..200).step_by(2) {
            let both = [n, n + 1].map(|n| address(n).parse::<IpAddr>().unwrap());
            assert_eq!(found(n), both);
            assert_eq!(found(n + 1), [] as [IpAddr; 0]);
        }
        assert_eq!(found(200), [] as [IpAddr; 0]);
    }
}
