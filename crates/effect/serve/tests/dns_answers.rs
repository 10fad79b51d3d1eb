//! The answers to a scenario's questions, from the cluster's model to what `dig` prints.
//!
//! `scenarios/NAME/questions.txt` has the questions, `expected/answers.txt` the answers.
//! `UPDATE=1 cargo test -p weft-serve --test dns_answers` writes them; a person reads
//! the difference.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::oneshot;
use weft_compile::{DnsCompiler, DnsSettings};
use weft_desired::DomainName;
use weft_model::{Change, EndpointSlice, Object, Service};
use weft_serve::ListenAddress;
use weft_serve::dns::{PodNames, Records, Server, Settings};

#[derive(Deserialize)]
struct Scenario {
    #[serde(default)]
    services: Vec<Service>,
    #[serde(default)]
    slices: Vec<EndpointSlice>,
}

impl Scenario {
    fn changes(self) -> Vec<Change> {
        let namespaces: Vec<Object> = self
            .services
            .iter()
            .map(|service| Object::Namespace(service.key.namespace.clone()))
            .collect();
        namespaces
            .into_iter()
            .chain(self.services.into_iter().map(Object::Service))
            .chain(self.slices.into_iter().map(Object::EndpointSlice))
            .map(Change::Put)
            .collect()
    }
}

#[test]
fn every_shape_of_service_is_answered_as_expected() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../scenarios/dns");
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let scenario: Scenario = serde_norway::from_str(&read("cluster.yaml")).unwrap();
    let found = answers(scenario, &read("questions.txt"));
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(directory.join("expected")).unwrap();
        fs::write(directory.join("expected/answers.txt"), found).unwrap();
        return;
    }
    let expected = read("expected/answers.txt");
    for (found, expected) in found.split("\n\n").zip(expected.split("\n\n")) {
        assert_eq!(found, expected);
    }
    assert_eq!(found, expected);
}

fn answers(scenario: Scenario, questions: &str) -> String {
    let zone = DomainName::parse("cluster.local").unwrap();
    let mut compiler = DnsCompiler::new(DnsSettings {
        zone: zone.clone(),
        ttl: 5,
        own_addresses: ["10.244.0.2".parse().unwrap()].into(),
    });
    for change in scenario.changes() {
        compiler.apply(change);
    }
    let records = Arc::new(Records::new(&zone, 5).unwrap());
    for (name, entry) in compiler.table() {
        records.set(&name, Some(&entry.value)).unwrap();
    }
    records.set_serial(1_700_000_000);
    records.set_in_sync();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let settings = Settings {
        listen: vec!["127.0.0.1:0".parse::<ListenAddress>().unwrap()],
        share_port: false,
        threads: 1,
        upstreams: vec![],
        pod_names: PodNames::Insecure,
        lameduck: Duration::ZERO,
    };
    let server = {
        let _guard = runtime.enter();
        Server::bind(&settings, records).unwrap()
    };
    let port = server.addresses()[0].port();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = runtime.spawn(server.run(async {
        let _ = stopped.await;
    }));
    let mut out = String::new();
    for line in questions.lines() {
        if line.starts_with('#') {
            let _ = writeln!(out, "{line}\n");
        } else {
            let _ = writeln!(out, "{line}\n{}\n", dig(port, line));
        }
    }
    drop(stop);
    runtime.block_on(running).unwrap().unwrap();
    out
}

/// Status, flags, and the records of each section in an order of their own: which comes
/// first changes from answer to answer.
fn dig(port: u16, question: &str) -> String {
    let output = Command::new("dig")
        .args(["@127.0.0.1", "-p", &port.to_string()])
        .args(["+tries=1", "+time=5", "+noedns", "+notcp"])
        .args(question.split_whitespace())
        .output()
        .expect("dig is installed (Debian: bind9-dnsutils)");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut out = Vec::new();
    let mut section = String::new();
    let mut records: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some((_, status)) = line.split_once("status: ") {
            let status = status.split(',').next().unwrap_or_default();
            out.push(status.to_owned());
        } else if let Some(flags) = line.strip_prefix(";; flags: ") {
            let flags = flags.split(';').next().unwrap_or_default();
            let status = out.pop().unwrap_or_default();
            out.push(format!("  {status}, {flags}"));
        } else if let Some(name) = line.strip_suffix(" SECTION:") {
            name.trim_start_matches(";; ")
                .to_lowercase()
                .clone_into(&mut section);
        } else if !line.is_empty() && !line.starts_with(';') {
            let record: Vec<&str> = line.split_whitespace().collect();
            records.push(format!("  {section}: {}", record.join(" ")));
        }
    }
    if !records
        .first()
        .is_some_and(|record| record.contains(" CNAME "))
    {
        records.sort();
    }
    out.extend(records);
    out.join("\n")
}
