//! The scenarios in `scenarios/NAME/`: a cluster, and what each of its nodes must hold.
//!
//! `cluster.yaml` is the model; `expected/NODE.txt` the desired state of one node, and
//! `expected/NODE.events.txt` what each change of `events.yaml` makes different there.
//! `UPDATE=1 cargo test -p weft-compile --test scenarios` writes what is expected; a
//! person reads the difference.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use weft_compile::{Compiler, Settings, Touched};
use weft_desired::{Frontend, HealthCheck, Masquerade, Otherwise, Policy, ServicePort};
use weft_model::{Change, EndpointSlice, Key, Node, NodeName, Object, ObjectKey, Pod, Service};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    service_ranges: Vec<ipnet::IpNet>,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    pods: Vec<Pod>,
    #[serde(default)]
    services: Vec<Service>,
    #[serde(default)]
    slices: Vec<EndpointSlice>,
}

/// One line of `events.yaml`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Event {
    Node(Node),
    Pod(Pod),
    Service(Service),
    Slice(EndpointSlice),
    DeleteNode(NodeName),
    DeletePod(ObjectKey),
    DeleteService(ObjectKey),
    DeleteSlice(ObjectKey),
}

impl Event {
    fn change(self) -> Change {
        match self {
            Event::Node(node) => Change::Put(Object::Node(node)),
            Event::Pod(pod) => Change::Put(Object::Pod(pod)),
            Event::Service(service) => Change::Put(Object::Service(service)),
            Event::Slice(slice) => Change::Put(Object::EndpointSlice(slice)),
            Event::DeleteNode(name) => Change::Delete(Key::Node(name)),
            Event::DeletePod(key) => Change::Delete(Key::Pod(key)),
            Event::DeleteService(key) => Change::Delete(Key::Service(key)),
            Event::DeleteSlice(key) => Change::Delete(Key::EndpointSlice(key)),
        }
    }
}

impl Scenario {
    fn changes(&self) -> Vec<Change> {
        let objects = self.nodes.iter().cloned().map(Object::Node);
        objects
            .chain(self.pods.iter().cloned().map(Object::Pod))
            .chain(self.services.iter().cloned().map(Object::Service))
            .chain(self.slices.iter().cloned().map(Object::EndpointSlice))
            .map(Change::Put)
            .collect()
    }

    fn compiler(&self, node: &NodeName) -> Compiler {
        let mut compiler = Compiler::new(Settings {
            node: node.clone(),
            service_ranges: self.service_ranges.clone(),
            proxy: Default::default(),
            fabric: Default::default(),
        });
        let own = self.nodes.iter().find(|known| known.name == *node);
        let addresses = own.iter().flat_map(|node| &node.internal_ips);
        compiler.set_own_addresses(addresses.copied().collect());
        compiler
    }

    fn compiled(&self, node: &NodeName, changes: impl IntoIterator<Item = Change>) -> Compiler {
        let mut compiler = self.compiler(node);
        for change in changes {
            compiler.apply(change);
        }
        compiler
    }
}

/// The desired state as a person reads it.
fn text(compiler: &Compiler) -> String {
    let desired = compiler.desired();
    let mut out = String::new();
    out.push_str("frontends\n");
    for (key, entry) in &desired.frontends {
        let _ = writeln!(out, "  {key}  {}", frontend(&entry.value));
        let _ = writeln!(
            out,
            "    from {} ({})",
            entry.origin, entry.origin.generation
        );
        let sharing = &entry.value.sharing;
        for backend in entry.value.backends.iter() {
            let _ = match sharing.weights.get(backend) {
                Some(weight) => writeln!(out, "    {backend} weighs {weight}"),
                None => writeln!(out, "    {backend}"),
            };
        }
        if let Some(hash) = sharing.hash {
            let _ = writeln!(out, "    by hash: {hash:?}");
        }
        if let Some(outside) = &entry.value.outside {
            let texts: Vec<_> = outside.backends.iter().map(ToString::to_string).collect();
            let _ = match (texts.is_empty(), outside.otherwise) {
                (true, Otherwise::Refuse) => writeln!(out, "    outside: refused"),
                (true, Otherwise::Drop) => writeln!(out, "    outside: dropped"),
                (false, _) => writeln!(out, "    outside: {}", texts.join(" ")),
            };
        }
        if let Some(sources) = &entry.value.sources {
            let _ = writeln!(out, "    only for {}", sorted(sources).join(" "));
        }
        match entry.value.masquerade {
            Masquerade::Outside => {}
            Masquerade::All => out.push_str("    masqueraded\n"),
            Masquerade::Node => out.push_str("    the node masqueraded\n"),
        }
    }
    if desired.services.values().any(|it| is_unusual(&it.value)) {
        out.push_str("ports of Services\n");
    }
    for (key, entry) in &desired.services {
        if is_unusual(&entry.value) {
            let _ = writeln!(out, "  {key}  {}", port_text(&entry.value));
        }
    }
    if !desired.health_checks.is_empty() {
        out.push_str("health checks\n");
    }
    for (key, entry) in &desired.health_checks {
        let _ = writeln!(out, "  {key}  {}", health_check(&entry.value));
    }
    out.push_str("routes\n");
    for (key, entry) in &desired.routes {
        let _ = writeln!(
            out,
            "  {} {}  from {}",
            key.destination, entry.value.next_hop, entry.origin
        );
    }
    out.push_str("address translation\n");
    let nat = &desired.nat;
    for (what, lines) in [
        ("pods", sorted(&nat.pod_ranges)),
        ("services", sorted(&nat.service_ranges)),
        ("node", sorted(&nat.node_addresses)),
    ] {
        for line in lines {
            let _ = writeln!(out, "  {what} {line}");
        }
    }
    for (address, pod) in &nat.local_pods {
        let _ = writeln!(out, "  here {address} {pod}");
    }
    let problems = compiler.problems();
    if !problems.is_empty() {
        out.push_str("problems\n");
        for problem in problems {
            let _ = writeln!(out, "  {problem}");
        }
    }
    out
}

/// Whether there is more to a port than its frontend tells.
fn is_unusual(port: &ServicePort) -> bool {
    port.cluster_address.is_none() || port.is_external() || port.affinity.is_some()
}

fn port_text(port: &ServicePort) -> String {
    let mut words = Vec::new();
    match port.cluster_address {
        Some(address) => words.push(format!("{address} port {}", port.port)),
        None => words.push(format!("port {}", port.port)),
    }
    words.extend(port.node_port.map(|number| format!("node port {number}")));
    let list = |addresses: &[std::net::IpAddr]| -> String {
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        texts.join(" ")
    };
    if !port.external_addresses.is_empty() {
        words.push(format!("external {}", list(&port.external_addresses)));
    }
    if !port.load_balancer_addresses.is_empty() {
        let addresses = list(&port.load_balancer_addresses);
        words.push(format!("load balancer {addresses}"));
    }
    let ranges = port.source_ranges.iter();
    words.extend(ranges.map(|range| format!("for {range}")));
    if port.source_ranges_have_node {
        words.push("and the node".to_owned());
    }
    words.extend(
        port.health_check
            .map(|number| format!("health check {number}")),
    );
    words.extend(port.affinity.map(|seconds| format!("affinity {seconds} s")));
    for (policy, which) in [
        (port.internal_policy, "internal"),
        (port.external_policy, "external"),
    ] {
        if policy == Policy::Local {
            words.push(format!("{which} traffic local"));
        }
    }
    for (which, set) in [
        ("cluster", &port.endpoints.cluster),
        ("local", &port.endpoints.local),
        ("kept", &port.endpoints.kept),
    ] {
        let texts: Vec<_> = set.iter().map(ToString::to_string).collect();
        words.push(format!("{which} [{}]", texts.join(" ")));
    }
    words.join(", ")
}

fn sorted<T: ToString>(set: &BTreeSet<T>) -> Vec<String> {
    set.iter().map(T::to_string).collect()
}

fn frontend(frontend: &Frontend) -> String {
    match frontend.backends.len() {
        0 => match frontend.otherwise {
            Otherwise::Refuse => format!("{}, refused", frontend.label),
            Otherwise::Drop => format!("{}, dropped", frontend.label),
        },
        1 => format!("{}, 1 endpoint", frontend.label),
        count => format!("{}, {count} endpoints", frontend.label),
    }
}

/// Where a Service's health is asked for, and how many endpoints of each family are told.
fn health_check(check: &HealthCheck) -> String {
    let counts = &check.local_endpoints;
    let counts: Vec<_> = counts
        .iter()
        .map(|(family, count)| format!("{family} {count}"))
        .collect();
    format!("port {}, {}", check.port, counts.join(", "))
}

/// What a change made different, and what it is now.
fn touched_text(compiler: &Compiler, key: &Key, touched: &Touched) -> String {
    let desired = compiler.desired();
    let mut out = format!("{key}\n");
    for key in &touched.frontends {
        let now = match desired.frontends.get(key) {
            Some(entry) => frontend(&entry.value),
            None => "gone".to_owned(),
        };
        let _ = writeln!(out, "  frontend {key}  {now}");
    }
    for key in &touched.services {
        let now = match desired.services.get(key) {
            Some(entry) => port_text(&entry.value),
            None => "gone".to_owned(),
        };
        let _ = writeln!(out, "  port {key}  {now}");
    }
    for key in &touched.health_checks {
        let now = match desired.health_checks.get(key) {
            Some(entry) => health_check(&entry.value),
            None => "gone".to_owned(),
        };
        let _ = writeln!(out, "  health check {key}  {now}");
    }
    for key in &touched.routes {
        let now = match desired.routes.get(key) {
            Some(entry) => entry.value.next_hop.to_string(),
            None => "gone".to_owned(),
        };
        let _ = writeln!(out, "  route {} {now}", key.destination);
    }
    if touched.nat {
        out.push_str("  address translation\n");
    }
    if touched.own_node {
        out.push_str("  this node itself\n");
    }
    if touched.is_empty() {
        out.push_str("  nothing\n");
    }
    out
}

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../scenarios")
}

/// Compares with what is expected; a missing or other expectation is an error, unless
/// it is to be written.
fn check(path: &Path, found: &str, errors: &mut Vec<String>) {
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != found {
        let path = path.file_name().unwrap().to_string_lossy();
        errors.push(format!("{path} is\n{expected}and should be\n{found}"));
    }
}

fn run(directory: &Path) -> Vec<String> {
    let read = |name: &str| fs::read_to_string(directory.join(name));
    let scenario: Scenario = serde_norway::from_str(&read("cluster.yaml").unwrap())
        .unwrap_or_else(|error| panic!("{}: cluster.yaml: {error}", directory.display()));
    let events: Vec<Event> = match read("events.yaml") {
        Ok(events) => serde_norway::from_str(&events)
            .unwrap_or_else(|error| panic!("{}: events.yaml: {error}", directory.display())),
        Err(_) => Vec::new(),
    };
    let events: Vec<Change> = events.into_iter().map(Event::change).collect();
    let mut errors = Vec::new();
    let mut names: BTreeSet<NodeName> = scenario.nodes.iter().map(|n| n.name.clone()).collect();
    for event in &events {
        if let Change::Put(Object::Node(node)) = event {
            names.insert(node.name.clone());
        }
    }
    for node in &names {
        let start = scenario.changes();
        let mut compiler = scenario.compiled(node, start.clone());
        let expected = text(&compiler);
        check(
            &directory.join(format!("expected/{node}.txt")),
            &expected,
            &mut errors,
        );

        // Reversed, twice over, and all at once: the same state.
        let reversed = scenario.compiled(node, start.iter().rev().cloned());
        assert_eq!(text(&reversed), expected, "reversed");
        let gone = start.iter().map(|change| Change::Delete(change.key()));
        let twice = start.iter().cloned().chain(gone).chain(start.clone());
        assert_eq!(
            text(&scenario.compiled(node, twice)),
            expected,
            "made twice"
        );
        let mut merged = scenario.compiler(node);
        merged.apply_all(start.clone());
        assert_eq!(text(&merged), expected, "merged");

        if events.is_empty() {
            continue;
        }
        let mut told = String::new();
        for event in &events {
            let touched = compiler.apply(event.clone());
            told.push_str(&touched_text(&compiler, &event.key(), &touched));
        }
        let _ = write!(told, "\nafterwards\n{}", text(&compiler));
        check(
            &directory.join(format!("expected/{node}.events.txt")),
            &told,
            &mut errors,
        );
        merged.apply_all(events.clone());
        assert_eq!(text(&merged), text(&compiler), "events merged");
    }
    errors
}

#[test]
fn every_scenario_compiles_to_what_is_expected() {
    let mut errors = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(scenarios()).unwrap() {
        let directory = entry.unwrap().path();
        if directory.join("cluster.yaml").exists() {
            count += 1;
            let name = directory
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            errors.extend(run(&directory).into_iter().map(|e| format!("{name}/{e}")));
        }
    }
    assert!(count >= 6, "only {count} scenarios");
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}
