//! `weft service list`, `describe`, `stats`, `cleanup` and `render --mode nftables`: the binary
//! in network namespaces that hold what an agent, or kube-proxy, left there.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use weft_desired::{
    Backend, Entry, Frontend, FrontendKey, HashOf, LocalDetection, Masquerade, NodeNat, Origin,
    Otherwise, Outside, Protocol, Sharing, Table,
};
use weft_kernel::service::{self, IpFamily, ServiceTable};
use weft_netlab::Namespace;
use weft_sys::nft::Connection;

fn weft(node: &Namespace, arguments: &[&str]) -> Output {
    let mut command = node.command(env!("CARGO_BIN_EXE_weft")).unwrap();
    command.arg("service").args(arguments).output().unwrap()
}

#[track_caller]
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn complaint(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn frontend_key(address: &str, protocol: Protocol, port: u16) -> FrontendKey {
    FrontendKey {
        address: address.parse().unwrap(),
        protocol,
        port,
    }
}

fn backends(addresses: &[&str]) -> BTreeSet<Backend> {
    let backend = |address: &&str| Backend {
        address: address.parse().unwrap(),
        port: 8080,
    };
    addresses.iter().map(backend).collect()
}

/// Everything that a frontend can have, in both families.
fn frontends() -> Table<FrontendKey, Frontend> {
    let new = |label: &str, addresses: &[&str]| Frontend::new(label.into(), backends(addresses));
    let many: Vec<String> = (1..=11).map(|last| format!("10.244.7.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let node_port = Frontend {
        outside: Some(Outside {
            backends: Arc::new(backends(&["10.244.1.2"])),
            otherwise: Otherwise::Drop,
        }),
        sources: Some(Arc::new(
            ["192.0.2.0/24", "198.51.100.7/32"]
                .map(|range| range.parse().unwrap())
                .into(),
        )),
        affinity: Some(5400),
        masquerade: Masquerade::Node,
        exclusive: false,
        ..new("shop/web:http", &["10.244.1.2", "10.244.2.2"])
    };
    let elsewhere = Frontend {
        otherwise: Otherwise::Drop,
        exclusive: false,
        ..new("shop/elsewhere", &[])
    };
    let weighty = Frontend {
        sharing: Sharing {
            weights: Arc::new(
                backends(&["10.244.1.2"])
                    .into_iter()
                    .map(|it| (it, 3))
                    .collect(),
            ),
            hash: None,
        },
        ..new("shop/weighty:http", &["10.244.1.2", "10.244.2.2"])
    };
    let hashed = Frontend {
        sharing: Sharing {
            hash: Some(HashOf::FiveTuple),
            ..Sharing::default()
        },
        ..new(
            "shop/hashed:http",
            &["fd00:10:244:1::2", "fd00:10:244:2::2"],
        )
    };
    let all = [
        (("10.96.0.15", Protocol::Tcp, 80), weighty),
        (("fd00:10:96::15", Protocol::Tcp, 80), hashed),
        (
            ("10.96.0.12", Protocol::Tcp, 80),
            new("shop/web:http", &["10.244.1.2", "10.244.2.2"]),
        ),
        (
            ("10.96.0.10", Protocol::Udp, 53),
            new("kube-system/kube-dns:dns", &many),
        ),
        (("10.96.0.13", Protocol::Sctp, 99), new("shop/empty", &[])),
        (("172.30.0.11", Protocol::Tcp, 30080), node_port),
        (("203.0.113.8", Protocol::Tcp, 80), elsewhere),
        (
            ("fd00:10:96::12", Protocol::Tcp, 80),
            new("shop/web:http", &["fd00:10:244:1::2"]),
        ),
    ];
    let entry = |value| Entry {
        value,
        origin: Origin {
            kind: "Service",
            namespace: "shop".into(),
            name: "web".into(),
            generation: 1,
        },
    };
    all.into_iter()
        .map(|((address, protocol, port), it)| (frontend_key(address, protocol, port), entry(it)))
        .collect()
}

fn nat(local: LocalDetection) -> NodeNat {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    NodeNat {
        pod_ranges: nets(&["10.244.0.0/16", "fd00:10:244::/56"]),
        service_ranges: nets(&["10.96.0.0/12", "fd00:10:96::/112"]),
        node_addresses: ["172.30.0.11".parse().unwrap()].into(),
        own_addresses: ["172.30.0.11".parse().unwrap()].into(),
        local_pods: [("10.244.1.2".parse().unwrap(), "shop/web-0".into())].into(),
        local,
        ..NodeNat::default()
    }
}

fn pods() -> LocalDetection {
    let ranges = ["10.244.1.0/24", "fd00:10:244:1::/64"];
    LocalDetection::Ranges(ranges.map(|range| range.parse().unwrap()).into())
}

/// A node whose agent has written this, and still holds it as long as the table lives.
fn programmed(node: &Namespace) -> ServiceTable {
    let connection = Connection::in_namespace(node.as_fd()).unwrap();
    let mut table = ServiceTable::adopt(connection, &IpFamily::BOTH).unwrap();
    table.reconcile(&frontends(), &nat(pods())).unwrap();
    table
}

#[test]
fn what_the_kernel_has_is_listed_with_its_origin() {
    let node = Namespace::new("node").unwrap();
    let _running = programmed(&node);
    let listed = text(&weft(&node, &["list"]));
    let columns = |line: &str| {
        line.split("  ")
            .map(str::trim)
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    let rows: Vec<Vec<String>> = listed.lines().map(columns).collect();
    for expected in [
        [
            "kube-system/kube-dns:dns",
            "ClusterIP",
            "10.96.0.10:53/udp",
            "11",
            "-",
            "-",
            "0",
        ],
        [
            "shop/web:http",
            "NodePort",
            "172.30.0.11:30080/tcp",
            "2",
            "1",
            "5400s",
            "0",
        ],
        [
            "shop/hashed:http",
            "ClusterIP",
            "[fd00:10:96::15]:80/tcp",
            "2",
            "-",
            "-",
            "0",
        ],
        [
            "shop/empty",
            "ClusterIP",
            "10.96.0.13:99/sctp",
            "none: refused",
            "-",
            "-",
            "0",
        ],
        [
            "shop/elsewhere",
            "External",
            "203.0.113.8:80/tcp",
            "none: dropped",
            "-",
            "-",
            "0",
        ],
        [
            "shop/web:http",
            "ClusterIP",
            "[fd00:10:96::12]:80/tcp",
            "1",
            "-",
            "-",
            "0",
        ],
    ] {
        assert!(
            rows.iter().any(|row| row == &expected),
            "{expected:?} in\n{listed}"
        );
    }
    assert_eq!(rows.len(), 9, "{listed}");

    let described = text(&weft(&node, &["describe", "172.30.0.11:30080"]));
    for expected in [
        "Name:       web",
        "Namespace:  shop",
        "5400 s, 0 clients now",
        "192.0.2.0/24, 198.51.100.7/32",
        "1, this node's (externalTrafficPolicy Local)",
        "  0  10.244.1.2:8080",
        "  1  10.244.2.2:8080",
    ] {
        assert!(described.contains(expected), "{expected} in\n{described}");
    }
    let json = text(&weft(&node, &["describe", "shop/web", "-o", "json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3, "{json}");
    assert_eq!(json[0]["endpoints"][1]["address"], "10.244.2.2", "{json}");
    assert_eq!(json[0]["mode"], "nftables");
    let weighty = text(&weft(&node, &["describe", "weighty"]));
    let shares = "Endpoints:      2\n   75.0 %  10.244.1.2:8080\n   25.0 %  10.244.2.2:8080\n";
    assert!(weighty.ends_with(shares), "{weighty}");
    let hashed = text(&weft(&node, &["describe", "hashed"]));
    assert!(
        hashed.contains("Chosen:         by a hash of both ends"),
        "{hashed}"
    );
    assert_eq!(hashed.matches(" %  [fd00:10:244:").count(), 2, "{hashed}");
    let json = text(&weft(&node, &["describe", "hashed", "-o", "json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["hash"], "five-tuple", "{json}");
    let slots = json[0]["endpoints"].as_array().unwrap().iter();
    let slots: Vec<u64> = slots.map(|it| it["slots"].as_u64().unwrap()).collect();
    assert_eq!((slots.len(), slots.iter().sum()), (2, 1021), "{json}");
    let stats = text(&weft(&node, &["stats", "kube-dns", "-o", "json"]));
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["services"][0]["connections"], 0, "{stats}");

    let said = complaint(&weft(&node, &["describe", "nobody/knows"]), 5);
    assert!(said.contains("nobody/knows"), "{said}");
    complaint(&weft(&node, &["describe", "a/b/c"]), 2);
    let empty = Namespace::new("empty").unwrap();
    let said = complaint(&weft(&empty, &["list"]), 5);
    assert!(
        said.contains("no agent has programmed Services here"),
        "{said}"
    );
}

/// Gives a namespace the rules that a real kube-proxy wrote.
fn restore(node: &Namespace, recorded: &str) {
    let text = std::fs::read_to_string(folder().join("recorded").join(recorded)).unwrap();
    let (v4, _) = text.split_once("# ip6tables-save\n").unwrap();
    let mut command = node.command("iptables-nft-restore").unwrap();
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, v4.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kube-proxy")
}

#[test]
fn rules_of_kube_proxy_are_listed_too() {
    let node = Namespace::new("node").unwrap();
    restore(&node, "published.1.23");
    let listed = text(&weft(&node, &["list", "nginx-basic", "-o", "json"]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let cluster = listed["frontends"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["kind"] == "ClusterIP")
        .unwrap_or_else(|| panic!("{listed}"));
    assert_eq!(cluster["mode"], "iptables");
    assert_eq!(cluster["portName"], "http");
    let addresses: BTreeSet<&str> = cluster["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["address"].as_str().unwrap())
        .collect();
    assert!(addresses.contains("192.168.185.13"), "{listed}");
}

#[test]
fn cleanup_leaves_nothing_of_ours_and_nothing_of_others_alone() {
    let node = Namespace::new("node").unwrap();
    let lock = tempfile::tempdir().unwrap();
    let lock = lock.path().join("agent.lock");
    let lock = lock.to_str().unwrap();
    let cleanup = |more: &[&str]| weft(&node, &[&["cleanup", "--lock", lock], more].concat());
    let running = programmed(&node);
    node.output("nft", ["add", "table", "ip", "somebodys"])
        .unwrap();
    node.output("nft", ["add", "table", "ip", "weft-host-ports"])
        .unwrap();
    node.output("nft", ["add", "table", "ip6", "kube-proxy"])
        .unwrap();
    restore(&node, "published.1.23");
    let tables = || node.output("nft", ["list", "tables"]).unwrap();
    let before = tables();

    // An agent of another mount namespace has another lock, and the same table.
    let said = complaint(&cleanup(&[]), 4);
    assert!(said.contains("belongs to another running agent"), "{said}");
    let held = std::fs::File::options().write(true).open(lock).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let said = complaint(&cleanup(&[]), 4);
    assert!(said.contains("agent.lock"), "{said}");
    let would = text(&cleanup(&["--dry-run"]));
    assert!(
        would.contains("would remove nf_tables table ip6 weft\n"),
        "{would}"
    );
    assert!(!would.contains("kube-proxy"), "{would}");
    assert_eq!(tables(), before);
    drop(held);
    drop(running);

    let removed = text(&cleanup(&[]));
    assert_eq!(
        removed,
        "removed nf_tables table ip weft\nremoved nf_tables table ip6 weft\n"
    );
    let left = tables();
    assert!(!left.lines().any(|line| line.ends_with(" weft")), "{left}");
    for kept in ["somebodys", "weft-host-ports", "ip6 kube-proxy", "ip nat"] {
        assert!(left.contains(kept), "{kept} in {left}");
    }
    let saved = || node.output("iptables-nft-save", [] as [&str; 0]).unwrap();
    assert!(
        saved().contains("KUBE-SERVICES"),
        "kube-proxy's are not ours"
    );
    let again = cleanup(&[]);
    assert_eq!(text(&again), "");
    assert!(complaint(&again, 0).contains("nothing to remove"));

    let removed = text(&cleanup(&["--kube-proxy", "-o", "json"]));
    let removed: Value = serde_json::from_str(&removed).unwrap();
    assert_eq!(removed["removed"].as_array().unwrap().len(), 2, "{removed}");
    for gone in ["KUBE-SERVICES", "KUBE-SVC", "KUBE-SEP", "KUBE-MARK-MASQ"] {
        assert!(!saved().contains(gone), "{gone} in {}", saved());
    }
    let left = tables();
    assert!(
        left.contains("somebodys") && !left.contains("kube-proxy"),
        "{left}"
    );
}

#[test]
fn what_nobody_reads_ends_and_what_is_lost_is_told() {
    let node = Namespace::new("node").unwrap();
    let _running = programmed(&node);
    let run = |arguments: &[&str], out: Stdio| {
        let mut command = node.command(env!("CARGO_BIN_EXE_weft")).unwrap();
        command.arg("service").args(arguments);
        let mut child = command.stdout(out).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        child.wait_with_output().unwrap()
    };
    complaint(&run(&["stats", "--watch=1"], Stdio::piped()), 0);
    for arguments in [["stats", "-o", "json"], ["list", "-o", "json"]] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let said = complaint(&run(&arguments, full.into()), 1);
        assert!(said.contains("standard output: No space left"), "{said}");
    }
}

#[test]
fn a_running_kube_proxys_chains_are_not_taken_for_wefts() {
    let node = Namespace::new("node").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("agent.lock");
    let cleanup = || weft(&node, &["cleanup", "--lock", lock.to_str().unwrap()]);
    restore(&node, "published.1.23");
    // What weft's mode iptables left, before kube-proxy came back.
    let run = |arguments: &[&str]| node.output("iptables-nft", arguments).unwrap();
    run(&["-t", "mangle", "-N", "WEFT-SERVICES"]);
    let program = folder.path().join("kube-proxy");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let mut kube_proxy = node.command(&program).unwrap().arg("1000").spawn().unwrap();
    let refused = cleanup();
    kube_proxy.kill().unwrap();
    kube_proxy.wait().unwrap();
    let said = complaint(&refused, 4);
    assert!(said.contains("kube-proxy runs"), "{said}");
    let saved = || node.output("iptables-nft-save", [] as [&str; 0]).unwrap();
    assert!(saved().contains("KUBE-SERVICES"));
    text(&cleanup());
    assert!(!saved().contains("KUBE-SERVICES"), "{}", saved());
}

/// A listing by set and chain: its lines, elements one by one and in any order, without what
/// packets count and without what belongs to the process that made it.
fn blocks(listing: &str) -> BTreeMap<String, Vec<String>> {
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = "table".to_owned();
    let mut elements: Option<Vec<String>> = None;
    for line in listing.lines() {
        let line = line.trim().split(" # ").next().unwrap();
        if line.is_empty() || line.starts_with("flags owner") {
            continue;
        }
        if let ["set" | "map" | "chain" | "table", ..] =
            line.split(' ').collect::<Vec<_>>().as_slice()
        {
            name = line.to_owned();
        }
        let starts = line.strip_prefix("elements = { ");
        if starts.is_some() {
            elements = Some(Vec::new());
        }
        let Some(found) = &mut elements else {
            blocks
                .entry(name.clone())
                .or_default()
                .push(line.to_owned());
            continue;
        };
        let line = starts.unwrap_or(line);
        let (line, ends) = match line.strip_suffix(" }") {
            Some(line) => (line, true),
            None => (line, false),
        };
        let line = line.trim_end_matches(',');
        found.extend(line.split(", ").map(str::to_owned));
        if ends {
            let mut found = elements.take().unwrap_or_default();
            found.sort();
            blocks.entry(name.clone()).or_default().extend(found);
        }
    }
    blocks
}

#[test]
fn what_is_rendered_is_what_nft_lists_once_it_is_loaded() {
    for (local, traffic) in [
        (pods(), false),
        (LocalDetection::Bridge("cni0".into()), true),
        (LocalDetection::InterfacePrefix("veth".into()), false),
        (LocalDetection::Nothing, false),
    ] {
        let node = Namespace::new("node").unwrap();
        let nat = nat(local);
        let connection = Connection::in_namespace(node.as_fd()).unwrap();
        let mut table = ServiceTable::adopt(connection, &IpFamily::BOTH).unwrap();
        table.count_traffic(traffic);
        table.reconcile(&frontends(), &nat).unwrap();
        for family in IpFamily::BOTH {
            let rendered = blocks(&service::render(family, &frontends(), &nat, traffic).text());
            let name = family.table().to_string();
            let words: Vec<&str> = name.split(' ').collect();
            let listed = node
                .output("nft", [&["list", "table"], &words[..]].concat())
                .unwrap();
            let listed = blocks(&listed);
            assert!(listed.len() > 100, "{listed:#?}");
            let names: BTreeSet<&String> = rendered.keys().chain(listed.keys()).collect();
            let different: Vec<_> = names
                .into_iter()
                .map(|name| (rendered.get(name), listed.get(name)))
                .filter(|(rendered, listed)| rendered != listed)
                .collect();
            assert!(different.is_empty(), "{:?}: {different:#?}", nat.local);
        }
    }
}

#[test]
fn manifests_become_tables_with_no_cluster_and_no_rights() {
    let scene = folder().join("scenes/published.yaml");
    let render = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["service", "render", "--mode", "nftables", "--from"])
            .arg(&scene)
            .args(more)
            .output()
            .unwrap();
        text(&output)
    };
    let rendered = render(&["--service-cidr", "10.96.0.0/12"]);
    assert!(rendered.starts_with("table ip weft {\n"), "{rendered}");
    for expected in [
        "comment \"default/nginx-basic:http\" : 192.168.185.13 . 80",
        "elements = { 10.96.0.0/12 }",
        "ip daddr . meta l4proto . th dport @frontends goto pick",
    ] {
        assert!(rendered.contains(expected), "{expected} in\n{rendered}");
    }
    let json: Value = serde_json::from_str(&render(&["-o", "json"])).unwrap();
    assert_eq!(json[0]["table"], "ip weft");
    assert_eq!(
        json[0]["chains"]["outside"]["rules"][1],
        "ip daddr . meta l4proto . th dport @frontends goto local-pick"
    );
    assert!(
        !json[0]["sets"]["frontends"]["elements"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

/// A node with a Service of three endpoints by UDP and one by TCP.
const CLUSTER: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 172.30.0.11}]}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, uid: dns}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  selector: {k8s-app: kube-dns}
  ports:
  - {name: dns, port: 53, protocol: UDP, targetPort: 53}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, uid: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.12
  clusterIPs: [10.96.0.12]
  ipFamilies: [IPv4]
  selector: {app: web}
  ports:
  - {name: http, port: 80, protocol: TCP, targetPort: 8080, nodePort: 30080}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  {name: dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}]
endpoints:
- {addresses: [10.244.1.2], conditions: {ready: true}, nodeName: n1}
- {addresses: [10.244.1.3], conditions: {ready: true}, nodeName: n1}
- {addresses: [10.244.1.4], conditions: {ready: true}, nodeName: n1}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.1.5], conditions: {ready: true}, nodeName: n1}
- {addresses: [10.244.1.6], conditions: {ready: true}, nodeName: n1}
"#;

/// DNS loses its endpoints, the web one of two; what manifests leave out stays.
const CHANGES: &str = r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-1, namespace: kube-system}
endpoints: []
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop}
endpoints:
- {addresses: [10.244.1.6], conditions: {ready: true}, nodeName: n1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {sessionAffinity: None}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
"#;

#[test]
fn a_diff_is_what_leads_the_kernel_there_and_says_who_notices() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cluster, changes) = (file("cluster.yaml", CLUSTER), file("changes.yaml", CHANGES));
    // The state after, said in full.
    let gone = "- {addresses: [10.244.1.2], conditions: {ready: true}, nodeName: n1}\n\
                - {addresses: [10.244.1.3], conditions: {ready: true}, nodeName: n1}\n\
                - {addresses: [10.244.1.4], conditions: {ready: true}, nodeName: n1}\n";
    let web = "- {addresses: [10.244.1.5], conditions: {ready: true}, nodeName: n1}\n";
    assert!(CLUSTER.contains(gone) && CLUSTER.contains(web));
    let after = CLUSTER.replace(gone, "").replace(web, "");
    let after = file("after.yaml", &after);

    let node = Namespace::new("node").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = node.command(env!("CARGO_BIN_EXE_weft")).unwrap();
        command.args(arguments).output().unwrap()
    };
    let flags = ["--node", "n1", "--service-cidr", "10.96.0.0/12"];
    let render = |from: &str| {
        let first = ["service", "render", "--mode", "nftables", "--from", from];
        text(&run(&[&first[..], &flags].concat()))
    };
    let nft = |input: &str| {
        let mut command = node.command("nft").unwrap();
        let mut child = command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{input}");
    };
    // The rules are of no consequence, and nft can't read them all back.
    let sets = |listing: String| format!("{}}}\n", listing.split("\n\tchain ").next().unwrap());
    nft(&sets(render(&cluster)));
    let diff = |more: &[&str]| {
        let first = ["diff", "--from", &cluster];
        run(&[&first[..], &flags, more].concat())
    };
    let output = diff(&["-f", &changes, "-o", "json"]);
    let said = complaint(&output, 1);
    assert!(said.contains("ConfigMap: of no consequence"), "{said}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["tables"][0]["table"], "ip weft", "{json}");
    let operations = json["tables"][0]["operations"].as_array().unwrap();
    let operations: Vec<&str> = operations.iter().map(|it| it.as_str().unwrap()).collect();
    assert!(
        operations.contains(&"delete element ip weft size-3 { 10.96.0.10 . udp . 53 }"),
        "{operations:#?}"
    );
    nft(&operations.join("\n"));
    let listed = node.output("nft", ["list", "table", "ip", "weft"]).unwrap();
    let (listed, rendered) = (blocks(&listed), blocks(&sets(render(&after))));
    for (name, lines) in &rendered {
        assert_eq!(listed.get(name), Some(lines), "{name}");
    }

    let printed = diff(&["-f", &changes]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    for expected in [
        "pod any → 10.96.0.10:53/udp: forwarded to 3 endpoints → rejected (no endpoints)",
        "pod any → 10.96.0.12:80/tcp: forwarded to 2 endpoints → forwarded to 1 endpoint -10.244.1.5:8080",
        "outside → 172.30.0.11:30080/tcp: forwarded to 2 endpoints, with the node's address → forwarded to 1 endpoint, with the node's address -10.244.1.5:8080",
    ] {
        assert!(printed.contains(expected), "{expected} in\n{printed}");
    }
    let iptables = diff(&["-f", &changes, "--mode", "iptables"]);
    let iptables = String::from_utf8(iptables.stdout).unwrap();
    assert!(
        iptables.contains("kube-system/kube-dns:dns has no endpoints"),
        "{iptables}"
    );

    let none = diff(&["-f", &cluster]);
    assert_eq!(text(&none), "");
    complaint(&diff(&["-f", "/no/such/file"]), 5);
    let nowhere = ["diff", "-f", &changes, "--kubeconfig", "/no/such/config"];
    let code = run(&nowhere).status.code().unwrap();
    assert!(code > 1, "{code}");
}
