//! Whom a server sees, by the ways of telling pods from others.

use std::net::SocketAddr;

use serde_json::json;
use weft_compile::{LocalMode, ProxySettings};
use weft_desired::IpFamily;

use crate::node::each;
use crate::objects::{at, cluster_ip, endpoint, node_address, served, service, slices};
use crate::row::{From, Meets, Seen, check};
use crate::scene::pod::{echoes, pod_addresses};

const ONE: &[&str] = &["pod-1"];

fn web(family: IpFamily) -> SocketAddr {
    at(cluster_ip(family, 1), 80)
}

#[test]
fn everybody_is_the_node_where_all_is_masqueraded() {
    let proxy = ProxySettings {
        masquerade_all: true,
        ..ProxySettings::default()
    };
    each(&proxy, &served(1, json!({}), &[1]), |node| {
        for from in [From::Pod(1), From::Pod(2), From::Node, From::Outside] {
            check(node, &[(from, &web, Meets::Each(ONE, Seen::AsNode))]);
        }
    });
}

#[test]
fn pods_are_told_by_their_ranges_their_devices_or_not_at_all() {
    let ranges =
        |texts: [&str; 2]| LocalMode::Ranges(texts.map(|text| text.parse().unwrap()).into());
    let second = ranges(["10.244.2.0/24", "fd00:10:244:2::/64"]);
    for (local, of_second, of_third) in [
        (LocalMode::NodeRanges, Seen::Itself, Seen::Itself),
        (LocalMode::PodRanges, Seen::Itself, Seen::Itself),
        (second, Seen::Itself, Seen::AsNode),
        (LocalMode::Bridge("pod2".into()), Seen::Itself, Seen::AsNode),
        (
            LocalMode::InterfacePrefix("pod".into()),
            Seen::Itself,
            Seen::Itself,
        ),
        (LocalMode::Nothing, Seen::Itself, Seen::Itself),
    ] {
        let of_outside = match local == LocalMode::Nothing {
            true => Seen::Itself,
            false => Seen::AsNode,
        };
        let proxy = ProxySettings {
            local,
            ..ProxySettings::default()
        };
        each(&proxy, &served(1, json!({}), &[1]), |node| {
            check(
                node,
                &[
                    (From::Pod(2), &web, Meets::Each(ONE, of_second)),
                    (From::Pod(3), &web, Meets::Each(ONE, of_third)),
                    (From::Outside, &web, Meets::Each(ONE, of_outside)),
                ],
            );
        });
    }
}

/// Only what leaves the node can have another source: a server on the node itself sees the
/// client.
#[test]
fn a_server_on_the_node_sees_its_clients() {
    let more = json!({"node_port": 30080, "affinity": 600});
    let mut objects = vec![service(1, more)];
    let here = IpFamily::BOTH.map(node_address);
    objects.extend(slices(1, &[&endpoint(here, json!({}))]));
    let node_port = |family| at(node_address(family), 30080);
    each(&ProxySettings::default(), &objects, |node| {
        let _servers = here.map(|address| echoes(&node.lab.node, address));
        for from in [From::Outside, From::Pod(2)] {
            let meets = Meets::Each(&["node"], Seen::Itself);
            check(node, &[(from, &web, meets), (from, &node_port, meets)]);
        }
        check(
            node,
            &[(From::Node, &node_port, Meets::Each(&["node"], Seen::AsNode))],
        );
    });
}

/// An endpoint beyond the cluster, as of a Service without selector.
#[test]
fn an_endpoint_beyond_the_cluster_answers() {
    let mut objects = vec![service(1, json!({}))];
    let beyond = IpFamily::BOTH.map(crate::objects::outside_address);
    objects.extend(slices(1, &[&endpoint(beyond, json!({"node": null}))]));
    each(&ProxySettings::default(), &objects, |node| {
        // Without an egress rule of its own kind the host beyond knows no way back to a pod.
        for family in IpFamily::BOTH {
            let index = if family == IpFamily::V4 { 0 } else { 1 };
            let pod = pod_addresses(2)[index];
            let host = if family == IpFamily::V4 { 32 } else { 128 };
            let gateway = node_address(family).to_string();
            weft_netlab::link::route(&node.lab.outside, &format!("{pod}/{host}"), &gateway)
                .unwrap();
        }
        let outside = &["outside"];
        let seen = match node.back_end {
            crate::node::BackEnd::Nftables => Seen::AsNode,
            crate::node::BackEnd::Iptables => Seen::Itself,
        };
        check(
            node,
            &[
                (From::Pod(2), &web, Meets::Each(outside, seen)),
                (From::Node, &web, Meets::Each(outside, Seen::AsNode)),
            ],
        );
    });
}
