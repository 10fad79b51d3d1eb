//! Services by address and by name, from pods and from nodes.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::lab::probe::{self, Ask, Met, PORT};
use crate::lab::{Lab, eventually, expect};

/// One lab for the tests that only ask. `shop` holds the servers, and there is a client in it
/// and one in `default`.
static LAB: LazyLock<Lab> = LazyLock::new(|| {
    let lab = Lab::up("services", &["--ip-family", "dual"]);
    lab.namespace("shop");
    furnish(&lab, "shop");
    lab.apply("default", &client("node-2").to_string());
    lab.pods_ready("default", "");
    lab
});

/// Where Services listen; their targets do elsewhere.
const SERVICE_PORT: u16 = 80;

/// Two servers on two nodes, a client, and Services of every sort.
fn furnish(lab: &Lab, namespace: &str) {
    let mut objects = vec![client("node-1")];
    for (name, node) in [("a", "node-1"), ("b", "node-2")] {
        let mut server = probe::pod(name, node);
        server["spec"]["hostname"] = json!(name);
        server["spec"]["subdomain"] = json!("peers");
        objects.push(server);
    }
    let both = json!({"ipFamilyPolicy": "RequireDualStack", "selector": {"serves": "probes"}});
    objects.push(service("web", &both));
    objects.push(service(
        "peers",
        &merged(&both, &json!({"clusterIP": "None"})),
    ));
    objects.push(service(
        "four",
        &json!({"ipFamilies": ["IPv4"], "selector": {"serves": "probes"}}),
    ));
    objects.push(service(
        "six",
        &json!({"ipFamilies": ["IPv6"], "selector": {"serves": "probes"}}),
    ));
    let nobody = json!({"ipFamilyPolicy": "RequireDualStack", "selector": {"serves": "nothing"}});
    objects.push(service("empty", &nobody));
    lab.apply(namespace, &probe::manifest(&objects));
    lab.pods_ready(namespace, "");
    eventually("the Services have their endpoints", || {
        for name in ["web", "peers"] {
            let selector = format!("kubernetes.io/service-name={name}");
            let addresses = lab.field(
                &["-n", namespace, "endpointslices", "-l", &selector],
                "{.items[*].endpoints[*].addresses[*]}",
            )?;
            expect(addresses, |addresses| {
                addresses.split_whitespace().count() == 4
            })?;
        }
        Ok(())
    });
    let client = format!("{namespace}/client");
    eventually("the name of the last of them is known", || {
        expect(answer(lab, &client, "empty", "A"), |found| found.len() == 1)
    });
}

fn merged(one: &Value, other: &Value) -> Value {
    let mut both = one.clone();
    for (key, value) in other.as_object().unwrap() {
        both[key] = value.clone();
    }
    both
}

fn service(name: &str, spec: &Value) -> Value {
    let ports = json!({"ports": [
        {"name": "web", "port": SERVICE_PORT, "targetPort": PORT, "protocol": "TCP"},
        {"name": "talk", "port": SERVICE_PORT, "targetPort": PORT, "protocol": "UDP"},
    ]});
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": merged(spec, &ports),
    })
}

fn client(node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client"},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "infinity"]}],
        },
    })
}

#[track_caller]
fn cluster_ips(lab: &Lab, namespace: &str, service: &str) -> Vec<String> {
    let found = lab.field(
        &["-n", namespace, "service", service],
        "{.spec.clusterIPs[*]}",
    );
    found.unwrap().split(' ').map(str::to_owned).collect()
}

fn asks(addresses: &[String], times: u32) -> Vec<Ask> {
    addresses
        .iter()
        .flat_map(|address| {
            ["tcp", "udp"].map(|protocol| Ask {
                protocol,
                address: address.clone(),
                port: SERVICE_PORT,
                times,
            })
        })
        .collect()
}

/// Who answered, if everybody did.
fn names_of(met: &[Met]) -> Option<BTreeSet<&str>> {
    let names = met.iter().map(|met| match met {
        Met::Answer(answer) => Some(&answer.name[..]),
        Met::Failure(_) => None,
    });
    names.collect()
}

#[test]
fn a_service_answers_at_its_addresses() {
    let addresses = cluster_ips(&LAB, "shop", "web");
    assert_eq!(addresses.len(), 2);
    let asked = asks(&addresses, 40);
    for (from, own) in [
        ("shop/client", LAB.pod_ips("shop", "client")),
        ("default/client", LAB.pod_ips("default", "client")),
        ("node-1", LAB.node_ips("node-1")),
        ("node-2", LAB.node_ips("node-2")),
    ] {
        let met = eventually(&format!("{from} meets both"), || {
            expect(probe::ask(&LAB, from, &asked), |met| {
                let mut met = met.iter();
                met.all(|met| names_of(met) == Some(BTreeSet::from(["a", "b"])))
            })
        });
        for met in &met {
            for met in met {
                let answer = met.answer();
                let servers = LAB_PODS.iter().find(|(name, _)| *name == answer.name);
                assert!(servers.unwrap().1.contains(&answer.to), "{answer:?}");
                assert!(own.contains(&answer.from), "{from}: {answer:?}");
            }
        }
    }
}

static LAB_PODS: LazyLock<[(&str, Vec<String>); 2]> =
    LazyLock::new(|| ["a", "b"].map(|name| (name, LAB.pod_ips("shop", name))));

#[test]
fn a_service_of_one_family_has_one_address() {
    for (service, colon) in [("four", false), ("six", true)] {
        let addresses = cluster_ips(&LAB, "shop", service);
        assert_eq!(addresses.len(), 1);
        assert_eq!(addresses[0].contains(':'), colon);
        let asked = asks(&addresses, 1);
        eventually(&format!("{service} answers"), || {
            let met = probe::ask(&LAB, "default/client", &asked);
            expect(met, |met| met.iter().all(|met| met[0].failure().is_none()))
        });
    }
}

#[test]
fn a_service_answers_by_its_names() {
    let everywhere = [
        "web.shop",
        "web.shop.svc",
        "web.shop.svc.cluster.local",
        "web.shop.svc.cluster.local.",
    ];
    for (client, names) in [
        ("shop/client", [&["web"][..], &everywhere].concat()),
        ("default/client", everywhere.into()),
        // A headless name is the servers' own, whose port is not translated.
        (
            "shop/client",
            vec!["peers", "a.peers", "b.peers.shop.svc.cluster.local"],
        ),
    ] {
        for name in names {
            let headless = name.contains("peers");
            let asked = ["tcp", "udp"].map(|protocol| Ask {
                protocol,
                address: name.to_owned(),
                port: if headless { PORT } else { SERVICE_PORT },
                times: 1,
            });
            let wanted = match name.split_once(".peers") {
                Some((pod, _)) => vec![pod],
                None => vec!["a", "b"],
            };
            // There are several DNS servers, and each node has its own rules.
            eventually(&format!("{client} finds {name}"), || {
                expect(probe::ask(&LAB, client, &asked), |met| {
                    let mut names = met.iter().map(|met| names_of(met));
                    names.all(|names| {
                        names.is_some_and(|it| it.iter().all(|it| wanted.contains(it)))
                    })
                })
            });
        }
    }
    let elsewhere = LAB.exec("default/client", &["getent", "hosts", "web"]);
    assert_eq!(
        elsewhere.code,
        Some(2),
        "a short name is its namespace's own: {elsewhere}"
    );
}

/// What dig prints of one question, asked with the pod's search list.
#[track_caller]
fn answer(lab: &Lab, client: &str, name: &str, kind: &str) -> BTreeSet<String> {
    let said = lab
        .exec(client, &["dig", "+search", "+short", name, kind])
        .ok();
    said.lines().map(str::to_owned).collect()
}

fn set<const N: usize>(items: [&str; N]) -> BTreeSet<String> {
    items.map(str::to_owned).into()
}

#[test]
fn names_have_the_records_of_the_dns_specification() {
    let ask = |name: &str, kind: &str| answer(&LAB, "shop/client", name, kind);
    let one = |service: &str, index: usize| {
        BTreeSet::from([cluster_ips(&LAB, "shop", service)[index].clone()])
    };
    let pods = |family: usize| -> BTreeSet<String> {
        LAB_PODS
            .iter()
            .map(|(_, ips)| ips[family].clone())
            .collect()
    };
    let nothing = set([]);
    for (name, kind, expected) in [
        ("web", "A", one("web", 0)),
        ("web", "AAAA", one("web", 1)),
        ("four", "A", one("four", 0)),
        ("four", "AAAA", nothing.clone()),
        ("six", "AAAA", one("six", 0)),
        ("six", "A", nothing.clone()),
        ("empty", "A", one("empty", 0)),
        ("peers", "A", pods(0)),
        ("peers", "AAAA", pods(1)),
        ("a.peers", "A", BTreeSet::from([LAB_PODS[0].1[0].clone()])),
        (
            "b.peers",
            "AAAA",
            BTreeSet::from([LAB_PODS[1].1[1].clone()]),
        ),
        (
            "_web._tcp.web",
            "SRV",
            set(["80 web.shop.svc.cluster.local."]),
        ),
        (
            "_talk._udp.web",
            "SRV",
            set(["80 web.shop.svc.cluster.local."]),
        ),
        ("_talk._tcp.web", "SRV", nothing),
        (
            "_web._tcp.peers",
            "SRV",
            set([
                "7000 a.peers.shop.svc.cluster.local.",
                "7000 b.peers.shop.svc.cluster.local.",
            ]),
        ),
        ("kubernetes.default", "A", set(["10.96.0.1"])),
        ("kube-dns.kube-system", "A", set(["10.96.0.10"])),
    ] {
        eventually(&format!("{name} {kind} is {expected:?}"), || {
            let mut found = ask(name, kind);
            if kind == "SRV" {
                // The specification leaves priority and weight open.
                found = found
                    .iter()
                    .filter_map(|record| Some(record.splitn(3, ' ').nth(2)?.to_owned()))
                    .collect();
            }
            expect(found, |found| *found == expected)
        });
    }
}

/// Status, answers and authority of one question, by its full name.
#[track_caller]
fn dig(name: &str, flags: &[&str]) -> (String, Vec<String>, Vec<String>) {
    let command = [
        &[
            "dig",
            "+nosearch",
            "+noall",
            "+comments",
            "+answer",
            "+authority",
            name,
        ],
        flags,
    ]
    .concat();
    let said = LAB.exec("default/client", &command).ok();
    let status = said
        .split_once("status: ")
        .and_then(|(_, rest)| Some(rest.split_once(',')?.0.to_owned()));
    let section = |title: &str| -> Vec<String> {
        said.lines()
            .skip_while(|line| !line.contains(title))
            .skip(1)
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let status = status.unwrap_or_else(|| panic!("{command:?}: {said}"));
    (
        status,
        section("ANSWER SECTION"),
        section("AUTHORITY SECTION"),
    )
}

#[test]
fn what_has_no_record_is_told_apart_from_what_does_not_exist() {
    for (name, kind, status) in [
        ("nothing.shop.svc.cluster.local", "A", "NXDOMAIN"),
        ("web.nowhere.svc.cluster.local", "A", "NXDOMAIN"),
        ("cluster.local.shop.svc.cluster.local", "AAAA", "NXDOMAIN"),
        ("c.peers.shop.svc.cluster.local", "A", "NXDOMAIN"),
        ("_no._tcp.web.shop.svc.cluster.local", "SRV", "NXDOMAIN"),
        ("four.shop.svc.cluster.local", "AAAA", "NOERROR"),
        ("six.shop.svc.cluster.local", "A", "NOERROR"),
        ("web.shop.svc.cluster.local", "TXT", "NOERROR"),
        ("web.shop.svc.cluster.local", "MX", "NOERROR"),
        ("shop.svc.cluster.local", "A", "NOERROR"),
        ("svc.cluster.local", "A", "NOERROR"),
    ] {
        for transport in ["+notcp", "+tcp"] {
            let what = format!("{name} {kind} {transport} is {status}");
            let (_, _, authority) = eventually(&what, || {
                expect(dig(name, &[kind, transport]), |(found, answers, _)| {
                    found == status && answers.is_empty()
                })
            });
            // RFC 2308: with the zone's SOA, whose last field bounds how long it may be kept.
            assert_eq!(authority.len(), 1, "{name} {kind}");
            let words: Vec<_> = authority[0].split(' ').collect();
            assert_eq!(words[0], "cluster.local.");
            assert_eq!(
                words[2..6],
                [
                    "IN",
                    "SOA",
                    "ns.dns.cluster.local.",
                    "hostmaster.cluster.local."
                ]
            );
            assert_eq!(words[7..], ["7200", "1800", "86400", "5"], "{authority:?}");
            assert!(words[1].parse::<u32>().unwrap() <= 5, "{authority:?}");
        }
    }
    let (status, answers, _) = dig("WeB.ShOp.SVC.cluster.LOCAL", &["A"]);
    assert_eq!(
        (&status[..], answers.len()),
        ("NOERROR", 1),
        "names have no case"
    );
}

#[test]
fn an_empty_service_refuses_at_once() {
    let addresses = cluster_ips(&LAB, "shop", "empty");
    assert_eq!(addresses.len(), 2);
    for from in ["default/client", "shop/client", "node-1", "node-2"] {
        let asked = asks(&addresses, 1);
        eventually(&format!("{from} is refused"), || {
            expect(probe::ask(&LAB, from, &asked), |met| {
                let mut both = asked.iter().zip(met);
                both.all(|(ask, met)| met[0].failure() == Some(refusal(from, ask)))
            })
        });
    }
}

/// How a sender is told that there is nobody: a node's own datagram does not even leave it.
fn refusal(from: &str, ask: &Ask) -> &'static str {
    if from.starts_with("node-") && ask.protocol == "udp" {
        "prohibited"
    } else {
        "refused"
    }
}

#[test]
fn an_endpoint_that_goes_is_not_asked_any_more() {
    LAB.namespace("leaving");
    furnish(&LAB, "leaving");
    let addresses = cluster_ips(&LAB, "leaving", "web");
    let asked = asks(&addresses, 30);
    let left: BTreeSet<_> = LAB.pod_ips("leaving", "b").into_iter().collect();
    LAB.kubectl(&["-n", "leaving", "delete", "pod", "a", "--wait=false"])
        .ok();

    let only_b = |met: &[Vec<Met>]| {
        met.iter()
            .flatten()
            .all(|met| matches!(met, Met::Answer(answer) if answer.name == "b"))
    };
    for from in ["leaving/client", "default/client", "node-1", "node-2"] {
        eventually(&format!("{from} meets the other one alone"), || {
            expect(probe::ask(&LAB, from, &asked), |met| only_b(met))
        });
        // And it stays so.
        assert!(only_b(&probe::ask(&LAB, from, &asked)));
    }
    eventually("its name and address are gone from DNS", || {
        let found = answer(&LAB, "leaving/client", "peers", "A");
        expect(found, |found| found.len() == 1 && found.is_subset(&left))?;
        let own = answer(&LAB, "leaving/client", "a.peers", "A");
        expect(own, BTreeSet::is_empty)
    });

    LAB.kubectl(&["-n", "leaving", "delete", "pod", "b", "--wait=false"])
        .ok();
    for from in ["leaving/client", "node-2"] {
        eventually(&format!("{from} is refused: nobody is left"), || {
            let asked = asks(&addresses, 1);
            let met = probe::ask(&LAB, from, &asked);
            expect(met, |met| {
                let mut both = asked.iter().zip(met);
                both.all(|(ask, met)| met[0].failure() == Some(refusal(from, ask)))
            })
        });
    }
    LAB.kubectl(&["-n", "leaving", "delete", "service", "web"])
        .ok();
    eventually("the Service's name is gone", || {
        expect(
            answer(&LAB, "leaving/client", "web", "A"),
            BTreeSet::is_empty,
        )
    });
}
