//! What load balancers are told of nodes (upstream's e2e tests "[sig-network] LoadBalancers
//! ExternalTrafficPolicy: Local should only target nodes with endpoints" and "[sig-network]
//! Services should implement NodePort and HealthCheckNodePort correctly when
//! ExternalTrafficPolicy changes"), and what Prometheus is.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::lab::probe;
use crate::lab::{Lab, eventually, expect};

const NODES: [&str; 2] = ["node-1", "node-2"];

fn service(policy: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": policy,
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"serves": "probes"},
            // Two ports of one endpoint are one endpoint.
            "ports": [
                {"name": "tcp", "port": probe::PORT, "protocol": "TCP"},
                {"name": "udp", "port": probe::PORT, "protocol": "UDP"},
            ],
        },
    })
    .to_string()
}

/// An answer: its status, its headers, what it says.
struct Told {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

/// Asks by curl from somewhere; the error is curl's.
fn ask(lab: &Lab, from: &str, address: &str, port: &str, path: &str) -> Result<Told, String> {
    let host = match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    };
    let url = format!("http://{host}:{port}{path}");
    let said = lab.exec(from, &["curl", "-sS", "-g", "-i", "--max-time", "5", &url]);
    let said = said.result()?.replace("\r\n", "\n");
    let (head, body) = said.split_once("\n\n").ok_or("no end of the head")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    Ok(Told {
        status: status.and_then(|it| it.parse().ok()).ok_or("no status")?,
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    })
}

/// What a node tells at each of its addresses: status, and endpoints in the head and the body.
fn endpoints(lab: &Lab, node: &str, port: &str) -> Result<Vec<(u16, u64)>, String> {
    let of_one = |address: &String| {
        let told = ask(lab, "outside", address, port, "/healthz")?;
        let body: Value = serde_json::from_str(&told.body).map_err(|error| error.to_string())?;
        let service = json!({"namespace": "default", "name": "web"});
        if body["service"] != service || body["serviceProxyHealthy"] != true {
            return Err(told.body);
        }
        let weight = &told.headers["x-load-balancing-endpoint-weight"];
        let count = body["localEndpoints"].as_u64().unwrap();
        assert_eq!(*weight, count.to_string());
        Ok((told.status, count))
    };
    lab.node_ips(node).iter().map(of_one).collect()
}

#[track_caller]
fn follows(lab: &Lab, what: &str, port: &str, expected: [u64; 2]) {
    for (node, count) in NODES.iter().zip(expected) {
        eventually(&format!("{what}: {node} tells of {count}"), || {
            let status = if count > 0 { 200 } else { 503 };
            let told = endpoints(lab, node, port)?;
            expect(told, |told| *told == [(status, count); 2])
        });
    }
}

#[track_caller]
fn is_closed(lab: &Lab, port: &str) {
    for address in NODES.iter().flat_map(|node| lab.node_ips(node)) {
        eventually("the health check's port is closed", || {
            match ask(lab, "outside", &address, port, "/") {
                // curl's code for it.
                Err(error) if error.contains("ended with 7") => Ok(()),
                Err(error) => Err(error),
                Ok(told) => Err(told.body),
            }
        });
    }
}

fn health_check_port(lab: &Lab) -> String {
    lab.field(&["service", "web"], "{.spec.healthCheckNodePort}")
        .unwrap()
}

#[test]
fn health_checks_follow_endpoints_and_the_policy() {
    let lab = Lab::up("health", &["--ip-family", "dual"]);
    lab.apply("default", &probe::manifest(&[probe::pod("a", "node-1")]));
    lab.apply("default", &service("Local"));
    lab.pods_ready("default", "");
    let port = health_check_port(&lab);
    follows(&lab, "one pod", &port, [1, 0]);

    let more = [probe::pod("b", "node-2"), probe::pod("c", "node-2")];
    lab.apply("default", &probe::manifest(&more));
    lab.pods_ready("default", "");
    follows(&lab, "three pods", &port, [1, 2]);
    lab.kubectl(&["delete", "pod", "a", "--wait=false"]).ok();
    follows(&lab, "one left", &port, [0, 2]);

    lab.apply("default", &service("Cluster"));
    is_closed(&lab, &port);
    lab.apply("default", &service("Local"));
    let again = health_check_port(&lab);
    follows(&lab, "Local again", &again, [0, 2]);

    // The other back end tells the same.
    lab.set_mode("iptables");
    for node in NODES {
        eventually("the agent is one of mode iptables", || {
            let mode = ask(&lab, node, "127.0.0.1", "10249", "/proxyMode")?;
            expect(mode.body, |mode| mode == "iptables")
        });
    }
    follows(&lab, "iptables", &again, [0, 2]);
    let nat = r#"kubeproxy_sync_proxy_rules_iptables_total{table="nat"}"#;
    eventually("its rules are counted", || {
        expect(metrics(&lab, "node-2")?, |rules| {
            rules.get(nat).is_some_and(|count| *count > 10.0)
        })
    });

    lab.kubectl(&["delete", "service", "web"]).ok();
    is_closed(&lab, &again);
}

/// Samples by name and labels.
fn metrics(lab: &Lab, node: &str) -> Result<BTreeMap<String, f64>, String> {
    let told = ask(lab, node, "127.0.0.1", "10249", "/metrics")?;
    assert_eq!(told.status, 200);
    let samples = told.body.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
    Ok(samples
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect())
}

#[test]
fn a_node_tells_how_it_is_and_what_it_has_done() {
    let lab = Lab::up("metrics", &["--nodes", "1"]);
    let [address] = &*lab.node_ips("node-1") else {
        panic!("a node of a lab of IPv4 has one address");
    };
    let health = |path: &str| ask(&lab, "outside", address, "10256", path);
    let expect_status = |path: &str, status: u16| {
        eventually(&format!("{path} is answered with {status}"), || {
            let told = health(path)?;
            match told.status == status {
                true => Ok(told.body),
                false => Err(told.body),
            }
        })
    };
    for path in ["/healthz", "/livez", "/ready"] {
        expect_status(path, 200);
    }
    let taint = |taint: &str| {
        lab.kubectl(&["taint", "nodes", "node-1", taint]).ok();
    };
    taint("ToBeDeletedByClusterAutoscaler=now:NoSchedule");
    let body = expect_status("/healthz", 503);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["nodeEligible"], false);
    expect_status("/livez", 200);
    expect_status("/ready", 200);
    taint("ToBeDeletedByClusterAutoscaler-");
    let body = expect_status("/healthz", 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["nodeEligible"], true);

    lab.apply("default", &probe::manifest(&[probe::pod("a", "node-1")]));
    let local = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"serves": "probes"}, "ports": [{"port": probe::PORT}]},
    });
    lab.apply("default", &local.to_string());
    lab.pods_ready("default", "");
    let count = |name: &str| -> Result<f64, String> {
        let all = metrics(&lab, "node-1")?;
        Ok(all.get(name).copied().unwrap_or(0.0))
    };
    for name in [
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count",
        "kubeproxy_network_programming_duration_seconds_count",
        "kubeproxy_proxy_healthz_total{code=\"503\"}",
        "weft_event_to_kernel_duration_seconds_count",
        "weft_service_transactions_total",
    ] {
        eventually(&format!("{name} counts"), || {
            expect(count(name)?, |count| *count >= 1.0)
        });
    }
    let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
    eventually("nothing waits", || {
        expect(metrics(&lab, "node-1")?.get(pending).copied(), |count| {
            *count == Some(0.0)
        })
    });
    let last = eventually("the metrics are told", || metrics(&lab, "node-1"));
    for name in [
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
        "weft_kernel_write_failures_total",
        "weft_rejected_objects",
    ] {
        assert_eq!(last[name], 0.0, "{name}");
    }
    let away = r#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"}"#;
    assert_eq!(last.get(away).copied().unwrap_or(0.0), 0.0);
}
