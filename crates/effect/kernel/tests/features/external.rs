//! External addresses and those of load balancers.

use std::net::SocketAddr;

use serde_json::json;
use weft_compile::ProxySettings;
use weft_desired::IpFamily;

use crate::node::each;
use crate::objects::{
    at, beyond, cluster_ip, endpoint, in_family, node_address, served, service, slices,
};
use crate::row::{From, Meets, Seen, check};

const ONE: Meets = Meets::Each(&["pod-1"], Seen::AsNode);

fn external(number: u8) -> impl Fn(IpFamily) -> SocketAddr {
    move |family| at(beyond(family, number), 80)
}

#[test]
fn external_addresses_lead_to_endpoints() {
    let addresses = IpFamily::BOTH.map(|family| beyond(family, 1));
    let objects = served(1, json!({"external": {"addresses": addresses}}), &[1]);
    each(&ProxySettings::default(), &objects, |node| {
        check(
            node,
            &[
                (From::Outside, &external(1), ONE),
                (From::Pod(2), &external(1), ONE),
                (From::Node, &external(1), ONE),
            ],
        );
    });
}

#[test]
fn without_endpoints_external_addresses_refuse() {
    let addresses = IpFamily::BOTH.map(|family| beyond(family, 1));
    let objects = served(1, json!({"external": {"addresses": addresses}}), &[]);
    each(&ProxySettings::default(), &objects, |node| {
        for from in [From::Outside, From::Pod(2)] {
            check(node, &[(from, &external(1), Meets::Refusal)]);
        }
    });
}

/// The ranges hold at the load balancer's address, and nowhere else.
#[test]
fn source_ranges_admit_only_their_own() {
    let balanced = |number, ranges: &[&str]| {
        let addresses = IpFamily::BOTH.map(|family| beyond(family, number));
        let external = json!({"load_balancer": addresses, "source_ranges": ranges});
        let more = json!({"external": external, "node_port": 30000 + u16::from(number)});
        served(number, more, &[1])
    };
    let pods = ["10.244.0.0/16", "fd00:10:244::/48"];
    let mut objects = balanced(1, &["172.30.0.2/32", "fd00:172:30::2/128"]);
    objects.extend(balanced(2, &pods));
    objects.extend(balanced(3, &["192.0.2.0/24", "2001:db8:ff::/64"]));
    // Of one family only: of the other everybody is admitted.
    objects.extend(balanced(4, &["192.0.2.0/24"]));
    let node_port = |family| at(node_address(family), 30003);
    let inside = |family| at(cluster_ip(family, 3), 80);
    each(&ProxySettings::default(), &objects, |node| {
        check(
            node,
            &[
                (From::Outside, &external(1), ONE),
                (From::Pod(2), &external(1), Meets::Silence),
                (From::Outside, &external(2), Meets::Silence),
                (From::Pod(2), &external(2), ONE),
                (From::Outside, &external(3), Meets::Silence),
                (From::Pod(2), &external(3), Meets::Silence),
                (From::Outside, &node_port, ONE),
                (From::Pod(2), &inside, Meets::Each(&["pod-1"], Seen::Itself)),
            ],
        );
        let fourth = |family| at(in_family(family, ["198.51.100.4", "2001:db8:51::4"]), 80);
        for (family, meets) in [(IpFamily::V4, Meets::Silence), (IpFamily::V6, ONE)] {
            let only = move |_| fourth(family);
            check(node, &[(From::Outside, &only, meets)]);
        }
    });
}

/// `externalTrafficPolicy: Local`: the client's address is kept, and other nodes' endpoints are
/// not for clients beyond.
#[test]
fn the_local_policy_keeps_clients_and_stays_here() {
    let local = |number: u8, elsewhere: bool| {
        let addresses = IpFamily::BOTH.map(|family| beyond(family, number));
        let external = json!({"load_balancer": addresses, "policy": "Local"});
        let more = json!({"external": external, "node_port": 30000 + u16::from(number)});
        let node = if elsewhere { "node-2" } else { "node-1" };
        // Some other node's pods are in fact here as well: where they are makes no difference.
        let [one, two] = [(1, "node-2"), (2, node)].map(|(pod, node)| {
            endpoint(crate::scene::pod::pod_addresses(pod), json!({"node": node}))
        });
        let mut objects = vec![service(number, more)];
        objects.extend(slices(number, &[&one, &two]));
        objects
    };
    let mut objects = local(1, false);
    objects.extend(local(2, true));
    let node_port = |number: u16| move |family| at(node_address(family), 30000 + number);
    let kept = Meets::Each(&["pod-2"], Seen::Itself);
    let all = |seen| Meets::Each(&["pod-1", "pod-2"], seen);
    each(&ProxySettings::default(), &objects, |node| {
        check(
            node,
            &[
                (From::Outside, &external(1), kept),
                (From::Outside, &node_port(1), kept),
                (From::Outside, &external(2), Meets::Silence),
                (From::Outside, &node_port(2), Meets::Silence),
                // As if they had gone out to the balancer and come back in.
                (From::Pod(3), &external(1), all(Seen::Itself)),
                (From::Pod(3), &external(2), all(Seen::Itself)),
                (From::Pod(3), &node_port(2), all(Seen::Itself)),
                (From::Node, &external(2), all(Seen::AsNode)),
                (From::Node, &node_port(2), all(Seen::AsNode)),
            ],
        );
    });
}
