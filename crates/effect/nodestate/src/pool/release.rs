//! Giving addresses back.

use std::net::IpAddr;

use weft_proto::cni::AttachmentKey;

use super::lock::Lock;
use super::{Held, Pool, PoolError};

/// What an owner is about to give back. Until it is dropped nobody is given an address of the
/// pool, so what leads to one of these leads to nobody else.
#[derive(Debug)]
pub struct Release<'a> {
    pool: &'a Pool,
    addresses: Vec<IpAddr>,
    held: Vec<IpAddr>,
    /// None: there is no pool yet, and nothing in it.
    _lock: Option<Lock>,
}

impl Release<'_> {
    /// What the owner may have held, and nobody else holds.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Gives back what the owner holds. Returns what that was.
    ///
    /// # Errors
    /// [`PoolError::Io`]; releasing again goes on.
    pub fn finish(self) -> Result<Vec<IpAddr>, PoolError> {
        for address in &self.held {
            self.pool.give_back(*address)?;
        }
        Ok(self.held)
    }
}

impl Pool {
    /// Begins to release what the owner holds.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn begin_release(
        &self,
        owner: &AttachmentKey,
        held: Held<'_>,
    ) -> Result<Release<'_>, PoolError> {
        let lock = match self.directory.is_dir() {
            true => Some(self.lock()?),
            false => None,
        };
        let holds = self.held(owner, held)?;
        let addresses = match held {
            Held::Nothing | Held::Unknown => holds.clone(),
            Held::These(all) => {
                let mut own = Vec::with_capacity(all.len());
                for address in all {
                    if !self.is_anothers(owner, *address)? {
                        own.push(*address);
                    }
                }
                own
            }
        };
        Ok(Release {
            pool: self,
            addresses,
            held: holds,
            _lock: lock,
        })
    }

    /// Releases what the owner holds. Returns what that was.
    ///
    /// # Errors
    /// [`PoolError::Io`]; calling it again goes on.
    pub fn release(&self, owner: &AttachmentKey, held: Held<'_>) -> Result<Vec<IpAddr>, PoolError> {
        self.begin_release(owner, held)?.finish()
    }
}
