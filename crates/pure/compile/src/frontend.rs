//! What follows from a Service's port for a back end that only knows where packets go.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{
    Frontend, IpFamily, Masquerade, NodeNat, Outside, Policy, ServicePort, ServicePortKey,
    SocketKey,
};

/// The frontends of one port of a Service on a node with these addresses and settings.
pub fn frontends(
    key: &ServicePortKey,
    port: &ServicePort,
    nat: &NodeNat,
) -> Vec<(SocketKey, Frontend)> {
    let mut frontends = Vec::new();
    if let Some(address) = port.cluster_address {
        frontends.push((socket(key, address, port.port), internal(port, nat)));
    }
    if !port.is_external() {
        return frontends;
    }
    let external = external(port);
    for address in &port.external_addresses {
        frontends.push((socket(key, *address, port.port), external.clone()));
    }
    if let Some(node_port) = port.node_port {
        for address in node_port_addresses(nat, key.family) {
            frontends.push((socket(key, address, node_port), external.clone()));
        }
    }
    let balanced = Frontend {
        sources: sources(port),
        ..external
    };
    for address in &port.load_balancer_addresses {
        frontends.push((socket(key, *address, port.port), balanced.clone()));
    }
    frontends
}

/// The addresses of the node at which node ports answer.
pub(crate) fn node_port_addresses(nat: &NodeNat, family: IpFamily) -> impl Iterator<Item = IpAddr> {
    let own = nat.own_addresses.iter().copied();
    own.filter(move |address| family.has(*address) && nat.node_port_addresses.include(*address))
}

/// At the Service's own address.
fn internal(port: &ServicePort, nat: &NodeNat) -> Frontend {
    let reach = port.internal();
    Frontend {
        label: port.label.clone(),
        backends: reach.backends,
        sharing: port.endpoints.sharing.clone(),
        otherwise: reach.otherwise,
        outside: None,
        sources: None,
        affinity: port.affinity,
        masquerade: if nat.masquerade_all {
            Masquerade::All
        } else {
            Masquerade::Outside
        },
        kept: port.endpoints.kept.clone(),
        exclusive: true,
    }
}

/// At any other address.
fn external(port: &ServicePort) -> Frontend {
    let reach = port.external_from_here();
    let outside = port.external();
    let (outside, masquerade) = match port.external_policy {
        // Any node may be asked, and it may have to ask another: answers come back the same way.
        Policy::Cluster => (None, Masquerade::All),
        Policy::Local => {
            let outside = Outside {
                backends: outside.backends,
                otherwise: outside.otherwise,
            };
            (Some(outside), Masquerade::Node)
        }
    };
    Frontend {
        label: port.label.clone(),
        backends: reach.backends,
        sharing: port.endpoints.sharing.clone(),
        otherwise: reach.otherwise,
        outside,
        sources: None,
        affinity: port.affinity,
        masquerade,
        kept: port.endpoints.kept.clone(),
        exclusive: false,
    }
}

/// Who may use the load balancer's addresses; everybody if there is nothing here.
fn sources(port: &ServicePort) -> Option<Arc<BTreeSet<IpNet>>> {
    if port.source_ranges.is_empty() {
        return None;
    }
    let mut sources: BTreeSet<IpNet> = port.source_ranges.iter().copied().collect();
    if port.source_ranges_have_node {
        sources.extend(
            port.load_balancer_addresses
                .iter()
                .copied()
                .map(IpNet::from),
        );
    }
    Some(Arc::new(sources))
}

/// What stands for a node port whatever the node's addresses are.
pub(crate) fn node_port_socket(key: &ServicePortKey, node_port: u16) -> SocketKey {
    socket(key, unspecified(key.family), node_port)
}

pub(crate) fn unspecified(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

pub(crate) fn socket(key: &ServicePortKey, address: IpAddr, port: u16) -> SocketKey {
    SocketKey {
        address,
        protocol: key.protocol,
        port,
    }
}
