//! Which address belongs to whom, in host-local's layout on disk.
//!
//! A network's directory holds one file an address, named by it, with
//! `CONTAINER\r\nINTERFACE` in it; `last_reserved_ip.N`, the address set N gave out
//! last; and `lock`. A node can move between host-local and this pool with pods
//! running. Ours beside them are `released_ip.4` and `released_ip.6`: the addresses that
//! came back, oldest first, so that they are given out again in that order.
//!
//! Taking an address is a hard link to a file that is already on disk: there is no
//! moment at which an address is taken and nobody knows by whom.

mod released;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use weft_proto::cni::{AttachmentKey, ContainerId, InterfaceName, Ipam, NetworkName, RangeSet};

use crate::durable::{self, Durability};
use released::Released;

/// So many taken addresses in a row are met by trying; then the directory is listed.
const TRIES_BEFORE_LISTING: u32 = 16;
/// What host-local's writes between container and interface.
const SEPARATOR: &str = "\r\n";
/// An identifier, the separator and an interface's name are shorter.
const LONGEST_RESERVATION: u64 = 4096;

/// What the owner of an allocation may hold already.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// Nothing: there was no record of it.
    Nothing,
    /// At most these.
    These(&'a [IpAddr]),
    /// Anything: every reservation has to be read.
    Unknown,
}

/// A file in a network's directory that is named by an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// Whose it is, or what the file holds instead.
    pub owner: Result<AttachmentKey, String>,
}

/// How full a set of ranges is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Addresses in the set.
    pub total: u128,
    /// Of them, those that no pod gets.
    pub reserved: u128,
    /// Of the rest, those that pods have.
    pub taken: u128,
}

impl Usage {
    /// Addresses left.
    pub fn free(&self) -> u128 {
        self.total.saturating_sub(self.reserved + self.taken)
    }
}

/// Why no address was given out or taken back.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The file system refused.
    #[error("address pool: cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Every address of a set is taken.
    #[error(
        "network {network}: no address left in {ranges}: {} of {} are taken by pods, {} are reserved",
        usage.taken, usage.total, usage.reserved
    )]
    Exhausted {
        /// The network.
        network: NetworkName,
        /// The set's ranges.
        ranges: String,
        /// The numbers.
        usage: Usage,
    },
}

impl PoolError {
    /// Whether it may pass when a pod ends.
    pub fn is_exhausted(&self) -> bool {
        matches!(self, PoolError::Exhausted { .. })
    }
}

/// The reservations of one network.
#[derive(Clone, Debug)]
pub struct Pool {
    network: NetworkName,
    directory: PathBuf,
}

impl Pool {
    /// The pool of a network under a data directory (`/var/lib/cni/networks`). Makes
    /// nothing yet.
    pub fn under(data_dir: &Path, network: &NetworkName) -> Self {
        Self {
            network: network.clone(),
            directory: data_dir.join(network.as_str()),
        }
    }

    /// Where the reservations are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives the owner one address of every set, in the order of the sets; what it
    /// holds already it keeps, and what it holds outside of the sets is released. All
    /// of it is on disk when this returns.
    ///
    /// # Errors
    /// [`PoolError`]; the owner then holds what it held before.
    pub fn allocate(
        &self,
        owner: &AttachmentKey,
        ipam: &Ipam,
        held: Held<'_>,
    ) -> Result<Vec<IpAddr>, PoolError> {
        durable::create_directory(&self.directory)
            .map_err(|source| failed("create", &self.directory, source))?;
        // The content does not depend on the address: it is written and synced before
        // the lock is taken, so that many allocations at once wait only for links.
        let content = Content::write(&self.directory, owner)?;
        let addresses = {
            let _lock = self.lock()?;
            self.allocate_locked(owner, ipam, held, &content)?
        };
        durable::sync_directory(&self.directory)
            .map_err(|source| failed("sync", &self.directory, source))?;
        Ok(addresses)
    }

    fn allocate_locked(
        &self,
        owner: &AttachmentKey,
        ipam: &Ipam,
        held: Held<'_>,
        content: &Content,
    ) -> Result<Vec<IpAddr>, PoolError> {
        let held = self.held(owner, held)?;
        let mut addresses = Vec::new();
        let mut new = Vec::new();
        for (index, set) in ipam.sets.iter().enumerate() {
            let kept = held
                .iter()
                .copied()
                .find(|address| set.contains(*address) && !ipam.reserved.contains(address));
            let taken = match kept {
                Some(address) => Ok(address),
                None => self
                    .take(index, set, &ipam.reserved, content)
                    .inspect(|address| new.push(*address)),
            };
            match taken {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    for address in new {
                        // The first error is the one to report; what can't be undone
                        // still names its owner.
                        let _ = fs::remove_file(self.path(address));
                    }
                    return Err(error);
                }
            }
        }
        for address in held {
            if !addresses.contains(&address) {
                self.give_back(address)?;
            }
        }
        Ok(addresses)
    }

    /// Takes the next address of a set.
    fn take(
        &self,
        index: usize,
        set: &RangeSet,
        reserved: &BTreeSet<IpAddr>,
        content: &Content,
    ) -> Result<IpAddr, PoolError> {
        let released = Released::read(&self.directory, set.is_ipv4())?;
        let mut listed: Option<HashSet<IpAddr>> = None;
        let mut tries = 0;
        let fresh = Round::starting_after(set, self.last_reserved(index))
            .filter(|address| !released.contains(*address));
        for address in fresh.chain(released.oldest_first()) {
            if reserved.contains(&address) || !set.contains(address) {
                continue;
            }
            if listed
                .as_ref()
                .is_some_and(|taken| taken.contains(&address))
            {
                continue;
            }
            let path = self.path(address);
            match fs::hard_link(&content.path, &path) {
                Ok(()) => {
                    self.remember_last(index, address)?;
                    return Ok(address);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    tries += 1;
                    if tries == TRIES_BEFORE_LISTING {
                        listed = Some(self.taken()?);
                    }
                }
                Err(source) => return Err(failed("create", &path, source)),
            }
        }
        Err(PoolError::Exhausted {
            network: self.network.clone(),
            ranges: describe(set),
            usage: self.usage(set, reserved)?,
        })
    }

    /// What the owner holds, found by reading every reservation.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn held_by(&self, owner: &AttachmentKey) -> Result<Vec<IpAddr>, PoolError> {
        self.held(owner, Held::Unknown)
    }

    /// Releases what the owner holds, durably. Returns what that was.
    ///
    /// # Errors
    /// [`PoolError::Io`]; calling it again goes on.
    pub fn release(&self, owner: &AttachmentKey, held: Held<'_>) -> Result<Vec<IpAddr>, PoolError> {
        if !self.directory.is_dir() {
            return Ok(Vec::new());
        }
        let held = {
            let _lock = self.lock()?;
            if matches!(held, Held::Unknown) {
                self.sweep(owner)?;
            }
            let held = self.held(owner, held)?;
            for address in &held {
                self.give_back(*address)?;
            }
            held
        };
        if !held.is_empty() {
            durable::sync_directory(&self.directory)
                .map_err(|source| failed("sync", &self.directory, source))?;
        }
        Ok(held)
    }

    /// Whether the address is the owner's.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn is_held_by(&self, owner: &AttachmentKey, address: IpAddr) -> Result<bool, PoolError> {
        Ok(self
            .reservation(address)?
            .is_some_and(|reservation| belongs_to(&reservation, owner)))
    }

    /// Every reservation, in the order of addresses. Reads as many files.
    ///
    /// # Errors
    /// [`PoolError::Io`] if the directory can't be read; a file that can't be is an item.
    pub fn list(&self) -> Result<Vec<Reservation>, PoolError> {
        let mut addresses: Vec<IpAddr> = self.taken()?.into_iter().collect();
        addresses.sort_unstable();
        let mut reservations = Vec::with_capacity(addresses.len());
        for address in addresses {
            let owner = match self.reservation(address) {
                Ok(None) => continue,
                Ok(Some(text)) => parse_owner(&text),
                Err(error) => Err(error.to_string()),
            };
            reservations.push(Reservation { address, owner });
        }
        Ok(reservations)
    }

    /// How full a set is.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn usage(&self, set: &RangeSet, reserved: &BTreeSet<IpAddr>) -> Result<Usage, PoolError> {
        let count = |addresses: usize| addresses as u128;
        Ok(Usage {
            total: set.size(),
            reserved: count(reserved.iter().filter(|a| set.contains(**a)).count()),
            taken: count(
                self.taken()?
                    .iter()
                    .filter(|a| set.contains(**a) && !reserved.contains(a))
                    .count(),
            ),
        })
    }

    /// Held until dropped; other processes and host-local wait.
    fn lock(&self) -> Result<File, PoolError> {
        let path = self.directory.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| failed("open", &path, source))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed("lock", &path, errno.into())),
            }
        }
    }

    fn held(&self, owner: &AttachmentKey, held: Held<'_>) -> Result<Vec<IpAddr>, PoolError> {
        let candidates = match held {
            Held::Nothing => Vec::new(),
            Held::These(addresses) => addresses.to_vec(),
            Held::Unknown => {
                let mut all: Vec<IpAddr> = self.taken()?.into_iter().collect();
                all.sort_unstable();
                all
            }
        };
        let mut found = Vec::new();
        for address in candidates {
            // A reservation that can't be read is not proof of ownership.
            if self.is_held_by(owner, address)? {
                found.push(address);
            }
        }
        Ok(found)
    }

    /// The text of a reservation, `None` if the address is free.
    fn reservation(&self, address: IpAddr) -> Result<Option<String>, PoolError> {
        let path = self.path(address);
        let read = || {
            if fs::metadata(&path)?.len() > LONGEST_RESERVATION {
                return Err(io::Error::other("it is too long for a reservation"));
            }
            fs::read(&path)
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path, source)),
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }

    /// Addresses that have a file.
    fn taken(&self) -> Result<HashSet<IpAddr>, PoolError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
            Err(source) => return Err(failed("list", &self.directory, source)),
            Ok(entries) => entries,
        };
        let mut addresses = HashSet::new();
        for entry in entries {
            let entry = entry.map_err(|source| failed("list", &self.directory, source))?;
            if let Some(address) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
                addresses.insert(address);
            }
        }
        Ok(addresses)
    }

    /// Removes what an allocation of the owner that died wrote and did not link.
    fn sweep(&self, owner: &AttachmentKey) -> Result<(), PoolError> {
        let suffix = format!(".{}.{}", owner.container, owner.interface);
        durable::remove_temporary(&self.directory, &suffix)
            .map_err(|source| failed("list", &self.directory, source))
    }

    fn give_back(&self, address: IpAddr) -> Result<(), PoolError> {
        // Noted first: an address that is noted and still taken does no harm.
        Released::append(&self.directory, address)?;
        let path = self.path(address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Unreadable is the same as none: the order is lost once, no address is.
    fn last_reserved(&self, index: usize) -> Option<IpAddr> {
        let text = fs::read_to_string(self.last_path(index)).ok()?;
        text.trim().parse().ok()
    }

    /// In place: making a file costs a journalling file system more than all the rest,
    /// and a half-written hint only makes the next round start elsewhere.
    fn remember_last(&self, index: usize, address: IpAddr) -> Result<(), PoolError> {
        let path = self.last_path(index);
        let text = address.to_string();
        let write = || {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(text.len() as u64)
        };
        write().map_err(|source| failed("write", &path, source))
    }

    fn last_path(&self, index: usize) -> PathBuf {
        self.directory.join(format!("last_reserved_ip.{index}"))
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.directory.join(address.to_string())
    }
}

/// The file reservations are links to; its own name goes when this is dropped.
struct Content {
    path: PathBuf,
}

impl Content {
    fn write(directory: &Path, owner: &AttachmentKey) -> Result<Self, PoolError> {
        let process = std::process::id();
        let path = directory.join(format!(
            ".{process}.{}.{}",
            owner.container, owner.interface
        ));
        durable::write_new(&path, owner_text(owner).as_bytes(), Durability::Power)
            .map_err(|source| failed("write", &path, source))?;
        Ok(Self { path })
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        // A name left behind has a dot in front and reserves nothing.
        let _ = fs::remove_file(&self.path);
    }
}

fn owner_text(owner: &AttachmentKey) -> String {
    format!("{}{SEPARATOR}{}", owner.container, owner.interface)
}

/// Old versions of host-local wrote the container alone.
fn belongs_to(text: &str, owner: &AttachmentKey) -> bool {
    let text = text.trim();
    text == owner_text(owner) || text == owner.container.as_str()
}

fn parse_owner(text: &str) -> Result<AttachmentKey, String> {
    let (container, interface) = text
        .trim()
        .split_once(SEPARATOR)
        .ok_or_else(|| format!("{text:?} is not a container and an interface"))?;
    Ok(AttachmentKey {
        container: ContainerId::try_from(container).map_err(|error| error.to_string())?,
        interface: InterfaceName::try_from(interface).map_err(|error| error.to_string())?,
    })
}

fn describe(set: &RangeSet) -> String {
    let ranges: Vec<String> = set
        .ranges
        .iter()
        .map(|range| format!("{} ({}-{})", range.subnet, range.first, range.last))
        .collect();
    ranges.join(", ")
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PoolError {
    PoolError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Every address of a set once, beginning after a given one.
struct Round<'a> {
    set: &'a RangeSet,
    range: usize,
    next: IpAddr,
    left: u128,
}

impl<'a> Round<'a> {
    fn starting_after(set: &'a RangeSet, last: Option<IpAddr>) -> Self {
        let start = last.and_then(|last| {
            let range = set.ranges.iter().position(|range| range.contains(last))?;
            Some((range, last))
        });
        let first = set.ranges.first();
        let mut round = Self {
            set,
            range: 0,
            next: first.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |range| range.first),
            left: if first.is_some() { set.size() } else { 0 },
        };
        if let Some((range, last)) = start {
            round.range = range;
            round.next = last;
            round.advance();
        }
        round
    }

    fn advance(&mut self) {
        if self.next == self.set.ranges[self.range].last {
            self.range = (self.range + 1) % self.set.ranges.len();
            self.next = self.set.ranges[self.range].first;
        } else {
            self.next = successor(self.next);
        }
    }
}

impl Iterator for Round<'_> {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        self.left = self.left.checked_sub(1)?;
        let address = self.next;
        self.advance();
        Some(address)
    }
}

fn successor(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4).wrapping_add(1))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6).wrapping_add(1))),
    }
}
