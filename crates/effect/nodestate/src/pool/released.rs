//! The order in which addresses came back.
//!
//! host-local gives out the address after the last one, which may have been released a
//! moment ago; packets for its old pod then reach the new one. Lines of addresses,
//! the oldest first, are enough to know better. A line that can't be read is skipped
//! and a lost file costs the order once: nothing else depends on it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{PoolError, failed};
use crate::durable::{self, Durability};

/// So many releases are remembered: with a few a second, several minutes.
const REMEMBERED: usize = 1024;
/// Bytes; a longer file is cut back to what is remembered. An IPv6 address and its
/// newline have at most 40.
const LONGEST: u64 = 2 * 40 * REMEMBERED as u64;

/// Addresses by the place of their last release in the file.
pub(super) struct Released {
    places: BTreeMap<IpAddr, usize>,
}

impl Released {
    pub(super) fn read(directory: &Path, ipv4: bool) -> Result<Self, PoolError> {
        let path = path(directory, ipv4);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(failed("read", &path, source)),
            Ok(bytes) => bytes,
        };
        let addresses: Vec<IpAddr> = String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        let skip = addresses.len().saturating_sub(REMEMBERED);
        Ok(Self {
            places: addresses
                .into_iter()
                .enumerate()
                .skip(skip)
                .map(|(place, address)| (address, place))
                .collect(),
        })
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.places.contains_key(&address)
    }

    pub(super) fn oldest_first(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let mut order: Vec<(usize, IpAddr)> = self
            .places
            .iter()
            .map(|(address, place)| (*place, *address))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, address)| address)
    }

    /// A full disk is no reason to keep an address: the order is lost, and
    /// the address goes back.
    pub(super) fn append(directory: &Path, address: IpAddr) -> Result<(), PoolError> {
        let path = path(directory, address.is_ipv4());
        let write = || -> io::Result<u64> {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(format!("{address}\n").as_bytes())?;
            Ok(file.metadata()?.len())
        };
        let length = match write() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(source) => return Err(failed("write", &path, source)),
            Ok(length) => length,
        };
        if length > LONGEST {
            let text: String = Self::read(directory, address.is_ipv4())?
                .oldest_first()
                .map(|address| format!("{address}\n"))
                .collect();
            let temporary = path.with_file_name(".released_ip");
            durable::replace(&path, &temporary, text.as_bytes(), Durability::Process)
                .map_err(|source| failed("write", &path, source))?;
        }
        Ok(())
    }
}

fn path(directory: &Path, ipv4: bool) -> PathBuf {
    directory.join(if ipv4 {
        "released_ip.4"
    } else {
        "released_ip.6"
    })
}
