//! `[sig-network] Services` of Kubernetes' own end-to-end tests, by their names, and their
//! neighbours (Networking Granular Checks, LoadBalancers, Conntrack). What concerns packets is
//! tried with each back end, in both families.

mod affinity;
mod conntrack;
mod health;
mod kinds;
mod lifecycle;
mod policies;
mod ports;
mod reach;
mod refusals;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::lab::probe::{self, Ask, Met, PORT};
use crate::lab::{Lab, eventually, expect};

/// Where Services listen; their targets do elsewhere.
const SERVICE_PORT: u16 = 80;
/// Two servers for tests that only look: `a` on node-1, `b` on node-2.
const STEADY: &str = "steady";
/// Pods that only ask, one on each node.
const NEAR: &str = "clients/near";
const FAR: &str = "clients/far";
/// Enough to meet each of two servers, but for once in 500,000 times.
const TIMES: u32 = 20;
/// What `outside` hands to node-1.
const EXTERNAL_RANGES: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];

/// A lab whose nodes translate Services by one of the back ends.
struct Cluster {
    lab: Lab,
}

static NFTABLES: LazyLock<Cluster> = LazyLock::new(|| Cluster::up("nftables"));
static IPTABLES: LazyLock<Cluster> = LazyLock::new(|| Cluster::up("iptables"));

/// A test of each of these functions with each back end.
macro_rules! with_each_back_end {
    ($($test:ident),* $(,)?) => {
        mod nftables {
            $(#[test] fn $test() { super::$test(&$crate::sig_network::NFTABLES); })*
        }
        mod iptables {
            $(#[test] fn $test() { super::$test(&$crate::sig_network::IPTABLES); })*
        }
    };
}
use with_each_back_end;

/// What a Service has instead of these fields, or beside them.
fn merged(mut one: Value, other: &Value) -> Value {
    for (key, value) in other.as_object().into_iter().flatten() {
        one[key] = value.clone();
    }
    one
}

/// A Service of both families for `serves: probes`, with TCP and UDP at one port.
fn service(name: &str, spec: &Value) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": SERVICE_PORT, "targetPort": PORT, "protocol": protocol});
    let usual = json!({
        "ipFamilyPolicy": "RequireDualStack",
        "selector": {"serves": "probes"},
        "ports": [port("web", "TCP"), port("talk", "UDP")],
    });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": merged(usual, spec),
    })
}

impl Cluster {
    fn up(mode: &str) -> Self {
        let lab = Lab::up(&format!("services-{mode}"), &["--ip-family", "dual"]);
        if mode != "nftables" {
            lab.set_mode(mode);
        }
        for node in ["node-1", "node-2"] {
            eventually("the rules are the mode's", || {
                let listed = match mode {
                    "nftables" => lab.exec(node, &["nft", "list", "table", "ip", "weft"]),
                    _ => lab.exec(node, &["iptables-save", "-t", "nat"]),
                };
                expect(listed.result()?, |text| text.contains("10.96.0.10"))
            });
            // Every refusal counts here.
            let lift = "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; \
                echo 0 > /proc/sys/net/ipv6/icmp/ratelimit";
            lab.sh(node, lift).ok();
        }
        for (range, node) in EXTERNAL_RANGES.iter().zip(lab.node_ips("node-1")) {
            lab.exec("outside", &["ip", "route", "add", range, "via", &node])
                .ok();
        }
        let cluster = Cluster { lab };
        cluster.lab.namespace("clients");
        let client = |name: &str, node: &str| {
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {
                    "nodeName": node,
                    "terminationGracePeriodSeconds": 0,
                    "containers": [
                        {"name": "c", "image": "busybox", "command": ["sleep", "infinity"]},
                    ],
                },
            })
        };
        let clients = [client("near", "node-1"), client("far", "node-2")];
        cluster.lab.apply("clients", &probe::manifest(&clients));
        cluster.namespace(STEADY, &[("a", "node-1"), ("b", "node-2")]);
        cluster.lab.pods_ready("clients", "");
        cluster
    }

    /// A namespace with these servers, ready.
    #[track_caller]
    fn namespace(&self, name: &str, servers: &[(&str, &str)]) {
        self.lab.namespace(name);
        self.servers(name, servers);
    }

    /// Servers on nodes, ready.
    #[track_caller]
    fn servers(&self, namespace: &str, servers: &[(&str, &str)]) {
        if servers.is_empty() {
            return;
        }
        let pods: Vec<_> = servers
            .iter()
            .map(|(name, node)| probe::pod(name, node))
            .collect();
        self.lab.apply(namespace, &probe::manifest(&pods));
        for (name, _) in servers {
            self.lab.pods_ready(namespace, &format!("app={name}"));
        }
    }

    #[track_caller]
    fn apply(&self, namespace: &str, objects: &[Value]) {
        self.lab.apply(namespace, &probe::manifest(objects));
    }

    /// Changes a Service's fields.
    #[track_caller]
    fn patch(&self, namespace: &str, service: &str, patch: &Value) {
        let patch = patch.to_string();
        let patch = ["patch", "service", service, "--type=merge", "-p", &patch];
        self.lab
            .kubectl(&[&["-n", namespace], &patch[..]].concat())
            .ok();
    }

    /// Gives a Service of a load balancer its addresses: those of a number, in each family.
    #[track_caller]
    fn balance(&self, namespace: &str, service: &str, number: u8) -> Vec<String> {
        let addresses = external(number);
        let ingress: Vec<_> = addresses
            .iter()
            .map(|address| json!({"ip": address}))
            .collect();
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}}).to_string();
        let patch = [
            "patch",
            "service",
            service,
            "--subresource=status",
            "--type=merge",
            "-p",
        ];
        self.lab
            .kubectl(&[&["-n", namespace], &patch[..], &[&status]].concat())
            .ok();
        addresses
    }

    #[track_caller]
    fn delete(&self, namespace: &str, what: &[&str]) {
        let delete = [&["-n", namespace, "delete", "--wait=false"], what].concat();
        self.lab.kubectl(&delete).ok();
    }

    /// A Service's own addresses.
    #[track_caller]
    fn ips(&self, namespace: &str, service: &str) -> Vec<String> {
        let of = ["-n", namespace, "service", service];
        let found = self.lab.field(&of, "{.spec.clusterIPs[*]}").unwrap();
        found.split_whitespace().map(str::to_owned).collect()
    }

    /// The port of a name at every node.
    #[track_caller]
    fn node_port(&self, namespace: &str, service: &str, port: &str) -> u16 {
        let path = format!("{{.spec.ports[?(@.name==\"{port}\")].nodePort}}");
        let found = self
            .lab
            .field(&["-n", namespace, "service", service], &path);
        found.unwrap().parse().unwrap()
    }

    /// Waits until somebody meets each of these servers at each of these addresses, and nobody
    /// else, by TCP and by UDP. Returns how they were met at last.
    #[track_caller]
    fn meets(&self, from: &str, to: &[String], port: u16, servers: &[&str]) -> Vec<Met> {
        self.meets_by(&["tcp", "udp"], from, to, port, servers)
    }

    #[track_caller]
    fn meets_by(
        &self,
        protocols: &[&'static str],
        from: &str,
        to: &[String],
        port: u16,
        servers: &[&str],
    ) -> Vec<Met> {
        let times = if servers.len() > 1 { TIMES } else { 3 };
        let wanted: BTreeSet<&str> = servers.iter().copied().collect();
        eventually(
            &format!("{from} meets {servers:?} at {to:?}, port {port}"),
            || {
                let met = probe::ask(&self.lab, from, &asks(protocols, to, port, times));
                for met in &met {
                    expect(met, |met| names(met) == Some(wanted.clone()))?;
                }
                Ok(met.concat())
            },
        )
    }

    /// Waits until somebody meets nobody, and how: `refused` (by the node's own kernel
    /// `prohibited`), `timeout`, or anything.
    #[track_caller]
    fn meets_nobody(&self, from: &str, to: &[String], port: u16, how: Option<&str>) {
        let alike = |failure: &str| match how {
            None => true,
            Some("refused") => ["refused", "prohibited"].contains(&failure),
            Some(how) => failure == how,
        };
        eventually(
            &format!("{from} meets nobody at {to:?}, port {port}"),
            || {
                let met = probe::ask(&self.lab, from, &asks(&["tcp", "udp"], to, port, 1));
                expect(met, |met| {
                    met.iter()
                        .flatten()
                        .all(|met| met.failure().is_some_and(alike))
                })
            },
        );
    }

    /// Whom somebody meets in a row, by TCP, at one address.
    #[track_caller]
    fn row(&self, from: &str, to: &str, port: u16) -> Result<Vec<String>, String> {
        let met = probe::ask(
            &self.lab,
            from,
            &asks(&["tcp"], &[to.to_owned()], port, TIMES),
        );
        let name = |met: &Met| match met {
            Met::Answer(answer) => Ok(answer.name.clone()),
            Met::Failure(failure) => Err(failure.clone()),
        };
        met.concat().iter().map(name).collect()
    }
}

/// An address in each of [`EXTERNAL_RANGES`].
fn external(number: u8) -> Vec<String> {
    vec![
        format!("203.0.113.{number}"),
        format!("2001:db8:113::{number}"),
    ]
}

fn asks(protocols: &[&'static str], to: &[String], port: u16, times: u32) -> Vec<Ask> {
    let ask = |address: &String, protocol| Ask {
        protocol,
        address: address.clone(),
        port,
        times,
    };
    let each = |address| protocols.iter().map(move |protocol| ask(address, protocol));
    to.iter().flat_map(each).collect()
}

/// Who answered, if everybody did.
fn names(met: &[Met]) -> Option<BTreeSet<&str>> {
    let name = |met: &'_ Met| match met {
        Met::Answer(_) => true,
        Met::Failure(_) => false,
    };
    met.iter()
        .all(name)
        .then(|| met.iter().map(|met| &met.answer().name[..]).collect())
}
