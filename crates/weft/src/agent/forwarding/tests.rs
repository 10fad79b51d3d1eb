use std::process::Command;

use weft_desired::{Entry, NextHop, Origin, Route, RouteKey, Tunnel, TunnelPeer, mark};
use weft_netlab::{Namespace, link};
use weft_serve::metrics::{BackEnd, Metrics};
use weft_sys::rtnl::{Group, Notifications};

use super::*;

fn entry<T>(value: T) -> Entry<T> {
    let origin = Origin {
        kind: "Node",
        namespace: "".into(),
        name: "test".into(),
        generation: 0,
    };
    Entry { value, origin }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str, number: u8) -> T {
    text.replace('N', &number.to_string()).parse().unwrap()
}

fn device(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "flannel.1",
        IpFamily::V6 => "flannel-v6.1",
    }
}

fn range(family: IpFamily, node: u8) -> IpNet {
    match family {
        IpFamily::V4 => parsed("10.244.N.0/24", node),
        IpFamily::V6 => parsed("fd00:10:244:N::/64", node),
    }
}

fn address(family: IpFamily, node: u8) -> IpAddr {
    match family {
        IpFamily::V4 => parsed("172.30.0.N", node),
        IpFamily::V6 => parsed("fd00:172:30::N", node),
    }
}

/// Node 1's tunnels, which lead to nobody.
fn alone() -> Desired {
    let tunnel = |family| Tunnel {
        name: device(family).into(),
        vni: 1,
        port: 8472,
        local: address(family, 1),
        mac: [2, 0, 0, 0, 0, 1],
        address: range(family, 1).addr(),
        mtu: 1400,
    };
    let tunnels = IpFamily::BOTH.map(|family| (family, entry(tunnel(family))));
    Desired {
        tunnels: tunnels.into(),
        ..Desired::default()
    }
}

/// Leads to these pods by a node with this address and Ethernet address.
fn lead(desired: &mut Desired, pods: u8, node: u8, mac: u8) {
    for family in IpFamily::BOTH {
        let range = range(family, pods);
        let peer = TunnelPeer {
            mac: [2, 0, 0, 0, 0, mac],
            remote: address(family, node),
        };
        desired.tunnel_peers.insert(range.addr(), entry(peer));
        let device = device(family);
        let mut route = |destination, next_hop: NextHop| {
            let key = RouteKey {
                owner: RouteOwner::Fabric,
                destination,
            };
            desired.routes.insert(key, entry(Route::from(next_hop)));
        };
        let address = range.addr();
        let on_link = NextHop::OnLink {
            address,
            device: device.into(),
        };
        route(range, on_link);
        if family == IpFamily::V6 {
            let device = device.into();
            route(address.into(), NextHop::Link { device });
        }
    }
}

fn leave(desired: &mut Desired, pods: u8) {
    let ranges = IpFamily::BOTH.map(|family| range(family, pods));
    let within = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
    desired.tunnel_peers.retain(|address, _| !within(address));
    let within = |range: &IpNet| ranges.iter().any(|it| it.contains(range));
    desired.routes.retain(|key, _| !within(&key.destination));
}

struct Scene {
    forwarding: Forwarding,
    notifications: Notifications,
}

impl Scene {
    /// Of the network namespace that the thread is in.
    fn new() -> Self {
        let counters = Metrics::new(BackEnd::Nftables).unwrap();
        let counters = counters.forwarded_in_datagrams();
        let ranges = IpFamily::BOTH.map(|family| range(family, 0));
        Self {
            notifications: Notifications::open(&[Group::Routes, Group::Neighbours]).unwrap(),
            forwarding: Forwarding::take_up(&ranges, counters).unwrap(),
        }
    }

    fn pass(&mut self, desired: &Desired) {
        let mut outcome = Outcome::default();
        self.forwarding.write(desired, &mut outcome).unwrap();
        assert_eq!(outcome.problems, [""; 0]);
    }

    /// What the kernel tells of since the last look, and what of it is news. What it does itself
    /// when links get addresses is neither.
    fn told(&mut self) -> (usize, Vec<Event>) {
        let mut told = Vec::new();
        while let Some(event) = self.notifications.take().unwrap() {
            let counts = match &event {
                Event::Route(route) | Event::RouteGone(route) => !matches!(route.protocol, 0..=2),
                Event::Neighbour(_)
                | Event::NeighbourGone(_)
                | Event::Forwarding(_)
                | Event::ForwardingGone(_)
                | Event::Link(_)
                | Event::LinkGone(_)
                | Event::Address(_)
                | Event::AddressGone(_)
                | Event::Overflow => true,
            };
            told.extend(counts.then_some(event));
        }
        let count = told.len();
        told.retain(|event| self.forwarding.is_news(event));
        (count, told)
    }
}

/// In the network namespace of a node with a link, and nobody else there.
fn on_a_node(work: impl FnOnce() + Send) {
    let (node, wire) = (
        Namespace::new("node").unwrap(),
        Namespace::new("wire").unwrap(),
    );
    link::veth(&wire, "eth0", &node, "eth0").unwrap();
    link::address(&node, "eth0", "172.30.0.1/24").unwrap();
    let add = "addr add fd00:172:30::1/64 dev eth0 nodad";
    node.output("ip", add.split(' ')).unwrap();
    node.run(work).unwrap();
}

#[test]
fn what_was_written_here_is_no_news() {
    on_a_node(|| {
        let mut scene = Scene::new();
        let mut desired = alone();
        lead(&mut desired, 2, 2, 2);
        scene.pass(&desired);
        let (told, news) = scene.told();
        assert!(told >= 6, "a neighbour, an entry and a route a family");
        assert_eq!(news, []);
        type Deed = fn(&mut Desired);
        let deeds: [(&str, Deed); 7] = [
            ("a node joins", |it| lead(it, 3, 3, 3)),
            ("its Ethernet address changes", |it| lead(it, 3, 3, 9)),
            ("its address changes", |it| lead(it, 3, 8, 9)),
            ("it has another range", |it| {
                leave(it, 3);
                lead(it, 4, 8, 9);
            }),
            (
                "another takes the Ethernet address of one that leaves",
                |it| {
                    leave(it, 2);
                    lead(it, 5, 5, 2);
                },
            ),
            ("less gets there", |it| {
                let routes = it.routes.values_mut();
                routes.for_each(|route| route.value.mtu = Some(1300));
            }),
            ("a node leaves", |it| leave(it, 4)),
        ];
        for (what, deed) in deeds {
            deed(&mut desired);
            let mut outcome = Outcome::default();
            let written = scene.forwarding.write_change(&desired, &mut outcome);
            written.unwrap();
            assert!(outcome.writes > 0, "{what}");
            let (told, news) = scene.told();
            assert!(told > 0, "{what}");
            assert_eq!(news, [], "{what}");
            // Nor was anything left out.
            let mut outcome = Outcome::default();
            scene.forwarding.write(&desired, &mut outcome).unwrap();
            assert_eq!(
                (outcome.writes, outcome.problems),
                (0, Vec::new()),
                "{what}"
            );
        }
    });
}

#[test]
fn what_somebody_else_does_is_news() {
    on_a_node(|| {
        let mut scene = Scene::new();
        let mut desired = alone();
        lead(&mut desired, 2, 2, 2);
        scene.pass(&desired);
        assert_eq!(scene.told().1, []);
        let ours = mark::ROUTE_FABRIC;
        let [peer, other] = ["02:00:00:00:00:02", "02:00:00:00:00:77"];
        for deed in [
            "ip route del 10.244.2.0/24".to_owned(),
            format!("ip route replace 10.244.2.0/24 dev eth0 proto {ours}"),
            format!("ip route add 10.244.9.0/24 dev eth0 proto {ours}"),
            format!("ip route add 10.244.2.0/24 dev eth0 proto {ours} metric 50"),
            "ip -6 route del fd00:10:244:2::/64".to_owned(),
            "ip neigh del 10.244.2.0 dev flannel.1".to_owned(),
            format!("ip neigh replace 10.244.2.0 lladdr {other} dev flannel.1 nud permanent"),
            format!("ip neigh replace 10.244.2.0 lladdr {peer} dev flannel.1 nud stale"),
            format!("ip neigh add 10.244.9.0 lladdr {peer} dev flannel.1 nud permanent"),
            "ip neigh del fd00:10:244:2:: dev flannel-v6.1".to_owned(),
            format!("bridge fdb del {peer} dev flannel.1 dst 172.30.0.2"),
            format!("bridge fdb replace {peer} dev flannel.1 dst 172.30.0.9"),
            format!("bridge fdb append {peer} dev flannel.1 dst 172.30.0.9"),
            format!("bridge fdb append {other} dev flannel.1 dst 172.30.0.9"),
            format!("bridge fdb del {peer} dev flannel-v6.1 dst fd00:172:30::2"),
        ] {
            let mut words = deed.split(' ');
            let mut command = Command::new(words.next().unwrap());
            let done = command.args(words).status().unwrap();
            assert!(done.success(), "{deed}");
            assert_ne!(scene.told().1, [], "{deed}");
            scene.pass(&desired);
            // What was put right is none any more.
            assert_eq!(scene.told().1, [], "{deed}");
        }
        // A route of somebody else to where ours leads.
        let foreign = [
            "route",
            "add",
            "10.244.2.0/24",
            "dev",
            "eth0",
            "metric",
            "9",
        ];
        let done = Command::new("ip").args(foreign).status().unwrap();
        assert!(done.success());
        assert_ne!(scene.told().1, []);
    });
}
