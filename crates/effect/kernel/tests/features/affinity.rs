//! `sessionAffinity: ClientIP` and its time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_compile::ProxySettings;
use weft_desired::IpFamily;

use crate::node::{Node, each};
use crate::objects::{
    at, beyond, cluster_ip, endpoint, node_address, pod, served, service, slices,
};
use crate::row::{From, client};
use crate::scene::pod::echoes;

fn servers(node: &Node, from: From, to: SocketAddr, times: usize) -> BTreeSet<String> {
    let ask = |_| {
        let outcome = node.lab.tcp(client(node, from), to);
        outcome
            .answer()
            .unwrap_or_else(|| panic!("{to}: {outcome:?}"))
            .name
            .clone()
    };
    (0..times).map(ask).collect()
}

/// Every way to a Service remembers by itself.
#[test]
fn a_client_stays_with_its_server() {
    let addresses = IpFamily::BOTH.map(|family| beyond(family, 1));
    let more = json!({"affinity": 600, "node_port": 30080, "external": {"addresses": addresses}});
    each(
        &ProxySettings::default(),
        &served(1, more, &[1, 2, 3]),
        |node| {
            for family in IpFamily::BOTH {
                for to in [
                    at(cluster_ip(family, 1), 80),
                    at(beyond(family, 1), 80),
                    at(node_address(family), 30080),
                ] {
                    for from in [From::Outside, From::Pod(1), From::Node] {
                        let met = servers(node, from, to, 12);
                        assert_eq!(
                            met.len(),
                            1,
                            "{:?}: {from:?} to {to}: {met:?}",
                            node.back_end
                        );
                    }
                }
            }
        },
    );
}

/// A server of the node itself is one like others: where a packet goes to it leaves no device.
#[test]
fn a_client_stays_with_a_server_on_the_node() {
    let mut objects = vec![service(1, json!({"affinity": 600}))];
    let here = IpFamily::BOTH.map(node_address);
    objects.extend(slices(1, &[&endpoint(here, json!({})), &pod(1, json!({}))]));
    each(&ProxySettings::default(), &objects, |node| {
        let _servers = here.map(|address| echoes(&node.lab.node, address));
        for family in IpFamily::BOTH {
            let to = at(cluster_ip(family, 1), 80);
            let mut met = BTreeSet::new();
            // Clients of which some are given the node's: each by itself stays.
            for from in [From::Pod(2), From::Pod(3), From::Outside, From::Node] {
                let its = servers(node, from, to, 10);
                assert_eq!(
                    its.len(),
                    1,
                    "{:?}: {from:?} to {to}: {its:?}",
                    node.back_end
                );
                met.extend(its);
            }
        }
    });
}

/// After the time without a connection a client is like a new one.
#[test]
fn a_client_is_forgotten_after_its_time() {
    each(
        &ProxySettings::default(),
        &served(1, json!({"affinity": 1}), &[1, 2, 3]),
        |node| {
            for family in IpFamily::BOTH {
                let to = at(cluster_ip(family, 1), 80);
                let mut met = servers(node, From::Pod(1), to, 5);
                let deadline = Instant::now() + Duration::from_secs(60);
                while met.len() < 2 {
                    assert!(Instant::now() < deadline, "{:?}: {met:?}", node.back_end);
                    // The time itself is what is looked at: each connection begins it anew.
                    std::thread::sleep(Duration::from_millis(1500));
                    met.extend(servers(node, From::Pod(1), to, 1));
                }
            }
        },
    );
}

#[test]
fn affinity_can_be_switched_off_and_on() {
    let three = |more| served(1, more, &[1, 2, 3]);
    each(
        &ProxySettings::default(),
        &three(json!({"affinity": 600})),
        |node| {
            for family in IpFamily::BOTH {
                let to = at(cluster_ip(family, 1), 80);
                assert_eq!(servers(node, From::Pod(1), to, 10).len(), 1);
                node.put(three(json!({})));
                assert_eq!(servers(node, From::Pod(1), to, 60).len(), 3);
                node.put(three(json!({"affinity": 600})));
                assert_eq!(servers(node, From::Pod(1), to, 10).len(), 1);
            }
        },
    );
}
