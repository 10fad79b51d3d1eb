//! From a query's bytes to a reply's, by the records alone.

use weft_proto::dns::{
    AnswerBuilder, CLASS_IN, MAX_MESSAGE, Query, Rcode, RecordData, RecordType, Rejected, WireName,
    reply,
};

use std::sync::Arc;

use super::pod;
use super::records::{InZone, Records};

/// How long a chain of aliases is followed (as CoreDNS does).
const MAX_CHAIN: usize = 10;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP: the client says how large a reply may be.
    Udp,
    /// TCP: a reply may be as large as a message can be.
    Tcp,
}

impl Transport {
    /// How many bytes a reply may have.
    pub fn limit(self, query: &Query<'_>) -> usize {
        match self {
            Transport::Udp => query.udp_limit(),
            Transport::Tcp => MAX_MESSAGE,
        }
    }
}

/// Whether pods have names made of their addresses: `10-244-1-5.default.pod.<zone>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodNames {
    /// They have none.
    Disabled,
    /// Any address is answered, whether a pod has it or not (as kubeadm configures CoreDNS).
    #[default]
    Insecure,
}

/// What becomes of a query.
#[derive(Debug)]
pub enum Outcome {
    /// The reply is written. An empty one: nothing is sent.
    Replied,
    /// Another server must be asked.
    Forward(Option<Chain>),
}

/// Aliases that led out of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Each alias: its name, how many seconds it may be kept, where it leads.
    pub links: Vec<(WireName, u32, WireName)>,
}

impl Chain {
    /// The name at the chain's end.
    pub fn target(&self) -> Option<&WireName> {
        self.links.last().map(|(_, _, target)| target)
    }

    /// The chain as the beginning of an answer.
    pub(super) fn begin<'q>(&self, question: &'q [u8]) -> AnswerBuilder<'q> {
        let mut builder = AnswerBuilder::new(question);
        for (owner, ttl, target) in &self.links {
            builder.answer_of(owner, *ttl, &RecordData::Alias(target.clone()));
        }
        builder
    }
}

/// Answers queries. Cheap to clone: each thread has one.
#[derive(Clone, Debug)]
pub struct Responder {
    records: Arc<Records>,
    pod_names: PodNames,
    forwards: bool,
}

impl Responder {
    /// Answers by these records. `forwards`: there are servers to ask for other names.
    pub fn new(records: Arc<Records>, pod_names: PodNames, forwards: bool) -> Self {
        Self {
            records,
            pod_names,
            forwards,
        }
    }

    /// Answers one query into `out`. `rotation`, any number, chooses which of several
    /// records comes first.
    pub fn respond(
        &self,
        packet: &[u8],
        transport: Transport,
        rotation: u32,
        out: &mut Vec<u8>,
    ) -> Outcome {
        out.clear();
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(Rejected::Silent) => return Outcome::Replied,
            Err(Rejected::Reply(rcode)) => {
                reply::rejection(out, packet, rcode);
                return Outcome::Replied;
            }
        };
        if query.edns().is_some_and(|edns| edns.version != 0) {
            reply::failure(out, &query, Rcode::BadVers, false);
            return Outcome::Replied;
        }
        // Zone transfers would show the whole cluster to anybody.
        let transfer = [RecordType::AXFR, RecordType::IXFR].contains(&query.record_type());
        if query.class() != CLASS_IN || transfer {
            reply::failure(out, &query, Rcode::Refused, false);
            return Outcome::Replied;
        }
        let mut buffer = [0; 255];
        let name = query.lower_name(&mut buffer);
        let Some(zone) = self.records.zone_of(name) else {
            return self.forward(&query, None, out);
        };
        Asked {
            responder: self,
            query,
            name,
            zone,
            limit: transport.limit(&query),
            rotation,
        }
        .respond(out)
    }

    fn forward(&self, query: &Query<'_>, chain: Option<Chain>, out: &mut Vec<u8>) -> Outcome {
        if self.forwards {
            return Outcome::Forward(chain);
        }
        reply::failure(out, query, Rcode::Refused, false);
        Outcome::Replied
    }
}

/// A question about a name in one of our zones.
struct Asked<'a> {
    responder: &'a Responder,
    query: Query<'a>,
    name: &'a [u8],
    zone: InZone<'a>,
    limit: usize,
    rotation: u32,
}

/// What the table says to a question.
enum Found {
    Answered,
    Alias(WireName, u32),
    NoSuchRecord,
    NoSuchName,
}

impl Asked<'_> {
    fn respond(&self, out: &mut Vec<u8>) -> Outcome {
        let records = &self.responder.records;
        let record_type = self.query.record_type();
        if record_type == RecordType::SOA && self.zone.offset == 0 && self.zone.ours {
            let serial = records.serial();
            reply::soa(out, &self.query, self.name, self.zone.soa, serial);
            return Outcome::Replied;
        }
        let found = records.with(self.name, |entry| {
            let Some(entry) = entry else {
                return Found::NoSuchName;
            };
            if let Some(answer) = entry.answer(record_type) {
                reply::answer(out, &self.query, answer, self.rotation, self.limit);
                return Found::Answered;
            }
            match &entry.alias {
                Some(target) => Found::Alias(target.clone(), entry.ttl),
                None => Found::NoSuchRecord,
            }
        });
        match found {
            Found::Answered => Outcome::Replied,
            Found::NoSuchRecord => self.negative(Rcode::NoError, out),
            Found::Alias(target, ttl) => self.follow(target, ttl, out),
            Found::NoSuchName => self.missing(out),
        }
    }

    fn missing(&self, out: &mut Vec<u8>) -> Outcome {
        if self.zone.ours
            && self.responder.pod_names == PodNames::Insecure
            && let Some(pod) = pod::find(&self.responder.records, self.name, self.zone.offset)
        {
            return match pod {
                pod::Pod::Address(address)
                    if RecordType::of(address) == self.query.record_type() =>
                {
                    let mut builder = AnswerBuilder::new(self.name);
                    builder.answer(self.zone.soa.minimum, &RecordData::address(address));
                    reply::answer(out, &self.query, &builder.finish(), 0, self.limit);
                    Outcome::Replied
                }
                pod::Pod::Address(_) | pod::Pod::Namespace => self.negative(Rcode::NoError, out),
            };
        }
        if !self.responder.records.in_sync() {
            return self.negative(Rcode::ServFail, out);
        }
        if self.zone.ours {
            return self.negative(Rcode::NxDomain, out);
        }
        // Addresses that are not the cluster's have names elsewhere.
        self.responder.forward(&self.query, None, out)
    }

    fn negative(&self, rcode: Rcode, out: &mut Vec<u8>) -> Outcome {
        let serial = self.responder.records.serial();
        reply::negative(out, &self.query, self.name, rcode, self.zone.soa, serial);
        Outcome::Replied
    }

    /// Follows an alias: the client is no resolver, and expects the records at its end.
    fn follow(&self, target: WireName, ttl: u32, out: &mut Vec<u8>) -> Outcome {
        let record_type = self.query.record_type();
        if ![RecordType::A, RecordType::AAAA, RecordType::TXT].contains(&record_type) {
            return self.negative(Rcode::NoError, out);
        }
        let Some((owner, _)) = WireName::read(self.name) else {
            return self.negative(Rcode::ServFail, out);
        };
        let records = &self.responder.records;
        let mut chain = Chain {
            links: vec![(owner, ttl, target.clone())],
        };
        let mut target = target;
        while chain.links.len() <= MAX_CHAIN {
            if records
                .zone_of(target.as_bytes())
                .is_none_or(|zone| !zone.ours)
            {
                if self.responder.forwards {
                    return Outcome::Forward(Some(chain));
                }
                let answer = chain.begin(self.name).finish();
                reply::answer(out, &self.query, &answer, 0, self.limit);
                return Outcome::Replied;
            }
            let found = records.with(target.as_bytes(), |entry| {
                let Some(entry) = entry else {
                    return Found::NoSuchName;
                };
                if let Some(answer) = entry.answer(record_type) {
                    let mut builder = chain.begin(self.name);
                    for (ttl, data) in answer.plain_records() {
                        builder.answer_raw(&target, record_type, ttl, data);
                    }
                    let answer = builder.finish();
                    reply::answer(out, &self.query, &answer, self.rotation, self.limit);
                    return Found::Answered;
                }
                match &entry.alias {
                    Some(next) => Found::Alias(next.clone(), entry.ttl),
                    None => Found::NoSuchRecord,
                }
            });
            match found {
                Found::Answered => return Outcome::Replied,
                Found::Alias(next, ttl) => {
                    chain.links.push((target, ttl, next.clone()));
                    target = next;
                }
                Found::NoSuchName if !records.in_sync() => {
                    return self.negative(Rcode::ServFail, out);
                }
                Found::NoSuchName | Found::NoSuchRecord => break,
            }
        }
        self.negative(Rcode::NoError, out)
    }
}
