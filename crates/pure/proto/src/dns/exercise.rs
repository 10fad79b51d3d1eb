//! The body of a fuzz target.

use super::{
    Answer, AnswerBuilder, Query, Rcode, RecordData, RecordType, Rejected, Response, Soa, WireName,
    reply,
};

/// The name that [`exercise`] has an answer for: SRV records of this many endpoints.
const ANSWERED: (&str, u16) = ("a.cluster.local", 40);

/// Reads `packet` as a query and writes every kind of reply to it, and reads it as a response.
/// Must not panic, whatever `packet` is; asserts what every reply keeps.
pub fn exercise(packet: &[u8]) {
    let mut out = Vec::new();
    match Query::parse(packet) {
        Ok(query) => {
            let limit = query.udp_limit();
            let mut buffer = [0; 255];
            let lower = query.lower_name(&mut buffer).to_vec();
            reply::failure(&mut out, &query, Rcode::Refused, true);
            check(packet, &out, limit);
            if let Some(soa) = soa() {
                reply::negative(&mut out, &query, &lower, Rcode::NxDomain, &soa, 7);
                // A name as long as can be, and its zone's SOA (RFC 2308, section 3).
                check(packet, &out, limit.max(super::EDNS_UDP_SIZE));
            }
            // The answer's pointers are valid behind its own question only.
            if let Some((name, answer)) = answer()
                && lower == name.as_bytes()
            {
                for rotation in [0, 1, u32::MAX] {
                    reply::answer(&mut out, &query, &answer, rotation, limit);
                    check(packet, &out, limit);
                }
            }
            let forwarded = query.forwarded(1);
            reply::relay(&mut out, &query, &forwarded, limit);
        }
        Err(Rejected::Silent) => {}
        Err(Rejected::Reply(rcode)) => {
            reply::rejection(&mut out, packet, rcode);
            check(packet, &out, super::HEADER_LEN);
        }
    }
    if let Ok(response) = Response::parse(packet) {
        for record_type in [RecordType::A, RecordType::AAAA, RecordType::CNAME] {
            let _ = response.records(record_type);
        }
        response.answers(packet);
    }
}

fn check(packet: &[u8], out: &[u8], limit: usize) {
    assert!(out.len() <= limit, "{} bytes of {limit}", out.len());
    if let [first, second, flags, ..] = out {
        assert_eq!([*first, *second], packet[..2], "the number is the query's");
        assert_ne!(flags & 0x80, 0, "a response");
        assert_eq!(flags & 0x01, packet[2] & 0x01, "RD is the query's");
    }
}

fn soa() -> Option<Soa> {
    let name = |text| WireName::parse(text).ok();
    Some(Soa {
        zone: name("cluster.local")?,
        server: name("ns.dns.cluster.local")?,
        mailbox: name("hostmaster.cluster.local")?,
        ttl: 5,
        refresh: 7200,
        retry: 1800,
        expire: 86400,
        minimum: 5,
    })
}

fn answer() -> Option<(WireName, Answer)> {
    let name = WireName::parse(ANSWERED.0).ok()?;
    let mut builder = AnswerBuilder::new(name.as_bytes());
    for port in 0..ANSWERED.1 {
        let target = WireName::parse(&format!("e{port}.a.cluster.local")).ok()?;
        let service = RecordData::Service {
            priority: 0,
            weight: 1,
            port,
            target,
        };
        builder.answer(5, &service);
    }
    let answer = builder.finish();
    Some((name, answer))
}
