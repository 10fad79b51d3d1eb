//! Where packets to Services go: a `node` with pods, and an `outside` host on the node
//! network that is the node's default route.

pub(crate) mod pod;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_netlab::probe::{self, Outcome, TcpEcho, UdpEcho};
use weft_netlab::{Namespace, link};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for an answer within one machine, short enough to wait for none.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

pub(crate) struct Lab {
    pub(crate) node: Namespace,
    pub(crate) pods: Vec<Namespace>,
    pub(crate) outside: Namespace,
    _servers: Vec<(TcpEcho, UdpEcho)>,
}

impl Lab {
    /// With so many pods.
    pub(crate) fn new(pods: u8) -> Self {
        let node = Namespace::new("node").unwrap();
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            node.set_sysctl(key, "1").unwrap();
        }
        let mut servers = Vec::new();
        let pods = (1..=pods)
            .map(|number| {
                let (pod, echoes) = pod::pod(&node, number);
                servers.extend(echoes);
                pod
            })
            .collect();
        let outside = Namespace::new("outside").unwrap();
        link::veth(&outside, "eth0", &node, "eth0").unwrap();
        for (network, length, all) in [
            ("172.30.0.", 24, "0.0.0.0/0"),
            ("fd00:172:30::", 64, "::/0"),
        ] {
            link::address(&node, "eth0", &format!("{network}11/{length}")).unwrap();
            link::address(&outside, "eth0", &format!("{network}2/{length}")).unwrap();
            link::route(&node, all, &format!("{network}2")).unwrap();
            let address: IpAddr = format!("{network}2").parse().unwrap();
            servers.push(pod::echoes(&outside, address));
        }
        // A client that sends what is for Services and load balancers to the node, as one in
        // the node network might.
        for (range, via) in [
            ("10.96.0.0/12", "172.30.0.11"),
            ("198.51.100.0/24", "172.30.0.11"),
            ("fd00:10:96::/112", "fd00:172:30::11"),
            ("2001:db8:51::/64", "fd00:172:30::11"),
        ] {
            link::route(&outside, range, via).unwrap();
        }
        Self {
            node,
            pods,
            outside,
            _servers: servers,
        }
    }

    /// From the `node`, a pod, or `outside`.
    pub(crate) fn tcp(&self, from: &Namespace, to: SocketAddr) -> Outcome {
        probe::tcp(from, to, PATIENCE).unwrap()
    }
}
