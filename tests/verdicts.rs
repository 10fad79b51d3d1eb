//! What really happens to packets, against what must happen by the oracle's answer.
//!
//! The oracle gets the cluster as the API tells it, and shares no code with what programs the
//! kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft_kube::k8s_openapi::api::core::v1 as core;
use weft_kube::k8s_openapi::api::discovery::v1 as discovery;
use weft_model::{Change, Cluster, NodeName, ObjectKey, Port, Protocol};
use weft_oracle::{Flow, Ranges, Receiver, Refusal, Sender, SourceSeen, Verdict, verdict};

use crate::lab::probe::{self, Ask, Met, PORT};
use crate::lab::{Lab, eventually, expect, strings};

const SERVICE_PORT: u16 = 80;
const UNKNOWN_PORT: u16 = 81;
/// A node port that every endpoint serves, and one with `externalTrafficPolicy: Local`.
const NODE_PORTS: [u16; 2] = [30080, 30082];
/// Addresses of Services beyond the cluster, which `outside` hands to node-1.
const EXTERNAL_RANGES: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
/// Enough that each of three endpoints is chosen, but for once in 10,000 runs of one flow.
const TIMES: u32 = 32;

/// Somebody who sends.
struct Place {
    /// What `weft lab exec` knows it by.
    target: String,
    sender: Sender,
    addresses: Vec<IpAddr>,
}

#[test]
fn the_kernel_does_what_the_oracle_says() {
    let lab = Lab::up("verdicts", &["--ip-family", "dual"]);
    let (_server, outside) = probe::serve_outside(&lab);
    let outside = addresses(outside);
    furnish(&lab, &outside);
    lift_icmp_limits(&lab);
    route_external(&lab);
    let places = places(&lab, &outside);
    let destinations = destinations(&lab, &outside);
    assert!(destinations.len() > 38, "{destinations:?}");

    for place in &places {
        eventually(&format!("{} meets what it must", place.target), || {
            let cluster = cluster(&lab)?;
            let asks = asks(&cluster, place, &destinations);
            let met = probe::ask(&lab, &place.target, &asks);
            let wrong: Vec<_> = asks
                .iter()
                .zip(&met)
                .filter_map(|(ask, met)| compare(&cluster, place, ask, met).err())
                .collect();
            expect(wrong, Vec::is_empty)
        });
    }
}

/// Hosts answer a few datagrams a second with an ICMP error and then no more (icmp(7),
/// icmp_ratelimit): here every one counts.
fn lift_icmp_limits(lab: &Lab) {
    let lift = "cd /proc/sys/net; \
        echo 0 > ipv4/icmp_ratelimit; echo 0 > ipv6/icmp/ratelimit; \
        for limit in ipv4/icmp_msgs_per_sec ipv4/icmp_msgs_burst; do \
            [ ! -e $limit ] || echo 100000 > $limit; done";
    // Pods may not change their settings; their node enters their networks.
    // A process that has ended meanwhile has none any more.
    let everywhere = format!(
        "for net in /proc/[0-9]*/ns/net; do \
           nsenter --net=$net sh -c '{lift}' || [ ! -e $net ] || exit; done"
    );
    for target in ["node-1", "node-2", "outside"] {
        lab.sh(target, &everywhere).ok();
    }
}

/// Somebody in the node network announced the external addresses for node-1.
fn route_external(lab: &Lab) {
    for (range, node) in EXTERNAL_RANGES.iter().zip(lab.node_ips("node-1")) {
        lab.exec("outside", &["ip", "route", "add", range, "via", &node])
            .ok();
    }
}

/// Two addresses in the external ranges.
fn external(number: u8) -> [String; 2] {
    [
        format!("198.51.100.{number}"),
        format!("2001:db8:51::{number}"),
    ]
}

fn furnish(lab: &Lab, outside: &[IpAddr]) {
    let mut objects = Vec::new();
    for (name, node) in [("a", "node-1"), ("b", "node-1"), ("c", "node-2")] {
        objects.push(probe::pod(name, node));
    }
    for (name, node) in [("host-1", "node-1"), ("host-2", "node-2")] {
        let mut pod = probe::pod(name, node);
        pod["metadata"]["labels"] = json!({"serves": "hosts"});
        pod["spec"]["hostNetwork"] = json!(true);
        objects.push(pod);
    }
    // It stays, terminating, until the lab ends.
    let mut leaving = probe::pod("leaving", "node-2");
    leaving["metadata"]["labels"] = json!({"app": "leaving", "serves": "probes"});
    leaving["spec"]["terminationGracePeriodSeconds"] = json!(600);
    let serve = leaving["spec"]["containers"][0]["command"].take();
    let ignoring = ["sh", "-c", "trap '' TERM; exec \"$0\" \"$@\""];
    leaving["spec"]["containers"][0]["command"] = ignoring
        .iter()
        .map(|word| json!(word))
        .chain(serve.as_array().unwrap().iter().cloned())
        .collect();
    objects.push(leaving);

    for (name, selector, more) in [
        ("all", json!({"serves": "probes"}), json!({})),
        ("one", json!({"app": "a"}), json!({})),
        ("hosts", json!({"serves": "hosts"}), json!({})),
        ("fading", json!({"app": "leaving"}), json!({})),
        ("empty", json!({"serves": "nothing"}), json!({})),
        (
            "near",
            json!({"app": "c"}),
            json!({"internalTrafficPolicy": "Local"}),
        ),
        (
            "nowhere",
            json!({"serves": "nothing"}),
            json!({"internalTrafficPolicy": "Local"}),
        ),
        (
            "headless",
            json!({"serves": "probes"}),
            json!({"clusterIP": "None"}),
        ),
        (
            "ported",
            json!({"serves": "probes"}),
            node_port(NODE_PORTS[0]),
        ),
        (
            "ported-local",
            json!({"app": "a"}),
            with(
                node_port(NODE_PORTS[1]),
                json!({"externalTrafficPolicy": "Local"}),
            ),
        ),
        (
            "announced",
            json!({"serves": "probes"}),
            json!({"externalIPs": external(10)}),
        ),
        (
            "announced-local",
            json!({"app": "c"}),
            json!({
                "type": "LoadBalancer",
                "externalIPs": external(11),
                "externalTrafficPolicy": "Local",
            }),
        ),
        (
            "balanced",
            json!({"serves": "probes"}),
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": hosts(outside)}),
        ),
        (
            "balanced-local",
            json!({"app": "a"}),
            json!({
                "type": "LoadBalancer",
                "externalTrafficPolicy": "Local",
                "loadBalancerSourceRanges": ["10.244.0.0/16", "172.30.0.0/24"],
            }),
        ),
    ] {
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "ipFamilyPolicy": "RequireDualStack",
                "selector": selector,
                "ports": [
                    {"name": "t", "port": SERVICE_PORT, "targetPort": PORT, "protocol": "TCP"},
                    {"name": "u", "port": SERVICE_PORT, "targetPort": PORT, "protocol": "UDP"},
                ],
            },
        });
        if let Some(number) = more.get("nodePort") {
            for port in service["spec"]["ports"].as_array_mut().unwrap() {
                port["nodePort"] = number.clone();
            }
        }
        for (key, value) in more.as_object().unwrap() {
            if key != "nodePort" {
                service["spec"][key] = value.clone();
            }
        }
        objects.push(service);
    }
    lab.apply("default", &probe::manifest(&objects));
    for (name, number) in [("balanced", 12), ("balanced-local", 13)] {
        let ingress = external(number).map(|address| json!({"ip": address}));
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}}).to_string();
        lab.kubectl(&[
            "patch",
            "service",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ])
        .ok();
    }
    lab.pods_ready("default", "");
    lab.kubectl(&["delete", "pod", "leaving", "--wait=false"])
        .ok();
    eventually("the slices know that it is terminating and serves", || {
        let conditions = lab.field(
            &["endpointslices", "-l", "kubernetes.io/service-name=fading"],
            "{range .items[*].endpoints[*].conditions}{.ready} {.serving} {.terminating}{\"\\n\"}{end}",
        )?;
        expect(conditions, |text| {
            text == "false true true\nfalse true true\n"
        })
    });
}

fn node_port(number: u16) -> Value {
    json!({"type": "NodePort", "nodePort": number})
}

fn with(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

/// Ranges of one address each.
fn hosts(addresses: &[IpAddr]) -> Vec<String> {
    let host = |address: &IpAddr| ipnet::IpNet::from(*address).to_string();
    addresses.iter().map(host).collect()
}

fn addresses(texts: Vec<String>) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn places(lab: &Lab, outside: &[IpAddr]) -> Vec<Place> {
    let mut places = vec![Place {
        target: "outside".into(),
        sender: Sender::Outside,
        addresses: outside.to_vec(),
    }];
    for node in ["node-1", "node-2"] {
        places.push(Place {
            target: node.into(),
            sender: Sender::Node(NodeName::from(node.to_owned())),
            addresses: addresses(lab.node_ips(node)),
        });
    }
    for pod in ["a", "c", "host-1"] {
        places.push(Place {
            target: format!("default/{pod}"),
            sender: Sender::Pod(ObjectKey::new("default", pod)),
            addresses: addresses(lab.pod_ips("default", pod)),
        });
    }
    places
}

/// Every address that somebody has, and some of every sort that nobody has.
fn destinations(lab: &Lab, outside: &[IpAddr]) -> BTreeSet<IpAddr> {
    let mut found: BTreeSet<IpAddr> = outside.iter().copied().collect();
    for pod in lab.get(&["pods"])["items"].as_array().unwrap() {
        found.extend(addresses(strings(&pod["status"]["podIPs"], "ip")));
    }
    for service in lab.get(&["services"])["items"].as_array().unwrap() {
        let own = service["spec"]["clusterIPs"].as_array().unwrap();
        found.extend(
            own.iter()
                .filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()),
        );
    }
    for node in lab.get(&["nodes"])["items"].as_array().unwrap() {
        for range in node["spec"]["podCIDRs"].as_array().unwrap() {
            let range: ipnet::IpNet = range.as_str().unwrap().parse().unwrap();
            // The last host of a range is given out last.
            found.extend(range.hosts().nth(200));
        }
    }
    let announced = (10..14).flat_map(external);
    found.extend(announced.map(|address| address.parse::<IpAddr>().unwrap()));
    let nobody = [
        "10.111.222.33",
        "fd00:10:96::7777",
        "10.244.77.7",
        "fd00:10:244:77::7",
    ];
    found.extend(nobody.map(|address| address.parse::<IpAddr>().unwrap()));
    found
}

fn is_external(address: IpAddr) -> bool {
    EXTERNAL_RANGES
        .iter()
        .any(|range| range.parse::<ipnet::IpNet>().unwrap().contains(&address))
}

fn asks(cluster: &Cluster, place: &Place, destinations: &BTreeSet<IpAddr>) -> Vec<Ask> {
    let mut asks = Vec::new();
    for address in destinations {
        for protocol in ["tcp", "udp"] {
            // What is external and no Service's goes out, and comes back in, and out.
            let ports: &[u16] = if is_external(*address) {
                &[SERVICE_PORT]
            } else if cluster.nodes().any(|it| it.internal_ips.contains(address)) {
                &[
                    PORT,
                    SERVICE_PORT,
                    UNKNOWN_PORT,
                    NODE_PORTS[0],
                    NODE_PORTS[1],
                ]
            } else {
                &[PORT, SERVICE_PORT, UNKNOWN_PORT]
            };
            for &port in ports {
                asks.push(Ask {
                    protocol,
                    address: address.to_string(),
                    port,
                    times: 1,
                });
            }
        }
    }
    // What outside sends to itself is not the cluster's affair.
    asks.retain(|ask| match (place.source(ask), &place.sender) {
        (None, _) => false,
        (Some(source), Sender::Outside) => source.to_string() != ask.address,
        (Some(_), Sender::Pod(_) | Sender::Node(_)) => true,
    });
    // Routers tell one host of few unreachable addresses a second (net.ipv4.route.error_cost,
    // which belongs to the machine): one question by each protocol is enough.
    asks.retain(|ask| {
        let unused = Verdict::Refused(Refusal::UnusedPodAddress);
        ask.port == PORT || place.verdict(cluster, ask) != unused
    });
    for ask in &mut asks {
        if let Verdict::Delivered(arrivals) = place.verdict(cluster, ask)
            && arrivals.len() > 1
        {
            ask.times = TIMES;
        }
    }
    asks
}

impl Place {
    /// Its own address of the family it asks in.
    fn source(&self, ask: &Ask) -> Option<IpAddr> {
        let destination: IpAddr = ask.address.parse().unwrap();
        self.addresses
            .iter()
            .copied()
            .find(|own| own.is_ipv4() == destination.is_ipv4())
    }

    /// Whether it sends from a node's own network.
    fn is_on_a_node(&self) -> bool {
        match &self.sender {
            Sender::Node(_) => true,
            Sender::Pod(key) => key.name.starts_with("host-"),
            Sender::Outside => false,
        }
    }

    fn verdict(&self, cluster: &Cluster, ask: &Ask) -> Verdict {
        let flow = Flow {
            from: self.sender.clone(),
            source: self.source(ask).unwrap(),
            destination: ask.address.parse().unwrap(),
            protocol: match ask.protocol {
                "tcp" => Protocol::Tcp,
                _ => Protocol::Udp,
            },
            port: Port::new(ask.port).unwrap(),
            via: is_external(ask.address.parse().unwrap()).then(|| "node-1".into()),
        };
        verdict(cluster, &ranges(), &flow)
    }
}

/// The cluster as the API tells it.
fn cluster(lab: &Lab) -> Result<Cluster, String> {
    let mut cluster = Cluster::default();
    decode::<core::Node>(lab, "nodes", weft_kube::node, &mut cluster)?;
    decode::<core::Pod>(lab, "pods", weft_kube::pod, &mut cluster)?;
    decode::<core::Service>(lab, "services", weft_kube::service, &mut cluster)?;
    decode::<discovery::EndpointSlice>(
        lab,
        "endpointslices",
        weft_kube::endpoint_slice,
        &mut cluster,
    )?;
    let rejected: Vec<_> = cluster.rejected().collect();
    if rejected.is_empty() {
        Ok(cluster)
    } else {
        Err(format!("{rejected:?}"))
    }
}

fn decode<K: DeserializeOwned>(
    lab: &Lab,
    kind: &str,
    read: fn(&K) -> Option<Change>,
    into: &mut Cluster,
) -> Result<(), String> {
    let list = lab.kubectl(&["get", "-A", kind, "-o", "json"]).result()?;
    let list: Value = serde_json::from_str(&list).map_err(|error| error.to_string())?;
    for item in list["items"].as_array().into_iter().flatten() {
        let object = serde_json::from_value(item.clone()).map_err(|error| error.to_string())?;
        if let Some(change) = read(&object) {
            into.apply(change);
        }
    }
    Ok(())
}

fn ranges() -> Ranges {
    let parse = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).into();
    Ranges {
        pods: parse(["10.244.0.0/16", "fd00:10:244::/56"]),
        services: parse(["10.96.0.0/12", "fd00:10:96::/112"]),
    }
}

/// Whether what was met is what the oracle says.
fn compare(cluster: &Cluster, place: &Place, ask: &Ask, met: &[Met]) -> Result<(), String> {
    let source = place.source(ask).unwrap();
    let verdict = place.verdict(cluster, ask);
    let failures: BTreeSet<_> = met.iter().filter_map(Met::failure).collect();
    let answers: Vec<_> = met
        .iter()
        .filter(|met| met.failure().is_none())
        .map(Met::answer)
        .collect();
    let only = |failure: &str| answers.is_empty() && failures == BTreeSet::from([failure]);
    // A rule that stops a node's own datagram tells the sender so itself, whatever it does.
    let own_rule = ask.protocol == "udp" && place.is_on_a_node() && only("prohibited");
    let right = match &verdict {
        Verdict::Delivered(arrivals) if arrivals.iter().all(|it| it.port.number() == PORT) => {
            let wanted: BTreeMap<_, _> = arrivals
                .iter()
                .map(|arrival| {
                    let seen = match arrival.source_seen {
                        SourceSeen::Unchanged => source,
                        SourceSeen::NodeAddress(address) => address,
                    };
                    let reached = (arrival.address.to_string(), host_name(&arrival.to));
                    (reached, seen.to_string())
                })
                .collect();
            let found: BTreeMap<_, _> = answers
                .iter()
                .map(|answer| {
                    (
                        (answer.to.clone(), answer.name.clone()),
                        answer.from.clone(),
                    )
                })
                .collect();
            failures.is_empty() && found == wanted
        }
        // Nobody listens elsewhere.
        Verdict::Delivered(_) => only("refused"),
        Verdict::Refused(Refusal::NoEndpoints | Refusal::NoSuchServicePort) => {
            only("refused") || own_rule
        }
        Verdict::Refused(Refusal::UnusedPodAddress) => only("unreachable"),
        Verdict::Dropped(_) => only("timeout") || own_rule,
        Verdict::NotRouted(_) => answers.is_empty(),
    };
    if right {
        Ok(())
    } else {
        Err(format!("{ask:?}: {verdict:?}, and not {met:?}"))
    }
}

fn host_name(receiver: &Receiver) -> String {
    match receiver {
        Receiver::Pod(key) => key.name.to_string(),
        Receiver::Node(name) => name.to_string(),
        Receiver::Outside => "outside".to_owned(),
        Receiver::Nobody => "nobody".to_owned(),
    }
}
