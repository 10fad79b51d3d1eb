//! Which endpoints take connections.

use std::net::SocketAddr;

use serde_json::{Value, json};
use weft_compile::ProxySettings;
use weft_desired::IpFamily;

use crate::node::each;
use crate::objects::{at, cluster_ip, node_address, pod, service, slices};
use crate::row::{From, Meets, Seen, check};

fn web(number: u8) -> impl Fn(IpFamily) -> SocketAddr {
    move |family| at(cluster_ip(family, number), 80)
}

fn leaving() -> Value {
    json!({"ready": false, "serving": true, "terminating": true})
}

fn gone() -> Value {
    json!({"ready": false, "serving": false, "terminating": true})
}

fn elsewhere() -> Value {
    json!({"node": "node-2"})
}

fn one(name: &'static [&'static str]) -> Meets {
    Meets::Each(name, Seen::Itself)
}

#[test]
fn those_that_leave_serve_while_nobody_else_does() {
    let mut objects = vec![
        service(1, json!({})),
        service(2, json!({})),
        service(3, json!({})),
    ];
    let ready = || pod(2, json!({}));
    objects.extend(slices(1, &[&pod(1, leaving()), &ready()]));
    objects.extend(slices(2, &[&pod(1, leaving()), &pod(2, gone())]));
    objects.extend(slices(3, &[&pod(1, gone())]));
    each(&ProxySettings::default(), &objects, |node| {
        check(
            node,
            &[
                (From::Pod(3), &web(1), one(&["pod-2"])),
                (From::Pod(3), &web(2), one(&["pod-1"])),
                (From::Pod(3), &web(3), Meets::Refusal),
            ],
        );
        // The last one that is ready leaves, and comes back.
        node.put(slices(1, &[&pod(1, leaving()), &pod(2, gone())]));
        check(node, &[(From::Pod(3), &web(1), one(&["pod-1"]))]);
        node.put(slices(1, &[&pod(1, gone()), &pod(2, gone())]));
        check(node, &[(From::Pod(3), &web(1), Meets::Refusal)]);
        node.put(slices(1, &[&ready()]));
        check(node, &[(From::Pod(3), &web(1), one(&["pod-2"]))]);
    });
}

/// `internalTrafficPolicy: Local`.
#[test]
fn the_internal_local_policy_knows_this_node_alone() {
    let local = || json!({"internal_traffic_policy": "Local", "node_port": 30001});
    let mut objects = vec![service(1, local())];
    objects.extend(slices(1, &[&pod(1, json!({})), &pod(2, elsewhere())]));
    let mut second = local();
    second["node_port"] = json!(30002);
    objects.push(service(2, second));
    objects.extend(slices(2, &[&pod(2, elsewhere())]));
    // Those that leave are asked for here too, while nobody here is ready.
    objects.push(service(3, json!({"internal_traffic_policy": "Local"})));
    objects.extend(slices(3, &[&pod(1, leaving()), &pod(2, elsewhere())]));
    let node_port = |family| at(node_address(family), 30002);
    each(&ProxySettings::default(), &objects, |node| {
        check(
            node,
            &[
                (From::Pod(3), &web(1), one(&["pod-1"])),
                (From::Node, &web(1), Meets::Each(&["pod-1"], Seen::AsNode)),
                (From::Pod(3), &web(2), Meets::Silence),
                (From::Node, &web(2), Meets::Silence),
                (From::Pod(3), &web(3), one(&["pod-1"])),
                // It is not said of node ports.
                (
                    From::Outside,
                    &node_port,
                    Meets::Each(&["pod-2"], Seen::AsNode),
                ),
            ],
        );
    });
}

#[test]
fn hints_lead_to_the_near_ones() {
    let hint = |node: &str| json!({"hints": {"nodes": [node]}});
    let mut objects = vec![service(1, json!({})), service(2, json!({}))];
    objects.extend(slices(
        1,
        &[&pod(1, hint("node-1")), &pod(2, hint("node-2"))],
    ));
    // Where one has none they say nothing.
    objects.extend(slices(2, &[&pod(1, hint("node-2")), &pod(2, json!({}))]));
    each(&ProxySettings::default(), &objects, |node| {
        check(
            node,
            &[
                (From::Pod(3), &web(1), one(&["pod-1"])),
                (From::Pod(3), &web(2), one(&["pod-1", "pod-2"])),
            ],
        );
    });
}
