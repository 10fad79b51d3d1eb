//! Which address belongs to whom, in host-local's layout on disk.
//!
//! A network's directory holds one file an address, named by it, with
//! `CONTAINER\r\nINTERFACE` in it; `last_reserved_ip.N`, the address set N gave out
//! last; and `lock`. A node can move between host-local and this pool with pods
//! running. Ours beside them are `released_ip.4` and `released_ip.6`: the addresses that
//! came back, oldest first, so that they are given out again in that order; `index.N`, what
//! of a set is spent; `boot_id`; and `earlier`, who had which when that was written.
//!
//! Whoever has the lock finds a record of every reservation of ours: it is held from when an
//! address is taken until the record names it, and `lock` says meanwhile whose it will be.
//! What was left by one that died in between is taken back by the next to have the lock
//! ([`lock`]). Of all this reservations alone are synced ([`Pool::sync`]); what is not worth
//! anything after a power cut goes before the first address is given out ([`recovery`]).

mod adoption;
mod index;
mod lock;
mod recovery;
mod release;
mod released;
mod reservation;
mod round;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use weft_proto::cni::{AttachmentKey, Ipam, NetworkName, RangeSet};

use crate::durable;
use crate::{Attachments, RecordError};
use index::{Index, QueuePlace};
use released::Queue;
use reservation::{Content, belongs_to, parse_owner};
use round::Round;

pub use adoption::Adopted;
pub use release::Release;
pub use reservation::Reservation;

/// Without an index, so many taken addresses in a row are met by trying; then the directory is listed.
const TRIES_BEFORE_LISTING: u32 = 16;
/// An identifier, the separator and an interface's name are shorter.
const LONGEST_RESERVATION: usize = 4096;

/// What the owner of an allocation may hold already.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// Nothing: there is no record of it.
    Nothing,
    /// At most these.
    These(&'a [IpAddr]),
    /// Anything: every reservation has to be read.
    Unknown,
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
    /// The address that was asked for is another's.
    #[error("network {network}: address {address} was asked for and belongs to {owner}")]
    Taken {
        /// The network.
        network: NetworkName,
        /// The address.
        address: IpAddr,
        /// Whose it is.
        owner: String,
    },
    /// What was taken could not be recorded.
    #[error(transparent)]
    Unrecorded(#[from] RecordError),
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
    records: Attachments,
    /// Which boot of the machine this is; `None` if it does not say.
    boot: Option<String>,
}

impl Pool {
    /// The pool of a network under a data directory (`/var/lib/cni/networks`), whose owners
    /// have their records in `records`. Makes nothing yet.
    pub fn under(data_dir: &Path, network: &NetworkName, records: &Attachments) -> Self {
        Self {
            network: network.clone(),
            directory: data_dir.join(network.as_str()),
            records: records.clone(),
            boot: recovery::this_boot(),
        }
    }

    /// The same pool as if the machine had been started another time.
    #[must_use]
    pub fn in_boot(mut self, id: &str) -> Self {
        self.boot = Some(id.to_owned());
        self
    }

    /// Where the reservations are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives the owner one address of every set, in the order of the sets, and has them
    /// recorded; what it holds already it keeps, and what it holds outside of the sets is
    /// released once the record is there. Nobody else is given an address before that. A power
    /// cut may take them until they are synced.
    ///
    /// # Errors
    /// [`PoolError`]; the owner then holds what it held before.
    pub fn allocate<T>(
        &self,
        owner: &AttachmentKey,
        ipam: &Ipam,
        held: Held<'_>,
        record: impl FnOnce(&[IpAddr]) -> Result<T, RecordError>,
    ) -> Result<T, PoolError> {
        durable::create_directory(&self.directory)
            .map_err(|source| failed("create", &self.directory, source))?;
        let mut lock = self.lock()?;
        self.recover(&lock)?;
        let held = match held {
            Held::Nothing => self.held(owner, Held::These(&self.earlier(owner)?))?,
            Held::These(_) | Held::Unknown => self.held(owner, held)?,
        };
        lock.begin(owner)?;
        let mut content = Content::of(owner);
        let done = self
            .choose(ipam, &held, &mut content)
            .and_then(|addresses| Ok((record(&addresses)?, addresses)));
        let (recorded, addresses) = match done {
            Ok(done) => done,
            Err(error) => {
                // The first error is the one to report. What can't be undone is by whoever has
                // the lock next.
                let mut new = content.reserved.into_iter();
                if new.all(|address| self.forget(address).is_ok()) {
                    let _ = lock.finish();
                }
                return Err(error);
            }
        };
        // Where this fails, whoever has the lock next finds the record.
        let _ = lock.finish();
        for address in held {
            if !addresses.contains(&address) {
                self.give_back(address)?;
            }
        }
        Ok(recorded)
    }

    /// Returns when reservations are on disk, their content and their names.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn sync(&self, addresses: &[IpAddr]) -> Result<(), PoolError> {
        for address in addresses {
            let path = self.path(*address);
            File::open(&path)
                .and_then(|file| file.sync_data())
                .map_err(|source| failed("sync", &path, source))?;
        }
        durable::sync_directory(&self.directory)
            .map_err(|source| failed("sync", &self.directory, source))
    }

    /// One address of every set.
    fn choose(
        &self,
        ipam: &Ipam,
        held: &[IpAddr],
        content: &mut Content,
    ) -> Result<Vec<IpAddr>, PoolError> {
        let mut addresses = Vec::with_capacity(ipam.sets.len());
        for (number, set) in ipam.sets.iter().enumerate() {
            let asked = ipam.asked.iter().copied().find(|one| set.contains(*one));
            let kept = held.iter().copied().find(|address| match asked {
                Some(asked) => *address == asked,
                None => set.contains(*address) && !ipam.reserved.contains(address),
            });
            addresses.push(match (kept, asked) {
                (Some(address), _) => address,
                (None, Some(asked)) => self.take_asked(asked, content)?,
                (None, None) => self.take(number, set, &ipam.reserved, content)?,
            });
        }
        Ok(addresses)
    }

    /// Takes the next address of a set.
    fn take(
        &self,
        number: usize,
        set: &RangeSet,
        reserved: &BTreeSet<IpAddr>,
        content: &mut Content,
    ) -> Result<IpAddr, PoolError> {
        let taken = if index::is_kept(set) {
            self.take_by_index(number, set, reserved, content)?
        } else {
            self.take_by_trying(number, set, reserved, content)?
        };
        let Some(address) = taken else {
            return Err(PoolError::Exhausted {
                network: self.network.clone(),
                ranges: describe(set),
                usage: self.usage(set, reserved)?,
            });
        };
        self.remember_last(number, address)?;
        Ok(address)
    }

    /// Takes this address and no other.
    fn take_asked(&self, address: IpAddr, content: &mut Content) -> Result<IpAddr, PoolError> {
        if self.reserve_as(content, address)? {
            return Ok(address);
        }
        let owner = self.reservation(address)?.unwrap_or_default();
        Err(PoolError::Taken {
            network: self.network.clone(),
            address,
            owner: owner.trim().replace("\r\n", "/"),
        })
    }

    fn take_by_index(
        &self,
        number: usize,
        set: &RangeSet,
        reserved: &BTreeSet<IpAddr>,
        content: &mut Content,
    ) -> Result<Option<IpAddr>, PoolError> {
        if let Some(mut index) = Index::open(&self.directory, number, set, reserved)? {
            self.absorb(&mut index, set)?;
            if let Some(address) = self.take_marked(&mut index, number, set, reserved, content)? {
                return Ok(Some(address));
            }
        }
        // Missing, of other ranges, or it may be that somebody else took addresses back.
        let mut index = self.rebuild(number, set, reserved)?;
        self.take_marked(&mut index, number, set, reserved, content)
    }

    /// Marks what came back since the last time, so that it waits for its turn.
    fn absorb(&self, index: &mut Index<'_>, set: &RangeSet) -> Result<(), PoolError> {
        let (mut queue, place) = Queue::open(&self.directory, set.is_ipv4(), index.queue)?;
        queue.seek(place.seen);
        while let Some(address) = queue.pop()? {
            index.mark(address)?;
        }
        index.remember_queue(QueuePlace {
            seen: queue.offset(),
            ..place
        })
    }

    fn rebuild<'a>(
        &self,
        number: usize,
        set: &'a RangeSet,
        reserved: &BTreeSet<IpAddr>,
    ) -> Result<Index<'a>, PoolError> {
        let before = Index::open(&self.directory, number, set, reserved)?
            .map_or_else(QueuePlace::default, |index| index.queue);
        let (mut queue, place) = Queue::open(&self.directory, set.is_ipv4(), before)?;
        queue.seek(place.used);
        let mut spent = self.taken()?;
        spent.extend(queue.rest()?);
        let mut index = Index::build(&self.directory, number, set, reserved, &spent)?;
        index.remember_queue(QueuePlace {
            seen: queue.offset(),
            ..place
        })?;
        Ok(index)
    }

    /// An address that was never given out, or else the one that came back first.
    fn take_marked(
        &self,
        index: &mut Index<'_>,
        number: usize,
        set: &RangeSet,
        reserved: &BTreeSet<IpAddr>,
        content: &mut Content,
    ) -> Result<Option<IpAddr>, PoolError> {
        let mut last = self.last_reserved(number);
        while let Some(address) = index.next(last)? {
            let is_new = self.reserve_as(content, address)?;
            index.mark(address)?;
            if is_new {
                return Ok(Some(address));
            }
            last = Some(address);
        }
        let (mut queue, place) = Queue::open(&self.directory, set.is_ipv4(), index.queue)?;
        queue.seek(place.used);
        let mut taken = None;
        while let Some(address) = queue.pop()? {
            let may_be = set.contains(address) && !reserved.contains(&address);
            if may_be && self.reserve_as(content, address)? {
                taken = Some(address);
                break;
            }
        }
        let used = queue.offset();
        let place = queue.trim(QueuePlace { used, ..place })?;
        index.remember_queue(place)?;
        Ok(taken)
    }

    /// In a set too large for an index hardly any address is taken.
    fn take_by_trying(
        &self,
        number: usize,
        set: &RangeSet,
        reserved: &BTreeSet<IpAddr>,
        content: &mut Content,
    ) -> Result<Option<IpAddr>, PoolError> {
        let last = self.last_reserved(number);
        // Behind the last one there is nothing that came back a moment ago.
        let recent: HashSet<IpAddr> = match last {
            Some(_) => HashSet::new(),
            None => {
                let (mut queue, _) =
                    Queue::open(&self.directory, set.is_ipv4(), QueuePlace::default())?;
                queue.rest()?.into_iter().collect()
            }
        };
        let mut listed: Option<HashSet<IpAddr>> = None;
        let mut tries = 0;
        for address in Round::starting_after(set, last) {
            let is_taken = listed.as_ref().is_some_and(|all| all.contains(&address));
            if is_taken || reserved.contains(&address) || recent.contains(&address) {
                continue;
            }
            if self.reserve_as(content, address)? {
                return Ok(Some(address));
            }
            tries += 1;
            if tries == TRIES_BEFORE_LISTING {
                listed = Some(self.taken()?);
            }
        }
        Ok(None)
    }

    /// Makes the reservation; `false` if there is one. The lock is held, and whoever has it next
    /// finds the file empty if this process dies before it has written.
    fn reserve_as(&self, content: &mut Content, address: IpAddr) -> Result<bool, PoolError> {
        let path = self.path(address);
        // An owner's reservations are one file.
        let made = match content.reserved.first() {
            Some(first) => fs::hard_link(self.path(*first), &path),
            None => durable::create(&path, content.text.as_bytes()),
        };
        match made {
            Ok(()) => {
                content.reserved.push(address);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(failed("create", &path, source)),
        }
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

    /// Whether the address is another's than this owner's: reserved, and not for it.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn is_anothers(&self, owner: &AttachmentKey, address: IpAddr) -> Result<bool, PoolError> {
        Ok(self
            .reservation(address)?
            .is_some_and(|reservation| !belongs_to(&reservation, owner)))
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
        // A regular file gives all it has in one read, and a node may have 65,000 of them.
        let mut text = [0; LONGEST_RESERVATION + 1];
        let mut read = || match File::open(&path)?.read_at(&mut text, 0)? {
            length if length > LONGEST_RESERVATION => {
                Err(io::Error::other("it is too long for a reservation"))
            }
            length => Ok(length),
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path, source)),
            Ok(length) => Ok(Some(String::from_utf8_lossy(&text[..length]).into_owned())),
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

    /// Gives back a reservation whose owner is dead, if it is still the one that was looked
    /// at, and in no record. Returns whether it was.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn reclaim(&self, looked_at: &Reservation) -> Result<bool, PoolError> {
        let _lock = self.lock()?;
        let address = looked_at.address;
        let same = match self.reservation(address)? {
            None => false,
            Some(text) => parse_owner(&text) == looked_at.owner,
        };
        let is_recorded = match &looked_at.owner {
            Ok(owner) => self.is_recorded(owner, address),
            Err(_) => false,
        };
        let is_dead = same && !is_recorded;
        if is_dead {
            self.give_back(address)?;
        }
        Ok(is_dead)
    }

    /// Whether the owner's record names the address, or may do so.
    fn is_recorded(&self, owner: &AttachmentKey, address: IpAddr) -> bool {
        match self.records.read(owner) {
            Ok(None) => false,
            Ok(Some(record)) => {
                self.directory == record.data_dir.join(record.network.as_str())
                    && record.addresses.contains(&address)
            }
            // Its DEL goes by what is reserved.
            Err(_) => true,
        }
    }

    /// Reserves an address for an owner, as its record says. `false`: somebody has it.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn reserve(&self, owner: &AttachmentKey, address: IpAddr) -> Result<bool, PoolError> {
        durable::create_directory(&self.directory)
            .map_err(|source| failed("create", &self.directory, source))?;
        let _lock = self.lock()?;
        self.reserve_as(&mut Content::of(owner), address)
    }

    /// Removes what allocations that died left: files that never got their names.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn sweep(&self) -> Result<(), PoolError> {
        if !self.directory.is_dir() {
            return Ok(());
        }
        let _lock = self.lock()?;
        // Written by whoever has the lock, and nobody else does.
        for name in [
            ".released_ip",
            ".boot_id",
            ".earlier",
            ".index.0",
            ".index.1",
        ] {
            let _ = fs::remove_file(self.directory.join(name));
        }
        durable::sweep(&self.directory).map_err(|source| failed("list", &self.directory, source))
    }

    fn give_back(&self, address: IpAddr) -> Result<(), PoolError> {
        // Noted first: an address that is noted and still taken does no harm.
        released::append(&self.directory, address)?;
        self.remove(address)
    }

    /// Gives back what nobody has had yet, on a full disk too.
    fn forget(&self, address: IpAddr) -> Result<(), PoolError> {
        // Without it the address comes later than its turn.
        let _ = released::append(&self.directory, address);
        self.remove(address)
    }

    fn remove(&self, address: IpAddr) -> Result<(), PoolError> {
        let path = self.path(address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Unreadable is the same as none: the order is lost once, no address is.
    fn last_reserved(&self, number: usize) -> Option<IpAddr> {
        let text = fs::read_to_string(self.last_path(number)).ok()?;
        text.trim().parse().ok()
    }

    /// In place: making a file costs a journalling file system more than all the rest,
    /// and a half-written hint only makes the next round start elsewhere.
    fn remember_last(&self, number: usize, address: IpAddr) -> Result<(), PoolError> {
        let path = self.last_path(number);
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

    fn last_path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("last_reserved_ip.{number}"))
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.directory.join(address.to_string())
    }
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
