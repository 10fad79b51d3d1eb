//! Taking over what another network's directory holds.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::reservation::Content;
use super::{Pool, PoolError, failed};
use crate::durable;

/// What became of one reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It is (or would be) this pool's now.
    New,
    /// Its owner has the address here already.
    Already,
    /// Another has the address here.
    Conflict,
}

impl Pool {
    /// Takes over the reservations of a directory in host-local's layout, with the hint which
    /// address comes next. `write` false: only says what would be done. The directory itself is
    /// not changed. Gives address, owner's text and outcome, in the order of addresses.
    ///
    /// # Errors
    /// [`PoolError::Io`]; calling it again goes on.
    pub fn adopt(
        &self,
        from: &Path,
        write: bool,
    ) -> Result<Vec<(IpAddr, String, Adopted)>, PoolError> {
        let source = Pool {
            directory: from.to_owned(),
            ..self.clone()
        };
        if write {
            durable::create_directory(&self.directory)
                .map_err(|source| failed("create", &self.directory, source))?;
        }
        // Neither plugin gives anything out meanwhile.
        let _theirs = write.then(|| source.lock()).transpose()?;
        let same = fs::canonicalize(from).ok() == fs::canonicalize(&self.directory).ok();
        let _ours = (write && !same).then(|| self.lock()).transpose()?;
        let mut addresses: Vec<IpAddr> = source.taken()?.into_iter().collect();
        addresses.sort_unstable();
        let mut adopted = Vec::with_capacity(addresses.len());
        for address in addresses {
            let Some(text) = source.reservation(address)? else {
                continue;
            };
            let outcome = match self.reservation(address)? {
                Some(here) if here.trim() == text.trim() => Adopted::Already,
                Some(_) => Adopted::Conflict,
                None => Adopted::New,
            };
            if write && outcome == Adopted::New {
                self.reserve_as(&mut Content::of_text(text.clone()), address)?;
            }
            adopted.push((address, text.trim().replace("\r\n", "/"), outcome));
        }
        if write && !same {
            self.copy_hints(from)?;
        }
        Ok(adopted)
    }

    fn copy_hints(&self, from: &Path) -> Result<(), PoolError> {
        for number in 0..2 {
            let name = format!("last_reserved_ip.{number}");
            let (there, here) = (from.join(&name), self.directory.join(&name));
            if here.exists() {
                continue;
            }
            match fs::copy(&there, &here) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("copy", &there, error));
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }
}
