//! The pool's lock, as host-local has it, and what it remembers of its holder.
//!
//! While an address is taken and its owner's record does not name it yet, the file's first line
//! names the owner, and the life of the records in which that holds. Written in place: making a
//! file costs more than all the rest.

use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use weft_proto::cni::{AttachmentKey, ContainerId, InterfaceName};

use super::{Pool, PoolError, failed, parse_owner};

/// The name of a record's file has container and interface in it, and no name is longer than 255
/// (NAME_MAX); a boot and the records' life have 36 each.
const LONGEST_LINE: usize = 255 + 1 + 36 + 1 + 36;

/// Held until dropped; other processes and host-local wait.
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    /// What tells this life of the node from those before it; `None` if the machine does not say.
    pub(super) life: Option<String>,
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lock").field(&self.path).finish()
    }
}

impl Lock {
    /// Remembers who is about to have addresses that no record names.
    pub(super) fn begin(&mut self, owner: &AttachmentKey) -> Result<(), PoolError> {
        match &self.life {
            Some(life) => self.write(&format!("{owner} {life}")),
            // What can't be told from what a power cut left is not put right.
            None => Ok(()),
        }
    }

    /// Whatever is reserved is recorded.
    pub(super) fn finish(&mut self) -> Result<(), PoolError> {
        self.write("")
    }

    fn write(&mut self, first_line: &str) -> Result<(), PoolError> {
        self.file
            .write_all_at(format!("{first_line}\n").as_bytes(), 0)
            .map_err(|source| failed("write", &self.path, source))
    }

    /// Who began in this life and did not finish.
    fn begun(&self) -> Result<Option<AttachmentKey>, PoolError> {
        let mut text = [0; LONGEST_LINE + 1];
        let length = self
            .file
            .read_at(&mut text, 0)
            .map_err(|source| failed("read", &self.path, source))?;
        let life = self.life.as_deref();
        Ok(life.and_then(|life| parse(&text[..length], life)))
    }
}

/// A power cut may leave anything: what is no owner is none.
fn parse(text: &[u8], life: &str) -> Option<AttachmentKey> {
    let (line, _) = std::str::from_utf8(text).ok()?.split_once('\n')?;
    let (owner, of_life) = line.split_once(' ')?;
    let (container, interface) = owner.split_once('/').filter(|_| of_life == life)?;
    Some(AttachmentKey {
        container: ContainerId::try_from(container).ok()?,
        interface: InterfaceName::try_from(interface).ok()?,
    })
}

impl Pool {
    /// Takes the lock, and takes back what one that died with it left.
    pub(super) fn lock(&self) -> Result<Lock, PoolError> {
        let path = self.directory.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| failed("open", &path, source))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed("lock", &path, errno.into())),
            }
        }
        let life = self.life()?;
        let mut lock = Lock { file, path, life };
        if let Some(owner) = lock.begun()? {
            self.take_back(&owner)?;
            lock.finish()?;
        }
        Ok(lock)
    }

    /// Takes back what is reserved for an owner and not recorded.
    fn take_back(&self, owner: &AttachmentKey) -> Result<(), PoolError> {
        let mut taken: Vec<IpAddr> = self.taken()?.into_iter().collect();
        taken.sort_unstable();
        for address in taken {
            // What can't be read is somebody's.
            let Ok(Some(text)) = self.reservation(address) else {
                continue;
            };
            let is_left = match parse_owner(&text) {
                Ok(named) => named == *owner && !self.is_recorded(owner, address),
                // Nobody writes but who has the lock: it died before it could.
                Err(_) => text.is_empty(),
            };
            if is_left {
                self.forget(address)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_first_line_names_an_owner() {
        let owner = |text: &[u8]| parse(text, "b1").map(|key| key.to_string());
        assert_eq!(owner(b"c1/eth0 b1\n"), Some("c1/eth0".to_owned()));
        assert_eq!(
            owner(b"c1/eth0 b1\nlonger/net1 b1\n"),
            Some("c1/eth0".to_owned())
        );
        for text in [
            &b""[..],
            b"\n",
            b"\nc1/eth0 b1\n",
            b"c1/eth0 b1",
            b"c1/eth0 b2\n",
            b"c1/eth0\n",
            b"c1 b1\n",
            b"\xff/eth0 b1\n",
            b"c 1/eth0 b1\n",
        ] {
            assert_eq!(owner(text), None, "{text:?}");
        }
    }
}
