//! The DNS codec against random bytes, and against another implementation.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, MessageType, OpCode, Query as TheirQuery, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType as TheirType};
use proptest::collection::vec;
use proptest::prelude::*;
use weft_proto::dns::{
    Answer, AnswerBuilder, Query, Rcode, RecordData, RecordType, Rejected, Response, Soa, WireName,
    encode_query, reply,
};

fn wire(name: &str) -> WireName {
    WireName::parse(name).unwrap()
}

fn soa() -> Soa {
    Soa {
        zone: wire("cluster.local"),
        server: wire("ns.dns.cluster.local"),
        mailbox: wire("hostmaster.cluster.local"),
        ttl: 5,
        refresh: 7200,
        retry: 1800,
        expire: 86400,
        minimum: 5,
    }
}

/// What every reply must keep, whatever the packet.
fn check_reply(packet: &[u8], out: &[u8], limit: usize) {
    assert!(out.len() <= limit, "{} bytes of {limit}", out.len());
    if out.is_empty() {
        return;
    }
    assert_eq!(out[..2], packet[..2], "the number is the query's");
    assert_ne!(out[2] & 0x80, 0, "a response");
    assert_eq!(out[2] & 0x01, packet[2] & 0x01, "RD is the query's");
    Message::from_vec(out).unwrap_or_else(|error| panic!("{error} in {out:02x?}"));
}

/// The body of the fuzz target: nothing may panic, and replies must be well formed.
fn any_packet(packet: &[u8], answer: &Answer, rotation: u32) {
    let mut out = Vec::new();
    match Query::parse(packet) {
        Ok(query) => {
            let limit = query.udp_limit();
            let mut buffer = [0; 255];
            let lower = query.lower_name(&mut buffer).to_vec();
            reply::failure(&mut out, &query, Rcode::Refused, true);
            check_reply(packet, &out, limit);
            reply::negative(&mut out, &query, &lower, Rcode::NxDomain, &soa(), 7);
            check_reply(packet, &out, limit + 200);
            // The answer's pointers are valid behind its own question only.
            if lower == ANSWERED.with(|name| name.as_bytes().to_vec()) {
                reply::answer(&mut out, &query, answer, rotation, limit);
                check_reply(packet, &out, limit);
            }
            query.forwarded(1);
        }
        Err(Rejected::Silent) => {}
        Err(Rejected::Reply(rcode)) => {
            reply::rejection(&mut out, packet, rcode);
            assert_eq!(out.len(), 12);
            check_reply(packet, &out, 512);
        }
    }
    if let Ok(response) = Response::parse(packet) {
        let _ = response.records(RecordType::A);
        response.answers(packet);
    }
}

thread_local! {
    static ANSWERED: WireName = wire("a.cluster.local");
}

fn some_answer(count: u8) -> Answer {
    let name = wire("a.cluster.local");
    let mut builder = AnswerBuilder::new(name.as_bytes());
    for index in 0..count {
        builder.answer(
            5,
            &RecordData::Service {
                priority: 0,
                weight: 1,
                port: u16::from(index) + 1,
                target: wire(&format!("e{index}.a.cluster.local")),
            },
        );
        builder.additional(
            &wire(&format!("e{index}.a.cluster.local")),
            5,
            &RecordData::V4(Ipv4Addr::new(10, 0, 0, index)),
        );
    }
    builder.finish()
}

fn label() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_]([a-zA-Z0-9-]{0,18}[a-zA-Z0-9])?"
}

fn name() -> impl Strategy<Value = String> {
    vec(label(), 1..6).prop_map(|labels| labels.join("."))
}

fn data() -> impl Strategy<Value = RecordData> {
    prop_oneof![
        any::<u32>().prop_map(|bits| RecordData::V4(bits.into())),
        any::<u128>().prop_map(|bits| RecordData::V6(bits.into())),
        name().prop_map(|name| RecordData::Alias(wire(&name))),
        name().prop_map(|name| RecordData::Pointer(wire(&name))),
        name().prop_map(|name| RecordData::NameServer(wire(&name))),
        (any::<[u16; 3]>(), name()).prop_map(|([priority, weight, port], name)| {
            RecordData::Service {
                priority,
                weight,
                port,
                target: wire(&name),
            }
        }),
        "[ -~]{0,600}".prop_map(|text| RecordData::Text(text.as_str().into())),
    ]
}

/// A record of ours as the other implementation reads it.
fn same(ours: &RecordData, theirs: &RData) -> bool {
    let equal = |name: &WireName, other: &Name| name.to_string() == other.to_lowercase().to_ascii();
    match (ours, theirs) {
        (RecordData::V4(address), RData::A(other)) => *address == other.0,
        (RecordData::V6(address), RData::AAAA(other)) => *address == other.0,
        (RecordData::Alias(name), RData::CNAME(other)) => equal(name, &other.0),
        (RecordData::Pointer(name), RData::PTR(other)) => equal(name, &other.0),
        (RecordData::NameServer(name), RData::NS(other)) => equal(name, &other.0),
        (
            RecordData::Service {
                priority,
                weight,
                port,
                target,
            },
            RData::SRV(other),
        ) => {
            (*priority, *weight, *port) == (other.priority, other.weight, other.port)
                && equal(target, &other.target)
        }
        (RecordData::Text(text), RData::TXT(other)) => {
            let joined: Vec<u8> = other.txt_data.iter().flatten().copied().collect();
            joined == text.as_bytes()
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(packet in vec(any::<u8>(), 0..200), rotation: u32) {
        any_packet(&packet, &some_answer(9), rotation);
    }

    /// Random bytes hardly get past the header; these are queries with damage.
    #[test]
    fn no_damaged_query_panics(
        name in prop_oneof![Just("A.cluster.LOCAL".to_owned()), name()],
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in vec(any::<u8>(), 0..40),
        cut in any::<prop::sample::Index>(),
        rotation: u32,
    ) {
        let mut packet = encode_query(7, &wire(&name), RecordType::SRV);
        packet.extend_from_slice(&tail);
        for (index, byte) in damage {
            let at = index.index(packet.len());
            packet[at] = byte;
        }
        let cut = cut.index(packet.len() * 2);
        packet.truncate(cut.max(1));
        any_packet(&packet, &some_answer(9), rotation);
    }

    /// What we read out of a query is what the other implementation reads.
    #[test]
    fn queries_are_read_as_others_read_them(name in name(), record_type in 1u16..300, size: u16, id: u16) {
        let mut theirs = Message::new(id, MessageType::Query, OpCode::Query);
        theirs.metadata.recursion_desired = true;
        let mut question = TheirQuery::new();
        question.set_name(Name::from_ascii(format!("{name}.")).unwrap());
        question.set_query_type(TheirType::from(record_type));
        theirs.add_query(question);
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(size);
        theirs.set_edns(edns);
        let packet = theirs.to_vec().unwrap();
        let query = Query::parse(&packet).unwrap();
        prop_assert_eq!(query.id(), id);
        prop_assert_eq!(query.record_type(), RecordType(record_type));
        let mut buffer = [0; 255];
        let name = wire(&name);
        prop_assert_eq!(query.lower_name(&mut buffer), name.as_bytes());
        let expected = size.max(512);
        prop_assert_eq!(query.edns().unwrap().udp_size.max(512), expected);
        prop_assert_eq!(query.udp_limit(), usize::from(expected.min(1232)));
    }

    /// What we answer is what the other implementation reads, in any rotation, and cut
    /// only where it says so.
    #[test]
    fn answers_are_read_as_they_were_meant(
        question in name(),
        mixed in data(),
        others in vec(data(), 0..60),
        extra in vec((name(), any::<bool>(), any::<u128>()), 0..4),
        rotation: u32,
        limit in 512usize..4000,
    ) {
        let all: Vec<RecordData> = std::iter::once(mixed.clone())
            .chain(others.into_iter().filter(|data| data.record_type() == mixed.record_type()))
            .collect();
        let question = wire(&question);
        let mut builder = AnswerBuilder::new(question.as_bytes());
        for data in &all {
            builder.answer(30, data);
        }
        for (owner, v4, bits) in &extra {
            let address: IpAddr = if *v4 {
                Ipv4Addr::from(*bits as u32).into()
            } else {
                Ipv6Addr::from(*bits).into()
            };
            builder.additional(&wire(owner), 30, &RecordData::address(address));
        }
        let answer = builder.finish();
        prop_assert_eq!(usize::from(answer.count()), all.len());
        let packet = encode_query(99, &question, mixed.record_type());
        let query = Query::parse(&packet).unwrap();
        let mut out = Vec::new();
        reply::answer(&mut out, &query, &answer, rotation, limit);
        prop_assert!(out.len() <= limit);
        let read = Message::from_vec(&out).unwrap();
        prop_assert_eq!(read.metadata.response_code, ResponseCode::NoError);
        prop_assert!(read.metadata.authoritative && read.metadata.recursion_desired);
        prop_assert!(read.edns.is_some());
        let complete = read.answers.len() == all.len();
        prop_assert_eq!(read.metadata.truncation, !complete);
        for record in &read.answers {
            prop_assert_eq!(record.name.to_lowercase().to_ascii(), question.to_string());
            prop_assert_eq!(record.ttl, 30);
            prop_assert!(all.iter().any(|data| same(data, &record.data)));
        }
        if complete {
            let chain = mixed.record_type() == RecordType::CNAME;
            let first = if chain { 0 } else { rotation as usize % all.len() };
            for (index, record) in read.answers.iter().enumerate() {
                prop_assert!(same(&all[(first + index) % all.len()], &record.data));
            }
        } else {
            prop_assert!(read.additionals.is_empty());
        }
    }
}

#[test]
fn a_negative_reply_carries_the_soa_and_the_clients_spelling() {
    let mut packet = encode_query(3, &wire("nope.default.svc.cluster.local"), RecordType::A);
    packet[13..17].copy_from_slice(b"NoPe");
    let query = Query::parse(&packet).unwrap();
    let mut buffer = [0; 255];
    let lower = query.lower_name(&mut buffer);
    let mut out = Vec::new();
    reply::negative(&mut out, &query, lower, Rcode::NxDomain, &soa(), 42);
    let read = Message::from_vec(&out).unwrap();
    assert_eq!(read.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(
        read.queries[0].name().to_string(),
        "NoPe.default.svc.cluster.local."
    );
    let RData::SOA(record) = &read.authorities[0].data else {
        panic!("{:?}", read.authorities);
    };
    assert_eq!(read.authorities[0].name.to_string(), "cluster.local.");
    assert_eq!(record.mname.to_string(), "ns.dns.cluster.local.");
    assert_eq!(record.rname.to_string(), "hostmaster.cluster.local.");
    assert_eq!(
        (
            record.serial,
            record.refresh,
            record.retry,
            record.expire,
            record.minimum
        ),
        (42, 7200, 1800, 86400, 5)
    );
}

#[test]
fn rejections() {
    let good = encode_query(1, &wire("a.b"), RecordType::A);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        Query::parse(&packet).err()
    };
    assert_eq!(with(&|_| {}), None);
    assert_eq!(with(&|packet| packet.truncate(11)), Some(Rejected::Silent));
    assert_eq!(with(&|packet| packet[2] |= 0x80), Some(Rejected::Silent));
    let form = Some(Rejected::Reply(Rcode::FormErr));
    assert_eq!(
        with(&|packet| packet[2] = 5 << 3),
        Some(Rejected::Reply(Rcode::NotImp)),
        "an update"
    );
    assert_eq!(with(&|packet| packet[5] = 0), form, "no question");
    assert_eq!(with(&|packet| packet[5] = 2), form, "two questions");
    assert_eq!(
        with(&|packet| packet[12] = 0xc0),
        form,
        "a compressed question"
    );
    assert_eq!(with(&|packet| packet.truncate(20)), form, "no type");
    assert_eq!(with(&|packet| packet[11] = 2), form, "a record is missing");
    assert_eq!(
        with(&|packet| {
            packet[11] = 2;
            packet.extend_from_within(good.len() - 11..);
        }),
        form,
        "two OPT records"
    );
    assert_eq!(
        with(&|packet| packet.extend_from_slice(b"more")),
        None,
        "bytes behind the message are ignored"
    );
}

#[test]
fn badvers_has_its_high_bits_in_the_opt_record() {
    let packet = encode_query(1, &wire("a.b"), RecordType::A);
    let query = Query::parse(&packet).unwrap();
    let mut out = Vec::new();
    reply::failure(&mut out, &query, Rcode::BadVers, false);
    assert_eq!(out[3] & 0x0f, 0);
    let read = Message::from_vec(&out).unwrap();
    assert_eq!(read.edns.unwrap().rcode_high(), 1);
}

#[test]
fn a_relayed_reply_that_is_too_large_is_cut_to_the_question() {
    let packet = encode_query(5, &wire("Example.org"), RecordType::A);
    let mut spelled = packet.clone();
    spelled[13..20].copy_from_slice(b"ExAmPlE");
    let query = Query::parse(&spelled).unwrap();
    let question = query.forwarded(77);
    let name = wire("example.org");
    let mut builder = AnswerBuilder::new(name.as_bytes());
    for index in 0..100 {
        builder.answer(60, &RecordData::V4(Ipv4Addr::new(192, 0, 2, index)));
    }
    let mut response = Vec::new();
    reply::answer(
        &mut response,
        &Query::parse(&question).unwrap(),
        &builder.finish(),
        0,
        4096,
    );
    assert!(Response::parse(&response).unwrap().answers(&question));
    assert!(!Response::parse(&response).unwrap().answers(&packet));
    let mut out = Vec::new();
    reply::relay(&mut out, &query, &response, 4096);
    let read = Message::from_vec(&out).unwrap();
    assert_eq!((read.metadata.id, read.answers.len()), (5, 100));
    assert_eq!(read.queries[0].name().to_string(), "ExAmPlE.org.");
    reply::relay(&mut out, &query, &response, 1232);
    let read = Message::from_vec(&out).unwrap();
    assert!(read.metadata.truncation && read.answers.is_empty() && read.edns.is_some());
}
