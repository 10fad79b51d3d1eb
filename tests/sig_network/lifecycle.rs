//! What the API does with Services and their endpoints; no packet is concerned.

use serde_json::{Value, json};

use super::{NFTABLES, STEADY, service};
use crate::lab::probe::{self, PORT};
use crate::lab::{Lab, eventually, expect};

fn lab() -> &'static Lab {
    &NFTABLES.lab
}

#[track_caller]
fn namespace(name: &str) -> [&str; 2] {
    lab().namespace(name);
    ["-n", name]
}

#[track_caller]
fn kubectl(of: [&str; 2], arguments: &[&str]) -> crate::lab::Ran {
    lab().kubectl(&[&of[..], arguments].concat())
}

#[test]
fn should_find_a_service_from_listing_all_namespaces() {
    let found = lab().field(
        &["services", "--all-namespaces"],
        "{.items[*].metadata.name}",
    );
    let found = found.unwrap();
    for name in ["kubernetes", "kube-dns"] {
        assert!(found.split(' ').any(|it| it == name), "{found}");
    }
}

#[test]
fn should_delete_a_collection_of_services() {
    let of = namespace("collection");
    let labelled = |name: &str, group: &str| {
        let mut one = service(name, &json!({}));
        one["metadata"]["labels"] = json!({"group": group});
        one
    };
    let all = [
        labelled("one", "gone"),
        labelled("two", "gone"),
        labelled("three", "kept"),
    ];
    NFTABLES.apply(of[1], &all);
    let uri = format!(
        "/api/v1/namespaces/{}/services?labelSelector=group%3Dgone",
        of[1]
    );
    lab().kubectl(&["delete", "--raw", &uri]).ok();
    let left = lab().field(
        &[&of[..], &["services"]].concat(),
        "{.items[*].metadata.name}",
    );
    assert_eq!(left.unwrap(), "three");
    eventually("their slices are gone", || {
        let slices = [&of[..], &["endpointslices"]].concat();
        let path = "{.items[*].metadata.labels['kubernetes\\.io/service-name']}";
        expect(lab().field(&slices, path)?, |names| {
            names.split(' ').all(|name| name == "three")
        })
    });
}

#[test]
fn should_complete_a_service_status_lifecycle() {
    let of = namespace("status");
    let watch =
        lab().kubectl_start(&[&of[..], &["get", "services", "--watch", "-o", "json"]].concat());
    NFTABLES.apply(
        of[1],
        &[service("watched", &json!({"type": "LoadBalancer"}))],
    );
    let status = json!({
        "metadata": {"annotations": {"patched": "true"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
    });
    let patch = |arguments: &[&str], what: &Value| {
        let what = what.to_string();
        let patch = ["patch", "service", "watched", "--type=merge", "-p", &what];
        kubectl(of, &[&patch[..], arguments].concat()).ok()
    };
    patch(&["--subresource=status"], &status);
    watch.line("the address", |line| line.contains("203.0.113.1"));
    let condition = json!({"status": {"conditions": [{
        "type": "StatusUpdate",
        "status": "True",
        "reason": "E2E",
        "message": "Set from an e2e test",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}});
    patch(&["--subresource=status"], &condition);
    let read = |path: &str| {
        lab().field(
            &[&of[..], &["service", "watched", "--subresource=status"]].concat(),
            path,
        )
    };
    assert_eq!(read("{.status.conditions[0].reason}").unwrap(), "E2E");
    assert_eq!(
        read("{.status.loadBalancer.ingress[0].ip}").unwrap(),
        "203.0.113.1"
    );
    // Without the subresource the status stays as it is.
    patch(
        &[],
        &json!({"metadata": {"labels": {"spec": "patched"}}, "status": {"loadBalancer": null}}),
    );
    assert_eq!(
        read("{.status.loadBalancer.ingress[0].ip}").unwrap(),
        "203.0.113.1"
    );
    assert_eq!(read("{.metadata.labels.spec}").unwrap(), "patched");
    kubectl(of, &["delete", "service", "watched"]).ok();
    kubectl(of, &["get", "service", "watched"]).refused();
}

#[test]
fn should_test_the_lifecycle_of_an_endpoint() {
    let of = namespace("endpoint");
    let endpoints = |address: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "written", "labels": {"written": "yes"}},
            "subsets": [{
                "addresses": [{"ip": address}],
                "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
            }],
        })
    };
    kubectl(of, &["create", "-f", "-", "--dry-run=client"]).refused();
    NFTABLES.apply(of[1], &[endpoints("192.0.2.24")]);
    let listed = || {
        let all = ["endpoints", "--all-namespaces", "-l", "written=yes"];
        lab().field(&all, "{.items[*].subsets[*].addresses[*].ip}")
    };
    assert_eq!(listed().unwrap(), "192.0.2.24");
    NFTABLES.apply(of[1], &[endpoints("192.0.2.25")]);
    assert_eq!(listed().unwrap(), "192.0.2.25");
    let patch = json!({"subsets": [{
        "addresses": [{"ip": "192.0.2.26"}],
        "ports": [{"name": "web-patched", "port": 8080, "protocol": "TCP"}],
    }]});
    let patch = patch.to_string();
    kubectl(of, &["patch", "endpoints", "written", "-p", &patch]).ok();
    assert_eq!(listed().unwrap(), "192.0.2.26");
    let uri = format!(
        "/api/v1/namespaces/{}/endpoints?labelSelector=written%3Dyes",
        of[1]
    );
    lab().kubectl(&["delete", "--raw", &uri]).ok();
    assert_eq!(listed().unwrap(), "");
}

fn node_port(name: &str, number: Option<u16>) -> Value {
    let mut port = json!({"name": "web", "port": 80, "targetPort": PORT, "protocol": "TCP"});
    if let Some(number) = number {
        port["nodePort"] = json!(number);
    }
    service(name, &json!({"type": "NodePort", "ports": [port]}))
}

#[test]
fn should_prevent_nodeport_collisions() {
    let of = namespace("collision");
    NFTABLES.apply(of[1], &[node_port("first", None)]);
    let taken = NFTABLES.node_port(of[1], "first", "web");
    let second = node_port("second", Some(taken)).to_string();
    let refused = lab().kubectl_apply(of[1], &second).refused();
    assert!(
        refused.contains("provided port is already allocated"),
        "{refused}"
    );
    kubectl(of, &["delete", "service", "first"]).ok();
    // What went is free for the next one.
    lab().apply(of[1], &second);
}

#[test]
fn should_check_nodeport_out_of_range() {
    let of = namespace("out-of-range");
    NFTABLES.apply(of[1], &[node_port("inside", None)]);
    for number in [1, 29_999, 32_768] {
        for name in ["inside", "outside"] {
            let wrong = node_port(name, Some(number)).to_string();
            let refused = lab().kubectl_apply(of[1], &wrong).refused();
            assert!(
                refused.contains("provided port is not in the valid range"),
                "{refused}"
            );
        }
    }
    kubectl(of, &["get", "service", "outside"]).refused();
}

#[test]
fn should_release_nodeports_on_delete() {
    let of = namespace("release");
    NFTABLES.apply(of[1], &[node_port("held", None)]);
    let number = NFTABLES.node_port(of[1], "held", "web");
    assert!((30_000..=32_767).contains(&number), "{number}");
    kubectl(of, &["delete", "service", "held"]).ok();
    NFTABLES.apply(of[1], &[node_port("again", Some(number))]);
    assert_eq!(NFTABLES.node_port(of[1], "again", "web"), number);
}

/// Which pods' addresses and ports a Service's Endpoints have, sorted.
fn subsets(of: [&str; 2], service: &str) -> Result<Vec<(String, u64)>, String> {
    let endpoints = [&["get", "-o", "json"], &of[..], &["endpoints", service]].concat();
    let endpoints: Value = serde_json::from_str(&lab().kubectl(&endpoints).result()?)
        .map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        for address in subset["addresses"].as_array().into_iter().flatten() {
            for port in subset["ports"].as_array().into_iter().flatten() {
                let pod = address["targetRef"]["name"].as_str().unwrap_or_default();
                found.push((pod.to_owned(), port["port"].as_u64().unwrap_or_default()));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[track_caller]
fn has_endpoints(of: [&str; 2], service: &str, wanted: &[(&str, u64)]) {
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(pod, port)| ((*pod).to_owned(), *port))
        .collect();
    eventually(&format!("{service} has {wanted:?}"), || {
        expect(subsets(of, service)?, |found| *found == wanted)
    });
}

#[test]
fn should_serve_a_basic_endpoint_from_pods() {
    let of = namespace("basic");
    let port = json!({"ports": [{"port": 80, "targetPort": PORT}]});
    NFTABLES.apply(of[1], &[service("basic", &port)]);
    has_endpoints(of, "basic", &[]);
    let number = u64::from(PORT);
    NFTABLES.servers(of[1], &[("one", "node-1")]);
    has_endpoints(of, "basic", &[("one", number)]);
    NFTABLES.servers(of[1], &[("two", "node-2")]);
    has_endpoints(of, "basic", &[("one", number), ("two", number)]);
    NFTABLES.delete(of[1], &["pod", "one"]);
    has_endpoints(of, "basic", &[("two", number)]);
    NFTABLES.delete(of[1], &["pod", "two"]);
    has_endpoints(of, "basic", &[]);
}

#[test]
fn should_serve_multiport_endpoints_from_pods() {
    let of = namespace("multiport");
    let ports = json!({"ports": [
        {"name": "first", "port": 80, "targetPort": "first"},
        {"name": "second", "port": 81, "targetPort": "second"},
    ]});
    NFTABLES.apply(of[1], &[service("multiport", &ports)]);
    let pod = |name: &str, port: &str, number: u16| {
        let mut pod = probe::pod(name, "node-1");
        let mut container = probe::container(&[number]);
        container["ports"] = json!([{"name": port, "containerPort": number}]);
        pod["spec"]["containers"] = json!([container]);
        pod
    };
    NFTABLES.apply(
        of[1],
        &[pod("one", "first", 7100), pod("two", "second", 7101)],
    );
    has_endpoints(of, "multiport", &[("one", 7100), ("two", 7101)]);
    NFTABLES.delete(of[1], &["pod", "one"]);
    has_endpoints(of, "multiport", &[("two", 7101)]);
    NFTABLES.delete(of[1], &["pod", "two"]);
    has_endpoints(of, "multiport", &[]);
}

/// An EndpointSlice written by hand mirrors nothing and is somebody's: the Service's slices keep
/// up with its pods beside it.
#[test]
fn should_create_endpoint_slices_for_pods_matching_a_service() {
    let of = ["-n", STEADY];
    NFTABLES.apply(STEADY, &[service("sliced", &json!({}))]);
    eventually("a slice of each family has both pods", || {
        let slices = [
            &of[..],
            &["endpointslices", "-l", "kubernetes.io/service-name=sliced"],
        ];
        let path = "{range .items[*]}{.addressType} {.endpoints[*].targetRef.name},{end}";
        let found = lab().field(&slices.concat(), path)?;
        let mut found: Vec<&str> = found.split_terminator(',').collect();
        found.sort_unstable();
        expect(found, |found| {
            let has = |slice: &&str| slice.contains(" a") && slice.contains(" b");
            found.len() == 2
                && found.iter().all(has)
                && found[0].starts_with("IPv4")
                && found[1].starts_with("IPv6")
        })
        .map(|_| ())
    });
}
