//! The records, in wire form, where every thread finds them without waiting.
//!
//! The table is cut into many small immutable shards, each behind an atomic pointer. A
//! change of a name copies its shard's list of pointers, a handful, and swaps it in;
//! readers never wait and always see whole answers.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use weft_desired::{DomainName, NameRecords};
use weft_proto::dns::{
    Answer, AnswerBuilder, NameError, RecordData, RecordType, Soa, WireName, suffix_offset,
};

/// Shards of the table: a list per shard stays short up to some 100,000 names.
const SHARDS: usize = 4096;

/// What SOA records say besides the zone's name, in seconds (as CoreDNS answers).
const REFRESH: u32 = 7200;
const RETRY: u32 = 1800;
const EXPIRE: u32 = 86_400;
/// The longest an SOA record may be kept itself.
const MAX_SOA_TTL: u32 = 300;

/// The zones of addresses' names.
const REVERSE_ZONES: [&str; 2] = ["in-addr.arpa", "ip6.arpa"];

/// All names and answers of one cluster.
#[derive(Debug)]
pub struct Records {
    shards: Box<[ArcSwapOption<Shard>]>,
    hasher: RandomState,
    writer: Mutex<()>,
    /// The cluster's zone first.
    zones: [Soa; 3],
    serial: AtomicU32,
    in_sync: AtomicBool,
}

type Shard = Vec<(u64, Arc<Name>)>;

/// One name and its answers.
#[derive(Debug)]
pub(super) struct Name {
    name: WireName,
    pub(super) ttl: u32,
    pub(super) alias: Option<WireName>,
    answers: Vec<(RecordType, Answer)>,
}

/// In which of our zones a name lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct InZone<'r> {
    pub(super) soa: &'r Soa,
    /// Whether it is the cluster's zone; the others are shared with the world.
    pub(super) ours: bool,
    /// Where the zone begins in the name.
    pub(super) offset: usize,
}

impl Records {
    /// Nothing but the zones. `ttl`: how many seconds negative answers may be kept.
    pub fn new(zone: &DomainName, ttl: u32) -> Result<Self, NameError> {
        let soa = |zone: &str| {
            Ok(Soa {
                zone: WireName::parse(zone)?,
                server: WireName::parse(&format!("ns.dns.{zone}"))?,
                mailbox: WireName::parse(&format!("hostmaster.{zone}"))?,
                ttl: ttl.min(MAX_SOA_TTL),
                refresh: REFRESH,
                retry: RETRY,
                expire: EXPIRE,
                minimum: ttl,
            })
        };
        Ok(Self {
            shards: std::iter::repeat_with(ArcSwapOption::empty)
                .take(SHARDS)
                .collect(),
            hasher: RandomState::new(),
            writer: Mutex::new(()),
            zones: [
                soa(zone.as_str())?,
                soa(REVERSE_ZONES[0])?,
                soa(REVERSE_ZONES[1])?,
            ],
            serial: AtomicU32::new(0),
            in_sync: AtomicBool::new(false),
        })
    }

    /// Brings one name up to date; `None`: there is no such name any more.
    pub fn set(&self, name: &DomainName, records: Option<&NameRecords>) -> Result<(), NameError> {
        let name = WireName::parse(name.as_str())?;
        let encoded = records
            .map(|records| encode(&name, records).map(Arc::new))
            .transpose()?;
        let hash = self.hasher.hash_one(name.as_bytes());
        let slot = &self.shards[shard(hash)];
        // A writer that panicked left the table whole: it swaps once.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = slot.load_full().map_or_else(Vec::new, |names| {
            let mut copy = Vec::with_capacity(names.len() + 1);
            copy.extend(names.iter().filter(|(_, old)| old.name != name).cloned());
            copy
        });
        names.extend(encoded.map(|encoded| (hash, encoded)));
        slot.store((!names.is_empty()).then(|| Arc::new(names)));
        Ok(())
    }

    /// Notes that records changed: `serial` goes into SOA records. Seconds since 1970.
    pub fn set_serial(&self, serial: u32) {
        self.serial.store(serial, Ordering::Relaxed);
    }

    /// The records are complete: from now on a missing name does not exist.
    pub fn set_in_sync(&self) {
        self.in_sync.store(true, Ordering::Release);
    }

    /// Whether the records are complete.
    pub fn in_sync(&self) -> bool {
        self.in_sync.load(Ordering::Acquire)
    }

    pub(super) fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Calls `use_it` with the name's entry, if there is the name. `name` is lower-case.
    pub(super) fn with<T>(&self, name: &[u8], use_it: impl FnOnce(Option<&Name>) -> T) -> T {
        let hash = self.hasher.hash_one(name);
        let names = self.shards[shard(hash)].load();
        let found = names.as_ref().and_then(|names| {
            names
                .iter()
                .find(|(of, entry)| *of == hash && entry.name.as_bytes() == name)
        });
        use_it(found.map(|(_, entry)| &**entry))
    }

    /// The zone a name lies in; `None`: it is not ours to know. `name` is lower-case.
    pub(super) fn zone_of(&self, name: &[u8]) -> Option<InZone<'_>> {
        self.zones.iter().enumerate().find_map(|(index, soa)| {
            let offset = suffix_offset(name, soa.zone.as_bytes())?;
            Some(InZone {
                soa,
                ours: index == 0,
                offset,
            })
        })
    }

    pub(super) fn cluster_zone(&self) -> &WireName {
        &self.zones[0].zone
    }
}

impl Name {
    pub(super) fn answer(&self, record_type: RecordType) -> Option<&Answer> {
        self.answers
            .iter()
            .find(|(of, _)| *of == record_type)
            .map(|(_, answer)| answer)
    }
}

fn shard(hash: u64) -> usize {
    (hash % SHARDS as u64) as usize
}

fn encode(name: &WireName, records: &NameRecords) -> Result<Name, NameError> {
    let wire = |name: &DomainName| WireName::parse(name.as_str());
    let alias = records.alias.as_ref().map(wire).transpose()?;
    let mut data: Vec<RecordData> = Vec::new();
    data.extend(records.addresses.iter().copied().map(RecordData::address));
    data.extend(alias.iter().cloned().map(RecordData::Alias));
    for pointer in &records.pointers {
        data.push(RecordData::Pointer(wire(pointer)?));
    }
    for server in &records.name_servers {
        data.push(RecordData::NameServer(wire(server)?));
    }
    for service in &records.services {
        data.push(RecordData::Service {
            priority: service.priority,
            weight: service.weight,
            port: service.port,
            target: wire(&service.target)?,
        });
    }
    data.extend(records.texts.iter().cloned().map(RecordData::Text));

    let mut answers: Vec<(RecordType, AnswerBuilder<'_>)> = Vec::new();
    for item in &data {
        let record_type = item.record_type();
        let index = match answers.iter().position(|(of, _)| *of == record_type) {
            Some(index) => index,
            None => {
                let mut builder = AnswerBuilder::new(name.as_bytes());
                add_additional(&mut builder, record_type, records)?;
                answers.push((record_type, builder));
                answers.len() - 1
            }
        };
        answers[index].1.answer(records.ttl, item);
    }
    Ok(Name {
        name: name.clone(),
        ttl: records.ttl,
        alias,
        answers: answers
            .into_iter()
            .map(|(record_type, builder)| (record_type, builder.finish()))
            .collect(),
    })
}

/// The addresses of the names that records of this type mention.
fn add_additional(
    builder: &mut AnswerBuilder<'_>,
    record_type: RecordType,
    records: &NameRecords,
) -> Result<(), NameError> {
    let mentioned = |name: &DomainName| match record_type {
        RecordType::SRV => records.services.iter().any(|record| record.target == *name),
        RecordType::NS => records.name_servers.contains(name),
        _ => false,
    };
    for (owner, addresses) in &records.additional {
        if !mentioned(owner) {
            continue;
        }
        let owner = WireName::parse(owner.as_str())?;
        for address in addresses {
            builder.additional(&owner, records.ttl, &RecordData::address(*address));
        }
    }
    Ok(())
}
