//! The conversation with etcd: this host's own lease, and what becomes of the others'.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};
use weft_etcd::{Client, Entry, Event, Lease, LeaseId, Listing, Revision};
use weft_kube::Pauses;
use weft_proto::flannel::{Holder, NetConf, Pool, Subnets};

use super::configuration_key;
use super::hosts::{Own, lease};

/// A lease is kept this many times while it lasts, so that one answer or two may be lost.
const TIMES_KEPT: u64 = 3;
/// And so often at least, as flannel renews its leases an hour before they end.
const KEPT_EVERY: u64 = 3600;

/// What etcd says.
#[derive(Debug)]
pub(super) enum News {
    /// All that there is.
    Listed {
        prefix: String,
        entries: Vec<Entry>,
        own: Own,
    },
    /// What has happened since.
    Changed { prefix: String, events: Vec<Event> },
    /// What this host says of itself is written.
    Said(Own),
}

pub(super) struct Session {
    pub(super) client: Client,
    pub(super) prefix: String,
    pub(super) seconds: u64,
    pub(super) conf: NetConf,
    /// The subnets that this host had.
    pub(super) previous: Vec<IpNet>,
    /// What this host is to say of itself.
    pub(super) wanted: watch::Receiver<Holder>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) lease: Option<Lease>,
}

/// This host's lease, as it was last written.
struct Held {
    own: Own,
    /// None of a reservation: somebody wrote the key to stay, lease or no lease.
    lease: Option<Lease>,
    written: Revision,
}

impl Session {
    pub(super) async fn run(mut self) {
        let mut pauses = Pauses::default();
        loop {
            let Err(error) = self.round(&mut pauses).await;
            if self.news.is_closed() {
                return;
            }
            let pause = pauses.next().unwrap_or(Duration::from_secs(1));
            let error = format!("{error:#}");
            warn!(
                error,
                ?pause,
                "what etcd said last stays in force; asking it again"
            );
            sleep(pause).await;
        }
    }

    /// Lists everything, takes the lease, and follows what changes, until something fails.
    async fn round(&mut self, pauses: &mut Pauses) -> Result<Infallible> {
        let within = format!("{}/", self.prefix);
        let listing = self.client.list(&within).await?;
        self.compare_configuration(listing.entries.iter());
        let mut held = self.acquire(&listing).await?;
        self.previous = held.own.subnets.all().collect();
        let revision = listing.revision;
        self.tell(News::Listed {
            prefix: self.subnets(),
            entries: listing.entries,
            own: held.own.clone(),
        })
        .await?;
        let mut watch = self.client.watch(&within, revision + 1).await?;
        let seconds = held.lease.map_or(self.seconds, |lease| lease.seconds);
        let every = (seconds / TIMES_KEPT).clamp(1, KEPT_EVERY);
        let mut keep = interval(Duration::from_secs(every));
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        keep.reset();
        // It may be another one than when the lease was written.
        self.wanted.mark_changed();
        loop {
            tokio::select! {
                batch = watch.next() => self.follow(batch?.events, &held).await?,
                _ = keep.tick() => {
                    if let Some(lease) = held.lease
                        && !self.client.keep(lease.id).await?
                    {
                        bail!("this host's lease ran out");
                    }
                    // A lease that lasts: two hosts that take each other's wait longer and longer.
                    *pauses = Pauses::default();
                }
                changed = self.wanted.changed() => {
                    changed.context("nobody needs the lease any more")?;
                    self.say(&mut held).await?;
                }
            }
        }
    }

    fn subnets(&self) -> String {
        format!("{}/subnets/", self.prefix)
    }

    fn key(&self, subnets: Subnets) -> String {
        format!("{}{subnets}", self.subnets())
    }

    async fn tell(&self, news: News) -> Result<()> {
        let told = self.news.send(news).await;
        told.ok().context("nobody listens to etcd any more")
    }

    async fn follow(&self, events: Vec<Event>, held: &Held) -> Result<()> {
        let own = self.key(held.own.subnets);
        let mut lost = None;
        for event in &events {
            match event {
                Event::Gone(key) if *key == own => lost = Some("is gone"),
                Event::Put(entry) if entry.key == own && entry.written > held.written => {
                    lost = Some(match self.is_said_to_be_here(entry, held) {
                        true => {
                            "was taken by a host that has this one's address too: each needs its \
                             own (--iface, --public-ip)"
                        }
                        false => "was written by somebody else",
                    });
                }
                Event::Gone(_) | Event::Put(_) => {}
            }
        }
        let puts = events.iter().filter_map(|event| match event {
            Event::Put(entry) => Some(entry),
            Event::Gone(_) => None,
        });
        self.compare_configuration(puts);
        let prefix = self.subnets();
        self.tell(News::Changed { prefix, events }).await?;
        match lost {
            Some(how) => bail!("this host's lease of {} {how}", held.own.subnets),
            None => Ok(()),
        }
    }

    /// Whether whoever wrote this entry has the same address as this host.
    fn is_said_to_be_here(&self, entry: &Entry, held: &Held) -> bool {
        let leases = self.leases(std::slice::from_ref(entry));
        let mut holders = leases.iter().map(|known| &known.lease.holder);
        holders.any(|holder| holder.public_ip == held.own.holder.public_ip)
    }

    /// As with flannel a change of it takes a restart: containers have addresses of the old one.
    fn compare_configuration<'a>(&self, entries: impl Iterator<Item = &'a Entry>) {
        let key = configuration_key(&self.prefix);
        for entry in entries.filter(|entry| entry.key == key) {
            match NetConf::parse(&entry.value) {
                Ok(conf) if conf == self.conf => {}
                Ok(_) => warn!(key, "etcd has another configuration; restart to take it"),
                Err(fault) => warn!(key, %fault, "etcd's new configuration is none"),
            }
        }
    }

    /// Writes what this host is to say of itself, if it says anything else.
    async fn say(&mut self, held: &mut Held) -> Result<()> {
        let wanted = self.wanted.borrow_and_update().clone();
        if wanted == held.own.holder || lacks_data(&wanted) {
            return Ok(());
        }
        let key = self.key(held.own.subnets);
        let text = wanted.to_json();
        let put = self.client.put(&key, &text, id(held.lease), held.written);
        let Some(written) = put.await? else {
            bail!("this host's lease of {} is another's", held.own.subnets);
        };
        held.written = written;
        held.own.holder = wanted;
        info!(subnets = %held.own.subnets, "told the other hosts how this one is reached");
        self.tell(News::Said(held.own.clone())).await
    }

    /// Takes a subnet: the one that this host has or had, or else one that is free.
    async fn acquire(&mut self, listing: &Listing) -> Result<Held> {
        let wanted = self.wanted.borrow().clone();
        let leases = self.leases(&listing.entries);
        let same = |held: &&Known<'_>| held.lease.holder.public_ip == wanted.public_ip;
        let mine = leases.iter().filter(same);
        let mut mine: Vec<&Known<'_>> = mine.filter(|held| self.fits(held.lease.subnets)).collect();
        mine.sort_by_key(|held| !self.had(held.lease.subnets));
        let is_reserved = |known: &&Known<'_>| known.entry.lease == LeaseId::default();
        let lease_of_etcd = match mine.first().is_some_and(is_reserved) {
            true => None,
            false => Some(self.lease_of_etcd().await?),
        };
        let (subnets, holder, written) = match mine.first() {
            Some(Known { lease, entry }) => {
                let holder = kept(&wanted, &lease.holder);
                if entry.lease == id(lease_of_etcd) && holder == lease.holder {
                    let subnets = lease.subnets;
                    let own = Own { subnets, holder };
                    return Ok(Held {
                        own,
                        lease: lease_of_etcd,
                        written: entry.written,
                    });
                }
                (lease.subnets, holder, entry.written)
            }
            None => {
                let taken = leases.iter().flat_map(|held| held.lease.subnets.all());
                (self.free(taken.collect())?, wanted, 0)
            }
        };
        let key = self.key(subnets);
        let text = holder.to_json();
        let put = self.client.put(&key, &text, id(lease_of_etcd), written);
        let Some(written) = put.await? else {
            bail!("another host was faster with {subnets}");
        };
        match lease_of_etcd {
            Some(Lease { seconds, .. }) => info!(%subnets, seconds, "subnet leased"),
            None => info!(%subnets, "the subnet reserved for this host is taken"),
        }
        Ok(Held {
            own: Own { subnets, holder },
            lease: lease_of_etcd,
            written,
        })
    }

    /// What the key is bound to: the lease that there is, if etcd still knows it.
    async fn lease_of_etcd(&mut self) -> Result<Lease> {
        if let Some(lease) = self.lease {
            if self.client.keep(lease.id).await? {
                return Ok(lease);
            }
            self.lease = None;
        }
        let lease = self.client.grant(self.seconds).await?;
        if lease.id == LeaseId::default() {
            bail!("etcd grants no lease");
        }
        self.lease = Some(lease);
        Ok(lease)
    }

    /// The leases that can be read.
    fn leases<'a>(&self, entries: &'a [Entry]) -> Vec<Known<'a>> {
        let prefix = self.subnets();
        let read = |entry: &'a Entry| {
            let lease = lease(entry.key.strip_prefix(&prefix)?, &entry.value).ok()?;
            Some(Known { lease, entry })
        };
        entries.iter().filter_map(read).collect()
    }

    /// Whether the configuration would give these.
    fn fits(&self, subnets: Subnets) -> bool {
        let pools: Vec<&Pool> = self.conf.pools().collect();
        let all: Vec<IpNet> = subnets.all().collect();
        let has = |subnet: &IpNet| pools.iter().any(|pool| pool.has(*subnet));
        all.len() == pools.len() && all.iter().all(has)
    }

    /// Whether this host had these.
    fn had(&self, subnets: Subnets) -> bool {
        subnets.all().all(|subnet| self.previous.contains(&subnet))
    }

    /// Of each family the subnet that this host had, if it is free, or else one that is.
    fn free(&self, taken: BTreeSet<IpNet>) -> Result<Subnets> {
        let choose = |pool: &Pool| {
            let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
            let is_free = |subnet: &&IpNet| !taken.iter().any(|other| overlaps(other, subnet));
            let mut previous = self.previous.iter().filter(|subnet| pool.has(**subnet));
            let again = previous.find(is_free).copied();
            // The keys of a RandomState are random.
            let draw = RandomState::new().hash_one(());
            let chosen = again.or_else(|| pool.free(taken.iter().copied(), draw));
            chosen.with_context(|| {
                let Pool { network, subnet_len, .. } = pool;
                format!("every subnet /{subnet_len} of {network} is leased; make Network larger, or SubnetLen longer")
            })
        };
        let v4 = self.conf.v4.as_ref().map(choose).transpose()?;
        let v6 = self.conf.v6.as_ref().map(choose).transpose()?;
        match (v4, v6) {
            (Some(IpNet::V4(v4)), None) => Ok(Subnets { v4, v6: None }),
            (Some(IpNet::V4(v4)), Some(IpNet::V6(v6))) => Ok(Subnets { v4, v6: Some(v6) }),
            _ => bail!("EnableIPv4: leases in etcd are named by an IPv4 subnet; set it to true"),
        }
    }
}

/// What a key goes with; 0 of one that stays.
fn id(lease: Option<Lease>) -> LeaseId {
    lease.map_or_else(LeaseId::default, |lease| lease.id)
}

/// A lease that can be read.
struct Known<'a> {
    lease: weft_proto::flannel::Lease,
    entry: &'a Entry,
}

/// Before a tunnel stands nothing is known of its end; what was said of it before holds.
fn kept(wanted: &Holder, there: &Holder) -> Holder {
    match lacks_data(wanted) && there.backend_type == wanted.backend_type {
        true => Holder {
            backend_data: there.backend_data.clone(),
            backend_v6_data: there.backend_v6_data.clone(),
            ..wanted.clone()
        },
        false => wanted.clone(),
    }
}

fn lacks_data(holder: &Holder) -> bool {
    holder.backend_type == "vxlan"
        && holder.backend_data.is_none()
        && holder.backend_v6_data.is_none()
}
