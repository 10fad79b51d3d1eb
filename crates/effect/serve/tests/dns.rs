//! The server on loopback, asked by `dig` and by sockets.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record};
use tokio::sync::oneshot;
use weft_desired::{DomainName, NameRecords, ServiceRecord};
use weft_proto::dns::{RecordType, WireName, encode_query};
use weft_serve::ListenAddress;
use weft_serve::dns::{PodNames, Records, Server, Settings};

const PATIENCE: Duration = Duration::from_secs(60);

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A small cluster's names.
fn cluster(records: &Records) {
    let zone = "cluster.local";
    let empty = NameRecords::empty(5);
    let hello = name("hello.default.svc.cluster.local");
    let many: Vec<String> = (0..100).map(|index| format!("10.244.0.{index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let with = |change: &dyn Fn(&mut NameRecords)| {
        let mut records = empty.clone();
        change(&mut records);
        records
    };
    let alias = |target: &str| with(&|records| records.alias = Some(name(target)));
    let table = [
        (zone.to_owned(), empty.clone()),
        (format!("svc.{zone}"), empty.clone()),
        (format!("default.svc.{zone}"), empty.clone()),
        (
            format!("hello.default.svc.{zone}"),
            with(&|records| records.addresses = addresses(&["10.96.0.7", "fd00:10:96::7"])),
        ),
        (
            format!("_http._tcp.hello.default.svc.{zone}"),
            with(&|records| {
                records.services.insert(ServiceRecord {
                    target: hello.clone(),
                    port: 80,
                    priority: 0,
                    weight: 50,
                });
                records.additional =
                    BTreeMap::from([(hello.clone(), addresses(&["10.96.0.7", "fd00:10:96::7"]))]);
            }),
        ),
        (
            format!("v4.default.svc.{zone}"),
            with(&|records| records.addresses = addresses(&["10.96.0.8"])),
        ),
        (
            format!("two.default.svc.{zone}"),
            with(&|records| records.addresses = addresses(&["10.244.1.1", "10.244.1.2"])),
        ),
        (
            format!("many.default.svc.{zone}"),
            with(&|records| records.addresses = addresses(&many)),
        ),
        (
            "7.0.96.10.in-addr.arpa".to_owned(),
            with(&|records| {
                records.pointers.insert(hello.clone());
            }),
        ),
        (
            DomainName::reverse("fd00:10:96::7".parse().unwrap())
                .as_str()
                .to_owned(),
            with(&|records| {
                records.pointers.insert(hello.clone());
            }),
        ),
        (
            format!("near.default.svc.{zone}"),
            alias("hello.default.svc.cluster.local"),
        ),
        (
            format!("nowhere.default.svc.{zone}"),
            alias("gone.default.svc.cluster.local"),
        ),
        (
            format!("ring.default.svc.{zone}"),
            alias("ring.default.svc.cluster.local"),
        ),
        (format!("far.default.svc.{zone}"), alias("www.example.org")),
    ];
    for (owner, value) in &table {
        records.set(&name(owner), Some(value)).unwrap();
    }
    records.set_serial(1_700_000_000);
}

/// A server in a thread of its own; ends with this value.
struct Running {
    address: SocketAddr,
    records: Arc<Records>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(listen: &str, upstreams: Vec<SocketAddr>) -> Self {
        let records = Arc::new(Records::new(&name("cluster.local"), 5).unwrap());
        cluster(&records);
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let settings = Settings {
            listen: vec![listen.parse::<ListenAddress>().unwrap()],
            share_port: false,
            threads: 2,
            upstreams,
            pod_names: PodNames::Insecure,
            lameduck: Duration::ZERO,
        };
        let served = records.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = Server::bind(&settings, served).unwrap();
                tell.send(server.addresses()[0]).unwrap();
                server
                    .run(async {
                        let _ = stopped.await;
                    })
                    .await
                    .unwrap();
            });
        });
        Self {
            address: told.recv_timeout(PATIENCE).unwrap(),
            records,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn in_sync(upstreams: Vec<SocketAddr>) -> Self {
        let server = Self::start("127.0.0.1:0", upstreams);
        server.records.set_in_sync();
        server
    }

    /// What dig prints, without what differs from run to run.
    fn dig(&self, arguments: &str) -> String {
        self.dig_at("127.0.0.1", arguments)
    }

    fn dig_at(&self, address: &str, arguments: &str) -> String {
        let output = Command::new("dig")
            .arg(format!("@{address}"))
            .args(["-p", &self.address.port().to_string()])
            .args(["+tries=1", "+time=5", "+nocookie"])
            .args(arguments.split_whitespace())
            .output()
            .expect("dig is installed (Debian: bind9-dnsutils)");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Some((head, tail)) = line.split_once(", id: ") {
                let _ = tail;
                lines.push(head.trim_start_matches(";; ->>HEADER<<- ").to_owned());
            } else if let Some(flags) = line.strip_prefix(";; flags: ") {
                lines.push(format!("flags: {flags}"));
            } else if line.starts_with("; EDNS") {
                lines.push(line.trim_start_matches("; ").to_owned());
            } else if ["ANSWER", "AUTHORITY", "ADDITIONAL"]
                .iter()
                .any(|section| line == format!(";; {section} SECTION:"))
            {
                lines.push(line.trim_start_matches(";; ").to_owned());
            } else if !line.starts_with(';') || line.starts_with(";; Truncated") {
                lines.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
        lines.join("\n")
    }

    fn short(&self, arguments: &str) -> String {
        self.dig(&format!("+short {arguments}"))
    }

    fn ask(&self, packet: &[u8]) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(packet, self.address).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server panicked");
        }
    }
}

/// Another name server: answers `www.example.org` with an alias and an address, says
/// nothing to `silent.example.org`, and that there is no other name.
fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::bind(address).unwrap();
    // The threads end with the test's process.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            if let Some(mut reply) = upstream_reply(&buffer[..length]) {
                if reply.queries[0].name().to_string().starts_with("large.") {
                    reply.answers.clear();
                    reply.metadata.truncation = true;
                }
                socket.send_to(&reply.to_vec().unwrap(), from).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let query = read_framed(&mut stream);
                match upstream_reply(&query) {
                    Some(reply) => write_framed(&mut stream, &reply.to_vec().unwrap()),
                    // Silent until the client gives up.
                    None => drop(stream.read(&mut [0])),
                }
            });
        }
    });
    address
}

fn upstream_reply(query: &[u8]) -> Option<Message> {
    let query = Message::from_vec(query).unwrap();
    let question = query.queries[0].clone();
    let mut reply = Message::new(
        query.metadata.id,
        MessageType::Response,
        query.metadata.op_code,
    );
    reply.metadata.recursion_available = true;
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    let owner = question.name().clone();
    let text = owner.to_lowercase().to_string();
    reply.add_query(question);
    let address = |owner: &Name, last: u8| {
        Record::from_rdata(owner.clone(), 60, RData::A(A::new(192, 0, 2, last)))
    };
    if text == "www.example.org." {
        let target = Name::from_ascii("web.example.org.").unwrap();
        reply.add_answer(Record::from_rdata(
            owner,
            60,
            RData::CNAME(CNAME(target.clone())),
        ));
        reply.add_answer(address(&target, 80));
    } else if text.starts_with("large.") {
        for last in 0..200 {
            reply.add_answer(address(&owner, last));
        }
    } else if text.starts_with("silent.") {
        return None;
    } else {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    Some(reply)
}

fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, message].concat()).unwrap();
}

#[test]
fn an_address_is_answered_in_the_clients_spelling() {
    let server = Running::in_sync(vec![]);
    assert_eq!(
        server.dig("HeLLo.default.svc.cluster.local A"),
        "opcode: QUERY, status: NOERROR\n\
         flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1\n\
         EDNS: version: 0, flags:; udp: 1232\n\
         ANSWER SECTION:\n\
         HeLLo.default.svc.cluster.local. 5 IN A 10.96.0.7"
    );
    assert_eq!(
        server.short("hello.default.svc.cluster.local AAAA"),
        "fd00:10:96::7"
    );
}

#[test]
fn services_come_with_their_addresses() {
    let server = Running::in_sync(vec![]);
    assert_eq!(
        server.dig("_http._tcp.hello.default.svc.cluster.local SRV +noedns"),
        "opcode: QUERY, status: NOERROR\n\
         flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 2\n\
         ANSWER SECTION:\n\
         _http._tcp.hello.default.svc.cluster.local. 5 IN SRV 0 50 80 hello.default.svc.cluster.local.\n\
         ADDITIONAL SECTION:\n\
         hello.default.svc.cluster.local. 5 IN A 10.96.0.7\n\
         hello.default.svc.cluster.local. 5 IN AAAA fd00:10:96::7"
    );
}

#[test]
fn addresses_have_names_in_both_families() {
    let server = Running::in_sync(vec![]);
    assert_eq!(
        server.short("-x 10.96.0.7"),
        "hello.default.svc.cluster.local."
    );
    assert_eq!(
        server.short("-x fd00:10:96::7"),
        "hello.default.svc.cluster.local."
    );
}

#[test]
fn what_does_not_exist_comes_with_the_zones_soa() {
    let server = Running::in_sync(vec![]);
    let soa = "AUTHORITY SECTION:\n\
               cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1700000000 7200 1800 86400 5";
    let header = |status: &str| {
        format!(
            "opcode: QUERY, status: {status}\n\
             flags: qr aa rd; QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 0\n{soa}"
        )
    };
    let nxdomain = header("NXDOMAIN");
    let nodata = header("NOERROR");
    for (question, expected) in [
        ("nope.default.svc.cluster.local A", &nxdomain),
        ("hello.nope.svc.cluster.local A", &nxdomain),
        ("nope.svc.cluster.local A", &nxdomain),
        ("_x._tcp.hello.default.svc.cluster.local SRV", &nxdomain),
        ("a.b.c.hello.default.svc.cluster.local A", &nxdomain),
        ("v4.default.svc.cluster.local AAAA", &nodata),
        ("hello.default.svc.cluster.local MX", &nodata),
        ("hello.default.svc.cluster.local TYPE65", &nodata),
        ("cluster.local A", &nodata),
        ("svc.cluster.local A", &nodata),
        ("default.svc.cluster.local A", &nodata),
        ("nowhere.default.svc.cluster.local A", &nodata),
        ("ring.default.svc.cluster.local A", &nodata),
        ("far.default.svc.cluster.local SRV", &nodata),
    ] {
        assert_eq!(
            &server.dig(&format!("{question} +noedns")),
            expected,
            "{question}"
        );
    }
}

#[test]
fn before_the_records_are_complete_a_missing_name_is_no_answer() {
    let server = Running::start("127.0.0.1:0", vec![]);
    let status = |question: &str| server.dig(question).lines().next().unwrap().to_owned();
    assert_eq!(
        status("nope.default.svc.cluster.local A"),
        "opcode: QUERY, status: SERVFAIL"
    );
    assert_eq!(
        status("hello.default.svc.cluster.local A"),
        "opcode: QUERY, status: NOERROR"
    );
    server.records.set_in_sync();
    assert_eq!(
        status("nope.default.svc.cluster.local A"),
        "opcode: QUERY, status: NXDOMAIN"
    );
}

#[test]
fn a_large_answer_is_cut_over_udp_and_whole_over_tcp() {
    let server = Running::in_sync(vec![]);
    let answers = |arguments: &str| {
        let text = server.dig(&format!("many.default.svc.cluster.local A {arguments}"));
        let count = text.lines().filter(|line| line.contains(" IN A ")).count();
        (text.contains("flags: qr aa tc rd"), count)
    };
    // (512 - 12 - 36) / 16 without EDNS; 11 bytes less with it, of 1232 at most.
    assert_eq!(answers("+noedns +ignore"), (true, 29));
    assert_eq!(answers("+bufsize=4096 +ignore"), (true, 73));
    assert_eq!(answers("+bufsize=600 +ignore"), (true, 33));
    assert_eq!(answers("+tcp"), (false, 100));
    // As clients do it: UDP, then TCP.
    assert_eq!(answers("+noedns"), (false, 100));
}

#[test]
fn several_addresses_take_turns() {
    let server = Running::in_sync(vec![]);
    let packet = encode_query(
        1,
        &WireName::parse("two.default.svc.cluster.local").unwrap(),
        RecordType::A,
    );
    let mut first = BTreeMap::new();
    for _ in 0..100 {
        let reply = server.ask(&packet);
        assert_eq!(reply.answers.len(), 2);
        *first.entry(reply.answers[0].data.to_string()).or_insert(0) += 1;
    }
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(first.values().all(|count| *count > 15), "{first:?}");
}

#[test]
fn what_the_server_does_not_do_it_refuses_by_the_right_code() {
    let server = Running::in_sync(vec![]);
    let status = |arguments: &str| server.dig(arguments).lines().next().unwrap().to_owned();
    assert_eq!(
        status("example.org A"),
        "opcode: QUERY, status: REFUSED",
        "no upstream"
    );
    assert_eq!(
        status("version.bind CH TXT"),
        "opcode: QUERY, status: REFUSED"
    );
    assert_eq!(
        status("hello.default.svc.cluster.local A +edns=1 +noednsneg"),
        "opcode: QUERY, status: BADVERS"
    );
    assert_eq!(
        status("hello.default.svc.cluster.local A +opcode=notify"),
        "opcode: NOTIFY, status: NOTIMP"
    );
    assert_eq!(
        status("hello.default.svc.cluster.local A +header-only"),
        "opcode: QUERY, status: FORMERR"
    );
    let packet = encode_query(
        1,
        &WireName::parse("cluster.local").unwrap(),
        RecordType::AXFR,
    );
    let transfer = server.ask(&packet);
    assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn the_apex_has_its_soa() {
    let server = Running::in_sync(vec![]);
    assert_eq!(
        server.dig("cluster.local SOA +noedns"),
        "opcode: QUERY, status: NOERROR\n\
         flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 0\n\
         ANSWER SECTION:\n\
         cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1700000000 7200 1800 86400 5"
    );
}

#[test]
fn pods_have_the_names_of_their_addresses() {
    let server = Running::in_sync(vec![]);
    assert_eq!(
        server.short("10-244-1-5.default.pod.cluster.local A"),
        "10.244.1.5"
    );
    assert_eq!(
        server.short("fd00-10-244--5.default.pod.cluster.local AAAA"),
        "fd00:10:244::5"
    );
    let status = |question: &str| server.dig(question).lines().next().unwrap().to_owned();
    for (question, expected) in [
        ("10-244-1-5.default.pod.cluster.local AAAA", "NOERROR"),
        ("default.pod.cluster.local A", "NOERROR"),
        ("nope.pod.cluster.local A", "NXDOMAIN"),
        ("10-244-1-5.nope.pod.cluster.local A", "NXDOMAIN"),
        ("10-244-1-500.default.pod.cluster.local A", "NXDOMAIN"),
        ("a.10-244-1-5.default.pod.cluster.local A", "NXDOMAIN"),
    ] {
        assert_eq!(
            status(question),
            format!("opcode: QUERY, status: {expected}"),
            "{question}"
        );
    }
}

#[test]
fn aliases_are_followed_inside_and_outside_of_the_cluster() {
    let server = Running::in_sync(vec![upstream()]);
    assert_eq!(
        server.short("near.default.svc.cluster.local A"),
        "hello.default.svc.cluster.local.\n10.96.0.7"
    );
    assert_eq!(
        server.short("far.default.svc.cluster.local CNAME"),
        "www.example.org."
    );
    assert_eq!(
        server.dig("far.default.svc.cluster.local A +noedns"),
        "opcode: QUERY, status: NOERROR\n\
         flags: qr aa rd; QUERY: 1, ANSWER: 3, AUTHORITY: 0, ADDITIONAL: 0\n\
         ANSWER SECTION:\n\
         far.default.svc.cluster.local. 5 IN CNAME www.example.org.\n\
         www.example.org. 60 IN CNAME web.example.org.\n\
         web.example.org. 60 IN A 192.0.2.80"
    );
}

#[test]
fn other_names_are_asked_elsewhere() {
    let dead: SocketAddr = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let server = Running::in_sync(vec![dead, upstream()]);
    assert_eq!(
        server.dig("WWW.example.org A"),
        "opcode: QUERY, status: NOERROR\n\
         flags: qr rd ra; QUERY: 1, ANSWER: 2, AUTHORITY: 0, ADDITIONAL: 0\n\
         ANSWER SECTION:\n\
         WWW.example.org. 60 IN CNAME web.example.org.\n\
         web.example.org. 60 IN A 192.0.2.80"
    );
    assert_eq!(
        server.short("www.example.org A +tcp"),
        "web.example.org.\n192.0.2.80"
    );
    // An address that is not the cluster's.
    let reply = server.dig("-x 192.0.2.1");
    assert!(
        reply.contains("NXDOMAIN") && reply.contains(" ra;"),
        "{reply}"
    );
    // Cut by the upstream server; dig comes again over TCP, and so do we.
    let large = server.short("large.example.org A");
    assert_eq!(large.lines().count(), 200, "{large}");
}

#[test]
fn an_upstream_that_says_nothing_ends_in_servfail() {
    let server = Running::in_sync(vec![upstream()]);
    let begin = Instant::now();
    let reply = server.dig("silent.example.org A");
    assert!(reply.contains("SERVFAIL"), "{reply}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn garbage_is_survived_and_the_next_query_answered() {
    let server = Running::in_sync(vec![]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut seed = 1u64;
    for length in 0..600 {
        let garbage: Vec<u8> = (0..length % 97)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        socket.send_to(&garbage, server.address).unwrap();
    }
    socket.send_to(&vec![0; 9000], server.address).unwrap();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(&[0, 3, 1, 2, 3]).unwrap();
    assert_eq!(
        server.short("hello.default.svc.cluster.local A"),
        "10.96.0.7"
    );
    assert_eq!(
        server.short("hello.default.svc.cluster.local A +tcp"),
        "10.96.0.7"
    );
}

#[test]
fn queries_on_one_connection_do_not_wait_for_each_other() {
    let server = Running::in_sync(vec![upstream()]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let query =
        |id: u16, name: &str| encode_query(id, &WireName::parse(name).unwrap(), RecordType::A);
    write_framed(&mut stream, &query(1, "silent.example.org"));
    write_framed(&mut stream, &query(2, "hello.default.svc.cluster.local"));
    write_framed(&mut stream, &query(3, "www.example.org"));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let reply = Message::from_vec(&read_framed(&mut stream)).unwrap();
        ids.push(reply.metadata.id);
    }
    assert_eq!(ids, [2, 3, 1]);
}

#[test]
fn one_listener_serves_both_families() {
    let server = Running::start(":0", vec![]);
    for address in ["127.0.0.1", "127.0.0.9", "::1"] {
        for transport in ["+notcp", "+tcp"] {
            assert_eq!(
                server.dig_at(
                    address,
                    &format!("+short hello.default.svc.cluster.local A {transport}")
                ),
                "10.96.0.7",
                "{address} {transport}"
            );
        }
    }
}

#[test]
fn a_changed_name_is_answered_at_once_and_others_stay() {
    let server = Running::in_sync(vec![]);
    let hello = name("hello.default.svc.cluster.local");
    let mut changed = NameRecords::empty(5);
    changed.addresses = addresses(&["10.96.0.99"]);
    server.records.set(&hello, Some(&changed)).unwrap();
    assert_eq!(
        server.short("hello.default.svc.cluster.local A"),
        "10.96.0.99"
    );
    server.records.set(&hello, None).unwrap();
    assert!(
        server
            .dig("hello.default.svc.cluster.local A")
            .contains("NXDOMAIN")
    );
    assert_eq!(server.short("v4.default.svc.cluster.local A"), "10.96.0.8");
}

#[test]
fn a_port_in_use_is_said_so() {
    let server = Running::start("127.0.0.1:0", vec![]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let settings = Settings {
        listen: vec![ListenAddress::One(server.address)],
        share_port: false,
        threads: 1,
        upstreams: vec![],
        pod_names: PodNames::Disabled,
        lameduck: Duration::ZERO,
    };
    let error = Server::bind(&settings, server.records.clone()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&server.address.to_string()) && text.contains("another server has the port"),
        "{text}"
    );
}
