//! The cluster's DNS records, kept in step with the model change by change.
//!
//! Names and answers are those of the Kubernetes DNS specification 1.1.0, and where it
//! is silent those of CoreDNS. Every name is claimed by objects: a Service claims the
//! names below its own, its addresses' reverse names, and, if it serves this very
//! server, the zone's name server. Claims of one name are merged by their [`Strength`],
//! so that the order of events leaves no trace.

mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_desired::{DnsTable, DomainName, Entry, NameRecords, NotADomainName, Origin};
use weft_model::{Change, Cluster, Key, ObjectKey};

use crate::Problem;
use crate::claim::Rank;

/// The version of the specification, answered at `dns-version.<zone>`.
const SPECIFICATION: &str = "1.1.0";
/// How long it may be kept, in seconds (as CoreDNS answers).
const SPECIFICATION_TTL: u32 = 28_800;

/// What is the same for the life of a [`DnsCompiler`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// The cluster's domain (`cluster.local`).
    pub zone: DomainName,
    /// How many seconds records may be kept.
    pub ttl: u32,
    /// Addresses of this server. The Services that have an endpoint there are the zone's
    /// name servers.
    pub own_addresses: BTreeSet<IpAddr>,
}

/// Holds the cluster's model and the names it makes. The cost of a change is that of the
/// names of the objects it touches.
#[derive(Clone, Debug)]
pub struct DnsCompiler {
    settings: DnsSettings,
    cluster: Cluster,
    /// Who claims each name. Nearly always one: hence no map of maps.
    claims: BTreeMap<DomainName, Vec<(Claimant, Claim)>>,
    names: BTreeMap<Claimant, BTreeSet<DomainName>>,
    problems: BTreeMap<Claimant, Vec<String>>,
}

/// Who claims names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claimant {
    /// The zone itself.
    Zone,
    Namespace(Arc<str>),
    Service(ObjectKey),
}

/// One object's claim on one name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    strength: Strength,
    entry: Entry<NameRecords>,
}

/// Which claims of a name count: the strongest, all of one strength together. Of
/// exclusive ones only the first by rank.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    Exclusive(Rank),
    Shared,
    Fallback,
}

/// The claims of one object, while they are put together.
struct Claiming {
    ttl: u32,
    origin: Origin,
    claims: BTreeMap<DomainName, Claim>,
    problems: Vec<String>,
}

impl DnsCompiler {
    /// For a cluster of which nothing is known yet.
    pub fn new(settings: DnsSettings) -> Self {
        let mut compiler = Self {
            settings,
            cluster: Cluster::default(),
            claims: BTreeMap::new(),
            names: BTreeMap::new(),
            problems: BTreeMap::new(),
        };
        compiler.compile(&Claimant::Zone, &mut BTreeSet::new());
        compiler
    }

    /// Takes a change in. Returns the names whose records may be others now.
    pub fn apply(&mut self, change: Change) -> BTreeSet<DomainName> {
        self.apply_all([change])
    }

    /// Takes changes in, in their order, and compiles each object they touch once: many
    /// slices of one Service cost as much as the last of them.
    pub fn apply_all(&mut self, changes: impl IntoIterator<Item = Change>) -> BTreeSet<DomainName> {
        let mut claimants = BTreeSet::new();
        for change in changes {
            let key = change.key();
            // A slice whose label changed touches the Service it leaves and the one it joins.
            let before = self.claimant(&key);
            if self.cluster.apply(change) {
                claimants.extend(before);
                claimants.extend(self.claimant(&key));
            }
        }
        let mut touched = BTreeSet::new();
        for claimant in &claimants {
            self.compile(claimant, &mut touched);
        }
        touched
    }

    /// The records of a name; `None` if there is no such name.
    pub fn records(&self, name: &DomainName) -> Option<Entry<NameRecords>> {
        let claims = self.claims.get(name)?;
        let strongest = claims.iter().map(|(_, claim)| &claim.strength).min()?;
        let mut counting = claims
            .iter()
            .filter(|(_, claim)| claim.strength == *strongest)
            .map(|(_, claim)| &claim.entry);
        let mut records = counting.next()?.clone();
        for other in counting {
            records.value.merge(&other.value);
        }
        Some(records)
    }

    /// All names and their records.
    pub fn table(&self) -> DnsTable {
        self.claims
            .keys()
            .filter_map(|name| Some((name.clone(), self.records(name)?)))
            .collect()
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &DomainName> {
        self.claims.keys()
    }

    /// The model, as far as it was told.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What the cluster names and DNS can't answer, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Problem::rejected(&self.cluster).collect();
        for (claimant, reasons) in &self.problems {
            let object = match claimant {
                // The zone's own names are the operator's choice, not an object's.
                Claimant::Zone => continue,
                Claimant::Namespace(name) => Key::Namespace(name.clone()),
                Claimant::Service(key) => Key::Service(key.clone()),
            };
            problems.extend(reasons.iter().map(|reason| Problem {
                object: object.clone(),
                reason: reason.clone(),
            }));
        }
        problems.sort();
        problems
    }

    /// Whose names an object has a say in, as the model stands.
    fn claimant(&self, key: &Key) -> Option<Claimant> {
        match key {
            Key::Namespace(name) => Some(Claimant::Namespace(name.clone())),
            Key::Service(key) => Some(Claimant::Service(key.clone())),
            Key::EndpointSlice(key) => self
                .cluster
                .slice(key)
                .map(|slice| Claimant::Service(slice.service.clone())),
            Key::Node(_) | Key::Pod(_) => None,
        }
    }

    /// Makes a claimant's claims anew; adds the names that are touched.
    fn compile(&mut self, claimant: &Claimant, touched: &mut BTreeSet<DomainName>) {
        let Claiming {
            mut claims,
            problems,
            ..
        } = self.claims_of(claimant);
        if problems.is_empty() {
            self.problems.remove(claimant);
        } else {
            self.problems.insert(claimant.clone(), problems);
        }
        let names: BTreeSet<DomainName> = claims.keys().cloned().collect();
        let before = self.names.remove(claimant).unwrap_or_default();
        for name in before.difference(&names) {
            if let Some(others) = self.claims.get_mut(name) {
                others.retain(|(other, _)| other != claimant);
                if others.is_empty() {
                    self.claims.remove(name);
                }
            }
            touched.insert(name.clone());
        }
        for name in &names {
            let Some(claim) = claims.remove(name) else {
                continue;
            };
            let all = self.claims.entry(name.clone()).or_default();
            match all.binary_search_by(|(other, _)| other.cmp(claimant)) {
                Ok(index) if all[index].1 == claim => {
                    // Equal though the origin may differ; explain it by the newer.
                    all[index].1 = claim;
                }
                Ok(index) => {
                    all[index].1 = claim;
                    touched.insert(name.clone());
                }
                Err(index) => {
                    // Nearly always the only claim there will ever be.
                    all.reserve_exact(1);
                    all.insert(index, (claimant.clone(), claim));
                    touched.insert(name.clone());
                }
            }
        }
        if !names.is_empty() {
            self.names.insert(claimant.clone(), names);
        }
    }

    fn claims_of(&self, claimant: &Claimant) -> Claiming {
        let settings = &self.settings;
        match claimant {
            Claimant::Zone => {
                let mut claiming = Claiming::new(settings.ttl, "Zone", "", settings.zone.as_str());
                claiming.attempt("the zone", |claiming| claiming.zone(settings));
                claiming
            }
            Claimant::Namespace(name) => {
                let mut claiming = Claiming::new(settings.ttl, "Namespace", "", name);
                if self.cluster.has_namespace(name) {
                    claiming.attempt("the namespace's name", |claiming| {
                        let below = settings.zone.child("svc")?.child(name)?;
                        claiming.claim(below, Strength::Shared);
                        Ok(())
                    });
                }
                claiming
            }
            Claimant::Service(key) => {
                let mut claiming =
                    Claiming::new(settings.ttl, "Service", &key.namespace, &key.name);
                if let Some(service) = self.cluster.service(key) {
                    claiming.origin.generation = service.generation;
                    service::claims(&mut claiming, settings, &self.cluster, service);
                }
                claiming
            }
        }
    }
}

/// The name server's name where no Service leads to this server, and in SOA records
/// always (as CoreDNS names it): `ns.dns.<zone>`.
fn name_server(zone: &DomainName) -> Result<DomainName, NotADomainName> {
    zone.child("dns")?.child("ns")
}

impl Claiming {
    fn new(ttl: u32, kind: &'static str, namespace: &str, name: &str) -> Self {
        Self {
            ttl,
            origin: Origin {
                kind,
                namespace: namespace.into(),
                name: name.into(),
                generation: 0,
            },
            claims: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Claims a name, or finds the claim made before; its records can be added to.
    fn claim(&mut self, name: DomainName, strength: Strength) -> &mut NameRecords {
        let (ttl, origin) = (self.ttl, &self.origin);
        &mut self
            .claims
            .entry(name)
            .or_insert_with(|| Claim {
                strength,
                entry: Entry {
                    value: NameRecords::empty(ttl),
                    origin: origin.clone(),
                },
            })
            .entry
            .value
    }

    /// Makes claims whose names may turn out not to be names; notes it if so.
    fn attempt(
        &mut self,
        what: &str,
        claims: impl FnOnce(&mut Self) -> Result<(), NotADomainName>,
    ) {
        if let Err(error) = claims(self) {
            self.problems
                .push(format!("DNS can't name {what}: {error}"));
        }
    }

    /// The names that exist in every cluster.
    fn zone(&mut self, settings: &DnsSettings) -> Result<(), NotADomainName> {
        let zone = &settings.zone;
        let server = name_server(zone)?;
        self.claim(zone.clone(), Strength::Fallback);
        self.claim(zone.child("svc")?, Strength::Shared);
        self.claim(zone.child("pod")?, Strength::Shared);
        self.claim(zone.child("dns")?, Strength::Shared);
        let version = self.claim(zone.child("dns-version")?, Strength::Shared);
        version.ttl = SPECIFICATION_TTL;
        version.texts.insert(SPECIFICATION.into());
        let addresses = &settings.own_addresses;
        self.claim(server.clone(), Strength::Fallback).addresses = addresses.clone();
        if !addresses.is_empty() {
            let apex = self.claim(zone.clone(), Strength::Fallback);
            apex.name_servers.insert(server.clone());
            apex.additional.insert(server, addresses.clone());
        }
        Ok(())
    }
}
