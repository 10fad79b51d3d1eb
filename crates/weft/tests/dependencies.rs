//! The house's dependency table, asserted: each boundary between crates forbids something.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// What each crate may depend on inside the workspace. Tests may depend on more.
const TABLE: &[(&str, &[&str])] = &[
    ("weft-model", &[]),
    ("weft-desired", &[]),
    ("weft-proto", &[]),
    ("weft-kinds", &[]),
    ("weft-sys", &[]),
    ("weft-compile", &["weft-model", "weft-desired"]),
    ("weft-iptables", &["weft-desired"]),
    ("weft-oracle", &["weft-model"]),
    ("weft-kube", &["weft-model"]),
    (
        "weft-kernel",
        &["weft-desired", "weft-iptables", "weft-sys"],
    ),
    ("weft-nodestate", &["weft-proto"]),
    ("weft-runtime", &["weft-proto"]),
    // The plugin: started for every pod, so that it has little with it.
    (
        "weft-cni",
        &[
            "weft-model",
            "weft-desired",
            "weft-compile",
            "weft-proto",
            "weft-sys",
            "weft-kernel",
            "weft-nodestate",
        ],
    ),
    ("weft-etcd", &["weft-proto"]),
    ("weft-serve", &["weft-desired", "weft-proto", "weft-sys"]),
    ("weft-apiserver", &[]),
    ("weft-netlab", &["weft-sys"]),
    (
        "weft-cluster",
        &[
            "weft-model",
            "weft-kinds",
            "weft-compile",
            "weft-proto",
            "weft-kube",
            "weft-apiserver",
            "weft-netlab",
        ],
    ),
    // Drives the binary from outside; not a part of it.
    (
        "weft-bench",
        &[
            "weft-model",
            "weft-desired",
            "weft-compile",
            "weft-iptables",
            "weft-serve",
            "weft-sys",
            "weft-kernel",
            "weft-kube",
            "weft-netlab",
        ],
    ),
];

/// The binary wires everything.
const BINARY: &str = "weft";

const PURE: &[&str] = &[
    "weft-model",
    "weft-kinds",
    "weft-desired",
    "weft-compile",
    "weft-iptables",
    "weft-oracle",
    "weft-proto",
];

/// What a crate without I/O has no use for.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "hyper",
    "kube",
    "kube-client",
    "libc",
    "rustix",
    "nix",
    "netlink-sys",
    "netlink-packet-route",
    "async-io",
    "reqwest",
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .exec()
        .unwrap()
}

#[test]
fn crates_depend_on_what_the_table_allows() {
    let metadata = metadata();
    let table: BTreeMap<&str, BTreeSet<&str>> = TABLE
        .iter()
        .map(|(name, allowed)| (*name, allowed.iter().copied().collect()))
        .collect();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        if package.name.as_str() == BINARY {
            continue;
        }
        let Some(allowed) = table.get(package.name.as_str()) else {
            wrong.push(format!("{} is not in the table", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let inside = dependency.path.is_some();
            if inside
                && dependency.kind == DependencyKind::Normal
                && !allowed.contains(dependency.name.as_str())
            {
                wrong.push(format!("{} depends on {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_crates_reach_nothing_that_does_io() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().unwrap();
    let edges: BTreeMap<&PackageId, Vec<&PackageId>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node
                .deps
                .iter()
                .filter(|dependency| {
                    dependency.dep_kinds.iter().any(|kind| {
                        kind.kind == DependencyKind::Normal && linux(kind.target.as_ref())
                    })
                })
                .map(|dependency| &dependency.pkg)
                .collect();
            (&node.id, normal)
        })
        .collect();
    let name_of: BTreeMap<&PackageId, &str> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package.name.as_str()))
        .collect();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        if !PURE.contains(&package.name.as_str()) {
            continue;
        }
        let mut seen = BTreeSet::new();
        let mut open = vec![&package.id];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(edges[id].iter().copied());
            }
        }
        for name in seen.iter().map(|id| name_of[*id]) {
            if IMPURE.contains(&name) {
                wrong.push(format!("{} reaches {name}", package.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a target-specific dependency can apply on Linux, judged by its text.
fn linux(target: Option<&cargo_metadata::cargo_platform::Platform>) -> bool {
    target.is_none_or(|target| {
        let text = target.to_string();
        !["windows", "wasm", "macos", "redox", "hermit"]
            .iter()
            .any(|other| text.contains(other))
    })
}
